# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Random parts of recordings for training, without quiet ones."""

import numpy as np

from sanet_hf.audio.levels import is_loud


STEP_SECONDS = 0.05  # between the starts of compared parts


def find_loud_starts(waveform: np.ndarray, length: int, sampling_rate: int) -> np.ndarray:
    """
    Find the starts of loud parts of a recording; see [`is_loud`].

    Args:
        waveform: Shape (samples,).
        length: Samples of a part.
        sampling_rate: In Hz.

    Returns:
        bool of shape (starts,), one per [`STEP_SECONDS`]; only one if the recording is not longer than a part.
    """
    # Use one array to save memory, because streamed recordings can be hours long.
    energy = np.zeros(len(waveform) + 1)
    np.square(waveform, out=energy[1:], dtype=np.float64)
    np.cumsum(energy, out=energy)
    starts = np.arange(0, max(0, len(waveform) - length) + 1, _step(sampling_rate))
    return is_loud(energy[np.minimum(starts + length, len(waveform))] - energy[starts])


def draw_start(
    loud_starts: np.ndarray | None, num_samples: int, length: int, sampling_rate: int, generator: np.random.Generator
) -> int:
    """
    Draw the first sample of a part.

    Args:
        loud_starts: As [`find_loud_starts`] returns them; None for any part.
        num_samples: Length of the recording.
        length: Samples of a part.
        sampling_rate: In Hz.
        generator: Random generator.
    """
    last = max(0, num_samples - length)
    if loud_starts is None:
        return int(generator.integers(last, endpoint=True))
    step = _step(sampling_rate)
    start = step * int(generator.choice(np.flatnonzero(loud_starts)))
    return start + int(generator.integers(min(step - 1, max(0, last - start)), endpoint=True))


def _step(sampling_rate: int) -> int:
    return max(1, round(STEP_SECONDS * sampling_rate))
