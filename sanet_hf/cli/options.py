# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options and checks that several commands share."""

import argparse
import os
from pathlib import Path

from sanet_hf.errors import UsageError


def _num_processes() -> int:
    # Launchers tell it so; not to import accelerate for it.
    return int(os.environ.get("WORLD_SIZE", 1))


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _check_new_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: choose a new folder.")


MODEL_HELP = "folder or Hub id of a trained audio classifier"
DEVICE_HELP = "such as cpu, cuda or cuda:1 (default: the GPU, if there is one)"
DATA_HELP = (
    "The recordings are those of the (first) training run, or others by --data_dir, --manifest or --dataset_name."
)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help=DEVICE_HELP)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the model (default: as it was saved)"
    )
    parser.add_argument(
        "--batch_size",
        type=lambda text: None if text == "auto" else _positive(text),
        help="clips classified at once; auto (the default): 32 on a GPU, else 8, and fewer where memory is short",
    )


def _add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        default="test",
        choices=["train", "validation", "test", "all"],
        help="split to evaluate on (default: test); all takes every recording of a source without splits",
    )
    parser.add_argument("--batch_size", type=_positive, default=8, help="clips classified at once (default: 8)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or a positive whole number")
    return int(text)
