# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Format the results of many runs as one table.

The score of a clip is the fraction of the seeds in which it was right. The clips of all folds are pooled: accuracy is
the mean p of the n scores. Its variance is the sum of two terms:

    V = variance of the scores / n  +  sum over folds of (clips of the fold / n)² · variance of its S accuracies / S

The first term is due to the clips. The second is due to the seeds: initial weights, order of clips, and drawn clips.
The effect of a seed on single clips is in both terms, so that intervals are rather too wide than too narrow. Welch and
Satterthwaite's formula gives the degrees of freedom of the sum (infinite for the clips) for Student's t.

    accuracy    Wilson's interval for p (1 - p) / V clips, with t instead of 1.96. With one seed per fold, the second
                term is not known, and the interval is the one that `sanet` reports for n clips.
    difference  network minus baseline, clip by clip, in the same way: D ± t √V.

Clips are assumed to be independent. Source: F. E. Satterthwaite, "An Approximate Distribution of Estimates of Variance
Components", 1946; E. L. Korn and B. I. Graubard, "Confidence Intervals for Proportions with Small Expected Number of
Positive Counts Estimated from Survey Data", 1998, for intervals with the effective number of clips.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from sanet_hf.errors import DataError
from sanet_hf.training.run_folder import RESULTS_FILE, read_file


CHOSEN = "chosen by validation"
MISSING = "–"
BASELINE_FILE = Path("predictions/baseline_test.csv")


class Estimate(NamedTuple):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """
    The results of a finished run.

    Attributes:
        data, recipe, fold, seed: Names of the run.
        files: Names of the test clips.
        is_right: Whether the network was right, bool of shape (clips,).
        is_baseline_right: Whether the baseline was right, 1 or 0; NaN for clips that it was not tested on. `None` if
            the run has no baseline.
        validation: Accuracy on the validation clips; `None` if there are none.
        training_seconds: Duration of the training, including the time before interruptions.
        command_seconds: Duration of the whole command; `None` if an attempt was killed before it was recorded.
        parameters: Number of parameters.
    """

    data: str
    recipe: str
    fold: str
    seed: int
    files: tuple[str, ...]
    is_right: np.ndarray
    is_baseline_right: np.ndarray | None
    validation: float | None
    training_seconds: float | None
    command_seconds: float | None
    parameters: int | None


def read_result(
    folder: Path,
    data: str,
    recipe: str,
    fold: str,
    seed: int,
    command_seconds: float | None = None,
    parameters: int | None = None,
) -> Result:
    """
    Read the results of a finished run.

    Raises:
        DataError: A file is missing or damaged, or predictions and results do not agree.
    """
    metrics = read_file(folder / RESULTS_FILE)
    files, is_right = _read_predictions(folder / "predictions" / "test.csv")
    if not np.isclose(is_right.mean(), metrics.get("test_accuracy", np.nan), atol=1e-6):
        raise DataError(
            f"{folder}: in predictions/test.csv {is_right.mean():.4f} are right, but {RESULTS_FILE} has a "
            f"test_accuracy of {metrics.get('test_accuracy')}. Delete the folder to repeat the run."
        )
    is_baseline_right = None
    if (folder / BASELINE_FILE).is_file():
        # With many clips, the baseline may be tested only on a part of them.
        answers = dict(zip(*_read_predictions(folder / BASELINE_FILE)))
        is_baseline_right = np.array([answers.get(name, np.nan) for name in files], dtype=float)
    return Result(
        data,
        recipe,
        fold,
        seed,
        files,
        is_right,
        is_baseline_right,
        metrics.get("eval_accuracy"),
        metrics.get("train_runtime"),
        command_seconds,
        parameters,
    )


def _read_predictions(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the clips, and whether each prediction is right."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [(row["file"], row["label"] == row["prediction"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}. Delete the folder of the run to repeat it.") from error
    if not rows:
        raise DataError(f"{path} has no predictions. Delete the folder of the run to repeat it.")
    return tuple(name for name, _ in rows), np.array([right for _, right in rows])


def estimate_accuracy(right: Sequence[np.ndarray]) -> Estimate:
    """
    Estimate the accuracy over folds and seeds; see the docstring of the module.

    Args:
        right: For each fold, 0/1 of shape (seeds, clips).
    """
    value, variance, t, num_clips = _pool(right)
    # The effective number of clips is at most the number of answers.
    num_answers = sum(of_fold.size for of_fold in right)
    size = num_clips if value in (0, 1) else min(value * (1 - value) / variance if variance else np.inf, num_answers)
    middle, scale = value + t**2 / (2 * size), 1 + t**2 / size
    half = t * np.sqrt(value * (1 - value) / size + t**2 / (4 * size**2))
    return Estimate(value, max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale)))


