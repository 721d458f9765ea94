# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training on the training and validation recordings together, `--refit`, once all is chosen on the latter.

The first phase is a training as without refit. The second one trains for as many epochs as the first took up to its
best one (at least half of all), or for the time that is left, without evaluations. Its checkpoints are in a folder of
their own.
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
from sanet_hf.utils.formatting import format_duration


PLAN_FILE = "plan.json"
# Part of --max_minutes that the first phase has.
FIRST_PART = {"scratch": 0.4, "trained": 0.8}
# Where the second phase continues from the weights of the first: parts of its epochs and of its learning rate.
CONTINUED_PART = 0.25
# Part of the first phase's epochs that the second has at least.
MIN_PART = 0.5
TrainerMaker = Callable[[DatasetDict, AudioTrainingArguments], AudioClassificationTrainer]


class Refit(NamedTuple):
    """What the second phase did. It starts from `scratch` or `trained` weights, or fits the `head` alone."""

    num_recordings: int
    num_epochs: float
    seconds: float
    starts_from: str

    def __str__(self) -> str:
        if self.starts_from == "head":
            return (
                f"After all was chosen on validation, the head was fitted to {self.num_recordings:,} training and "
                "validation recordings together. Results on validation are those before."
            )
        start = "the initial weights" if self.starts_from == "scratch" else "the weights of the first training"
        return (
            f"After all was chosen on validation, trained from {start} on {self.num_recordings:,} training and "
            f"validation recordings together ({format_duration(self.seconds)}, {self.num_epochs:.4g} epochs). Results "
            "on validation are those before."
        )

    @property
    def metrics(self) -> dict[str, float]:
        return {"refit_epochs": self.num_epochs, "refit_runtime": self.seconds, "refit_samples": self.num_recordings}


def is_refit_wanted(
    arguments: AudioTrainingArguments, data: DataArguments, recordings: Mapping[str, Dataset], is_final: bool = False
) -> bool:
    """
    Return whether there is a second phase: not in the final model of cross-validation, which has no validation split.

    Raises:
        UsageError: It is asked for, but other options or the recordings do not allow it.
    """
    if arguments.refit == "false" or is_final:
        return False
    reason = None
    if data.streaming:
        reason = "needs all training recordings at hand, which --streaming does not have"
    elif "validation" not in recordings:
        reason = "trains on the validation recordings as well, and there are none"
    elif arguments.fsdp or arguments.deepspeed:
        reason = "needs all weights in one place, which --fsdp and --deepspeed divide"
    elif arguments.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        reason = f"has no evaluations, which --lr_scheduler_type {arguments.lr_scheduler_type.value} follows"
    if arguments.refit == "auto":
        return reason is None and len(recordings["train"]) < FEW_RECORDINGS
    if reason:
        raise UsageError(f"--refit true {reason}. Leave one of them out.")
    return True


def first_phase(arguments: AudioTrainingArguments) -> AudioTrainingArguments:
    """Copy options of a training with a second phase: those of the first one."""
    arguments = copy.copy(arguments)
    if arguments.max_minutes:
        arguments.max_minutes *= FIRST_PART[arguments.refit_from]
    if arguments.save_total_limit == 1:
        # Trainer would delete the last checkpoint at the end, so that an interrupted second phase repeated the first.
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
    Train on the training and validation recordings together, and give the weights to the model of the first phase.

    An interrupted one is resumed, if the first phase ended in the same way.

    Args:
        trainer: Of the first phase, which has ended.
        make_trainer: Makes a trainer with a model in its initial weights from recordings and options.
        recordings: With the splits `train` and `validation`; clips that were added to them are trained on as well.
        arguments: Of the whole training.
        cause: What else decides on the weights, such as options and a hash of the recordings: where it differs from
            that of an interrupted second phase, that one is not resumed.
        gibibytes: Most decoded audio that may be kept; see [`keep_decoded`].

    Raises:
        TrainingTerminated: SIGTERM came; a checkpoint was saved.
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
        length = f"{plan['minutes']:.3g} min" if plan["minutes"] else f"{plan['epochs']:.4g} epochs"
        print(f"Refit: {num_own} recordings, training and validation together; {length}", file=sys.stderr)
    with keep_decoded({"train": second.train_dataset}, Path(arguments.output_dir), gibibytes, second.args):
        second.train(resume_from_checkpoint=checkpoint)
    check_terminated(second, Path(arguments.output_dir))
    trainer.model.load_state_dict(second.model.state_dict())
    seconds = find_callback(second, TrainingClock).total()
    return Refit(num_own, float(second.state.epoch), seconds, starts_from=arguments.refit_from)


