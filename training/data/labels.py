# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Labels of recordings as class indices and matrices."""

from collections.abc import Mapping

import datasets
import numpy as np
from datasets import List

from sanet_hf.errors import DataError
from sanet_hf.utils.formatting import shorten


def label_names(recordings: datasets.Dataset) -> list[str]:
    """Names of the classes in the numbering of the `label` column."""
    feature = recordings.features["label"]
    return feature.feature.names if isinstance(feature, List) else feature.names


def stream_label_names(stream: datasets.IterableDataset) -> list[str] | None:
    """Names of the classes, where the stream's `label` column lists them."""
    feature = stream.features["label"]
    return getattr(getattr(feature, "feature", feature), "names", None)


def is_multi_label(recordings: datasets.Dataset) -> bool:
    """Whether a recording can have several classes."""
    return isinstance(recordings.features["label"], List)


def label_matrix(recordings: datasets.Dataset, label2id: Mapping[str, int]) -> np.ndarray:
    """
    Classes of each recording in the model's numbering: 0/1 of shape (recordings, classes).

    Raises:
        DataError: A recording has a label that the model does not know.
    """
    unknown = set(label_names(recordings)) - set(label2id)
    if unknown:
        raise DataError(
            f"The model does not know {shorten(sorted(unknown))}; its classes are {shorten(sorted(label2id))}."
        )
    ids = [label2id[name] for name in label_names(recordings)]
    matrix = np.zeros((len(recordings), len(label2id)), dtype=int)
    for row, label in enumerate(recordings["label"]):
        matrix[row, [ids[i] for i in (label if isinstance(label, list) else [label])]] = 1
    return matrix


def as_target(classes: np.ndarray, is_multi_label: bool) -> np.ndarray | int:
    """What a loss takes for 0/1 of shape (classes,)."""
    return classes.astype(np.float32) if is_multi_label else int(classes.argmax())
