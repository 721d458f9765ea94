# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Generated background noise, which a classifier must not classify as one of its classes.

A kind has two ranges of parameters. Training uses the first. The count of false alarms uses the second, and kinds that
training never uses, so that it measures the response to new noise.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq


# Kinds for training, and kinds that are held out for the count of false alarms.
TRAINED_KINDS = ("white", "pink", "brown", "hum", "rain", "wind", "crackle", "room", "silence")
UNHEARD_KINDS = ("hiss", "fan", "whine")
KINDS = TRAINED_KINDS + UNHEARD_KINDS
# Range of the RMS in dBFS. Noise is rounded to 16 bits at this level, before loudness normalisation.
LEVELS = (-60.0, -15.0)
SILENCE_LEVELS = (-76.0, -68.0)
LARGEST = 0.99
BITS_16 = 2**15
# Microphones record little below this frequency in Hz.
LOWEST_FREQUENCY = 20.0
NUM_DECAYS = 3  # different decays of bursts
DECIBELS_OF_OCTAVE = 20 * np.log10(2)  # the amplitude halves


def make_noise(
    kind: str,
    generator: np.random.Generator,
    num_samples: int,
    sampling_rate: int,
    level: float | None = None,
    is_held_out: bool = False,
) -> np.ndarray:
    """
    Return noise, float32 of shape (samples,), rounded to 16 bits like recordings.

    Args:
        kind: One of [`KINDS`].
        generator: Random generator. The same state gives the same noise.
        num_samples: At least 1.
        sampling_rate: In Hz.
        level: RMS in dBFS (default: random within [`LEVELS`]). It is lower if peaks would clip. `silence`
            has its own level.
        is_held_out: Whether parameters come from the range that training does not use.
    """
    drawn = generator.uniform(*(SILENCE_LEVELS if kind == "silence" else LEVELS))
    level = drawn if level is None or kind == "silence" else level
    waveform = _MAKERS[kind](generator, num_samples, sampling_rate, int(is_held_out))
    waveform = waveform * (10 ** (level / 20) / max(_rms(waveform), 1e-12))
    waveform *= min(1.0, LARGEST / max(np.abs(waveform).max(), 1e-12))
    return (np.round(waveform * BITS_16) / BITS_16).astype(np.float32)