def estimate_difference(right: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Estimate:
    """Estimate the difference of two accuracies on the same clips. The arguments are as in [`estimate_accuracy`]."""
    value, variance, t, _ = _pool([one.astype(float) - other for one, other in zip(right, others)])
    half = float(t * np.sqrt(variance))
    return Estimate(value, value - half, value + half)


def _pool(values: Sequence[np.ndarray]) -> tuple[float, float, float, int]:
    """Return the mean, the variance of the mean, the quantile of t, and the number of clips."""
    clips = np.concatenate([of_fold.mean(axis=0) for of_fold in values])
    repeated = [of_fold for of_fold in values if len(of_fold) > 1]
    by_seeds = [
        (of_fold.shape[1] / len(clips)) ** 2 * of_fold.mean(axis=1).var(ddof=1) / len(of_fold) for of_fold in repeated
    ]
    variance = float(clips.var() / len(clips) + sum(by_seeds))
    spread = sum(part**2 / (len(of_fold) - 1) for part, of_fold in zip(by_seeds, repeated))
    t = float(stats.t.ppf(0.975, variance**2 / spread) if spread else stats.norm.ppf(0.975))
    return float(clips.mean()), variance, t, len(clips)


def make_rows(results: Iterable[Result]) -> list[dict]:
    """
    Return one row per dataset and recipe, in the order of the results. If a dataset has several recipes with
    validation, add a row for the recipe that validation chooses in each fold.

    Raises:
        DataError: Two runs of a fold were tested on different clips.
    """
    by_data: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        by_data[result.data][result.recipe].append(result)
    rows = []
    for data, by_recipe in by_data.items():
        rows += [_make_row(data, recipe, own) for recipe, own in by_recipe.items()]
        chosen = choose_by_validation(by_recipe)
        if chosen:
            choice = {fold: own[0].recipe for fold, own in chosen.items()}
            own = [result for of_fold in chosen.values() for result in of_fold]
            rows.append({**_make_row(data, CHOSEN, own), "choice": choice})
    return rows


def choose_by_validation(by_recipe: Mapping[str, Sequence[Result]]) -> dict[str, list[Result]]:
    """
    Return, for each fold, the results of the recipe with the best mean validation accuracy in the runs of that fold.
    If several are equal, the first one is chosen. The result is empty if fewer than two recipes have all folds and
    validation clips.
    """
    folds = list(dict.fromkeys(result.fold for own in by_recipe.values() for result in own))
    candidates = {
        recipe: {fold: [result for result in own if result.fold == fold] for fold in folds}
        for recipe, own in by_recipe.items()
        if {result.fold for result in own} == set(folds) and all(result.validation is not None for result in own)
    }
    if len(candidates) < 2:
        return {}
    return {
        fold: max(
            (by_fold[fold] for by_fold in candidates.values()),
            key=lambda own: np.mean([result.validation for result in own]),
        )
        for fold in folds
    }


def _make_row(data: str, recipe: str, results: Sequence[Result]) -> dict:
    by_fold: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if by_fold[result.fold] and by_fold[result.fold][0].files != result.files:
            raise DataError(
                f"Cannot compare the runs of {data}, fold {result.fold}: they were tested on different clips. Repeat "
                "them in another --output."
            )
        by_fold[result.fold].append(result)
    right = [np.stack([result.is_right for result in own]) for own in by_fold.values()]
    row = {
        "data": data,
        "recipe": recipe,
        "test_accuracy": estimate_accuracy(right)._asdict(),
        "baseline_test_accuracy": None,
        "difference": None,
        "validation_accuracy": _mean(result.validation for result in results),
        "training_seconds": _mean(result.training_seconds for result in results),
        "command_seconds": _mean(result.command_seconds for result in results),
        "parameters": _mean(result.parameters for result in results),
        "test_clips": sum(of_fold.shape[1] for of_fold in right),
        "baseline_clips": 0,
        "folds": len(by_fold),
        "seeds": min(map(len, right)),
        "runs": len(results),
    }
    if all(result.is_baseline_right is not None for result in results):
        baseline = [np.stack([result.is_baseline_right for result in own]) for own in by_fold.values()]
        is_known = [~np.isnan(of_fold).any(axis=0) for of_fold in baseline]
        baseline, same = ([one[:, known] for one, known in zip(each, is_known)] for each in (baseline, right))
        row["baseline_test_accuracy"] = estimate_accuracy(baseline)._asdict()
        row["difference"] = estimate_difference(same, baseline)._asdict()
        row["baseline_clips"] = sum(of_fold.shape[1] for of_fold in baseline)
    return row


def _mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else float(np.mean(values))


def format_table(rows: Iterable[Mapping]) -> str:
    """Return rows as a Markdown table, with accuracies in percent and their 95 % intervals."""
    lines = [
        "| data | recipe | test, % | baseline, % | difference | validation, % | training, min | command, min "
        "| parameters | runs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            row["data"],
            row["recipe"],
            _interval(row["test_accuracy"], ""),
            _interval(row["baseline_test_accuracy"], ""),
            _interval(row["difference"], "+"),
            _number(row["validation_accuracy"], 0.01, ".1f"),
            _number(row["training_seconds"], 60, ".1f"),
            _number(row["command_seconds"], 60, ".1f"),
            _number(row["parameters"], 1e6, ".2f") + " M" * (row["parameters"] is not None),
            f"{row['runs']}: {row['folds']} × {row['seeds']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, unit: float, form: str) -> str:
    return MISSING if value is None else f"{value / unit:{form}}"


def _interval(estimate: Mapping[str, float] | None, sign: str) -> str:
    if estimate is None:
        return MISSING
    value, low, high = (f"{100 * estimate[name]:{sign}.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def describe(result: Result) -> dict:
    """Return the entry of a run in `accuracy.json`, without the values in its own record."""
    return {
        "data": result.data,
        "recipe": result.recipe,
        "fold": result.fold,
        "seed": result.seed,
        "test_clips": len(result.files),
        "test_accuracy": float(result.is_right.mean()),
        "baseline_test_accuracy": None
        if result.is_baseline_right is None
        else float(np.nanmean(result.is_baseline_right)),
        "validation_accuracy": result.validation,
        "training_seconds": result.training_seconds,
        "command_seconds": result.command_seconds,
        "parameters": result.parameters,
    }
