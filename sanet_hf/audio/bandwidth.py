# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""How much of a recording's energy lies above the frequencies that a model hears."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from sanet_hf.audio.decode import encode_name, load_audio, open_with_ffmpeg
from sanet_hf.errors import AudioError


MEASURED_SECONDS = 5
FRAME = 4096  # samples
# Formats of soundfile of which a stretch is read without what stands before it.
SEEKABLE = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF")


def shares_above(source: str | Path | bytes, name: str, frequencies: Sequence[float]) -> tuple[int, list[float]]:
    """
    Parts of a recording's energy that lie above frequencies, from the middle 5 s, or the first 5 s where the format
    has to be decoded from its start. A constant offset does not count.

    Args:
        source: Audio file, or its content.
        name: What errors call it.
        frequencies: In Hz.

    Returns:
        The recording's sampling rate in Hz, and a part from 0 to 1 for each frequency; 0 of silence. Frequencies above
        half of the rate are not measured: their part is 0.

    Raises:
        AudioError: It cannot be read as audio.
    """
    rate, num_frames = _describe(source, name)
    if 2 * min(frequencies) >= rate:
        return rate, [0.0] * len(frequencies)
    length = MEASURED_SECONDS * rate
    waveform = load_audio(source, rate, name, max(0, (num_frames - length) // 2), length)
    waveform = np.pad(waveform - waveform.mean(), (0, -len(waveform) % FRAME)).reshape(-1, FRAME)
    power = np.square(np.abs(np.fft.rfft(waveform * np.hanning(FRAME).astype(np.float32)))).sum(axis=0)
    total, bins = power.sum(), np.arange(len(power)) * rate / FRAME
    return rate, [float(power[bins > frequency].sum() / total) if total else 0.0 for frequency in frequencies]


def _describe(source: str | Path | bytes, name: str) -> tuple[int, int]:
    """The sampling rate in Hz, and the number of frames, or 0 where a stretch is not read from the middle."""
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else encode_name(Path(source)))
        return info.samplerate, info.frames if info.format in SEEKABLE else 0
    except (soundfile.LibsndfileError, TypeError) as error:
        source = source if isinstance(source, bytes) else Path(source)
        rate = open_with_ffmpeg(source, name, str(error)).metadata.sample_rate
    if not rate:
        raise AudioError(f"{name}: the file does not say its sampling rate.")
    return rate, 0
