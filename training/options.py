# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Compare, override and check options of training."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from transformers import IntervalStrategy, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import DATA_SOURCES, FOLD_OPTIONS, AudioTrainingArguments, DataArguments


logger = logging.get_logger(__name__)

# Options that need `dataset_name`.
DATASET_OPTIONS = (
    *("dataset_config_name", "audio_column_name", "label_column_name"),
    *("train_split_name", "validation_split_name", "test_split_name", "streaming"),
)


def override_data_arguments(options: Mapping[str, object], given: Mapping[str, object]) -> DataArguments:
    """
    Return the data options of a finished run, with some of them overridden. A given source replaces that of the run.

    Args:
        options: All options of the run.
        given: Options of [`DataArguments`] that override them.

    Raises:
        UsageError: There is no source or there are several, or an option of `given` has no effect.
    """
    if any(given.get(name) for name in DATA_SOURCES):
        if "fold" in options and not is_same_source(options, given):
            # The folds apply only to the recordings of the run. Other recordings are divided as without folds.
            logger.warning(
                f"The model was trained in cross-validation (fold {options['fold']}). If these are the same "
                "recordings in another folder, give --folds (or --fold_pattern) and --fold as in its training."
            )
            options = {name: value for name, value in options.items() if name not in FOLD_OPTIONS}
        options = {name: value for name, value in options.items() if name not in DATA_SOURCES}
    names = {f.name for f in dataclasses.fields(DataArguments)}
    arguments = DataArguments(**{name: value for name, value in {**options, **given}.items() if name in names})
    check_data_source(arguments)
    for name in DATASET_OPTIONS:
        if given.get(name) is not None and not arguments.dataset_name:
            raise UsageError(f"--{name} has no effect: it needs --dataset_name. Leave it out.")
    return arguments


def without_evaluation(arguments: AudioTrainingArguments) -> AudioTrainingArguments:
    """
    Return a copy of training options without those that need a validation split.

    Raises:
        UsageError: The learning rate schedule needs a metric of the validation split.
    """
    if arguments.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        raise UsageError(
            f"--lr_scheduler_type {arguments.lr_scheduler_type.value} needs a validation split, which the final model "
            "does not have. Choose another."
        )
    arguments = copy.copy(arguments)
    arguments.eval_strategy, arguments.do_eval, arguments.eval_on_start = IntervalStrategy.NO, False, False
    arguments.load_best_model_at_end, arguments.early_stopping_patience = False, None
    if arguments.save_strategy == SaveStrategy.BEST:
        arguments.save_strategy = SaveStrategy.EPOCH
    return arguments


def is_same_source(options: Mapping[str, object], others: Mapping[str, object]) -> bool:
    """Return whether two sets of options name the same recordings."""
    pairs = [(options.get(name) or None, others.get(name) or None) for name in DATA_SOURCES]
    return all(one == two or (one and two and Path(one).resolve() == Path(two).resolve()) for one, two in pairs)


def check_data_source(arguments: DataArguments) -> None:
    """
    Check that exactly one source of recordings is given.

    Raises:
        UsageError: None or several of `data_dir`, `manifest` and `dataset_name` are given.
    """
    given = [name for name in DATA_SOURCES if getattr(arguments, name)]
    if not given:
        raise UsageError("No recordings are given. Add --data_dir (a folder), --manifest or --dataset_name.")
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} both name recordings. Leave one out.")


def changed_options(arguments: object) -> dict[str, object]:
    """Return the options of an argument class that differ from its defaults."""
    if isinstance(arguments, TrainingArguments):
        default = type(arguments)(output_dir=arguments.output_dir, use_cpu=arguments.use_cpu)
        values, defaults = arguments.to_dict(), default.to_dict()
        # With a time limit, the number of epochs is infinite.
        if math.isinf(values["num_train_epochs"]):
            values["num_train_epochs"] = defaults["num_train_epochs"]
        # The folder of a run and the way it was started are not part of the run.
        for name in ("output_dir", "use_cpu", "resume_from_checkpoint", "overwrite_output_dir", "bf16"):
            values.pop(name)
    else:
        values, defaults = dataclasses.asdict(arguments), dataclasses.asdict(type(arguments)())
    return {name: value for name, value in values.items() if value != defaults[name]}
