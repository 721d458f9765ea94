# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Load recordings for training: make splits, check every recording, and convert labels to class indices."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, List
from transformers.utils import logging

from sanet_hf.audio.folders import SPLITS
from sanet_hf.errors import DataError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.background_labels import drop_background_labels
from sanet_hf.training.data.band_checks import warn_of_band
from sanet_hf.training.data.folds import (
    FINAL,
    check_fold_options,
    divide_by_fold,
    find_group_pattern,
    pool_splits,
    uses_folds,
)
from sanet_hf.training.data.labels import label_names, warn_of_missing_contrast
from sanet_hf.training.data.progress_bars import without_progress_bars
from sanet_hf.training.data.recording_checks import (
    Rows,
    check_labels,
    check_recordings,
    leave_out_unreadable,
    warn_of_duplicates,
    warn_of_silence,
)
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.data.splits import VALIDATION_ONLY, make_groups, split_by_hash
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

# With fewer recordings in a split, or of a class in it, scores are uncertain.
FEW_RECORDINGS, FEW_OF_A_CLASS = 30, 5


def load_recordings(
    arguments: DataArguments,
    sampling_rate: int = DEFAULT_SAMPLING_RATE,
    splits: Collection[str] = SPLITS,
    num_threads: int = 4,
) -> DatasetDict:
    """
    Load recordings, divide them into splits if their source has none, and check every recording, unless
    `arguments.check_recordings` is false.

    Unreadable recordings are skipped with a warning. Silent recordings, and recordings with the same content in two
    splits, also give a warning.

    Args:
        arguments: Source of the recordings; see [`DataArguments`].
        sampling_rate: Sampling rate in Hz at which recordings must be readable.
        splits: Splits to load: `train`, `validation` and `test`; or `all`, all recordings as one split; or
            `test_or_all`: the test split, or all recordings of a source without splits.
        num_threads: Number of threads that check recordings.

    Returns:
        The available splits, with the columns `audio` (not decoded), `file`, `key` (the name in which groups are
        found), `label` (a `ClassLabel`, or a list of them in multi-label data), `seconds` and `digest` (a hash of the
        samples as text; empty if they were not read).

    Raises:
        DataError: There are no usable recordings, too many are unreadable, or labels do not fit.
    """
    check_fold_options(arguments)
    source = drop_background_labels(read_source(arguments), arguments)
    if uses_folds(arguments) and "all" not in splits:
        source = pool_splits(source)
    rows = _divide(source, arguments, splits)
    if not rows and uses_folds(arguments) and str(arguments.fold) == FINAL:
        raise DataError(
            f"The final model of a cross-validation was trained on all recordings, so there is no "
            f"{' or '.join(splits)} split. Use the scores of the cross-validation, or give other recordings."
        )
    if not rows:
        found = f": the recordings have {', '.join(source)}" if source else ""
        # With streaming, `source` does not contain the training recordings.
        needed = " --streaming needs a validation split." if arguments.streaming and "validation" in splits else ""
        raise DataError(f"There is no {' or '.join(splits)} split{found}.{needed}")
    checks = check_recordings(source, rows, sampling_rate, num_threads, arguments.check_recordings)
    rows = leave_out_unreadable(source, rows, checks, arguments.max_bad_fraction)
    warn_of_silence(source, rows, checks)
    warn_of_duplicates(source, rows, checks)
    names = check_labels(source, rows)
    label = ClassLabel(names=names)
    is_multi_label = arguments.problem_type == "multi_label_classification"
    recordings = DatasetDict()
    for split, (origin, indices) in rows.items():
        dataset = source[origin].select(indices)
        own = [checks[origin][index] for index in indices]
        with without_progress_bars():
            dataset = dataset.add_column("seconds", [check.seconds for check in own])
            dataset = dataset.add_column("digest", [check.content_hash for check in own])
            recordings[split] = dataset.cast_column("label", List(label) if is_multi_label else label)
        if is_multi_label:
            warn_of_missing_contrast(recordings[split], split)
    warn_of_band(recordings, sampling_rate)
    return recordings


def longest_first(dataset: Dataset) -> Dataset:
    """Sort recordings by length, longest first: batches need little padding, and a lack of memory shows at once."""
    return dataset.select(np.argsort(-np.array(dataset["seconds"]), kind="stable"))


