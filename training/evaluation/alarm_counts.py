# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Counts of detections on background, for reports."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


# More false alarms than this give a warning.
MOST_PER_HOUR = 2.0


class Count(NamedTuple):
    """Detections on one kind of background: per class, and the number of windows with a detection and in total."""

    kind: str
    hours: float
    detections: dict[str, int]
    num_windows: int
    num_detected: int

    @property
    def per_hour(self) -> float:
        """Return the number of detections per hour of this kind."""
        return sum(self.detections.values()) / self.hours


@dataclass
class FalseAlarms:
    """
    Detections on background.

    Attributes:
        counts: Counts for each kind of generated noise.
        recorded: Count for recordings of `background_dir`, if there are any.
        min_score: Smallest score of a detection in single-label data; `None` for the model's thresholds.
        alike: Kinds that were not used in training, with the class that each sounds like, and kinds that are
            called like a class. They do not count.
        has_background: Whether the model was trained on background.
    """

    counts: list[Count]
    recorded: Count | None = None
    min_score: float | None = None
    alike: Mapping[str, str] = field(default_factory=dict)
    has_background: bool = False

    @property
    def hours(self) -> float:
        """Return the hours of noise that count."""
        return sum(count.hours for count in self._counted)

    @property
    def per_hour(self) -> float:
        """Return the number of detections per hour of noise."""
        return _total(self._counted).total() / self.hours

    @property
    def labels(self) -> list[str]:
        """Return the detected classes, the most frequent first."""
        return [label for label, _ in _total(self._all).most_common()]

    @property
    def advice(self) -> str | None:
        """Return a remedy if there are too many false alarms."""
        if self.per_hour <= MOST_PER_HOUR:
            return None
        if not self.has_background:
            return (
                "The model knows only its classes, so it assigns every sound to one of them. Train with --background "
                "auto, which adds generated noise and quiet parts of the recordings, or require a higher score in "
                "prediction (--min_score)."
            )
        return (
            "Add recordings of the background where the model is used (--background_dir), or require a higher score "
            "(--min_score)."
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Return the false alarms per hour for `all_results.json`: in total and by kind."""
        metrics = {"false_alarms_per_hour": self.per_hour, "false_alarms_hours": self.hours}
        return metrics | {f"false_alarms_per_hour_{count.kind}": count.per_hour for count in self._all}

    @property
    def summary(self) -> str:
        """Return a summary of one or two sentences."""
        total = _total(self._counted)
        text = f"{self.per_hour:.3g} false alarms per hour of generated noise (tested on {60 * self.hours:.0f} min"
        text += f", score of at least {self.min_score:g})" if self.min_score is not None else ")"
        if total:
            text += ", with detections of " + ", ".join(f"{label} ({count})" for label, count in total.most_common(5))
        if self.recorded:
            text += f"; {self.recorded.per_hour:.3g} per hour of --background_dir ({60 * self.recorded.hours:.1f} min)"
        return text

    @property
    def _all(self) -> list[Count]:
        return [*self.counts, *([self.recorded] if self.recorded else [])]

    @property
    def _counted(self) -> list[Count]:
        return [count for count in self.counts if count.kind not in self.alike]


def _total(counts: Iterable[Count]) -> Counter:
    """Return the number of detections per class."""
    total: Counter = Counter()
    for count in counts:
        total.update(count.detections)
    return total
