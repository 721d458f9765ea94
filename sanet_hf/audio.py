# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files to waveforms."""

from pathlib import Path

import numpy as np
import soundfile
import torch


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says why."""


def load_audio(path: str | Path, sampling_rate: int) -> np.ndarray:
    """
    Read a file as a mono waveform.

    soundfile reads the formats it knows (WAV, FLAC, MP3, Ogg and others), torchcodec the rest through FFmpeg. Channels
    are averaged; another sampling rate is resampled with torchaudio's windowed sinc interpolation.

    Args:
        path: Audio file.
        sampling_rate: Sampling rate of the waveform in Hz.

    Returns:
        float32 array of shape (samples,), full scale at 1.

    Raises:
        AudioError: There is no such file, it is not audio, it is damaged, it holds no samples, or NaN or Inf.
    """
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path}: there is no such file.")
    if not path.is_file():
        raise AudioError(f"{path}: this is not a file.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty.")
    try:
        waveform, original_rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = waveform.T
    except soundfile.LibsndfileError as error:
        waveform, original_rate = _decode_with_ffmpeg(path, str(error))
    if waveform.shape[-1] == 0:
        raise AudioError(f"{path}: the file holds no samples.")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{path}: the file holds NaN or Inf.")
    waveform = waveform[0] if len(waveform) == 1 else waveform.mean(0)
    if original_rate != sampling_rate:
        # Imported late: it takes a second that files at the right rate need not wait for.
        from torchaudio.functional import resample

        waveform = resample(torch.from_numpy(waveform), original_rate, sampling_rate).numpy()
    return waveform


def _decode_with_ffmpeg(path: Path, soundfile_error: str) -> tuple[np.ndarray, int]:
    """Waveform of shape (channels, samples) and its sampling rate."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError) as error:
        raise AudioError(
            f"{path}: {soundfile_error} Other formats need FFmpeg's shared libraries, which torchcodec does not find "
            "here; install FFmpeg (Debian: apt-get install ffmpeg)."
        ) from error
    try:
        samples = AudioDecoder(path).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"{path}: neither soundfile nor FFmpeg can read it as audio ({soundfile_error})") from error
    return samples.data.numpy(), samples.sample_rate
