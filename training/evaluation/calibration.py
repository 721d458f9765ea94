# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Calibration of a classifier's logits on validation recordings, and the thresholds of its classes.

A recording's probabilities are the mean over its windows, as in use, so that logits are fitted through that mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from sanet_hf.inference.windows import THRESHOLD


# Recordings below which nothing is fitted.
MIN_RECORDINGS = 20
# Recordings with a class, and without it, below which it keeps the threshold of 0.5.
MIN_PER_CLASS = 5
MAX_TEMPERATURE = 20.0  # and the reciprocal of the lowest
NUM_TEMPERATURES = 41  # from which the search starts
# Standard deviations of the normal priors of the logarithm of a class's scale, and of its offset.
SCALE_DEVIATION, OFFSET_DEVIATION = 1.0, 2.0
SMALLEST_PROBABILITY = 1e-12
MIN_SCORES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class WindowLogits(NamedTuple):
    """
    Logits of all windows of the recordings of a split.

    Attributes:
        files: Name of each recording.
        rows: Recording of each window, int of shape (windows,), in order.
        silent: Whether a window is silent, bool of shape (windows,).
        logits: float32 of shape (windows, classes).
        references: True classes of each window: indices of shape (windows,), or 0/1 of shape (windows, classes).
    """

    files: Sequence[str]
    rows: np.ndarray
    silent: np.ndarray
    logits: np.ndarray
    references: np.ndarray

    @property
    def is_multi_label(self) -> bool:
        return self.references.ndim == 2

    @property
    def recording_references(self) -> np.ndarray:
        """The true classes of each recording."""
        return self.references[np.flatnonzero(np.diff(self.rows, prepend=-1))].astype(int)

    def average(self, values: np.ndarray) -> np.ndarray:
        """
        Return the mean of values of shape (windows, ...) over the windows of each recording, silent ones left out;
        over all, where all are silent.
        """
        first = np.flatnonzero(np.diff(self.rows, prepend=-1))  # window of each recording
        heard = ~self.silent
        heard |= (np.bincount(self.rows, heard) == 0)[self.rows]
        weights = heard.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
        return np.add.reduceat(values * weights, first) / np.add.reduceat(weights, first)

    def probabilities(self, logits: np.ndarray | None = None) -> np.ndarray:
        """Return the probabilities of each recording, shape (recordings, classes), from these or other logits."""
        return self.average(softmax_or_sigmoid(self.logits if logits is None else logits, self.is_multi_label))


@dataclass
class Calibration:
    """
    What was fitted on validation recordings.

    Attributes:
        scale, offset: Calibrated logits are `scale * logits + offset`: float64 of shape (1,), where a clip has one
            class, or (classes,).
        num_recordings: How many it was fitted on.
        windows: Logits of the validation split before calibration; None where the model was trained further since.
    """

    scale: np.ndarray
    offset: np.ndarray
    num_recordings: int
    windows: WindowLogits | None = None

    @property
    def temperature(self) -> float | None:
        """What logits are divided by, where a clip has one class."""
        return float(1 / self.scale[0]) if len(self.scale) == 1 else None

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits, float32 of shape (..., classes)."""
        return (logits * self.scale + self.offset).astype(np.float32)

    def undo(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits that were calibrated, float32 of shape (..., classes)."""
        return ((logits - self.offset) / self.scale).astype(np.float32)


def softmax_or_sigmoid(logits: np.ndarray, is_multi_label: bool) -> np.ndarray:
    """float32 probabilities from logits of shape (clips, classes); float64 from float64."""
    logits = np.asarray(logits)
    logits = logits if logits.dtype == np.float64 else logits.astype(np.float32)
    if is_multi_label:
        return (0.5 * (1 + np.tanh(0.5 * logits))).astype(logits.dtype)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, references: np.ndarray) -> float:
    """
    Return the mean negative log-likelihood in nats: over clips, or over all classes of all clips if a clip can have
    several.

    Args:
        probabilities, references: As in [`log_losses`].
    """
    return float(log_losses(probabilities, references).mean())


