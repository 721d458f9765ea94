# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Evaluation and comparison of trained classifiers.

    sanet evaluate runs/sanet --data_dir data --split test
    sanet compare runs/sanet runs/wav2vec2 runs/ast --data_dir data --output comparison
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import FeatureExtractionMixin, PreTrainedModel, Trainer

from sanet_hf.architectures import find_window_seconds
from sanet_hf.errors import UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.optimization.self_check import replace_wrong_layers
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments
from sanet_hf.training.cross_validation import PREDICTIONS, read_out_of_fold
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.load import load_recordings, longest_first
from sanet_hf.training.data.preparation_record import warn_of_other_preparation
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.evaluation.compare import Candidate, compare
from sanet_hf.training.evaluation.costs import model_bytes
from sanet_hf.training.evaluation.evaluate import evaluate_splits
from sanet_hf.training.evaluation.prediction_files import read_baseline
from sanet_hf.training.evaluation.results import Evaluation, write_predictions
from sanet_hf.training.evaluation.seen_recordings import leave_out_seen
from sanet_hf.training.losses import make_loss
from sanet_hf.training.options import is_same_source, override_data_arguments
from sanet_hf.training.reports.run import write_report
from sanet_hf.training.run_folder import (
    CROSS_VALIDATION_FILE,
    RESULTS_FILE,
    is_cross_validation,
    read_file,
    read_options,
)
from sanet_hf.utils.files import atomic_directory


@dataclass
class EvaluatedModel:
    """
    A trained classifier and its evaluation on `recordings`, in windows of `max_length_seconds`. `results` are those of
    its training run, if any.
    """

    name: str
    model: PreTrainedModel
    feature_extractor: FeatureExtractionMixin
    max_length_seconds: float
    recordings: Dataset
    evaluation: Evaluation
    results: Mapping[str, float]


def evaluate_models(
    names: Sequence[str],
    data_options: Mapping[str, object],
    split: str | None,
    batch_size: int,
    threshold: float | None = None,
) -> list[EvaluatedModel]:
    """
    Evaluate classifiers on the same recordings, in float32. Skip recordings that one of them was trained on; see
    [`leave_out_seen`].

    Args:
        names: Folders or Hub ids.
        data_options: Options of [`DataArguments`]. Other options are those of the first model's training run.
        split: `train`, `validation`, `test`, or `all` for recordings without splits. Default: `test`, or `all` for
            recordings without splits that are not those of the first run.
        batch_size: Batch size of classification.
        threshold: Threshold of all classes in multi-label data, instead of the models' thresholds.

    Returns:
        The evaluated models.

    Raises:
        SanetError: A model cannot be loaded, or does not have a class; or options contradict each other.
    """
    models = {name: load_classifier(name) for name in names}
    for model, _ in models.values():
        if threshold is not None:
            if model.config.problem_type != "multi_label_classification":
                raise UsageError("--threshold is for multi-label models. Leave it out.")
            model.config.thresholds = decision_threshold(model.config, threshold).tolist()
        replace_wrong_layers(model, model.dtype)
    runs = {name: read_options(name) for name in names}
    arguments = override_data_arguments(runs[names[0]], data_options)
    # Each model reads recordings at its own rate. At the highest rate, their lengths are the most precise.
    sampling_rate = max(feature_extractor.sampling_rate for _, feature_extractor in models.values())
    if split is None:
        split = "test" if is_same_source(runs[names[0]], vars(arguments)) else "test_or_all"
    ((split, recordings),) = load_recordings(arguments, sampling_rate, splits=[split]).items()
    rates = {name: feature_extractor.sampling_rate for name, (_, feature_extractor) in models.items()}
    recordings = longest_first(leave_out_seen(recordings, split, sampling_rate, rates))
    evaluated = []
    for name, (model, feature_extractor) in models.items():
        warn_of_other_preparation(feature_extractor, arguments)
        # Each model gets windows of the length of its own training, whose options name only what is not the default.
        seconds = runs[name].get("max_length_seconds", DataArguments().max_length_seconds) if runs[name] else None
        if seconds is not None and data_options.get("max_length_seconds", seconds) != seconds:
            raise UsageError(f"--max_length_seconds has no effect: {name} was trained on {seconds:g} s. Leave it out.")
        if seconds is None:
            longest = find_window_seconds(model, feature_extractor)
            seconds = data_options.get("max_length_seconds", min(longest, arguments.max_length_seconds))
            if not 1 / feature_extractor.sampling_rate <= seconds <= longest:
                raise UsageError(f"--max_length_seconds {seconds:g}: {name} supports clips of up to {longest:g} s.")
        trainer = _make_trainer(model, feature_extractor, batch_size)
        evaluation = evaluate_splits(trainer, {split: recordings}, seconds)[split]
        results = read_file(Path(name) / RESULTS_FILE)
        evaluated.append(EvaluatedModel(name, model, feature_extractor, seconds, recordings, evaluation, results))
    return evaluated


