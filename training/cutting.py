# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The samples of one recording: where to cut them, noise reduction, level and noise, and clips as WAV."""

import hashlib
import itertools
import math
import os
import wave
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

import numpy as np

from sanet_hf.audio import to_text

from .data import SILENCE


SAMPLING_RATE = 16000  # Hz
# noisereduce's own: samples that are denoised at once, and those on each side of them that it takes into account.
DENOISING_BLOCK, DENOISING_CONTEXT = 600_000, 30_000
BLOCK = 2**20  # samples that are written at once
# Pauses within a sentence are shorter.
MIN_PAUSE = 0.3  # seconds
MAX_SECONDS = 86_400  # more than 37 hours do not fit into a WAV file
SNR_RANGE = (-20.0, 100.0)  # dB
CLIPPED = 0.99  # amplitude, just below the highest value of 8 bits
MAX_NAME = 180  # bytes of a source's name in those of its clips; file systems allow 255 in all


def cut_evenly(length: int, max_length: int) -> list[tuple[int, int]]:
    """
    Starts and ends of as few stretches as cover `length` samples without any longer than `max_length`.

    They are of equal length, to a sample: no short leftover, and, but for a recording that is short itself, none below
    half of `max_length`.
    """
    count = -(-length // max_length)
    edges = [index * length // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def find_speech(waveform: np.ndarray, min_seconds: float = 0.0) -> list[tuple[int, int]]:
    """
    Starts and ends in samples of the stretches of speech in a waveform of shape (samples,) at 16 kHz.

    Also those that are shorter than `min_seconds`, down to a quarter of a second.
    """
    import torch
    from silero_vad import get_speech_timestamps

    stretches = get_speech_timestamps(
        torch.from_numpy(waveform),
        _load_vad(),
        sampling_rate=SAMPLING_RATE,
        min_speech_duration_ms=min(250, 1000 * min_seconds),
        max_speech_duration_s=MAX_SECONDS,
        min_silence_duration_ms=round(1000 * MIN_PAUSE),
    )
    return [(stretch["start"], stretch["end"]) for stretch in stretches]


@cache
def _load_vad():
    import torch

    num_threads = torch.get_num_threads()
    # The import sets one thread for the whole process.
    from silero_vad import load_silero_vad

    torch.set_num_threads(num_threads)
    return load_silero_vad()


def denoise(waveform: np.ndarray) -> Iterator[np.ndarray]:
    """
    A waveform of shape (samples,) at 16 kHz with non-stationary noise reduction, in blocks: what noisereduce gives for
    the whole, without its copies of the whole.
    """
    from noisereduce import reduce_noise

    # noisereduce fills the last of several blocks up with zeros.
    length = min(DENOISING_BLOCK, len(waveform))
    for start in range(0, len(waveform), DENOISING_BLOCK):
        block = np.zeros(length + 2 * DENOISING_CONTEXT, np.float32)
        first = max(0, start - DENOISING_CONTEXT)
        part = waveform[first : start + length + DENOISING_CONTEXT]
        offset = first - start + DENOISING_CONTEXT
        block[offset : offset + len(part)] = part
        with np.errstate(divide="ignore", invalid="ignore"):
            reduced = reduce_noise(block, SAMPLING_RATE, chunk_size=None, padding=0)
        # Without any noise, as in digital silence, it divides by zero.
        block = reduced if np.isfinite(reduced).all() else block
        yield block[DENOISING_CONTEXT : DENOISING_CONTEXT + min(length, len(waveform) - start)]


def clip_stem(name: str) -> str:
    """
    What the clips of a file are called, before their number: its name with "_" for the dot of the extension.

    No two files share it. In names that are long or hold characters that not every file system or glob takes, those
    are replaced and a hash is added.
    """
    stem, dot, extension = name.rpartition(".")
    plain = f"{stem}_{extension}" if dot and stem else name
    clean = "".join(c if c.isprintable() and c not in '*?[]{}<>|:"\\/' else "_" for c in to_text(plain))
    if clean == plain and len(clean.encode()) <= MAX_NAME:
        return clean
    short = clean.encode()[:MAX_NAME].decode("utf-8", "ignore")
    return f"{short}_{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def write_clip(file: BinaryIO, waveform: np.ndarray, cleaned: np.ndarray, gain: float) -> dict[str, Any]:
    """
    Write a clip as WAV and measure it, block by block.

    WAV, as in the original project: its bytes depend on the samples alone, not on the version of an encoder.

    Args:
        file: A file opened for writing.
        waveform: float32 of shape (samples,) before noise reduction, which SNR and clipping are measured on.
        cleaned: The samples to write.
        gain: What they are multiplied with.

    Returns:
        Columns of the manifest. The hash is that of the samples as `sanet train` reads them, float32.
    """
    power, peak, num_clipped, digest = 0.0, 0.0, 0, hashlib.sha256()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, SAMPLING_RATE, len(cleaned), "NONE", None))
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
        "snr": estimate_snr(waveform),
        "hash": digest.hexdigest(),
    }


def estimate_snr(waveform: np.ndarray) -> float | None:
    """
    Signal-to-noise ratio in dB of a waveform of shape (samples,) at 16 kHz: noise is the power that nine tenths of its
    frames of 20 ms exceed, signal what the mean is above that. `None` for less than ten frames.
    """
    length = SAMPLING_RATE // 50
    frames = waveform[: len(waveform) // length * length].reshape(-1, length)
    if len(frames) < 10:
        return None
    powers = np.einsum("ft,ft->f", frames, frames) / length
    noise = max(float(np.quantile(powers, 0.1)), 1e-10)
    signal = max(float(powers.mean()) - noise, 1e-10)
    return float(np.clip(10 * math.log10(signal / noise), *SNR_RANGE))


def largest_amplitude(waveform: np.ndarray) -> float:
    """Of a waveform of shape (samples,), without a copy of it."""
    return max(float(waveform.max()), -float(waveform.min()))


def is_silent(waveform: np.ndarray) -> bool:
    """Whether a waveform of shape (samples,) stays below -80 dB of full scale."""
    return largest_amplitude(waveform) < SILENCE
