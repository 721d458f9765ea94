# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Share of the energy of a recording above given frequencies, such as the Nyquist frequency of a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sanet_hf.audio.decode import describe_audio, load_audio


MEASURED_SECONDS = 5
FRAME = 4096  # samples


def shares_above(source: str | Path | bytes, name: str, frequencies: Sequence[float]) -> tuple[int, list[float]]:
    """
    Measure the shares of the energy of a recording above frequencies. The middle 5 s are measured, or the first 5 s if
    the format must be decoded from its start. A constant offset does not count.

    Args:
        source: Audio file, or its content.
        name: Name in errors.
        frequencies: In Hz.

    Returns:
        The sampling rate of the recording in Hz, and a share from 0 to 1 for each frequency. The share is 0 for
        silence and if all frequencies are at or above half of the sampling rate.

    Raises:
        AudioError: The recording cannot be read as audio.
    """
    rate, num_frames = describe_audio(source, name)
    if 2 * min(frequencies) >= rate:
        return rate, [0.0] * len(frequencies)
    length = MEASURED_SECONDS * rate
    waveform = load_audio(source, rate, name, max(0, ((num_frames or 0) - length) // 2), length)
    waveform = np.pad(waveform - waveform.mean(), (0, -len(waveform) % FRAME)).reshape(-1, FRAME)
    power = np.square(np.abs(np.fft.rfft(waveform * np.hanning(FRAME).astype(np.float32)))).sum(axis=0)
    total, bins = power.sum(), np.arange(len(power)) * rate / FRAME
    return rate, [float(power[bins > frequency].sum() / total) if total else 0.0 for frequency in frequencies]
