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


# Probability from which a class is predicted where a clip can have several and the model has no thresholds.
THRESHOLD = 0.5
# How the windows of a file make its scores.
AGGREGATES = ("loud", "mean", "max")
# Label of audio without a class whose score is high enough, where a clip has one class.
UNKNOWN = "unknown"


@dataclass
class Window:
    """
    A stretch of a file, in seconds; its score of each class, float32 of shape (classes,), or None where it is silent;
    if asked for, its embedding, float32 of shape (features,); and the mean square of its samples.
    """

    start: float
    end: float
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None
    power: float = 0.0


class Segment(NamedTuple):
    """
    Neighbouring windows with the same classes: the first and last second, and the class with the highest mean score.
    Where no class is predicted there are no labels: the label is [`UNKNOWN`] where a clip has one class, and otherwise
    None, as of silence; so is the score.
    """

    start: float
    end: float
    label: str | None
    score: float | None
    labels: tuple[str, ...] = ()


@dataclass
class Prediction:
    """
    What a model says of one file, or the `error` that kept the file from being classified.

    Attributes:
        path: The file; what is given as an array is called by its place, such as `#3`.
        labels: The classes, in the model's order.
        scores: float32 of shape (classes,): probabilities, or, of a regression, the model's outputs. None where there
            is an error, or where all windows are silent.
        windows: The stretches that were classified; a short file is one.
        duration: In seconds.
        embedding: If asked for, the mean of the windows', float32 of shape (features,).
        min_score: Score from which a class is predicted: one for all classes, or float32 of shape (classes,).
        several: Whether a file can have several classes: all those with such a score.
        background: The class that is no detection: it is never predicted, and no other is where it has the highest
            score. None where there is no such class.
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
        """Whether the file was read, but all its windows are silent."""
        return self.error is None and self.scores is None

    @property
    def label(self) -> str | None:
        """The predicted class with the highest score; see [`Segment`] for where there is none."""
        return self.name_class(self.scores)

    @property
    def score(self) -> float | None:
        """The highest score, if there are scores."""
        return None if self.scores is None else float(self.scores.max())

    def rank_classes(self, scores: np.ndarray | None) -> list[int]:
        """
        Return the classes whose score is `min_score` or more, of scores of this file or a window, best first; none
        where the background has the highest score.
        """
        if scores is None or self.is_background(scores):
            return []
        is_predicted = scores >= self.min_score
        ranked = [int(index) for index in np.argsort(-scores, kind="stable") if is_predicted[index]]
        return [index for index in ranked if self.labels[index] != self.background]

    def is_background(self, scores: np.ndarray) -> bool:
        """Whether the background has the highest of the scores of this file or a window."""
        return self.background is not None and self.labels[int(scores.argmax())] == self.background

    def name_class(self, scores: np.ndarray | None) -> str | None:
        """
        Return the label for scores of this file or a window: of the predicted class with the highest score; none where
        the background has it.
        """
        predicted = self.rank_classes(scores)
        if predicted:
            return self.labels[predicted[0]]
        return None if scores is None or self.several or self.is_background(scores) else UNKNOWN


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """
    Windows of a waveform that comes in blocks, each with the index of its first sample: a window every `hop` samples,
    and a last one that ends with the waveform. What is shorter than a window is one.

    Args:
        blocks: float32 arrays of shape (samples,).
        window, hop: In samples.
    """
    buffer, start, is_first = np.zeros(0, np.float32), 0, True
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= (window if is_first else hop + window):
            # What came before the last window given is no longer needed.
            skipped = 0 if is_first else hop
            buffer, start, is_first = buffer[skipped:], start + skipped, False
            yield start, buffer[:window].copy()
    excess = len(buffer) if is_first else len(buffer) - window
    if excess:
        rest = buffer[-window:].copy()
        yield start + len(buffer) - len(rest), rest


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """First samples of the windows that [`cut_windows`] makes of `length` samples."""
    if length <= window:
        return [0]
    starts = list(range(0, length - window + 1, hop))
    return starts if starts[-1] + window == length else [*starts, length - window]


def window_classes(prediction: Prediction) -> list[frozenset[int]]:
    """Return the predicted classes of each window: the best one, or all where a file can have several."""
    ranked = [prediction.rank_classes(window.scores) for window in prediction.windows]
    return [frozenset(ranks if prediction.several else ranks[:1]) for ranks in ranked]


def merge_windows(prediction: Prediction) -> list[Segment]:
    """
    The windows of a file, neighbours with the same predicted classes as one segment; so are neighbours without any.
    Where windows overlap, each counts up to the middle of the overlap.
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
    Return bool of shape (clips, classes): the most probable class, or, of `several`, those that reach their threshold.
    """
    return scores >= thresholds if several else np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]


def default_aggregate(config: PreTrainedConfig) -> str:
    """
    Return `loud` where a file has one class: parts much quieter than the loudest are not its sound. Where it can have
    several, any part may have one: `mean`.
    """
    return "mean" if config.problem_type in ("multi_label_classification", "regression") else "loud"
