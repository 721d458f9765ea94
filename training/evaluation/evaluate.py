# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on the splits of a dataset, window by window."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, Trainer

from sanet_hf.training.data.clips import EvaluationClips
from sanet_hf.training.evaluation.metrics import compute_metrics
from sanet_hf.training.evaluation.results import Evaluation, average_windows, softmax_or_sigmoid
from sanet_hf.training.losses import make_loss


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
    What the trainer's model says of each recording: the mean over its windows, as in [`predict`], without silent ones
    unless all are; in the training split, which is only there to be compared with, that of the middle one.

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
        # Each process has read a part of the windows.
        silent = trainer.accelerator.reduce(clips.silent.to(trainer.args.device, torch.int32))
        clips.silent = silent.cpu().bool()
        evaluations[split] = average_windows(
            split, clips.recordings["file"][:], clips.rows, clips.silent.numpy(), config, logits, references
        )
        is_multi_label = config.problem_type == "multi_label_classification"
        evaluations[split].metrics["loss"] = _mean_loss(logits, references, is_multi_label)
    return evaluations


def _mean_loss(logits: np.ndarray, references: np.ndarray, is_multi_label: bool) -> float:
    return float(make_loss(is_multi_label)({"logits": torch.as_tensor(logits)}, torch.as_tensor(references)))


def _logits(predictions: np.ndarray | tuple) -> np.ndarray:
    """
    Raises:
        FloatingPointError: A score is infinite or not a number.
    """
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    if not np.isfinite(logits).all():
        raise FloatingPointError(
            "The model's scores are not finite: its training has diverged. Train with a lower --learning_rate, or "
            "--max_grad_norm 1. Checkpoints of earlier steps stay."
        )
    return logits
