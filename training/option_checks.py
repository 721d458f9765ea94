# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of a training that contradict each other, or that have no effect beside others."""

import dataclasses
from collections.abc import Callable, Collection, Mapping

from transformers.utils import logging

from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import (
    AudioTrainingArguments,
    DataArguments,
    ModelArguments,
    greater_is_better,
    is_resumption,
)
from sanet_hf.training.evaluation.metric_names import CHOOSING_METRICS, TOP_K
from sanet_hf.training.options import DATASET_OPTIONS
from sanet_hf.training.teacher_arguments import NEED_TEACHER


logger = logging.get_logger(__name__)

Values = Mapping[str, object]

DEFAULTS = {
    f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
    for kind in (ModelArguments, DataArguments, AudioTrainingArguments)
    for f in dataclasses.fields(kind)
}
# Options of steps, which a head that is fitted by regression does not take.
NEED_TRAINING = (
    *("augmentations", "augmentations_after_normalization", "averaged_epochs", "averaged_fraction", "cache_audio"),
    *("early_stopping_patience", "eval_steps", "eval_strategy", "freeze", "gradient_accumulation_steps"),
    *("gradient_checkpointing", "head_first", "head_learning_rate", "label_smoothing_factor", "learning_rate"),
    *("load_best_model_at_end", "logging_steps", "logging_strategy", "lr_scheduler_type", "max_evaluations"),
    *("max_grad_norm", "max_minutes", "max_steps", "metric_for_best_model", "mixup_alpha", "num_train_epochs"),
    *("optim", "per_device_train_batch_size", "refit_from", "resume_from_checkpoint", "sampler", "save_steps"),
    *("save_strategy", "torch_compile", "train_sampling_strategy", "warmup_steps", "weight_decay"),
)
# When an option has no effect, and why.
WITHOUT_EFFECT: Mapping[str, tuple[Callable[[Values], bool], str]] = {
    **dict.fromkeys(
        DATASET_OPTIONS,
        (lambda values: not values["dataset_name"], "it needs --dataset_name, not --data_dir or --manifest"),
    ),
    "shuffle_buffer_size": (lambda values: not values["streaming"], "it needs --streaming true"),
    "cache_audio": (lambda values: values["streaming"], "with --streaming recordings are not read again"),
    "group_pattern": (
        lambda values: values["streaming"],
        "with --streaming the training recordings are not known beforehand, and keep the splits that they have",
    ),
    "data_seed": (lambda values: values["streaming"], "with --streaming the order follows from --seed"),
    "max_segments": (
        lambda values: values["samples_per_class"] is None,
        "only clips of --samples_per_class are joined",
    ),
    "model_type": (
        lambda values: bool(values["model_name_or_path"]),
        "the checkpoint of --model_name_or_path brings its own architecture",
    ),
    "from_scratch": (
        lambda values: bool(values["model_name_or_path"]) or values["head_only"],
        "the training starts from a checkpoint",
    ),
    "learning_rate": (
        lambda values: values["freeze"] == "backbone" and values["head_learning_rate"] is not None,
        "with --freeze backbone only the head is trained, whose rate is that of --head_learning_rate",
    ),
    **dict.fromkeys(NEED_TEACHER, (lambda values: not values["teacher"], "it needs --teacher")),
    **dict.fromkeys(
        ("class_weights", "label_smoothing_factor"),
        (
            lambda values: bool(values["teacher"]) and values["teacher_weight"] == 1,
            "with --teacher_weight 1 the labels do not count in the loss",
        ),
    ),
    "refit_from": (lambda values: values["refit"] == "false", "it needs --refit true or auto"),
    "max_evaluations": (
        lambda values: not values["max_minutes"],
        "it spreads evaluations over the time of --max_minutes",
    ),
    "train_sampling_strategy": (
        lambda values: values["streaming"],
        "with --streaming clips come in the order of the stream, shuffled by --shuffle_buffer_size",
    ),
}
# Options of `TrainingArguments` that are for other kinds of models, or that training here needs as they are.
UNSUPPORTED = {
    "neftune_noise_alpha": "it adds noise to embeddings of text, which audio models do not have",
    "label_names": "labels are always called labels",
    "prediction_loss_only": "evaluation needs predictions for its metrics",
    "batch_eval_metrics": "metrics are those of all recordings together",
    "eval_do_concat_batches": "metrics need the predictions of all batches together",
    "include_for_metrics": "metrics are computed from predictions and labels alone",
}


