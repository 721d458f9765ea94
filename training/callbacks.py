# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Callbacks of training: weight averaging, files of the run, resuming, SIGTERM, the table of evaluations, the time."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
import transformers
import yaml
from torch import distributed, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from transformers import ProgressCallback, TrainerCallback, TrainerState

# Documented, although transformers does not export it: saves the state of a callback in checkpoints.
from transformers.trainer_callback import ExportableState

from sanet_hf.training.checkpoints import TRAINING_WEIGHTS_FILE
from sanet_hf.training.evaluation.metric_names import METRICS
from sanet_hf.utils.files import write_atomically


# Key in the metadata of a checkpoint's training weights.
NUM_AVERAGED = "num_averaged"


class WeightAverage(TrainerCallback):
    """
    Average the weights at the ends of the last epochs of a training.

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.

    Args:
        num_epochs: Number of last epochs to average. 1: no average. Before these epochs there is no average either.
        estimate_batch_norm: Recomputes the statistics of the model's BatchNorm layers for its current weights.
        fraction: Average over this last fraction of the training instead, sampled after each hundredth of it.
        find_progress: Returns the finished fraction of the training, from 0 to 1 (default: of its steps).
    """

    def __init__(
        self,
        num_epochs: int,
        estimate_batch_norm: Callable[[], None],
        fraction: float = 0.0,
        find_progress: Callable[[TrainerState], float] | None = None,
    ):
        self.num_epochs, self.fraction = num_epochs, fraction
        self.estimate_batch_norm = estimate_batch_norm
        self.find_progress = find_progress or (lambda state: state.global_step / state.max_steps)
        self._progress = 0.0
        self.checkpoint: str | Path | None = None  # to resume from
        self.average: AveragedModel | None = None
        self._is_estimated = False

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        # Trainer has loaded the checkpoint's model, which is the average.
        path = None if self.checkpoint is None else Path(self.checkpoint, TRAINING_WEIGHTS_FILE)
        if path is not None and path.is_file():
            self.average, self._is_estimated = AveragedModel(model), False
            model.load_state_dict(safetensors.torch.load_file(path))
            with safetensors.safe_open(path, "pt") as file:
                self.average.n_averaged.fill_(int((file.metadata() or {}).get(NUM_AVERAGED, 1)))
        if self.fraction:
            self._progress = self.find_progress(state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        before, self._progress = self._progress, self.find_progress(state)
        has_begun = self._progress >= 1 - self.fraction - 1e-9
        if not self.fraction or not has_begun or int(100 * self._progress) == int(100 * before):
            return
        if self.average is None:
            self.average = AveragedModel(model)
        self.average.update_parameters(model)
        self._is_estimated = False

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        number = round(state.epoch) - max(0, state.num_train_epochs - self.num_epochs)
        if self.num_epochs == 1 or number < 1:
            return
        if self.average is None:
            self.average = AveragedModel(model)
        # Checkpoints of earlier versions lack this number.
        self.average.n_averaged.fill_(number - 1)
        self.average.update_parameters(model)
        self._is_estimated = False

    def on_train_end(self, args, state, control, model=None, **kwargs):
        # The model of the best checkpoint is already an average.
        if self.average is not None and not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._load(model)
        self.average = None

    @property
    def metadata(self) -> dict[str, str]:
        """Return metadata for the file of the training weights: the number of averaged weights."""
        return {} if self.average is None else {NUM_AVERAGED: str(int(self.average.n_averaged))}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[dict[str, torch.Tensor] | None]:
        """Load the average into the model. Yield a copy of the model's own weights, or None without an average."""
        if self.average is None:
            yield None
            return
        training_weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self._load(model)
        try:
            yield training_weights
        finally:
            model.load_state_dict(training_weights)

    def _load(self, model: nn.Module) -> None:
        model.load_state_dict(self.average.module.state_dict())
        if not self._is_estimated:
            self.estimate_batch_norm()
            self.average.module.load_state_dict(model.state_dict())
            self._is_estimated = True


class RunFiles(TrainerCallback):
    """
    Write the files that describe a run when its training begins. If a checkpoint cannot be resumed, they are not
    changed.

    Args:
        files: Path of each YAML or JSON file, with its content.
        outdated: File with the results of an earlier training. It is deleted, so that the run counts as unfinished.
    """

    def __init__(self, files: Mapping[Path, Mapping[str, object]], outdated: Path):
        self.files, self.outdated = files, outdated

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.write()

    def write(self) -> None:
        self.outdated.unlink(missing_ok=True)
        for path, values in self.files.items():
            with write_atomically(path) as file:
                if path.suffix == ".json":
                    file.write(json.dumps(values, indent=2, ensure_ascii=False).encode())
                else:
                    yaml.safe_dump(dict(values), file, sort_keys=False, allow_unicode=True, encoding="utf-8")


class OptionsOnResuming(TrainerCallback):
    """
    Replace values from a checkpoint with the current options: the steps between evaluations, checkpoints and logs, and
    the learning rates, weight decay and momentum of the optimizer.

    Attributes:
        groups: Initial options of each parameter group of the optimizer, without its parameters.
        is_resumed: Whether a checkpoint was loaded.
        has_begun: Whether the setup succeeded and training has begun.
    """

    # Not every optimizer has all of them.
    HYPERPARAMETERS = ("weight_decay", "betas", "eps", "momentum")

    def __init__(self):
        self.groups: list[dict[str, object]] = []
        self.is_resumed = self.has_begun = False

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        self.has_begun = True
        if not self.is_resumed:
            return
        state.compute_steps(args, state.max_steps)
        # DeepSpeed has its own optimizers.
        if args.deepspeed or optimizer is None or len(optimizer.param_groups) != len(self.groups):
            return
        for group, new in zip(optimizer.param_groups, self.groups):
            group.update({name: new[name] for name in self.HYPERPARAMETERS if name in new and name in group})
        if isinstance(lr_scheduler, LambdaLR):
            lr_scheduler.base_lrs = [group["lr"] for group in self.groups]
            rates = [
                rate * factor(lr_scheduler.last_epoch)
                for rate, factor in zip(lr_scheduler.base_lrs, lr_scheduler.lr_lambdas)
            ]
            for group, first, rate in zip(optimizer.param_groups, lr_scheduler.base_lrs, rates):
                group["initial_lr"], group["lr"] = first, rate
            lr_scheduler._last_lr = rates


class EarlyStoppingCallback(transformers.EarlyStoppingCallback):
    """
    Stop early with the current patience, not that of the checkpoint. Checkpoints store the state by the class name, so
    it is the same as in transformers.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience = args.early_stopping_patience

    @staticmethod
    def has_stopped(state: TrainerState, patience: int | None) -> bool:
        """Return whether early stopping had already ended the training in a checkpoint's state."""
        saved = state.stateful_callbacks.get("EarlyStoppingCallback", {})
        if patience is None or not isinstance(saved, dict):
            return False
        return saved.get("attributes", {}).get("early_stopping_patience_counter", 0) >= patience


class CheckpointOnSIGTERM(TrainerCallback):
    """
    End training after the current step when SIGTERM arrives, and save a checkpoint. `Trainer.train` then returns as
    usual, and `is_terminated` is true.

    `TrainingArguments.enable_jit_checkpoint` does less. Its checkpoint at the last step of an epoch lacks the
    evaluation of that epoch, and with several processes, each may stop at a different step.
    """

    def __init__(self):
        self.is_terminated = False
        self._previous = None
        self._cpu_group = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._cpu_group = new_cpu_group()
        # Python delivers signals only to the main thread.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number, frame):
        self.is_terminated = True

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # Each process receives its own signal, perhaps in another step.
            flag = torch.tensor([self.is_terminated], dtype=torch.int32)
            distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._cpu_group)
            self.is_terminated = bool(flag)
        if self.is_terminated:
            # A checkpoint does not contain the running mean of the loss, so log it now.
            control.should_log = control.should_training_stop = True
            # At the end of an epoch, its evaluation comes first.
            control.should_save = not _is_whole(state.epoch)
            if args.save_total_limit == 1:
                # Otherwise Trainer deletes this checkpoint at the end of training, unless it is the best.
                args.save_total_limit = 2

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.is_terminated:
            control.should_save = _is_whole(state.epoch)
            control.should_evaluate = control.should_evaluate and _is_whole(state.epoch)

    def on_train_end(self, args, state, control, **kwargs):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


