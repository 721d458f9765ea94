# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Metrics of classification as `evaluate.Metric`s over scikit-learn, which need no download.

All take probabilities of shape (clips, classes). Classes of which a data set holds no clip (or, for AUROC, nothing
else) are left out of mAP and AUROC; macro-F1 is scikit-learn's, where they count as 0 as soon as one is predicted, and
always in multi-label data.
"""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)


TOP_K = 3
NUM_CALIBRATION_BINS = 15
# Probability from which a class counts as predicted where a clip can have several.
THRESHOLD = 0.5


class ClassificationMetrics(evaluate.Metric):
    """
    Metrics where each clip has one class: `accuracy`, `macro_f1`, `auroc` (one class against the rest, averaged over
    classes), `ece` (expected calibration error) and, with more than three classes, `top_3_accuracy`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(type(self), references=datasets.Value("int64"))

    def _compute(self, predictions, references) -> dict[str, float]:
        probabilities, references = np.asarray(predictions, np.float64), np.asarray(references)
        num_classes = probabilities.shape[1]
        predicted = probabilities.argmax(axis=1)
        metrics = {
            "accuracy": accuracy_score(references, predicted),
            "macro_f1": f1_score(references, predicted, average="macro", zero_division=0),
            "auroc": _macro_auroc(np.eye(num_classes, dtype=int)[references], probabilities),
            "ece": expected_calibration_error(probabilities, references),
        }
        if num_classes > TOP_K:
            metrics[f"top_{TOP_K}_accuracy"] = top_k_accuracy_score(
                references, probabilities, k=TOP_K, labels=np.arange(num_classes)
            )
        return {name: float(value) for name, value in metrics.items()}


class MultiLabelMetrics(evaluate.Metric):
    """
    Metrics where a clip can have any number of classes: `mAP` (mean over classes of the average precision), `auroc`
    (mean over classes), `macro_f1` and `accuracy` (all classes of a clip right) at a probability of 0.5, and `ece`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(type(self), references=datasets.Sequence(datasets.Value("int64")))

    def _compute(self, predictions, references) -> dict[str, float]:
        probabilities, references = np.asarray(predictions, np.float64), np.asarray(references)
        predicted = (probabilities >= THRESHOLD).astype(int)
        present = references.any(axis=0)
        precisions = [average_precision_score(references[:, i], probabilities[:, i]) for i in np.flatnonzero(present)]
        metrics = {
            "mAP": np.mean(precisions) if precisions else 0.0,
            "macro_f1": f1_score(references, predicted, average="macro", zero_division=0),
            "auroc": _macro_auroc(references, probabilities),
            "accuracy": accuracy_score(references, predicted),
            "ece": expected_calibration_error(probabilities, references),
        }
        return {name: float(value) for name, value in metrics.items()}


class PerClassMetrics(evaluate.Metric):
    """
    `precision`, `recall` and `f1` of each class, lists in the order of the classes, and `support`, its clips. Takes
    predicted and true 0/1 matrices of shape (clips, classes), so that it serves one class a clip and several.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(type(self), references=datasets.Sequence(datasets.Value("int64")))

    def _compute(self, predictions, references) -> dict[str, list]:
        predicted, references = np.asarray(predictions).astype(int), np.asarray(references)
        values = precision_recall_fscore_support(references, predicted, average=None, zero_division=0)
        return {name: value.tolist() for name, value in zip(("precision", "recall", "f1", "support"), values)}


def compute_metrics(probabilities: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Metrics of one split.

    Args:
        probabilities: Shape (clips, classes).
        references: True classes: indices of shape (clips,), or 0/1 of shape (clips, classes) where a clip can have
            several.
    """
    metric = (MultiLabelMetrics if np.ndim(references) == 2 else ClassificationMetrics)(keep_in_memory=True)
    return metric.compute(predictions=probabilities, references=references)


def calibration(
    probabilities: np.ndarray, references: np.ndarray, num_bins: int = NUM_CALIBRATION_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Mean confidence, fraction that is right and number of predictions in bins of equal width over [0, 1]; empty bins
    are left out. A prediction is a clip's most probable class, or each class of each clip where it can have several.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    if np.ndim(references) == 2:
        confidences, right = np.ravel(probabilities), np.ravel(references).astype(bool)
    else:
        confidences, right = np.max(probabilities, axis=1), np.argmax(probabilities, axis=1) == references
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    used = counts > 0
    mean_confidences = np.bincount(bins, weights=confidences, minlength=num_bins)[used] / counts[used]
    fractions_right = np.bincount(bins, weights=right, minlength=num_bins)[used] / counts[used]
    return mean_confidences, fractions_right, counts[used]


def expected_calibration_error(probabilities: np.ndarray, references: np.ndarray) -> float:
    """Mean distance between confidence and fraction right over the bins of [`calibration`], weighted by their size."""
    confidences, fractions_right, counts = calibration(probabilities, references)
    return float(np.average(np.abs(confidences - fractions_right), weights=counts))


def _macro_auroc(references: np.ndarray, probabilities: np.ndarray) -> float:
    mixed = np.flatnonzero(references.any(axis=0) & ~references.all(axis=0))
    values = [roc_auc_score(references[:, i], probabilities[:, i]) for i in mixed]
    return float(np.mean(values)) if values else 0.5


def _metric_info(metric: type, references) -> evaluate.MetricInfo:
    features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": references}
    return evaluate.MetricInfo(
        description=metric.__doc__,
        citation="",
        inputs_description="Probabilities (clips, classes) and true classes.",
        features=datasets.Features(features),
    )


# Title and meaning of each metric, in the order in which they are shown.
METRICS = {
    "mAP": ("mAP", "mean over classes of the average precision; 1 is perfect"),
    "accuracy": ("Accuracy", "part of the clips that are right"),
    "macro_f1": ("Macro F1", "F1 averaged over classes, rare and frequent ones alike"),
    "top_3_accuracy": ("Top-3 accuracy", "part of the clips whose class is among the three most probable"),
    "auroc": ("AUROC", "how well each class is told from the rest; 0.5 is chance, 1 perfect"),
    "ece": ("ECE", "expected calibration error: mean distance between probability and being right; 0 is perfect"),
}
# What the Hub calls the metrics that go into its index.
METRIC_TYPES = {"mAP": "mAP", "accuracy": "accuracy", "macro_f1": "f1"}
