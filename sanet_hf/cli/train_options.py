# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line of `sanet train`: dataclasses as flags, overridden by YAML files."""

import argparse
import dataclasses
import itertools
import json
import math
import re
from argparse import SUPPRESS, Action
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from sanet_hf.cli.options import suggest
from sanet_hf.errors import UsageError
from sanet_hf.optimization.processor import instruction_sets
from sanet_hf.training.arguments import TRAINING_DATA_OPTIONS, AudioTrainingArguments, DataArguments, ModelArguments
from sanet_hf.training.config_files import find_config, parse_config_overrides, shipped_configs
from sanet_hf.training.evaluation.metric_names import CHOOSING_METRICS
from sanet_hf.training.option_checks import check_options, check_precision
from sanet_hf.training.options import check_data_source
from sanet_hf.training.time_limit import without_epochs


ARGUMENT_CLASSES = (ModelArguments, DataArguments, AudioTrainingArguments)

# Options of TrainingArguments that the short help lists.
COMMON_TRAINING_OPTIONS = {
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "label_smoothing_factor",
    "metric_for_best_model",
    "save_total_limit",
    "resume_from_checkpoint",
    "dataloader_num_workers",
    "report_to",
    "push_to_hub",
    "torch_compile",
    "use_cpu",
    "seed",
}
# Minimum values of options.
SMALLEST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "label_smoothing_factor": 0,
    "shuffle_buffer_size": 1,
    "samples_per_class": 1,
    "max_segments": 1,
    "max_bad_fraction": 0,
    "cache_audio": 0,
    "averaged_epochs": 1,
    "averaged_fraction": 0,
    "max_evaluations": 1,
    "early_stopping_patience": 1,
    "save_total_limit": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "mixup_alpha": 0,
    "learning_rate": 0,
    "head_learning_rate": 0,
    "weight_decay": 0,
    "num_train_epochs": 0,
    "seed": 0,
    "data_seed": 0,
}
# Values of these options must be below these limits.
LIMITS = {"label_smoothing_factor": 1, "seed": 2**32, "data_seed": 2**32}
RARE_OPTIONS = (
    {f.name for f in dataclasses.fields(TrainingArguments)} | {"restore_callback_states_from_checkpoint"}
) - COMMON_TRAINING_OPTIONS


class _MergeOverrides(Action):
    """Merge a later `config_overrides` into earlier ones. An empty one drops the earlier ones."""

    def __call__(self, parser, namespace, values, option_string=None):
        earlier = getattr(namespace, self.dest)
        if earlier and values:
            values = json.dumps({**parse_config_overrides(earlier), **parse_config_overrides(values)})
        setattr(namespace, self.dest, values)


