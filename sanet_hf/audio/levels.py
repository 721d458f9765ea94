# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Levels of waveforms: silence, full scale, envelope."""

import numpy as np


SILENCE = 1e-4  # largest amplitude, -80 dB of full scale
CLIPPED = 0.99  # amplitude, just below the highest value of 8 bits


def largest_amplitude(waveform: np.ndarray) -> float:
    """Of a waveform of shape (samples,), without a copy of it."""
    return max(float(waveform.max()), -float(waveform.min()))


def is_silent(waveform: np.ndarray) -> bool:
    """Whether a waveform of shape (samples,) stays below -80 dB of full scale."""
    return largest_amplitude(waveform) < SILENCE