def join_splits(recordings: Mapping[str, Dataset]) -> Dataset:
    """Return what the second phase trains on: the training and the validation split together."""
    return concatenate_datasets([recordings["train"], recordings["validation"]])


def make_plan(
    state: TrainerState, arguments: AudioTrainingArguments, cause: Mapping[str, object], seconds: float
) -> dict[str, object]:
    """
    Return how long the second phase is (`epochs`, or `minutes` where the time is limited), and what this follows from.

    Args:
        state: Of the trainer at the end of the first phase.
        arguments: Of the whole training.
        cause: What else decides on the weights.
        seconds: Duration of the first phase.
    """
    is_chosen = arguments.load_best_model_at_end and state.best_model_checkpoint and state.best_global_step
    step = state.best_global_step if is_chosen else state.global_step
    epochs = next(
        (entry["epoch"] for entry in state.log_history if entry.get("step") == step and "epoch" in entry), state.epoch
    )
    # Of few validation recordings, or equal results, an epoch is chosen by chance.
    epochs = max(epochs, MIN_PART * state.epoch)
    if arguments.refit_from == "trained":
        epochs *= CONTINUED_PART
    epochs = math.ceil(epochs - 1e-6)
    minutes = None
    if arguments.max_minutes:
        part = 1 - FIRST_PART[arguments.refit_from]
        # Where the first phase ended early, the second one has its time; where late, not less than half of its own.
        minutes = max(arguments.max_minutes - seconds / 60, 0.5 * part * arguments.max_minutes)
    return {"epochs": epochs, "minutes": minutes, "cause": {"step": step, **cause}}


def second_phase(arguments: AudioTrainingArguments, plan: Mapping[str, object]) -> AudioTrainingArguments:
    """Copy options of a training with a second phase: those of the second one."""
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
    """Return the plan of a second phase that was interrupted, if it is the same; otherwise delete its checkpoints."""
    with arguments.main_process_first(local=False, desc="planning the second phase"):
        old = read_file(folder / PLAN_FILE)
        if old.get("cause") == plan["cause"]:
            # The duration of the first phase is a little longer after each resumption.
            return old
        if arguments.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with write_atomically(folder / PLAN_FILE) as file:
                file.write(json.dumps(plan, indent=2).encode())
    return plan


def find_callback(trainer: AudioClassificationTrainer, kind: type) -> TrainerCallback:
    """Return the trainer's callback of a class."""
    # Resuming puts another one, with the checkpoint's state, in the place of the first.
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind))


def check_terminated(trainer: AudioClassificationTrainer, output_dir: Path) -> None:
    """
    Raises:
        TrainingTerminated: SIGTERM ended the training.
    """
    if not find_callback(trainer, CheckpointOnSIGTERM).is_terminated:
        return
    then = "the same command resumes from it"
    if trainer.args.save_only_model:
        then = "with --save_only_model true, training cannot resume from it"
    about = "about " if trainer.time_limit is not None else ""
    raise TrainingTerminated(
        f"Ended by SIGTERM after step {trainer.state.global_step} of {about}{trainer.state.max_steps}. A checkpoint "
        f"is in {output_dir}: {then}."
    )