class OptionParser(HfArgumentParser):
    """
    `HfArgumentParser` whose help lists each option once. It still accepts `--data-dir` for `--data_dir`.

    Args:
        dataclass_types: As for `HfArgumentParser`.
        hidden: Names of options that are not in the help.
        title: Heading of the options, if they need their own.
        are_defaults_left_out: Whether the result has no attributes for options that are not given.
        left_out: Names of fields that are not options.
        options: As for `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        dataclass_types: Sequence[type] | type,
        hidden: Collection[str] = (),
        title: str | None = None,
        are_defaults_left_out: bool = False,
        left_out: Collection[str] = (),
        **options,
    ):
        self.hidden, self.title, self.are_defaults_left_out = hidden, title, are_defaults_left_out
        self.left_out = left_out
        self._group = None
        super().__init__(dataclass_types, add_help=False, allow_abbrev=False, **options)

    def add_argument(self, *names: str, **options) -> argparse.Action | None:
        """Add an option like `argparse.ArgumentParser`. Options of the dataclasses have up to two spellings."""
        if options.get("dest", names[0].removeprefix("--")) in self.left_out:
            return None
        if self.title is not None and self._group is None:
            self._group = self.add_argument_group(self.title)
        add = super().add_argument if self._group is None else self._group.add_argument
        name = names[0]
        spellings = [other for other in names[1:] if other.replace("-", "_") == name.replace("-", "_")]
        names = [other for other in names if other not in spellings]
        if name.startswith("--"):
            options.setdefault("dest", name.removeprefix("--"))
        if options.get("dest") == "config_overrides":
            options["action"] = _MergeOverrides
        if self.are_defaults_left_out:
            options["default"] = SUPPRESS
        if options.get("dest") in self.hidden or (name.startswith("--no_") and self.hidden):
            options["help"] = SUPPRESS
        elif name.startswith("--no_"):
            options["help"] = f"same as --{options['dest']} false"
        if "type" in options and "choices" not in options:
            options["metavar"] = getattr(options["type"], "__name__", "value").removeprefix("string_to_").upper()
        action = add(*names, **options)
        for spelling in spellings:
            add(spelling, **{**options, "help": SUPPRESS})
        return action


def make_train_parser(all_options: bool = False) -> HfArgumentParser:
    """Return the parser of `sanet train`. Its help lists rare `TrainingArguments` only with `all_options`."""
    parser = OptionParser(
        ARGUMENT_CLASSES,
        hidden=() if all_options else RARE_OPTIONS,
        prog="sanet train",
        usage="sanet train [CONFIG ...] --data_dir FOLDER --output_dir FOLDER [--OPTION VALUE ...]",
        description="Train an audio classifier on a folder of recordings. Without CONFIG, network, clip length and "
        "epochs are chosen for the recordings and the available time; recipe.yaml in the output folder explains the "
        "choices.",
        epilog="CONFIG is a YAML file with any of these options, or the name of a file that is shipped with sanet-hf: "
        f"{', '.join(path.name for path in shipped_configs())}. A later CONFIG overrides an earlier one, and the "
        "command line overrides both. config_overrides are merged by name. --help_all lists all options of "
        "transformers' TrainingArguments.",
    )
    parser.add_argument("-h", "--help", action="help", help="Show this help.")
    parser.add_argument("--help_all", action="store_true", help="Show all options.")
    return parser


def parse_train_arguments(
    argv: Sequence[str], find_recipe: Callable[..., Path | None] | None = None
) -> tuple[ModelArguments, DataArguments, AudioTrainingArguments]:
    """
    Return the options of `sanet train` from its command line.

    Args:
        argv: Names of configuration files, then flags.
        find_recipe: Called if there is no configuration file, with the options and the names of those that are given.
            Returns a configuration file or None; see [`~sanet_hf.training.recipe.find_recipe`].

    Raises:
        UsageError: An option does not exist, has a wrong type or is missing, or a YAML file cannot be read.
        SystemExit: Help was requested.
    """
    arguments, given, has_config = _parse(argv)
    recipe = None if has_config or find_recipe is None else find_recipe(*arguments, given)
    return arguments if recipe is None else _parse([str(recipe), *argv])[0]


def _parse(
    argv: Sequence[str],
) -> tuple[tuple[ModelArguments, DataArguments, AudioTrainingArguments], set[str], bool]:
    """Return the options, the names of those that are given as flags, and whether there is a configuration file."""
    parser = make_train_parser(all_options="--help_all" in argv)
    parser.error = _raise_usage_error
    if "--help_all" in argv:
        parser.print_help()
        raise SystemExit(0)
    names = sorted({f.name for arguments in ARGUMENT_CLASSES for f in dataclasses.fields(arguments) if f.init})
    configs = [find_config(name) for name in itertools.takewhile(lambda text: not text.startswith("-"), argv)]
    flags = argv[len(configs) :]
    listed = {action.dest for action in parser._actions if action.nargs == "+"}
    switches = {action.dest for action in parser._actions if getattr(action.type, "__name__", "") == "string_to_bool"}
    options = [option for config in configs for option in _read_options(config, names, listed, switches)]
    # An option without a value resets the value of an earlier file to the default.
    last_reset = {name: index for index, (_, name, value) in enumerate(options) if value is None}
    options = [option for index, option in enumerate(options) if index > last_reset.get(option[1], -1)]
    namespace, unknown = parser.parse_known_args([*(f for _, *option in options for f in _as_flags(*option)), *flags])
    if unknown:
        raise UsageError(f"{unknown[0]} is not an option of sanet train.{suggest(unknown[0], names, '--')}")
    values = vars(namespace)
    if values["output_dir"] is None:
        raise UsageError("--output_dir is missing. Give a folder for the trained model.")
    model_arguments, data_arguments = (
        arguments(**{f.name: values[f.name] for f in dataclasses.fields(arguments)})
        for arguments in (ModelArguments, DataArguments)
    )
    check_data_source(data_arguments)
    _check_ranges(values)
    given = {name for flag in flags if flag.startswith("--") and (name := _option_name(flag)) in names}
    shipped = shipped_configs()
    given_in_files = {name for config, name, _ in options if config not in shipped}
    check_options(values, given, given_in_files)
    values.update(without_epochs(values, given, given_in_files))
    training_values = {f.name: values[f.name] for f in dataclasses.fields(AudioTrainingArguments) if f.init}
    # A bare `--fsdp` means true. YAML and `--fsdp true` give it as text.
    if str(values["fsdp"]).lower() in ("true", "false"):
        training_values["fsdp"] = str(values["fsdp"]).lower() == "true"
    # TrainingArguments accepts bf16 on a CPU only with `use_cpu`.
    training_values["use_cpu"] = values["use_cpu"] or not torch.accelerator.is_available()
    all_given = given | {name for _, name, _ in options}
    training_values["precision"] = precision = check_precision(values, all_given)
    if precision == "auto" and not values["fp16"]:
        training_values["bf16"] = has_fast_bfloat16(training_values["use_cpu"])
    elif precision != "auto":
        training_values["bf16"] = precision == "bf16"
    is_multi_label = data_arguments.problem_type == "multi_label_classification"
    if values["metric_for_best_model"] is None:
        training_values["metric_for_best_model"] = "mAP" if is_multi_label else "macro_f1"
    elif (name := values["metric_for_best_model"].removeprefix("eval_")) not in CHOOSING_METRICS:
        raise UsageError(
            f"--metric_for_best_model {name} is not a known metric. Choose one of: {', '.join(CHOOSING_METRICS)}."
        )
    try:
        training_arguments = AudioTrainingArguments(**training_values)
    # TrainingArguments raises many types of errors, also for missing packages.
    except Exception as error:
        raise UsageError(f"Invalid training options: {' '.join(str(error).split())}") from error
    return (model_arguments, data_arguments, training_arguments), given, bool(configs)


def _check_ranges(values: Mapping[str, object]) -> None:
    """Reject values that PyTorch, NumPy and `Trainer` would reject late or treat as missing."""
    for name, smallest in SMALLEST.items():
        value = values[name]
        # NaN fails this comparison.
        if value is not None and not smallest <= value < math.inf:
            raise UsageError(f"--{name} {value:g} must be at least {smallest}.")
    for name, limit in LIMITS.items():
        if values[name] is not None and values[name] >= limit:
            raise UsageError(f"--{name} {values[name]:.15g} must be below {limit}.")
    for name in ("max_bad_fraction", "averaged_fraction"):
        if values[name] > 1:
            raise UsageError(f"--{name} {values[name]:g} must be at most 1.")
    if not 0 < values["teacher_weight"] <= 1:
        raise UsageError(f"--teacher_weight {values['teacher_weight']:g} must be above 0 and at most 1.")
    if not 0 < values["teacher_temperature"] < math.inf:
        raise UsageError(f"--teacher_temperature {values['teacher_temperature']:g} must be positive and finite.")
    if values["max_minutes"] is not None and not 0 < values["max_minutes"] < math.inf:
        raise UsageError(f"--max_minutes {values['max_minutes']:g} must be positive and finite.")
    if values["max_steps"] < -1 or values["max_steps"] == 0:
        raise UsageError(f"--max_steps {values['max_steps']} must be at least 1, or -1 to use --num_train_epochs.")


def make_data_parser() -> HfArgumentParser:
    """
    Return a parser of the data options for evaluation, to be used as a parent of other parsers. Options that are not
    given are not in the result.
    """
    return OptionParser(
        DataArguments,
        title="recordings (default: as in the training run)",
        are_defaults_left_out=True,
        left_out=TRAINING_DATA_OPTIONS,
    )


def has_fast_bfloat16(use_cpu: bool = False) -> bool:
    """Return whether the training device computes bfloat16 in hardware."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() and not use_cpu:
        return False
    # PyTorch before 2.11 reports no instruction sets, so that training uses float32.
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(instruction_sets())


