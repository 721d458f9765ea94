# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of probabilities, and a test whether one model is clearly better than another on the same recordings."""

import math
from typing import NamedTuple

import numpy as np

from sanet_hf.training.baseline import score_probabilities
from sanet_hf.training.evaluation.calibration import WindowLogits, log_losses
from sanet_hf.training.evaluation.calibration import fit as fit_calibration


class Score(NamedTuple):
    """
    Score on a validation split.

    Attributes:
        value: Accuracy, or mAP in multi-label data.
        losses: Log loss of each recording after calibration on the same recordings.
    """

    value: float
    losses: np.ndarray

    def is_clearly_better_than(self, other: "Score") -> bool:
        """Return whether the value is higher and the mean loss lower by more than two standard errors."""
        gains = other.losses - self.losses
        return bool(self.value > other.value and gains.mean() > 2 * gains.std(ddof=1) / math.sqrt(len(gains)))


def score_windows(windows: WindowLogits) -> Score:
    """Calibrate logits on their own recordings. Return their score."""
    probabilities = windows.probabilities(fit_calibration(windows).apply(windows.logits))
    references, several = windows.recording_references, windows.is_multi_label
    targets = references if several else np.eye(probabilities.shape[1], dtype=int)[references]
    value, _ = score_probabilities(probabilities, targets, several)
    losses = log_losses(probabilities, references)
    return Score(value, losses.reshape(len(losses), -1).sum(axis=1))
