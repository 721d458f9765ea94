# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training that was interrupted: which one is whole, and one more when a scheduler ends it."""

import json
import signal
import threading
import zipfile
from pathlib import Path

import safetensors
import torch
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from sanet_hf.errors import TrainingTerminated


logger = logging.get_logger(__name__)


class Terminated(TrainingTerminated):
    """The name that [`TrainingTerminated`] had."""


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


class CheckpointOnSIGTERM(TrainerCallback):
    """
    Ends a training after the step during which SIGTERM came, with a checkpoint. `Trainer.train` then returns as if it
    were done; `is_terminated` tells.
    """

    def __init__(self):
        self.is_terminated = False
        self._previous = None

    def on_train_begin(self, args, state, control, **kwargs):
        # Python gives signals to the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number, frame):
        self.is_terminated = True

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # Each process has a signal of its own, perhaps in another step.
            flag = torch.tensor([self.is_terminated], dtype=torch.int32, device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.is_terminated = bool(flag)
        if self.is_terminated:
            # The mean loss of an epoch's first part is not in a checkpoint.
            control.should_log = control.should_training_stop = True
            # At the end of an epoch the evaluation and what else belongs to it come first.
            control.should_save = not _is_whole(state.epoch)

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.is_terminated:
            control.should_save = _is_whole(state.epoch)
            control.should_evaluate = control.should_evaluate and _is_whole(state.epoch)

    def on_train_end(self, args, state, control, **kwargs):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


def _is_whole(epoch: float) -> bool:
    return abs(epoch - round(epoch)) < 1e-9
