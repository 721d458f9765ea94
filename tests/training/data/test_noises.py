# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Generated noise: finite, of the right length and level, reproducible by seed."""

import numpy as np
import pytest

from sanet_hf.training.data.noises import KINDS, LARGEST, SILENCE_LEVELS, TRAINED_KINDS, UNHEARD_KINDS, make_noise


RATE = 8000


def level_of(waveform) -> float:
    return 20 * np.log10(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


@pytest.mark.parametrize("is_held_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_its_length_and_level(kind, is_held_out):
    def make(seed: int, num_samples: int = 2 * RATE, level: float | None = -40.0) -> np.ndarray:
        return make_noise(kind, np.random.default_rng(seed), num_samples, RATE, level, is_held_out)

    waveform = make(0)
    assert waveform.shape == (2 * RATE,) and waveform.dtype == np.float32 and np.isfinite(waveform).all()
    low, high = SILENCE_LEVELS if kind == "silence" else (-40.0, -40.0)
    assert low - 0.5 <= level_of(waveform) <= high + 0.5
    assert np.array_equal(waveform, make(0)) and not np.array_equal(waveform, make(1))
    # 16-bit files store the samples without rounding.
    assert np.array_equal(waveform, np.round(waveform * 2**15) / 2**15)
    for length in (1, 2, 301):
        assert make(2, length).shape == (length,) and np.isfinite(make(2, length)).all()
    # Loud noise is not clipped.
    assert np.abs(make(3, level=10.0)).max() <= LARGEST + 2**-15


def test_false_alarm_noise_differs_from_training_noise():
    """Counting false alarms uses other parameter ranges than training, and additional kinds of noise."""
    for kind in TRAINED_KINDS:
        one, other = (make_noise(kind, np.random.default_rng(0), RATE, RATE, -20.0, held_out) for held_out in (0, 1))
        assert not np.array_equal(one, other), kind
    assert not set(TRAINED_KINDS) & set(UNHEARD_KINDS)


@pytest.mark.parametrize(("kind", "slope"), [("white", 0), ("pink", -3), ("brown", -6)])
def test_noise_has_its_slope(kind, slope):
    """Slopes are in dB per octave."""
    waveform = make_noise(kind, np.random.default_rng(0), 8 * RATE, RATE, -30.0, is_held_out=True)
    power = np.abs(np.fft.rfft(waveform)) ** 2
    bands = [10 * np.log10(power[8 * low : 16 * low].mean()) for low in (100, 200, 400, 800)]
    assert np.diff(bands) == pytest.approx([slope] * 3, abs=1)
