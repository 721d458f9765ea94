# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Cutting into equal parts, speech detection, and the estimate of the signal-to-noise ratio."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.audio.decode import load_audio
from sanet_hf.training.preparation.cutting import cut_evenly, find_speech
from sanet_hf.training.preparation.samples import estimate_snr


RATE = 16000


def tone(seconds=1.0, amplitude=0.3):
    """Return a tone in faint noise, float64 of shape (samples,)."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(times))
    return amplitude * np.sin(2 * np.pi * 440 * times) + 1e-3 * noise


@settings(deadline=None)
@given(length=st.integers(1, 10**9), max_length=st.integers(1, 10**6))
def test_parts_are_equal_and_cover_the_recording(length, max_length):
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
    stretches = find_speech(waveform, RATE)
    assert len(stretches) >= 4
    quiet = np.abs(waveform) < 1e-4
    for start, end in stretches:
        assert quiet[start:end].mean() < 0.3
    assert not find_speech(np.zeros(RATE, np.float32), RATE)
    # At 48 kHz, the same segments are found, in samples of that rate.
    others = find_speech(load_audio(speech / "max" / "long.flac", 48_000), 48_000)
    np.testing.assert_allclose(np.divide(others, 48_000), np.divide(stretches, RATE), atol=0.1)


@pytest.mark.parametrize("noise", [0.1, 0.01, 0.001])
def test_snr_is_estimated(noise):
    bursts = np.repeat([0, 1], RATE) * tone(2.0, amplitude=0.5)
    waveform = bursts + noise * np.random.default_rng(0).standard_normal(len(bursts))
    expected = 10 * np.log10(np.square(bursts).mean() / noise**2)
    assert estimate_snr(waveform.astype(np.float32), RATE) == pytest.approx(expected, abs=1.5)
    assert estimate_snr(waveform[:100].astype(np.float32), RATE) is None
