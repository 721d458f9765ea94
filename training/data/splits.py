# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Assign recordings to splits by a hash of their names.

    hash of the name   0        0.1          0.2                                        1
                       |  test  | validation |                  train                   |

A recording keeps its split when others are added. If a class of three or more recordings has none in test, its
training recording with the smallest hash is moved to test. The same is then done for validation. A class of two
recordings has one in train and one in validation. A class of one recording is in train. Each label of a multi-label
dataset is such a class, and so are the recordings without a label.

Recordings of a group share its hash; [`split_by_hash`] has further rules for groups.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from sanet_hf.audio.folders import SPLITS
from sanet_hf.errors import DataError


# Ranges of hashes of the held-out splits.
ZONES = {"test": (0.0, 0.1), "validation": (0.1, 0.2)}
# Splits to hold out if the source has no splits, and if only validation is missing.
HELD_OUT, VALIDATION_ONLY = ("validation", "test"), ("validation",)
# Fewer groups are divided by size, because their hashes can be far from 80/10/10.
MANY_GROUPS = 30
# Groups with larger fractions of all recordings, or of the recordings of a class, are in train.
LARGE_PART, LARGE_PART_OF_CLASS = 0.1, 0.5


def split_by_hash(
    labels: Iterable[str | Sequence[str]], groups: Sequence[str], held_out: Sequence[str] = HELD_OUT
) -> dict[str, list[int]]:
    """
    Divide recordings into about 80 % train, 10 % validation and 10 % test. Every class is in train, and no group is in
    two splits.

    Single recordings follow the rule above. If a class has three or more recordings, and at least two of them have a
    hash of 0.2 or more, adding recordings never moves one of the class from train to validation or test, or from
    validation to test. The same holds for a multi-label recording if it holds for all its classes, unless it was in
    train only because one of its classes had no other recording.

    With 30 groups or more, each group gets the split of its hash. Groups with more than a tenth of all recordings, or
    more than half of a class, are in train. Then groups are moved from train to splits that lack some of their
    classes, beginning with the groups that add the most classes for their size.

    With fewer groups, all are in train at first. Groups are moved to validation and test in the same way. Then the
    smallest groups are moved until these splits have a tenth of the recordings each. The largest groups stay in train.

    Args:
        labels: Label or labels of each recording.
        groups: Group of each recording, as [`make_groups`] returns it. Without groups, each recording is one.
        held_out: Splits in addition to train. Without test, recordings with a hash below 0.1 are in train.

    Returns:
        Indices of each split, in ascending order.
    """
    classes = [[label] if isinstance(label, str) else list(label) or [""] for label in labels]
    if len(set(groups)) == len(groups):
        splits = _split_recordings(classes, groups, held_out)
    else:
        by_group = _split_groups(classes, groups, held_out)
        splits = [by_group[group] for group in groups]
    return {
        split: [index for index, own in enumerate(splits) if own == split]
        for split in SPLITS
        if split == "train" or split in held_out
    }


