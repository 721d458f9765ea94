# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Cut a recording into equal parts and speech segments, and name its clips."""

import hashlib
import itertools
import os
from functools import cache

import numpy as np

from sanet_hf.audio.decode import resample_waveform
from sanet_hf.utils.files import to_text


# Pauses within a sentence are shorter.
MIN_PAUSE = 0.3  # seconds
MAX_SECONDS = 86_400
MAX_WAV_BYTES = 2**32 - 100
SPEECH_RATES = (8000, 16_000)  # Hz, supported by silero-vad

MAX_NAME = 180  # largest part of the source's name in a clip's name, in bytes; file systems allow 255 in total


def cut_evenly(length: int, max_length: int) -> list[tuple[int, int]]:
    """
    Divide `length` samples into as few parts as possible, none longer than `max_length`. Return their starts and ends.

    The parts have equal lengths, to within one sample, so that there is no short rest. If the recording is longer than
    `max_length`, each part has at least half of it.
    """
    count = -(-length // max_length)
    edges = [index * length // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def longest_clip(sampling_rate: int) -> int:
    """Return the longest clip in seconds that fits into a 16-bit WAV file, at most a day."""
    return min(MAX_SECONDS, MAX_WAV_BYTES // (2 * sampling_rate))


def find_speech(waveform: np.ndarray, sampling_rate: int, min_seconds: float = 0.0) -> list[tuple[int, int]]:
    """
    Return the starts and ends, in samples, of the speech segments in a waveform of shape (samples,).

    Segments shorter than `min_seconds` are included, down to 0.25 s.
    """
    import torch
    from silero_vad import get_speech_timestamps

    rate, length = sampling_rate, len(waveform)
    if rate not in SPEECH_RATES:
        rate = SPEECH_RATES[-1]
        waveform = resample_waveform(waveform, sampling_rate, rate)
    stretches = get_speech_timestamps(
        torch.from_numpy(waveform),
        _load_vad(),
        sampling_rate=rate,
        min_speech_duration_ms=min(250, 1000 * min_seconds),
        max_speech_duration_s=MAX_SECONDS,
        min_silence_duration_ms=round(1000 * MIN_PAUSE),
    )
    edges = [(stretch["start"], stretch["end"]) for stretch in stretches]
    return [tuple(min(edge * sampling_rate // rate, length) for edge in pair) for pair in edges]


@cache
def _load_vad():
    import torch

    num_threads = torch.get_num_threads()
    # The import limits the whole process to one thread.
    from silero_vad import load_silero_vad

    torch.set_num_threads(num_threads)
    return load_silero_vad()


def clip_stem(name: str) -> str:
    """
    Return the first part of the names of a file's clips: its name, with "_" for the dot of the extension.

    It is unique for each file. Long names are shortened, characters that some file systems or globs do not support are
    replaced, and a hash is then added.
    """
    stem, dot, extension = name.rpartition(".")
    plain = f"{stem}_{extension}" if dot and stem else name
    clean = "".join(c if c.isprintable() and c not in '*?[]{}<>|:"\\/' else "_" for c in to_text(plain))
    if clean == plain and len(clean.encode()) <= MAX_NAME:
        return clean
    short = clean.encode()[:MAX_NAME].decode("utf-8", "ignore")
    return f"{short}_{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
