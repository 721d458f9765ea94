# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Minimum scores from which a classifier predicts its classes."""

import math

import numpy as np
from transformers import PreTrainedConfig

from sanet_hf.errors import UsageError
from sanet_hf.inference.windows import THRESHOLD


def decision_threshold(config: PreTrainedConfig, threshold: float | None = None) -> np.ndarray:
    """
    Return the minimum score from which each class is predicted, float32 of shape (classes,).

    For multi-label models these are `config.thresholds`, which `sanet train` stores, or else 0.5. For single-label
    models the minimum is 0, and for regressions minus infinity.

    Args:
        config: Configuration of a classifier.
        threshold: One minimum for all classes, which overrides these.

    Raises:
        UsageError: `threshold` is not a probability, or the thresholds of the configuration do not fit its classes.
    """
    if threshold is not None:
        if config.problem_type == "regression":
            raise UsageError("min_score needs scores of classes, but this model is a regression.")
        if not 0 <= threshold <= 1:
            raise UsageError(f"min_score={threshold:g} must be between 0 and 1.")
        return np.full(config.num_labels, threshold, np.float32)
    if config.problem_type != "multi_label_classification":
        least = -math.inf if config.problem_type == "regression" else 0.0
        return np.full(config.num_labels, least, np.float32)
    thresholds = getattr(config, "thresholds", None)
    if thresholds is None:
        return np.full(config.num_labels, THRESHOLD, np.float32)
    try:
        thresholds = np.asarray(thresholds, np.float32)
    except (TypeError, ValueError):
        thresholds = np.zeros(0, np.float32)
    if thresholds.shape != (config.num_labels,) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise UsageError(
            f"config.json: thresholds must be a list of {config.num_labels} numbers from 0 to 1, one per class. "
            "Correct or delete it."
        )
    return thresholds
