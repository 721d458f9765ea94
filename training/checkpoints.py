# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of an interrupted training: find the last complete one, and check its position in the training."""

import json
import zipfile
from pathlib import Path

import safetensors
import torch
from transformers import PreTrainedModel, TrainerState
from transformers.utils import logging


logger = logging.get_logger(__name__)


# Names set by transformers' Trainer.
PREFIX = "checkpoint-"
STATE_FILE = "trainer_state.json"
# If the model of a checkpoint is an average: the weights to resume from.
TRAINING_WEIGHTS_FILE = "training_weights.safetensors"


def find_last_checkpoint(output_dir: Path) -> str | None:
    """Return the latest complete checkpoint, or None. Warn of incomplete ones."""
    found = {}
    for path in output_dir.glob(f"{PREFIX}*"):
        step = path.name.removeprefix(PREFIX)
        if path.is_dir() and step.isdecimal():
            found[int(step)] = path
    for _, path in sorted(found.items(), reverse=True):
        fault = find_fault(path)
        if fault is None:
            return str(path)
        logger.warning(f"Skipping incomplete checkpoint {path}: {fault}")
    return None


def find_fault(path: Path) -> str | None:
    """Return why a checkpoint is incomplete; None if it is complete."""
    # Trainer writes its state last.
    try:
        json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{STATE_FILE}: {error}"
    for file in path.glob("*.safetensors"):
        try:
            with safetensors.safe_open(file, "pt"):
                pass
        except (OSError, safetensors.SafetensorError) as error:
            return f"{file.name}: {error}"
    for file in (*path.glob("*.pt"), *path.glob("*.pth"), *path.glob("*.bin")):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is truncated"
    return None


def check_position(state: TrainerState, num_batches: int, batches_per_step: int) -> None:
    """
    Warn if the step of a checkpoint is now in another epoch than when it was saved.

    Args:
        state: State of the checkpoint.
        num_batches: Batches per epoch of the current training.
        batches_per_step: Batches per step of the current training.
    """
    steps_per_epoch = -(-num_batches // batches_per_step)
    epochs, steps = divmod(state.global_step, steps_per_epoch)
    epoch = epochs + steps * batches_per_step / num_batches
    if state.epoch is not None and abs(epoch - state.epoch) > 1e-3:
        logger.warning(
            f"Training resumes at step {state.global_step}. This was epoch {state.epoch:.4g} and is now epoch "
            f"{epoch:.4g}, because the clips per epoch, the batch size or the number of processes changed."
        )


def read_state(checkpoint: str | Path) -> TrainerState:
    """Return the state of the trainer in a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / STATE_FILE))


def load_renamed_weights(model: PreTrainedModel) -> None:
    """
    Make `model.load_state_dict` support the weight names that `save_pretrained` writes. For some models, such as AST,
    transformers 5 has new names but still writes the old ones. `Trainer` calls `load_state_dict` to resume and to load
    the best epoch, and only warns of missing weights.
    """
    model.register_load_state_dict_pre_hook(_rename)


def _rename(model: PreTrainedModel, state_dict: dict[str, torch.Tensor], prefix: str, *args) -> None:
    """
    Raises:
        RuntimeError: The weights do not fit the model. `load_state_dict` raises the same error if shapes differ.
    """
    if prefix or model.state_dict().keys() == state_dict.keys():
        return
    verbosity = logging.get_verbosity()
    # For the weights of another network, transformers would print a long list.
    logging.set_verbosity_error()
    try:
        loaded, info = type(model).from_pretrained(
            None, config=model.config, state_dict=dict(state_dict), output_loading_info=True
        )
    except RuntimeError as error:
        raise RuntimeError(f"size mismatch: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    others = [*info["missing_keys"], *info["unexpected_keys"]]
    if others:
        raise RuntimeError(f"size mismatch: {', '.join(sorted(others))} missing or unexpected")
    state_dict.clear()
    state_dict.update(loaded.state_dict())
