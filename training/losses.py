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
    `compute_loss_func` of a `Trainer`, the same for every architecture: cross-entropy over classes, or binary
    cross-entropy of each class where multi-label.

    Args:
        is_multi_label: Labels are 0/1 of shape (batch, classes), not indices.
        label_smoothing: Part of the target that is spread evenly.
        class_weights: Shape (classes,): weight of a class's clips, or, where multi-label, of its positives.
    """

    def compute_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = outputs["logits"].float()
        weights = None if class_weights is None else class_weights.to(logits.device)
        if is_multi_label:
            targets = labels * (1 - label_smoothing) + label_smoothing / 2
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")
            num_items = labels.numel() if num_items_in_batch is None else num_items_in_batch
        else:
            # Not PyTorch's mean, which divides by the sum of the weights: a batch of one would lose them.
            loss = nn.functional.cross_entropy(
                logits, labels, weight=weights, label_smoothing=label_smoothing, reduction="sum"
            )
            num_items = len(labels) if num_items_in_batch is None else num_items_in_batch
        return loss / num_items

    return compute_loss


def balanced_class_weights(class_matrix: np.ndarray, is_multi_label: bool) -> torch.Tensor:
    """
    Weights that give every class the same sum over the training clips, or, where multi-label, the positives of a class
    the weight of its negatives.

    Args:
        class_matrix: 0/1 of shape (clips, classes).
    """
    positives = np.maximum(class_matrix.sum(axis=0), 1)
    if is_multi_label:
        weights = np.maximum(len(class_matrix) - positives, 1) / positives
    else:
        weights = len(class_matrix) / (class_matrix.shape[1] * positives)
    return torch.as_tensor(weights, dtype=torch.float32)
