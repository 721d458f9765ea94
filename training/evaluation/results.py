# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of a split and their metrics: the result of an evaluation."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from transformers import PreTrainedConfig

from sanet_hf.audio.folders import SPLITS
from sanet_hf.inference.windows import predicted_classes
from sanet_hf.training.evaluation.metrics import PerClassMetrics, compute_metrics


@dataclass
class Evaluation:
    """
    Predictions of a classifier on a split.

    Attributes:
        split: Name of the split.
        files: Name of each clip.
        labels: Names of the classes, in the classifier's order.
        references: True classes: indices of shape (clips,), or 0/1 of shape (clips, classes) where multi-label.
        probabilities: float32 of shape (clips, classes).
        metrics: See [`metrics.compute_metrics`].
    """

    split: str
    files: Sequence[str]
    labels: Sequence[str]
    references: np.ndarray
    probabilities: np.ndarray
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not self.metrics:
            self.metrics = compute_metrics(self.probabilities, self.references)

    @property
    def is_multi_label(self) -> bool:
        return self.references.ndim == 2

    @cached_property
    def true_matrix(self) -> np.ndarray:
        """0/1 of shape (clips, classes)."""
        return self.references if self.is_multi_label else np.eye(len(self.labels), dtype=int)[self.references]

    @cached_property
    def predicted_matrix(self) -> np.ndarray:
        """0/1 of shape (clips, classes)."""
        return predicted_classes(self.probabilities, self.is_multi_label).astype(int)

    @cached_property
    def is_right(self) -> np.ndarray:
        """bool of shape (clips,): all classes of the clip are right."""
        return (self.true_matrix == self.predicted_matrix).all(axis=1)

    def per_class(self) -> dict[str, list]:
        """`precision`, `recall`, `f1` and `support` of each class."""
        return PerClassMetrics(keep_in_memory=True).compute(
            predictions=self.predicted_matrix, references=self.true_matrix
        )

    def names(self, matrix: np.ndarray) -> list[str]:
        """The classes of each clip in `true_matrix` or `predicted_matrix`; several are separated by `;`."""
        return [";".join(self.labels[index] for index in np.flatnonzero(row)) for row in matrix]


def softmax_or_sigmoid(logits: np.ndarray, is_multi_label: bool) -> np.ndarray:
    """float32 probabilities from logits of shape (clips, classes)."""
    logits = np.asarray(logits, np.float32)
    if is_multi_label:
        return (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def write_predictions(evaluation: Evaluation, path: str | Path) -> None:
    """Write a CSV file with the columns `file`, `label`, `prediction` and, per class, `probability_<class>`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = zip(
        evaluation.files,
        evaluation.names(evaluation.true_matrix),
        evaluation.names(evaluation.predicted_matrix),
        evaluation.probabilities,
    )
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction", *(f"probability_{label}" for label in evaluation.labels)])
        for name, label, prediction, probabilities in sorted(columns, key=lambda row: row[0]):
            writer.writerow([name, label, prediction, *(f"{probability:.6f}" for probability in probabilities)])


# Of a class with fewer clips the results say little.
FEW_CLIPS = 10


def in_order(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """By split: train, validation, test, then others."""
    return {split: evaluations[split] for split in (*SPLITS, *evaluations) if split in evaluations}


def accuracy_interval(evaluation: Evaluation) -> tuple[float, float]:
    """Where the accuracy lies with 95 % confidence (Wilson's interval), given that clips are independent."""
    interval = binomtest(int(evaluation.is_right.sum()), len(evaluation.files)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def list_classes(evaluation: Evaluation) -> list[dict]:
    """`label`, `precision`, `recall`, `f1` and `support` of each class; what has no clips to be of is `None`."""
    values = zip(evaluation.labels, evaluation.predicted_matrix.sum(axis=0), *evaluation.per_class().values())
    return [
        {
            "label": label,
            "precision": precision if num_predicted else None,
            "recall": recall if support else None,
            "f1": f1 if support else None,
            "support": support,
        }
        for label, num_predicted, precision, recall, f1, support in values
    ]


def average_windows(
    split: str,
    files: Sequence[str],
    rows: np.ndarray,
    silent: np.ndarray,
    config: PreTrainedConfig,
    logits: np.ndarray,
    references: np.ndarray,
) -> Evaluation:
    """
    Return what a classifier says of recordings: the mean of the probabilities of their windows, silent ones left out;
    of all, where all are silent.

    Args:
        split: Name of the split.
        files: Names of the recordings.
        rows: Recording of each window, int of shape (windows,), in order.
        silent: Whether a window is silent, bool of shape (windows,).
        config: The classifier's.
        logits: Of each window, shape (windows, classes).
        references: Of each window, as in [`Evaluation`].
    """
    first = np.flatnonzero(np.diff(rows, prepend=-1))  # window of each recording
    probabilities = softmax_or_sigmoid(logits, config.problem_type == "multi_label_classification")
    heard = ~silent
    heard |= (np.bincount(rows, heard) == 0)[rows]
    weights = heard[:, None].astype(np.float32)
    return Evaluation(
        split=split,
        files=list(files),
        labels=[config.id2label[index] for index in range(config.num_labels)],
        references=np.asarray(references)[first].astype(int),
        probabilities=np.add.reduceat(probabilities * weights, first) / np.add.reduceat(weights, first),
    )
