# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Levels of waveforms: silence, full scale, envelope."""

from collections.abc import Iterable

import numpy as np


SILENCE = 1e-4  # largest amplitude, -80 dB of full scale
QUIET_RANGE = 20.0  # dB below the loudest part of a recording
CLIPPED = 0.99  # amplitude, just below the highest value of 8 bits


def largest_amplitude(waveform: np.ndarray) -> float:
    """Of a waveform of shape (samples,), without a copy of it."""
    return max(float(waveform.max()), -float(waveform.min()))


def is_silent(waveform: np.ndarray) -> bool:
    """Whether a waveform of shape (samples,) stays below -80 dB of full scale."""
    return largest_amplitude(waveform) < SILENCE


def mean_power(waveform: np.ndarray) -> float:
    """Mean square of a waveform of shape (samples,)."""
    return float(np.dot(waveform, waveform)) / len(waveform)


def is_loud(powers: np.ndarray) -> np.ndarray:
    """
    Whether parts of a recording are at most 20 dB quieter than the loudest, and so hold its sound rather than what is
    before, between and after it.

    Args:
        powers: Of [`mean_power`], shape (parts,).

    Returns:
        bool of shape (parts,).
    """
    return powers >= powers.max() * 10 ** (-QUIET_RANGE / 10)


def envelope(blocks: Iterable[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Lowest and highest sample of every `length` samples of a waveform, to draw it: a line through a million samples is
    slow and looks the same.

    Args:
        blocks: The waveform in arrays of shape (samples,) of any length.
        length: Samples of a stretch; the last one may be shorter.

    Returns:
        Two arrays of shape (stretches,).
    """
    low, high = [], []
    rest = np.zeros(0, np.float32)
    for block in blocks:
        block = np.concatenate([rest, block])
        whole = len(block) // length * length
        stretches, rest = block[:whole].reshape(-1, length), block[whole:]
        low.append(stretches.min(axis=1))
        high.append(stretches.max(axis=1))
    if len(rest):
        low.append(rest.min(keepdims=True))
        high.append(rest.max(keepdims=True))
    return np.concatenate(low), np.concatenate(high)
