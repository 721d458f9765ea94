# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Make the clips and the trainer of a training run from its options."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from accelerate import DistributedType
from datasets import Dataset, DatasetDict, IterableDataset
from packaging import version
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, ProgressCallback, Trainer

from sanet_hf.errors import UsageError
from sanet_hf.optimization.self_check import replace_wrong_layers
from sanet_hf.training.arguments import FEW_RECORDINGS, AudioTrainingArguments, DataArguments
from sanet_hf.training.callbacks import CheckpointOnSIGTERM, EarlyStoppingCallback, EvaluationTable, TrainingClock
from sanet_hf.training.data.augmentation import Augmentation
from sanet_hf.training.data.background_labels import adds_background
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import EvaluationClips, StreamedClips, TrainingClips
from sanet_hf.training.data.items import Teaching
from sanet_hf.training.data.joined_clips import JoinedClips
from sanet_hf.training.losses import balanced_class_weights, make_loss, make_taught_loss
from sanet_hf.training.time_limit import TimedTable, TimeLimit, limit_steps
from sanet_hf.training.trainer import AudioClassificationTrainer


COMPILED_TRAINING_VERSION = (2, 11)
UNLABELED_SEED = 5_000_011
AnyClips = TrainingClips | JoinedClips | StreamedClips | EvaluationClips


