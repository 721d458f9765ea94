# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`--max_minutes`: training for a given time, with a simulated clock."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import DefaultFlowCallback, TrainerControl, TrainerState, get_scheduler

from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.training import callbacks, time_limit
from sanet_hf.training.callbacks import TrainingClock, WeightAverage
from sanet_hf.training.options import changed_options
from sanet_hf.training.time_limit import (
    SCHEDULE_STEPS,
    UNLIMITED_STEPS,
    TimeLimit,
    follow_time,
    has_ended,
    limit_steps,
)
from sanet_hf.training.train import train


class Interrupted(BaseException):
    pass


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Return the clock that the callbacks read, in seconds. Each reading takes `per_reading`."""
    now = SimpleNamespace(value=0.0, per_reading=0.0)

    def read() -> float:
        now.value += now.per_reading
        return now.value

    monkeypatch.setattr(time_limit, "read_clock", read)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now.value))
    return now


ARGUMENTS = {
    "world_size": 1,
    **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch"),
    **dict.fromkeys(("eval_steps", "save_steps", "logging_steps"), 500),
    "eval_delay": 0,
    "logging_first_step": False,
}


def run(clock, limit, step_seconds, evaluation_seconds=0.0, steps_per_epoch=10, seconds=0.0, **options):
    """
    Call a limit as `Trainer` would, with steps of the given duration (a function of the time) and a cosine schedule.

    Returns:
        Times of evaluations and checkpoints, the learning rate of each step, and the final state.
    """
    arguments = SimpleNamespace(**{**ARGUMENTS, **options})
    state, control = TrainerState(max_steps=options.get("max_steps", UNLIMITED_STEPS)), TrainerControl()
    state.eval_steps = arguments.eval_steps if arguments.eval_steps >= 1 else UNLIMITED_STEPS
    state.stateful_callbacks = {"TrainingClock": TrainingClock(seconds).state()}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler("cosine", optimizer, SCHEDULE_STEPS // 10, SCHEDULE_STEPS)
    scheduler = follow_time(scheduler, limit)
    limit.on_train_begin(arguments, state, control)
    flow, evaluations, saves, rates = DefaultFlowCallback(), [], [], []
    while not control.should_training_stop:
        limit.on_step_begin(arguments, state, control)
        rates.append(optimizer.param_groups[0]["lr"])
        clock.value += step_seconds(clock.value)
        optimizer.step()
        limit.on_optimizer_step(arguments, state, control)
        scheduler.step()
        state.global_step += 1
        state.epoch = state.global_step / steps_per_epoch
        flow.on_step_end(arguments, state, control)
        limit.on_step_end(arguments, state, control)
        if control.should_evaluate:
            evaluations.append(clock.value)
            clock.value += evaluation_seconds
        if control.should_save:
            saves.append(clock.value)
        control.should_evaluate = control.should_save = control.should_log = False
    return SimpleNamespace(evaluations=evaluations, saves=saves, rates=rates, state=state)


@pytest.mark.parametrize(
    "step_seconds",
    [
        lambda now: 1.0,
        lambda now: 4.4 if 300 < now < 900 else 1.0,
        lambda now: 1.0 if now < 900 else 5.0,
        lambda _: 33,
    ],
    ids=["even", "busy in the middle", "busy in the end", "long steps"],
)
def test_training_takes_the_time_and_ends_with_a_low_rate(clock, step_seconds):
    result = run(clock, TimeLimit(1200, 20), step_seconds, evaluation_seconds=10)
    assert clock.value == pytest.approx(1200, abs=step_seconds(1199))
    assert max(result.rates) > 0.99 and result.rates[-1] < 0.02
    # The last evaluation is at the end, on the saved weights.
    assert 15 <= len(result.evaluations) <= 20 and result.evaluations[-1] == clock.value - 10
    assert max(b - a for a, b in zip([0, *result.saves], result.saves)) <= 180 + 33
    assert result.state.max_steps == result.state.global_step == len(result.rates)


def test_rate_follows_the_elapsed_time(clock):
    result = run(
        clock, TimeLimit(100, 1), lambda now: 1.0 if now < 50 else 5.0, eval_strategy="no", save_strategy="no"
    )
    times = [*range(51), *range(55, 100, 5)]
    expected = [t / 10 if t < 10 else 0.5 * (1 + math.cos(math.pi * (t - 10) / 90)) for t in times]
    assert result.rates == pytest.approx(expected, abs=1e-3)


def test_long_evaluations_are_less_frequent(clock):
    result = run(clock, TimeLimit(1200, 20), lambda _: 1.0, evaluation_seconds=60)
    assert len(result.evaluations) == 4 and clock.value == pytest.approx(1200, abs=2)


def test_evaluation_steps_of_the_user_apply(clock):
    """A fraction of the training is a fraction of the time."""
    steps = run(clock, TimeLimit(100, 20), lambda _: 1.0, eval_strategy="steps", eval_steps=7)
    assert len(steps.evaluations) == 100 // 7 + 1
    parts = run(clock, TimeLimit(100, 20), lambda _: 1.0, eval_strategy="steps", eval_steps=0.25)
    assert len(parts.evaluations) == 4


def test_max_steps_also_ends_the_schedule(clock):
    result = run(clock, TimeLimit(1000, 20), lambda _: 1.0, max_steps=50)
    assert len(result.rates) == 50 and result.rates[-1] < 0.02


def test_resuming_uses_the_remaining_time(clock):
    result = run(clock, TimeLimit(100, 20), lambda _: 1.0, seconds=70)
    assert len(result.rates) == 30 and result.rates[1] < 0.3
    state = result.state
    for limit, is_same in ((100, True), (200, False)):
        state.stateful_callbacks = {"TrainingClock": TrainingClock(100, limit=100).state()}
        assert has_ended(state, limit) is is_same
    state.max_steps += 1
    assert not has_ended(state, 100)


# Options

COMMAND = ["sanet.yaml", "--data_dir", "data", "--output_dir", "run", "--max_minutes", "5"]


@pytest.mark.parametrize(
    ("others", "epochs", "averaged"),
    [
        ([], math.inf, 0),
        (["--num_train_epochs", "3"], 3, 0),
        (["--averaged_fraction", "0.3"], math.inf, 0.3),
    ],
)
def test_epochs_of_the_configuration_are_no_limit(others, epochs, averaged):
    arguments = parse_train_arguments([*COMMAND, *others])[2]
    assert (arguments.num_train_epochs, arguments.averaged_fraction) == (epochs, averaged)
    assert limit_steps(arguments).max_steps == (UNLIMITED_STEPS if epochs == math.inf else -1)
    assert ("num_train_epochs" in changed_options(arguments)) is False  # 3 is the default


def test_averaged_epochs_of_the_configuration_become_a_fraction():
    arguments = parse_train_arguments(["sanet.yaml", "short_sounds.yaml", *COMMAND[1:]])[2]
    assert arguments.averaged_epochs == 1 and 0.1 < arguments.averaged_fraction < 0.9


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--averaged_epochs", "3"], "--averaged_fraction instead"),
        (["--averaged_epochs", "3", "--averaged_fraction", "0.3"], "do not work together"),
        (["--warmup_steps", "50"], "--warmup_steps 50 does not work with --max_minutes"),
        (["--lr_scheduler_kwargs", '{"num_decay_steps": 9}'], "num_decay_steps does not work with --max_minutes"),
        (["--max_minutes", "0"], "must be positive"),
    ],
)
def test_options_in_steps_or_epochs_are_refused(others, message):
    with pytest.raises(UsageError, match=message):
        limit_steps(parse_train_arguments([*COMMAND, *others])[2])


# Average of the last part


def test_last_part_of_the_training_is_averaged():
    """The average has one value per hundredth of the training, or per step if there are fewer."""
    for num_steps, last in ((10, [7, 8, 9, 10]), (400, list(range(280, 401, 4)))):
        average, model = WeightAverage(1, lambda: None, fraction=0.3), nn.Linear(1, 1)
        for step in range(1, num_steps + 1):
            model.weight.data.fill_(step)
            average.on_step_end(None, TrainerState(global_step=step, max_steps=num_steps), None, model=model)
        assert average.average.module.weight.item() == pytest.approx(sum(last) / len(last))
        assert average.metadata == {"num_averaged": str(len(last))}


# A whole training


def test_killed_training_resumes_with_the_remaining_time(few_tones, tiny_options, clock, tmp_path, monkeypatch):
    """The last part is averaged, and a refit on validation follows."""
    clock.per_reading = 1.0
    epochs = tiny_options.index("--num_train_epochs")
    options = [*tiny_options[:epochs], *tiny_options[epochs + 2 :], "--max_length_seconds", "0.2"]
    options = ["sanet.yaml", "--data_dir", str(few_tones), "--output_dir", str(tmp_path / "run"), *options]
    options += ["--max_minutes", "2.5", "--max_evaluations", "4", "--averaged_fraction", "0.5", "--refit", "true"]
    killed = []

    def kill(self, args, state, control, **kwargs):
        if state.global_step > 9:
            killed.extend((state.global_step, self.total()))
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingClock, "on_save", kill, raising=False)
        train(*parse_train_arguments(options))
    clock.value += 1000
    metrics = train(*parse_train_arguments(options))
    # The first phase gets 40 % of the time.
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    seconds = [entry["seconds"] for entry in state["log_history"]]
    assert seconds == sorted(seconds) and killed[1] < 50 < seconds[-1] <= 60 and state["global_step"] > killed[0]
    last = [entry for entry in state["log_history"] if "learning_rate" in entry][-1]
    assert last["progress"] == 1 and last["learning_rate"] < 1e-3 and state["max_steps"] == last["step"]
    assert 3 <= sum("eval_loss" in entry for entry in state["log_history"]) <= 5
    assert metrics["refit_runtime"] == pytest.approx(90, abs=8)
    assert metrics["train_runtime"] == pytest.approx(150, abs=12)
    assert metrics["train_samples_per_second"] < 10_000
    options_file = (tmp_path / "run" / "train_options.yaml").read_text(encoding="utf-8")
    assert "max_minutes: 2.5" in options_file and "num_train_epochs" not in options_file
    assert "(limit: 1.0 min)" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    path = next((tmp_path / "run" / "_refit").glob("checkpoint-*/training_weights.safetensors"))
    with safe_open(path, "pt") as file:
        assert int(file.metadata()["num_averaged"]) > 10
