# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings ready to train on: splits, checks of every recording, labels as class indices."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, List
from transformers.utils import logging

from sanet_hf.audio.folders import SPLITS
from sanet_hf.errors import DataError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.labels import warn_of_missing_contrast
from sanet_hf.training.data.recording_checks import (
    Rows,
    check_labels,
    check_recordings,
    leave_out_unreadable,
    warn_of_duplicates,
    warn_of_silence,
)
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.data.splits import HELD_OUT_PARTS, SPLIT_PARTS, make_groups, split_by_hash


logger = logging.get_logger(__name__)


def load_recordings(
    arguments: DataArguments,
    sampling_rate: int = DEFAULT_SAMPLING_RATE,
    splits: Collection[str] = SPLITS,
    num_threads: int = 4,
) -> DatasetDict:
    """
    Load recordings, divide them into splits where their source does not, and check every one.

    Recordings that cannot be read are left out with a warning that names them. Silent recordings, and recordings
    that stand in two splits under whatever name, are warned of.

    Args:
        arguments: Where the recordings are; see [`DataArguments`].
        sampling_rate: Sampling rate in Hz at which recordings must be readable.
        splits: What to load of `train`, `validation` and `test`; or `all`, every recording as one split.
        num_threads: Threads that read recordings to check them.

    Returns:
        The splits that there are, with the columns `audio` (not decoded), `file`, `label` (a `ClassLabel`, or a list
        of them where multi-label) and `seconds`.

    Raises:
        DataError: There is nothing to use, too many recordings cannot be read, or labels do not fit.
    """
    source = read_source(arguments)
    rows = _divide(source, arguments, splits)
    if not rows:
        raise DataError(f"There is no {' or '.join(splits)} split: the recordings have {', '.join(source)}.")
    checks = check_recordings(source, rows, sampling_rate, num_threads)
    rows = leave_out_unreadable(source, rows, checks, arguments.max_bad_fraction)
    warn_of_silence(source, rows, checks)
    warn_of_duplicates(source, rows, checks)
    names = check_labels(source, rows)
    label = ClassLabel(names=names)
    is_multi_label = arguments.problem_type == "multi_label_classification"
    recordings = DatasetDict()
    for split, (origin, indices) in rows.items():
        dataset = source[origin].select(indices).remove_columns("key")
        dataset = dataset.add_column("seconds", [checks[origin][index].seconds for index in indices])
        recordings[split] = dataset.cast_column("label", List(label) if is_multi_label else label)
        if is_multi_label:
            warn_of_missing_contrast(recordings[split], split)
    return recordings


def longest_first(dataset: Dataset) -> Dataset:
    """Recordings in the order of their length: batches of them need little padding, and memory runs out at once."""
    return dataset.select(np.argsort(-np.array(dataset["seconds"]), kind="stable"))


def _divide(source: DatasetDict, arguments: DataArguments, splits: Collection[str]) -> Rows:
    if "all" in splits:
        if len(source) > 1:
            raise DataError(f"The recordings are in splits already: {', '.join(source)}. Choose one of them.")
        (origin,) = source
        return {"all": (origin, range(len(source[origin])))}
    are_clips = any("start" in dataset.column_names for dataset in source.values())
    groups = {split: _make_groups(dataset, arguments.group_pattern) for split, dataset in source.items()}
    rows = {split: (split, range(len(source[split]))) for split in SPLITS if split in source}
    if "unsplit" in source:
        parts = split_by_hash(source["unsplit"]["label"], groups["unsplit"], SPLIT_PARTS)
        rows = {split: ("unsplit", indices) for split, indices in parts.items()}
    elif "train" not in source and "train" in splits:
        raise DataError(f"The recordings have {', '.join(source)} but no train split to learn from.")
    elif "validation" not in source and "train" in source:
        logger.warning("There is no validation split: a tenth of the training recordings is held out instead.")
        parts = split_by_hash(source["train"]["label"], groups["train"], HELD_OUT_PARTS)
        rows.update({split: ("train", indices) for split, indices in parts.items()})
    if arguments.group_pattern or are_clips:
        _warn_of_shared_groups(groups, "groups of --group_pattern" if arguments.group_pattern else "files with clips")
    return {split: rows[split] for split in SPLITS if split in rows and split in splits and len(rows[split][1])}


def _make_groups(dataset: Dataset, pattern: str | None) -> list[str]:
    keys = dataset["key"][:]
    if pattern is None and "start" in dataset.column_names:
        # Clips of one file are of one recording.
        return keys
    return make_groups(keys, pattern)


def _warn_of_shared_groups(groups: Mapping[str, Sequence[str]], kind: str) -> None:
    seen: dict[str, str] = {}
    for split, names in groups.items():
        shared = sorted(name for name in set(names) if seen.setdefault(name, split) != split)
        if shared:
            logger.warning(
                f"{len(shared)} {kind} stand in {split} and {seen[shared[0]]}, the first: {shared[0]}. The source's "
                "own splits are kept; scores on them are flattering."
            )
