# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms, for pictures and for a baseline."""

import math
from functools import cache

import numpy as np
import torch


NUM_MELS = 64


def log_mel(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """
    Natural logarithm of the power in mel bands of 25 ms every 10 ms.

    Args:
        waveform: float32 of shape (samples,).
        sampling_rate: Of the waveform, in Hz.

    Returns:
        float32 of shape (frames, NUM_MELS); at least one frame.
    """
    window = round(0.025 * sampling_rate)
    waveform = np.pad(waveform, (0, max(0, window - len(waveform))))
    with torch.no_grad():
        mel = _mel_spectrogram(sampling_rate, window)(torch.from_numpy(waveform))
    return torch.log(mel.T + 1e-8).numpy()


@cache
def _mel_spectrogram(sampling_rate: int, window: int):
    from torchaudio.transforms import MelSpectrogram

    # The next power of two is the fastest to transform.
    n_fft = 2 ** math.ceil(math.log2(window))
    hop = round(0.01 * sampling_rate)
    return MelSpectrogram(sampling_rate, n_fft=n_fft, win_length=window, hop_length=hop, n_mels=NUM_MELS)