def make_clips(
    stream: IterableDataset | None,
    recordings: DatasetDict,
    model: PreTrainedModel,
    feature_extractor,
    arguments: DataArguments,
    augmentations: Sequence[Augmentation | None],
    training: AudioTrainingArguments,
    teachers: Teaching | None = None,
    unlabeled: Dataset | None = None,
) -> dict[str, AnyClips]:
    """
    Make the clips of the training split (or stream) and, if there is one, of the validation split.

    Args:
        stream: Streamed training recordings, or None.
        recordings: Splits; `train` is used without a stream.
        model: Its configuration has the classes.
        feature_extractor: That of the model.
        arguments: Options of the data.
        augmentations: Before and after loudness normalisation.
        training: Options of training.
        teachers: Training clips also get the inputs of these teachers.
        unlabeled: Recordings without labels, which are added to the training clips.

    Returns:
        Clips by split: `train`, and `validation` if there is one.
    """
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
        streamed.teacher_inputs = teachers and teachers.inputs
        return {"train": streamed, "validation": EvaluationClips(recordings["validation"], *data)}
    joined = {"samples_per_class": arguments.samples_per_class, "max_segments": arguments.max_segments}
    joined["seed"] = training.seed
    clips: dict[str, AnyClips] = {"train": TrainingClips(recordings["train"], *data, *augmentations, **joined)}
    if unlabeled is not None:
        # Another seed, so that clips with the same index do not get the same augmentation.
        others = TrainingClips(unlabeled, *data, *augmentations, seed=training.seed + UNLABELED_SEED)
        clips["train"] = JoinedClips(clips["train"], others)
    clips["train"].teacher_inputs = teachers and teachers.inputs
    if "validation" in recordings and arguments.samples_per_class is None:
        clips["validation"] = EvaluationClips(recordings["validation"], *data)
    elif "validation" in recordings:
        # Evaluation always uses the same indices, and therefore the same clips.
        joined["samples_per_class"] = -(-arguments.samples_per_class // 4)
        clips["validation"] = TrainingClips(recordings["validation"], *data, **joined)
    return clips


def make_trainer(
    model: PreTrainedModel,
    feature_extractor,
    clips: Mapping[str, AnyClips],
    arguments: AudioTrainingArguments,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    teachers: Teaching | None = None,
) -> AudioClassificationTrainer:
    """
    Make the trainer of a model, with clips as [`make_clips`] returns them.

    Raises:
        UsageError: Options do not work with each other, the device or the installed packages.
    """
    if arguments.torch_compile and version.parse(torch.__version__).release < COMPILED_TRAINING_VERSION:
        # PyTorch 2.8 was wrong for a padded batch; 2.11 is right.
        raise UsageError(
            f"--torch_compile needs PyTorch 2.11 or newer, but {torch.__version__} is installed: older versions may "
            "compute wrong BatchNorm statistics. Update PyTorch, or leave the option out."
        )
    averaging = {
        "averaged_epochs": arguments.averaged_epochs > 1,
        "averaged_fraction": arguments.averaged_fraction > 0,
    }
    for option, is_given in averaging.items():
        if is_given and (arguments.fsdp or arguments.deepspeed):
            raise UsageError(
                f"--{option} does not work with --fsdp or --deepspeed: it needs all weights in one process. "
                "Leave one out."
            )
    if all(averaging.values()):
        raise UsageError("--averaged_epochs and --averaged_fraction do not work together. Leave one out.")
    is_stream = isinstance(clips["train"], StreamedClips)
    arguments = limit_steps(arguments, is_stream)
    if arguments.enable_jit_checkpoint:
        raise UsageError("--enable_jit_checkpoint is not supported: SIGTERM always saves a checkpoint. Leave it out.")
    is_multi_label = model.config.problem_type == "multi_label_classification"
    class_weights = (
        balanced_class_weights(clips["train"].class_matrix, is_multi_label)
        if arguments.class_weights == "balanced"
        else None
    )
    of_labels = (arguments.label_smoothing_factor, class_weights)
    train_loss = make_loss(is_multi_label, *of_labels)
    if teachers is not None and arguments.accelerator_config.dispatch_batches:
        raise UsageError(
            "--teacher does not work with dispatch_batches of --accelerator_config, which does not divide the "
            "teachers' inputs. Leave one out."
        )
    if teachers is not None:
        of_teachers = (arguments.teacher_weight, arguments.teacher_temperature)
        train_loss = make_taught_loss(is_multi_label, *of_teachers, *of_labels)
    # A compiled model needs clips of one length.
    length = clips["train"].max_length if arguments.torch_compile else None
    collator = partial(collate, feature_extractor=feature_extractor, length=length)
    if teachers is not None:
        collator = partial(teachers.inputs.collate, collate_others=collator)
    # Clips are made from columns that are no arguments of the model.
    arguments.remove_unused_columns = False
    let_steps_overlap(arguments)
    limit = None
    if arguments.max_minutes:
        limit = TimeLimit(60 * arguments.max_minutes, arguments.max_evaluations, is_stream)
    with warnings.catch_warnings():
        # Trainer does not support label smoothing for multi-label data; make_loss does.
        warnings.filterwarnings("ignore", message="Label smoothing is not compatible with multi-label")
        try:
            trainer = AudioClassificationTrainer(
                train_loss=train_loss,
                eval_loss=make_loss(is_multi_label),
                teachers=teachers,
                model=model,
                args=arguments,
                data_collator=collator,
                train_dataset=clips["train"],
                eval_dataset=clips.get("validation"),
                processing_class=feature_extractor,
                compute_metrics=compute_metrics,
                # CheckpointOnSIGTERM is last, so that its decision on the last checkpoint counts.
                callbacks=[TrainingClock(), *([limit] if limit else []), CheckpointOnSIGTERM()],
                time_limit=limit,
            )
        except (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Trainer checks options such as --report_to and their packages here.
            raise UsageError(f"The training options are not valid: {' '.join(str(error).split())}") from error
    if arguments.fsdp and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise UsageError("--fsdp needs several GPUs, one process each. Start with `accelerate launch`.")
    if arguments.early_stopping_patience is not None:
        if not arguments.load_best_model_at_end:
            raise UsageError("--early_stopping_patience needs --load_best_model_at_end true.")
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(TimedTable(limit) if limit else EvaluationTable)
    return trainer


def let_steps_overlap(arguments: AudioTrainingArguments) -> None:
    """Change options in place that make every step wait for the GPU instead of launching the next step."""
    # AudioClassificationTrainer checks for losses that are not finite every 16 steps.
    arguments.logging_nan_inf_filter = False
    if arguments.device.type != "mps":
        arguments.accelerator_config.non_blocking = arguments.dataloader_pin_memory


def number_format(arguments: AudioTrainingArguments) -> torch.dtype:
    """Return the number format of training."""
    return torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32


def check_layers(model: nn.Module, arguments: AudioTrainingArguments) -> None:
    """Replace the layers of a SANet that this CPU computes wrongly, if training runs on the CPU."""
    if arguments.device.type == "cpu":
        replace_wrong_layers(model, number_format(arguments), training=True)


def is_band_head_wanted(trainer: Trainer, train: Dataset | None) -> bool:
    """
    Return whether options and recordings ask for a band head.

    Args:
        trainer: `args.band_head` is `auto`, `true` or `false`.
        train: The training split, or None if it is streamed.

    Raises:
        UsageError: `band_head` is `true`, but the network has no spectrogram, the recordings are streamed, or the
            weights are divided between processes.
    """
    wanted, reason = trainer.args.band_head, None
    if not getattr(trainer.model.config, "spectrogram_dim", ()):
        reason = "needs a network on a spectrogram, such as that of sanet_spectrogram.yaml"
    elif train is None:
        reason = "does not work with --streaming: it needs all training recordings"
    elif trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        reason = "does not work with --fsdp or --deepspeed: it needs all weights in one process"
    if wanted == "true" and reason:
        raise UsageError(f"--band_head true {reason}. Leave it out.")
    return wanted == "true" or (wanted == "auto" and reason is None and len(train) < FEW_RECORDINGS)


def check_streaming(data: DataArguments, training: AudioTrainingArguments) -> None:
    """
    Check the options of a training with `--streaming`, whose recordings are read once, in order.

    Raises:
        UsageError: An option needs all recordings, or their number.
    """
    if not data.dataset_name:
        raise UsageError(
            "--streaming needs --dataset_name: a dataset on the Hub, or a folder of Parquet or tar files."
        )
    if training.max_steps <= 0 and not training.max_minutes:
        raise UsageError(
            "--streaming needs --max_steps or --max_minutes: the number of recordings is not known beforehand."
        )
    others = {
        "--sampler balanced": training.sampler != "shuffle",
        "--class_weights balanced": training.class_weights != "none",
        "--samples_per_class": data.samples_per_class is not None,
        "--averaged_epochs": training.averaged_epochs != 1,
        "--averaged_fraction": training.averaged_fraction != 0,
        "--background auto (or --background_dir)": adds_background(data),
        "--unlabeled_dir": training.unlabeled_dir is not None,
    }
    for option, is_given in others.items():
        if is_given:
            raise UsageError(
                f"{option} does not work with --streaming: it needs all training recordings. Leave one out."
            )
    training.train_sampling_strategy = "random"
