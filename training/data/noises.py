# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Generated background noise: what a classifier must not take for one of its classes.

A kind has two ranges of parameters. Training draws from the first. The count of false alarms draws from the second,
and from kinds that training never uses, so that it tells how the model takes noise that it has not heard.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq


# Kinds that a model may be trained on, and those that are kept for the count of false alarms.
TRAINED_KINDS = ("white", "pink", "brown", "hum", "rain", "wind", "crackle", "room", "silence")
UNHEARD_KINDS = ("hiss", "fan", "whine")
KINDS = TRAINED_KINDS + UNHEARD_KINDS
# RMS in dB of full scale. A feature extractor that sets the loudness leaves of it what 16 bits leave of faint noise.
LEVELS = (-60.0, -15.0)
SILENCE_LEVELS = (-76.0, -68.0)
LARGEST = 0.99
BITS_16 = 2**15
# Below it there is little that a microphone records.
LOWEST_FREQUENCY = 20.0
NUM_DECAYS = 3  # of bursts
DECIBELS_OF_OCTAVE = 20 * np.log10(2)  # by which the amplitude halves


def make_noise(
    kind: str,
    generator: np.random.Generator,
    num_samples: int,
    sampling_rate: int,
    level: float | None = None,
    is_unheard: bool = False,
) -> np.ndarray:
    """
    Return noise, float32 of shape (samples,), rounded to 16 bits as recordings are.

    Args:
        kind: One of [`KINDS`].
        generator: Decides all that is random: the same state gives the same noise.
        num_samples: At least 1.
        sampling_rate: In Hz.
        level: RMS in dB of full scale; drawn from [`LEVELS`] by default. Less where peaks would leave full scale.
            `silence` has a level of its own.
        is_unheard: Whether parameters come from the range that training does not use.
    """
    drawn = generator.uniform(*(SILENCE_LEVELS if kind == "silence" else LEVELS))
    level = drawn if level is None or kind == "silence" else level
    waveform = _MAKERS[kind](generator, num_samples, sampling_rate, int(is_unheard))
    waveform = waveform * (10 ** (level / 20) / max(_rms(waveform), 1e-12))
    waveform *= min(1.0, LARGEST / max(np.abs(waveform).max(), 1e-12))
    return (np.round(waveform * BITS_16) / BITS_16).astype(np.float32)


