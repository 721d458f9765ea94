# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings of any format and length: the files in a folder, and their waveforms in bounded memory."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sanet_hf.audio import (
    LOWPASS_FILTER_WIDTH,
    MAX_RESAMPLING_KERNEL,
    MAX_SAMPLING_RATE,
    MIN_SAMPLING_RATE,
    ROLLOFF,
    AudioError,
    check_file,
    open_with_ffmpeg,
)

from .sources import AUDIO_SUFFIXES, DataError, find_split_folders, visible_folders


# What else FFmpeg reads and people have.
SUFFIXES = AUDIO_SUFFIXES | {".m4a", ".m4b", ".aac", ".oga", ".aif", ".aifc", ".mka", ".mp2", ".amr", ".ac3", ".wv"}
# Samples of all channels that are decoded at once. torchcodec's blocks are larger, 12 minutes of stereo at 44.1 kHz:
# for each it decodes all that comes before once more, and where they meet it loses or doubles up to a millisecond of
# formats that keep time in milliseconds.
SOUNDFILE_BLOCK = 2**22
FFMPEG_BLOCK = 2**26
# Samples that are resampled at once.
RESAMPLING_BLOCK = 2**20
# Waveforms of more bytes, 17 minutes at 16 kHz, lie in a temporary file instead of in memory.
MAX_BYTES_IN_MEMORY = 2**26
# A mixdown with less than this part of the power that unrelated channels would leave cancels itself.
CANCELLATION = 0.1


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


class _Blocks(NamedTuple):
    """An opened file: its sampling rate in Hz, and a function that gives blocks of shape (samples, channels)."""

    sampling_rate: int
    num_channels: int
    read: Callable[[], Iterator[np.ndarray]]


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
        files += [SourceFile(path, split, "", "lies in no class folder") for path in _loose_recordings(parent)]
        for class_folder in visible_folders(parent):
            files += _files_of_class(class_folder, split)
    if split_folders:
        files += [SourceFile(path, "", "", "lies in no split folder") for path in _loose_recordings(folder)]
        others = [path for path in visible_folders(folder) if path not in split_folders]
        files += [SourceFile(path, "", "", "a folder beside those of the splits") for path in others]
    if not any(file.label for file in files):
        raise DataError(f"{folder} holds no class folders with files: put each class's recordings in {folder}/CLASS/.")
    return files


def _files_of_class(folder: Path, split: str) -> Iterator[SourceFile]:
    label = to_text(folder.name)
    try:
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except OSError as error:
        yield SourceFile(folder, split, label, f"a class folder that cannot be read: {error.strerror}")
        return
    if not entries:
        yield SourceFile(folder, split, label, "an empty class folder")
    for path in entries:
        error = None
        if path.is_dir():
            deeper = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES]
            for file in deeper:
                yield SourceFile(file, split, label, "lies deeper than its class folder")
            if deeper:
                continue
            error = "a folder, not a file"
        elif path.suffix.lower() not in SUFFIXES:
            error = f"no recording by its name ({to_text(path.suffix) or 'no extension'})"
        yield SourceFile(path, split, label, error)


def _loose_recordings(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir() and path.name[0] != "."]


