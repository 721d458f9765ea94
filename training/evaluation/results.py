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
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.inference.windows import THRESHOLD, predicted_classes
from sanet_hf.training.evaluation.calibration import WindowLogits, log_loss
from sanet_hf.training.evaluation.metric_names import CALIBRATION_METRICS
from sanet_hf.training.evaluation.metrics import PerClassMetrics, compute_metrics, expected_calibration_error


# Of the names of files with the baseline's predictions.
BASELINE_PREFIX = "baseline_"


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
        background: The class that is no detection, if the classifier has one.
        thresholds: Where multi-label, the probability from which each class is predicted, shape (classes,); None for
            0.5.
        predicted: Where multi-label, the predicted classes, 0/1 of shape (clips, classes), if not by thresholds.
    """

    split: str
    files: Sequence[str]
    labels: Sequence[str]
    references: np.ndarray
    probabilities: np.ndarray
    metrics: Mapping[str, float] = field(default_factory=dict)
    background: str | None = None
    thresholds: np.ndarray | None = None
    predicted: np.ndarray | None = None

    def __post_init__(self):
        if not self.metrics:
            self.metrics = compute_metrics(self.probabilities, self.references, self.left_out, self.predicted_matrix)

    @property
    def left_out(self) -> int | None:
        """
        The background where no clip is of it, as where a training has added it: in macro F1, it would count like a
        class that is never found.
        """
        index = self.labels.index(self.background) if self.background in self.labels else None
        return index if index is not None and not self.true_matrix[:, index].any() else None

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
        if self.predicted is not None:
            return self.predicted
        thresholds = THRESHOLD if self.thresholds is None else self.thresholds
        return predicted_classes(self.probabilities, self.is_multi_label, thresholds).astype(int)

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


def write_all_predictions(
    evaluations: Mapping[str, Evaluation], baselines: Mapping[str, Evaluation], output_dir: Path
) -> None:
    """Write `predictions/<split>.csv`, and `predictions/baseline_<split>.csv` of the baseline."""
    for prefix, own in (("", evaluations), (BASELINE_PREFIX, baselines)):
        for split, evaluation in own.items():
            write_predictions(evaluation, output_dir / "predictions" / f"{prefix}{split}.csv")


# Of a class with fewer clips the results say little.
FEW_CLIPS = 10


def in_order(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """By split: train, validation, test, then others."""
    return {split: evaluations[split] for split in (*SPLITS, *evaluations) if split in evaluations}


def accuracy_interval(evaluation: Evaluation) -> tuple[float, float]:
    """Where the accuracy lies with 95 % confidence (Wilson's interval), given that clips are independent."""
    return proportion_interval(int(evaluation.is_right.sum()), len(evaluation.files))


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of `count` of `total`; from 0 to 1 of none."""
    if not total:
        return 0.0, 1.0
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def summarize_calibration(evaluations: Mapping[str, Evaluation]) -> list[list[object]]:
    """
    Return a row for the validation and the test split where they have numbers before calibration: the split, what it
    is worth, expected calibration error before and after, and log loss before and after.
    """
    worth = {"validation": "fitted on it", "test": "not seen before"}
    return [
        [split, worth[split], *(evaluation.metrics[name] for name in CALIBRATION_METRICS)]
        for split, evaluation in evaluations.items()
        if split in worth and "ece_uncalibrated" in evaluation.metrics
    ]


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
    windows = WindowLogits(list(files), rows, silent, logits, np.asarray(references))
    return evaluate_windows(split, windows, config)


def evaluate_windows(
    split: str, windows: WindowLogits, config: PreTrainedConfig, uncalibrated: np.ndarray | None = None
) -> Evaluation:
    """
    Return what a classifier says of recordings, with `log_loss` among the metrics, and `ece_uncalibrated` and
    `log_loss_uncalibrated` where its logits were calibrated.

    Args:
        split: Name of the split.
        windows: The classifier's logits.
        config: The classifier's, with the thresholds of its classes.
        uncalibrated: Logits before calibration, shape (windows, classes).
    """
    evaluation = Evaluation(
        split=split,
        files=list(windows.files),
        labels=[config.id2label[index] for index in range(config.num_labels)],
        references=windows.recording_references,
        probabilities=windows.probabilities(),
        background=getattr(config, "background_label", None),
        thresholds=decision_threshold(config) if windows.is_multi_label else None,
    )
    metrics = {**evaluation.metrics, "log_loss": log_loss(evaluation.probabilities, evaluation.references)}
    metrics["accuracy_low"], metrics["accuracy_high"] = accuracy_interval(evaluation)
    if uncalibrated is not None:
        before = windows.probabilities(uncalibrated)
        metrics["ece_uncalibrated"] = expected_calibration_error(before, evaluation.references)
        metrics["log_loss_uncalibrated"] = log_loss(before, evaluation.references)
    evaluation.metrics = metrics
    return evaluation
