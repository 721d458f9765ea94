# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The split of each recording, by a hash of its name.

    hash of the name   0        0.1          0.2                                        1
                       |  test  | validation |                  train                   |

A recording keeps its split when others are added. Where the hash leaves a class of three or more recordings without a
test recording, the recording of the class that trains and has the smallest hash tests; the same then holds for
validation. A class of two recordings trains and validates, a class of one trains. Each label of a multi-label dataset
is such a class, and so are the recordings without a label.

Recordings of one group share its hash; see [`split_by_hash`] for what else holds for them.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from sanet_hf.audio.folders import SPLITS
from sanet_hf.errors import DataError


# Hashes of the splits that are held out.
ZONES = {"test": (0.0, 0.1), "validation": (0.1, 0.2)}
# What is held out where the source has no splits, and where only validation is missing.
HELD_OUT, VALIDATION_ONLY = ("validation", "test"), ("validation",)
# Fewer groups than this are divided by size: hashes of so few can be far from 80/10/10.
MANY_GROUPS = 30
# Larger groups train: parts of all recordings, and of those of a class.
LARGE_PART, LARGE_PART_OF_CLASS = 0.1, 0.5


def split_by_hash(
    labels: Iterable[str | Sequence[str]], groups: Sequence[str], held_out: Sequence[str] = HELD_OUT
) -> dict[str, list[int]]:
    """
    Divide recordings into about 80 % train, 10 % validation and 10 % test. Every class is in train; no group is in two
    splits.

    Single recordings follow the rule above. With three or more recordings in a class, two of them with a hash of 0.2
    or more, adding recordings never moves one of the class from train to validation or test, nor from validation to
    test. The same holds for a multi-label recording whose classes are all like that, unless it stays in train only
    because one of its classes had no other.

    Of 30 groups or more, each has the split of its hash, but those with more than a tenth of all recordings, or more
    than half of those of a class, train. Then groups move from train to a split that lacks some of their classes:
    those first that bring the most classes for their size.

    Fewer groups all train at first. They move to validation and test in the same way, and then the smallest move until
    these have a tenth of the recordings each. So the largest train.

    Args:
        labels: Label or labels of each recording.
        groups: Name of each recording's group, as [`make_groups`] gives it; without groups, one of its own.
        held_out: Splits beside train. Without test, recordings with a hash below 0.1 train.

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
    """Map a name to [0, 1): the same in every process, place and Unicode form of the name."""
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
            # Of several classes, the one that is the furthest from training counts.
            splits[index] = max(splits[index], split, key=SPLITS.index)
    for label in sorted(members):
        if all(splits[index] != "train" for index in members[label]):
            splits[members[label][-1]] = "train"
    return splits


def _split_class(members: Sequence[int], by_hash: Sequence[str], held_out: Sequence[str]) -> dict[int, str]:
    """The split of each recording of a class, from the smallest to the largest hash, with every split covered."""
    if len(members) < 3:
        return {**dict.fromkeys(members[:-1], "validation"), members[-1]: "train"}
    indices = {split: [index for index in members if by_hash[index] == split] for split in SPLITS}
    if not indices["train"]:
        indices["train"].append(indices[by_hash[members[-1]]].pop())
    for split in ("test", "validation"):
        if split in held_out and not indices[split]:
            donor = next(donor for donor in SPLITS if len(indices[donor]) > 1)
            # The recording whose hash is the nearest.
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

    # How many groups of each class are in each split, and how many recordings a split still needs.
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
        """Classes that a split gets by a group, for each of its recordings."""
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


def make_groups(keys: Sequence[str], pattern: str | None, are_files: bool = False) -> list[str]:
    """
    The group of each recording, of which `keys` are names: what the pattern finds, or each one for itself, or, with
    `are_files`, those of the same name, as clips of one file have.
    """
    if pattern is None and are_files:
        return list(keys)
    if pattern is None:
        # Each recording for itself, even where names repeat.
        seen: Counter = Counter()
        groups = []
        for key in keys:
            groups.append(f"{key} {seen[key]}" if seen[key] else key)
            seen[key] += 1
        return groups
    # Some file systems give letters and their accents apart.
    pattern = unicodedata.normalize("NFC", pattern)
    try:
        matches = [re.search(pattern, unicodedata.normalize("NFC", key)) for key in keys]
    except re.error as error:
        raise DataError(f"--group_pattern {pattern!r} is no regular expression: {error}.") from error
    # A group of the expression that took no part in the match is None.
    groups = [match and (match.group(1) if match.re.groups else match.group()) for match in matches]
    unmatched = [key for key, group in zip(keys, groups) if group is None]
    if unmatched:
        raise DataError(
            f"--group_pattern {pattern!r} finds nothing in {len(unmatched)} of {len(keys)} names, the first: "
            f"{unmatched[0]}."
        )
    return groups
