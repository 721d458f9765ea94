# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training that was interrupted: which one is whole."""

import json
import zipfile
from pathlib import Path

import safetensors
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging


logger = logging.get_logger(__name__)


class Terminated(Exception):
    """A training was ended by SIGTERM, and what it needs to go on was saved."""


def find_last_checkpoint(output_dir: Path) -> str | None:
    """The checkpoint of the latest step that was written to its end; a warning names those that were not."""
    found = {}
    for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdecimal():
            found[int(step)] = path
    for _, path in sorted(found.items(), reverse=True):
        fault = _find_fault(path)
        if fault is None:
            return str(path)
        logger.warning(f"{path} is passed over, since it was not written to its end: {fault}")
    return None


def _find_fault(path: Path) -> str | None:
    # Trainer writes its state last.
    try:
        json.loads((path / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE_NAME}: {error}"
    for file in path.glob("*.safetensors"):
        try:
            with safetensors.safe_open(file, "pt"):
                pass
        except (OSError, safetensors.SafetensorError) as error:
            return f"{file.name}: {error}"
    for file in (*path.glob("*.pt"), *path.glob("*.pth"), *path.glob("*.bin")):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut off"
    return None
