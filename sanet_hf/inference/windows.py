# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows of a recording, their scores, and segments of windows with one label."""

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
    A stretch of a file, in seconds; its score of each class, float32 of shape (classes,); and, if asked for, its
    embedding, float32 of shape (features,).
    """

    start: float
    end: float
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None


class Segment(NamedTuple):
    """Neighbouring windows with one label: its first and last second, and their mean score."""

    start: float
    end: float
    label: str
    score: float


@dataclass
class Prediction:
    """
    What a model says of one file, or the `error` that kept the file from being classified.

    Attributes:
        path: The file; what is given as an array is called by its place, such as `#3`.
        labels: The classes, in the model's order.
        scores: float32 of shape (classes,): probabilities, or, of a regression, the model's outputs.
        windows: The stretches that were classified; a short file is one.
        duration: In seconds.
        embedding: If asked for, the mean of the windows', float32 of shape (features,).
    """

    path: str
    labels: Sequence[str] = ()
    scores: np.ndarray | None = None
    windows: list[Window] = field(default_factory=list)
    duration: float | None = None
    error: str | None = None
    embedding: np.ndarray | None = None

    @property
    def label(self) -> str | None:
        """The class with the highest score."""
        return None if self.scores is None else self.labels[int(self.scores.argmax())]

    @property
    def score(self) -> float | None:
        """The highest score."""
        return None if self.scores is None else float(self.scores.max())


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
    The windows of a file, neighbours with one label as one segment. Where windows overlap, each counts up to the
    middle of the overlap.
    """
    windows = prediction.windows
    edges = [
        windows[0].start,
        *((first.end + second.start) / 2 for first, second in pairwise(windows)),
        windows[-1].end,
    ]
    best = [int(window.scores.argmax()) for window in windows]
    segments, first = [], 0
    for index in range(1, len(windows) + 1):
        if index == len(windows) or best[index] != best[first]:
            score = float(np.mean([window.scores[best[first]] for window in windows[first:index]]))
            segments.append(Segment(edges[first], edges[index], prediction.labels[best[first]], score))
            first = index
    return segments


def predicted_classes(scores: np.ndarray, several: bool) -> np.ndarray:
    """Return bool of shape (clips, classes): the most probable class, or, of `several`, those above `THRESHOLD`."""
    return scores >= THRESHOLD if several else np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]
