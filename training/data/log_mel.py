# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms, for pictures and for a baseline."""

from functools import cache

import numpy as np
import torch


NUM_MELS = 64


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """
    Natural logarithm of the power in mel bands of 25 ms every 10 ms.

    Args:
        waveform: float32 of shape (samples,) at 16 kHz.

    Returns:
        float32 of shape (frames, NUM_MELS); at least one frame.
    """
    with torch.no_grad():
        mel = _mel_spectrogram()(torch.from_numpy(np.pad(waveform, (0, max(0, 400 - len(waveform))))))
    return torch.log(mel.T + 1e-8).numpy()


@cache
def _mel_spectrogram():
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(16000, n_fft=512, win_length=400, hop_length=160, n_mels=NUM_MELS)
