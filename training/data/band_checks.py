# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Check whether a sampling rate suits recordings: how much energy is above half of it, and how high they reach."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from sanet_hf.architectures import SAMPLING_RATES
from sanet_hf.audio.bandwidth import shares_above
from sanet_hf.errors import AudioError
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

# Number of recordings that are measured. They are evenly spread over all recordings, and therefore over classes.
MAX_MEASURED = 50
# A warning is given if more than the second fraction of recordings have more than the first fraction of their energy
# above half the sampling rate.
MUCH, SEVERAL = 0.1, 0.05
# Sampling rates to suggest in Hz, and the largest fraction of the energy that may be lost at the suggested rate.
COMMON_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
LITTLE = 0.02


class Band(NamedTuple):
    """
    A recording's sampling rate in Hz, and the fractions of its energy above half of the model's rate and above half of
    each of the `COMMON_RATES`.
    """

    name: str
    rate: int
    above: float
    above_common: tuple[float, ...] = (0.0,) * len(COMMON_RATES)


def measure_band(source: str | bytes, name: str, sampling_rate: int) -> Band | None:
    """Measure a recording for a model at `sampling_rate`; None if it cannot be read."""
    rates = [max(rate, sampling_rate) for rate in (sampling_rate, *COMMON_RATES)]
    try:
        rate, (above, *others) = shares_above(source, name, [rate / 2 for rate in rates])
    except AudioError:
        return None  # Reading the whole recording reports the error.
    return Band(name, rate, above, tuple(others))


def warn_of_band(recordings: Mapping[str, Dataset], sampling_rate: int) -> None:
    """
    Warn if recordings lose much of their energy at the sampling rate, or have lower sampling rates. 50 recordings are
    measured, 5 s of each.

    Args:
        recordings: Splits with the columns `audio` (not decoded) and `file`.
        sampling_rate: Sampling rate of the model in Hz.
    """
    places = [(split, index) for split, dataset in recordings.items() for index in range(len(dataset))]
    chosen = np.linspace(0, len(places) - 1, min(len(places), MAX_MEASURED)).round().astype(int)
    bands = []
    for split, row in (places[index] for index in chosen):
        recording = recordings[split][row]
        audio = recording["audio"]
        source = audio["path"] if audio["bytes"] is None else audio["bytes"]
        bands.append(measure_band(source, recording["file"], sampling_rate))
    for warning in describe_bands(bands, sampling_rate, len(places)):
        logger.warning(warning)


def describe_bands(bands: Collection[Band | None], sampling_rate: int, num_recordings: int | None = None) -> list[str]:
    """
    Return sentences on the energy that a model at `sampling_rate` cannot see, and on lower sampling rates.

    Args:
        bands: Result of [`measure_band`] for each measured recording.
        sampling_rate: In Hz.
        num_recordings: Number of all recordings, if only some were measured.
    """
    known = [band for band in bands if band is not None]
    total = f"{len(known)} recordings"
    if num_recordings is not None and num_recordings > len(bands):
        total = f"{len(known)} measured recordings (of {num_recordings:,} in total)"
    findings = []
    lost = [band for band in known if band.above > MUCH]
    if lost and len(lost) >= SEVERAL * len(known):
        findings.append(_describe_loss(lost, total, sampling_rate))
    low = [band for band in known if band.rate < sampling_rate]
    if low and 2 * len(low) > len(known):
        usual = max({band.rate for band in low}, key=[band.rate for band in low].count)
        findings.append(
            f"{len(low)} of {total} have lower sampling rates than {sampling_rate} Hz, such as "
            f"{usual} Hz: they contain nothing in the upper part of the model's frequency range."
            + (f" --sampling_rate {usual} trains a SANet in less time." if usual >= SAMPLING_RATES[0] else "")
        )
    return findings


def _describe_loss(lost: Sequence[Band], total: str, sampling_rate: int) -> str:
    mean = np.mean([band.above for band in lost])
    finding = (
        f"{len(lost)} of {total} have on average {100 * mean:.0f} % of their energy above "
        f"{sampling_rate / 2:g} Hz, half of the sampling rate of {sampling_rate} Hz. The model does not use it: "
        f"{shorten([band.name for band in lost], 3)}."
    )
    left = dict(zip(COMMON_RATES, np.mean([band.above_common for band in lost], axis=0)))
    higher = {rate: part for rate, part in left.items() if rate > sampling_rate}
    best = next((rate for rate, part in higher.items() if part <= LITTLE), None)
    if best is not None:
        return f"{finding} Train a SANet from scratch with --sampling_rate {best} to use it."
    highest = SAMPLING_RATES[1]
    beyond = (
        f"{100 * left[highest]:.0f} % of the energy is above {highest / 2:g} Hz, half of the highest supported rate "
        f"of {highest} Hz. No SANet can use it."
    )
    if mean - left[highest] > LITTLE and highest in higher:
        beyond += f" Train a SANet from scratch with --sampling_rate {highest} to use the rest."
    return f"{finding} {beyond}"
