# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train an audio classifier on recordings with transformers' `Trainer`.

    sanet train sanet.yaml --data_dir data --output_dir runs/sanet
    sanet train wav2vec2.yaml --data_dir data --output_dir runs/wav2vec2
    sanet train sanet.yaml --data_dir data --output_dir runs/tuned --model_name_or_path runs/sanet --learning_rate 1e-4
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from sanet_hf.architectures import remove_band_head
from sanet_hf.errors import DataError, UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.optimize import optimize_for_inference, prepare_classifier
from sanet_hf.optimization.processor import describe_training
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from sanet_hf.training.calibrate import calibrate, fold, print_calibration
from sanet_hf.training.callbacks import RunFiles, TrainingClock
from sanet_hf.training.config_files import parse_augmentations
from sanet_hf.training.data.augmentation import make_augmentation
from sanet_hf.training.data.background import add_background
from sanet_hf.training.data.background_labels import Background, store_background, without_added
from sanet_hf.training.data.decoded import keep_decoded
from sanet_hf.training.data.folds import FINAL
from sanet_hf.training.data.labels import label_names, stream_label_names
from sanet_hf.training.data.load import check_validation, load_recordings, longest_first
from sanet_hf.training.data.preparation_record import note_preparation
from sanet_hf.training.data.record import RECORD_FILE, UNLABELED, data_fingerprint
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.sources import stream_training_split
from sanet_hf.training.data.unlabeled import load_unlabeled
from sanet_hf.training.evaluation.alarm_counts import FalseAlarms
from sanet_hf.training.evaluation.evaluate import evaluate_splits, make_compute_metrics, predict_windows
from sanet_hf.training.evaluation.false_alarms import check_on_background
from sanet_hf.training.evaluation.int8 import calibrate_on_split
from sanet_hf.training.evaluation.results import Evaluation, describe_missing, in_order, write_all_predictions
from sanet_hf.training.evaluation.run_baseline import compare_run, prepare_baseline, refit_to_validation
from sanet_hf.training.evaluation.seen_recordings import record_run
from sanet_hf.training.make_trainer import (
    check_layers,
    check_streaming,
    is_band_head_wanted,
    make_clips,
    make_trainer,
    number_format,
)
from sanet_hf.training.models import check_regression, make_model, read_sampling_rate
from sanet_hf.training.option_checks import check_metric
from sanet_hf.training.options import changed_options, without_evaluation
from sanet_hf.training.refit import (
    Refit,
    check_terminated,
    find_callback,
    first_phase,
    is_refit_wanted,
    join_splits,
    refit,
)
from sanet_hf.training.regression_heads import (
    BandHead,
    add_band_head,
    choose_head,
    fit_first_head,
    fit_head,
    refit_band_head,
    refit_head,
    start_from_head,
)
from sanet_hf.training.reports.model_card import write_model_card
from sanet_hf.training.reports.run import write_report
from sanet_hf.training.resumption import DATA_FILE, FREE_OPTIONS, check_data, find_checkpoint
from sanet_hf.training.run_folder import (
    CROSS_VALIDATION_FILE,
    LOCAL_OPTIONS,
    METRIC_PREFIXES,
    OPTIONS_FILE,
    RESULTS_FILE,
    check_output,
    is_cross_validation,
    is_finished,
    is_left_alone,
    locked,
    read_file,
)
from sanet_hf.training.teachers import Teachers, describe_teachers, load_teachers
from sanet_hf.training.trainer import AudioClassificationTrainer
from sanet_hf.utils.files import write_atomically
from sanet_hf.utils.formatting import format_count, format_duration
from sanet_hf.versions import TESTED_VERSIONS


logger = logging.get_logger(__name__)


