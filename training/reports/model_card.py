# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained classifier: metadata for the Hub, and values for the template `model_card.md`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.audio.denoise import DENOISED
from sanet_hf.inference.windows import THRESHOLD
from sanet_hf.pretrained import model_names
from sanet_hf.training.evaluation.alarm_counts import FalseAlarms
from sanet_hf.training.evaluation.metric_names import METRIC_TYPES, METRICS
from sanet_hf.training.evaluation.results import (
    FEW_CLIPS,
    Evaluation,
    accuracy_interval,
    in_order,
    list_classes,
    proportion_interval,
    summarize_calibration,
)
from sanet_hf.utils.formatting import escape_markdown, format_duration, format_markdown_table, shorten


TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"
MAX_CLASSES = 50


def write_model_card(
    output_dir: str | Path,
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    evaluations: Mapping[str, Evaluation],
    dataset_name: str,
    dataset_id: str | None,
    base_model: str | None,
    hyperparameters: Mapping[str, object],
    training_seconds: float | None,
    trained_on: str | None = None,
    tested_versions: Mapping[str, tuple[str, str]] | None = None,
    cross_validation: Mapping[str, Any] | None = None,
    int8: Mapping[str, Any] | None = None,
    refit: str | None = None,
    baseline: Mapping[str, Any] | None = None,
    false_alarms: FalseAlarms | None = None,
    calibration: str | None = None,
    band_head: str | None = None,
    teachers: str | None = None,
) -> None:
    """
    Write `output_dir/README.md`: metadata for the Hub, a description of the model, its use, results, training and
    limitations.

    Args:
        output_dir: Folder of the model. Its name is the name of the model.
        model, feature_extractor: The saved model and feature extractor.
        evaluations: Results by split: any of `train`, `validation` and `test`.
        dataset_name: Name of the training data.
        dataset_id: Id of the training data on the Hub, if any.
        base_model: Hub id or folder of the model that was fine-tuned; `None` if it was trained from scratch.
        hyperparameters: Names and values of the training options.
        training_seconds: Duration of the training in seconds.
        trained_on: Processor or GPU, number format and libraries of the training.
        tested_versions: By library, the oldest and the newest version that the saved code was tested with.
        cross_validation: Results of a cross-validation with the same options, as in `cross_validation.json`, if this
            model was then trained on all recordings.
        int8: Results in 8-bit integers, as in [`~sanet_hf.optimization.Int8Calibration`].
        refit: Description of the second training with the validation split, if any.
        baseline: Result of [`~evaluation.statistics.compare_with_baseline`].
        false_alarms: Detections of the model on background.
        calibration: Method of the calibration, or the reason for its absence.
        band_head: Share of logistic regression on the log-mel bands in the scores, if any.
        teachers: Result of [`~training.teachers.describe_teachers`], if there were teachers.
    """
    output_dir = Path(output_dir)
    baseline = baseline or (cross_validation or {}).get("baseline")
    evaluations = in_order(evaluations)
    name = output_dir.resolve().name
    # The Hub rejects a folder in the metadata.
    dataset_id = dataset_id if dataset_id and _is_hub_id(dataset_id) else None
    base_id = base_model if base_model and _is_hub_id(base_model) else None
    is_sanet = model.config.model_type == "sanet"
    max_seconds = None
    # `max_length` has other meanings in other feature extractors.
    if is_sanet and feature_extractor.max_length is not None:
        max_seconds = f"{feature_extractor.max_length / feature_extractor.sampling_rate:.4g} s"
    card = ModelCard.from_template(
        make_card_data(name, model, evaluations, dataset_name, dataset_id, base_id),
        TEMPLATE,
        escape=escape_markdown,
        table=format_markdown_table,
        enumerate_some=_enumerate,
        name=name,
        # An absolute path would publish the folders of a machine.
        quoted_path=json.dumps(name if output_dir.is_absolute() else output_dir.as_posix(), ensure_ascii=False),
        architecture=type(model).__name__,
        num_parameters=model.num_parameters(),
        is_sanet=is_sanet,
        is_multi_label=model.config.problem_type == "multi_label_classification",
        labels=[model.config.id2label[index] for index in range(model.config.num_labels)],
        max_classes=MAX_CLASSES,
        base_id=base_id,
        base_folder=Path(base_model).resolve().name if base_model else None,
        dataset_name=dataset_name,
        dataset_id=dataset_id,
        sampling_rate=feature_extractor.sampling_rate,
        max_seconds=max_seconds,
        is_denoised=getattr(feature_extractor, DENOISED, None),
        training_time=None if training_seconds is None else format_duration(training_seconds),
        trained_on=trained_on,
        tested_versions=", ".join(
            f"{library} {oldest}–{newest}" for library, (oldest, newest) in (tested_versions or {}).items()
        ),
        hyperparameters=[[option, str(value)] for option, value in hyperparameters.items()],
        evaluations=evaluations,
        **_results(evaluations),
        cross_validation=_cross_validation_results(cross_validation) if cross_validation else None,
        int8=int8 and {**int8, "intervals": [_interval(value, int8["num_clips"]) for value in int8["accuracy"]]},
        refit=refit,
        baseline=baseline,
        false_alarms=false_alarms,
        background_label=getattr(model.config, "background_label", None),
        calibration=calibration,
        band_head=band_head,
        teachers=teachers,
        calibrated=summarize_calibration(evaluations),
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    card.save(output_dir / "README.md")


def make_card_data(
    name: str,
    model: PreTrainedModel,
    evaluations: Mapping[str, Evaluation],
    dataset_name: str,
    dataset_id: str | None,
    base_id: str | None,
) -> ModelCardData:
    """Return the metadata, with the results of the test split or, without one, of the validation split."""
    evaluation = evaluations.get("test", evaluations.get("validation"))
    results = None
    if evaluation is not None:
        results = [
            EvalResult(
                task_type="audio-classification",
                task_name="Audio classification",
                dataset_type=dataset_id or "audiofolder",
                dataset_name=dataset_name,
                dataset_split=evaluation.split,
                metric_type=METRIC_TYPES[metric],
                metric_name=METRICS[metric][0],
                metric_value=float(evaluation.metrics[metric]),
            )
            for metric in (("mAP" if evaluation.is_multi_label else "accuracy"), "macro_f1")
        ]
    tags = ["audio-classification", model.config.model_type]
    if model.config.model_type == "sanet" and getattr(model.config, "auto_map", None):
        tags.append("custom_code")
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=tags,
        base_model=base_id,
        datasets=[dataset_id] if dataset_id else None,
        metrics=[result.metric_type for result in results] if results else None,
        model_name=name if results else None,
        eval_results=results,
    )


