# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms for figures and for the baseline."""

from functools import cache

import numpy as np
import torch


NUM_MELS = 64


def log_mel(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """
    Compute the natural logarithm of the power in mel bands, in windows of 25 ms every 10 ms.

    Args:
        waveform: float32 of shape (samples,).
        sampling_rate: In Hz.

    Returns:
        float32 of shape (frames, NUM_MELS); at least one frame.
    """
    spectrogram = _mel_spectrogram(sampling_rate)
    waveform = np.pad(waveform, (0, max(0, spectrogram.win_length - len(waveform))))
    with torch.no_grad():
        return torch.log(spectrogram(torch.from_numpy(waveform)).T + 1e-8).numpy()


@cache
def _mel_spectrogram(sampling_rate: int):
    # torchaudio's takes a fifth of the time of transformers.audio_utils.spectrogram; the values are the same.
    from torchaudio.transforms import MelSpectrogram

    window = sampling_rate // 40
    # At 8 kHz, with fewer, the lowest bands would be between two frequencies and empty.
    n_fft = max(512, 2 ** (window - 1).bit_length())
    return MelSpectrogram(sampling_rate, n_fft, window, hop_length=sampling_rate // 100, n_mels=NUM_MELS)
