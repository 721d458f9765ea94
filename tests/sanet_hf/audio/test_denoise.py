# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Noise reduction in blocks, and the warning about denoising that differs between training and use."""

from types import SimpleNamespace

import numpy as np
import pytest
from noisereduce import reduce_noise

from sanet_hf.audio.denoise import DENOISED, check_denoising, denoise, logger


RATE = 16000


def bursts(seconds: int, rate: int = RATE) -> np.ndarray:
    """Return noise with a tone in every other second, float32 of shape (samples,)."""
    times = np.arange(seconds * rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * times) * (times.astype(int) % 2)
    return (tone + 0.01 * np.random.default_rng(0).standard_normal(len(times))).astype(np.float32)


def in_blocks(waveform: np.ndarray, length: int, rate: int = RATE) -> np.ndarray:
    blocks = (waveform[start : start + length] for start in range(0, len(waveform), length))
    return np.concatenate(list(denoise(blocks, rate)))


@pytest.mark.parametrize("seconds", [3, 50])
def test_denoising_in_blocks_equals_noisereduce(seconds):
    waveform = bursts(seconds)
    whole = reduce_noise(waveform, RATE)
    results = [in_blocks(waveform, length) for length in (len(waveform), 70_001)]
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0], whole, atol=1e-6)
    assert np.square(results[0][:RATE]).mean() < 0.1 * np.square(waveform[:RATE]).mean()


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000, 96_000])
def test_noise_is_reduced_at_any_rate(rate):
    waveform = bursts(2, rate)
    result = in_blocks(waveform, rate, rate)
    assert result.shape == waveform.shape
    # The remaining noise is the same as at 16 kHz, because frames last as long.
    left = [np.square(in_blocks(bursts(2, r), r, r)[:r]).mean() for r in (rate, RATE)]
    assert left[0] == pytest.approx(left[1], rel=0.15) and left[0] < 0.2 * np.square(waveform[:rate]).mean()


@pytest.mark.parametrize("waveform", [np.zeros(100), np.full(20_000, 0.5), np.eye(1, 50_000, 7)[0], bursts(1)[:16]])
def test_denoised_samples_are_finite(waveform):
    result = np.concatenate(list(denoise([waveform.astype(np.float32)], RATE)))
    assert result.shape == waveform.shape and result.dtype == np.float32 and np.isfinite(result).all()
    assert not list(denoise([], RATE))


def test_errors_of_the_source_are_raised():
    def broken():
        yield np.zeros(100, np.float32)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(denoise(broken(), RATE))


@pytest.mark.parametrize(
    ("stored", "is_denoised", "message"),
    [
        ({DENOISED: True}, False, "was trained on denoised clips"),
        ({DENOISED: True}, True, ""),
        ({DENOISED: False}, True, "does not state that it was trained on denoised clips"),
        ({DENOISED: False}, False, ""),
        ({}, False, ""),
    ],
)
def test_different_denoising_than_in_training_warns_once(stored, is_denoised, message, caplog):
    logger.warning_once.cache_clear()
    for _ in range(2):
        check_denoising(SimpleNamespace(**stored), is_denoised)
    assert len(caplog.records) == bool(message) and message in caplog.text
