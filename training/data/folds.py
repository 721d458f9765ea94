# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The folds of cross-validation: divide recordings into folds, and the recordings of one fold into splits."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers.utils import logging

from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.background_labels import ADDED
from sanet_hf.training.data.splits import VALIDATION_ONLY, hash_name, make_groups, split_by_hash
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

# The "fold" of the model that is trained on all recordings.
FINAL = "final"
# `sanet prepare` writes this file next to its folders of clips.
PREPARE_PROGRESS = ".prepare.jsonl"
CLIP_FOLDERS = ("clips", "denoised_clips", "speech_segments")
RECORDING_PATTERN = r"(?s)^(.*?)(_\d{4,}\.wav)?$"  # finds the common part of the clip names of a recording
# In multi-label data, recordings without a label are treated as one more class.
NO_LABEL = ("",)


def uses_folds(arguments: DataArguments) -> bool:
    """Return whether the recordings are divided into folds."""
    return arguments.folds is not None or bool(arguments.fold_pattern)


def check_fold_options(arguments: DataArguments) -> None:
    """
    Check the options for folds.

    Raises:
        UsageError: They contradict each other or other options.
    """
    if arguments.fold is not None and not uses_folds(arguments):
        raise UsageError("--fold needs --folds or --fold_pattern, which make the folds.")
    if arguments.folds is not None and arguments.fold_pattern:
        raise UsageError("--folds and --fold_pattern both make folds. Leave one out.")
    if arguments.folds is not None and arguments.folds < 2:
        raise UsageError(f"--folds {arguments.folds} must be at least 2.")
    if arguments.streaming and uses_folds(arguments):
        raise UsageError(
            "--folds and --fold_pattern do not work with --streaming: they need all recordings. Leave one out."
        )


def pool_splits(source: DatasetDict) -> DatasetDict:
    """
    Pool the train and validation splits of a source as `unsplit`. Its test split is not changed.

    Raises:
        DataError: There is only a test split.
    """
    names = [split for split in ("unsplit", "train", "validation") if split in source]
    if not names:
        raise DataError("The recordings have only a test split. Cross-validation needs recordings to train on.")
    if names != ["unsplit"]:
        message = f"The {' and '.join(names)} recordings of the source are divided into folds."
        if "test" in source:
            message += f" Its test split ({len(source['test'])} recordings) is not used for training or folds."
        logger.warning_once(message)
    pooled = DatasetDict({"unsplit": concatenate_datasets([source[split] for split in names])})
    if "test" in source:
        pooled["test"] = source["test"]
    return pooled


def divide_by_fold(source: DatasetDict, arguments: DataArguments) -> dict[str, tuple[str, Sequence[int]]]:
    """
    Return the rows of each split in the run of `arguments.fold`. The fold is the test split, a tenth of the other
    recordings is the validation split, and the rest is the training split. The final model trains on all recordings.

    Args:
        source: As [`pool_splits`] returns it.
        arguments: Options of the folds, and the fold of this run.

    Returns:
        For each split, the split of the source and the indices in it.

    Raises:
        UsageError: The fold does not exist.
        DataError: As in [`name_folds`].
    """
    recordings = source["unsplit"]
    folds = name_folds(recordings, arguments)
    if arguments.fold is None:
        raise UsageError("--folds and --fold_pattern make several models. Choose one with --fold.")
    if str(arguments.fold) == FINAL:
        own_test = {"test": ("test", range(len(source["test"])))} if "test" in source else {}
        return {"train": ("unsplit", range(len(recordings))), **own_test}
    if str(arguments.fold) not in folds:
        raise UsageError(f"--fold {arguments.fold}: fold not found. Choose one of: {', '.join(sort_folds(folds))}.")
    others = [index for index, fold in enumerate(folds) if fold != str(arguments.fold)]
    groups, labels = _find_groups(recordings, arguments), recordings["label"][:]
    parts = _hold_out([labels[index] for index in others], [groups[index] for index in others])
    rows = {split: ("unsplit", [others[place] for place in places]) for split, places in parts.items()}
    rows["test"] = ("unsplit", [index for index, fold in enumerate(folds) if fold == str(arguments.fold)])
    return rows


def name_folds(recordings: Dataset, arguments: DataArguments) -> list[str]:
    """
    Return the fold of each recording: a number from 1, or the match of `fold_pattern` in its key.

    Warn of classes that are missing in some folds.

    Raises:
        DataError: There are fewer recordings (or groups) than folds, a class is in only one fold, or the pattern does
            not find folds.
    """
    groups = _find_groups(recordings, arguments)
    unit = "groups of --group_pattern" if arguments.group_pattern else "recordings"
    if arguments.fold_pattern:
        folds = make_groups(recordings["key"][:], arguments.fold_pattern, option="--fold_pattern")
        _check_pattern(folds, groups, arguments)
    else:
        if len(set(groups)) < arguments.folds:
            raise DataError(f"--folds {arguments.folds}: there are only {len(set(groups))} {unit}.")
        folds = [str(number + 1) for number in assign_folds(recordings["label"], groups, arguments.folds)]
    _check_classes(recordings["label"], folds, unit)
    return folds


