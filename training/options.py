# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of a training compared, overridden and checked."""

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

# Options of `dataset_name`.
DATASET_OPTIONS = (
    *("dataset_config_name", "audio_column_name", "label_column_name"),
    *("train_split_name", "validation_split_name", "test_split_name", "streaming"),
)


def override_data_arguments(options: Mapping[str, object], given: Mapping[str, object]) -> DataArguments:
    """
    Options of the data of a finished run, overridden; a source that is given takes the place of the run's.

    Args:
        options: All options of the run.
        given: Options of [`DataArguments`] to override them.

    Raises:
        UsageError: No source or several are named, or an option of `given` has no effect on them.
    """
    if any(given.get(name) for name in DATA_SOURCES):
        if "fold" in options and not is_same_source(options, given):
            # The folds are those of the run's recordings; other recordings are divided as for any run.
            logger.warning(
                f"The model was trained in cross-validation (fold {options['fold']}). If these are the same "
                "recordings in another place, give --folds (or --fold_pattern) and --fold as in its training."
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
    Copy options of a training, without all that needs a validation split.

    Raises:
        UsageError: The learning rate follows a metric of the validation split.
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
    """Whether two sets of options name the same recordings."""
    pairs = [(options.get(name) or None, others.get(name) or None) for name in DATA_SOURCES]
    return all(one == two or (one and two and Path(one).resolve() == Path(two).resolve()) for one, two in pairs)


def check_data_source(arguments: DataArguments) -> None:
    """
    Raises:
        UsageError: None or several of `data_dir`, `manifest` and `dataset_name` are given.
    """
    given = [name for name in DATA_SOURCES if getattr(arguments, name)]
    if not given:
        raise UsageError("--data_dir is missing: the folder with the recordings (or --manifest, or --dataset_name).")
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} both name recordings: give one of them.")


def changed_options(arguments: object) -> dict[str, object]:
    """The options of an argument class that differ from its defaults."""
    if isinstance(arguments, TrainingArguments):
        default = type(arguments)(output_dir=arguments.output_dir, use_cpu=arguments.use_cpu)
        values, defaults = arguments.to_dict(), default.to_dict()
        # By time, epochs need no limit.
        if math.isinf(values["num_train_epochs"]):
            values["num_train_epochs"] = defaults["num_train_epochs"]
        # Where a run lies and how it was started is not part of it.
        for name in ("output_dir", "use_cpu", "resume_from_checkpoint", "overwrite_output_dir", "bf16"):
            values.pop(name)
    else:
        values, defaults = dataclasses.asdict(arguments), dataclasses.asdict(type(arguments)())
    return {name: value for name, value in values.items() if value != defaults[name]}
