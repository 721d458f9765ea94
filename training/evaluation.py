# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a classifier says of a split: probabilities, metrics, a CSV file of predictions."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedConfig, Trainer

from .features import EvaluationClips
from .losses import make_loss
from .metrics import THRESHOLD, PerClassMetrics, compute_metrics


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
        if self.is_multi_label:
            return (self.probabilities >= THRESHOLD).astype(int)
        return np.eye(len(self.labels), dtype=int)[self.probabilities.argmax(axis=1)]

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


def make_compute_metrics(is_multi_label: bool) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` of a `Trainer`, from logits of shape (clips, classes)."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = _logits(prediction.predictions)
        metrics = compute_metrics(softmax_or_sigmoid(logits, is_multi_label), prediction.label_ids)
        # In the place of Trainer's, which counts clips twice that make the batches of several processes alike.
        return {**metrics, "loss": _mean_loss(logits, prediction.label_ids, is_multi_label)}

    return compute


def evaluate_splits(
    trainer: Trainer, recordings: Mapping[str, Dataset], max_length_seconds: float
) -> dict[str, Evaluation]:
    """
    What the trainer's model says of each recording: the mean over its windows, as in [`predict`]; in the training
    split, which is only there to be compared with, that of the middle one.

    Args:
        trainer: With the model, its feature extractor as `processing_class`, and a collator.
        recordings: Splits as [`load_recordings`] gives them; in the order of their length batches need little padding.
        max_length_seconds: Length of a window.
    """
    config = trainer.model.config
    evaluations = {}
    for split, dataset in recordings.items():
        clips = EvaluationClips(
            dataset, trainer.processing_class, config.label2id, max_length_seconds, all_windows=split != "train"
        )
        output = trainer.predict(clips)
        logits, references = _logits(output.predictions), output.label_ids
        evaluations[split] = average_windows(split, clips, config, logits, references)
        is_multi_label = config.problem_type == "multi_label_classification"
        evaluations[split].metrics["loss"] = _mean_loss(logits, references, is_multi_label)
    return evaluations


def average_windows(
    split: str, clips: EvaluationClips, config: PreTrainedConfig, logits: np.ndarray, references: np.ndarray
) -> Evaluation:
    """
    What a classifier says of recordings: the mean of the probabilities of their windows.

    Args:
        split: Name of the split.
        clips: The windows.
        config: The classifier's.
        logits: Of each window, shape (clips, classes).
        references: Of each window, as in [`Evaluation`].
    """
    first = np.flatnonzero(np.diff(clips.rows, prepend=-1))  # window of each recording
    probabilities = softmax_or_sigmoid(logits, config.problem_type == "multi_label_classification")
    counts = np.bincount(clips.rows)[:, None].astype(np.float32)
    return Evaluation(
        split=split,
        files=clips.recordings["file"][:],
        labels=[config.id2label[index] for index in range(config.num_labels)],
        references=np.asarray(references)[first].astype(int),
        probabilities=np.add.reduceat(probabilities, first) / counts,
    )


def _mean_loss(logits: np.ndarray, references: np.ndarray, is_multi_label: bool) -> float:
    return float(make_loss(is_multi_label)({"logits": torch.as_tensor(logits)}, torch.as_tensor(references)))


def _logits(predictions: np.ndarray | tuple) -> np.ndarray:
    return predictions[0] if isinstance(predictions, tuple) else predictions


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
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction", *(f"probability_{label}" for label in evaluation.labels)])
        for name, label, prediction, probabilities in sorted(columns, key=lambda row: row[0]):
            writer.writerow([name, label, prediction, *(f"{probability:.6f}" for probability in probabilities)])
