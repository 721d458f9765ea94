# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Comparison of classifiers on one split and one machine: accuracy, significance of the differences, and costs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.errors import DataError
from sanet_hf.training.evaluation.costs import (
    count_flops,
    describe_machine,
    make_inputs,
    make_noise,
    measure_memory,
    measure_speed,
)
from sanet_hf.training.evaluation.results import Evaluation
from sanet_hf.training.evaluation.statistics import (
    NUM_RESAMPLES,
    bootstrap,
    difference,
    metric_interval,
    pair_up,
)
from sanet_hf.training.reports.comparison import describe, write_comparison


@dataclass
class Candidate:
    """
    A trained classifier for the comparison.

    Attributes:
        name: Name in tables and plots.
        model: In eval mode, on the device of the measurements.
        feature_extractor: The model's own.
        evaluation: Its predictions on the split.
        training_seconds: Duration of its training; `None` if it is not known.
        disk_bytes: Size of its files, see [`costs.model_bytes`]; `None` if it is not known.
        path: Folder from which the model was loaded.
        folder: Folder for names and messages, if it differs from `path`, as for a cross-validation.
        baseline: Predictions of the baseline of its training run, if there is one.
    """

    name: str
    model: PreTrainedModel
    feature_extractor: FeatureExtractionMixin
    evaluation: Evaluation
    training_seconds: float | None
    disk_bytes: int | None
    path: str | Path
    folder: str | Path | None = None
    baseline: Evaluation | None = None


def compare(
    candidates: Sequence[Candidate],
    output_dir: str | Path,
    *,
    clip_seconds: float = 4.0,
    batch_size: int,
    num_rounds: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measure classifiers and write `comparison.md`, `comparison.json`, `comparison.html` and `comparison.png`.

    Args:
        candidates: The classifiers, evaluated on the same clips in the same order. The others are tested against the
            first.
        output_dir: Folder for the files.
        clip_seconds: Length of the noise clips for measuring the cost.
        batch_size: Batch size of classification.
        num_rounds: Number of timings per classifier.
        seed: Seed of the bootstrap and the noise.

    Returns:
        The content of `comparison.json`. Values that could not be measured are `None`, with the reason in
        `not_measured`.

    Raises:
        DataError: There is no candidate, or two differ in their labels, clips, true classes or device.
    """
    check_candidates(candidates)
    evaluations = [candidate.evaluation for candidate in candidates]
    first = evaluations[0]
    resamples = bootstrap(evaluations, seed)
    # Accuracy, or mAP in multi-label data.
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
                    title: _with_interval(evaluations[index], title, values[index])
                    for title, values in resamples.items()
                },
                "difference": difference(evaluations, resamples[metric], 0, index) if index > 0 else None,
                "behind_best": difference(evaluations, resamples[metric], index, best),
                "baseline": compare_baseline(candidate, metric, seed),
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


def compare_baseline(candidate: Candidate, metric: str, seed: int) -> dict[str, Any] | None:
    """
    Return `value`, `low` and `high` of a metric for the baseline of a candidate's run, `num_clips`, and the
    `difference` of the candidate from it on the same clips; `None` if there is no baseline for these clips.
    """
    pair = candidate.baseline and pair_up(candidate.evaluation, candidate.baseline)
    if not pair:
        return None
    both = [pair[1], pair[0]]
    resamples = bootstrap(both, seed)[metric]
    return {
        **_with_interval(both[0], metric, resamples[0]),
        "num_clips": len(both[0].files),
        "difference": difference(both, resamples, 0, 1),
    }


def _with_interval(evaluation: Evaluation, metric: str, resampled: np.ndarray) -> dict[str, float]:
    """Return `value`, `low` and `high` of a metric: the interval that reports show, see [`metric_interval`]."""
    low, high = metric_interval(evaluation, metric, resampled)
    return {"value": float(evaluation.metrics[metric]), "low": low, "high": high}


def check_candidates(candidates: Sequence[Candidate]) -> None:
    """
    Check that the candidates can be compared.

    Raises:
        DataError: As in [`compare`].
    """
    if not candidates:
        raise DataError("There are no runs to compare.")
    first = candidates[0]
    for other in candidates[1:]:
        one, two = first.evaluation, other.evaluation
        pair = f"Cannot compare {first.folder or first.path} and {other.folder or other.path}:"
        if set(one.labels) != set(two.labels):
            odd = ", ".join(sorted(set(one.labels) ^ set(two.labels))[:5])
            raise DataError(f"{pair} their classes differ (only one of them has {odd}).")
        if (one.split, list(one.files)) != (two.split, list(two.files)):
            raise DataError(
                f"{pair} they were evaluated on different clips ({len(one.files)} of the {one.split} split and "
                f"{len(two.files)} of the {two.split} split)."
            )
        # Each classifier has its own order of classes.
        truths = [evaluation.true_matrix[:, np.argsort(evaluation.labels)] for evaluation in (one, two)]
        if one.is_multi_label != two.is_multi_label or not np.array_equal(*truths):
            raise DataError(f"{pair} the true classes of their clips differ.")
        if first.model.device != other.model.device:
            raise DataError(f"{pair} one is on {first.model.device}, the other on {other.model.device}.")


def unique_names(candidates: Sequence[Candidate]) -> list[str]:
    """Return unique names of the candidates. Add parent folders, and then a number, to equal names."""
    names = [candidate.name for candidate in candidates]
    for depth in (2, 3):
        names = [
            "/".join(Path(candidate.folder or candidate.path).parts[-depth:]) if names.count(name) > 1 else name
            for name, candidate in zip(names, candidates)
        ]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def measure_costs(candidate: Candidate, clip_seconds: float, batch_size: int) -> dict[str, Any]:
    """Return the costs of a candidate except for time. `not_measured` has the reason for each value that is `None`."""
    model, feature_extractor = candidate.model, candidate.feature_extractor
    inputs = make_inputs(model, feature_extractor, make_noise(feature_extractor, 1, clip_seconds, seed=0))
    reasons = {}

    def attempt(name: str, function: Callable[..., int], *arguments) -> int | None:
        try:
            return function(*arguments)
        except Exception as error:  # The rest of the comparison is useful without this number.
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
            reasons[name] = "not in the folder of the run"
    return {**costs, "not_measured": reasons}
