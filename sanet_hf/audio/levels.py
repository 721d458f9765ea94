# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Levels of waveforms: silence, full scale, envelope."""

from collections.abc import Iterable

import numpy as np


SILENCE = 1e-4  # largest amplitude, -80 dBFS
QUIET_RANGE = 20.0  # dB below the loudest part of a recording
CLIPPED = 0.99  # amplitude, just below the highest value of 8 bits


def largest_amplitude(waveform: np.ndarray) -> float:
    """Return the largest amplitude of a waveform of shape (samples,), without copying it."""
    return max(float(waveform.max()), -float(waveform.min()))


def is_silent(waveform: np.ndarray) -> bool:
    """Return whether a waveform of shape (samples,) stays below -80 dBFS."""
    return largest_amplitude(waveform) < SILENCE


def mean_power(waveform: np.ndarray) -> float:
    """Return the mean square of a waveform of shape (samples,)."""
    return float(np.dot(waveform, waveform)) / len(waveform)


def is_loud(powers: np.ndarray) -> np.ndarray:
    """
    Return which parts of a recording are at most 20 dB quieter than the loudest part. Quieter parts are pauses.

    Args:
        powers: Results of [`mean_power`], shape (parts,).

    Returns:
        bool of shape (parts,).
    """
    return powers >= powers.max() * 10 ** (-QUIET_RANGE / 10)


def envelope(blocks: Iterable[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the lowest and highest sample of every `length` samples of a waveform, for plots. A line through a million
    samples is slow and looks the same.

    Args:
        blocks: The waveform in arrays of shape (samples,) of any length.
        length: Samples per part; the last part may be shorter.

    Returns:
        Two arrays of shape (parts,).
    """
    low, high = [], []
    rest = np.zeros(0, np.float32)
    for block in blocks:
        block = np.concatenate([rest, block])
        whole = len(block) // length * length
        parts, rest = block[:whole].reshape(-1, length), block[whole:]
        low.append(parts.min(axis=1))
        high.append(parts.max(axis=1))
    if len(rest):
        low.append(rest.min(keepdims=True))
        high.append(rest.max(keepdims=True))
    return np.concatenate(low), np.concatenate(high)
