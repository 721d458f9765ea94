# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips with and without labels as one dataset."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset
from transformers import FeatureExtractionMixin


class Clips(Protocol):
    """The interface of [`TrainingClips`] that [`JoinedClips`] needs."""

    feature_extractor: FeatureExtractionMixin
    max_length: int
    class_matrix: np.ndarray
    seconds: list[float]
    are_fixed: np.ndarray
    are_known: np.ndarray
    teacher_inputs: Callable[[np.ndarray], list] | None
    parts: list[tuple[int, int]]
    read_kept: Callable[..., np.ndarray] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    def files(self, index: int) -> list[str]: ...


class JoinedClips(Dataset):
    """
    Clips with labels, followed by clips without labels, whose `labels` are negative. An item depends only on its index
    and the seed, as in [`TrainingClips`].

    Args:
        labeled: Clips with labels.
        unlabeled: Clips of recordings as [`load_unlabeled`] returns them.
    """

    are_whole = True

    def __init__(self, labeled: Clips, unlabeled: Clips):
        self.labeled, self.unlabeled = labeled, unlabeled
        self.feature_extractor, self.max_length = labeled.feature_extractor, labeled.max_length

    def __len__(self) -> int:
        return len(self.labeled) + len(self.unlabeled)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        clips, own_index = self._find(index)
        item = {**clips[own_index], "index": index}
        if clips is self.unlabeled:
            item["labels"] = item["labels"] * 0 - 1
        return item

    def _find(self, index: int) -> tuple[Clips, int]:
        epoch, clip = divmod(index, len(self))
        if clip < len(self.labeled):
            return self.labeled, epoch * len(self.labeled) + clip
        return self.unlabeled, epoch * len(self.unlabeled) + clip - len(self.labeled)

    def files(self, index: int) -> list[str]:
        """Return the files of the recordings in an item."""
        clips, own_index = self._find(index)
        return clips.files(own_index)

    @property
    def class_matrix(self) -> np.ndarray:
        """Return the classes of the clips with labels, 0/1 of shape (clips with labels, classes)."""
        return self.labeled.class_matrix

    @cached_property
    def seconds(self) -> list[float]:
        """Return the length of each clip in training."""
        return [*self.labeled.seconds, *self.unlabeled.seconds]

    @property
    def are_fixed(self) -> np.ndarray:
        """Return which clips are the same in each epoch, bool of shape (clips,)."""
        return np.concatenate([self.labeled.are_fixed, self.unlabeled.are_fixed])

    @property
    def are_known(self) -> np.ndarray:
        """Return which clips need no teachers' inputs, bool of shape (clips,)."""
        return np.concatenate([self.labeled.are_known, self.unlabeled.are_known])

    @are_known.setter
    def are_known(self, values: np.ndarray) -> None:
        self.labeled.are_known, self.unlabeled.are_known = np.split(values, [len(self.labeled)])

    @property
    def teacher_inputs(self) -> Callable[[np.ndarray], list] | None:
        """Return the function that makes the teachers' inputs of a clip."""
        return self.labeled.teacher_inputs

    @teacher_inputs.setter
    def teacher_inputs(self, teacher_inputs: Callable[[np.ndarray], list] | None) -> None:
        self.labeled.teacher_inputs = self.unlabeled.teacher_inputs = teacher_inputs

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Return the part of each recording that is read: first sample and number of samples."""
        return [*self.labeled.parts, *self.unlabeled.parts]

    @property
    def read_kept(self) -> Callable[..., np.ndarray] | None:
        """Return the reader of kept samples, as in [`TrainingClips`], for the recordings of `parts`."""
        return self.labeled.read_kept

    @read_kept.setter
    def read_kept(self, read: Callable[..., np.ndarray] | None) -> None:
        self.labeled.read_kept = read
        self.unlabeled.read_kept = read and partial(_read_after, read, len(self.labeled.parts))


def _read_after(read: Callable[..., np.ndarray], num_before: int, place: int, *arguments) -> np.ndarray:
    return read(num_before + place, *arguments)
