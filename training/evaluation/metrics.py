# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Classification metrics: subclasses of `evaluate.Metric` that call scikit-learn and download nothing.

All take probabilities of shape (clips, classes). mAP and AUROC leave out classes that no clip or every clip has,
because they cannot be ranked. If none is left, there is no AUROC, and mAP is 0. In scikit-learn's macro F1, a class
without clips counts as 0 if it is predicted, and always in multi-label data. A single class with 0/1 labels is a
detector, not a problem of two classes: its F1 is that of the positive class.
"""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from sanet_hf.inference.windows import predicted_classes
from sanet_hf.training.evaluation.metric_names import TOP_K


NUM_CALIBRATION_BINS = 15


class ClassificationMetrics(evaluate.Metric):
    """
    Metrics for one class per clip: `accuracy`, `macro_f1`, `auroc` (one class against the rest, averaged over
    classes), `ece` (expected calibration error) and, with more than three classes, `top_3_accuracy`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(type(self), references=datasets.Value("int64"))

    def _compute(self, predictions, references, left_out=None) -> dict[str, float]:
        probabilities, references = np.asarray(predictions, np.float64), np.asarray(references)
        num_classes = probabilities.shape[1]
        predicted = probabilities.argmax(axis=1)
        metrics = {
            "accuracy": accuracy_score(references, predicted),
            "macro_f1": f1_score(
                references,
                predicted,
                labels=np.setdiff1d(np.union1d(references, predicted), [] if left_out is None else [left_out]),
                average="macro",
                zero_division=0,
            ),
            **_macro_auroc(np.eye(num_classes, dtype=int)[references], probabilities),
            "ece": expected_calibration_error(probabilities, references),
        }
        if num_classes > TOP_K:
            metrics[f"top_{TOP_K}_accuracy"] = top_k_accuracy_score(
                references, probabilities, k=TOP_K, labels=np.arange(num_classes)
            )
        return {name: float(value) for name, value in metrics.items()}


class MultiLabelMetrics(evaluate.Metric):
    """
    Metrics for any number of classes per clip: `mAP` (mean over classes of the average precision), `auroc` (mean over
    classes), `ece` and, for the predicted classes, `macro_f1` and `accuracy` (all classes of a clip are correct).
    `predicted` is 0/1 of shape (clips, classes). By default, classes with a probability of at least 0.5 are predicted.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(type(self), references=datasets.Sequence(datasets.Value("int64")))

    def _compute(self, predictions, references, predicted=None) -> dict[str, float]:
        probabilities, references = np.asarray(predictions, np.float64), np.asarray(references)
        if predicted is None:
            predicted = predicted_classes(probabilities, several=True).astype(int)
        mixed = _mixed(references)
        metrics = {
            "mAP": average_precision_score(references[:, mixed], probabilities[:, mixed]) if mixed.any() else 0.0,
            "macro_f1": np.mean(_per_class(references, predicted)["f1"]),
            **_macro_auroc(references, probabilities),
            "accuracy": accuracy_score(references, predicted),
            "ece": expected_calibration_error(probabilities, references),
        }
        return {name: float(value) for name, value in metrics.items()}


class PerClassMetrics(evaluate.Metric):
    """
    Lists with `precision`, `recall`, `f1` and `support` (number of clips) of each class, in the order of the classes.
    The inputs are predicted and true 0/1 matrices of shape (clips, classes), with one or several classes per clip.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(type(self), references=datasets.Sequence(datasets.Value("int64")))

    def _compute(self, predictions, references) -> dict[str, list]:
        predicted, references = np.asarray(predictions).astype(int), np.asarray(references)
        return {name: values.tolist() for name, values in _per_class(references, predicted).items()}


def compute_metrics(
    probabilities: np.ndarray,
    references: np.ndarray,
    left_out: int | None = None,
    predicted: np.ndarray | None = None,
) -> dict[str, float]:
    """
    Compute the metrics of one split.

    Args:
        probabilities: Shape (clips, classes).
        references: True classes: indices of shape (clips,), or 0/1 of shape (clips, classes) in multi-label data.
        left_out: Class that does not count in macro F1 (single-label).
        predicted: Predicted classes, 0/1 of shape (clips, classes) (multi-label). Default: classes with a probability
            of at least 0.5.

    Returns:
        The value of each metric.
    """
    if np.ndim(references) == 2:
        metric, options = MultiLabelMetrics(keep_in_memory=True), {"predicted": predicted}
    else:
        metric, options = ClassificationMetrics(keep_in_memory=True), {"left_out": left_out}
    return metric.compute(predictions=probabilities, references=references, **options)


def calibration(
    probabilities: np.ndarray, references: np.ndarray, num_bins: int = NUM_CALIBRATION_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return the mean confidence, the fraction of correct predictions and the number of predictions in bins of equal
    width over [0, 1], without empty bins. A prediction is the most probable class of a clip or, in multi-label data,
    each class of each clip.

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
    """Return the mean distance between confidence and accuracy over the bins of [`calibration`], weighted by size."""
    confidences, fractions_right, counts = calibration(probabilities, references)
    return float(np.average(np.abs(confidences - fractions_right), weights=counts))


def _per_class(references: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """
    Return `precision`, `recall`, `f1` and `support` of each class; 0 instead of a division by zero.

    scikit-learn's `precision_recall_fscore_support` is not suitable. It treats a single column as two classes.
    """
    hits, num_predicted, support = (references * predicted).sum(axis=0), predicted.sum(axis=0), references.sum(axis=0)
    return {
        "precision": hits / np.maximum(num_predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(num_predicted + support, 1),
        "support": support,
    }


def _mixed(references: np.ndarray) -> np.ndarray:
    """Return which classes some clips have and some do not, bool of shape (classes,)."""
    return references.any(axis=0) & ~references.all(axis=0)


def _macro_auroc(references: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return `auroc`; nothing if no class can be ranked, such as with clips of only one class."""
    mixed = _mixed(references)
    return {"auroc": roc_auc_score(references[:, mixed], probabilities[:, mixed])} if mixed.any() else {}


def _metric_info(metric: type, references) -> evaluate.MetricInfo:
    features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": references}
    return evaluate.MetricInfo(
        description=metric.__doc__,
        citation="",
        inputs_description="Probabilities (clips, classes) and true classes.",
        features=datasets.Features(features),
    )
