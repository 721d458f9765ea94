# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
What teachers hear of a clip, prepared where the clip is: in the workers of a `DataLoader`.

    clip of the student   |-----------------------------|   at its sampling rate, augmented
    windows               |--------||--------|                at that of the teacher, as long as it takes
                                          |--------|          the last ends with the clip
    features              by the teacher's own feature extractor, in batches beside the student's
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
from sanet_hf.training.data.items import HEARD, extract


class Ear(NamedTuple):
    """The feature extractor of one or several teachers, and the samples of the longest clip that they take."""

    feature_extractor: FeatureExtractionMixin
    window: int


class TeacherInputs:
    """
    Features of a clip for each of several teachers.

    Args:
        ears: Those that differ.
        sampling_rate: Of clips, in Hz.
        only_loud: Whether windows over 20 dB quieter than the loudest are left out, as in prediction where a clip has
            one class.
    """

    def __init__(self, ears: Sequence[Ear], sampling_rate: int, only_loud: bool):
        self.ears, self.sampling_rate, self.only_loud = list(ears), sampling_rate, only_loud

    def __call__(self, waveform: np.ndarray) -> list[list[dict[str, np.ndarray]]]:
        """Return, for each ear, the features of each window of a clip of shape (samples,)."""
        return [self._hear(waveform, ear) for ear in self.ears]

    def _hear(self, waveform: np.ndarray, ear: Ear) -> list[dict[str, np.ndarray]]:
        waveform = resample_waveform(waveform, self.sampling_rate, ear.feature_extractor.sampling_rate)
        if len(waveform) == ear.window + 1:
            # Resampling rounds up.
            waveform = waveform[:-1]
        starts = window_starts(len(waveform), ear.window, ear.window)
        windows = [waveform[start : start + ear.window] for start in starts]
        if self.only_loud and len(windows) > 1:
            are_loud = is_loud(np.array([mean_power(window) for window in windows]))
            windows = [window for window, counts in zip(windows, are_loud) if counts]
        return [extract(ear.feature_extractor, window) for window in windows]

    def collate(
        self, items: list[dict], collate_others: Callable[[list[Mapping]], dict[str, torch.Tensor]]
    ) -> dict[str, object]:
        """
        Make a batch of items, those of evaluation included, which teachers do not hear.

        Args:
            items: As a dataset gives them. Those under `HEARD` are what this object returned.
            collate_others: Makes the batch of all else.

        Returns:
            The batch; under `HEARD`, for each ear, batches of windows: `features`; `clips`, the place of each window's
            clip in the batch, int of shape (windows,); and `parts`, one over the number of the clip's windows, float32
            of shape (windows,). Windows of different lengths are in one batch only where that changes nothing.
        """
        heard = [item.get(HEARD) for item in items]
        batch = collate_others([{name: value for name, value in item.items() if name != HEARD} for item in items])
        if any(own is not None for own in heard):
            batch[HEARD] = [self._collate_ear(heard, place) for place in range(len(self.ears))]
        return batch

    def _collate_ear(self, heard: Sequence[list | None], place: int) -> list[dict[str, object]]:
        feature_extractor = self.ears[place].feature_extractor
        windows = [(clip, own[place], window) for clip, own in enumerate(heard) if own for window in own[place]]
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
