# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of a training run: one HTML file that contains its plots and recordings and needs no network."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix
from transformers.utils import logging

from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.inference.windows import THRESHOLD
from sanet_hf.training.evaluation.alarm_counts import FalseAlarms
from sanet_hf.training.evaluation.calibration import coverage
from sanet_hf.training.evaluation.metric_names import METRICS
from sanet_hf.training.evaluation.metrics import NUM_CALIBRATION_BINS, calibration, expected_calibration_error
from sanet_hf.training.evaluation.results import (
    Evaluation,
    accuracy_interval,
    describe_missing,
    in_order,
    list_classes,
    proportion_interval,
    summarize_calibration,
)
from sanet_hf.training.reports.html import (
    COLORS,
    MAX_AUDIO_SECONDS,
    STYLE,
    Plot,
    encode_audio,
    make_axes,
    make_plot,
    plot_durations,
    render_page,
    split_color,
)


logger = logging.get_logger(__name__)


# Above these numbers of classes, the cells of a confusion matrix have no numbers, and there is no matrix.
MAX_NUMBERED_CLASSES = 25
MAX_MATRIX_CLASSES = 60
NUM_CONFUSIONS = 30

# Wrong classes shown per multi-label clip.
MAX_WRONG_CLASSES = 4


def write_report(
    path: str | Path,
    title: str,
    facts: Mapping[str, str],
    evaluations: Mapping[str, Evaluation],
    durations: Mapping[str, np.ndarray],
    log_history: Sequence[Mapping[str, float]],
    load_clip: Callable[[str, int], np.ndarray] | None = None,
    sampling_rate: int = DEFAULT_SAMPLING_RATE,
    num_mistakes: int = 12,
    cross_validation: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
    false_alarms: FalseAlarms | None = None,
) -> None:
    """
    Write a report as one HTML file. Confusions, calibration and mistakes are from the test split, or from the
    validation split if there is no test split.

    Args:
        path: The file to write.
        title: Heading of the report.
        facts: Names and values for the table at the top.
        evaluations: By split, such as `train`, `validation` and `test`; at least one.
        durations: Duration of every clip of each split in seconds, in the order of the evaluation's files; empty if
            unknown.
        log_history: `Trainer.state.log_history`; may be empty.
        load_clip: Takes split and index of a clip in the evaluation and returns its mono waveform, floats of shape
            (samples,). Without it, or if it raises, mistakes are shown without audio.
        sampling_rate: Sampling rate of these waveforms in Hz.
        num_mistakes: Maximum number of mistakes to show.
        cross_validation: Results of each fold, as in `cross_validation.json`, if the evaluation covers all folds.
        baseline: Result of [`~evaluation.statistics.compare_with_baseline`].
        false_alarms: Detections of the model on background.

    Raises:
        ValueError: `evaluations` is empty.
    """
    if not evaluations:
        raise ValueError("A report needs the evaluation of at least one split.")
    evaluations = in_order(evaluations)
    durations = {split: np.asarray(durations[split], np.float64) for split in evaluations if split in durations}
    last = list(evaluations.values())[-1]
    num_classes = len(last.labels)
    covered = {} if last.is_multi_label else list_coverage(evaluations)
    html = render_page(
        "report.html",
        title=title,
        facts=facts,
        evaluations=evaluations,
        durations=durations,
        last=last,
        interval=accuracy_interval(last),
        missing=describe_missing(evaluations),
        metrics={name: texts for name, texts in METRICS.items() if name in last.metrics},
        folds=cross_validation,
        baseline=baseline,
        data=list_data(evaluations, durations) if durations else [],
        data_plots=[plot_durations(durations)] if durations else [],
        training_plots=plot_history(log_history),
        matrix=None if last.is_multi_label or num_classes > MAX_MATRIX_CLASSES else count_confusions(last),
        has_numbers=num_classes <= MAX_NUMBERED_CLASSES,
        confusions=None if last.is_multi_label or num_classes <= MAX_NUMBERED_CLASSES else list_confusions(last),
        per_class=list_classes(last),
        calibration_plots=[
            plot_calibration(last),
            plot_confidences(last),
            *([] if last.is_multi_label else [plot_coverage(evaluations)]),
        ],
        calibrated=summarize_calibration(evaluations),
        coverage=covered,
        coverage_rows=list(zip(*covered.values())),
        intervals={split: accuracy_interval(evaluation) for split, evaluation in evaluations.items()},
        proportion_interval=proportion_interval,
        thresholds=None if last.thresholds is None else last.thresholds.tolist(),
        has_own_thresholds=last.predicted is not None,
        mistakes=list_mistakes(last, num_mistakes, load_clip, sampling_rate),
        max_audio_seconds=MAX_AUDIO_SECONDS,
        threshold=THRESHOLD,
        false_alarms=false_alarms,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def list_data(
    evaluations: Mapping[str, Evaluation], durations: Mapping[str, np.ndarray]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each class with the number and the total seconds of its clips in each split."""
    counts = [evaluation.true_matrix.sum(axis=0).tolist() for evaluation in evaluations.values()]
    seconds = [(durations[split] @ evaluation.true_matrix).tolist() for split, evaluation in evaluations.items()]
    labels = next(iter(evaluations.values())).labels
    return [(label, list(zip(c, s))) for label, c, s in zip(labels, zip(*counts), zip(*seconds))]


@matplotlib.rc_context(STYLE)
def plot_history(log_history: Sequence[Mapping[str, float]]) -> list[Plot]:
    """Return plots of the logged losses and metrics over the epochs."""
    losses = {"loss": "training loss", "eval_loss": "validation loss"}
    metrics = {f"eval_{name}": METRICS[name][0] for name in ("mAP", "macro_f1", "accuracy")}
    plots = []
    for title, ylabel, names in (("Loss", "loss", losses), ("Metrics of the validation split", "metric", metrics)):
        curves = {label: curve for name, label in names.items() if (curve := _curve(log_history, name))}
        if not curves:
            continue
        axes = make_axes("epoch", ylabel)
        for label, curve in curves.items():
            axes.plot(*zip(*curve), marker="o" if len(curve) <= 30 else None, label=label)
        last_epoch, highest = np.max([point for curve in curves.values() for point in curve], axis=0)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set(xlim=(0, 1.03 * last_epoch or 1), ylim=(0, 1.05 * highest or 1) if names is losses else (0, 1.02))
        # The caption names the validation loss, and the metric that comes first in `metrics`.
        label = list(curves)[-1 if names is losses else 0]
        epoch, value = (min if names is losses else max)(curves[label], key=lambda point: point[1])
        extreme = "Lowest" if names is losses else "Highest"
        plots.append(make_plot(title, axes, f"{extreme} {label}: {value:.3f} after epoch {epoch:.4g}."))
    return plots


def _curve(log_history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Return the epochs and values logged under a name."""
    # If an epoch has two values, the later one belongs to the final evaluation of the best model, not to the epoch.
    values = {entry["epoch"]: entry[name] for entry in reversed(log_history) if {name, "epoch"} <= entry.keys()}
    return sorted((epoch, value) for epoch, value in values.items() if np.isfinite(value))


@matplotlib.rc_context(STYLE)
def plot_calibration(evaluation: Evaluation) -> Plot:
    """Return a plot of the share of correct predictions over their probability."""
    confidences, fractions_right, counts = calibration(evaluation.probabilities, evaluation.references)
    axes = make_axes("predicted probability", "share of correct predictions")
    axes.plot([0, 1], [0, 1], color=COLORS["muted"], linewidth=1, linestyle=(0, (4, 3)), label="perfect")
    axes.plot(confidences, fractions_right, color=COLORS["first"], linewidth=1)
    sizes = 6 + 60 * counts / counts.max()
    axes.scatter(
        confidences, fractions_right, sizes, color=COLORS["first"], label="this model", zorder=3, clip_on=False
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    error = expected_calibration_error(evaluation.probabilities, evaluation.references)
    caption = f"Expected calibration error (ECE): {error:.3f}. The size of a point is its number of predictions. "
    caption += "Below the dashed line the model is overconfident, above it is underconfident."
    return make_plot("Reliability", axes, caption)


@matplotlib.rc_context(STYLE)
def plot_confidences(evaluation: Evaluation) -> Plot:
    """Return a histogram of the predicted probabilities."""
    if evaluation.is_multi_label:
        confidences, right = evaluation.probabilities.ravel(), evaluation.true_matrix.ravel() == 1
        labels, ylabel = ("class is present", "class is absent"), "pairs of clip and class (log)"
        caption = "Every class of every clip counts once. The vertical axis is logarithmic."
    else:
        confidences, right = evaluation.probabilities.max(axis=1), evaluation.is_right
        labels, ylabel = ("correct", "wrong"), "clips"
        caption = "Probability of the predicted class of each clip."
    axes = make_axes("predicted probability", ylabel)
    axes.hist(
        [confidences[right], confidences[~right]],
        bins=NUM_CALIBRATION_BINS,
        range=(0, 1),
        rwidth=0.9,
        stacked=not evaluation.is_multi_label,
        log=evaluation.is_multi_label,
        label=labels,
    )
    axes.set_xlim(0, 1.02)
    if not evaluation.is_multi_label:
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return make_plot("Probabilities", axes, caption)


@matplotlib.rc_context(STYLE)
def plot_coverage(evaluations: Mapping[str, Evaluation]) -> Plot:
    """Return a plot of the accuracy on the clips with the highest confidence over their share of all clips."""
    axes = make_axes("coverage (share of the clips)", "accuracy on these clips")
    lowest = 1.0
    for split, evaluation in _unseen(evaluations).items():
        confidences = evaluation.probabilities.max(axis=1)
        order = np.argsort(-confidences, kind="stable")
        counts = np.arange(1, len(order) + 1)
        accuracies = evaluation.is_right[order].cumsum() / counts
        # A threshold cannot separate clips of equal confidence.
        is_last = np.append(np.diff(confidences[order]) != 0, True)
        axes.plot(counts[is_last] / len(order), accuracies[is_last], label=split, color=split_color(split))
        lowest = min(lowest, accuracies[is_last].min())
    bottom = max(0, lowest - 0.05)
    ticks = [tick for tick in MaxNLocator(5).tick_values(bottom, 1) if bottom <= tick <= 1]
    axes.set(xlim=(0, 1.02), yticks=ticks, ylim=(bottom, 1 + 0.05 * (1 - bottom)))
    return make_plot("Accuracy and coverage", axes, "From left to right, less confident clips are included.")


def list_coverage(evaluations: Mapping[str, Evaluation]) -> dict[str, list[tuple[float, int, int]]]:
    """Return the rows of [`coverage`] for the validation and test splits, or for the only other split."""
    return {split: coverage(e.probabilities, e.is_right) for split, e in _unseen(evaluations).items()}


def _unseen(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Return the evaluations without the training split, unless it is the only one."""
    return {split: e for split, e in evaluations.items() if split != "train"} or dict(evaluations)


def count_confusions(evaluation: Evaluation) -> np.ndarray:
    """Return the number of clips by true (rows) and predicted class (columns), shape (classes, classes)."""
    classes = np.arange(len(evaluation.labels))
    return confusion_matrix(evaluation.references, evaluation.probabilities.argmax(axis=1), labels=classes)


def list_confusions(evaluation: Evaluation) -> list[dict]:
    """Return the most frequent confusions: `true`, `predicted`, `count`, and `support` of the true class."""
    matrix = count_confusions(evaluation)
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    most = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    return [
        {
            "true": evaluation.labels[row],
            "predicted": evaluation.labels[column],
            "count": int(wrong[row, column]),
            "support": int(matrix[row].sum()),
        }
        for row, column in zip(*np.unravel_index(most, wrong.shape))
        if wrong[row, column]
    ]


def list_mistakes(
    evaluation: Evaluation,
    num_mistakes: int,
    load_clip: Callable[[str, int], np.ndarray] | None,
    sampling_rate: int,
) -> list[dict]:
    """Return the wrong clips with the highest confidence: `file`, `true` classes, `wrong` classes, `audio`."""
    probabilities, predicted = evaluation.probabilities, evaluation.predicted_matrix
    wrong = predicted != evaluation.true_matrix
    certainty = np.where(predicted == 1, probabilities, 1 - probabilities)
    # A single-label clip is wrong in two classes, the predicted and the true one. The predicted one decides the rank.
    ranked = np.where(wrong if evaluation.is_multi_label else wrong & (predicted == 1), certainty, 0).max(axis=1)
    mistakes = []
    for index in sorted(np.flatnonzero(~evaluation.is_right), key=lambda index: -ranked[index])[:num_mistakes]:
        classes = sorted(np.flatnonzero(wrong[index]), key=lambda c: (-predicted[index, c], -certainty[index, c]))
        mistakes.append(
            {
                "file": evaluation.files[index],
                "true": [evaluation.labels[c] for c in np.flatnonzero(evaluation.true_matrix[index])],
                "wrong": [
                    (evaluation.labels[c], float(probabilities[index, c]), bool(predicted[index, c]))
                    for c in classes[:MAX_WRONG_CLASSES]
                ],
                "num_more": max(0, len(classes) - MAX_WRONG_CLASSES),
                "audio": _load_audio(load_clip, evaluation, int(index), sampling_rate) if load_clip else None,
            }
        )
    return mistakes


def _load_audio(load_clip: Callable, evaluation: Evaluation, index: int, sampling_rate: int) -> str | None:
    try:
        return encode_audio(load_clip(evaluation.split, index), sampling_rate)
    except Exception as error:  # One unreadable clip must not prevent the report.
        logger.warning(f"The report contains no audio of {evaluation.files[index]}: {error}")
        return None
