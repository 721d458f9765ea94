# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training for a given time (`--max_minutes`): the learning rate, evaluations and checkpoints follow the clock.

The clock starts with the first epoch and is stored in checkpoints, so that a resumed training has the remaining time.
Steps, evaluations and checkpoints count. Reading recordings before training and the final evaluation do not count. The
learning rate is computed from the elapsed time at every step. If the schedule used an estimated number of steps, it
would end too early or too late when other programs start or stop using the CPU.
"""

import copy
import math
import time
from collections.abc import Callable, Collection, Mapping

import torch
from torch import distributed
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm.auto import tqdm
from transformers import IntervalStrategy, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from sanet_hf.errors import UsageError
from sanet_hf.training.callbacks import EvaluationTable, new_cpu_group
from sanet_hf.utils.formatting import format_duration


logger = logging.get_logger(__name__)

# Number of steps for `Trainer`, which needs one, if only the time limits the training.
UNLIMITED_STEPS = 10_000_000
# Steps of the schedule, which are mapped to the time.
SCHEDULE_STEPS = 10_000
NUM_LOGS = 100
SECONDS_BETWEEN_CHECKPOINTS = 180.0
# Training takes at least this many times as long as the evaluations in between.
MIN_TRAINING_PER_EVALUATION = 5
read_clock = time.monotonic


class TimeLimit(TrainerCallback):
    """
    End training after a given time. Spread the evaluations, checkpoints and logs evenly over this time if their
    strategy (`--eval_strategy`, `--save_strategy`, `--logging_strategy`) is `epoch`. With `steps`, the steps count.

    With several processes, the clock of the first one counts.

    Args:
        seconds: Time of the training, including the time before resuming.
        num_evaluations: Largest number of evaluations.
        is_stream: Whether the training reads a stream. The length of an epoch is then not known, and the finished
            fraction of the training is reported as the epoch.

    Attributes:
        elapsed: Seconds of training up to the last step.
        progress: Finished fraction of the training, from 0 to 1: of the time or, if `num_train_epochs` or `max_steps`
            is also given, of the steps, whichever is larger.
    """

    def __init__(self, seconds: float, num_evaluations: int, is_stream: bool = False):
        self.seconds, self.num_evaluations, self.is_stream = seconds, num_evaluations, is_stream
        self.elapsed = self.progress = 0.0
        self._earlier = self._started = self._begun = 0.0
        self._max_steps = UNLIMITED_STEPS
        # Seconds of the last step and of the last evaluation (of the last checkpoint if there are no evaluations).
        self._step, self._event = 0.0, 0.0
        self._event_started: float | None = None
        self._last: dict[str, float] = {}
        self._cpu_group: distributed.ProcessGroup | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._cpu_group = new_cpu_group()
        self._earlier, self._started, self._max_steps = find_seconds(state), read_clock(), state.max_steps
        self._event_started = None
        self._read(args, state.global_step)
        self._last = dict.fromkeys(("evaluate", "save", "log"), self.elapsed)

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun = read_clock()
        if self._event_started is not None:
            self._event, self._event_started = self._begun - self._event_started, None

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Update the progress before the scheduler sets the learning rate of the next step."""
        self._step = read_clock() - self._begun
        self._read(args, state.global_step + 1)

    def _read(self, args, num_steps: int) -> None:
        self.elapsed = self._earlier + read_clock() - self._started
        if args.world_size > 1:
            times = torch.tensor([self.elapsed, self._step, self._event], dtype=torch.float64)
            distributed.broadcast(times, 0, group=self._cpu_group)
            self.elapsed, self._step, self._event = times.tolist()
        self.progress = min(1.0, max(self.elapsed / self._end, num_steps / self._max_steps))

    @property
    def _end(self) -> float:
        """Return the time of the last step in seconds. It leaves time for one more evaluation."""
        return max(self.seconds - self._event, 0.5 * self.seconds)

    def on_step_end(self, args, state, control, **kwargs):
        # Stop now if another step would end further from the limit.
        is_over = self.progress >= 1 or self.elapsed + self._step / 2 >= self._end
        for name, strategy, steps in _list_strategies(args):
            if strategy == IntervalStrategy.NO or strategy == SaveStrategy.BEST:
                continue
            if strategy == IntervalStrategy.EPOCH or (steps or 1) < 1:
                setattr(control, f"should_{name}", self._is_due(name, steps if strategy != "epoch" else None))
            if is_over:
                setattr(control, f"should_{name}", True)
        if args.eval_delay > (state.epoch if args.eval_strategy == IntervalStrategy.EPOCH else state.global_step):
            control.should_evaluate = False
        if control.should_evaluate:
            # An evaluation needs a checkpoint, which may be the best, and a log, whose loss is in the table.
            control.should_save = control.should_save or args.save_strategy == IntervalStrategy.EPOCH
            control.should_log = control.should_log or args.logging_strategy == IntervalStrategy.EPOCH
        self._last.update((name, self.elapsed) for name in self._last if getattr(control, f"should_{name}"))
        if control.should_evaluate or (control.should_save and args.eval_strategy == IntervalStrategy.NO):
            self._event_started = read_clock()
        if self.is_stream:
            state.epoch = 1.0 if is_over else self.progress
        if is_over:
            control.should_training_stop = True
            self.progress = 1.0
            state.max_steps, state.num_train_epochs = state.global_step, math.ceil(state.epoch - 1e-9)
        else:
            # An estimate that the next step does not reach, because Trainer would stop there.
            state.max_steps = max(state.global_step + 2, round(state.global_step / max(self.progress, 1e-6)))

    def _is_due(self, name: str, part: float | None) -> bool:
        interval = self.seconds * (part or 1 / (NUM_LOGS if name == "log" else self.num_evaluations))
        if name == "save" and part is None:
            interval = min(interval, SECONDS_BETWEEN_CHECKPOINTS)
        if name != "log":
            # With averaged weights, a checkpoint takes time: it reads training clips for the BatchNorm statistics.
            interval = max(interval, (1 + MIN_TRAINING_PER_EVALUATION) * self._event)
        if name == "evaluate" and self.elapsed + interval / 2 > self._end:
            # The last evaluation is at the end.
            return False
        return self.elapsed - self._last[name] >= interval

    def on_epoch_end(self, args, state, control, **kwargs):
        """Cancel what `Trainer` does at the end of each epoch, unless it is due."""
        for name, strategy, _ in _list_strategies(args):
            if strategy == IntervalStrategy.EPOCH:
                setattr(control, f"should_{name}", False)


