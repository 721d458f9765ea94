# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Final training on the training and validation recordings together (`--refit`), after validation has selected the model.

The first phase is the training without refit. The second phase trains up to the best epoch of the first phase (at
least half of its epochs), or for the remaining time, without evaluations. Its checkpoints are in a separate folder.
"""

import copy
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import TrainerCallback, TrainerState, TrainingArguments

from sanet_hf.errors import TrainingTerminated, UsageError
from sanet_hf.training.arguments import FEW_RECORDINGS, AudioTrainingArguments, DataArguments
from sanet_hf.training.callbacks import CheckpointOnSIGTERM, TrainingClock
from sanet_hf.training.checkpoints import find_last_checkpoint
from sanet_hf.training.data.background_labels import without_added
from sanet_hf.training.data.decoded import keep_decoded
from sanet_hf.training.options import without_evaluation
from sanet_hf.training.run_folder import REFIT_FOLDER, read_file
from sanet_hf.training.trainer import AudioClassificationTrainer
from sanet_hf.utils.files import write_atomically
from sanet_hf.utils.formatting import format_count, format_duration


PLAN_FILE = "plan.json"
# Fraction of --max_minutes for the first phase.
FIRST_PART = {"scratch": 0.4, "trained": 0.8}
# If the second phase starts from trained weights: fraction of the epochs and the learning rate of the first phase.
CONTINUED_PART = 0.25
# Smallest fraction of the first phase's epochs for the second phase.
MIN_PART = 0.5
TrainerMaker = Callable[[DatasetDict, AudioTrainingArguments], AudioClassificationTrainer]


class Refit(NamedTuple):
    """Facts about the second phase. It starts from `scratch` or `trained` weights, or fits only the `head`."""

    num_recordings: int
    num_epochs: float
    seconds: float
    starts_from: str

    def __str__(self) -> str:
        if self.starts_from == "head":
            return (
                f"After model selection on validation, the head was fitted to {self.num_recordings:,} training and "
                "validation recordings together. Validation results are from before this fit."
            )
        start = "the initial weights" if self.starts_from == "scratch" else "the weights of the first training"
        return (
            f"After model selection on validation, the model was trained from {start} on {self.num_recordings:,} "
            f"training and validation recordings together ({format_duration(self.seconds)}, "
            f"{format_count(self.num_epochs, 'epoch')}). Validation results are from before this training."
        )

    @property
    def metrics(self) -> dict[str, float]:
        return {"refit_epochs": self.num_epochs, "refit_runtime": self.seconds, "refit_samples": self.num_recordings}


def is_refit_wanted(
    arguments: AudioTrainingArguments, data: DataArguments, recordings: Mapping[str, Dataset], is_final: bool = False
) -> bool:
    """
    Return whether there is a second phase. The final model of cross-validation has no validation split and none.

    Raises:
        UsageError: `refit` is `true`, but other options or the recordings do not allow it.
    """
    if arguments.refit == "false" or is_final:
        return False
    reason = None
    if data.streaming:
        reason = "does not work with --streaming: it needs all training recordings"
    elif "validation" not in recordings:
        reason = "needs validation recordings, but there are none"
    elif arguments.fsdp or arguments.deepspeed:
        reason = "does not work with --fsdp or --deepspeed: it needs all weights in one process"
    elif arguments.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        reason = f"does not work with --lr_scheduler_type {arguments.lr_scheduler_type.value}, which needs evaluations"
    if arguments.refit == "auto":
        return reason is None and len(recordings["train"]) < FEW_RECORDINGS
    if reason:
        raise UsageError(f"--refit true {reason}. Leave it out.")
    return True


def first_phase(arguments: AudioTrainingArguments) -> AudioTrainingArguments:
    """Return a copy of the options for the first phase of a training with refit."""
    arguments = copy.copy(arguments)
    if arguments.max_minutes:
        arguments.max_minutes *= FIRST_PART[arguments.refit_from]
    if arguments.save_total_limit == 1:
        # With a limit of 1, Trainer deletes the last checkpoint at the end, and resuming would repeat the first phase.
        arguments.save_total_limit = 2
    return arguments


def refit(
    trainer: AudioClassificationTrainer,
    make_trainer: TrainerMaker,
    recordings: DatasetDict,
    arguments: AudioTrainingArguments,
    cause: Mapping[str, object],
    gibibytes: float = 0.0,
) -> Refit:
    """
    Train on the training and validation recordings together, and copy the weights to the model of the first phase.

    An interrupted second phase is resumed if the first phase ended in the same way.

    Args:
        trainer: Trainer of the finished first phase.
        make_trainer: Makes a trainer, with a model in its initial weights, from recordings and options.
        recordings: Has the splits `train` and `validation`. Clips that were added to them are also used.
        arguments: Options of the whole training.
        cause: Everything else that determines the weights, such as options and a hash of the recordings. If it has
            changed, an interrupted second phase is not resumed.
        gibibytes: Largest amount of decoded audio to keep; see [`keep_decoded`].

    Returns:
        Facts about the second phase.

    Raises:
        TrainingTerminated: SIGTERM ended the training; a checkpoint was saved.
    """
    folder = Path(arguments.output_dir) / REFIT_FOLDER
    joined = join_splits(recordings)
    cause = json.loads(json.dumps(cause, default=str))
    plan = make_plan(trainer.state, arguments, cause, find_callback(trainer, TrainingClock).total())
    plan = _agree_on_plan(folder, plan, arguments)
    num_own = sum(len(dataset) for split, dataset in without_added(recordings).items() if split != "test")
    second = make_trainer(DatasetDict(train=joined), second_phase(arguments, plan))
    if arguments.refit_from == "trained":
        second.model.load_state_dict(trainer.model.state_dict())
    checkpoint = find_last_checkpoint(folder)
    if trainer.is_world_process_zero():
        if plan["minutes"]:
            length = f"{plan['minutes']:.3g} min"
        else:
            # The time of the first training, for other numbers of epochs and clips.
            part = plan["epochs"] / trainer.state.epoch * len(joined) / len(recordings["train"])
            about = format_duration(part * find_callback(trainer, TrainingClock).total())
            length = f"{format_count(plan['epochs'], 'epoch')}, about {about}"
        print(
            f"Refit: second training, on {num_own:,} recordings (training and validation together); {length}",
            file=sys.stderr,
        )
    with keep_decoded({"train": second.train_dataset}, Path(arguments.output_dir), gibibytes, second.args):
        second.train(resume_from_checkpoint=checkpoint)
    check_terminated(second, Path(arguments.output_dir))
    trainer.model.load_state_dict(second.model.state_dict())
    seconds = find_callback(second, TrainingClock).total()
    return Refit(num_own, float(second.state.epoch), seconds, starts_from=arguments.refit_from)


def join_splits(recordings: Mapping[str, Dataset]) -> Dataset:
    """Return the training and the validation split as one dataset."""
    return concatenate_datasets([recordings["train"], recordings["validation"]])


def make_plan(
    state: TrainerState, arguments: AudioTrainingArguments, cause: Mapping[str, object], seconds: float
) -> dict[str, object]:
    """
    Return the length of the second phase (`epochs`, or `minutes` with a time limit) and everything that determines it.

    Args:
        state: State of the trainer at the end of the first phase.
        arguments: Options of the whole training.
        cause: As in [`refit`].
        seconds: Duration of the first phase.
    """
    is_chosen = arguments.load_best_model_at_end and state.best_model_checkpoint and state.best_global_step
    step = state.best_global_step if is_chosen else state.global_step
    epochs = next(
        (entry["epoch"] for entry in state.log_history if entry.get("step") == step and "epoch" in entry), state.epoch
    )
    # With few validation recordings or equal results, the best epoch may be an early one by chance.
    epochs = max(epochs, MIN_PART * state.epoch)
    if arguments.refit_from == "trained":
        epochs *= CONTINUED_PART
    epochs = math.ceil(epochs - 1e-6)
    minutes = None
    if arguments.max_minutes:
        part = 1 - FIRST_PART[arguments.refit_from]
        # The second phase gets the remaining time, but at least half of its planned part.
        minutes = max(arguments.max_minutes - seconds / 60, 0.5 * part * arguments.max_minutes)
    return {"epochs": epochs, "minutes": minutes, "cause": {"step": step, **cause}}


def second_phase(arguments: AudioTrainingArguments, plan: Mapping[str, object]) -> AudioTrainingArguments:
    """Return a copy of the options for the second phase of a training with refit."""
    arguments = without_evaluation(arguments)
    arguments.output_dir = str(Path(arguments.output_dir) / REFIT_FOLDER)
    arguments.push_to_hub, arguments.save_total_limit = False, 1
    if arguments.run_name is not None:
        arguments.run_name = f"{arguments.run_name}-refit"
    if plan["minutes"]:
        arguments.max_minutes = plan["minutes"]
    else:
        arguments.max_steps, arguments.num_train_epochs = -1, plan["epochs"]
    if arguments.refit_from == "trained":
        arguments.learning_rate *= CONTINUED_PART
        if arguments.head_learning_rate is not None:
            arguments.head_learning_rate *= CONTINUED_PART
    return arguments


def _agree_on_plan(folder: Path, plan: dict[str, object], arguments: TrainingArguments) -> dict[str, object]:
    """Return the plan of an interrupted second phase if it still applies. Otherwise delete its checkpoints."""
    with arguments.main_process_first(local=False, desc="planning the second phase"):
        old = read_file(folder / PLAN_FILE)
        if old.get("cause") == plan["cause"]:
            # The measured duration of the first phase grows slightly with each resumption, so keep the old plan.
            return old
        if arguments.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with write_atomically(folder / PLAN_FILE) as file:
                file.write(json.dumps(plan, indent=2).encode())
    return plan


def find_callback(trainer: AudioClassificationTrainer, kind: type) -> TrainerCallback:
    """Return the trainer's callback of a class."""
    # Resuming replaces the callback with another one that has the checkpoint's state.
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind))


def check_terminated(trainer: AudioClassificationTrainer, output_dir: Path) -> None:
    """
    Check whether SIGTERM has ended the training.

    Raises:
        TrainingTerminated: It has.
    """
    if not find_callback(trainer, CheckpointOnSIGTERM).is_terminated:
        return
    then = "Run the same command again to resume"
    if trainer.args.save_only_model:
        then = "With --save_only_model true, training cannot resume from it"
    about = "about " if trainer.time_limit is not None else ""
    raise TrainingTerminated(
        f"SIGTERM ended the training after step {trainer.state.global_step} of {about}{trainer.state.max_steps}. A "
        f"checkpoint is in {output_dir}. {then}."
    )
