# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a recording is cut, noise reduction, speech, level and noise."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.audio.decode import load_audio
from sanet_hf.training.preparation.cutting import cut_evenly, find_speech
from sanet_hf.training.preparation.samples import denoise, estimate_snr


RATE = 16000


def tone(seconds=1.0, amplitude=0.3):
    """A tone in a little noise, float64 of shape (samples,)."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(times))
    return amplitude * np.sin(2 * np.pi * 440 * times) + 1e-3 * noise


@settings(deadline=None)
@given(length=st.integers(1, 10**9), max_length=st.integers(1, 10**6))
def test_cutting_covers_the_recording(length, max_length):
    length = min(length, 10_000 * max_length)
    stretches = cut_evenly(length, max_length)
    assert stretches[0][0] == 0 and stretches[-1][1] == length
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(stretches))
    lengths = [end - start for start, end in stretches]
    assert 0 < min(lengths) and max(lengths) <= max_length
    assert max(lengths) - min(lengths) <= 1
    assert len(stretches) == 1 or min(lengths) >= max_length // 2


def test_speech_is_found_between_pauses(speech):
    waveform = load_audio(speech / "max" / "long.flac", RATE)
    stretches = find_speech(waveform)
    assert len(stretches) >= 4
    quiet = np.abs(waveform) < 1e-4
    for start, end in stretches:
        assert quiet[start:end].mean() < 0.3
    assert not find_speech(np.zeros(RATE, np.float32))


def test_denoising_in_blocks_is_what_noisereduce_gives():
    from noisereduce import reduce_noise

    waveform = tone(50.0).astype(np.float32) * np.repeat(np.arange(50) % 2, RATE).astype(np.float32)
    waveform += 0.01 * np.random.default_rng(1).standard_normal(len(waveform)).astype(np.float32)
    result = np.concatenate(list(denoise(waveform)))
    assert np.allclose(result, reduce_noise(waveform, RATE), atol=1e-6)
    assert np.square(result[:RATE]).mean() < 0.1 * np.square(waveform[:RATE]).mean()


@pytest.mark.parametrize("waveform", [np.zeros(100), np.full(20_000, 0.5), np.eye(1, 50_000, 7)[0], tone(1e-3)])
def test_denoising_gives_numbers_whatever_comes(waveform):
    result = np.concatenate(list(denoise(waveform.astype(np.float32))))
    assert result.shape == waveform.shape and np.isfinite(result).all()


@pytest.mark.parametrize("noise", [0.1, 0.01, 0.001])
def test_snr(noise):
    bursts = np.repeat([0, 1], RATE) * tone(2.0, amplitude=0.5)
    waveform = bursts + noise * np.random.default_rng(0).standard_normal(len(bursts))
    expected = 10 * np.log10(np.square(bursts).mean() / noise**2)
    assert estimate_snr(waveform.astype(np.float32)) == pytest.approx(expected, abs=1.5)
    assert estimate_snr(waveform[:100].astype(np.float32)) is None
