# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Read audio files as waveforms: whole files, parts of files, and streams."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers.utils import logging

from sanet_hf.audio.decoders import AudioFile, DecodingError, open_audio
from sanet_hf.audio.formats import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE
from sanet_hf.audio.levels import SILENCE
from sanet_hf.audio.resampling import blocks_around, make_grid, resample_blocks
from sanet_hf.errors import AudioError


logger = logging.get_logger(__name__)


# Channels cancel each other if the power of their mean is below this fraction of the power for unrelated channels. An
# inverted microphone is a cause. Codecs such as Vorbis leave up to a fifth of that power.
CANCELLATION = 0.25
# Seconds with sound that are examined for cancellation. The result holds for the whole file.
SECONDS_OF_SOUND = 10
# Per file, the channel that replaces the mean (or None); and the files for which a warning was given.
_channels: dict[tuple, int | None] = {}
_warned: set[tuple] = set()
MAX_REMEMBERED = 2**16


class OpenedRecording(NamedTuple):
    """A recording with an iterator over its mono waveform, in float32 `blocks` of shape (samples,), decoded lazily."""

    original_rate: int  # Hz
    num_channels: int
    channel: int | None  # replaces the mean of all channels, since they cancel each other
    is_seekable: bool  # whether a part is decoded without the samples before it
    blocks: Iterator[np.ndarray]


def load_audio(
    source: str | Path | bytes, sampling_rate: int, name: str | None = None, start: int = 0, length: int | None = None
) -> np.ndarray:
    """
    Read a file, or a part of it, as a mono waveform.

    Args:
        source: Audio file, or its content.
        sampling_rate: Sampling rate of the waveform in Hz.
        name: Name in errors (default: the path).
        start: First sample of the part, at `sampling_rate`.
        length: Samples of the part, at `sampling_rate` (default: up to the end). There are fewer if the file ends
            earlier.

    Returns:
        float32 array of shape (samples,), full scale at 1.

    Raises:
        AudioError: As in [`stream_audio`], or the waveform does not fit into memory.
    """
    try:
        blocks = list(stream_audio(source, sampling_rate, name, start, length))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except (MemoryError, RuntimeError) as error:
        # PyTorch raises a RuntimeError when memory is full.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise AudioError(
            f"{_name(source, name)}: too long for the available memory. Read parts of it (start, length)."
        ) from error


def stream_audio(
    source: str | Path | bytes, sampling_rate: int, name: str | None = None, start: int = 0, length: int | None = None
) -> Iterator[np.ndarray]:
    """
    Yield a file, or a part of it, as a mono waveform in blocks that are decoded lazily.

    soundfile reads WAV, FLAC, MP3, Ogg and others; the ffmpeg program reads the rest. The length in the header is
    ignored: the file is decoded to its end. A part of uncompressed audio or FLAC is read alone. Other formats are
    decoded from the start of the file, since their frames depend on earlier ones.

    The waveform is the mean of the channels. If they cancel each other in the first ten seconds with sound, for
    example because one channel is inverted, it is the loudest channel, and a warning names the file. Other sampling
    rates are resampled with torchaudio's windowed sinc interpolation.

    Args:
        source, sampling_rate, name, start, length: As in [`load_audio`].

    Yields:
        float32 arrays of shape (samples,), full scale at 1.

    Raises:
        AudioError: The file is not found, is not audio, is damaged, has no samples (after `start`), contains NaN or
            Inf, or has an implausible sampling rate. Blocks before the damage may have been yielded already.
    """
    yield from open_recording(source, sampling_rate, name, start, length).blocks