def _white(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    # Microphones are not flat. The plain one is for the count of false alarms.
    return _noise(generator, num_samples, rate, 0.0, ripple=(4.0, 0.0)[unheard])


def _pink(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    slope = generator.uniform(*((-4.5, -1.5), (-3.0, -3.0))[unheard])
    return _noise(generator, num_samples, rate, slope, ripple=(4.0, 0.0)[unheard])


def _brown(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    slope = generator.uniform(*((-8.0, -4.5), (-6.0, -6.0))[unheard])
    return _noise(generator, num_samples, rate, slope, ripple=(4.0, 0.0)[unheard])


def _hum(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """Mains at 50 or 60 Hz: harmonics that fall off, in faint noise."""
    mains = generator.choice([50.0, 60.0]) * generator.uniform(0.998, 1.002)
    decay = generator.uniform(*((0.7, 2.0), (0.4, 0.7))[unheard])
    tones = _tones(generator, num_samples, rate, mains, decay, num_harmonics=int(generator.integers(6, 24)))
    return _mix(tones, _noise(generator, num_samples, rate, generator.uniform(-4, 0)), generator.uniform(-45, -15))


def _rain(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """Drops, each a short burst, before the hiss of those far away."""
    per_second = 10 ** generator.uniform(*((1.5, 3.0), (3.0, 3.6))[unheard])
    drops = _bursts(generator, num_samples, rate, per_second, decays=(0.0005, 0.006), slope=generator.uniform(-3, 3))
    return _mix(_noise(generator, num_samples, rate, generator.uniform(-3, 1), 3.0), drops, generator.uniform(-12, 6))


def _wind(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """Low noise that swells and falls."""
    gusts = _slowly(generator, num_samples, rate, generator.uniform(*((0.2, 1.0), (1.0, 2.0))[unheard]))
    depth = generator.uniform(*((4.0, 10.0), (10.0, 14.0))[unheard])
    low = _noise(generator, num_samples, rate, generator.uniform(-11, -6), 3.0)
    return _mix(
        low * 10 ** (depth * gusts / 20), _noise(generator, num_samples, rate, -3.0), generator.uniform(-40, -15)
    )


def _crackle(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """Single clicks, as of a bad contact or an old record, in faint noise."""
    per_second = 10 ** generator.uniform(*((0.3, 1.5), (1.5, 1.9))[unheard])
    clicks = _bursts(generator, num_samples, rate, per_second, decays=(0.0001, 0.002), slope=generator.uniform(-3, 3))
    return _mix(clicks, _noise(generator, num_samples, rate, generator.uniform(-4, 0), 3.0), generator.uniform(-30, 0))


def _room(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """A quiet room: low noise, some hum, the hiss of the microphone."""
    low = _noise(generator, num_samples, rate, generator.uniform(*((-7.0, -4.0), (-9.0, -7.0))[unheard]), 6.0)
    room = _mix(low, _hum(generator, num_samples, rate, unheard), generator.uniform(-30, 0))
    return _mix(room, _noise(generator, num_samples, rate, 0.0), generator.uniform(-45, -20))


def _silence(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """What an input without a sound gives: faint noise of a few steps of 16 bits."""
    return _noise(generator, num_samples, rate, generator.uniform(*((-3.0, 0.0), (0.0, 1.0))[unheard]))


def _hiss(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """Noise of some octaves, such as that of steam, tyres or a valve."""
    low = 10 ** generator.uniform(np.log10(150), np.log10(rate / 6))
    high = min(low * 2 ** generator.uniform(1.0, 3.0), 0.48 * rate)

    def band(frequencies: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            octaves = np.maximum(np.log2(low / frequencies), np.log2(frequencies / high)).clip(0, 10)
        return 10 ** (-24 * octaves / 20)

    return _shape(generator.standard_normal(num_samples, np.float32), rate, band)


def _fan(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """A fan: tones of its blades, and air that they beat."""
    blades = generator.uniform(70, 240)
    tones = _tones(generator, num_samples, rate, blades, generator.uniform(1.0, 2.0), num_harmonics=12)
    air = _noise(generator, num_samples, rate, generator.uniform(-5, -2), 4.0)
    time = np.arange(num_samples) / rate
    air *= 1 + generator.uniform(0.1, 0.5) * np.sin(2 * np.pi * generator.uniform(4, 20) * time)
    return _mix(air, tones, generator.uniform(-20, 0))


def _whine(generator: np.random.Generator, num_samples: int, rate: int, unheard: int) -> np.ndarray:
    """High tones of electronics, which drift a little, in noise."""
    tones = np.zeros(num_samples)
    for _ in range(generator.integers(1, 4)):
        drift = 1 + 0.002 * _slowly(generator, num_samples, rate, 0.5)
        tones += generator.uniform(0.2, 1) * np.sin(
            2 * np.pi * np.cumsum(generator.uniform(0.1, 0.45) * drift) + generator.uniform(0, 2 * np.pi)
        )
    return _mix(tones, _noise(generator, num_samples, rate, generator.uniform(-4, 0), 3.0), generator.uniform(-25, 0))


_MAKERS: dict[str, Callable[[np.random.Generator, int, int, int], np.ndarray]] = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "rain": _rain,
    "wind": _wind,
    "crackle": _crackle,
    "room": _room,
    "silence": _silence,
    "hiss": _hiss,
    "fan": _fan,
    "whine": _whine,
}


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def _mix(one: np.ndarray, other: np.ndarray, level: float) -> np.ndarray:
    """Two sounds of shape (samples,), the RMS of the second by `level` dB above that of the first."""
    return one + other * (10 ** (level / 20) * _rms(one) / max(_rms(other), 1e-12))


def _shape(waveform: np.ndarray, rate: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A waveform of shape (samples,) by a gain that depends on the frequency in Hz."""
    padded = next_fast_len(max(2, len(waveform)), real=True)
    gains = gain(rfftfreq(padded, 1 / rate)).astype(np.float32)
    return irfft(rfft(waveform, padded) * gains, padded)[: len(waveform)]


def _noise(
    generator: np.random.Generator, num_samples: int, rate: int, slope: float, ripple: float = 0.0
) -> np.ndarray:
    """
    Gaussian noise.

    Args:
        slope: Of its power, in dB per octave: 0 is white, -3 pink, -6 brown.
        ripple: Standard deviation in dB of a random gain, which changes from one octave to the next.
    """
    edges = LOWEST_FREQUENCY * 2.0 ** np.arange(12)
    gains = ripple * generator.standard_normal(len(edges))

    def gain(frequencies: np.ndarray) -> np.ndarray:
        octaves = np.log2(np.maximum(frequencies, LOWEST_FREQUENCY) / LOWEST_FREQUENCY)
        return 10 ** ((slope * octaves + np.interp(octaves, np.arange(len(edges)), gains)) / 20)

    white = generator.standard_normal(num_samples, np.float32)
    return white if slope == ripple == 0 else _shape(white, rate, gain)


def _tones(
    generator: np.random.Generator, num_samples: int, rate: int, frequency: float, decay: float, num_harmonics: int
) -> np.ndarray:
    """Harmonics of a frequency in Hz, the k-th of an amplitude around 1 / k ** decay."""
    phase = 2j * np.pi * (np.arange(num_samples) * (frequency / rate) % 1)
    first = np.exp(phase).astype(np.complex64)
    power, tones = np.ones_like(first), np.zeros(num_samples, np.float32)
    for harmonic in range(1, num_harmonics + 1):
        amplitude, shift = generator.uniform(0.1, 1) / harmonic**decay, generator.uniform(0, 2 * np.pi)
        power *= first
        if harmonic * frequency < 0.48 * rate:
            tones += (power * np.complex64(amplitude * np.exp(1j * shift))).imag
    return tones


def _bursts(
    generator: np.random.Generator,
    num_samples: int,
    rate: int,
    per_second: float,
    decays: Sequence[float],
    slope: float,
) -> np.ndarray:
    """Short bursts of noise at random times, louder and softer ones, which die away in between `decays` seconds."""
    bursts = np.zeros(num_samples, np.float32)
    for decay in np.geomspace(*decays, NUM_DECAYS):
        impulses = np.zeros(num_samples, np.float32)
        # At least one, so that there is a sound.
        count = max(1, generator.poisson(per_second * num_samples / rate / NUM_DECAYS))
        np.add.at(impulses, generator.integers(num_samples, size=count), generator.lognormal(0.0, 0.7, count))
        length = max(2, round(6 * decay * rate))
        kernel = generator.standard_normal(length) * np.exp(-np.arange(length) / (decay * rate))
        kernel = (kernel / np.sqrt(np.sum(kernel**2))).astype(np.float32)
        padded = next_fast_len(num_samples + length, real=True)
        bursts += irfft(rfft(impulses, padded) * rfft(kernel, padded), padded)[:num_samples]
    octave = slope / DECIBELS_OF_OCTAVE
    return _shape(bursts, rate, lambda frequencies: (np.maximum(frequencies, 100.0) / 1000.0) ** octave)


def _slowly(generator: np.random.Generator, num_samples: int, rate: int, changes_per_second: float) -> np.ndarray:
    """A random line of deviation 1 or so, of shape (samples,), with so many new values in a second."""
    seconds = num_samples / rate
    values = generator.standard_normal(int(seconds * changes_per_second) + 3)
    times = (np.arange(len(values)) - generator.uniform()) / changes_per_second
    return np.interp(np.arange(num_samples) / rate, times, values)