def train(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: AudioTrainingArguments
) -> dict[str, float]:
    """
    Train a classifier, keep the best epoch, and evaluate it on every split. Write to `output_dir`: the model and its
    feature extractor for `from_pretrained` and `pipeline`, a model card, `report.html`, `all_results.json`, the
    options (`train_options.yaml`), hashes of the recordings (`recordings.csv`), `predictions/<split>.csv` and, for a
    SANet with a validation split, `int8_calibration.json`.

    An interrupted run is resumed from its last checkpoint. A finished run is not changed.

    Returns:
        Metrics of the best model, as in `all_results.json`: `train_*`, `eval_*` (validation) and `test_*`.

    Raises:
        UsageError: Options contradict each other, or `output_dir` contains something else than the described run.
        DataError: There are no usable training recordings.
        FloatingPointError: The loss or the weights are no longer finite.
        TrainingTerminated: SIGTERM ended the training; a checkpoint was saved.
    """
    output_dir = Path(training_arguments.output_dir)
    check_output(output_dir, data_arguments, training_arguments.unlabeled_dir)
    if training_arguments.head_only or training_arguments.head_first:
        check_regression(model_arguments, data_arguments, training_arguments)
    if is_cross_validation(output_dir) and not training_arguments.overwrite_output_dir:
        raise UsageError(f"{output_dir} contains a cross-validation. Use another --output_dir.")
    # With several processes, only the first one takes the lock. A finished run is only read.
    is_alone = training_arguments.process_index == 0 and not is_left_alone(training_arguments)
    with locked(output_dir) if is_alone else nullcontext():
        return _train(model_arguments, data_arguments, training_arguments)


