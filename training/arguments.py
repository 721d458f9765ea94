# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Options of training: a YAML file, overridden by flags of the same name.

Options of the model and the data are defined here; all others are those of transformers' `TrainingArguments`.
"""

import dataclasses
import difflib
import json
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments


class UsageError(ValueError):
    """A mistake in how a command was called; the message says what to do."""


@dataclass
class ModelArguments:
    """What is trained."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from: a folder or a Hub id. Without it, training starts from scratch."},
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Values of SANetConfig for a model from scratch, for instance "
            '"conv_dim=[16,32,64,128,256],classifier_dropout=0.2"; in YAML, a mapping.'
        },
    )
    freeze: str = field(
        default="none",
        metadata={
            "help": "Weights that are not trained: of the convolution stages (feature_encoder) or of all but the "
            "classifier (base_model).",
            "choices": ["none", "feature_encoder", "base_model"],
        },
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "Precision of training: auto is bf16 where the device computes it in hardware, else fp32.",
            "choices": ["auto", "bf16", "fp32"],
        },
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of recordings: <class>/*.wav, split 80/10/10 by file name, or train/<class>/*.wav, with "
            "validation/ and test/ beside train/."
        },
    )
    max_length_seconds: float = field(
        default=4.0,
        metadata={"help": "Longest stretch of a recording: a random one in training, the middle in evaluation."},
    )
    max_bad_fraction: float = field(
        default=0.05,
        metadata={"help": "Training stops where a larger part of the recordings than this cannot be read."},
    )


ARGUMENT_CLASSES = (ModelArguments, DataArguments, TrainingArguments)

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


def find_config(name: str) -> Path:
    """A YAML file by its path, or one that comes with the package by its bare name, with or without `.yaml`."""
    if Path(name).is_file():
        return Path(name)
    # In a checkout configs/ stands beside this package, in a wheel inside it.
    package = Path(__file__).parent
    shipped = sorted([*package.glob("configs/*.yaml"), *package.parent.glob("configs/*.yaml")])
    for path in shipped:
        if name in (path.name, path.stem):
            return path
    raise UsageError(
        f"{name}: there is no such configuration file, and none of that name comes with sanet-hf "
        f"({', '.join(path.name for path in shipped)})."
    )


def make_parser(all_options: bool = False) -> HfArgumentParser:
    """Parser of `sanet train`; its help leaves out the rarer options of `TrainingArguments` unless asked for all."""
    parser = HfArgumentParser(
        ARGUMENT_CLASSES,
        prog="sanet train",
        usage="sanet train CONFIG --data_dir FOLDER --output_dir FOLDER [--OPTION VALUE ...]",
        description="Train an audio classifier on a folder of recordings.",
        epilog="Every option can stand in CONFIG under its own name; a flag overrides it. CONFIG is a YAML file or "
        "the name of one that comes with sanet-hf, such as sanet.yaml. --help_all lists all options of transformers' "
        "TrainingArguments.",
        allow_abbrev=False,
        add_help=False,
    )
    # HfArgumentParser adds one flat list, each option in two spellings.
    sources = {f.name: arguments for arguments in ARGUMENT_CLASSES for f in dataclasses.fields(arguments)}
    for action in parser._actions:
        rare = sources.get(action.dest) is TrainingArguments and action.dest not in COMMON_TRAINING_OPTIONS
        if (rare or "--no_" in "".join(action.option_strings)) and not all_options:
            action.help = SUPPRESS
        action.option_strings = action.option_strings[:1]
        if action.choices is None:
            action.metavar = getattr(action.type, "__name__", "value").removeprefix("string_to_").upper()
    parser.add_argument("-h", "--help", action="help", help="Show this help.")
    parser.add_argument("--help_all", action="store_true", help="Show all options.")
    return parser


def parse_train_arguments(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """
    Options of `sanet train` from its command line.

    Raises:
        UsageError: An option does not exist, has a wrong type, is missing, or the YAML file cannot be read.
        SystemExit: Help was asked for.
    """
    parser = make_parser(all_options="--help_all" in argv)
    parser.error = _raise_usage_error
    if "--help_all" in argv:
        parser.print_help()
        raise SystemExit(0)
    names = sorted({f.name for arguments in ARGUMENT_CLASSES for f in dataclasses.fields(arguments) if f.init})
    flags = list(argv)
    if flags and not flags[0].startswith("-"):
        flags = [*_yaml_as_flags(find_config(flags[0]), names), *flags[1:]]
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        raise UsageError(
            f"{unknown[0]} is no option of sanet train.{_suggest(unknown[0].lstrip('-').split('=')[0], names, '--')}"
        )

    values = vars(namespace)
    if values["data_dir"] is None:
        raise UsageError("--data_dir is missing: the folder with the recordings.")
    if values["output_dir"] is None:
        raise UsageError("--output_dir is missing: the folder for the trained model.")
    model_arguments, data_arguments = (
        arguments(**{f.name: values[f.name] for f in dataclasses.fields(arguments)})
        for arguments in (ModelArguments, DataArguments)
    )
    training_values = {f.name: values[f.name] for f in dataclasses.fields(TrainingArguments) if f.init}
    # TrainingArguments takes bf16 on a CPU only if told that there is nothing else.
    training_values["use_cpu"] = values["use_cpu"] or not torch.accelerator.is_available()
    if model_arguments.precision == "auto" and not values["fp16"]:
        training_values["bf16"] = has_fast_bfloat16(training_values["use_cpu"])
    elif model_arguments.precision != "auto":
        training_values["bf16"] = model_arguments.precision == "bf16"
    try:
        training_arguments = TrainingArguments(**training_values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"The training options do not go together: {error}") from error
    return model_arguments, data_arguments, training_arguments


def has_fast_bfloat16(use_cpu: bool = False) -> bool:
    """Whether the device that trains computes bfloat16 in hardware."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() and not use_cpu:
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def parse_config_overrides(overrides: str | None) -> dict:
    """
    `"conv_dim=[8,16],se_reduction=4"`, or the same as a YAML or JSON mapping, as a dict.

    Raises:
        UsageError: It is neither.
    """
    if not overrides:
        return {}
    text = overrides.strip()
    try:
        values = yaml.safe_load(text if text.startswith("{") else "{" + text.replace("=", ": ") + "}")
    except yaml.YAMLError as error:
        raise UsageError(f'--config_overrides {overrides!r} is not of the form "name=value,name=value".') from error
    return values


def _yaml_as_flags(path: Path, names: Sequence[str]) -> list[str]:
    """The options of a YAML file as if given on the command line, so that both are checked alike."""
    try:
        options = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(options, dict):
        raise UsageError(f"{path} must hold options as 'name: value', one a line.")
    flags = []
    for name, value in options.items():
        if name not in names:
            raise UsageError(f"{path}: {name!r} is no option.{_suggest(str(name), names)}")
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


def _suggest(name: str, names: Sequence[str], prefix: str = "") -> str:
    nearest = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {prefix}{nearest[0]}?" if nearest else ""


def _raise_usage_error(message: str) -> None:
    raise UsageError(f"{message[0].upper()}{message[1:]}.")