def _results(evaluations: Mapping[str, Evaluation]) -> dict[str, object]:
    """Return the values of the template that depend on the results."""
    if not evaluations:
        return {}
    shown = [metric for metric in METRICS if any(metric in e.metrics for e in evaluations.values())]
    last_split, last = list(evaluations.items())[-1]
    low, high = accuracy_interval(last)
    thresholds = last.thresholds
    counts = last.true_matrix.sum(axis=0)
    return {
        "metrics": [METRICS[metric] for metric in shown],
        "threshold": THRESHOLD,
        "thresholds": None if thresholds is None else (float(thresholds.min()), float(thresholds.max())),
        "results_header": ["Split", "Clips", *(METRICS[metric][0] for metric in shown), "Accuracy, 95 % interval"],
        "results": [
            [
                *(split, len(evaluation.files), *(evaluation.metrics.get(metric) for metric in shown)),
                "{:.3f}–{:.3f}".format(*accuracy_interval(evaluation)),
            ]
            for split, evaluation in evaluations.items()
        ],
        "classes": {
            split: [list(row.values()) for row in list_classes(evaluation)]
            for split, evaluation in evaluations.items()
        },
        "last_split": last_split,
        "num_clips": len(last.files),
        "low": low,
        "high": high,
        "few": FEW_CLIPS,
        "few_clips": [f"{last.labels[index]} ({counts[index]})" for index in np.flatnonzero(counts < FEW_CLIPS)],
    }


def _interval(accuracy: float, num_clips: int) -> str:
    return "{:.3f}–{:.3f}".format(*proportion_interval(round(accuracy * num_clips), num_clips))


def _cross_validation_results(result: Mapping[str, Any]) -> dict[str, object]:
    """Return the values of the template that describe a cross-validation."""
    shown = {METRICS[name]: values for name, values in result["metrics"].items() if name in METRICS}
    return {
        "num_folds": len(result["folds"]),
        "num_tested": result["out_of_fold"]["recordings"],
        "metrics": list(shown),
        "rows": [
            [title, values["mean"], values["standard_deviation"], f"{values['low']:.3f} to {values['high']:.3f}"]
            for (title, _), values in shown.items()
        ],
    }


def _is_hub_id(name: str) -> bool:
    """Return whether a name is an id on the Hub, and not a folder or a pretrained network of sanet-hf."""
    if Path(name).exists() or name in model_names():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _enumerate(names: Sequence[str]) -> str:
    """Return up to `MAX_CLASSES` names and the number of the others."""
    return shorten([escape_markdown(name) for name in names], MAX_CLASSES)
