# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation: predictions of a split and their metrics."""

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
from sanet_hf.utils.formatting import shorten


# Prefix of the names of files with the baseline's predictions.
BASELINE_PREFIX = "baseline_"


@dataclass
class Evaluation:
    """
    Predictions of a classifier on a split.

    Attributes:
        split: Name of the split.
        files: Name of each clip.
        labels: Names of the classes, in the classifier's order.
        references: True classes: indices of shape (clips,), or 0/1 of shape (clips, classes) in multi-label data.
        probabilities: float32 of shape (clips, classes).
        metrics: See [`metrics.compute_metrics`].
        background: The background class, which is not a detection, if the classifier has one.
        thresholds: Threshold of each class, shape (classes,), in multi-label data; None for 0.5.
        predicted: Predicted classes, 0/1 of shape (clips, classes), in multi-label data, if they do not follow from
            the thresholds.
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
        Return the background class if no clip has it, because training added it. In macro F1, it would count like a
        class that is never found. Else return None.
        """
        index = self.labels.index(self.background) if self.background in self.labels else None
        return index if index is not None and not self.true_matrix[:, index].any() else None

    @property
    def is_multi_label(self) -> bool:
        return self.references.ndim == 2

    @cached_property
    def true_matrix(self) -> np.ndarray:
        """Return the true classes, 0/1 of shape (clips, classes)."""
        return self.references if self.is_multi_label else np.eye(len(self.labels), dtype=int)[self.references]

    @cached_property
    def predicted_matrix(self) -> np.ndarray:
        """Return the predicted classes, 0/1 of shape (clips, classes)."""
        if self.predicted is not None:
            return self.predicted
        thresholds = THRESHOLD if self.thresholds is None else self.thresholds
        return predicted_classes(self.probabilities, self.is_multi_label, thresholds).astype(int)

    @cached_property
    def is_right(self) -> np.ndarray:
        """Return whether all classes of a clip are right, bool of shape (clips,)."""
        return (self.true_matrix == self.predicted_matrix).all(axis=1)

    def per_class(self) -> dict[str, list]:
        """Return `precision`, `recall`, `f1` and `support` of each class."""
        return PerClassMetrics(keep_in_memory=True).compute(
            predictions=self.predicted_matrix, references=self.true_matrix
        )

    def names(self, matrix: np.ndarray) -> list[str]:
        """Return the classes of each clip in `true_matrix` or `predicted_matrix`, separated by `;`."""
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
    """Write `predictions/<split>.csv`, and `predictions/baseline_<split>.csv` for the baseline."""
    for prefix, own in (("", evaluations), (BASELINE_PREFIX, baselines)):
        for split, evaluation in own.items():
            write_predictions(evaluation, output_dir / "predictions" / f"{prefix}{split}.csv")


# Results of a class with fewer clips are uncertain.
FEW_CLIPS = 10


def in_order(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Sort evaluations by split: train, validation, test, then others."""
    return {split: evaluations[split] for split in (*SPLITS, *evaluations) if split in evaluations}


def describe_missing(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a sentence for each split without clips of some classes."""
    texts = []
    for split, evaluation in evaluations.items():
        counts = evaluation.true_matrix.sum(axis=0)
        absent = [evaluation.labels[index] for index in np.flatnonzero(counts == 0) if index != evaluation.left_out]
        if absent:
            texts.append(f"Classes without clips in {split}, which its metrics do not cover: {shorten(absent)}.")
    return texts


def accuracy_interval(evaluation: Evaluation) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy (Wilson's), which assumes independent clips."""
    return proportion_interval(int(evaluation.is_right.sum()), len(evaluation.files))


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of `count` of `total`; 0 to 1 if `total` is 0."""
    if not total:
        return 0.0, 1.0
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def summarize_calibration(evaluations: Mapping[str, Evaluation]) -> list[list[object]]:
    """
    Return a row for the validation and the test split if they have metrics before calibration: the split, its role,
    expected calibration error before and after, and log loss before and after.
    """
    worth = {"validation": "used for fitting", "test": "held out"}
    return [
        [split, worth[split], *(evaluation.metrics[name] for name in CALIBRATION_METRICS)]
        for split, evaluation in evaluations.items()
        if split in worth and "ece_uncalibrated" in evaluation.metrics
    ]


def list_classes(evaluation: Evaluation) -> list[dict]:
    """Return `label`, `precision`, `recall`, `f1` and `support` of each class; undefined values are `None`."""
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
    Evaluate a classifier on recordings: average the probabilities of their windows, without silent windows. If all
    windows of a recording are silent, all count.

    Args:
        split: Name of the split.
        files: Names of the recordings.
        rows: Recording of each window, int of shape (windows,), in ascending order.
        silent: Whether a window is silent, bool of shape (windows,).
        config: Configuration of the classifier.
        logits: Logits of each window, shape (windows, classes).
        references: True classes of each window, as in [`Evaluation`].

    Returns:
        The evaluation of the recordings.
    """
    windows = WindowLogits(list(files), rows, silent, logits, np.asarray(references))
    return evaluate_windows(split, windows, config)


def evaluate_windows(
    split: str, windows: WindowLogits, config: PreTrainedConfig, uncalibrated: np.ndarray | None = None
) -> Evaluation:
    """
    Evaluate a classifier on recordings. The metrics also contain `log_loss` and, if the logits were calibrated,
    `ece_uncalibrated` and `log_loss_uncalibrated`.

    Args:
        split: Name of the split.
        windows: The classifier's logits.
        config: Configuration of the classifier, with the thresholds of its classes.
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