def hash_name(name: str) -> float:
    """Map a name to [0, 1). The result is the same in every process, on every machine and for every Unicode form."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _split_of(share: float, held_out: Sequence[str]) -> str:
    return next((split for split in held_out if ZONES[split][0] <= share < ZONES[split][1]), "train")


def _split_recordings(classes: Sequence[Sequence[str]], names: Sequence[str], held_out: Sequence[str]) -> list[str]:
    shares = [hash_name(name) for name in names]
    members = defaultdict(list)
    for index in sorted(range(len(names)), key=lambda index: (shares[index], names[index])):
        for label in set(classes[index]):
            members[label].append(index)
    by_hash = [_split_of(share, held_out) for share in shares]
    splits = ["train"] * len(names)
    for indices in members.values():
        for index, split in _split_class(indices, by_hash, held_out).items():
            # With several classes, test has priority over validation, and validation over train.
            splits[index] = max(splits[index], split, key=SPLITS.index)
    for label in sorted(members):
        if all(splits[index] != "train" for index in members[label]):
            splits[members[label][-1]] = "train"
    return splits


def _split_class(members: Sequence[int], by_hash: Sequence[str], held_out: Sequence[str]) -> dict[int, str]:
    """Return the split of each recording of a class, so that no split is empty. Members are sorted by hash."""
    if len(members) < 3:
        return {**dict.fromkeys(members[:-1], "validation"), members[-1]: "train"}
    indices = {split: [index for index in members if by_hash[index] == split] for split in SPLITS}
    if not indices["train"]:
        indices["train"].append(indices[by_hash[members[-1]]].pop())
    for split in ("test", "validation"):
        if split in held_out and not indices[split]:
            donor = next(donor for donor in SPLITS if len(indices[donor]) > 1)
            # Move the recording with the closest hash.
            indices[split].append(indices[donor].pop(-1 if donor == "test" else 0))
    return {index: split for split, some in indices.items() for index in some}


def _split_groups(classes: Sequence[Sequence[str]], groups: Sequence[str], held_out: Sequence[str]) -> dict[str, str]:
    sizes = Counter(groups)
    shares = {group: hash_name(group) for group in sizes}
    counts: dict[str, Counter] = defaultdict(Counter)  # recordings of each class in each group
    totals = Counter()
    for labels, group in zip(classes, groups):
        counts[group].update(set(labels))
        totals.update(set(labels))
    groups_of = defaultdict(list)
    for group in sizes:
        for label in counts[group]:
            groups_of[label].append(group)
    is_many = len(sizes) >= MANY_GROUPS

    def has_most_of_a_class(group: str) -> bool:
        return any(count > LARGE_PART_OF_CLASS * totals[label] for label, count in counts[group].items())

    movable = [
        group
        for group, size in sizes.items()
        if not is_many or (size <= LARGE_PART * len(groups) and not has_most_of_a_class(group))
    ]
    movable.sort(key=lambda group: (0 if is_many else sizes[group], shares[group], group))
    splits = dict.fromkeys(sizes, "train")
    if is_many:
        splits.update({group: _split_of(shares[group], held_out) for group in movable})
    for label in sorted(totals):
        if all(splits[group] != "train" for group in groups_of[label]):
            splits[max(groups_of[label], key=lambda group: (counts[group][label], shares[group], group))] = "train"

    # Number of groups of each class in each split, and number of recordings that a split still needs.
    covered = {split: Counter() for split in SPLITS}
    missing = dict.fromkeys(held_out, LARGE_PART * len(groups))
    for group, split in splits.items():
        covered[split].update(counts[group].keys())
        if split != "train":
            missing[split] -= sizes[group]

    def move(group: str, split: str) -> None:
        splits[group] = split
        missing[split] -= sizes[group]
        covered["train"].subtract(counts[group].keys())
        covered[split].update(counts[group].keys())

    def can_move(group: str) -> bool:
        return splits[group] == "train" and all(covered["train"][label] > 1 for label in counts[group])

    def gain(place: tuple[str, str]) -> float:
        """Return the number of classes that a group adds to a split, per recording."""
        group, split = place
        return sum(covered[split][label] == 0 for label in counts[group]) / sizes[group]

    places = [(group, split) for group in movable for split in held_out]
    while places := [place for place in places if can_move(place[0]) and gain(place)]:
        move(*max(places, key=lambda place: (gain(place), missing[place[1]])))
    for group in [] if is_many else movable:
        split = max(held_out, key=missing.__getitem__)
        if can_move(group) and sizes[group] < 2 * missing[split] and not has_most_of_a_class(group):
            move(group, split)
    return splits


def make_groups(
    keys: Sequence[str], pattern: str | None, are_files: bool = False, option: str = "--group_pattern"
) -> list[str]:
    """
    Return the group of each recording, whose names are `keys`: the match of the pattern. Without a pattern, each
    recording is a group; with `are_files`, recordings of the same name (clips of one file) are a group.
    """
    if pattern is None and are_files:
        return list(keys)
    if pattern is None:
        # Each recording is a separate group, even if names repeat.
        seen: Counter = Counter()
        groups = []
        for key in keys:
            groups.append(f"{key} {seen[key]}" if seen[key] else key)
            seen[key] += 1
        return groups
    # Some file systems store letters and accents separately.
    pattern = unicodedata.normalize("NFC", pattern)
    try:
        matches = [re.search(pattern, unicodedata.normalize("NFC", key)) for key in keys]
    except re.error as error:
        raise DataError(f"{option} {pattern!r} is not a valid regular expression: {error}.") from error
    # A parenthesised group that is not part of the match is None.
    groups = [match and (match.group(1) if match.re.groups else match.group()) for match in matches]
    unmatched = [key for key, group in zip(keys, groups) if group is None]
    if unmatched:
        raise DataError(
            f"{option} {pattern!r} does not match {len(unmatched)} of {len(keys)} names, the first: {unmatched[0]}."
        )
    return groups
