# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of training options: options that contradict each other or have no effect."""

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
# Options of training by steps, which have no effect on a head that is fitted by regression.
NEED_TRAINING = (
    *("augmentations", "augmentations_after_normalization", "averaged_epochs", "averaged_fraction", "cache_audio"),
    *("early_stopping_patience", "eval_steps", "eval_strategy", "freeze", "gradient_accumulation_steps"),
    *("gradient_checkpointing", "head_first", "head_learning_rate", "label_smoothing_factor", "learning_rate"),
    *("load_best_model_at_end", "logging_steps", "logging_strategy", "lr_scheduler_type", "max_evaluations"),
    *("max_grad_norm", "max_minutes", "max_steps", "metric_for_best_model", "mixup_alpha", "num_train_epochs"),
    *("optim", "per_device_train_batch_size", "refit_from", "resume_from_checkpoint", "sampler", "save_steps"),
    *("save_strategy", "torch_compile", "train_sampling_strategy", "warmup_steps", "weight_decay"),
)
# Options that can have no effect: when, and why.
WITHOUT_EFFECT: Mapping[str, tuple[Callable[[Values], bool], str]] = {
    **dict.fromkeys(
        DATASET_OPTIONS,
        (lambda values: not values["dataset_name"], "it needs --dataset_name, not --data_dir or --manifest"),
    ),
    "shuffle_buffer_size": (lambda values: not values["streaming"], "it needs --streaming true"),
    "cache_audio": (lambda values: values["streaming"], "with --streaming recordings are not read again"),
    "group_pattern": (
        lambda values: values["streaming"],
        "with --streaming the recordings keep their splits, because they are not known beforehand",
    ),
    "data_seed": (lambda values: values["streaming"], "with --streaming the order follows from --seed"),
    "max_segments": (
        lambda values: values["samples_per_class"] is None,
        "it needs --samples_per_class",
    ),
    "model_type": (
        lambda values: bool(values["model_name_or_path"]),
        "the checkpoint of --model_name_or_path has its own architecture",
    ),
    "from_scratch": (
        lambda values: bool(values["model_name_or_path"]) or values["head_only"],
        "the training starts from a checkpoint",
    ),
    "learning_rate": (
        lambda values: values["freeze"] == "backbone" and values["head_learning_rate"] is not None,
        "with --freeze backbone only the head is trained, at --head_learning_rate",
    ),
    **dict.fromkeys(NEED_TEACHER, (lambda values: not values["teacher"], "it needs --teacher")),
    **dict.fromkeys(
        ("class_weights", "label_smoothing_factor"),
        (
            lambda values: bool(values["teacher"]) and values["teacher_weight"] == 1,
            "with --teacher_weight 1 the loss does not depend on the labels",
        ),
    ),
    "refit_from": (lambda values: values["refit"] == "false", "it needs --refit true or auto"),
    "max_evaluations": (
        lambda values: not values["max_minutes"],
        "it needs --max_minutes",
    ),
    "train_sampling_strategy": (
        lambda values: values["streaming"],
        "with --streaming the order is that of the stream, shuffled by --shuffle_buffer_size",
    ),
}
# Options of `TrainingArguments` that are for other kinds of models, or that must keep their defaults here.
UNSUPPORTED = {
    "neftune_noise_alpha": "it adds noise to text embeddings, which audio models do not have",
    "label_names": "the labels of a batch are always named labels",
    "prediction_loss_only": "metrics need the predictions",
    "batch_eval_metrics": "metrics are computed over all recordings together",
    "eval_do_concat_batches": "metrics need the predictions of all batches together",
    "include_for_metrics": "metrics are computed only from predictions and labels",
}


def check_options(values: Values, given: Collection[str], given_in_files: Collection[str] = ()) -> None:
    """
    Refuse options that contradict each other, and options on the command line that have no effect. Options without
    effect in the user's YAML files only give a warning, because such files often serve several runs. Defaults are
    never refused.

    Args:
        values: All options of `sanet train`.
        given: Names of the options on the command line.
        given_in_files: Names of the options in the user's YAML files.

    Raises:
        UsageError: Names the options and the remedy.
    """
    for name, reason in UNSUPPORTED.items():
        # Some versions of transformers lack some of these options.
        if name in values and values[name] != DEFAULTS[name]:
            raise UsageError(f"--{name} is not supported: {reason}. Leave it out.")
    if values["sampler"] == "balanced" and values["class_weights"] == "balanced":
        raise UsageError(
            "--sampler balanced and --class_weights balanced both compensate for rare classes. Together they would "
            "compensate twice. Leave one out."
        )
    if values["sampler"] == "balanced" and values["train_sampling_strategy"] == "sequential":
        raise UsageError(
            "--sampler balanced and --train_sampling_strategy sequential contradict each other. Leave one out."
        )
    metric, is_greater_better = values["metric_for_best_model"] or "macro_f1", values["greater_is_better"]
    if is_greater_better not in (None, greater_is_better(metric)):
        best = "highest" if greater_is_better(metric) else "lowest"
        raise UsageError(
            f"--greater_is_better {str(is_greater_better).lower()} would keep the worst epoch: the {best} "
            f"--metric_for_best_model {metric} is the best. Leave --greater_is_better out."
        )
    if values["overwrite_output_dir"] and is_resumption(values["resume_from_checkpoint"]):
        raise UsageError(
            "--overwrite_output_dir true deletes the run that --resume_from_checkpoint resumes. Leave one out."
        )
    if values["load_best_model_at_end"] and values["eval_strategy"] == "no":
        raise UsageError("--load_best_model_at_end true needs evaluations. Use another --eval_strategy than no.")
    check_effects(values, given)
    for name in sorted(set(given_in_files) - set(given)):
        reason = why_without_effect(name, values)
        if reason is not None:
            logger.warning(f"{name} has no effect: {reason}.")


def check_effects(values: Values, given: Collection[str]) -> None:
    """
    Check that all given options have an effect.

    Raises:
        UsageError: An option of `given` has no effect in combination with the other `values`.
    """
    for name in sorted(given):
        reason = why_without_effect(name, values)
        if reason is not None:
            raise UsageError(f"--{name} has no effect: {reason}. Leave it out.")


def why_without_effect(name: str, values: Values) -> str | None:
    """Return why an option has no effect with the other `values`; None if it has an effect or its default value."""
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
    Combine the options `precision`, `bf16` and `fp16` into one value of `precision`. With `fp16`, it is `auto`.

    Args:
        values: All options of `sanet train`.
        given: Names of the options on the command line or in YAML files.

    Raises:
        UsageError: The options contradict each other.
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


def check_metric(name: str, is_multi_label: bool, num_classes: int, labels: Collection | None = None) -> None:
    """
    Check that a metric exists for these classes, and for the labels of the validation split, if they are given.

    Raises:
        UsageError: It does not.
    """
    missing = "top_3_accuracy" if is_multi_label or num_classes <= TOP_K else None, None if is_multi_label else "mAP"
    metrics = [metric for metric in CHOOSING_METRICS if metric not in missing]
    if name.removeprefix("eval_") not in metrics:
        kind = "multi-label data" if is_multi_label else f"single-label data with {num_classes} classes"
        raise UsageError(
            f"--metric_for_best_model {name} is not a metric for {kind}. Choose one of: {', '.join(metrics)}."
        )
    if name.removeprefix("eval_") == "auroc" and labels is not None and len(set(map(str, labels))) < 2:
        raise UsageError(
            f"--metric_for_best_model {name} needs several classes in validation. It has one. Choose another "
            "metric, such as accuracy."
        )
