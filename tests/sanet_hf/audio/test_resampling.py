# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling of waveforms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.functional import resample

from sanet_hf.audio.decode import resample_waveform
from sanet_hf.audio.resampling import _resample_without_kernel, resample_blocks
from sanet_hf.errors import AudioError


def noise(length: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)


@given(
    rate=st.sampled_from([1000, 11025, 22050, 32000, 44100, 88200, 96000, 250_000]),
    sampling_rate=st.sampled_from([8000, 16000, 48000]),
    length=st.integers(1, 5000),
)
@settings(max_examples=40, deadline=None)
def test_resampling_without_kernel_equals_torchaudio(rate, sampling_rate, length):
    common = math.gcd(rate, sampling_rate)
    resampled = _resample_without_kernel(noise(length), rate // common, sampling_rate // common)
    # In float64, because torchaudio rounds the times of its kernel in float32.
    expected = resample(torch.from_numpy(noise(length)).double(), rate, sampling_rate).numpy()
    np.testing.assert_allclose(resampled, expected, atol=2e-6)


@given(
    rate=st.sampled_from([44099, 22255, 15999]),
    edges=st.lists(st.integers(0, 20_000), max_size=4),
)
@settings(max_examples=4, deadline=None)
def test_odd_rates_in_blocks_equal_the_whole(rate, edges):
    waveform = noise(20_000)
    blocks = np.split(waveform, sorted(edges))
    whole = resample_waveform(waveform, rate, 16000)
    assert len(whole) == -(-20_000 * 16000 // rate)
    np.testing.assert_allclose(np.concatenate(list(resample_blocks(blocks, rate, 16000, 1000))), whole, atol=1e-6)


def test_odd_rate_keeps_the_pitch():
    tone = np.sin(2 * np.pi * 440 * np.arange(44099) / 44099)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    resampled = resample_waveform(tone, 44099, 16000)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled[100:-100], expected[100:-100], atol=1e-3)


@pytest.mark.parametrize("rate", [22050, 22050.0, np.int32(22050), np.float32(22050)])
def test_rates_of_any_numeric_type(rate):
    np.testing.assert_array_equal(
        resample_waveform(noise(1000), rate, 16000), resample(torch.from_numpy(noise(1000)), 22050, 16000).numpy()
    )


@pytest.mark.parametrize("rate", [0, -16000, 7, 1e12, 22050.5, math.nan, math.inf, None, "fast", True, [16000, 8000]])
def test_implausible_rates_are_refused(rate):
    with pytest.raises(AudioError, match=r"^song\.wav: .*sampling rate"):
        resample_waveform(noise(1000), rate, 16000, "song.wav")
