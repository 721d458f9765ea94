# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files of any length, decoded and resampled block by block: memory does not grow with their duration."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sanet_hf.audio.decode import (
    DECODING_BLOCK,
    check_file,
    check_sampling_rate,
    encode_name,
    explain_error,
    is_odd_ratio,
    mean_of_channels,
    open_with_ffmpeg,
)
from sanet_hf.audio.resampling import RESAMPLING_BLOCK, resample_blocks
from sanet_hf.errors import AudioError


class AudioBlocks(NamedTuple):
    """An opened file: its sampling rate in Hz, and a function that gives blocks of shape (samples, channels)."""

    sampling_rate: int
    num_channels: int
    read: Callable[[], Iterator[np.ndarray]]


def stream_audio(path: str | Path, sampling_rate: int) -> Iterator[np.ndarray]:
    """
    The waveform that [`load_audio`] gives for a file, in blocks, decoded as they are asked for.

    Args:
        path: Audio file.
        sampling_rate: Sampling rate of the waveform in Hz.

    Yields:
        float32 arrays of shape (samples,), full scale at 1.

    Raises:
        AudioError: There is no such file, it is not audio, it is damaged, it holds no samples, or NaN or Inf, or its
            sampling rate is beyond any recording's. Blocks from before the damage may have come already.
    """
    path, name = Path(path), str(path)
    check_file(path, name)
    count = 0
    try:
        file = open_with_soundfile(path)
        reason = f"{file.sampling_rate} Hz is an odd sampling rate"
        if not is_odd_ratio(file.sampling_rate, sampling_rate):
            reason = "the file holds no samples"
            for block in _to_mono(file, name, sampling_rate):
                count += len(block)
                yield block
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = explain_error(error)
        if count:
            raise AudioError(f"{name}: damaged after {count / sampling_rate:.1f} s ({reason})") from error
    # Of an Ogg file without its end soundfile reads nothing.
    if not count:
        for block in _to_mono(open_blocks_with_ffmpeg(path, name, reason, sampling_rate), name, sampling_rate):
            count += len(block)
            yield block
    if not count:
        raise AudioError(f"{name}: the file holds no samples.")


def _to_mono(file: AudioBlocks, name: str, sampling_rate: int) -> Iterator[np.ndarray]:
    check_sampling_rate(file.sampling_rate, name)
    mono = (average_channels(block, name) for block in file.read())
    if file.sampling_rate == sampling_rate:
        return mono
    return resample_blocks(mono, file.sampling_rate, sampling_rate, RESAMPLING_BLOCK)


def average_channels(block: np.ndarray, name: str) -> np.ndarray:
    """
    The mean of the channels of (samples, channels).

    Raises:
        AudioError: It holds NaN or Inf.
    """
    mono = mean_of_channels(block)
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: the file holds NaN or Inf.")
    return mono


def open_with_soundfile(path: Path) -> AudioBlocks:
    """
    Open a file of one of the formats that libsndfile knows.

    Raises:
        soundfile.LibsndfileError, TypeError: It is none of those, or damaged; also while it is read.
    """
    name = encode_name(path)

    def read() -> Iterator[np.ndarray]:
        with soundfile.SoundFile(name) as file:
            length = max(1, DECODING_BLOCK // file.channels)
            while len(block := file.read(length, dtype="float32", always_2d=True)):
                yield block

    with soundfile.SoundFile(name) as file:
        return AudioBlocks(file.samplerate, file.channels, read)


def open_blocks_with_ffmpeg(
    path: Path, name: str, reason: str, sampling_rate_if_odd: int | None = None
) -> AudioBlocks:
    """
    Open any file that FFmpeg reads. The program decodes it in one pass; torchcodec's ranges lose or double samples
    where they meet, and each is decoded from the file's start.

    Args:
        path: Audio file.
        name: What errors call it.
        reason: Why soundfile did not read it.
        sampling_rate_if_odd: What FFmpeg resamples to, in Hz, where torchaudio's kernel would be huge.

    Raises:
        AudioError: FFmpeg is not there, or cannot read it as audio; also while it is read.
    """
    metadata = open_with_ffmpeg(path, name, reason).metadata
    unreadable = f"{name}: neither soundfile nor FFmpeg can read it as audio ({reason})"
    rate, num_channels = metadata.sample_rate, metadata.num_channels
    if not rate or not num_channels:
        raise AudioError(unreadable)
    check_sampling_rate(rate, name)
    if sampling_rate_if_odd is not None and is_odd_ratio(rate, sampling_rate_if_odd):
        rate = sampling_rate_if_odd
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            f"{name}: reading it needs the ffmpeg program; install FFmpeg (Debian: apt-get install ffmpeg)."
        )
    # Lists of other files, as playlists are, are not followed beyond this machine.
    source = ["-protocol_whitelist", "file", "-i", f"file:{path}", "-map", f"0:{metadata.stream_index}"]
    command = [program, "-v", "error", "-nostdin", *source, "-f", "f32le", "-ar", str(rate), "pipe:1"]
    block_bytes = max(1, DECODING_BLOCK // num_channels) * num_channels * 4

    def read() -> Iterator[np.ndarray]:
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
            try:
                while content := process.stdout.read(block_bytes):
                    samples = np.frombuffer(content[: len(content) // (4 * num_channels) * 4 * num_channels], "<f4")
                    yield samples.reshape(-1, num_channels).astype(np.float32, copy=False)
                if process.wait() != 0:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    raise AudioError(f"{name}: FFmpeg cannot decode it ({lines[-1] if lines else reason})")
            finally:
                process.kill()
                process.stdout.close()
                process.wait()

    return AudioBlocks(rate, num_channels, read)