def assign_folds(labels: Iterable[str | list[str]], groups: Sequence[str], num_folds: int) -> list[int]:
    """
    Divide recordings into folds of about the same size, with the same share of every class. Groups are not divided.

    The folds depend on the names of the groups, not on the order of the recordings. Classes are assigned one after
    another, rare classes first. Within a class, groups are assigned from the largest to the smallest, and then in the
    order of a hash. Each group goes to the fold with the fewest recordings of its classes, then to the smallest fold.
    With one class per recording and no groups, the sizes differ by at most one recording, per class and in total.

    Source: Sechidis et al., On the Stratification of Multi-Label Data, ECML PKDD 2011 (rare labels first).

    Args:
        labels: Label or labels of each recording. Recordings without a label count as one more class.
        groups: Name of each recording's group.
        num_folds: Number of folds.

    Returns:
        Index of the fold of each recording.
    """
    sizes: dict[str, Counter] = defaultdict(Counter)
    members = Counter(groups)
    for label, group in zip(labels, groups):
        sizes[group].update((label or NO_LABEL) if isinstance(label, list) else [label])
    totals = sum(sizes.values(), Counter())
    counts, num_recordings = [Counter() for _ in range(num_folds)], [0] * num_folds

    def order(group: str) -> tuple:
        return (*min((totals[label], label) for label in sizes[group]), -members[group], hash_name(group))

    def need(fold: int, group: str) -> tuple:
        filled = sum(counts[fold][label] * size / totals[label] ** 2 for label, size in sorted(sizes[group].items()))
        return filled, num_recordings[fold], fold

    places = {}
    for group in sorted(sizes, key=order):
        places[group] = min(range(num_folds), key=partial(need, group=group))
        counts[places[group]].update(sizes[group])
        num_recordings[places[group]] += members[group]
    return [places[group] for group in groups]


def sort_folds(names: Iterable[str]) -> list[str]:
    """Return the unique names in natural order, `2` before `10`."""
    return sorted(
        set(names), key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )


def find_group_pattern(arguments: DataArguments) -> str | None:
    """Return `group_pattern`, or a pattern that groups the clips that `sanet prepare` cut from one recording."""
    source = arguments.data_dir or arguments.dataset_name
    if arguments.group_pattern or not source:
        return arguments.group_pattern
    folder = Path(source).resolve()
    # `clips`, or `clips/train`.
    clips = [place for place in (folder, folder.parent) if place.name in CLIP_FOLDERS]
    return RECORDING_PATTERN if any((place.parent / PREPARE_PROGRESS).exists() for place in clips) else None


def _find_groups(recordings: Dataset, arguments: DataArguments) -> list[str]:
    are_clips = "start" in recordings.column_names
    return make_groups(recordings["key"][:], find_group_pattern(arguments), are_clips)


def _hold_out(labels: Sequence[str | list[str]], groups: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of the train and validation splits."""
    return split_by_hash(labels, groups, VALIDATION_ONLY)


def _check_pattern(folds: Sequence[str], groups: Sequence[str], arguments: DataArguments) -> None:
    """Raise a DataError if the pattern does not find folds. Warn of groups in several folds."""
    if len(set(folds)) < 2:
        raise DataError(
            f"--fold_pattern {arguments.fold_pattern!r} finds {folds[0]!r} in every name. At least two folds are "
            "needed."
        )
    if {"", FINAL} & set(folds):
        raise DataError(
            f"--fold_pattern {arguments.fold_pattern!r} finds an empty name or {FINAL!r}, which cannot be a fold."
        )
    if len(set(folds)) == len(folds):
        raise DataError(
            f"--fold_pattern {arguments.fold_pattern!r} finds a different text in every name ({folds[0]}, "
            f"{folds[1]}, ...). It must find the same text in all recordings of a fold."
        )
    if find_group_pattern(arguments):
        num_folds = Counter(group for group, _ in set(zip(groups, folds)))
        crossing = sorted(group for group, number in num_folds.items() if number > 1)
        if crossing:
            logger.warning_once(
                f"{len(crossing)} groups are in several folds of --fold_pattern. Scores are therefore too high for "
                f"new groups: {shorten(crossing)}."
            )


def _check_classes(labels: Iterable[str | list[str]], folds: Sequence[str], unit: str) -> None:
    """Raise a DataError for classes that a run cannot train on. Warn of classes that a run cannot test."""
    found: dict[str, set[str]] = defaultdict(set)
    for label, fold in zip(labels, folds):
        for name in label if isinstance(label, list) else [label]:
            found[name].add(fold)
    lost = [f"{name} (fold {fold})" for name, (fold, *others) in sorted(found.items()) if not others]
    if lost:
        raise DataError(
            f"All recordings of a class are in one fold, so that the run of this fold has none to train on: "
            f"{shorten(lost)}. Each class needs {unit} in at least two folds."
        )
    names = sort_folds(folds)
    rare = [
        f"{name} in {', '.join(fold for fold in names if fold not in found[name])}"
        for name in sorted(found)
        if len(found[name]) < len(names)
    ]
    if rare:
        logger.warning_once(
            f"Some classes have fewer {unit} than there are folds, so that they are not tested in every fold: "
            f"{shorten(rare, separator='; ')}."
        )


def group_recordings(dataset: Dataset, arguments: DataArguments) -> list[str]:
    """
    Return the group of each recording. A recording without a name, and an added background clip, is a separate group,
    because `group_pattern` does not apply to it.
    """
    pattern, are_clips = find_group_pattern(arguments), "start" in dataset.column_names
    keys = dataset["key"][:] if "key" in dataset.column_names else dataset["file"][:]
    added = dataset[ADDED][:] if ADDED in dataset.column_names else [False] * len(keys)
    named = [place for place, key in enumerate(keys) if key and not added[place]]
    groups = [str(place) for place in range(len(keys))]
    for place, group in zip(named, make_groups([keys[place] for place in named], pattern, are_clips)):
        groups[place] = f"={group}"
    return groups
