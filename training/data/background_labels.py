# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The background class, as set by the options `background` and `background_dir`, and the added clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig

from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.labels import clean_label
from sanet_hf.utils.formatting import shorten


# Values of --background that are no class names, and the default name of the background class.
AUTO, NONE = "auto", "none"
DEFAULT_NAME = "background"
# Column that marks added clips.
ADDED = "is_added_background"


@dataclass
class Background:
    """
    Background clips that were added to a training.

    Attributes:
        counts: Number of clips of each kind in each split.
        alike: Unused kinds of noise, with the class that each sounds like.
        test_files: Recordings of `background_dir` that were held out from training and selection.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)
    test_files: list[str] = field(default_factory=list)


def adds_background(arguments: DataArguments) -> bool:
    """Return whether background clips are added to the recordings."""
    return arguments.background == AUTO or bool(arguments.background_dir)


def background_name(option: str | None) -> str | None:
    """Return the name of the background class by the option `background`. The data may have no such class."""
    if option in (None, AUTO):
        return DEFAULT_NAME
    return None if option == NONE else clean_label(option)


def store_background(config: PreTrainedConfig, labels: Sequence[str], arguments: DataArguments) -> None:
    """
    Store the name of the background class, if any, in the configuration of a model.

    Raises:
        UsageError: `--background` names a class that the model does not have.
    """
    name = background_name(arguments.background)
    # In multi-label data, background is not a class.
    is_several = arguments.problem_type == "multi_label_classification"
    if name not in labels and arguments.background not in (None, AUTO, NONE) and not is_several:
        raise UsageError(
            f"--background {arguments.background}: class not found. The classes are {shorten(labels)}. To add "
            f"generated noise, use --background {AUTO}."
        )
    # The checkpoint to start from may have another background class.
    if name in labels or getattr(config, "background_label", None) is not None:
        config.background_label = name if name in labels else None


def drop_background_labels(source: DatasetDict, arguments: DataArguments) -> DatasetDict:
    """
    Remove the background from the labels of multi-label recordings. Recordings without another label then have no
    class. Return the recordings, as [`read_source`] does.

    Raises:
        UsageError: `--background` names a class that no recording has.
    """
    name = background_name(arguments.background)
    if name is None or arguments.problem_type != "multi_label_classification":
        return source
    is_found = any(name in labels for dataset in source.values() for labels in dataset["label"])
    if not is_found:
        is_named = arguments.background != AUTO and arguments.background is not None and not arguments.background_dir
        if is_named and ("train" in source or "unsplit" in source):
            raise UsageError(f"--background {arguments.background}: class not found in the recordings.")
        return source
    return DatasetDict(
        {
            split: dataset.remove_columns("label").add_column(
                "label",
                [[label for label in labels if label != name] for labels in dataset["label"]],
                feature=dataset.features["label"],
            )
            for split, dataset in source.items()
        }
    )


def without_added(recordings: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Return the recordings without the clips that [`background.add_background`] added."""
    return {
        split: dataset.select(np.flatnonzero(~np.array(dataset[ADDED]))).remove_columns(ADDED)
        if ADDED in dataset.column_names
        else dataset
        for split, dataset in recordings.items()
    }
