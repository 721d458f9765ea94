# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings of any format and length: the files in a folder, and their waveforms in bounded memory."""

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sanet_hf.audio.decode import open_recording
from sanet_hf.audio.folders import find_split_folders, list_audio_files, visible_entries, visible_folders
from sanet_hf.audio.formats import is_audio_file
from sanet_hf.errors import DataError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.utils.files import to_text


METADATA = "metadata.csv"  # the list of a split's clips, which lies beside its class folders
MAX_NAME = 255  # bytes, of file systems
# Waveforms of more bytes, 17 minutes at 16 kHz, lie in a temporary file instead of in memory.
MAX_BYTES_IN_MEMORY = 2**26


class SourceFile(NamedTuple):
    """A file in a folder of recordings, and why it is not to be read, if so."""

    path: Path
    split: str  # train, validation or test; "unsplit" where the folder has no splits
    label: str
    error: str | None = None

    @property
    def key(self) -> str:
        """Class and file name, which group patterns are matched with."""
        return f"{self.label}/{to_text(self.path.name)}"


class Recording(NamedTuple):
    """A recording's waveform, float32 of shape (samples,), and where it came from."""

    waveform: np.ndarray
    original_rate: int  # Hz
    num_channels: int
    resampling: str
    warning: str


def list_files(folder: Path) -> list[SourceFile]:
    """
    All files in class folders, with split folders above them or without, in the order of their names.

    What is not to be read is listed with the reason: files deeper than a class folder or outside of one, and what is
    no recording by its name. Hidden files are not listed.

    Raises:
        DataError: There is no such folder, it holds no class folders, or several folders for one split.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    split_folders = find_split_folders(folder)
    files = []
    for parent, split in (split_folders or {folder: "unsplit"}).items():
        files += [SourceFile(path, split, "", "lies in no class folder") for path in list_audio_files(parent)]
        for class_folder in visible_folders(parent):
            files += _files_of_class(class_folder, split)
    if split_folders:
        files += [SourceFile(path, "", "", "lies in no split folder") for path in list_audio_files(folder)]
        others = [path for path in visible_folders(folder) if path not in split_folders]
        files += [SourceFile(path, "", "", "a folder beside those of the splits") for path in others]
    if not any(file.label for file in files):
        raise DataError(f"{folder} holds no class folders with files: put each class's recordings in {folder}/CLASS/.")
    texts = set()
    for index, file in enumerate(files):
        text = to_text(str(file.path))
        if text in texts:
            files[index] = file._replace(error="written as text, its name is another file's")
        texts.add(text)
    return files


def _files_of_class(folder: Path, split: str) -> Iterator[SourceFile]:
    label = to_text(folder.name)
    reason = None
    if label == METADATA:
        reason = f"a class folder called {METADATA}, as the list of clips is"
    elif len(label.encode()) > MAX_NAME:
        reason = "a class folder with too long a name"
    if reason is not None:
        yield SourceFile(folder, split, "", reason)
        return
    try:
        entries = visible_entries(folder)
    except OSError as error:
        yield SourceFile(folder, split, label, f"a class folder that cannot be read: {error.strerror}")
        return
    if not entries:
        yield SourceFile(folder, split, label, "an empty class folder")
    for path in entries:
        error = None
        if path.is_dir():
            deeper = [file for file in list_audio_files(folder, is_deep=True) if path in file.parents]
            for file in deeper:
                yield SourceFile(file, split, label, "lies deeper than its class folder")
            if deeper:
                continue
            error = "a folder, not a file"
        elif not is_audio_file(path.name):
            error = f"no recording by its name ({to_text(path.suffix) or 'no extension'})"
        yield SourceFile(path, split, label, error)


def read_recording(
    path: Path, sampling_rate: int = DEFAULT_SAMPLING_RATE, temporary_folder: Path | None = None
) -> Recording:
    """
    Read a file as a mono waveform, block by block: memory does not grow with its length.

    The waveform is that of [`stream_audio`]; where it is one channel instead of the mean of all, `warning` says so.

    Args:
        path: Audio file.
        sampling_rate: Sampling rate of the waveform in Hz.
        temporary_folder: Where long waveforms lie, in a file without a name that goes with the array.

    Raises:
        AudioError: As in [`stream_audio`].
        OSError: The disk is full.
    """
    opened = open_recording(path, sampling_rate, to_text(str(path)), warns=False)
    warning = ""
    if opened.channel is not None:
        warning = (
            f"the mixdown of {opened.num_channels} channels cancels itself: channel {opened.channel + 1} was taken"
        )
    waveform = store(opened.blocks, temporary_folder)
    resampling = "none" if opened.original_rate == sampling_rate else "torchaudio sinc_interp_hann"
    return Recording(waveform, opened.original_rate, opened.num_channels, resampling, warning)


def store(blocks: Iterable[np.ndarray], temporary_folder: Path | None) -> np.ndarray:
    """
    Blocks one after the other as one float32 array of shape (samples,): in memory, or from 64 MiB mapped from a
    temporary file that goes with it.

    Raises:
        OSError: The disk is full.
    """
    with tempfile.SpooledTemporaryFile(MAX_BYTES_IN_MEMORY, dir=temporary_folder) as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.float32).data)
        size = file.tell()
        if size <= MAX_BYTES_IN_MEMORY:
            file.seek(0)
            return np.frombuffer(bytearray(file.read()), np.float32)
        file.flush()
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), np.float32)