def open_recording(
    source: str | Path | bytes,
    sampling_rate: int,
    name: str | None = None,
    start: int = 0,
    length: int | None = None,
    warns: bool = True,
) -> OpenedRecording:
    """
    Open a file that is read like in [`stream_audio`].

    Args:
        source, sampling_rate, name, start, length: As in [`load_audio`].
        warns: Whether to warn, once per file, if channels cancel each other.

    Raises:
        AudioError: As in [`stream_audio`]. Errors in the samples are raised by the iterator `blocks`.
    """
    name = _name(source, name)
    source, file = _open(source, name)
    rate = file.sampling_rate
    try:
        channel = None if file.num_channels == 1 else _find_channel(source)
    except (DecodingError, OSError) as error:
        raise AudioError(f"{name}: {_explain(error)}") from error
    if channel is not None and warns:
        _warn_of_cancellation(source, name, file.num_channels, channel)
    if rate == sampling_rate:
        skipped, first, stop = 0, start, None if length is None else start + length
    else:
        grid = make_grid(rate, sampling_rate)
        origin, end = blocks_around(grid, start, length)
        skipped = start - origin // grid.old * grid.new
        first, stop = max(0, origin - grid.context), None if end is None else end + grid.context

    def decode() -> Iterator[np.ndarray]:
        for block in file.read(first, stop):
            yield mean_of_channels(block) if channel is None else np.ascontiguousarray(block[:, channel])

    def cut() -> Iterator[np.ndarray]:
        blocks = decode()
        if rate != sampling_rate:
            blocks = resample_blocks(blocks, rate, sampling_rate, origin=origin, end=end)
        left_out, count = skipped, 0
        try:
            for block in blocks:
                block, left_out = block[left_out:], max(0, left_out - len(block))
                block = block[: None if length is None else length - count]
                if not np.isfinite(block).all():
                    raise AudioError(f"{name}: the file contains NaN or Inf.")
                count += len(block)
                if len(block):
                    yield block
        except (DecodingError, OSError) as error:
            raise AudioError(f"{name}: {_explain(error)}") from error
        if not count:
            raise AudioError(
                f"{name}: the file contains no samples{f' after {start / sampling_rate:g} s' if start else ''}."
            )

    return OpenedRecording(rate, file.num_channels, channel, file.is_seekable, cut())


class WindowReader:
    """
    Read parts of recordings. If a format must be decoded from the start of the file, it is decoded once for all parts
    that are read in order.
    """

    def __init__(self):
        self.key: Hashable = None

    def __getstate__(self) -> dict:
        # Worker processes decode on their own.
        return {"key": None}

    def read(self, key: Hashable, open_from: Callable[[int], OpenedRecording], start: int, length: int) -> np.ndarray:
        """
        Return samples `start` to `start + length` of a recording, of shape (samples,); fewer at its end.

        Args:
            key: Identifies the recording.
            open_from: Opens the recording at a sample.

        Raises:
            AudioError: As in [`stream_audio`].
        """
        if key != self.key or start < self.start or self.is_seekable:
            self.close()
            opened = open_from(start)
            self.blocks, self.is_seekable = opened.blocks, opened.is_seekable
            self.key, self.start, self.waveform = key, start, np.zeros(0, np.float32)
        while start + length > self.start + len(self.waveform):
            skipped = min(start - self.start, len(self.waveform))
            block = next(self.blocks, None)
            if block is None:
                break
            self.waveform = np.concatenate([self.waveform[skipped:], block]) if len(self.waveform) > skipped else block
            self.start += skipped
        first = start - self.start
        return self.waveform[first : first + length].copy()

    def close(self) -> None:
        """Close the recording."""
        self.key = self.blocks = None


def describe_audio(source: str | Path | bytes, name: str | None = None) -> tuple[int, int | None]:
    """
    Return the sampling rate of a file in Hz, and its number of frames, or None if only decoding shows it.

    Args:
        source, name: As in [`load_audio`].

    Raises:
        AudioError: The file is not found or is not audio.
    """
    _, file = _open(source, _name(source, name))
    return file.sampling_rate, file.num_frames


def _open(source: str | Path | bytes, name: str) -> tuple[Path | bytes, AudioFile]:
    if not isinstance(source, bytes):
        source = Path(source)
        check_file(source, name)
    elif not source:
        raise AudioError(f"{name}: the file is empty.")
    try:
        file = open_audio(source)
    except (DecodingError, OSError) as error:
        raise AudioError(f"{name}: {_explain(error)}") from error
    check_sampling_rate(file.sampling_rate, name)
    return source, file


def _name(source: str | Path | bytes, name: str | None) -> str:
    return name or ("recording" if isinstance(source, bytes) else str(source))


def _explain(error: Exception) -> str:
    return f"{error.strerror}." if isinstance(error, OSError) else str(error)


