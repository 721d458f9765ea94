# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals and McNemar's test for models on the same clips, such as a network and the baseline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import binomtest

from sanet_hf.training.evaluation.metric_names import METRICS
from sanet_hf.training.evaluation.results import Evaluation, accuracy_interval, in_order
from sanet_hf.utils.formatting import format_count, format_p, format_with_interval


NUM_RESAMPLES = 2000
# Number of clips that are drawn at a time, to limit memory.
MAX_DRAWS = 10**7
# Largest p-value of a significant difference.
SIGNIFICANCE = 0.05
# Description of the baseline; see [`training.baseline`].
BASELINE = "logistic regression on log-mel statistics"


def resample(num_clips: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Iterator[np.ndarray]:
    """Yield the number of draws of each clip in resamples with replacement: float32, shape (clips, some resamples)."""
    rng = np.random.default_rng(seed)
    size = max(1, MAX_DRAWS // num_clips)
    for start in range(0, num_resamples, size):
        columns = min(size, num_resamples - start)
        draws = rng.integers(num_clips, size=(num_clips, columns)) * columns + np.arange(columns)
        counts = np.bincount(draws.ravel(), minlength=num_clips * columns)
        yield counts.reshape(num_clips, columns).astype(np.float32)


def bootstrap(evaluations: Sequence[Evaluation], seed: int) -> dict[str, np.ndarray]:
    """
    Return metrics on resamples of the clips, which are the same for all evaluations: `accuracy` (`mAP` in multi-label
    data) and `macro_f1`, each of shape (evaluations, resamples).
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
    """Return the accuracy, shape (resamples,), with weights of shape (clips, resamples)."""
    return (evaluation.is_right.astype(np.float32) @ weights).astype(np.float64) / len(weights)


def resampled_f1(evaluation: Evaluation, weights: np.ndarray) -> np.ndarray:
    """Return the macro F1, shape (resamples,), with weights of shape (clips, resamples)."""
    true, predicted = evaluation.true_matrix.T.astype(np.float32), evaluation.predicted_matrix.T.astype(np.float32)
    num_hits, num_named = (true * predicted) @ weights, (true + predicted) @ weights
    # A class without true or predicted clips in a resample does not count in its mean. In multi-label data,
    # scikit-learn counts it as 0 if this holds for the whole split.
    counted = num_named > 0
    if evaluation.is_multi_label:
        counted |= ~(true + predicted).any(axis=1, keepdims=True)
    elif evaluation.left_out is not None:
        counted[evaluation.left_out] = False
    return (2 * num_hits / num_named.clip(1)).sum(axis=0, dtype=np.float64) / counted.sum(axis=0).clip(1)


def resampled_map(evaluation: Evaluation, weights: np.ndarray) -> np.ndarray:
    """
    Return the mean over classes of the average precision, shape (resamples,), with weights of shape (clips,
    resamples). Classes that no clip or every clip of a resample has do not count in its mean.
    """
    total, num_classes = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for true, probabilities in zip(evaluation.true_matrix.T, evaluation.probabilities.T):
        if not true.any() or true.all():
            continue
        order = np.argsort(-probabilities, kind="stable")
        hits = np.flatnonzero(true[order])
        # The precision at a hit needs all clips with at least its probability, so sums over the clips between hits are
        # enough.
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
    """Return `low` and `high`, the central 95 % of the values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def mcnemar(first: np.ndarray, other: np.ndarray) -> dict[str, int | float]:
    """
    Compute McNemar's exact test of whether two classifiers are right equally often.

    Args:
        first, other: Whether each clip was right, bool of shape (clips,).

    Returns:
        `b` (clips that only the first has right), `c` (clips that only the other has right), and `p`.
    """
    b, c = int((first & ~other).sum()), int((other & ~first).sum())
    return {"b": b, "c": c, "p": float(binomtest(b, b + c).pvalue) if b + c else 1.0}


def difference(
    evaluations: Sequence[Evaluation], resamples: np.ndarray, first: int, other: int
) -> dict[str, float | bool]:
    """
    Compute how much better one candidate is than another.

    Args:
        evaluations: Evaluations of all candidates.
        resamples: Their accuracy or mAP in each resample, shape (evaluations, resamples).
        first, other: Indices of the two candidates.

    Returns:
        `value`, `low` and `high` of the difference (other minus first), `b`, `c` and `p` of McNemar's test, and
        `is_significant`. In multi-label data, the interval decides on significance instead of the test.
    """
    metric = "mAP" if evaluations[0].is_multi_label else "accuracy"
    value = float(evaluations[other].metrics[metric] - evaluations[first].metrics[metric])
    bounds = interval(resamples[other] - resamples[first])
    test = mcnemar(evaluations[first].is_right, evaluations[other].is_right)
    is_significant = test["p"] < SIGNIFICANCE if metric == "accuracy" else bounds["low"] > 0 or bounds["high"] < 0
    return {"value": value, **bounds, **test, "is_significant": is_significant}


def metric_interval(evaluation: Evaluation, metric: str, resampled: np.ndarray | None = None) -> tuple[float, float]:
    """
    Return the 95 % interval of a metric: Wilson's for accuracy, else by bootstrap.

    Args:
        evaluation: Evaluation of one split.
        metric: `accuracy`, or a metric of [`bootstrap`].
        resampled: The metric in each resample, if it is known, shape (resamples,).
    """
    if metric == "accuracy":
        return accuracy_interval(evaluation)
    bounds = interval(bootstrap([evaluation], seed=0)[metric][0] if resampled is None else resampled)
    return bounds["low"], bounds["high"]


def pair_up(network: Evaluation, baseline: Evaluation) -> tuple[Evaluation, Evaluation] | None:
    """
    Return the evaluations of a network and of the baseline on the clips of the baseline, in the same order; `None` if
    the network was not evaluated on all of them, or their classes differ.
    """
    chosen = np.arange(len(network.files))
    if list(network.files) != list(baseline.files):
        places = {file: place for place, file in enumerate(network.files)}
        # If several clips have the same name, they cannot be matched.
        if len(places) < len(network.files) or not places.keys() >= set(baseline.files):
            return None
        chosen = np.array([places[file] for file in baseline.files], dtype=int)
    if set(network.labels) != set(baseline.labels) or not len(chosen):
        return None
    order = [baseline.labels.index(label) for label in network.labels]
    if not np.array_equal(network.true_matrix[chosen], baseline.true_matrix[:, order]):
        return None
    if not np.array_equal(chosen, np.arange(len(network.files))):
        network = replace(
            network,
            files=baseline.files,
            references=network.references[chosen],
            probabilities=network.probabilities[chosen],
            predicted=None if network.predicted is None else network.predicted[chosen],
            metrics={},
        )
    return network, replace(
        baseline,
        labels=network.labels,
        references=network.references,
        probabilities=baseline.probabilities[:, order],
        metrics={},
        predicted=None if baseline.predicted is None else baseline.predicted[:, order],
        background=network.background,
    )


def compare_with_baseline(
    evaluations: Mapping[str, Evaluation],
    baselines: Mapping[str, Evaluation],
    advice: str = "",
    test_advice: str = "",
) -> dict[str, Any] | None:
    """
    Compare a network with the baseline.

    Args:
        evaluations, baselines: Evaluations of the network and of the baseline, by split.
        advice: Advice to add if the network is not more accurate.
        test_advice: Advice to add if the difference could be chance.

    Returns:
        `rows`, for each split with both, and for accuracy (mAP in multi-label data) and macro F1: `split`,
        `num_clips`, `metric`, and `network`, `baseline` and `difference`, each with `value`, `low` and `high` (95 %
        intervals: Wilson's for accuracy, else by bootstrap; differences are paired by clip). `verdict` on the last
        split: `better`, `equal` or `worse`. `is_significant`. `text`: the verdict as a sentence. `table`: the rows as
        text: split, clips, metric, network, baseline, difference. `None` if no split has both.
    """
    rows, last = [], None
    for split, baseline in in_order(baselines).items():
        pair = pair_up(evaluations[split], baseline) if split in evaluations else None
        if pair is None:
            continue
        pair = list(reversed(pair))
        resamples = bootstrap(pair, seed=0)
        for number, (metric, values) in enumerate(resamples.items()):
            simple, network = (
                dict(zip(("value", "low", "high"), (own.metrics[metric], *metric_interval(own, metric, drawn))))
                for own, drawn in zip(pair, values)
            )
            gap = difference(pair, values, 0, 1) if number == 0 else interval(values[1] - values[0])
            gap["value"] = network["value"] - simple["value"]
            rows.append(
                {
                    "split": split,
                    "num_clips": len(pair[0].files),
                    "metric": metric,
                    "baseline": simple,
                    "network": network,
                    "difference": gap,
                }
            )
            if number == 0:
                last = rows[-1]
    if last is None:
        return None
    gap = last["difference"]
    is_better = gap["value"] > 0 and gap["is_significant"]
    verdict = "better" if is_better else "worse" if gap["value"] < 0 else "equal"
    text = _say(last, verdict)
    # If all clips are right, there is nothing to improve.
    if last["network"]["value"] < 1:
        tips = [not gap["is_significant"] and test_advice, gap["value"] <= 0 and advice]
        text = " ".join([text, *filter(None, tips)])
    return {
        "rows": rows,
        "verdict": verdict,
        "is_significant": gap["is_significant"],
        "text": text,
        "table": [_as_text(row) for row in rows],
    }


def _as_text(row: Mapping[str, Any]) -> list[str]:
    network, baseline = (format_with_interval(row[name]) for name in ("network", "baseline"))
    value, low, high = (_points(row["difference"][name]) for name in ("value", "low", "high"))
    title = METRICS[row["metric"]][0]
    return [row["split"], f"{row['num_clips']:,}", title, network, baseline, f"{value} points ({low} to {high})"]


def _say(row: Mapping[str, Any], verdict: str) -> str:
    gap = row["difference"]
    points = f"{abs(100 * gap['value']):.1f} points"
    what = "mAP" if row["metric"] == "mAP" else "accuracy"
    range_ = f"95 % interval {_points(gap['low'])} to {_points(gap['high'])}"
    if what == "accuracy":
        # The test decides. It can disagree with the interval if few clips differ.
        range_ += f"; McNemar's test: {format_p(gap['p'], 'p')}"
    clips = format_count(row["num_clips"], "clip")
    place = f"on {row['split']} ({clips})"
    if verdict == "better":
        return f"The network is better than the baseline ({BASELINE}): {what} {points} higher {place}; {range_}."
    if verdict == "worse":
        advice = "Do not deploy it." if gap["is_significant"] else "The difference could be chance."
        return (
            f"The network is worse than the baseline ({BASELINE}): {what} {points} lower {place}; {range_}. {advice}"
        )
    if gap["value"] > 0:
        return (
            f"The network is better than the baseline ({BASELINE}) on {row['split']}: {what} {points} higher. With "
            f"{clips}, this could be chance ({range_})."
        )
    if row["network"]["value"] == 1:
        return f"The network and the baseline ({BASELINE}) both reach {what} 1.000 {place}."
    return f"The network and the baseline ({BASELINE}) have the same {what} {place}; {range_}."


def _points(value: float) -> str:
    sign = "" if f"{abs(100 * value):.1f}" == "0.0" else "−" if value < 0 else "+"
    return f"{sign}{abs(100 * value):.1f}"