def _read_options(
    path: Path, names: Collection[str], listed: Collection[str], switches: Collection[str]
) -> list[tuple[Path, str, object]]:
    """
    Return the options of a YAML file: file, name and value of each. A value is the text in the file, a list, a mapping
    or None. Text is checked as on the command line (`no` means no, not False).
    """
    try:
        text = path.read_text(encoding="utf-8")
        values, texts = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must contain options as 'name: value', one per line.")
    options = []
    for name, value in zip(texts, values.values()):
        if name not in names:
            raise UsageError(f"{path}: {name!r} is not an option.{suggest(str(name), names)}")
        if isinstance(value, list) and name not in listed and not name.startswith("augmentations"):
            if len(value) != 1:
                raise UsageError(f"{path}: {name} needs one value, not a list: {', '.join(map(str, texts[name]))}.")
            ((texts[name],), (value,)) = texts[name], value
        is_text = value is not None and not isinstance(value, (list, dict))
        # YAML also writes booleans as on and off.
        if isinstance(value, bool) and name in switches:
            is_text, value = False, str(value).lower()
        options.append((path, name, texts[name] if is_text or name in listed else value))
    return options


def _as_flags(name: str, value: str | list | dict) -> list[str]:
    """Return an option of a YAML file as command-line arguments."""
    if isinstance(value, list) and not name.startswith("augmentations"):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}"]


def _option_name(flag: str) -> str:
    return re.sub(r"^--(no[-_])?|=.*", "", flag, flags=re.DOTALL).replace("-", "_")


def _raise_usage_error(message: str) -> None:
    raise UsageError(f"{message[0].upper()}{message[1:]}.")
