# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Which class is the background, by the options `background` and `background_dir`, and which clips were added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig

from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.labels import clean_label
from sanet_hf.utils.formatting import shorten


# Values of --background that name no class, and the class that is taken for the background by its name.
AUTO, NONE = "auto", "none"
DEFAULT_NAME = "background"
# Column of recordings that tells those that were added.
ADDED = "is_added_background"


@dataclass
class Background:
    """
    What was added to a training.

    Attributes:
        counts: Clips of each kind in each split.
        alike: Kinds of noise that were left out, and the class of the recordings that each sounds like.
        test_files: Recordings of `background_dir` that nothing was trained or chosen by.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)
    test_files: list[str] = field(default_factory=list)


def adds_background(arguments: DataArguments) -> bool:
    """Whether clips are added to the recordings."""
    return arguments.background == AUTO or bool(arguments.background_dir)


def background_name(option: str | None) -> str | None:
    """The class that is the background if there is one of that name, by the option `background`."""
    if option in (None, AUTO):
        return DEFAULT_NAME
    return None if option == NONE else clean_label(option)


def store_background(config: PreTrainedConfig, labels: Sequence[str], arguments: DataArguments) -> None:
    """
    Store in a model's configuration which of its classes is the background, if one is.

    Raises:
        UsageError: `--background` names another.
    """
    name = background_name(arguments.background)
    # In multi-label data, it is no class.
    is_several = arguments.problem_type == "multi_label_classification"
    if name not in labels and arguments.background not in (None, AUTO, NONE) and not is_several:
        raise UsageError(
            f"--background {arguments.background}: no class has this name; there are {shorten(labels)}. "
            f"To add generated noise: --background {AUTO}."
        )
    # A checkpoint to start from may have another one.
    if name in labels or getattr(config, "background_label", None) is not None:
        config.background_label = name if name in labels else None


def drop_background_labels(source: DatasetDict, arguments: DataArguments) -> DatasetDict:
    """
    Remove the background from the labels of multi-label recordings, as [`read_source`] gives them: those that have
    nothing else have no class.

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
            raise UsageError(f"--background {arguments.background}: no recording has this class.")
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
    """The recordings without the clips that [`background.add_background`] added."""
    return {
        split: dataset.select(np.flatnonzero(~np.array(dataset[ADDED]))).remove_columns(ADDED)
        if ADDED in dataset.column_names
        else dataset
        for split, dataset in recordings.items()
    }
