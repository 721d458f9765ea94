# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples of one recording: level, signal-to-noise ratio, and clips as WAV files."""

import hashlib
import math
import wave
from typing import Any, BinaryIO

import numpy as np

from sanet_hf.audio.levels import CLIPPED, largest_amplitude


BLOCK = 2**20  # samples per write

SNR_RANGE = (-20.0, 100.0)  # dB


def write_clip(
    file: BinaryIO, waveform: np.ndarray, cleaned: np.ndarray, gain: float, sampling_rate: int
) -> dict[str, Any]:
    """
    Write a clip as WAV and measure it, block by block.

    WAV, as in the original project: its bytes depend only on the samples, not on the version of an encoder.

    Args:
        file: A file opened for writing.
        waveform: float32 of shape (samples,) before noise reduction, to measure SNR and clipping.
        cleaned: The samples to write.
        gain: Factor of the samples to write.
        sampling_rate: In Hz.

    Returns:
        Columns of the manifest. The hash is that of the float32 samples that `sanet train` reads.
    """
    power, peak, num_clipped, digest = 0.0, 0.0, 0, hashlib.sha256()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, sampling_rate, len(cleaned), "NONE", None))
        for start in range(0, len(cleaned), BLOCK):
            samples = np.clip(np.rint(cleaned[start : start + BLOCK] * (32768 * gain)), -32768, 32767).astype("<i2")
            wav.writeframes(samples.data)
            block = samples.astype(np.float32) / 32768
            power += float(np.square(block, dtype=np.float64).sum())
            peak = max(peak, largest_amplitude(block))
            num_clipped += int((np.abs(waveform[start : start + BLOCK]) >= CLIPPED).sum())
            digest.update(block.data)
    return {
        "rms": math.sqrt(power / len(cleaned)),
        "peak": peak,
        "clipped": num_clipped / len(cleaned),
        "snr": estimate_snr(waveform, sampling_rate),
        "hash": digest.hexdigest(),
    }


def estimate_snr(waveform: np.ndarray, sampling_rate: int) -> float | None:
    """
    Estimate the signal-to-noise ratio in dB of a waveform of shape (samples,). The noise is the 10th percentile of the
    power of frames of 20 ms; the signal is the mean power minus the noise. Return `None` for fewer than ten frames.
    """
    length = sampling_rate // 50
    frames = waveform[: len(waveform) // length * length].reshape(-1, length)
    if len(frames) < 10:
        return None
    powers = np.einsum("ft,ft->f", frames, frames) / length
    noise = max(float(np.quantile(powers, 0.1)), 1e-10)
    signal = max(float(powers.mean()) - noise, 1e-10)
    return float(np.clip(10 * math.log10(signal / noise), *SNR_RANGE))
