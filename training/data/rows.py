# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset to waveforms: parts of files here or elsewhere, or of bytes."""

import os
import re
from collections.abc import Mapping

import fsspec
import numpy as np

from sanet_hf.audio.decode import OpenedRecording, load_audio, open_recording
from sanet_hf.errors import AudioError


# Annotations may be rounded: a clip can end this much after its file.
END_TOLERANCE_SECONDS = 0.1


def recording_bounds(row: Mapping, sampling_rate: int) -> tuple[int, int | None]:
    """
    The first sample of a row's clip in its file, and the number of samples, `None` for all up to the end of the file.

    Args:
        row: Of [`read_source`]; `start` and `end` in seconds where the row is a part of its file.
        sampling_rate: At which samples are counted, in Hz.

    Raises:
        AudioError: Not 0 ≤ start < end, which only a stream has not been checked for.
    """
    start, end = row.get("start") or 0.0, row.get("end")
    if not 0 <= start < (np.inf if end is None else end):
        raise AudioError(f"{row['file']}: a clip cannot start at {start:g} s and end at {end} s.")
    first = round(start * sampling_rate)
    return first, None if end is None else round(end * sampling_rate) - first


def check_end(row: Mapping, sampling_rate: int, num_samples: int) -> None:
    """
    Check that a file is long enough for a row's `end`.

    Args:
        row, sampling_rate: As in [`recording_bounds`].
        num_samples: Number of samples that reading the row gave.

    Raises:
        AudioError: The file ends before, by more than annotations are rounded by.
    """
    first, length = recording_bounds(row, sampling_rate)
    if length is not None and num_samples < length - END_TOLERANCE_SECONDS * sampling_rate:
        seconds = (first + num_samples) / sampling_rate
        raise AudioError(f"{row['file']}: the file ends before, after {seconds:.2f} s.")


def is_url(path: str) -> bool:
    """Whether a path names what fsspec reads, such as `hf://datasets/...` or `file:///...`, and is no file here."""
    return re.match(r"[A-Za-z][\w+.-]*://", path) is not None and not os.path.exists(path)


def load_recording(row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None) -> np.ndarray:
    """
    The waveform of a row with the columns `audio` and `file`, or a stretch of it, from a file here or on the Hub, or
    from bytes in the data set; see [`load_audio`]. Samples are counted from the row's `start`, if it has one, and end
    at its `end`.
    """
    source, first, count = find_stretch(row, sampling_rate, start, length)
    return load_audio(source, sampling_rate, row["file"], first, count)


def open_row(row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None) -> OpenedRecording:
    """Open what [`load_recording`] reads, to be read block by block."""
    source, first, count = find_stretch(row, sampling_rate, start, length)
    return open_recording(source, sampling_rate, row["file"], first, count)


def find_stretch(
    row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None
) -> tuple[str | bytes, int, int | None]:
    """
    Where a stretch of a row is: the path or content of its file, and the stretch's first sample and number of samples
    in that.

    Raises:
        AudioError: There is no audio, it cannot be downloaded, or the row's `start` and `end` cannot be right.
    """
    first, most = recording_bounds(row, sampling_rate)
    if most is not None:
        length = max(0, most - start if length is None else min(length, most - start))
    audio = row["audio"] or {"bytes": None, "path": None}
    if audio["bytes"] is None and audio["path"] is None:
        raise AudioError(f"{row['file']}: there is no audio.")
    source = audio["path"] if audio["bytes"] is None else audio["bytes"]
    if isinstance(source, str) and is_url(source):
        try:
            with fsspec.open(source, "rb") as file:
                source = file.read()
        except Exception as error:  # Each protocol has its own.
            raise AudioError(f"{row['file']}: cannot be read from {source} ({error}).") from error
    return source, first + start, length
