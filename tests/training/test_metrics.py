# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from transformers import EvalPrediction

from training.metrics import ClassificationMetrics, compute_metrics


def test_values_by_hand():
    """Class 0: precision 2/3, recall 1. Class 1: precision 1, recall 1/2. Class 2: never predicted."""
    result = ClassificationMetrics().compute(predictions=[0, 0, 0, 1], references=[0, 0, 2, 1])
    assert result == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 1.0 + 0.0) / 3)}


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: (logits, np.zeros((2, 5)))])
def test_compute_metrics_from_logits(wrap):
    logits = np.array([[2.0, -1.0], [0.0, 3.0]])
    prediction = EvalPrediction(predictions=wrap(logits), label_ids=np.array([0, 0]))
    assert compute_metrics(prediction) == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3)}
