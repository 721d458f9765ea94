# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals and McNemar's test for models on the same clips."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest

from sanet_hf.training.evaluation.results import Evaluation


NUM_RESAMPLES = 2000
# Clips that are drawn at a time, for the memory.
MAX_DRAWS = 10**7
# A difference that chance brings about less often than this is taken for one.
SIGNIFICANCE = 0.05


def resample(num_clips: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Iterator[np.ndarray]:
    """How often each clip is drawn, with replacement, in each resample: float32 of shape (clips, some resamples)."""
    rng = np.random.default_rng(seed)
    size = max(1, MAX_DRAWS // num_clips)
    for start in range(0, num_resamples, size):
        columns = min(size, num_resamples - start)
        draws = rng.integers(num_clips, size=(num_clips, columns)) * columns + np.arange(columns)
        counts = np.bincount(draws.ravel(), minlength=num_clips * columns)
        yield counts.reshape(num_clips, columns).astype(np.float32)


def bootstrap(evaluations: Sequence[Evaluation], seed: int) -> dict[str, np.ndarray]:
    """
    Metrics on resamples of the clips, the same for all evaluations: `accuracy`, or `mAP` where a clip can have several
    classes, and `macro_f1`, each of shape (evaluations, resamples).
    """
    metrics = {"accuracy": resampled_accuracy, "macro_f1": resampled_f1}
    if evaluations[0].is_multi_label:
        metrics = {"mAP": resampled_map, "macro_f1": resampled_f1}
    blocks = {name: [] for name in metrics}
    for weights in resample(len(evaluations[0].files), seed):
        for name, metric in metrics.items():
            blocks[name].append([metric(evaluation, weights) for evaluation in evaluations])
    return {name: np.concatenate(values, axis=1) for name, values in blocks.items()}


def resampled_accuracy(evaluation: Evaluation, weights: np.ndarray) -> np.ndarray:
    """Shape (resamples,), with weights of shape (clips, resamples)."""
    return (evaluation.is_right.astype(np.float32) @ weights).astype(np.float64) / len(weights)


def resampled_f1(evaluation: Evaluation, weights: np.ndarray) -> np.ndarray:
    """Macro-F1 of shape (resamples,), with weights of shape (clips, resamples)."""
    true, predicted = evaluation.true_matrix.T.astype(np.float32), evaluation.predicted_matrix.T.astype(np.float32)
    num_hits, num_named = (true * predicted) @ weights, (true + predicted) @ weights
    # A class that a resample neither holds nor predicts is left out of its mean. Where a clip can have several,
    # scikit-learn counts as 0 what is so in the whole split.
    counted = num_named > 0
    if evaluation.is_multi_label:
        counted |= ~(true + predicted).any(axis=1, keepdims=True)
    return (2 * num_hits / num_named.clip(1)).sum(axis=0, dtype=np.float64) / counted.sum(axis=0).clip(1)


def resampled_map(evaluation: Evaluation, weights: np.ndarray) -> np.ndarray:
    """
    Mean over classes of the average precision, shape (resamples,), with weights of shape (clips, resamples). Classes
    that no clip or every clip of a resample has are left out of its mean.
    """
    total, num_classes = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for true, probabilities in zip(evaluation.true_matrix.T, evaluation.probabilities.T):
        if not true.any() or true.all():
            continue
        order = np.argsort(-probabilities, kind="stable")
        hits = np.flatnonzero(true[order])
        # Each hit is found with all clips down to its own probability; a sum over each stretch between two hits is
        # all that is needed of the clips in between.
        ends, which = np.unique(
            np.searchsorted(-probabilities[order], -probabilities[order[hits]], side="right"), return_inverse=True
        )
        stretches = np.add.reduceat(weights[order[: ends[-1]]], np.append(0, ends[:-1]), axis=0)
        num_found = np.cumsum(stretches, axis=0)[which]
        num_hits = np.cumsum(weights[order[hits]], axis=0, dtype=np.float64)
        precision = num_hits[np.searchsorted(hits, ends[which]) - 1] / num_found.clip(1)
        is_mixed = (num_hits[-1] > 0) & (num_hits[-1] < weights.sum(axis=0))
        total += is_mixed * (weights[order[hits]] * precision).sum(axis=0) / num_hits[-1].clip(1)
        num_classes += is_mixed
    return total / num_classes.clip(1)


def interval(values: np.ndarray) -> dict[str, float]:
    """`low` and `high`, between which 95 % of the values lie."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def mcnemar(first: np.ndarray, other: np.ndarray) -> dict[str, int | float]:
    """
    McNemar's exact test of whether two classifiers are right equally often.

    Args:
        first, other: bool of shape (clips,), whether each was right.

    Returns:
        `b`, clips that only the first has right, `c`, those that only the other has right, and `p`.
    """
    b, c = int((first & ~other).sum()), int((other & ~first).sum())
    return {"b": b, "c": c, "p": float(binomtest(b, b + c).pvalue) if b + c else 1.0}


def difference(
    evaluations: Sequence[Evaluation], resamples: np.ndarray, first: int, other: int
) -> dict[str, float | bool]:
    """
    How much better the other is than the first.

    Args:
        evaluations: Of all candidates.
        resamples: Their accuracy or mAP in each resample, shape (evaluations, resamples).
        first, other: Which two.

    Returns:
        `value`, `low` and `high` of the difference, `b`, `c` and `p` of McNemar's test, and `is_significant`, by that
        test, or by the interval where a clip can have several classes, of which the test knows nothing.
    """
    metric = "mAP" if evaluations[0].is_multi_label else "accuracy"
    value = float(evaluations[other].metrics[metric] - evaluations[first].metrics[metric])
    bounds = interval(resamples[other] - resamples[first])
    test = mcnemar(evaluations[first].is_right, evaluations[other].is_right)
    is_significant = test["p"] < SIGNIFICANCE if metric == "accuracy" else bounds["low"] > 0 or bounds["high"] < 0
    return {"value": value, **bounds, **test, "is_significant": is_significant}
