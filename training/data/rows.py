# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Read the waveforms of dataset rows: parts of local or remote files, or of bytes."""

import os
import re
from collections.abc import Mapping

import fsspec
import numpy as np

from sanet_hf.audio.decode import OpenedRecording, load_audio, open_recording
from sanet_hf.errors import AudioError


# Annotations may be rounded, so that a clip may end this much after its file.
END_TOLERANCE_SECONDS = 0.1


def recording_bounds(row: Mapping, sampling_rate: int) -> tuple[int, int | None]:
    """
    Return the first sample of a row's clip in its file and the number of samples (`None`: up to the end of the file).

    Args:
        row: Row of [`read_source`], with `start` and `end` in seconds if it is a part of its file.
        sampling_rate: In Hz; samples are counted at this rate.

    Raises:
        AudioError: Not 0 ≤ start < end. Only the rows of streams were not checked before.
    """
    start, end = row.get("start") or 0.0, row.get("end")
    if not 0 <= start < (np.inf if end is None else end):
        raise AudioError(f"{row['file']}: invalid clip from {start:g} s to {end} s.")
    first = round(start * sampling_rate)
    return first, None if end is None else round(end * sampling_rate) - first


def check_end(row: Mapping, sampling_rate: int, num_samples: int) -> None:
    """
    Check that a file is long enough for a row's `end`.

    Args:
        row, sampling_rate: As in [`recording_bounds`].
        num_samples: Number of samples that were read for the row.

    Raises:
        AudioError: The file is shorter, by more than the rounding of annotations.
    """
    first, length = recording_bounds(row, sampling_rate)
    if length is not None and num_samples < length - END_TOLERANCE_SECONDS * sampling_rate:
        seconds = (first + num_samples) / sampling_rate
        raise AudioError(f"{row['file']}: the file ends earlier, after {seconds:.2f} s.")


def is_url(path: str) -> bool:
    """Return whether a path is a URL for fsspec, such as `hf://datasets/...` or `file:///...`, not a local file."""
    return re.match(r"[A-Za-z][\w+.-]*://", path) is not None and not os.path.exists(path)


def load_recording(row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None) -> np.ndarray:
    """
    Return the waveform of a row with the columns `audio` and `file`, or a part of it, from a local file, a file on the
    Hub, or bytes in the dataset; see [`load_audio`]. Samples are counted from the row's `start`, and end at its `end`.
    """
    source, first, count = find_stretch(row, sampling_rate, start, length)
    return load_audio(source, sampling_rate, row["file"], first, count)


def open_row(row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None) -> OpenedRecording:
    """Open a recording to read it block by block; see [`load_recording`]."""
    source, first, count = find_stretch(row, sampling_rate, start, length)
    return open_recording(source, sampling_rate, row["file"], first, count)


def find_stretch(
    row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None
) -> tuple[str | bytes, int, int | None]:
    """
    Locate a part of a row. Return the path or content of its file, and the first sample and number of samples in it.

    Raises:
        AudioError: There is no audio, it cannot be downloaded, or the row's `start` and `end` are invalid.
    """
    first, most = recording_bounds(row, sampling_rate)
    if most is not None:
        length = max(0, most - start if length is None else min(length, most - start))
    audio = row["audio"] or {"bytes": None, "path": None}
    if audio["bytes"] is None and audio["path"] is None:
        raise AudioError(f"{row['file']}: the audio is missing.")
    source = audio["path"] if audio["bytes"] is None else audio["bytes"]
    if isinstance(source, str) and is_url(source):
        try:
            with fsspec.open(source, "rb") as file:
                source = file.read()
        except Exception as error:  # Each protocol has its own errors.
            raise AudioError(f"{row['file']}: {source} cannot be read ({error}).") from error
    return source, first + start, length
