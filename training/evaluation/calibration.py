# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Calibration of a classifier's logits on validation recordings, and thresholds of its classes.

As in prediction, the probabilities of a recording are the mean over its windows. Calibration minimises the loss of
this mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from sanet_hf.inference.windows import THRESHOLD


# With fewer recordings, nothing is fitted.
MIN_RECORDINGS = 20
# With fewer recordings with or without a class, it keeps the threshold 0.5.
MIN_PER_CLASS = 5
MAX_TEMPERATURE = 20.0  # the minimum is 1 / 20
NUM_TEMPERATURES = 41  # in the first grid of the search
# Standard deviations of the normal priors of the logarithm of a class's scale, and of its offset.
SCALE_DEVIATION, OFFSET_DEVIATION = 1.0, 2.0
SMALLEST_PROBABILITY = 1e-12
MIN_SCORES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class WindowLogits(NamedTuple):
    """
    Logits of all windows of the recordings in a split.

    Attributes:
        files: Name of each recording.
        rows: Recording of each window, int of shape (windows,), in ascending order.
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
        """Return the true classes of each recording."""
        return self.references[np.flatnonzero(np.diff(self.rows, prepend=-1))].astype(int)

    def average(self, values: np.ndarray) -> np.ndarray:
        """
        Return the mean of values of shape (windows, ...) over the windows of each recording, without silent windows.
        If all windows of a recording are silent, all count.
        """
        first = np.flatnonzero(np.diff(self.rows, prepend=-1))  # window of each recording
        counted = ~self.silent
        counted |= (np.bincount(self.rows, counted) == 0)[self.rows]
        weights = counted.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
        return np.add.reduceat(values * weights, first) / np.add.reduceat(weights, first)

    def probabilities(self, logits: np.ndarray | None = None) -> np.ndarray:
        """Return the probabilities of each recording, shape (recordings, classes), from these or other logits."""
        return self.average(softmax_or_sigmoid(self.logits if logits is None else logits, self.is_multi_label))


@dataclass
class Calibration:
    """
    A calibration that was fitted on validation recordings.

    Attributes:
        scale, offset: Calibrated logits are `scale * logits + offset`: float64 of shape (1,) (single-label) or
            (classes,) (multi-label).
        num_recordings: Number of recordings in the fit.
        windows: Logits of the validation split before calibration; None if the model was trained further afterwards.
    """

    scale: np.ndarray
    offset: np.ndarray
    num_recordings: int
    windows: WindowLogits | None = None

    @property
    def temperature(self) -> float | None:
        """Return the divisor of the logits in single-label data, else None."""
        return float(1 / self.scale[0]) if len(self.scale) == 1 else None

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits, float32 of shape (..., classes)."""
        return (logits * self.scale + self.offset).astype(np.float32)

    def undo(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits before calibration, float32 of shape (..., classes)."""
        return ((logits - self.offset) / self.scale).astype(np.float32)


def softmax_or_sigmoid(logits: np.ndarray, is_multi_label: bool) -> np.ndarray:
    """Return probabilities from logits of shape (clips, classes): float64 for float64, else float32."""
    logits = np.asarray(logits)
    logits = logits if logits.dtype == np.float64 else logits.astype(np.float32)
    if is_multi_label:
        return (0.5 * (1 + np.tanh(0.5 * logits))).astype(logits.dtype)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, references: np.ndarray) -> float:
    """
    Return the mean negative log-likelihood in nats: over clips, or over all classes of all clips (multi-label).

    Args:
        probabilities, references: As in [`log_losses`].
    """
    return float(log_losses(probabilities, references).mean())


def log_losses(probabilities: np.ndarray, references: np.ndarray) -> np.ndarray:
    """
    Return negative log-likelihoods in nats, in the shape of the references.

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
    """Fit a temperature (single-label), or a scale and an offset per class (multi-label). Return the calibration."""
    num_recordings = len(windows.files)
    if windows.is_multi_label:
        return Calibration(*fit_scales_and_offsets(windows), num_recordings, windows)
    return Calibration(np.array([1 / fit_temperature(windows)]), np.zeros(1), num_recordings, windows)


def fit_temperature(windows: WindowLogits) -> float:
    """
    Return the divisor of the logits with the maximum likelihood: between 1/20 and 20, and 1 if no temperature lowers
    the loss.

    One recording is added that has each class with equal probability. Without it, a split without errors would lead to
    probabilities of 0 and 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    logits, references = windows.logits.astype(np.float64), windows.recording_references

    def losses(log_temperature: float) -> tuple[float, float]:
        probabilities = windows.probabilities(logits / np.exp(log_temperature))
        doubt = -np.log(probabilities.clip(SMALLEST_PROBABILITY)).mean() / len(references)
        loss = log_loss(probabilities, references)
        return loss, loss + doubt

    limit = np.log(MAX_TEMPERATURE)
    # Because of the mean over windows, the loss can have several minima.
    best, step = _search(lambda value: losses(value)[1], -limit, limit)
    bounds = (max(-limit, best - step), min(limit, best + step))
    best = float(minimize_scalar(lambda value: losses(value)[1], bounds=bounds, method="bounded").x)
    return float(np.exp(best)) if losses(best)[0] < losses(0.0)[0] else 1.0


def _search(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Return the best value of a grid from low to high, and the step of the grid."""
    values = np.linspace(low, high, NUM_TEMPERATURES)
    return float(values[np.argmin([function(value) for value in values])]), float(values[1] - values[0])


def fit_scales_and_offsets(windows: WindowLogits) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the scale and the offset of each class's logits, float64 of shape (classes,), with the maximum posterior
    probability. Normal priors on the logarithm of the scale and on the offset keep them near 1 and 0 for classes with
    few clips. The loss of each class decreases or stays equal.

    Source: Platt, Probabilistic outputs for support vector machines, 1999, with other priors.
    """
    references = windows.recording_references
    fitted = [_fit_class(windows, column, references[:, column]) for column in range(windows.logits.shape[1])]
    scales, offsets = np.array(fitted).T
    return np.exp(scales), offsets


def _fit_class(windows: WindowLogits, column: int, present: np.ndarray) -> np.ndarray:
    """Return the logarithm of the scale and the offset of one class."""
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
    Return the threshold of each class with the best F1, or 0.5 for a class with fewer than 5 positive or 5 negative
    clips. If several are equally good, return the one closest to 0.5.

    Args:
        probabilities: Shape (clips, classes).
        references: 0/1 of shape (clips, classes).
    """
    return [_best_threshold(*columns) for columns in zip(np.asarray(probabilities).T, np.asarray(references).T)]


def _best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    if min(present.sum(), len(present) - present.sum()) < MIN_PER_CLASS:
        return THRESHOLD
    levels, places = np.unique(scores.astype(np.float64), return_inverse=True)
    # Hits with a threshold just below each level.
    hits = np.bincount(places, present)[::-1].cumsum()[::-1]
    named = np.bincount(places)[::-1].cumsum()[::-1]
    f1 = 2 * hits / (named + present.sum())
    best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))
    edges = np.concatenate([[0.0], levels])
    # All values between two levels are equally good: use 0.5 if it is in between, else the middle.
    candidates = [
        THRESHOLD if edges[index] < THRESHOLD <= levels[index] else (edges[index] + levels[index]) / 2
        for index in best
    ]
    return round(float(min(candidates, key=lambda value: abs(value - THRESHOLD))), 6)


def coverage(
    probabilities: np.ndarray, is_right: np.ndarray, min_scores: Sequence[float] = MIN_SCORES
) -> list[tuple[float, int, int]]:
    """
    Return, for each minimum score, the score, the number of clips whose best class reaches it, and the number of these
    that are right.

    Args:
        probabilities: Shape (clips, classes), in single-label data.
        is_right: bool of shape (clips,).
    """
    best = np.max(probabilities, axis=1)
    return [(score, int((best >= score).sum()), int(is_right[best >= score].sum())) for score in min_scores]