def _train(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: AudioTrainingArguments
) -> dict[str, float]:
    output_dir = Path(training_arguments.output_dir)
    # The final model of cross-validation is trained on all recordings, so that none are left to evaluate it.
    is_final, is_fold = data_arguments.fold == FINAL, data_arguments.fold is not None
    if is_final:
        training_arguments = without_evaluation(training_arguments)
    options = {
        **changed_options(model_arguments),
        **changed_options(data_arguments),
        **changed_options(training_arguments),
    }
    checkpoint = find_checkpoint(output_dir, options, training_arguments)
    if is_finished(output_dir) and checkpoint is None:
        return read_file(output_dir / RESULTS_FILE)

    # Before the seed is set, so that the initial weights are the same as without teachers.
    loaded = load_teachers(training_arguments, data_arguments.fold)
    set_seed(training_arguments.seed)
    if training_arguments.device.type == "cpu":
        keep_freed_memory()
    sampling_rate = read_sampling_rate(model_arguments)
    # Before recordings are read, so that an error in the augmentations is found at once.
    augmentations = [
        make_augmentation(parse_augmentations(transforms), sampling_rate)
        for transforms in (data_arguments.augmentations, data_arguments.augmentations_after_normalization)
    ]
    if data_arguments.streaming:
        check_streaming(data_arguments, training_arguments)
        stream = stream_training_split(data_arguments)
        recordings = load_recordings(data_arguments, sampling_rate, splits=("validation", "test"))
        if "validation" not in recordings:
            raise DataError(
                "--streaming needs a validation split, which selects the best checkpoint. Check "
                "--validation_split_name."
            )
        labels = stream_label_names(stream, data_arguments.class_names) or label_names(recordings["validation"])
        background = Background()
    else:
        stream, recordings = None, load_recordings(data_arguments, sampling_rate)
        recordings, background = add_background(recordings, data_arguments, training_arguments, sampling_rate)
        if training_arguments.eval_strategy != "no":
            check_validation(recordings)
        labels = label_names(recordings["train"])
    unlabeled = None
    if training_arguments.unlabeled_dir is not None:
        unlabeled = load_unlabeled(training_arguments.unlabeled_dir, recordings, data_arguments, sampling_rate)
    everything = dict(recordings) if unlabeled is None else {**recordings, UNLABELED: unlabeled}
    is_multi_label = data_arguments.problem_type == "multi_label_classification"
    # Added clips are used for training and refit, but not for evaluation.
    own = without_added(recordings)
    is_refit = is_refit_wanted(training_arguments, data_arguments, own, is_final)
    if training_arguments.metric_for_best_model is not None:
        held_out = recordings["validation"]["label"] if "validation" in recordings else None
        check_metric(training_arguments.metric_for_best_model, is_multi_label, len(labels), held_out)
    model, feature_extractor = make_model(
        model_arguments, labels, data_arguments.max_length_seconds, data_arguments.problem_type
    )
    note_preparation(feature_extractor, data_arguments)
    teachers = None
    if loaded:
        seconds = data_arguments.max_length_seconds
        teachers = Teachers(loaded, model, feature_extractor, training_arguments, seconds)
    store_background(model.config, labels, data_arguments)
    check_layers(model, training_arguments)
    first_arguments = first_phase(training_arguments) if is_refit else training_arguments
    made_of = (data_arguments, augmentations, training_arguments, teachers, unlabeled)
    clips = make_clips(stream, recordings, model, feature_extractor, *made_of)
    compute_metrics = make_compute_metrics(is_multi_label)
    trainer = make_trainer(model, feature_extractor, clips, first_arguments, compute_metrics, teachers)
    has_band_head = is_band_head_wanted(trainer, own.get("train"))
    if trainer.is_world_process_zero():
        _print_summary(everything, model, training_arguments)
    fingerprint = data_fingerprint(everything)
    if teachers is not None:
        fingerprint["teachers"] = teachers.digests
    if checkpoint is not None:
        check_data(checkpoint, model.config.id2label, fingerprint, training_arguments)
    described = {output_dir / OPTIONS_FILE: options, output_dir / DATA_FILE: fingerprint}
    trainer.add_callback(files := RunFiles(described, outdated=output_dir / RESULTS_FILE))
    teaching = None
    if trainer.is_world_process_zero():
        before = (model_arguments.model_name_or_path, teachers.sampling_rates if teachers else {}, checkpoint)
        warnings = record_run(output_dir / RECORD_FILE, everything, sampling_rate, *before, is_refit)
        if teachers is not None:
            num_unlabeled = 0 if unlabeled is None else len(unlabeled)
            learning = describe_teachers(list(teachers.sampling_rates), training_arguments, num_unlabeled)
            print(f"Teachers: {learning}.", file=sys.stderr)
            # The warnings were already shown.
            teaching = ". ".join([learning, *warnings])
    baseline = None
    if training_arguments.baseline and trainer.is_world_process_zero():
        is_balanced = training_arguments.class_weights == "balanced"
        baseline = prepare_baseline(own, model.config.label2id, sampling_rate, data_arguments, is_balanced)
    # The number of streamed recordings is not known, so none are kept.
    gibibytes = 0 if data_arguments.streaming else data_arguments.cache_audio
    regression, first = None, None
    if training_arguments.head_only:
        if trainer.is_world_process_zero():
            files.write()
        regression = fit_head(trainer, recordings["train"], own.get("validation"), data_arguments)
        if trainer.is_world_process_zero():
            print(f"Head: {regression}.", file=sys.stderr)
        metrics = {"train_runtime": regression.seconds}
    else:
        if training_arguments.head_first:
            first = fit_first_head(trainer, recordings["train"], own.get("validation"), data_arguments)
        with keep_decoded(clips, output_dir, gibibytes, training_arguments):
            result = trainer.train(resume_from_checkpoint=checkpoint)
        check_terminated(trainer, output_dir)
        metrics = {**result.metrics, "train_runtime": find_callback(trainer, TrainingClock).total()}
    # Evaluate as in prediction: whole recordings, without augmentation.
    own = {split: longest_first(dataset) for split, dataset in own.items() if split != "train" or not is_final}
    seconds = data_arguments.max_length_seconds
    # Keep the weights of the first phase, because refit replaces them.
    weights = {name: value.clone() for name, value in model.state_dict().items()} if is_refit else {}
    if not is_refit:
        # Save the model now, in case the evaluation fails.
        trainer.save_model()

    def add_bands() -> BandHead | None:
        if not has_band_head or (regression and regression.bands):
            return None
        return add_band_head(trainer, recordings["train"], own.get("validation"), data_arguments)

    head = add_bands()
    if first is not None:
        is_kept, first_text = choose_head(first, trainer, own.get("validation"), data_arguments)
        if is_kept:
            regression = first.head
            head = add_bands()
    fitted, calibration_text = calibrate(
        trainer, own.get("validation"), lambda split: predict_windows(trainer, "validation", split, seconds)
    )
    refitted, evaluations = None, {}
    if is_refit:
        # Evaluate on validation before the model is trained on it.
        evaluations = evaluate_splits(trainer, {"validation": own["validation"]}, seconds, fitted)

        def begin(joined: DatasetDict, arguments: AudioTrainingArguments) -> AudioClassificationTrainer:
            set_seed(arguments.seed)
            names = (data_arguments.max_length_seconds, data_arguments.problem_type)
            model, _ = make_model(model_arguments, labels, *names)
            check_layers(model, arguments)
            made_of = (data_arguments, augmentations, arguments, teachers, unlabeled)
            clips = make_clips(None, joined, model, feature_extractor, *made_of)
            second = make_trainer(model, feature_extractor, clips, arguments, teachers=teachers)
            if first is not None:
                start_from_head(first, second, joined["train"], data_arguments)
            return second

        cause = {name: value for name, value in options.items() if name not in FREE_OPTIONS} | fingerprint
        if regression:
            again = refit_head(trainer, regression, join_splits(recordings), data_arguments)
            refitted = Refit(again.num_recordings, 0.0, again.seconds, starts_from="head")
            if trainer.is_world_process_zero():
                print(f"Refit: {refitted}", file=sys.stderr)
        else:
            remove_band_head(model)
            model.load_state_dict(weights)
            refitted = refit(trainer, begin, recordings, training_arguments, cause, gibibytes)
        metrics["train_runtime"] += refitted.seconds
        metrics.update(refitted.metrics)
        baseline = baseline and refit_to_validation(baseline)
        if head is not None:
            refit_band_head(trainer, head, join_splits(recordings), data_arguments)
        if fitted is not None:
            fold(model, fitted)
            calibration_text += "; fitted before refit"
            fitted = dataclasses.replace(fitted, windows=None)
    trainer.save_model()
    trainer.save_state()
    has_int8 = model.config.model_type == "sanet" and not model.config.spectrogram_dim
    # After refit, predictions on the validation split are only used for the comparison with int8.
    left = {split: dataset for split, dataset in own.items() if split not in evaluations or has_int8}
    after = evaluate_splits(trainer, left, seconds, fitted)
    evaluations = in_order({**after, **evaluations})
    metrics.update(print_calibration(trainer, fitted, evaluations))
    metrics.update({"band_head_share": head.share} if head else {})
    for split, evaluation in evaluations.items():
        metrics.update({f"{METRIC_PREFIXES[split]}_{name}": value for name, value in evaluation.metrics.items()})
    baselines, comparison = {}, None
    if baseline is not None:
        comparison, own_metrics = compare_run(baseline, evaluations, model, training_arguments, is_fold)
        baselines = baseline.evaluations
        metrics.update(own_metrics)
    source = _source_name(data_arguments)
    if trainer.is_world_process_zero():
        saved, _ = load_classifier(output_dir, str(training_arguments.device), torch.float32)
        false_alarms = check_on_background(prepare_classifier(saved), trainer, background)
        metrics.update(false_alarms.metrics if false_alarms else {})
        calibration = None
        if has_int8 and "validation" in evaluations:
            saved, _ = load_classifier(output_dir, "cpu", torch.float32)
            split = (own["validation"], after["validation"], seconds)
            calibration = calibrate_on_split(
                output_dir, saved, optimize_for_inference(saved), feature_extractor, *split
            )
        write_model_card(
            output_dir,
            model,
            feature_extractor,
            evaluations,
            dataset_name=source,
            dataset_id=data_arguments.dataset_name,
            base_model=model_arguments.model_name_or_path,
            hyperparameters={name: value for name, value in options.items() if name not in LOCAL_OPTIONS},
            training_seconds=metrics["train_runtime"],
            trained_on=describe_training(number_format(training_arguments), training_arguments.device),
            tested_versions=TESTED_VERSIONS if model.config.model_type == "sanet" else None,
            cross_validation=read_file(output_dir.parent / CROSS_VALIDATION_FILE) if is_final else None,
            int8=calibration and calibration.evaluation,
            refit=refitted and str(refitted),
            baseline=comparison,
            false_alarms=false_alarms,
            calibration=calibration_text,
            band_head=head and str(head),
            teachers=teaching,
        )
    if training_arguments.push_to_hub:
        # Before the report is written, because its recordings and file names may be private.
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        facts = {
            "Started from": model_arguments.model_name_or_path or "scratch",
            "Recordings": source,
            **({"Teachers": teaching} if teaching else {}),
            **({"Head first": first_text} if first else {}),
            **({"Head": str(regression)} if regression else {}),
            **({"Refit": str(refitted)} if refitted else {}),
            **({"Band statistics": str(head)} if head else {}),
            "Calibration": calibration_text,
        }
        write_all_predictions(evaluations, baselines, output_dir)
        for text in describe_missing(evaluations):
            print(text, file=sys.stderr)
        _write_results(trainer, own, evaluations, metrics, facts, comparison, false_alarms)
    return metrics


