# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files to waveforms."""

import io
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
import torch

from sanet_hf.audio.formats import GAME_MUSIC, LIST_MARKS, PROBED_BYTES
from sanet_hf.audio.resampling import (
    LOWPASS_FILTER_WIDTH,
    MAX_RESAMPLING_KERNEL,
    ROLLOFF,
    check_sampling_rate,
    resample_waveform,  # noqa: F401
)
from sanet_hf.errors import AudioError


# Samples of all channels that are decoded at once.
DECODING_BLOCK = 2**22


def load_audio(
    source: str | Path | bytes, sampling_rate: int, name: str | None = None, start: int = 0, length: int | None = None
) -> np.ndarray:
    """
    Read a file, or a stretch of it, as a mono waveform.

    soundfile reads the formats it knows (WAV, FLAC, MP3, Ogg and others), torchcodec the rest through FFmpeg. Channels
    are averaged; another sampling rate is resampled with torchaudio's windowed sinc interpolation, or by FFmpeg where
    the ratio of the rates is of large numbers. A stretch is decoded without what stands before and after it; of MP3,
    whose frames depend on earlier ones, without what stands after it.

    Args:
        source: Audio file, or its content.
        sampling_rate: Sampling rate of the waveform in Hz.
        name: What errors call it; by default the path.
        start: First sample of the stretch, at `sampling_rate`.
        length: Samples of the stretch, at `sampling_rate`; by default all from `start` on. There are fewer where the
            file ends earlier.

    Returns:
        float32 array of shape (samples,), full scale at 1.

    Raises:
        AudioError: There is no such file, it is not audio, it is damaged, it holds no samples (from `start` on), or
            NaN or Inf, its sampling rate is beyond any recording's, or it is longer than memory allows.
    """
    if isinstance(source, bytes):
        name = name or "recording"
        if not source:
            raise AudioError(f"{name}: the file is empty.")
    else:
        source = Path(source)
        name = name or str(source)
        check_file(source, name)
    try:
        return _load(source, sampling_rate, name, start, length)
    except (MemoryError, RuntimeError) as error:
        # What torch has for want of memory.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise AudioError(
            f"{name}: too long to be read whole into the memory that is left; read stretches of it (start, length)."
        ) from error


def _load(source: Path | bytes, sampling_rate: int, name: str, start: int, length: int | None) -> np.ndarray:
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else encode_name(source)) as file:
            original_rate = file.samplerate
            frames = _frames_around(start, length, original_rate, sampling_rate)
            waveform = _read_frames(file, *frames)
            # Of an Ogg file without its end, or a WAV file whose header was never finished, it reads nothing.
            reason = "" if len(waveform) or file.frames else "the file holds no samples"
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = explain_error(error)
    if reason:
        decoder = open_with_ffmpeg(source, name, reason)
        original_rate = decoder.metadata.sample_rate or 0
        frames = _frames_around(start, length, original_rate, sampling_rate)
        waveform = _decode_frames(decoder, name, original_rate, *frames)
    check_sampling_rate(original_rate, name)
    skipped = start - frames[0] * sampling_rate // original_rate
    if is_odd_ratio(original_rate, sampling_rate):
        decoder = open_with_ffmpeg(source, name, f"{original_rate} Hz is an odd sampling rate", sampling_rate)
        # A second more, so that the end of the stretch is not that of the filter.
        stop = None if length is None else start + length + sampling_rate
        waveform = _decode_frames(decoder, name, sampling_rate, 0, stop)
        original_rate, skipped = sampling_rate, start
    if original_rate != sampling_rate and len(waveform):
        # Imported late: it takes a second that files at the right rate need not wait for.
        from torchaudio.functional import resample

        waveform = resample(torch.from_numpy(waveform), original_rate, sampling_rate).numpy()
    waveform = waveform[skipped : None if length is None else skipped + length]
    if not len(waveform):
        raise AudioError(
            f"{name}: the file holds no samples{f' from {start / sampling_rate:g} s on' if start else ''}."
        )
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: the file holds NaN or Inf.")
    return waveform


