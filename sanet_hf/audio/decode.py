# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files to waveforms: one reader for whole files, stretches and streams."""

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


# Channels whose mean has less than this part of the power that the mean of unrelated channels would have cancel each
# other, as when one microphone is connected upside down. Codecs such as Vorbis leave up to a fifth of it.
CANCELLATION = 0.25
# Seconds with sound by which that is decided, for the whole file.
SECONDS_OF_SOUND = 10
# The channel of each file so far that is taken instead of the mean, and the files that were warned of.
_channels: dict[tuple, int | None] = {}
_warned: set[tuple] = set()
MAX_REMEMBERED = 2**16


class OpenedRecording(NamedTuple):
    """A recording whose mono waveform comes in float32 `blocks` of shape (samples,), decoded as they are asked for."""

    original_rate: int  # Hz
    num_channels: int
    channel: int | None  # taken instead of the mean of all, since they cancel each other
    is_seekable: bool  # whether a stretch is decoded without what comes before it
    blocks: Iterator[np.ndarray]


def load_audio(
    source: str | Path | bytes, sampling_rate: int, name: str | None = None, start: int = 0, length: int | None = None
) -> np.ndarray:
    """
    Read a file, or a stretch of it, as a mono waveform: the blocks of [`stream_audio`] as one array.

    Args:
        source: Audio file, or its content.
        sampling_rate: Sampling rate of the waveform in Hz.
        name: How errors name it; by default the path.
        start: First sample of the stretch, at `sampling_rate`.
        length: Samples of the stretch, at `sampling_rate`; by default all from `start` on. There are fewer where the
            file ends earlier.

    Returns:
        float32 array of shape (samples,), full scale at 1.

    Raises:
        AudioError: As in [`stream_audio`]; or it is longer than memory allows.
    """
    try:
        blocks = list(stream_audio(source, sampling_rate, name, start, length))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except (MemoryError, RuntimeError) as error:
        # PyTorch raises a RuntimeError when memory is full.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise AudioError(
            f"{_name(source, name)}: too long to be read whole into the memory that is left; read stretches of it "
            "(start, length)."
        ) from error


def stream_audio(
    source: str | Path | bytes, sampling_rate: int, name: str | None = None, start: int = 0, length: int | None = None
) -> Iterator[np.ndarray]:
    """
    Yield a file, or a stretch of it, as a mono waveform in blocks, decoded as they are asked for.

    soundfile reads the formats it knows (WAV, FLAC, MP3, Ogg and others), the ffmpeg program the rest. Stated lengths
    are not believed: the file is decoded to its end. A stretch of uncompressed audio or FLAC is read alone; other
    formats are decoded from the start of the file, since their frames depend on earlier ones.

    The waveform is the mean of the channels. Where they cancel each other in the first ten seconds with sound, as with
    one channel upside down, it is the loudest channel instead, and a warning names the file. Another sampling rate is
    resampled with torchaudio's windowed sinc interpolation.

    Args:
        source, sampling_rate, name, start, length: As in [`load_audio`].

    Yields:
        float32 arrays of shape (samples,), full scale at 1.

    Raises:
        AudioError: There is no such file, it is not audio, it is damaged, it holds no samples (from `start` on), or
            NaN or Inf, or its sampling rate is beyond any recording's. Blocks from before the damage may have come
            already.
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
    Open a file to read it as [`stream_audio`] does.

    Args:
        source, sampling_rate, name, start, length: As in [`load_audio`].
        warns: Whether to warn, once for a file, of channels that cancel each other.

    Raises:
        AudioError: As in [`stream_audio`]; what is found when samples are decoded is raised by `blocks`.
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
                    raise AudioError(f"{name}: the file holds NaN or Inf.")
                count += len(block)
                if len(block):
                    yield block
        except (DecodingError, OSError) as error:
            raise AudioError(f"{name}: {_explain(error)}") from error
        if not count:
            raise AudioError(
                f"{name}: the file holds no samples{f' from {start / sampling_rate:g} s on' if start else ''}."
            )

    return OpenedRecording(rate, file.num_channels, channel, file.is_seekable, cut())


class WindowReader:
    """
    Stretches of recordings, one after the other: where decoding begins at the start of the file, it happens once for
    all stretches that are read in order.
    """

    def __init__(self):
        self.key: Hashable = None

    def __getstate__(self) -> dict:
        # Worker processes decode by themselves.
        return {"key": None}

    def read(self, key: Hashable, open_from: Callable[[int], OpenedRecording], start: int, length: int) -> np.ndarray:
        """
        Return samples `start` to `start + length` of a recording, of shape (samples,); fewer at its end.

        Args:
            key: Tells recordings apart.
            open_from: Opens the recording from a sample on.

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
        """Let go of the recording."""
        self.key = self.blocks = None


def describe_audio(source: str | Path | bytes, name: str | None = None) -> tuple[int, int | None]:
    """
    Return the sampling rate of a file in Hz, and its number of frames, or None where only decoding it tells.

    Args:
        source, name: As in [`load_audio`].

    Raises:
        AudioError: There is no such file, or it is not audio.
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
    Resample a waveform by the rules that hold for files: with torchaudio's windowed sinc interpolation.

    Args:
        waveform: Array of shape (samples,).
        original_rate, sampling_rate: Sampling rates of `waveform` and of the result in Hz.
        name: How errors name the waveform.

    Returns:
        float32 array of shape (samples,).

    Raises:
        AudioError: `original_rate` is no whole number of Hz, or no recording has it.
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
        AudioError: It is no whole number, or only damaged headers have it.
    """
    try:
        if isinstance(original_rate, bool | np.bool_) or int(original_rate) != original_rate:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise AudioError(f"{name}: the sampling rate must be a whole number of Hz, not {original_rate!r}.") from error
    if not MIN_SAMPLING_RATE <= original_rate <= MAX_SAMPLING_RATE:
        raise AudioError(f"{name}: a sampling rate of {original_rate} Hz, which no recording has.")
    return int(original_rate)


def mean_of_channels(block: np.ndarray) -> np.ndarray:
    """Return the mean of the channels of (samples, channels); what overflows is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _find_channel(source: Path | bytes) -> int | None:
    """The channel that is taken instead of the mean, decided once for a file: see [`stream_audio`]."""
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
    # What is damaged is an error where it is read.
    with suppress(DecodingError), np.errstate(over="ignore", invalid="ignore"):
        for part in parts:
            powers += np.square(part, dtype=np.float64).sum(axis=0)
            mean_power += np.square(mean_of_channels(part), dtype=np.float64).sum()
    return choose_channel(powers, mean_power)


def choose_channel(powers: np.ndarray, mean_power: float) -> int | None:
    """
    Return the loudest channel where channels cancel each other, and None where their mean can be taken.

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
            f"{name}: its {num_channels} channels cancel each other when they are averaged. Channel {channel + 1} is "
            "used instead."
        )


def check_file(path: Path, name: str) -> None:
    """Raise an [`AudioError`] for what is no file, or an empty one."""
    if "\0" in str(path):
        raise AudioError(f"{name}: no file name can contain a null character.")
    try:
        if not path.exists():
            raise AudioError(f"{name}: there is no such file.")
        if not path.is_file():
            raise AudioError(f"{name}: this is not a file.")
        if path.stat().st_size == 0:
            raise AudioError(f"{name}: the file is empty.")
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror}.") from error
