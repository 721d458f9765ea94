# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The scores from which a classifier predicts its classes."""

import math

import numpy as np
from transformers import PreTrainedConfig

from sanet_hf.errors import UsageError
from sanet_hf.inference.windows import THRESHOLD


def decision_threshold(config: PreTrainedConfig, threshold: float | None = None) -> np.ndarray:
    """
    Return the score from which each class is predicted, float32 of shape (classes,).

    Where a clip can have several classes these are `config.thresholds`, which `sanet train` stores, or else 0.5. Where
    it has one class, the most probable one is predicted from any score: 0; of a regression, minus infinity.

    Args:
        config: Of a classifier.
        threshold: For all classes, in place of that.

    Raises:
        UsageError: The threshold is no probability, or those of the configuration do not fit its classes.
    """
    if threshold is not None:
        if config.problem_type == "regression":
            raise UsageError("min_score is for scores of classes; this model is a regression.")
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