def write_evaluation(evaluated: EvaluatedModel, output_dir: str | Path) -> None:
    """Write `metrics.json`, `predictions/<split>.csv` and `report.html` to a new folder."""
    evaluation = evaluated.evaluation
    with atomic_directory(output_dir) as folder:
        write_predictions(evaluation, folder / "predictions" / f"{evaluation.split}.csv")
        text = json.dumps(dict(evaluation.metrics), indent=2, sort_keys=True)
        (folder / "metrics.json").write_text(text, encoding="utf-8")
        write_report(
            folder / "report.html",
            title=f"{evaluated.name}: {evaluation.split}",
            facts={"Model": evaluated.name, "Parameters": f"{evaluated.model.num_parameters():,}"},
            evaluations={evaluation.split: evaluation},
            durations={evaluation.split: np.array(evaluated.recordings["seconds"])},
            log_history=[],
            load_clip=lambda _, index: load_recording(
                evaluated.recordings[index], evaluated.feature_extractor.sampling_rate
            ),
            sampling_rate=evaluated.feature_extractor.sampling_rate,
        )


def compare_models(
    names: Sequence[str],
    data_options: Mapping[str, object],
    output_dir: str | Path,
    split: str | None,
    batch_size: int,
    num_rounds: int = 10,
    threshold: float | None = None,
) -> str:
    """
    Evaluate classifiers on the same recordings, measure their cost, and write `comparison.md`, `.json`, `.html` and
    `.png`.

    Args:
        names, data_options, split, threshold: As in [`evaluate_models`]. `names` may also be folders of
            cross-validations, whose out-of-fold predictions are compared.
        output_dir: Folder of the comparison.
        batch_size: Batch size of classification.
        num_rounds: Rounds of timing.

    Returns:
        The content of `comparison.md`.
    """
    if any(is_cross_validation(name) for name in names):
        if threshold is not None:
            raise UsageError("--threshold has no effect on cross-validations. Leave it out.")
        candidates, clip_seconds = load_cross_validations(names, data_options, split)
        compare(candidates, output_dir, clip_seconds=clip_seconds, batch_size=batch_size, num_rounds=num_rounds)
        return (Path(output_dir) / "comparison.md").read_text(encoding="utf-8")
    models = evaluate_models(names, data_options, split, batch_size, threshold)
    candidates = [
        Candidate(
            name=Path(evaluated.name).name,
            model=evaluated.model,
            feature_extractor=evaluated.feature_extractor,
            evaluation=evaluated.evaluation,
            training_seconds=evaluated.results.get("train_runtime"),
            disk_bytes=model_bytes(evaluated.name),
            path=evaluated.name,
            baseline=read_baseline(evaluated.name, evaluated.evaluation.split, evaluated.evaluation.is_multi_label),
        )
        for evaluated in models
    ]
    compare(
        candidates,
        output_dir,
        clip_seconds=max(evaluated.max_length_seconds for evaluated in models),
        batch_size=batch_size,
        num_rounds=num_rounds,
    )
    return (Path(output_dir) / "comparison.md").read_text(encoding="utf-8")


def load_cross_validations(
    names: Sequence[str], data_options: Mapping[str, object], split: str
) -> tuple[list[Candidate], float]:
    """
    Load cross-validations for a comparison: their out-of-fold predictions, and the model of the first fold for the
    costs.

    Returns:
        The candidates, and the longest clip length of the models in seconds.

    Raises:
        UsageError: A folder is not a cross-validation, or options select recordings.
        DataError: A cross-validation is not finished.
    """
    others = [name for name in names if not is_cross_validation(name)]
    if others:
        raise UsageError(
            f"{others[0]} is not a cross-validation, but others are. Compare only models, or only cross-validations."
        )
    chosen = [f"--{field.name}" for field in dataclasses.fields(DataArguments) if field.name in data_options]
    if chosen or split not in (None, "test"):
        raise UsageError(
            f"{chosen[0] if chosen else '--split'} has no effect on cross-validations, whose out-of-fold predictions "
            "are compared. Leave it out."
        )
    candidates, seconds = [], []
    for name in names:
        evaluation = read_out_of_fold(name)
        folders = [Path(name) / fold["folder"] for fold in read_file(Path(name) / CROSS_VALIDATION_FILE)["folds"]]
        model, feature_extractor = load_classifier(folders[0])
        replace_wrong_layers(model, model.dtype)
        runtimes = [read_file(folder / RESULTS_FILE).get("train_runtime") for folder in folders]
        seconds.append(read_options(folders[0]).get("max_length_seconds", DataArguments().max_length_seconds))
        candidates.append(
            Candidate(
                name=Path(name).resolve().name,
                model=model,
                feature_extractor=feature_extractor,
                evaluation=evaluation,
                training_seconds=None if None in runtimes else float(np.mean(runtimes)),
                disk_bytes=model_bytes(folders[0]),
                path=folders[0],
                folder=name,
                baseline=read_baseline(name, PREDICTIONS.stem, evaluation.is_multi_label),
            )
        )
    return candidates, max(seconds)


def _make_trainer(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, batch_size: int) -> Trainer:
    arguments = AudioTrainingArguments(
        output_dir=tempfile.gettempdir(),
        per_device_eval_batch_size=batch_size,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
    )
    return Trainer(
        model=model,
        args=arguments,
        data_collator=partial(collate, feature_extractor=feature_extractor),
        processing_class=feature_extractor,
        compute_loss_func=make_loss(model.config.problem_type == "multi_label_classification"),
    )
