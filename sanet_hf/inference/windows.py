# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows of a recording, their scores, and segments of windows with one label."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedConfig


# Minimum probability of a predicted class of a multi-label model without thresholds.
THRESHOLD = 0.5
# Ways to combine window scores into a file score.
AGGREGATES = ("loud", "mean", "max")
# Label of single-label models if all scores are below the minimum.
UNKNOWN = "unknown"


@dataclass
class Window:
    """
    A part of a file. `start` and `end` are in seconds. `scores` is float32 of shape (classes,), or None for silence.
    `embedding` is float32 of shape (features,), or None. `power` is the mean square of the samples.
    """

    start: float
    end: float
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None
    power: float = 0.0


class Segment(NamedTuple):
    """
    Neighbouring windows with the same classes: start and end in seconds, and the class with the highest mean score.
    If no class is predicted, `labels` is empty, and `score` is None. `label` is then [`UNKNOWN`] for single-label
    models, and None for multi-label models, background and silence.
    """

    start: float
    end: float
    label: str | None
    score: float | None
    labels: tuple[str, ...] = ()


@dataclass
class Prediction:
    """
    The prediction for one file, or the `error` if it could not be classified.

    Attributes:
        path: The file. Arrays are named by their position, such as `#3`.
        labels: The classes, in the order of the model.
        scores: float32 of shape (classes,): probabilities, or the outputs of a regression. None if there is an error
            or all windows are silent.
        windows: The parts that were classified. A short file has one.
        duration: In seconds.
        embedding: Mean of the embeddings of the windows, float32 of shape (features,), or None.
        min_score: Minimum score of a predicted class: one for all classes, or float32 of shape (classes,).
        several: Whether a file can have several classes (multi-label).
        background: The background class, or None. It is never predicted. If it has the highest score, no class is
            predicted.
    """

    path: str
    labels: Sequence[str] = ()
    scores: np.ndarray | None = None
    windows: list[Window] = field(default_factory=list)
    duration: float | None = None
    error: str | None = None
    embedding: np.ndarray | None = None
    min_score: float | np.ndarray = -math.inf
    several: bool = False
    background: str | None = None

    @property
    def is_silent(self) -> bool:
        """Return whether the file was read, but all its windows are silent."""
        return self.error is None and self.scores is None

    @property
    def label(self) -> str | None:
        """Return the predicted class with the highest score. If no class is predicted, see [`Segment`]."""
        return self.name_class(self.scores)

    @property
    def score(self) -> float | None:
        """Return the highest score, or None if there are no scores."""
        return None if self.scores is None else float(self.scores.max())

    def rank_classes(self, scores: np.ndarray | None) -> list[int]:
        """
        Return the classes whose scores are at least `min_score`, best first. The list is empty if the background has
        the highest score. `scores` are those of the file or of a window.
        """
        if scores is None or self.is_background(scores):
            return []
        is_predicted = scores >= self.min_score
        ranked = [int(index) for index in np.argsort(-scores, kind="stable") if is_predicted[index]]
        return [index for index in ranked if self.labels[index] != self.background]

    def is_background(self, scores: np.ndarray) -> bool:
        """Return whether the background has the highest of the scores of this file or a window."""
        return self.background is not None and self.labels[int(scores.argmax())] == self.background

    def name_class(self, scores: np.ndarray | None) -> str | None:
        """
        Return the label for scores of this file or a window: the predicted class with the highest score. If no class
        is predicted, see [`Segment`].
        """
        predicted = self.rank_classes(scores)
        if predicted:
            return self.labels[predicted[0]]
        return None if scores is None or self.several or self.is_background(scores) else UNKNOWN


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """
    Yield windows of a waveform that is given in blocks, each with the index of its first sample. A window begins every
    `hop` samples. The last window ends with the waveform. A waveform shorter than a window yields one window.

    Args:
        blocks: float32 arrays of shape (samples,).
        window, hop: In samples.
    """
    buffer, start, is_first = np.zeros(0, np.float32), 0, True
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= (window if is_first else hop + window):
            # Samples before the last window are no longer needed.
            skipped = 0 if is_first else hop
            buffer, start, is_first = buffer[skipped:], start + skipped, False
            yield start, buffer[:window].copy()
    excess = len(buffer) if is_first else len(buffer) - window
    if excess:
        rest = buffer[-window:].copy()
        yield start + len(buffer) - len(rest), rest


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """Return the first samples of the windows of [`cut_windows`] for `length` samples."""
    if length <= window:
        return [0]
    starts = list(range(0, length - window + 1, hop))
    return starts if starts[-1] + window == length else [*starts, length - window]


def window_classes(prediction: Prediction) -> list[frozenset[int]]:
    """Return the predicted classes of each window: the best one, or all for multi-label models."""
    ranked = [prediction.rank_classes(window.scores) for window in prediction.windows]
    return [frozenset(ranks if prediction.several else ranks[:1]) for ranks in ranked]


def merge_windows(prediction: Prediction) -> list[Segment]:
    """
    Merge neighbouring windows of a file with the same predicted classes, or without any, and return the segments. If
    windows overlap, each counts up to the middle of the overlap.
    """
    windows = prediction.windows
    edges = [
        windows[0].start,
        *((first.end + second.start) / 2 for first, second in pairwise(windows)),
        windows[-1].end,
    ]
    classes = window_classes(prediction)
    names = [None if own else prediction.name_class(window.scores) for window, own in zip(windows, classes)]
    segments, first = [], 0
    for index in range(1, len(windows) + 1):
        if index == len(windows) or (classes[index], names[index]) != (classes[first], names[first]):
            label, score, labels = names[first], None, ()
            if classes[first]:
                scores = np.mean([window.scores for window in windows[first:index]], axis=0)
                best = sorted(classes[first], key=lambda place: -scores[place])
                labels = tuple(prediction.labels[place] for place in best)
                label, score = labels[0], float(scores[best[0]])
            segments.append(Segment(edges[first], edges[index], label, score, labels))
            first = index
    return segments


def predicted_classes(scores: np.ndarray, several: bool, thresholds: float | np.ndarray = THRESHOLD) -> np.ndarray:
    """
    Return bool of shape (clips, classes): the most probable class, or with `several` the classes that reach their
    thresholds.
    """
    return scores >= thresholds if several else np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]


def default_aggregate(config: PreTrainedConfig) -> str:
    """
    Return `loud` for single-label models, since quiet parts are pauses. Return `mean` for multi-label models and
    regressions, since any part can contain a class.
    """
    return "mean" if config.problem_type in ("multi_label_classification", "regression") else "loud"