def _list_strategies(args: TrainingArguments) -> list[tuple[str, str, float | None]]:
    """Return the name, strategy and number of steps of evaluations, checkpoints and logs."""
    return [
        ("evaluate", args.eval_strategy, args.eval_steps),
        ("save", args.save_strategy, args.save_steps),
        ("log", args.logging_strategy, args.logging_steps),
    ]


class TimedTable(EvaluationTable):
    """[`EvaluationTable`] with a progress bar of the remaining time."""

    def __init__(self, limit: TimeLimit):
        super().__init__()
        self.limit = limit

    def on_train_begin(self, args, state, control, **kwargs):
        # The bar of the base class would show a number of steps that is not known.
        self.columns = None
        if state.is_world_process_zero:
            form = "{percentage:3.0f}%|{bar}| {desc}"
            self.training_bar = tqdm(total=self.limit.seconds, bar_format=form, dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            left = format_duration(max(0.0, self.limit.seconds - self.limit.elapsed))
            text = f"step {state.global_step}, epoch {state.epoch:.1f}, {left} left"
            self.training_bar.set_description_str(text, refresh=False)
            self.training_bar.update(min(self.limit.elapsed, self.limit.seconds) - self.training_bar.n)


def find_seconds(state: TrainerState) -> float:
    """Return the seconds of training up to a checkpoint, from the state of [`TrainingClock`] in it."""
    return float(_saved_clock(state).get("args", {}).get("seconds", 0.0))


def has_ended(state: TrainerState, seconds: float) -> bool:
    """Return whether a training with this limit has already ended at a checkpoint."""
    limit = _saved_clock(state).get("attributes", {}).get("limit")
    return limit == seconds and state.global_step >= state.max_steps


def _saved_clock(state: TrainerState) -> dict:
    saved = state.stateful_callbacks.get("TrainingClock")
    return saved if isinstance(saved, dict) else {}


def follow_time(scheduler: LRScheduler, limit: TimeLimit) -> LRScheduler:
    """
    Make a scheduler for `SCHEDULE_STEPS` steps follow the progress of the training instead. Return it. A scheduler
    without a formula, such as `reduce_lr_on_plateau`, is not changed.
    """
    if isinstance(scheduler, LambdaLR):
        scheduler.lr_lambdas = [_stretch(factor, limit) for factor in scheduler.lr_lambdas]
    return scheduler


def _stretch(factor: Callable[[int], float], limit: TimeLimit) -> Callable[[int], float]:
    return lambda step: factor(round(limit.progress * SCHEDULE_STEPS))


def limit_steps(arguments: TrainingArguments, is_stream: bool = False) -> TrainingArguments:
    """
    Return a copy of the options with a number of steps, which `Trainer` needs, if `max_minutes` is given. With a
    stream, the number of epochs does not limit the training.

    Raises:
        UsageError: An option needs the number of steps or epochs, which is not known beforehand.
    """
    if not arguments.max_minutes:
        return arguments
    if arguments.averaged_epochs > 1:
        raise UsageError(
            "--averaged_epochs does not work with --max_minutes: the last epoch is not known beforehand. Use "
            "--averaged_fraction instead, a fraction of the training such as 0.3."
        )
    if arguments.warmup_steps >= 1:
        raise UsageError(
            f"--warmup_steps {arguments.warmup_steps:g} does not work with --max_minutes: the number of steps is not "
            "known beforehand. Use a fraction of the training such as 0.1."
        )
    counted = [name for name in arguments.lr_scheduler_kwargs or {} if name.endswith("_steps") or name == "timescale"]
    if counted:
        raise UsageError(
            f"--lr_scheduler_kwargs {counted[0]} does not work with --max_minutes: the number of steps is not known "
            "beforehand. Leave one out."
        )
    arguments = copy.copy(arguments)
    if arguments.max_steps <= 0 and (is_stream or math.isinf(arguments.num_train_epochs)):
        arguments.max_steps = UNLIMITED_STEPS
    return arguments


def without_epochs(
    values: Mapping[str, object], given: Collection[str], given_in_files: Collection[str]
) -> dict[str, object]:
    """
    Return the options of a shipped configuration that `--max_minutes` replaces: the number of epochs, and
    `averaged_epochs`, which becomes a fraction.

    Args:
        values: All options of `sanet train`.
        given: Names of the options on the command line.
        given_in_files: Names of the options in the user's YAML files.

    Returns:
        Options to override.
    """
    epochs, averaged, fraction = (
        values[name] for name in ("num_train_epochs", "averaged_epochs", "averaged_fraction")
    )
    changes: dict[str, object] = {}
    if averaged > 1 and fraction > 0:
        # Flags have priority over files.
        of_flags = [name for name in ("averaged_epochs", "averaged_fraction") if name in given]
        if len(of_flags) != 1:
            raise UsageError("--averaged_epochs and --averaged_fraction do not work together. Leave one out.")
        changes |= {"averaged_fraction": 0.0} if of_flags == ["averaged_epochs"] else {"averaged_epochs": 1}
        averaged, fraction = changes.get("averaged_epochs", averaged), changes.get("averaged_fraction", fraction)
    if not values["max_minutes"]:
        return changes
    if averaged > 1 and "averaged_epochs" not in given:
        changes |= {"averaged_epochs": 1, "averaged_fraction": round(min(1.0, averaged / max(epochs, 1)), 3)}
    if values["max_steps"] <= 0 and "num_train_epochs" not in {*given, *given_in_files}:
        changes["num_train_epochs"] = math.inf
    return changes
