# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a sampling rate suits recordings: what they hold above half of it, and whether they reach that far."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from sanet_hf.architectures import SAMPLING_RATES
from sanet_hf.audio.bandwidth import shares_above
from sanet_hf.errors import AudioError
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

# Recordings of a run that are measured, evenly over all of them and so over their classes.
MAX_MEASURED = 50
# Part of a recording's energy above half the sampling rate that is worth a word, and part of the recordings with more.
MUCH, SEVERAL = 0.1, 0.05
# Rates that a model can be made for, the lowest that keeps all but so much of the energy is advised.
COMMON_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
LITTLE = 0.02


class Band(NamedTuple):
    """
    A recording's sampling rate in Hz, and the parts of its energy above half of the model's rate and of each of the
    `COMMON_RATES`.
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
        return None  # Whoever reads it whole reports that.
    return Band(name, rate, above, tuple(others))


def warn_of_band(recordings: Mapping[str, Dataset], sampling_rate: int) -> None:
    """
    Warn where recordings lose much of their energy to the sampling rate, or do not reach as high. A sample of 50 is
    measured, 5 s of each.

    Args:
        recordings: Splits with the columns `audio` (not decoded) and `file`.
        sampling_rate: Of the model, in Hz.
    """
    places = [(split, index) for split, dataset in recordings.items() for index in range(len(dataset))]
    chosen = np.linspace(0, len(places) - 1, min(len(places), MAX_MEASURED)).round().astype(int)
    bands = []
    for split, row in (places[index] for index in chosen):
        recording = recordings[split][row]
        audio = recording["audio"]
        source = audio["path"] if audio["bytes"] is None else audio["bytes"]
        bands.append(measure_band(source, recording["file"], sampling_rate))
    for warning in describe_bands(bands, sampling_rate):
        logger.warning(warning)


def describe_bands(bands: Iterable[Band | None], sampling_rate: int) -> list[str]:
    """Sentences about what a model at `sampling_rate` does not hear of recordings, and whether they reach as high."""
    known = [band for band in bands if band is not None]
    findings = []
    lost = [band for band in known if band.above > MUCH]
    if lost and len(lost) >= SEVERAL * len(known):
        findings.append(_describe_loss(lost, len(known), sampling_rate))
    low = [band for band in known if band.rate < sampling_rate]
    if low and 2 * len(low) > len(known):
        usual = max({band.rate for band in low}, key=[band.rate for band in low].count)
        findings.append(
            f"{len(low)} of {len(known)} recordings have lower sampling rates than {sampling_rate} Hz, such as "
            f"{usual} Hz: they hold nothing in the upper part of what the model hears."
            + (f" --sampling_rate {usual} trains a SANet in less time." if usual >= SAMPLING_RATES[0] else "")
        )
    return findings


def _describe_loss(lost: Sequence[Band], count: int, sampling_rate: int) -> str:
    mean = np.mean([band.above for band in lost])
    finding = (
        f"{len(lost)} of {count} recordings have {100 * mean:.0f} % of their energy above {sampling_rate / 2:g} Hz, "
        f"half of the sampling rate of {sampling_rate} Hz, where the model does not hear it: "
        f"{shorten([band.name for band in lost], 3)}."
    )
    left = dict(zip(COMMON_RATES, np.mean([band.above_common for band in lost], axis=0)))
    higher = {rate: part for rate, part in left.items() if rate > sampling_rate}
    best = next((rate for rate, part in higher.items() if part <= LITTLE), None)
    if best is not None:
        return f"{finding} A SANet from scratch with --sampling_rate {best} hears it."
    highest = SAMPLING_RATES[1]
    beyond = (
        f"{100 * left[highest]:.0f} % of the energy is above {highest / 2:g} Hz, beyond the highest rate of {highest} "
        "Hz: no model here hears that."
    )
    if mean - left[highest] > LITTLE and highest in higher:
        beyond += f" A SANet from scratch with --sampling_rate {highest} hears the rest."
    return f"{finding} {beyond}"