def is_odd_ratio(original_rate: int, sampling_rate: int) -> bool:
    """Whether torchaudio's resampling kernel from one rate to the other would take up much memory."""
    common = math.gcd(original_rate, sampling_rate)
    return (original_rate // common) * (sampling_rate // common) > MAX_RESAMPLING_KERNEL


def _frames_around(start: int, length: int | None, original_rate: int, sampling_rate: int) -> tuple[int, int | None]:
    """
    First frame of the file, and the one after the last, that a stretch of the resampled waveform depends on. Frame and
    resampled sample fall together at the first, so that the stretch is the same as cut out of the whole.

        frames     |. . . . .|. . . . .|. . . . .|       original_rate / common = 5 a block
        resampled  |.  .  .  |.  .  .  |.  .  .  |       sampling_rate / common = 3 a block
    """
    if is_odd_ratio(original_rate, sampling_rate) or original_rate <= 0:
        return 0, 0
    if original_rate == sampling_rate:
        return start, None if length is None else start + length
    common = math.gcd(original_rate, sampling_rate)
    frames, samples = original_rate // common, sampling_rate // common
    # Blocks that the kernel reaches beyond its own.
    reach = math.ceil(LOWPASS_FILTER_WIDTH / ROLLOFF / min(frames, samples)) + 1
    first = max(0, start // samples - reach) * frames
    if length is None:
        return first, None
    return first, (-(-(start + length) // samples) + reach) * frames


def _read_frames(file: soundfile.SoundFile, first: int, stop: int | None) -> np.ndarray:
    """
    The mean of the channels, of shape (frames,); none where the file ends before them. It is read in blocks: what
    headers say of the length can be anything.
    """
    # Frames of MP3 need those before them, for want of which libmpg123 prints errors after a seek.
    position = 0 if file.format == "MP3" else first
    if first >= file.frames:
        return np.zeros(0, np.float32)
    if position:
        file.seek(position)
    blocks, block_length = [], max(1, DECODING_BLOCK // file.channels)
    while stop is None or position < stop:
        count = block_length if stop is None else min(block_length, stop - position)
        block = file.read(count, dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(mean_of_channels(block[max(0, first - position) :]))
        position += len(block)
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def mean_of_channels(block: np.ndarray) -> np.ndarray:
    """The mean of the channels of (samples, channels); what overflows is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def encode_name(path: Path) -> bytes | str:
    """What soundfile opens: it encodes a name itself, but not one that is no UTF-8."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def explain_error(error: Exception) -> str:
    """What soundfile says, without the name of the file. A TypeError is what it has for files called *.raw."""
    return getattr(error, "error_string", str(error))


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


def open_with_ffmpeg(source: Path | bytes, name: str, reason: str, sampling_rate: int | None = None):
    """
    A torchcodec `AudioDecoder` that gives frames at the file's sampling rate, or resamples them to another.

    Args:
        source: Audio file, or its content.
        name: What errors call it.
        reason: Why soundfile did not read it.
        sampling_rate: Of what the decoder gives, in Hz.

    Raises:
        AudioError: torchcodec or FFmpeg's libraries are missing, or cannot read it as audio.
    """
    if find_spec("torchcodec") is None:
        raise AudioError(
            f"{name}: {reason} What soundfile does not read needs torchcodec and FFmpeg. Run: "
            'pip install "sanet-hf[formats]"'
        )
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:
        # An OSError where torchcodec was built for another PyTorch, or for CUDA and PyTorch was not.
        raise AudioError(
            f"{name}: {reason} What soundfile does not read needs FFmpeg's shared libraries and a torchcodec that "
            f"fits PyTorch {torch.__version__}. One is missing: install FFmpeg (Debian: apt-get install ffmpeg)."
        ) from error
    check_content(source, name)
    try:
        if isinstance(source, bytes):
            return AudioDecoder(source, sample_rate=sampling_rate)
        with _name_in_utf8(source) as path:
            return AudioDecoder(path, sample_rate=sampling_rate)
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"{name}: neither soundfile nor FFmpeg can read it as audio ({reason})") from error


def check_content(source: Path | bytes, name: str) -> None:
    """Raise an [`AudioError`] for what FFmpeg must not open: see [`LIST_MARKS`]."""
    try:
        if isinstance(source, bytes):
            start = source[:PROBED_BYTES]
        else:
            with open(source, "rb") as file:
                start = file.read(PROBED_BYTES)
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror}.") from error
    if LIST_MARKS.search(start):
        raise AudioError(f"{name}: this is a list of other files or streams, not a recording.")
    # FFmpeg looks behind ID3 tags.
    while start.startswith(b"ID3") and len(start) >= 10:
        start = start[10 + sum((byte & 0x7F) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0))) :]
    if start.startswith(GAME_MUSIC):
        raise AudioError(f"{name}: this is music for a game console, without an end, not a recording.")


@contextmanager
def _name_in_utf8(path: Path) -> Iterator[Path]:
    """The path, or, where it is no UTF-8, which torchcodec does not take, a link to it."""
    # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path.
    path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "recording")
            link.symlink_to(path)
            yield link
    else:
        yield path


def _decode_frames(decoder, name: str, rate: int, first: int, stop: int | None) -> np.ndarray:
    """The mean of the channels, of shape (frames,), of frames that come at `rate` Hz."""
    try:
        if first == 0 and stop is None:
            return mean_of_channels(decoder.get_all_samples().data.numpy().T)
        begin = decoder.metadata.begin_stream_seconds_from_header or 0.0
        # A second earlier: asked for the last few frames alone, FFmpeg finds none.
        earlier = max(0, first - rate)
        times = [None if frame is None else begin + frame / rate for frame in (earlier, stop)]
        return mean_of_channels(decoder.get_samples_played_in_range(*times).data.numpy().T[first - earlier :])
    except (RuntimeError, ValueError) as error:
        if "No audio frames were decoded" in str(error):
            return np.zeros(0, np.float32)
        # torchcodec begins with the place in its source.
        message = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0])
        raise AudioError(f"{name}: FFmpeg cannot decode it ({message}).") from error
