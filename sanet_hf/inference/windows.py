# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows of a recording, their scores, and segments of windows with one label."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np


# Probability from which a class is predicted where a clip can have several.
THRESHOLD = 0.5


@dataclass
class Window:
    """
    A stretch of a file, in seconds; its score of each class, float32 of shape (classes,), or None where it is silent;
    and, if asked for, its embedding, float32 of shape (features,).
    """

    start: float
    end: float
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None


class Segment(NamedTuple):
    """
    Neighbouring windows with the same classes: the first and last second, and the class with the highest mean score.
    Label and score are None, and there are no labels, where no class is predicted.
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
        min_score: Score from which a class is predicted.
        several: Whether a file can have several classes: all those with such a score.
    """

    path: str
    labels: Sequence[str] = ()
    scores: np.ndarray | None = None
    windows: list[Window] = field(default_factory=list)
    duration: float | None = None
    error: str | None = None
    embedding: np.ndarray | None = None
    min_score: float = -math.inf
    several: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether the file was read, but all its windows are silent."""
        return self.error is None and self.scores is None

    @property
    def label(self) -> str | None:
        """The predicted class with the highest score, if there is one."""
        predicted = self.rank_classes(self.scores)
        return self.labels[predicted[0]] if predicted else None

    @property
    def score(self) -> float | None:
        """The highest score, if there are scores."""
        return None if self.scores is None else float(self.scores.max())

    def rank_classes(self, scores: np.ndarray | None) -> list[int]:
        """Return the classes whose score is `min_score` or more, of scores of this file or a window, best first."""
        if scores is None:
            return []
        return [int(index) for index in np.argsort(-scores, kind="stable") if scores[index] >= self.min_score]


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
    ranked = [prediction.rank_classes(window.scores) for window in windows]
    classes = [frozenset(ranks if prediction.several else ranks[:1]) for ranks in ranked]
    segments, first = [], 0
    for index in range(1, len(windows) + 1):
        if index == len(windows) or classes[index] != classes[first]:
            label, score, labels = None, None, ()
            if classes[first]:
                scores = np.mean([window.scores for window in windows[first:index]], axis=0)
                best = sorted(classes[first], key=lambda place: -scores[place])
                labels = tuple(prediction.labels[place] for place in best)
                label, score = labels[0], float(scores[best[0]])
            segments.append(Segment(edges[first], edges[index], label, score, labels))
            first = index
    return segments


def predicted_classes(scores: np.ndarray, several: bool) -> np.ndarray:
    """Return bool of shape (clips, classes): the most probable class, or, of `several`, those above `THRESHOLD`."""
    return scores >= THRESHOLD if several else np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]
