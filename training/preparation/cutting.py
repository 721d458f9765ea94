# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Where to cut a recording: equal parts, and stretches of speech; and the names of its clips."""

import hashlib
import itertools
import os
from functools import cache

import numpy as np

from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.utils.files import to_text


# Pauses within a sentence are shorter.
MIN_PAUSE = 0.3  # seconds
MAX_SECONDS = 86_400  # more than 37 hours do not fit into a WAV file

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
        sampling_rate=DEFAULT_SAMPLING_RATE,
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