def to_text(name: str) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 become `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_recording(path: Path, sampling_rate: int = 16000, temporary_folder: Path | None = None) -> Recording:
    """
    Read a file as a mono waveform, block by block: memory does not grow with its length.

    The formats are those of [`load_audio`]. Channels are averaged, or, where that cancels them, as with one channel
    the other upside down, the loudest is taken and `warning` says so. Other sampling rates are resampled with
    torchaudio's windowed sinc interpolation, or with soxr where the ratio of the rates is of large numbers.

    Args:
        path: Audio file.
        sampling_rate: Sampling rate of the waveform in Hz.
        temporary_folder: Where long waveforms lie, in a file without a name that goes with the array.

    Raises:
        AudioError: There is no such file, it is not audio, it is damaged, it holds no samples, or NaN or Inf,
            or its sampling rate is beyond any recording's.
        OSError: The disk is full.
    """
    name = to_text(str(path))
    check_file(path, name)
    try:
        recording = _read(_open_with_soundfile(path), name, sampling_rate, temporary_folder)
    except (soundfile.LibsndfileError, TypeError) as error:
        # A TypeError is what soundfile has for files called *.raw.
        reason = getattr(error, "error_string", str(error))
    else:
        # Of an Ogg file without its end soundfile reads nothing.
        if len(recording.waveform):
            return recording
        reason = "no samples"
    recording = _read(_open_with_ffmpeg(path, name, reason), name, sampling_rate, temporary_folder)
    if not len(recording.waveform):
        raise AudioError(f"{name}: the file holds no samples.")
    return recording


def _read(file: _Blocks, name: str, sampling_rate: int, temporary_folder: Path | None) -> Recording:
    if not MIN_SAMPLING_RATE <= file.sampling_rate <= MAX_SAMPLING_RATE:
        raise AudioError(f"{name}: a sampling rate of {file.sampling_rate} Hz, which no recording has.")
    powers = np.zeros(file.num_channels + 1)

    def mix(channel: int | None = None) -> Iterator[np.ndarray]:
        for block in file.read():
            with np.errstate(over="ignore", invalid="ignore"):
                mono = block.mean(axis=1) if channel is None else block[:, channel]
                powers[:-1] += np.square(block, dtype=np.float64).sum(axis=0)
                powers[-1] += np.square(mono, dtype=np.float64).sum()
            if not np.isfinite(mono).all():
                raise AudioError(f"{name}: the file holds NaN or Inf.")
            yield mono

    method = _resampling_method(file.sampling_rate, sampling_rate)
    resample = {"none": lambda blocks, *_: blocks, "soxr HQ": _resample_with_soxr}.get(method, resample_blocks)
    waveform = store(resample(mix(), file.sampling_rate, sampling_rate), temporary_folder)
    warning = ""
    if powers[-1] < CANCELLATION * powers[:-1].sum() / file.num_channels**2:
        channel = int(powers[:-1].argmax())
        warning = f"the mixdown of {file.num_channels} channels cancels itself: channel {channel + 1} was taken"
        waveform = store(resample(mix(channel), file.sampling_rate, sampling_rate), temporary_folder)
    return Recording(waveform, file.sampling_rate, file.num_channels, method, warning)


def _open_with_soundfile(path: Path) -> _Blocks:
    # soundfile encodes a name itself, but not one that is no UTF-8.
    name = os.fsencode(path) if os.name == "posix" else str(path)

    def read() -> Iterator[np.ndarray]:
        with soundfile.SoundFile(name) as file:
            length = max(1, SOUNDFILE_BLOCK // file.channels)
            while len(block := file.read(length, dtype="float32", always_2d=True)):
                yield block

    with soundfile.SoundFile(name) as file:
        return _Blocks(file.samplerate, file.channels, read)


def _open_with_ffmpeg(path: Path, name: str, reason: str) -> _Blocks:
    unreadable = f"{name}: neither soundfile nor FFmpeg can read it as audio ({reason})"

    def read() -> Iterator[np.ndarray]:
        seconds = max(1, FFMPEG_BLOCK // (metadata.sample_rate * metadata.num_channels))
        decoder, start = open_with_ffmpeg(path, name, reason), metadata.begin_stream_seconds or 0.0
        while True:
            try:
                block = decoder.get_samples_played_in_range(start, start + seconds).data.numpy().T
            except (RuntimeError, ValueError) as error:
                # There is no other sign of the end.
                if "No audio frames were decoded" in str(error):
                    return
                raise AudioError(unreadable) from error
            length = max(1, SOUNDFILE_BLOCK // metadata.num_channels)
            yield from (block[first : first + length] for first in range(0, len(block), length))
            start += seconds

    metadata = open_with_ffmpeg(path, name, reason).metadata
    if not metadata.sample_rate or not metadata.num_channels:
        raise AudioError(unreadable)
    return _Blocks(metadata.sample_rate, metadata.num_channels, read)


def _resampling_method(original_rate: int, sampling_rate: int) -> str:
    if original_rate == sampling_rate:
        return "none"
    common = math.gcd(original_rate, sampling_rate)
    is_simple = (original_rate // common) * (sampling_rate // common) <= MAX_RESAMPLING_KERNEL
    return "torchaudio sinc_interp_hann" if is_simple else "soxr HQ"


def resample_blocks(
    blocks: Iterable[np.ndarray], original_rate: int, sampling_rate: int, block_length: int = RESAMPLING_BLOCK
) -> Iterator[np.ndarray]:
    """
    What `torchaudio.functional.resample` makes of a waveform that comes in blocks of any length.

    ```
    waveform   |·······context|····block····|context·······|
    resampled                 |····kept·····|
    ```

    Args:
        blocks: float32 arrays of shape (samples,).
        original_rate, sampling_rate: Sampling rates of the waveform and of the result in Hz.
        block_length: Samples that are resampled at once, about.
    """
    import torch
    from torchaudio.functional import resample

    common = math.gcd(original_rate, sampling_rate)
    old, new = original_rate // common, sampling_rate // common
    width = math.ceil(LOWPASS_FILTER_WIDTH * old / (min(old, new) * ROLLOFF)) + old
    # Whole multiples of `old`, where samples before and after resampling fall together.
    context, step = old * math.ceil(width / old), old * math.ceil(block_length / old)

    def convert(waveform: np.ndarray) -> np.ndarray:
        return resample(
            torch.from_numpy(waveform), old, new, lowpass_filter_width=LOWPASS_FILTER_WIDTH, rolloff=ROLLOFF
        ).numpy()

    buffer = np.zeros(context, np.float32)
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= step + 2 * context:
            kept = slice(context // old * new, (context + step) // old * new)
            yield convert(buffer[: step + 2 * context])[kept]
            buffer = buffer[step:]
    if len(buffer) > context:
        yield convert(buffer)[context // old * new :]


def _resample_with_soxr(blocks: Iterable[np.ndarray], original_rate: int, sampling_rate: int) -> Iterator[np.ndarray]:
    import soxr

    stream = soxr.ResampleStream(original_rate, sampling_rate, num_channels=1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


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
