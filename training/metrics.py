# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of classification, as an `evaluate.Metric` that needs no download."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction


class ClassificationMetrics(evaluate.Metric):
    """Accuracy and macro-averaged F1 of class indices, from scikit-learn."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and macro-averaged F1 score.",
            citation="",
            inputs_description="Predicted and true class indices.",
            features=datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a `Trainer`: metrics from logits of shape (clips, classes)."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    metric = ClassificationMetrics(keep_in_memory=True)
    return metric.compute(predictions=np.argmax(logits, axis=-1), references=prediction.label_ids)
