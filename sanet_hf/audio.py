# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files to waveforms."""

import io
import math
from pathlib import Path

import numpy as np
import soundfile
import torch


# Rates beyond these stand in damaged headers.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 1_000_000  # Hz
# torchaudio's kernel has an entry for each pair of input and output phase: 70 thousand from 44,100 Hz to 16,000 Hz,
# but 700 million from 44,099 Hz. FFmpeg resamples by such ratios in little memory.
MAX_RESAMPLING_KERNEL = 2_000_000


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says why."""


def load_audio(source: str | Path | bytes, sampling_rate: int, name: str | None = None) -> np.ndarray:
    """
    Read a file as a mono waveform.

    soundfile reads the formats it knows (WAV, FLAC, MP3, Ogg and others), torchcodec the rest through FFmpeg. Channels
    are averaged; another sampling rate is resampled with torchaudio's windowed sinc interpolation, or by FFmpeg where
    the ratio of the rates is of large numbers.

    Args:
        source: Audio file, or its content.
        sampling_rate: Sampling rate of the waveform in Hz.
        name: What errors call it; by default the path.

    Returns:
        float32 array of shape (samples,), full scale at 1.

    Raises:
        AudioError: There is no such file, it is not audio, it is damaged, it holds no samples, or NaN or Inf,
            or its sampling rate is beyond any recording's.
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
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        waveform, original_rate = soundfile.read(file, dtype="float32", always_2d=True)
        waveform = waveform.T
    except (soundfile.LibsndfileError, TypeError) as error:
        # A TypeError is what soundfile has for files called *.raw.
        waveform, original_rate = _decode_with_ffmpeg(source, name, str(error))
    if waveform.shape[-1] == 0:
        raise AudioError(f"{name}: the file holds no samples.")
    if not MIN_SAMPLING_RATE <= original_rate <= MAX_SAMPLING_RATE:
        raise AudioError(f"{name}: a sampling rate of {original_rate} Hz, which no recording has.")
    common = math.gcd(original_rate, sampling_rate)
    if (original_rate // common) * (sampling_rate // common) > MAX_RESAMPLING_KERNEL:
        waveform, original_rate = _decode_with_ffmpeg(
            source, name, f"{original_rate} Hz is an odd sampling rate", sampling_rate
        )
    with np.errstate(over="ignore", invalid="ignore"):
        waveform = waveform[0] if len(waveform) == 1 else waveform.mean(0)
    if original_rate != sampling_rate:
        # Imported late: it takes a second that files at the right rate need not wait for.
        from torchaudio.functional import resample

        waveform = resample(torch.from_numpy(waveform), original_rate, sampling_rate).numpy()
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: the file holds NaN or Inf.")
    return waveform


def check_file(path: Path, name: str) -> None:
    """Raise an [`AudioError`] for what is no file, or an empty one."""
    try:
        if not path.exists():
            raise AudioError(f"{name}: there is no such file.")
        if not path.is_file():
            raise AudioError(f"{name}: this is not a file.")
        if path.stat().st_size == 0:
            raise AudioError(f"{name}: the file is empty.")
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror}.") from error


def _decode_with_ffmpeg(
    source: Path | bytes, name: str, reason: str, sampling_rate: int | None = None
) -> tuple[np.ndarray, int]:
    """Waveform of shape (channels, samples) and its sampling rate: the given one, or that of the file."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError) as error:
        raise AudioError(
            f"{name}: {reason} What soundfile does not read needs FFmpeg's shared libraries, which torchcodec does "
            "not find here; install FFmpeg (Debian: apt-get install ffmpeg)."
        ) from error
    try:
        samples = AudioDecoder(source, sample_rate=sampling_rate).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"{name}: neither soundfile nor FFmpeg can read it as audio ({reason})") from error
    return samples.data.numpy(), samples.sample_rate
