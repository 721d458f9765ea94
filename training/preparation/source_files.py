# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""List the recordings in a folder, and read their waveforms, of any format and length, in bounded memory."""

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


METADATA = "metadata.csv"  # the list of a split's clips, next to its class folders
MAX_NAME = 255  # bytes, limit of file systems
# Larger waveforms in bytes (17 minutes at 16 kHz) are stored in a temporary file instead of memory.
MAX_BYTES_IN_MEMORY = 2**26


class SourceFile(NamedTuple):
    """A file in a folder of recordings, and the reason if it is not read."""

    path: Path
    split: str  # train, validation or test; "unsplit" if the folder has no splits
    label: str
    error: str | None = None

    @property
    def key(self) -> str:
        """Return class and file name, in which group patterns are searched."""
        return f"{self.label}/{to_text(self.path.name)}"


class Recording(NamedTuple):
    """A recording's waveform, float32 of shape (samples,), and facts about its file."""

    waveform: np.ndarray
    original_rate: int  # Hz
    num_channels: int
    resampling: str
    warning: str


def list_files(folder: Path) -> list[SourceFile]:
    """
    List all files in class folders, with or without split folders above them, in the order of their names.

    Files that are not read are listed with the reason: files in subfolders of class folders or outside of class
    folders, and files whose suffix is not an audio format. Hidden files are not listed.

    Raises:
        DataError: The folder is missing, or contains no class folders, or several folders for one split.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: folder not found.")
    split_folders = find_split_folders(folder)
    files = []
    for parent, split in (split_folders or {folder: "unsplit"}).items():
        files += [SourceFile(path, split, "", "outside of class folders") for path in list_audio_files(parent)]
        for class_folder in visible_folders(parent):
            files += _files_of_class(class_folder, split)
    if split_folders:
        files += [SourceFile(path, "", "", "outside of split folders") for path in list_audio_files(folder)]
        others = [path for path in visible_folders(folder) if path not in split_folders]
        files += [SourceFile(path, "", "", "not a split folder") for path in others]
    if not any(file.label for file in files):
        raise DataError(
            f"{folder} contains no class folders with files. Put the recordings of each class in {folder}/CLASS/."
        )
    texts = set()
    for index, file in enumerate(files):
        text = to_text(str(file.path))
        if text in texts:
            files[index] = file._replace(error="its name as text is the same as that of another file")
        texts.add(text)
    return files


def _files_of_class(folder: Path, split: str) -> Iterator[SourceFile]:
    label = to_text(folder.name)
    reason = None
    if label == METADATA:
        reason = f"a class folder named {METADATA}, like the list of clips"
    elif len(label.encode()) > MAX_NAME:
        reason = "a class folder whose name is too long"
    if reason is not None:
        yield SourceFile(folder, split, "", reason)
        return
    try:
        entries = visible_entries(folder)
    except OSError as error:
        yield SourceFile(folder, split, label, f"an unreadable class folder: {error.strerror}")
        return
    if not entries:
        yield SourceFile(folder, split, label, "an empty class folder")
    for path in entries:
        error = None
        if path.is_dir():
            deeper = [file for file in list_audio_files(folder, is_deep=True) if path in file.parents]
            for file in deeper:
                yield SourceFile(file, split, label, "in a subfolder of its class folder")
            if deeper:
                continue
            error = "a folder, not a file"
        elif not is_audio_file(path.name):
            error = f"its suffix is not an audio format ({to_text(path.suffix) or 'no suffix'})"
        yield SourceFile(path, split, label, error)


def read_recording(
    path: Path, sampling_rate: int = DEFAULT_SAMPLING_RATE, temporary_folder: Path | None = None
) -> Recording:
    """
    Read a file as a mono waveform, block by block, so that memory does not grow with its length.

    The waveform is that of [`stream_audio`]. If it is one channel instead of the mean of all, `warning` says so.

    Args:
        path: Audio file.
        sampling_rate: Sampling rate of the waveform in Hz.
        temporary_folder: Folder for long waveforms, in an unnamed file that is deleted with the array.

    Raises:
        AudioError: As in [`stream_audio`].
        OSError: The disk is full.
    """
    opened = open_recording(path, sampling_rate, to_text(str(path)), warns=False)
    warning = ""
    if opened.channel is not None:
        warning = f"the mean of {opened.num_channels} channels cancels out, so channel {opened.channel + 1} was used"
    waveform = store(opened.blocks, temporary_folder)
    resampling = "none" if opened.original_rate == sampling_rate else "torchaudio sinc_interp_hann"
    return Recording(waveform, opened.original_rate, opened.num_channels, resampling, warning)


def store(blocks: Iterable[np.ndarray], temporary_folder: Path | None) -> np.ndarray:
    """
    Concatenate blocks into one float32 array of shape (samples,), in memory. From 64 MiB on, the array is mapped from
    a temporary file that is deleted with it.

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
