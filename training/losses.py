# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses of training and evaluation."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def make_loss(
    is_multi_label: bool, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None
) -> Callable[..., torch.Tensor]:
    """
    Return a `compute_loss_func` for `Trainer`, the same for every architecture: cross-entropy over classes, or binary
    cross-entropy of each class (multi-label).

    Args:
        is_multi_label: Whether labels are 0/1 of shape (batch, classes) instead of indices.
        label_smoothing: Fraction of the target that is spread evenly over the classes.
        class_weights: Shape (classes,): weight of the clips of a class, or of its positives (multi-label).
    """

    def compute_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = outputs["logits"].float()
        loss = _compute_losses(logits, labels, is_multi_label, label_smoothing, class_weights, reduction="sum")
        # PyTorch's mean divides by the sum of the weights, so that weights would have no effect in a batch of one.
        num_items = (
            (labels.numel() if is_multi_label else len(labels)) if num_items_in_batch is None else num_items_in_batch
        )
        return loss / num_items

    return compute_loss


def _compute_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    is_multi_label: bool,
    label_smoothing: float,
    class_weights: torch.Tensor | None,
    reduction: str,
) -> torch.Tensor:
    """Return the sum of the losses; with reduction `none`, shape (batch,), or (batch, classes) if multi-label."""
    weights = None if class_weights is None else class_weights.to(logits.device)
    if is_multi_label:
        targets = labels * (1 - label_smoothing) + label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction=reduction)
    return nn.functional.cross_entropy(
        logits, labels, weight=weights, label_smoothing=label_smoothing, reduction=reduction
    )


def make_taught_loss(
    is_multi_label: bool,
    teacher_weight: float,
    temperature: float,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> Callable[..., torch.Tensor]:
    """
    Return a `compute_loss_func` for training with teachers, the mean over clips of

        (1 - teacher_weight) * loss of the label + teacher_weight * temperature^2 * KL(teacher, student)

    The loss of the label is that of [`make_loss`], and 0 for a clip without a label. KL is the divergence of the
    student's probabilities from the teachers', both at the temperature. With multi-label data, it is the mean binary
    cross-entropy over classes instead. The square keeps the teachers' part of the gradient independent of the
    temperature.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Args:
        is_multi_label, label_smoothing, class_weights: As in [`make_loss`]. Class weights apply only to the labels.
        teacher_weight: Weight of the teachers, from 0 to 1.
        temperature: Divisor of the logits.

    Returns:
        A function of the outputs and the result of [`join_targets`], which it takes instead of labels.
    """

    def compute_loss(outputs, targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = outputs["logits"].float()
        labels, is_labeled, taught = targets.float().split([logits.shape[1], 1, logits.shape[1]], dim=1)
        # Mixup with a clip without a label scales the labels, so undo that.
        labels = labels / is_labeled.clamp(min=torch.finfo(labels.dtype).tiny)
        options = (is_multi_label, label_smoothing, class_weights)
        of_labels = _compute_losses(logits, labels, *options, reduction="none").view(len(logits), -1)
        tempered = logits / temperature
        if is_multi_label:
            of_teachers = nn.functional.binary_cross_entropy_with_logits(tempered, taught, reduction="none")
        else:
            of_teachers = nn.functional.kl_div(tempered.log_softmax(dim=1), taught, reduction="none").sum(1, True)
        losses = (1 - teacher_weight) * is_labeled * of_labels + teacher_weight * temperature**2 * of_teachers
        return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)

    return compute_loss


def join_targets(labels: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """
    Join labels and teachers' probabilities into the targets of [`make_taught_loss`], which mixup can mix as one.

    Args:
        labels: Class indices of shape (batch,), or 0/1 of shape (batch, classes). Negative for a clip without a label.
        taught: Teachers' probabilities at the temperature, of shape (batch, classes).

    Returns:
        float32 of shape (batch, 2 * classes + 1): labels, 1 or 0 for a clip with or without a label, probabilities.
    """
    is_labeled = (labels if labels.ndim == 1 else labels[:, 0]) >= 0
    if labels.ndim == 1:
        labels = nn.functional.one_hot(labels.clamp(min=0), taught.shape[1])
    return torch.cat([labels * is_labeled[:, None], is_labeled[:, None], taught], dim=1)


def balanced_class_weights(class_matrix: np.ndarray, is_multi_label: bool) -> torch.Tensor:
    """
    Compute weights that give every class the same total weight over the training clips. With multi-label data, the
    positives of a class get the same total weight as its negatives.

    Args:
        class_matrix: 0/1 of shape (clips, classes).

    Returns:
        float32 of shape (classes,).
    """
    positives = np.maximum(class_matrix.sum(axis=0), 1)
    if is_multi_label:
        weights = np.maximum(len(class_matrix) - positives, 1) / positives
    else:
        weights = len(class_matrix) / (class_matrix.shape[1] * positives)
    return torch.as_tensor(weights, dtype=torch.float32)