def log_losses(probabilities: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    Return negative log-likelihoods in nats, of the shape of the references.

    Args:
        probabilities: Shape (clips, classes).
        references: Indices of shape (clips,), or 0/1 of shape (clips, classes).
    """
    probabilities = np.asarray(probabilities, np.float64)
    if np.ndim(references) == 2:
        probabilities = np.where(references == 1, probabilities, 1 - probabilities)
    else:
        probabilities = probabilities[np.arange(len(references)), references]
    return -np.log(probabilities.clip(SMALLEST_PROBABILITY))


def fit(windows: WindowLogits) -> Calibration:
    """Fit a temperature, or where a clip can have several classes a scale and an offset of each."""
    num_recordings = len(windows.files)
    if windows.is_multi_label:
        return Calibration(*fit_scales_and_offsets(windows), num_recordings, windows)
    return Calibration(np.array([1 / fit_temperature(windows)]), np.zeros(1), num_recordings, windows)


def fit_temperature(windows: WindowLogits) -> float:
    """
    Return the temperature by which logits are divided, of maximum likelihood: between 1/20 and 20, and 1 where none
    lowers the loss.

    One recording is added that has each class with equal probability. Without it, a split without a mistake would lead
    to certainty.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    logits, references = windows.logits.astype(np.float64), windows.recording_references

    def losses(log_temperature: float) -> tuple[float, float]:
        probabilities = windows.probabilities(logits / np.exp(log_temperature))
        doubt = -np.log(probabilities.clip(SMALLEST_PROBABILITY)).mean() / len(references)
        loss = log_loss(probabilities, references)
        return loss, loss + doubt

    limit = np.log(MAX_TEMPERATURE)
    # Through the mean over windows the loss can have several minima.
    best, step = _search(lambda value: losses(value)[1], -limit, limit)
    bounds = (max(-limit, best - step), min(limit, best + step))
    best = float(minimize_scalar(lambda value: losses(value)[1], bounds=bounds, method="bounded").x)
    return float(np.exp(best)) if losses(best)[0] < losses(0.0)[0] else 1.0


def _search(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Return the best of some values from low to high, and their distance."""
    values = np.linspace(low, high, NUM_TEMPERATURES)
    return float(values[np.argmin([function(value) for value in values])]), float(values[1] - values[0])


def fit_scales_and_offsets(windows: WindowLogits) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the scale and the offset of each class's logits, float64 of shape (classes,), of maximum likelihood with
    normal priors on the logarithm of the scale and on the offset, which keep those of a class with few clips near 1
    and 0. The loss of no class becomes higher.

    Source: Platt, Probabilistic outputs for support vector machines, 1999; there with other priors.
    """
    references = windows.recording_references
    fitted = [_fit_class(windows, column, references[:, column]) for column in range(windows.logits.shape[1])]
    scales, offsets = np.array(fitted).T
    return np.exp(scales), offsets


def _fit_class(windows: WindowLogits, column: int, present: np.ndarray) -> np.ndarray:
    """Return the logarithm of the scale, and the offset, of one class."""
    logits = windows.logits[:, column].astype(np.float64)
    sign = np.where(present == 1, 1.0, -1.0)
    deviations = np.array([SCALE_DEVIATION, OFFSET_DEVIATION])

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = np.exp(parameters[0]) * logits
        scores = 0.5 * (1 + np.tanh(0.5 * (scaled + parameters[1])))
        slopes = scores * (1 - scores)
        right = 0.5 * (1 - sign) + sign * windows.average(scores)
        right = right.clip(SMALLEST_PROBABILITY)
        means = windows.average(np.stack([slopes * scaled, slopes], axis=1))
        gradient = -(sign / right) @ means + parameters / deviations**2
        return -np.log(right).sum() + 0.5 * np.square(parameters / deviations).sum(), gradient

    start = np.zeros(2)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=[(-3, 3), (-20, 20)]).x
    return found if loss_and_gradient(found)[0] < loss_and_gradient(start)[0] else start


def best_thresholds(probabilities: np.ndarray, references: np.ndarray) -> list[float]:
    """
    Return the probability from which to predict each class for the best F1, or 0.5 of a class that fewer than 5 clips
    have, or fewer than 5 have not. Of equally good ones, the nearest to 0.5 counts.

    Args:
        probabilities: Shape (clips, classes).
        references: 0/1 of shape (clips, classes).
    """
    return [_best_threshold(*columns) for columns in zip(np.asarray(probabilities).T, np.asarray(references).T)]


def _best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    if min(present.sum(), len(present) - present.sum()) < MIN_PER_CLASS:
        return THRESHOLD
    levels, places = np.unique(scores.astype(np.float64), return_inverse=True)
    # With a threshold below each of the levels.
    hits = np.bincount(places, present)[::-1].cumsum()[::-1]
    named = np.bincount(places)[::-1].cumsum()[::-1]
    f1 = 2 * hits / (named + present.sum())
    best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))
    edges = np.concatenate([[0.0], levels])
    # Any value above the level below, and up to the level, is as good: the middle, or 0.5 if it is one of them.
    candidates = [
        THRESHOLD if edges[index] < THRESHOLD <= levels[index] else (edges[index] + levels[index]) / 2
        for index in best
    ]
    return round(float(min(candidates, key=lambda value: abs(value - THRESHOLD))), 6)


def coverage(
    probabilities: np.ndarray, is_right: np.ndarray, min_scores: Sequence[float] = MIN_SCORES
) -> list[tuple[float, int, int]]:
    """
    Return, for each least score, the score, the clips whose best class has it, and how many of these are right.

    Args:
        probabilities: Shape (clips, classes), of clips that have one class.
        is_right: bool of shape (clips,).
    """
    best = np.max(probabilities, axis=1)
    return [(score, int((best >= score).sum()), int(is_right[best >= score].sum())) for score in min_scores]
