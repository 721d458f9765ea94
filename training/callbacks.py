# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Callbacks of a training: the mean of the last epochs' weights, SIGTERM, a table of evaluations, the time."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState


class WeightAverage(TrainerCallback):
    """
    Mean of the weights at the ends of the last epochs of a training.

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.

    Args:
        num_epochs: Epochs that count; with 1 there is no mean. Until they begin there is none either.
        estimate_batch_norm: Sets the statistics that the model's BatchNorm layers have with its weights.
    """

    def __init__(self, num_epochs: int, estimate_batch_norm: Callable[[], None]):
        self.num_epochs = num_epochs
        self.estimate_batch_norm = estimate_batch_norm
        self.weights: dict[str, torch.Tensor] | None = None
        self._is_estimated = False

    def resume(self, weights: dict[str, torch.Tensor]) -> None:
        """Go on from a mean that a checkpoint holds."""
        self.weights, self._is_estimated = _copy(weights), False

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        number = round(state.epoch) - max(0, state.num_train_epochs - self.num_epochs)
        if self.num_epochs == 1 or number < 1:
            return
        if self.weights is None:
            self.weights = _copy(model.state_dict())
        for name, weight in model.state_dict().items():
            if weight.is_floating_point():
                self.weights[name].lerp_(weight, 1 / number)
            else:
                self.weights[name].copy_(weight)
        self._is_estimated = False

    def on_train_end(self, args, state, control, model=None, **kwargs):
        # Otherwise the model is that of the best checkpoint, which is an average already.
        if self.weights is not None and not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._load(model)
        self.weights = None

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[dict[str, torch.Tensor] | None]:
        """The model with the mean as its weights; gives a copy of its own, or None where there is no mean."""
        if self.weights is None:
            yield None
            return
        training_weights = _copy(model.state_dict())
        self._load(model)
        try:
            yield training_weights
        finally:
            model.load_state_dict(training_weights)

    def _load(self, model: nn.Module) -> None:
        model.load_state_dict(self.weights)
        if not self._is_estimated:
            self.estimate_batch_norm()
            self.weights, self._is_estimated = _copy(model.state_dict()), True


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


class EvaluationTable(ProgressCallback):
    """A progress bar of the steps and a line of results for each evaluation."""

    COLUMNS = (("mAP", "mAP"), ("accuracy", "accuracy"), ("macro_f1", "macro F1"))

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.columns = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Without the dictionaries that the base class prints."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if not state.is_world_process_zero or self.training_bar is None or "eval_loss" not in metrics:
            return
        if self.columns is None:
            self.columns = [(f"eval_{name}", title) for name, title in self.COLUMNS if f"eval_{name}" in metrics]
            titles = "".join(f"{title:>10}" for _, title in self.columns)
            self.training_bar.write(f"{'epoch':>8}{'loss':>10}{'validation loss':>18}{titles}")
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f"{losses[-1]:.4f}" if losses else "-"
        values = "".join(f"{metrics[name]:10.3f}" for name, _ in self.columns)
        self.training_bar.write(f"{state.epoch:8.1f}{loss:>10}{metrics['eval_loss']:18.4f}{values}")


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds of training, over all resumptions; `Trainer` itself counts from the last one."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.started: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self.started = self.total(), None

    def total(self) -> float:
        return self.seconds + (0.0 if self.started is None else time.monotonic() - self.started)

    def state(self) -> dict:
        return {"args": {"seconds": self.total()}, "attributes": {}}


def _is_whole(epoch: float) -> bool:
    return abs(epoch - round(epoch)) < 1e-9


def _copy(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}
