# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Comparison of classifiers on one split and one machine: which is right more often, whether that could be chance, and
what it costs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel

from .comparison_report import describe, write_comparison
from .evaluation import Evaluation
from .measure import count_flops, describe_machine, make_inputs, make_noise, measure_memory, measure_speed


NUM_RESAMPLES = 2000
# Clips that are drawn at a time, for the memory.
MAX_DRAWS = 10**7
# A difference that chance brings about less often than this is taken for one.
SIGNIFICANCE = 0.05


@dataclass
class Candidate:
    """
    A trained classifier that is compared with others.

    Attributes:
        name: What tables and plots call it.
        model: In eval mode, on the device that it is measured on.
        feature_extractor: The model's own.
        evaluation: Its predictions of the split.
        training_seconds: Duration of its training; `None` where that is not known.
        disk_bytes: Size of its files, see [`measure.model_bytes`]; `None` where that is not known.
        path: Folder that the model was loaded from.
    """

    name: str
    model: PreTrainedModel
    feature_extractor: FeatureExtractionMixin
    evaluation: Evaluation
    training_seconds: float | None
    disk_bytes: int | None
    path: str | Path


def compare(
    candidates: Sequence[Candidate],
    output_dir: str | Path,
    *,
    clip_seconds: float = 4.0,
    batch_size: int = 8,
    num_rounds: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measure classifiers and write `comparison.md`, `comparison.json`, `comparison.html` and `comparison.png`.

    Args:
        candidates: The classifiers, evaluated on the same clips in the same order; the first is the one that the
            others are tested against.
        output_dir: Folder for the files.
        clip_seconds: Length of the clips of noise that costs are measured on.
        batch_size: Clips that are classified at once.
        num_rounds: How often each classifier is timed.
        seed: Of the bootstrap and the noise.

    Returns:
        What `comparison.json` holds; what could not be measured is `None`, with the reason in `not_measured`.

    Raises:
        ValueError: There is no candidate, or two differ in their labels, clips, true classes or device.
    """
    check_candidates(candidates)
    evaluations = [candidate.evaluation for candidate in candidates]
    first = evaluations[0]
    resamples = bootstrap(evaluations, seed)
    # Accuracy, or mAP where a clip can have several classes.
    metric = next(iter(resamples))
    best = int(np.argmax([evaluation.metrics[metric] for evaluation in evaluations]))
    classifiers = [(candidate.model, candidate.feature_extractor) for candidate in candidates]
    speeds = measure_speed(classifiers, clip_seconds, batch_size, num_rounds, seed)
    rows = []
    names = unique_names(candidates)
    for index, candidate in enumerate(tqdm(candidates, desc="Memory", unit="model")):
        rows.append(
            {
                "name": names[index],
                "path": str(candidate.path),
                "model_type": candidate.model.config.model_type,
                "dtype": str(candidate.model.dtype).removeprefix("torch."),
                "num_right": int(evaluations[index].is_right.sum()),
                "metrics": {
                    title: {"value": float(evaluations[index].metrics[title]), **interval(values[index])}
                    for title, values in resamples.items()
                },
                "difference": difference(evaluations, resamples[metric], 0, index) if index > 0 else None,
                "behind_best": difference(evaluations, resamples[metric], index, best),
                "parameters": candidate.model.num_parameters(),
                **speeds[index],
                **measure_costs(candidate, clip_seconds, batch_size),
            }
        )
    result = {
        "split": first.split,
        "num_clips": len(first.files),
        "num_labels": len(first.labels),
        "metric": metric,
        "clip_seconds": clip_seconds,
        "batch_size": batch_size,
        "num_rounds": num_rounds,
        "num_resamples": NUM_RESAMPLES,
        "seed": seed,
        "machine": describe_machine(candidates[0].model.device),
        "candidates": rows,
    }
    result.update(describe(result))
    write_comparison(result, output_dir)
    return result


def check_candidates(candidates: Sequence[Candidate]) -> None:
    """
    Raises:
        ValueError: As in [`compare`].
    """
    if not candidates:
        raise ValueError("There is no run to compare.")
    first = candidates[0]
    for other in candidates[1:]:
        one, two = first.evaluation, other.evaluation
        pair = f"{first.path} and {other.path} cannot be compared:"
        if set(one.labels) != set(two.labels):
            odd = ", ".join(sorted(set(one.labels) ^ set(two.labels))[:5])
            raise ValueError(f"{pair} their labels differ (only one of them knows {odd}).")
        if (one.split, list(one.files)) != (two.split, list(two.files)):
            raise ValueError(
                f"{pair} they were evaluated on different clips ({len(one.files)} of the {one.split} split and "
                f"{len(two.files)} of the {two.split} split)."
            )
        # The order of the labels is each classifier's own.
        truths = [evaluation.true_matrix[:, np.argsort(evaluation.labels)] for evaluation in (one, two)]
        if one.is_multi_label != two.is_multi_label or not np.array_equal(*truths):
            raise ValueError(f"{pair} the true classes of their clips differ.")
        if first.model.device != other.model.device:
            raise ValueError(f"{pair} one is on {first.model.device}, the other on {other.model.device}.")


def unique_names(candidates: Sequence[Candidate]) -> list[str]:
    """The candidates' names; equal ones with the folders above, and with a number where these are equal, too."""
    names = [candidate.name for candidate in candidates]
    for depth in (2, 3):
        names = [
            "/".join(Path(candidate.path).parts[-depth:]) if names.count(name) > 1 else name
            for name, candidate in zip(names, candidates)
        ]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


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
    """Mean over classes of the average precision, shape (resamples,), with weights of shape (clips, resamples)."""
    total, num_classes = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for true, probabilities in zip(evaluation.true_matrix.T, evaluation.probabilities.T):
        if not true.any():
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
        total += (weights[order[hits]] * precision).sum(axis=0) / num_hits[-1].clip(1)
        num_classes += num_hits[-1] > 0
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


def measure_costs(candidate: Candidate, clip_seconds: float, batch_size: int) -> dict[str, Any]:
    """What a candidate costs beside time; the reasons for what is `None` are in `not_measured`."""
    model, feature_extractor = candidate.model, candidate.feature_extractor
    inputs = make_inputs(model, feature_extractor, make_noise(feature_extractor, 1, clip_seconds, seed=0))
    reasons = {}

    def attempt(name: str, function: Callable[..., int], *arguments) -> int | None:
        try:
            return function(*arguments)
        except Exception as error:  # The rest of the comparison is worth having without this number.
            reasons[name] = f"{type(error).__name__}: {error}"

    costs = {
        "input_shape": list(inputs[feature_extractor.model_input_names[0]].shape[1:]),
        "flops": attempt("flops", count_flops, model, inputs),
        "memory_bytes": attempt(
            "memory_bytes", measure_memory, model, feature_extractor, candidate.path, clip_seconds, batch_size
        ),
        "disk_bytes": candidate.disk_bytes,
        "training_seconds": candidate.training_seconds,
    }
    for name in ("disk_bytes", "training_seconds"):
        if costs[name] is None:
            reasons[name] = "the run's folder does not tell"
    return {**costs, "not_measured": reasons}