class EvaluationTable(ProgressCallback):
    """Show a progress bar of the steps, and print one line of results per evaluation."""

    COLUMNS = ("mAP", "accuracy", "macro_f1")

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.columns = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Do nothing: the base class prints dictionaries."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if not state.is_world_process_zero or self.training_bar is None or "eval_loss" not in metrics:
            return
        if self.columns is None:
            self.columns = [(f"eval_{name}", METRICS[name][0]) for name in self.COLUMNS if f"eval_{name}" in metrics]
            titles = "".join(f"{title:>10}" for _, title in self.columns)
            self.training_bar.write(f"{'epoch':>8}{'loss':>10}{'validation loss':>18}{titles}")
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f"{losses[-1]:.4f}" if losses else "-"
        values = "".join(f"{metrics[name]:10.3f}" for name, _ in self.columns)
        self.training_bar.write(f"{state.epoch:8.1f}{loss:>10}{metrics['eval_loss']:18.4f}{values}")


class TrainingClock(TrainerCallback, ExportableState):
    """
    Count the seconds of training, including those before resuming. `Trainer` counts only from the last start.

    Attributes:
        limit: Seconds after which `--max_minutes` ends the training, or None without this option.
    """

    def __init__(self, seconds: float = 0.0, limit: float | None = None):
        self.seconds, self.limit = seconds, limit
        self.started: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.monotonic()
        # The current option counts, not that of the checkpoint.
        minutes = getattr(args, "max_minutes", None)
        self.limit = None if minutes is None else 60 * minutes

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self.started = self.total(), None

    def total(self) -> float:
        return self.seconds + (0.0 if self.started is None else time.monotonic() - self.started)

    def state(self) -> dict:
        return {"args": {"seconds": self.total()}, "attributes": {"limit": self.limit}}


def _is_whole(epoch: float) -> bool:
    return abs(epoch - round(epoch)) < 1e-9


def new_cpu_group() -> distributed.ProcessGroup | None:
    """Return a group of all processes that does not wait for GPUs; None if the default group can be used."""
    if not distributed.is_initialized() or distributed.get_backend() == "gloo":
        return None
    return distributed.new_group(backend="gloo")