def _white(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    # Microphones do not have a flat response. Flat noise is held out for the count of false alarms.
    return _noise(generator, num_samples, rate, 0.0, ripple=(4.0, 0.0)[held_out])


def _pink(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    slope = generator.uniform(*((-4.5, -1.5), (-3.0, -3.0))[held_out])
    return _noise(generator, num_samples, rate, slope, ripple=(4.0, 0.0)[held_out])


def _brown(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    slope = generator.uniform(*((-8.0, -4.5), (-6.0, -6.0))[held_out])
    return _noise(generator, num_samples, rate, slope, ripple=(4.0, 0.0)[held_out])


def _hum(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """Mains hum at 50 or 60 Hz: decaying harmonics in faint noise."""
    mains = generator.choice([50.0, 60.0]) * generator.uniform(0.998, 1.002)
    decay = generator.uniform(*((0.7, 2.0), (0.4, 0.7))[held_out])
    tones = _tones(generator, num_samples, rate, mains, decay, num_harmonics=int(generator.integers(6, 24)))
    return _mix(tones, _noise(generator, num_samples, rate, generator.uniform(-4, 0)), generator.uniform(-45, -15))


def _rain(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """Rain: near drops as short bursts, and the hiss of distant drops."""
    per_second = 10 ** generator.uniform(*((1.5, 3.0), (3.0, 3.6))[held_out])
    drops = _bursts(generator, num_samples, rate, per_second, decays=(0.0005, 0.006), slope=generator.uniform(-3, 3))
    return _mix(_noise(generator, num_samples, rate, generator.uniform(-3, 1), 3.0), drops, generator.uniform(-12, 6))


def _wind(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """Wind: low-frequency noise with a slowly changing level."""
    gusts = _slowly(generator, num_samples, rate, generator.uniform(*((0.2, 1.0), (1.0, 2.0))[held_out]))
    depth = generator.uniform(*((4.0, 10.0), (10.0, 14.0))[held_out])
    low = _noise(generator, num_samples, rate, generator.uniform(-11, -6), 3.0)
    return _mix(
        low * 10 ** (depth * gusts / 20), _noise(generator, num_samples, rate, -3.0), generator.uniform(-40, -15)
    )


def _crackle(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """Single clicks in faint noise, such as from a bad contact or an old record."""
    per_second = 10 ** generator.uniform(*((0.3, 1.5), (1.5, 1.9))[held_out])
    clicks = _bursts(generator, num_samples, rate, per_second, decays=(0.0001, 0.002), slope=generator.uniform(-3, 3))
    return _mix(clicks, _noise(generator, num_samples, rate, generator.uniform(-4, 0), 3.0), generator.uniform(-30, 0))


def _room(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """A quiet room: low-frequency noise, some hum, and the hiss of the microphone."""
    low = _noise(generator, num_samples, rate, generator.uniform(*((-7.0, -4.0), (-9.0, -7.0))[held_out]), 6.0)
    room = _mix(low, _hum(generator, num_samples, rate, held_out), generator.uniform(-30, 0))
    return _mix(room, _noise(generator, num_samples, rate, 0.0), generator.uniform(-45, -20))


def _silence(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """The signal of a silent input: noise of a few 16-bit steps."""
    return _noise(generator, num_samples, rate, generator.uniform(*((-3.0, 0.0), (0.0, 1.0))[held_out]))


def _hiss(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """Noise that spans a few octaves, such as from steam, tyres or a valve."""
    low = 10 ** generator.uniform(np.log10(150), np.log10(rate / 6))
    high = min(low * 2 ** generator.uniform(1.0, 3.0), 0.48 * rate)

    def band(frequencies: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            octaves = np.maximum(np.log2(low / frequencies), np.log2(frequencies / high)).clip(0, 10)
        return 10 ** (-24 * octaves / 20)

    return _shape(generator.standard_normal(num_samples, np.float32), rate, band)


def _fan(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """A fan: tones of its blades and the noise of the air."""
    blades = generator.uniform(70, 240)
    tones = _tones(generator, num_samples, rate, blades, generator.uniform(1.0, 2.0), num_harmonics=12)
    air = _noise(generator, num_samples, rate, generator.uniform(-5, -2), 4.0)
    time = np.arange(num_samples) / rate
    air *= 1 + generator.uniform(0.1, 0.5) * np.sin(2 * np.pi * generator.uniform(4, 20) * time)
    return _mix(air, tones, generator.uniform(-20, 0))


def _whine(generator: np.random.Generator, num_samples: int, rate: int, held_out: int) -> np.ndarray:
    """High tones of electronics, with a slight drift, in noise."""
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
    """Mix two sounds of shape (samples,). The RMS of the second is `level` dB above that of the first."""
    return one + other * (10 ** (level / 20) * _rms(one) / max(_rms(other), 1e-12))


def _shape(waveform: np.ndarray, rate: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Filter a waveform of shape (samples,) by a gain that depends on the frequency in Hz."""
    padded = next_fast_len(max(2, len(waveform)), real=True)
    gains = gain(rfftfreq(padded, 1 / rate)).astype(np.float32)
    return irfft(rfft(waveform, padded) * gains, padded)[: len(waveform)]


def _noise(
    generator: np.random.Generator, num_samples: int, rate: int, slope: float, ripple: float = 0.0
) -> np.ndarray:
    """
    Return Gaussian noise.

    Args:
        slope: Slope of its power in dB per octave: 0 is white, -3 pink, -6 brown.
        ripple: Standard deviation in dB of a random gain that differs between octaves.
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
    """Return harmonics of a frequency in Hz. The k-th has an amplitude of about 1 / k ** decay."""
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
    """Return short noise bursts at random times, with random levels. They decay within `decays` (range in seconds)."""
    bursts = np.zeros(num_samples, np.float32)
    for decay in np.geomspace(*decays, NUM_DECAYS):
        impulses = np.zeros(num_samples, np.float32)
        # At least one burst, so that the waveform is not silent.
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
    """Return a random curve of shape (samples,), with a standard deviation of about 1."""
    seconds = num_samples / rate
    values = generator.standard_normal(int(seconds * changes_per_second) + 3)
    times = (np.arange(len(values)) - generator.uniform()) / changes_per_second
    return np.interp(np.arange(num_samples) / rate, times, values)
