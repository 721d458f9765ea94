# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training of an audio classifier on recordings with transformers' `Trainer`.

    sanet train sanet.yaml --data_dir data --output_dir runs/sanet
    sanet train wav2vec2.yaml --data_dir data --output_dir runs/wav2vec2
    sanet train sanet.yaml --data_dir data --output_dir runs/tuned --model_name_or_path runs/sanet --learning_rate 1e-4
"""

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import DistributedType
from datasets import Dataset, DatasetDict, IterableDataset
from packaging import version
from transformers import PreTrainedModel, ProgressCallback, TrainerCallback, set_seed
from transformers.utils import logging

from sanet_hf.audio.folders import find_split_folders
from sanet_hf.errors import DataError, TrainingTerminated, UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.optimize import optimize_for_inference
from sanet_hf.optimization.processor import describe_training
from sanet_hf.optimization.self_check import replace_wrong_layers
from sanet_hf.training.arguments import (
    AudioTrainingArguments,
    DataArguments,
    ModelArguments,
    changed_options,
    without_evaluation,
)
from sanet_hf.training.callbacks import (
    CheckpointOnSIGTERM,
    EarlyStoppingCallback,
    EvaluationTable,
    RunFiles,
    TrainingClock,
)
from sanet_hf.training.config_files import parse_augmentations
from sanet_hf.training.data.augmentation import Augmentation, make_augmentation
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import EvaluationClips, StreamedClips, TrainingClips
from sanet_hf.training.data.decoded import keep_decoded
from sanet_hf.training.data.folds import FINAL
from sanet_hf.training.data.labels import label_names, stream_label_names
from sanet_hf.training.data.load import check_validation, load_recordings, longest_first
from sanet_hf.training.data.preparation_record import note_preparation
from sanet_hf.training.data.record import RECORD_FILE, data_fingerprint, find_record, read_record, write_record
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.sources import stream_training_split
from sanet_hf.training.evaluation.evaluate import evaluate_splits, make_compute_metrics
from sanet_hf.training.evaluation.int8 import calibrate_on_split
from sanet_hf.training.evaluation.results import Evaluation, write_predictions
from sanet_hf.training.evaluation.seen_recordings import warn_of_seen
from sanet_hf.training.losses import balanced_class_weights, make_loss
from sanet_hf.training.models import make_model, read_sampling_rate
from sanet_hf.training.option_checks import check_metric
from sanet_hf.training.reports.model_card import write_model_card
from sanet_hf.training.reports.run import write_report
from sanet_hf.training.resumption import DATA_FILE, check_data, find_checkpoint
from sanet_hf.training.run_folder import (
    CROSS_VALIDATION_FILE,
    LOCAL_OPTIONS,
    METRIC_PREFIXES,
    OPTIONS_FILE,
    RESULTS_FILE,
    is_cross_validation,
    is_finished,
    is_left_alone,
    locked,
    read_file,
)
from sanet_hf.training.trainer import AudioClassificationTrainer
from sanet_hf.utils.files import write_atomically
from sanet_hf.utils.formatting import format_duration
from sanet_hf.versions import TESTED_VERSIONS


logger = logging.get_logger(__name__)

COMPILED_TRAINING_VERSION = (2, 11)


def train(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: AudioTrainingArguments
) -> dict[str, float]:
    """
    Train a classifier, keep the best epoch, evaluate it on every split, and write to `output_dir`: the model with its
    feature extractor as `from_pretrained` and `pipeline` take them, a model card, `report.html`, `all_results.json`,
    the options as `train_options.yaml`, hashes of the recordings as `recordings.csv`, `predictions/<split>.csv`, and
    `int8_calibration.json` of a SANet with a validation split.

    A run that was interrupted goes on from its last checkpoint; one that is finished is left as it is.

    Returns:
        Metrics of the best model, as in `all_results.json`: `train_*`, `eval_*` (validation) and `test_*`.

    Raises:
        UsageError: Options contradict each other, or `output_dir` holds something else than the run they describe.
        DataError: There is nothing to train on.
        FloatingPointError: The loss or the weights are no longer finite.
        TrainingTerminated: SIGTERM came; a checkpoint was saved.
    """
    output_dir = Path(training_arguments.output_dir)
    _check_output(output_dir, data_arguments)
    if is_cross_validation(output_dir) and not training_arguments.overwrite_output_dir:
        raise UsageError(f"{output_dir} holds a cross-validation. Choose another --output_dir.")
    # One of the processes that a launcher started together is enough, and a finished run is only read.
    is_alone = training_arguments.process_index == 0 and not is_left_alone(training_arguments)
    with locked(output_dir) if is_alone else nullcontext():
        return _train(model_arguments, data_arguments, training_arguments)


def _train(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: AudioTrainingArguments
) -> dict[str, float]:
    output_dir = Path(training_arguments.output_dir)
    # The model of all recordings after cross-validation: nothing is held out to choose an epoch by or to report on.
    is_final = data_arguments.fold == FINAL
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

    set_seed(training_arguments.seed)
    if training_arguments.device.type == "cpu":
        keep_freed_memory()
    sampling_rate = read_sampling_rate(model_arguments)
    # Before recordings are read, so that a mistake in them is found at once.
    augmentations = [
        make_augmentation(parse_augmentations(transforms), sampling_rate)
        for transforms in (data_arguments.augmentations, data_arguments.augmentations_after_normalization)
    ]
    if data_arguments.streaming:
        _check_streaming(data_arguments, training_arguments)
        stream = stream_training_split(data_arguments)
        recordings = load_recordings(data_arguments, sampling_rate, splits=("validation", "test"))
        if "validation" not in recordings:
            raise DataError("Streaming needs a validation split to choose the best checkpoint by.")
        labels = stream_label_names(stream, data_arguments.class_names) or label_names(recordings["validation"])
    else:
        stream, recordings = None, load_recordings(data_arguments, sampling_rate)
        if training_arguments.eval_strategy != "no":
            check_validation(recordings)
        labels = label_names(recordings["train"])
    is_multi_label = data_arguments.problem_type == "multi_label_classification"
    if training_arguments.metric_for_best_model is not None:
        check_metric(training_arguments.metric_for_best_model, is_multi_label, len(labels))
    model, feature_extractor = make_model(
        model_arguments, labels, data_arguments.max_length_seconds, data_arguments.problem_type
    )
    note_preparation(feature_extractor, data_arguments)
    replace_wrong_layers(model, _number_format(training_arguments), training=True)
    clips = _make_clips(
        stream, recordings, model, feature_extractor, data_arguments, augmentations, training_arguments
    )
    trainer = _make_trainer(model, feature_extractor, clips, training_arguments)
    if trainer.is_world_process_zero():
        _print_summary(recordings, model, training_arguments)
    fingerprint = data_fingerprint(recordings)
    if checkpoint is not None:
        check_data(checkpoint, model.config.id2label, fingerprint, training_arguments)
    files = {output_dir / OPTIONS_FILE: options, output_dir / DATA_FILE: fingerprint}
    trainer.add_callback(RunFiles(files, outdated=output_dir / RESULTS_FILE))
    _record_recordings(trainer, recordings, model_arguments.model_name_or_path, checkpoint)
    # Of streamed recordings it is not known how many there are.
    gibibytes = 0 if data_arguments.streaming else data_arguments.cache_audio
    with keep_decoded(clips, output_dir, gibibytes, training_arguments):
        result = trainer.train(resume_from_checkpoint=checkpoint)
    if _find_callback(trainer, CheckpointOnSIGTERM).is_terminated:
        then = "the same command resumes from it"
        if training_arguments.save_only_model:
            then = "with --save_only_model true, training cannot resume from it"
        raise TrainingTerminated(
            f"Ended by SIGTERM after step {trainer.state.global_step} of {trainer.state.max_steps}. A checkpoint is "
            f"in {output_dir}: {then}."
        )
    trainer.save_model()
    trainer.save_state()
    metrics = {**result.metrics, "train_runtime": _find_callback(trainer, TrainingClock).total()}
    # As in use: whole recordings, not augmented.
    recordings = {
        split: longest_first(dataset) for split, dataset in recordings.items() if split != "train" or not is_final
    }
    evaluations = evaluate_splits(trainer, recordings, data_arguments.max_length_seconds)
    for split, evaluation in evaluations.items():
        metrics.update({f"{METRIC_PREFIXES[split]}_{name}": value for name, value in evaluation.metrics.items()})
    source = _source_name(data_arguments)
    if trainer.is_world_process_zero():
        calibration = None
        if model.config.model_type == "sanet" and "validation" in evaluations:
            saved, _ = load_classifier(output_dir, "cpu", torch.float32)
            split = (recordings["validation"], evaluations["validation"], data_arguments.max_length_seconds)
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
            trained_on=describe_training(_number_format(training_arguments), training_arguments.device),
            tested_versions=TESTED_VERSIONS if model.config.model_type == "sanet" else None,
            cross_validation=read_file(output_dir.parent / CROSS_VALIDATION_FILE) if is_final else None,
            int8=calibration and calibration.evaluation,
        )
    if training_arguments.push_to_hub:
        # Before the report, whose recordings and file names need not be public.
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        _write_results(trainer, recordings, evaluations, source, model_arguments.model_name_or_path, metrics)
    return metrics


def _number_format(arguments: AudioTrainingArguments) -> torch.dtype:
    """In which a training computes."""
    return torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32


def _format_name(arguments: AudioTrainingArguments) -> str:
    return str(_number_format(arguments)).removeprefix("torch.")


def _check_output(output_dir: Path, arguments: DataArguments) -> None:
    """Refuse an output that the next training would take for a class of its recordings."""
    if not arguments.data_dir or not Path(arguments.data_dir).is_dir():
        return
    data_dir, output = Path(arguments.data_dir).resolve(), output_dir.resolve()
    if output == data_dir or (data_dir in output.parents and not find_split_folders(data_dir)):
        raise UsageError(f"--output_dir {output_dir} is in the folder of the recordings, {arguments.data_dir}.")


def _check_streaming(data: DataArguments, training: AudioTrainingArguments) -> None:
    """Streamed recordings are read in their order, once, and how many there are is not known."""
    if not data.dataset_name:
        raise UsageError(
            "--streaming needs --dataset_name: a data set on the Hub, or a folder of Parquet or tar files."
        )
    if training.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps: how many recordings there are is not known beforehand.")
    others = {
        "--sampler balanced": training.sampler != "shuffle",
        "--class_weights balanced": training.class_weights != "none",
        "--samples_per_class": data.samples_per_class is not None,
        "--averaged_epochs": training.averaged_epochs != 1,
    }
    for option, is_given in others.items():
        if is_given:
            raise UsageError(f"{option} needs all training recordings at hand, which --streaming does not have.")
    training.train_sampling_strategy = "random"


def _make_clips(
    stream: IterableDataset | None,
    recordings: DatasetDict,
    model: PreTrainedModel,
    feature_extractor,
    arguments: DataArguments,
    augmentations: Sequence[Augmentation | None],
    training: AudioTrainingArguments,
) -> dict[str, TrainingClips | StreamedClips | EvaluationClips]:
    """Clips to train on, from the stream if there is one, and of the validation split if there is one."""
    data = (feature_extractor, model.config.label2id, arguments.max_length_seconds)
    if stream is not None:
        streamed = StreamedClips(
            stream,
            *data,
            *augmentations,
            is_multi_label=arguments.problem_type == "multi_label_classification",
            buffer_size=arguments.shuffle_buffer_size,
            max_bad_fraction=arguments.max_bad_fraction,
            seed=training.seed,
            process_index=training.process_index,
            num_processes=training.world_size,
            class_names=arguments.class_names,
        )
        return {"train": streamed, "validation": EvaluationClips(recordings["validation"], *data)}
    joined = {"samples_per_class": arguments.samples_per_class, "max_segments": arguments.max_segments}
    joined["seed"] = training.seed
    clips = {"train": TrainingClips(recordings["train"], *data, *augmentations, **joined)}
    if "validation" in recordings and arguments.samples_per_class is None:
        clips["validation"] = EvaluationClips(recordings["validation"], *data)
    elif "validation" in recordings:
        # Always of the same indices, and so the same clips.
        joined["samples_per_class"] = -(-arguments.samples_per_class // 4)
        clips["validation"] = TrainingClips(recordings["validation"], *data, **joined)
    return clips


def _make_trainer(
    model: PreTrainedModel,
    feature_extractor,
    clips: Mapping[str, TrainingClips | StreamedClips | EvaluationClips],
    arguments: AudioTrainingArguments,
) -> AudioClassificationTrainer:
    if arguments.torch_compile and version.parse(torch.__version__).release < COMPILED_TRAINING_VERSION:
        # Seen with 2.8 in a padded batch; 2.11 is right.
        raise UsageError(
            f"--torch_compile needs PyTorch 2.11 or newer, not {torch.__version__}: older ones may compute wrong "
            "statistics of BatchNorm."
        )
    if arguments.averaged_epochs > 1 and (arguments.fsdp or arguments.deepspeed):
        raise UsageError("--averaged_epochs needs all weights in one place, which --fsdp and --deepspeed divide.")
    if arguments.enable_jit_checkpoint:
        raise UsageError(
            "Leave out --enable_jit_checkpoint: SIGTERM always saves a checkpoint, and both would write it."
        )
    is_multi_label = model.config.problem_type == "multi_label_classification"
    class_weights = (
        balanced_class_weights(clips["train"].class_matrix, is_multi_label)
        if arguments.class_weights == "balanced"
        else None
    )
    # Compiled is for one length.
    length = clips["train"].max_length if arguments.torch_compile else None
    # The items are made from columns that the model knows nothing of.
    arguments.remove_unused_columns = False
    _let_steps_overlap(arguments)
    with warnings.catch_warnings():
        # Trainer has no label smoothing for several classes a clip; make_loss has.
        warnings.filterwarnings("ignore", message="Label smoothing is not compatible with multi-label")
        try:
            trainer = AudioClassificationTrainer(
                train_loss=make_loss(is_multi_label, arguments.label_smoothing_factor, class_weights),
                eval_loss=make_loss(is_multi_label),
                model=model,
                args=arguments,
                data_collator=partial(collate, feature_extractor=feature_extractor, length=length),
                train_dataset=clips["train"],
                eval_dataset=clips.get("validation"),
                processing_class=feature_extractor,
                compute_metrics=make_compute_metrics(is_multi_label),
                callbacks=[TrainingClock(), CheckpointOnSIGTERM()],
            )
        except (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Trainer checks options such as --report_to, and the packages for them, here.
            raise UsageError(f"The training options cannot be used: {' '.join(str(error).split())}") from error
    if arguments.fsdp and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise UsageError("--fsdp divides the weights between several GPUs, each with a process; here it would not.")
    if arguments.early_stopping_patience is not None:
        if not arguments.load_best_model_at_end:
            raise UsageError("--early_stopping_patience needs --load_best_model_at_end true.")
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(EvaluationTable)
    return trainer


def _let_steps_overlap(arguments: AudioTrainingArguments) -> None:
    """Change options by which every step would wait for a GPU, where another step could be launched."""
    # The trainer itself looks for losses that are not finite, every 16 steps.
    arguments.logging_nan_inf_filter = False
    if arguments.device.type != "mps":
        arguments.accelerator_config.non_blocking = arguments.dataloader_pin_memory


def _record_recordings(
    trainer: AudioClassificationTrainer, recordings: DatasetDict, base_model: str | None, checkpoint: str | None
) -> None:
    """Write what the model is trained on, and was before; warn of test recordings among the latter."""
    if not trainer.is_world_process_zero():
        return
    path = Path(trainer.args.output_dir) / RECORD_FILE
    earlier = (read_record(path) or find_record(checkpoint)) if checkpoint else None
    if base_model and Path(base_model).is_dir() and earlier is None:
        earlier = find_record(base_model)
        if earlier is None:
            logger.warning(f"{base_model} does not list what it was trained on: a part may be in validation or test.")
        else:
            warn_of_seen(recordings, earlier, base_model)
    write_record(path, recordings, earlier)


def _source_name(arguments: DataArguments) -> str:
    """A Hub id, or the name of a file or folder without the way to it."""
    name = arguments.data_dir or arguments.manifest or arguments.dataset_name
    return Path(name).resolve().name if Path(name).exists() else name


def _find_callback(trainer: AudioClassificationTrainer, kind: type) -> TrainerCallback:
    # Resuming puts another one, with the checkpoint's state, in the place of the first.
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind))


def _write_results(
    trainer: AudioClassificationTrainer,
    recordings: Mapping[str, Dataset],
    evaluations: Mapping[str, Evaluation],
    source: str,
    base_model: str | None,
    metrics: Mapping[str, float],
) -> None:
    output_dir = Path(trainer.args.output_dir)
    for split, evaluation in evaluations.items():
        write_predictions(evaluation, output_dir / "predictions" / f"{split}.csv")
    model, sampling_rate = trainer.model, trainer.processing_class.sampling_rate
    steps = f"{trainer.state.epoch:.4g} epochs, {trainer.state.global_step} steps"
    if evaluations:
        write_report(
            output_dir / "report.html",
            title=f"{model.config.model_type} on {source}",
            facts={
                "Model": f"{model.config.model_type}, {model.num_parameters():,} parameters",
                "Started from": base_model or "scratch",
                "Recordings": source,
                "Training": f"{format_duration(metrics['train_runtime'])}, {steps}",
                "Device": f"{trainer.args.device}, {_format_name(trainer.args)}",
            },
            evaluations=evaluations,
            durations={split: np.array(recordings[split]["seconds"]) for split in evaluations},
            log_history=trainer.state.log_history,
            load_clip=lambda split, index: load_recording(recordings[split][index], sampling_rate),
            sampling_rate=sampling_rate,
        )
    with write_atomically(output_dir / RESULTS_FILE) as file:
        file.write(json.dumps(metrics, indent=2, sort_keys=True).encode())


def _print_summary(recordings: DatasetDict, model: PreTrainedModel, arguments: AudioTrainingArguments) -> None:
    counts = ", ".join(f"{len(dataset)} {split}" for split, dataset in recordings.items())
    if "train" not in recordings:
        counts = f"streamed train, {counts}"
    print(
        f"{model.config.num_labels} classes; recordings: {counts}; {model.config.model_type} with "
        f"{model.num_parameters() / 1e6:.2f} M parameters; {_format_name(arguments)} on {arguments.device}",
        file=sys.stderr,
    )
