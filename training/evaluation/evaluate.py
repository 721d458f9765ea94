# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on the splits of a dataset, window by window."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, Trainer

from sanet_hf.training.data.clips import EvaluationClips
from sanet_hf.training.evaluation.calibration import Calibration, WindowLogits, softmax_or_sigmoid
from sanet_hf.training.evaluation.metrics import compute_metrics
from sanet_hf.training.evaluation.results import Evaluation, evaluate_windows
from sanet_hf.training.losses import make_loss


def make_compute_metrics(is_multi_label: bool) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a `compute_metrics` function for `Trainer`, with logits of shape (clips, classes)."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = _logits(prediction.predictions)
        metrics = compute_metrics(softmax_or_sigmoid(logits, is_multi_label), prediction.label_ids)
        # Replaces Trainer's loss. With several processes, that one counts clips twice that fill up the last batch.
        return {**metrics, "loss": _mean_loss(logits, prediction.label_ids, is_multi_label)}

    return compute


def evaluate_splits(
    trainer: Trainer,
    recordings: Mapping[str, Dataset],
    max_length_seconds: float,
    calibration: Calibration | None = None,
) -> dict[str, Evaluation]:
    """
    Evaluate the trainer's model on each split. As in [`predict`], scores are averaged over the windows of a recording,
    without silent and much quieter windows. In the training split, which only serves for comparison, only the middle
    window is used.

    Args:
        trainer: Has the model, its feature extractor as `processing_class`, and a collator.
        recordings: Splits as [`load_recordings`] returns them. Sorted by length, their batches need less padding.
        max_length_seconds: Length of a window.
        calibration: Calibration of the model, if any. Metrics then also have the values before it.

    Returns:
        The evaluation of each split.
    """
    evaluations = {}
    for split, dataset in recordings.items():
        if calibration is not None and calibration.windows is not None and split == "validation":
            before = calibration.windows
            windows = before._replace(logits=calibration.apply(before.logits))
            uncalibrated = before.logits
        else:
            windows = predict_windows(trainer, split, dataset, max_length_seconds)
            uncalibrated = None if calibration is None else calibration.undo(windows.logits)
        evaluations[split] = evaluate_windows(split, windows, trainer.model.config, uncalibrated)
        loss = _mean_loss(windows.logits, windows.references, windows.is_multi_label)
        evaluations[split].metrics["loss"] = loss
    return evaluations


def predict_windows(trainer: Trainer, split: str, dataset: Dataset, max_length_seconds: float) -> WindowLogits:
    """Return the logits of the windows of a split; see [`evaluate_splits`]."""
    label2id = trainer.model.config.label2id
    clips = EvaluationClips(
        dataset, trainer.processing_class, label2id, max_length_seconds, all_windows=split != "train"
    )
    with _weights_kept(trainer):
        output = trainer.predict(clips)
    # Each process has read only a part of the windows.
    clips.powers = trainer.accelerator.reduce(clips.powers.to(trainer.args.device, torch.float32)).cpu()
    files = clips.recordings["file"][:]
    return WindowLogits(files, clips.rows, clips.silent, _logits(output.predictions), output.label_ids)


@contextmanager
def _weights_kept(trainer: Trainer) -> Iterator[None]:
    """Restore the weights afterwards, because `Trainer` rounds them with `--bf16_full_eval`."""
    if not (trainer.args.bf16_full_eval or trainer.args.fp16_full_eval):
        yield
        return
    model, dtype = trainer.model, trainer.model.dtype
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    yield
    model.to(dtype)
    model.load_state_dict(weights)


def _mean_loss(logits: np.ndarray, references: np.ndarray, is_multi_label: bool) -> float:
    return float(make_loss(is_multi_label)({"logits": torch.as_tensor(logits)}, torch.as_tensor(references)))


def _logits(predictions: np.ndarray | tuple) -> np.ndarray:
    """
    Return the logits of predictions.

    Raises:
        FloatingPointError: A score is infinite or not a number.
    """
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    if not np.isfinite(logits).all():
        raise FloatingPointError(
            "The model's scores are not finite, because training has diverged. Try a lower --learning_rate or "
            "--max_grad_norm 1. Earlier checkpoints are kept."
        )
    return logits
