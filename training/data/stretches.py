# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Random stretches of recordings for training, which leave out what is quiet."""

import numpy as np

from sanet_hf.audio.levels import is_loud


STEP_SECONDS = 0.05  # between the beginnings of stretches that are compared


def find_loud_starts(waveform: np.ndarray, length: int, sampling_rate: int) -> np.ndarray:
    """
    Find where stretches of a recording can begin that are loud, as [`is_loud`] says.

    Args:
        waveform: Shape (samples,).
        length: Samples of a stretch.
        sampling_rate: In Hz.

    Returns:
        bool of shape (beginnings,), [`STEP_SECONDS`] apart: one alone where the recording is no longer than a stretch.
    """
    # One array, since streamed recordings can be hours long.
    energy = np.zeros(len(waveform) + 1)
    np.square(waveform, out=energy[1:], dtype=np.float64)
    np.cumsum(energy, out=energy)
    starts = np.arange(0, max(0, len(waveform) - length) + 1, _step(sampling_rate))
    return is_loud(energy[np.minimum(starts + length, len(waveform))] - energy[starts])


def draw_start(
    loud_starts: np.ndarray | None, num_samples: int, length: int, sampling_rate: int, generator: np.random.Generator
) -> int:
    """
    Draw the first sample of a stretch.

    Args:
        loud_starts: As [`find_loud_starts`] returns them; None for any stretch.
        num_samples: Length of the recording.
        length: Samples of a stretch.
        sampling_rate: In Hz.
        generator: Decides.
    """
    last = max(0, num_samples - length)
    if loud_starts is None:
        return int(generator.integers(last, endpoint=True))
    step = _step(sampling_rate)
    start = step * int(generator.choice(np.flatnonzero(loud_starts)))
    return start + int(generator.integers(min(step - 1, max(0, last - start)), endpoint=True))


def _step(sampling_rate: int) -> int:
    return max(1, round(STEP_SECONDS * sampling_rate))