def check_options(values: Values, given: Collection[str], given_in_files: Collection[str] = ()) -> None:
    """
    Refuse options that contradict each other, and options on the command line that have no effect beside others; warn
    of such options in the user's YAML files, which are often written for several runs. A default is never refused.

    Args:
        values: All options of `sanet train`.
        given: Names of those on the command line.
        given_in_files: Names of those in YAML files of the user.

    Raises:
        UsageError: The message names both options.
    """
    for name, reason in UNSUPPORTED.items():
        # Not all versions of transformers have all of them.
        if name in values and values[name] != DEFAULTS[name]:
            raise UsageError(f"--{name} is not supported: {reason}. Leave it out.")
    if values["sampler"] == "balanced" and values["class_weights"] == "balanced":
        raise UsageError(
            "--sampler balanced and --class_weights balanced both make up for rare classes; together they count them "
            "twice. Leave one out."
        )
    if values["sampler"] == "balanced" and values["train_sampling_strategy"] == "sequential":
        raise UsageError(
            "--sampler balanced draws clips at random, --train_sampling_strategy sequential does not. Leave one out."
        )
    metric, is_greater_better = values["metric_for_best_model"] or "macro_f1", values["greater_is_better"]
    if is_greater_better not in (None, greater_is_better(metric)):
        best = "highest" if greater_is_better(metric) else "lowest"
        raise UsageError(
            f"--greater_is_better {str(is_greater_better).lower()} would keep the worst epoch: of "
            f"--metric_for_best_model {metric}, the {best} value is the best. Leave --greater_is_better out."
        )
    if values["overwrite_output_dir"] and is_resumption(values["resume_from_checkpoint"]):
        raise UsageError(
            "--overwrite_output_dir true deletes what --resume_from_checkpoint resumes. Leave one of them out."
        )
    if values["load_best_model_at_end"] and values["eval_strategy"] == "no":
        raise UsageError("--load_best_model_at_end true needs evaluations: --eval_strategy must not be no.")
    check_effects(values, given)
    for name in sorted(set(given_in_files) - set(given)):
        reason = why_without_effect(name, values)
        if reason is not None:
            logger.warning(f"{name} has no effect: {reason}.")


def check_effects(values: Values, given: Collection[str]) -> None:
    """
    Raises:
        UsageError: An option of `given` has no effect beside the other `values`.
    """
    for name in sorted(given):
        reason = why_without_effect(name, values)
        if reason is not None:
            raise UsageError(f"--{name} has no effect: {reason}. Leave it out.")


def why_without_effect(name: str, values: Values) -> str | None:
    """Why an option has no effect beside the other `values`; None if it has one, or is at its default."""
    if values[name] == DEFAULTS[name]:
        return None
    if name in NEED_TRAINING and values["head_only"]:
        return "with --head_only the network is not trained"
    if name not in WITHOUT_EFFECT:
        return None
    is_without_effect, reason = WITHOUT_EFFECT[name]
    return reason if is_without_effect(values) else None


def check_precision(values: Values, given: Collection[str]) -> str:
    """
    Return the precision that `precision`, `bf16` and `fp16` ask for together: as `precision`, where `auto` leaves the
    choice between fp16, if that is asked for, and others to the device.

    Args:
        values: All options of `sanet train`.
        given: Names of those on the command line or in YAML files.

    Raises:
        UsageError: They ask for several.
    """
    asked = {name: values[name] for name in ("bf16", "fp16") if name in given}
    for name, is_wanted in asked.items():
        if values["precision"] != "auto" and is_wanted != (values["precision"] == name):
            if is_wanted or values["precision"] == name:
                raise UsageError(
                    f"--precision {values['precision']} and --{name} {str(is_wanted).lower()} contradict each other. "
                    "Leave one out."
                )
    if asked.get("bf16") and asked.get("fp16"):
        raise UsageError("--bf16 true and --fp16 true contradict each other. Leave one out.")
    if values["precision"] == "auto" and not asked.get("fp16") and "bf16" in asked:
        return "bf16" if asked["bf16"] else "fp32"
    return values["precision"]


def check_metric(name: str, is_multi_label: bool, num_classes: int) -> None:
    """
    Raises:
        UsageError: There is no such metric for these classes. The message names those that there are.
    """
    missing = "top_3_accuracy" if is_multi_label or num_classes <= TOP_K else None, None if is_multi_label else "mAP"
    metrics = [metric for metric in CHOOSING_METRICS if metric not in missing]
    if name.removeprefix("eval_") not in metrics:
        kind = "several classes a clip" if is_multi_label else f"one of {num_classes} classes a clip"
        raise UsageError(
            f"--metric_for_best_model {name}: no metric where there is {kind}. Choose one of: {', '.join(metrics)}."
        )
