# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The split of each recording."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from sanet_hf.errors import DataError


# Part of each split where the source has none, and of train where only validation is missing.
SPLIT_PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}
HELD_OUT_PARTS = {"train": 0.9, "validation": 0.1}


def split_by_hash(
    labels: Iterable[str | list[str]], groups: Sequence[str], parts: Mapping[str, float]
) -> dict[str, list[int]]:
    """
    Divide recordings so that every class is divided by `parts` and no group crosses splits, as well as whole groups
    can.

    The order in which groups are dealt out is that of their size and of a hash of their name: the same recordings give
    the same splits wherever they lie and in whatever order they come. Every split gets a group of a class before a
    split gets its second; the first goes to the first split.

    Args:
        labels: Label or labels of each recording.
        groups: Name of each recording's group.
        parts: Part of each split.

    Returns:
        Indices of each split, in ascending order.
    """
    members = defaultdict(list)
    sizes: dict[str, Counter] = defaultdict(Counter)
    for index, (label, group) in enumerate(zip(labels, groups)):
        members[group].append(index)
        sizes[group].update(label if isinstance(label, list) else [label])
    counts = {split: Counter() for split in parts}

    def need(split: str, group: str) -> tuple[int, float]:
        missing = sum(counts[split][label] == 0 for label in sizes[group])
        filled = sum((counts[split][label] + size / 2) / parts[split] for label, size in sizes[group].items())
        return -missing, filled

    indices: dict[str, list[int]] = {split: [] for split in parts}
    for group in sorted(members, key=lambda name: (len(members[name]), hashlib.sha256(name.encode()).digest())):
        split = min(parts, key=partial(need, group=group))
        counts[split].update(sizes[group])
        indices[split] += members[group]
    return {split: sorted(values) for split, values in indices.items()}


def make_groups(keys: Sequence[str], pattern: str | None) -> list[str]:
    """The group of each recording, of which `keys` are names: what the pattern finds, or each one for itself."""
    if pattern is None:
        # Each recording for itself, even where names repeat.
        seen: Counter = Counter()
        groups = []
        for key in keys:
            groups.append(f"{key} {seen[key]}" if seen[key] else key)
            seen[key] += 1
        return groups
    try:
        matches = [re.search(pattern, key) for key in keys]
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
