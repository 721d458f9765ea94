# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options and checks that several commands share."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from sanet_hf.audio.folders import SPLITS
from sanet_hf.errors import UsageError


class CommandParser(argparse.ArgumentParser):
    """Parser of a subcommand. It reports unknown options with its own usage and a similar option."""

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            names = {name.lstrip("-") for action in self._actions for name in action.option_strings}
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{suggest(unknown[0], names, '--')}")
        return namespace, unknown


def suggest(text: str, names: Iterable[str], prefix: str = "") -> str:
    """Return a sentence with the name most similar to a mistyped option, or with up to three that contain it."""
    word, names = text.split("=")[0].lstrip("-"), sorted(names, key=lambda name: (len(name), name))
    similar = difflib.get_close_matches(word, names, n=1) or [name for name in names if word in name and len(word) > 3]
    return f" Did you mean {' or '.join(prefix + name for name in similar[:3])}?" if similar else ""


def check_new_folder(folder: Path) -> None:
    """
    Check that a new folder can be created.

    Raises:
        UsageError: The path exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Choose a new folder.")


MODEL_HELP = "folder or Hub id of a trained audio classifier"
DEVICE_HELP = "such as cpu, cuda or cuda:1 (default: the GPU, if there is one)"
DENOISE_HELP = "reduce noise first, for a model that was trained on clips of sanet prepare --denoise"
DATA_HELP = (
    "The default recordings are those of the (first) training run. --data_dir, --manifest or --dataset_name choose "
    "others."
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs a model on files."""
    parser.add_argument("--denoise", action="store_true", help=DENOISE_HELP)
    parser.add_argument("--device", help=DEVICE_HELP)
    add_dtype_option(parser)
    parser.add_argument(
        "--batch_size",
        type=lambda text: None if text == "auto" else positive(text),
        help="clips per batch. auto (default): 32 on a GPU, else 8, and fewer if memory is short",
    )


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number format of a model."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "int8"],
        help="number format of the model (default: as saved). int8 is for CPUs; it uses activation ranges measured by "
        "sanet train, or measures them on the inputs",
    )


def _level(text: str) -> float | None:
    return None if text == "none" else float(text)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that reads any number of files."""
    parser.add_argument(
        "--min_level",
        type=_level,
        default=-80.0,
        metavar="DBFS",
        help="windows whose peak is below this level (in dBFS) are silent: they get no class and do not count "
        "in the file score. none: classify all windows (default: %(default)g, digital silence)",
    )
    parser.add_argument(
        "--num_workers",
        type=positive,
        help="number of files decoded in parallel (default: half of the cores, from 2 to 8)",
    )


def add_min_score_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the minimum score of a predicted class."""
    parser.add_argument(
        "--min_score",
        "--threshold",
        dest="min_score",
        metavar="SCORE",
        type=float,
        help="minimum score of a predicted class. Below it, the label of a single-label model is unknown (default: "
        "none; for multi-label models the model's thresholds, or else 0.5)",
    )


def add_threshold_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the minimum score of a predicted class in an evaluation."""
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=float,
        help="minimum score of a predicted class, for multi-label models (default: the model's thresholds, or else "
        "0.5)",
    )


def add_evaluation_options(parser: argparse.ArgumentParser, with_default: bool = True) -> None:
    """
    Add the options of a command that evaluates on a split.

    Args:
        parser: The parser of the command.
        with_default: Whether the default split is test. Otherwise it depends on the recordings.
    """
    default = "test" if with_default else "test, or all for recordings without splits that are not those of the run"
    unseen = "" if with_default else ". Recordings that a model was trained on are skipped, except with train"
    parser.add_argument(
        "--split",
        default="test" if with_default else None,
        choices=[*SPLITS, "all"],
        help=f"split to evaluate on (default: {default}). all: every recording of a source without splits{unseen}",
    )
    parser.add_argument("--batch_size", type=positive, default=8, help="clips per batch (default: 8)")


def positive(text: str) -> int:
    """Return the value of an option as a whole number of 1 or more."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def natural(text: str) -> int:
    """Return the value of an option as a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or a positive whole number")
    return int(text)