def _divide(source: DatasetDict, arguments: DataArguments, splits: Collection[str]) -> Rows:
    if "test_or_all" in splits:
        # In a run of cross-validation, the fold is the test split.
        splits = ["all"] if list(source) == ["unsplit"] and not uses_folds(arguments) else ["test"]
    if "all" in splits:
        if len(source) > 1:
            raise DataError(f"The recordings already have splits: {', '.join(source)}. Choose one of them.")
        (origin,) = source
        return {"all": (origin, range(len(source[origin])))}
    if uses_folds(arguments):
        rows = divide_by_fold(source, arguments)
        return {split: rows[split] for split in SPLITS if split in rows and split in splits and len(rows[split][1])}
    are_clips = any("start" in dataset.column_names for dataset in source.values())
    pattern = find_group_pattern(arguments)
    groups = {split: make_groups(dataset["key"][:], pattern, are_clips) for split, dataset in source.items()}
    rows = {split: (split, range(len(source[split]))) for split in SPLITS if split in source}
    if "unsplit" in source:
        parts = split_by_hash(source["unsplit"]["label"], groups["unsplit"])
        rows = {split: ("unsplit", indices) for split, indices in parts.items()}
        if "train" in splits and parts["validation"]:
            _warn_of_few({split: source["unsplit"].select(indices)["label"] for split, indices in parts.items()})
    elif "train" not in source and "train" in splits:
        raise DataError(f"The recordings have {', '.join(source)}, but no train split.")
    elif "validation" not in source and "train" in source:
        logger.warning("There is no validation split. A tenth of the training recordings is held out instead.")
        parts = split_by_hash(source["train"]["label"], groups["train"], VALIDATION_ONLY)
        rows.update({split: ("train", indices) for split, indices in parts.items()})
    if arguments.group_pattern or are_clips:
        _warn_of_shared_groups(groups, "groups of --group_pattern" if arguments.group_pattern else "files with clips")
    return {split: rows[split] for split in SPLITS if split in rows and split in splits and len(rows[split][1])}


def _warn_of_few(labels: Mapping[str, Sequence[str | list[str]]]) -> None:
    """Warn of splits with few recordings, in total or of a class, and of splits without some classes."""
    counts = {
        split: Counter(label for own in column for label in ([own] if isinstance(own, str) else own))
        for split, column in labels.items()
    }
    classes = sorted(counts["train"])
    for split in SPLITS[1:]:
        lacking = [label for label in classes if not counts[split][label]]
        if lacking:
            logger.warning(
                f"{len(lacking)} of {len(classes)} classes are not in {split}: {shorten(lacking)}. A class needs two "
                "recordings (or groups) to be in validation, and three to be also in test."
            )
    smallest = {split: min(classes, key=lambda label: counts[split][label]) for split in SPLITS}
    if any(
        len(labels[split]) < FEW_RECORDINGS or counts[split][smallest[split]] < FEW_OF_A_CLASS for split in SPLITS[1:]
    ):
        sizes = ", ".join(
            f"{len(labels[split])} {split} (fewest: {counts[split][smallest[split]]} of {smallest[split]})"
            for split in SPLITS
        )
        logger.warning(
            f"Few recordings: {sizes}. Scores are uncertain. Use cross-validation (--folds 5) to test on all "
            "recordings."
        )


def check_validation(recordings: DatasetDict) -> None:
    """
    Check that there is a validation split.

    Raises:
        DataError: There is none.
    """
    if "validation" in recordings:
        return
    names = label_names(recordings["train"])
    labels = (label if isinstance(label, list) else [label] for label in recordings["train"]["label"])
    counts = Counter(names[index] for own in labels for index in own)
    single = [name for name in names if counts[name] == 1]
    found = f" (only one: {shorten(single)})" if single else ""
    raise DataError(
        f"There are no recordings for validation. A class needs at least two recordings{found}, or two groups with "
        "--group_pattern. To train without validation, use --eval_strategy no --load_best_model_at_end false."
    )


def _warn_of_shared_groups(groups: Mapping[str, Sequence[str]], kind: str) -> None:
    seen: dict[str, str] = {}
    for split, names in groups.items():
        shared = sorted(name for name in set(names) if seen.setdefault(name, split) != split)
        if shared:
            logger.warning(
                f"{len(shared)} {kind} are in both {split} and {seen[shared[0]]}, the first: {shared[0]}. The splits "
                "of the source are kept, but scores on them are too high."
            )
