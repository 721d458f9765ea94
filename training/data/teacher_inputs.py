# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Inputs of the teachers, prepared in the workers of a `DataLoader`.

    clip of the student   |-----------------------------|   at the student's sampling rate, augmented
    windows               |--------||--------|                at the teacher's sampling rate and clip length
                                          |--------|          the last ends with the clip
    features              from the teacher's feature extractor, in the same batch
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import FeatureExtractionMixin

from sanet_hf.architectures import is_padding_invariant
from sanet_hf.audio.decode import resample_waveform
from sanet_hf.audio.levels import is_loud, mean_power
from sanet_hf.inference.windows import window_starts
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.items import TEACHER_INPUTS, extract


class FrontEnd(NamedTuple):
    """The feature extractor of one or several teachers, and the length of their windows in samples."""

    feature_extractor: FeatureExtractionMixin
    window: int


class TeacherInputs:
    """
    Compute the features of a clip for several teachers.

    Args:
        front_ends: Different front ends of the teachers.
        sampling_rate: Sampling rate of the clips in Hz.
        only_loud: Whether to leave out windows over 20 dB quieter than the loudest, as in single-label prediction.
    """

    def __init__(self, front_ends: Sequence[FrontEnd], sampling_rate: int, only_loud: bool):
        self.front_ends, self.sampling_rate, self.only_loud = list(front_ends), sampling_rate, only_loud

    def __call__(self, waveform: np.ndarray) -> list[list[dict[str, np.ndarray]]]:
        """Return, for each front end, the features of each window of a clip of shape (samples,)."""
        return [self._extract(waveform, front_end) for front_end in self.front_ends]

    def _extract(self, waveform: np.ndarray, front_end: FrontEnd) -> list[dict[str, np.ndarray]]:
        waveform = resample_waveform(waveform, self.sampling_rate, front_end.feature_extractor.sampling_rate)
        if len(waveform) == front_end.window + 1:
            # Resampling rounds up.
            waveform = waveform[:-1]
        starts = window_starts(len(waveform), front_end.window, front_end.window)
        windows = [waveform[start : start + front_end.window] for start in starts]
        if self.only_loud and len(windows) > 1:
            are_loud = is_loud(np.array([mean_power(window) for window in windows]))
            windows = [window for window, counts in zip(windows, are_loud) if counts]
        return [extract(front_end.feature_extractor, window) for window in windows]

    def collate(
        self, items: list[dict], collate_others: Callable[[list[Mapping]], dict[str, torch.Tensor]]
    ) -> dict[str, object]:
        """
        Make a batch of items, with or without teachers' inputs.

        Args:
            items: Items of a dataset. `TEACHER_INPUTS` of an item is the result of calling this object.
            collate_others: Makes the batch of all other keys.

        Returns:
            The batch. `TEACHER_INPUTS` has, for each front end, batches of windows: `features`; `clips`, the index of
            each window's clip in the batch, int of shape (windows,); and `parts`, 1 / (number of the clip's windows),
            float32 of shape (windows,). Windows of different lengths share a batch only if padding has no effect.
        """
        inputs = [item.get(TEACHER_INPUTS) for item in items]
        batch = collate_others(
            [{name: value for name, value in item.items() if name != TEACHER_INPUTS} for item in items]
        )
        if any(own is not None for own in inputs):
            batch[TEACHER_INPUTS] = [self._collate_windows(inputs, place) for place in range(len(self.front_ends))]
        return batch

    def _collate_windows(self, inputs: Sequence[list | None], place: int) -> list[dict[str, object]]:
        feature_extractor = self.front_ends[place].feature_extractor
        windows = [(clip, own[place], window) for clip, own in enumerate(inputs) if own for window in own[place]]
        groups: dict[tuple, list] = {}
        for clip, all_windows, window in windows:
            shape = () if is_padding_invariant(feature_extractor) else next(iter(window.values())).shape
            groups.setdefault(shape, []).append((clip, 1 / len(all_windows), window))
        batches = []
        for group in groups.values():
            clips, parts, features = zip(*group)
            batches.append(
                {
                    "features": collate(list(features), feature_extractor),
                    "clips": torch.tensor(clips),
                    "parts": torch.tensor(parts, dtype=torch.float32),
                }
            )
        return batches
