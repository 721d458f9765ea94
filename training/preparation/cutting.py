# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Where to cut a recording: equal parts, and stretches of speech; and the names of its clips."""

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
SPEECH_RATES = (8000, 16_000)  # Hz, which silero-vad takes

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


def longest_clip(sampling_rate: int) -> int:
    """Seconds that fit into a WAV file of 16 bits, and a day at most."""
    return min(MAX_SECONDS, MAX_WAV_BYTES // (2 * sampling_rate))


def find_speech(waveform: np.ndarray, sampling_rate: int, min_seconds: float = 0.0) -> list[tuple[int, int]]:
    """
    Starts and ends in samples of the stretches of speech in a waveform of shape (samples,).

    Also those that are shorter than `min_seconds`, down to a quarter of a second.
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
    # The import sets one thread for the whole process.
    from silero_vad import load_silero_vad

    torch.set_num_threads(num_threads)
    return load_silero_vad()


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
