# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Waveforms of a data set's rows: from files, from bytes, from the Hub."""

from collections.abc import Mapping

import fsspec
import numpy as np

from sanet_hf.audio.decode import load_audio


def load_recording(row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None) -> np.ndarray:
    """
    The waveform of a row with the columns `audio` and `file`, or a stretch of it, from a file or from bytes in the
    data set; see [`load_audio`].
    """
    audio = row["audio"]
    if audio["bytes"] is not None:
        return load_audio(audio["bytes"], sampling_rate, row["file"], start, length)
    return load_audio(audio["path"], sampling_rate, start=start, length=length)


def load_streamed(audio: Mapping, sampling_rate: int, name: str) -> np.ndarray:
    """The waveform of streamed audio: bytes, or a file here or on the Hub."""
    if audio["bytes"] is not None:
        return load_audio(audio["bytes"], sampling_rate, name)
    with fsspec.open(audio["path"], "rb") as file:
        return load_audio(file.read(), sampling_rate, name)