def _format_name(arguments: AudioTrainingArguments) -> str:
    return str(number_format(arguments)).removeprefix("torch.")


def _source_name(arguments: DataArguments) -> str:
    """Return a Hub id, or the name of a file or folder without its path."""
    name = arguments.data_dir or arguments.manifest or arguments.dataset_name
    return Path(name).resolve().name if Path(name).exists() else name


def _write_results(
    trainer: AudioClassificationTrainer,
    recordings: Mapping[str, Dataset],
    evaluations: Mapping[str, Evaluation],
    metrics: Mapping[str, float],
    facts: Mapping[str, str],
    comparison: Mapping[str, Any] | None,
    false_alarms: FalseAlarms | None,
) -> None:
    output_dir = Path(trainer.args.output_dir)
    model, sampling_rate = trainer.model, trainer.processing_class.sampling_rate
    if evaluations:
        write_report(
            output_dir / "report.html",
            title=f"{model.config.model_type} on {facts['Recordings']}",
            facts={
                "Model": f"{model.config.model_type}, {model.num_parameters():,} parameters",
                "Training": _describe_training(trainer, metrics),
                **facts,
                "Device": f"{trainer.args.device}, {_format_name(trainer.args)}",
            },
            evaluations=evaluations,
            durations={split: np.array(recordings[split]["seconds"]) for split in evaluations},
            log_history=trainer.state.log_history,
            load_clip=lambda split, index: load_recording(recordings[split][index], sampling_rate),
            sampling_rate=sampling_rate,
            baseline=comparison,
            false_alarms=false_alarms,
        )
    with write_atomically(output_dir / RESULTS_FILE) as file:
        file.write(json.dumps(metrics, indent=2, sort_keys=True).encode())


def _describe_training(trainer: AudioClassificationTrainer, metrics: Mapping[str, float]) -> str:
    duration = format_duration(metrics["train_runtime"] - metrics.get("refit_runtime", 0))
    if trainer.args.head_only:
        return f"{duration}, head only"
    steps = format_count(trainer.state.global_step, "step")
    text = f"{duration}, {format_count(trainer.state.epoch, 'epoch')}, {steps}"
    if trainer.time_limit is not None:
        text += f" (limit: {format_duration(trainer.time_limit.seconds)})"
    return text


def _print_summary(
    recordings: Mapping[str, Dataset], model: PreTrainedModel, arguments: AudioTrainingArguments
) -> None:
    counts = ", ".join(f"{len(dataset)} {split}" for split, dataset in recordings.items())
    if "train" not in recordings:
        counts = f"streamed train, {counts}"
    print(
        f"{format_count(model.config.num_labels, 'class')}; recordings: {counts}; {model.config.model_type} with "
        f"{model.num_parameters() / 1e6:.2f} M parameters; {_format_name(arguments)} on {arguments.device}",
        file=sys.stderr,
    )