def resample_waveform(
    waveform: np.ndarray, original_rate: float, sampling_rate: int, name: str = "array"
) -> np.ndarray:
    """
    Resample a waveform in the same way as files, with torchaudio's windowed sinc interpolation.

    Args:
        waveform: Array of shape (samples,).
        original_rate, sampling_rate: Sampling rates of `waveform` and of the result in Hz.
        name: Name of the waveform in errors.

    Returns:
        float32 array of shape (samples,).

    Raises:
        AudioError: `original_rate` is not a whole number of Hz, or is implausible.
    """
    original_rate = check_sampling_rate(original_rate, name)
    waveform = np.ascontiguousarray(waveform, np.float32)
    if original_rate == sampling_rate or not len(waveform):
        return waveform
    return np.concatenate(list(resample_blocks([waveform], original_rate, sampling_rate)))


def check_sampling_rate(original_rate: float, name: str) -> int:
    """
    Return a sampling rate in Hz as an integer.

    Raises:
        AudioError: It is not a whole number, or is implausible.
    """
    try:
        if isinstance(original_rate, bool | np.bool_) or int(original_rate) != original_rate:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise AudioError(f"{name}: the sampling rate must be a whole number of Hz, not {original_rate!r}.") from error
    if not MIN_SAMPLING_RATE <= original_rate <= MAX_SAMPLING_RATE:
        raise AudioError(f"{name}: implausible sampling rate: {original_rate} Hz.")
    return int(original_rate)


def mean_of_channels(block: np.ndarray) -> np.ndarray:
    """Return the mean over channels of (samples, channels); infinite if it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _find_channel(source: Path | bytes) -> int | None:
    """Return the channel that replaces the mean, or None; see [`stream_audio`]. It is computed once per file."""
    key = _key(source)
    if key not in _channels:
        if len(_channels) >= MAX_REMEMBERED:
            _channels.clear()
        _channels[key] = _decide_channel(source)
    return _channels[key]


def _key(source: Path | bytes) -> tuple:
    if isinstance(source, bytes):
        return len(source), hash(source)
    status = source.stat()
    return str(source.absolute()), status.st_size, status.st_mtime_ns


def _decide_channel(source: Path | bytes) -> int | None:
    file = open_audio(source)
    parts = islice(_seconds_with_sound(file), SECONDS_OF_SOUND)
    powers, mean_power = np.zeros(file.num_channels), 0.0
    # Damage raises an error later, when the part is read.
    with suppress(DecodingError), np.errstate(over="ignore", invalid="ignore"):
        for part in parts:
            powers += np.square(part, dtype=np.float64).sum(axis=0)
            mean_power += np.square(mean_of_channels(part), dtype=np.float64).sum()
    return choose_channel(powers, mean_power)


def choose_channel(powers: np.ndarray, mean_power: float) -> int | None:
    """
    Return the loudest channel if channels cancel each other, or None if their mean can be used.

    Args:
        powers: Energy of each channel, shape (channels,).
        mean_power: Energy of the mean of the channels.
    """
    return int(powers.argmax()) if mean_power < CANCELLATION * powers.sum() / len(powers) ** 2 else None


def _seconds_with_sound(file: AudioFile) -> Iterator[np.ndarray]:
    for block in file.read(0, None, file.sampling_rate):
        if np.abs(block).max() >= SILENCE:
            yield block


def _warn_of_cancellation(source: Path | bytes, name: str, num_channels: int, channel: int) -> None:
    key = _key(source)
    if key not in _warned:
        _warned.add(key)
        logger.warning(
            f"{name}: the {num_channels} channels cancel each other in their mean. Channel {channel + 1} is used."
        )


def check_file(path: Path, name: str) -> None:
    """Raise an [`AudioError`] if a path is not a file or the file is empty."""
    if "\0" in str(path):
        raise AudioError(f"{name}: a file name cannot contain a null character.")
    try:
        if not path.exists():
            raise AudioError(f"{name}: file not found.")
        if not path.is_file():
            raise AudioError(f"{name}: not a file.")
        if path.stat().st_size == 0:
            raise AudioError(f"{name}: the file is empty.")
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror}.") from error
