# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`--refit`: a second training that also uses the validation split, after all choices on it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.modeling_sanet import SANetForAudioClassification
from sanet_hf.training import refit as refit_module
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.callbacks import TrainingClock
from sanet_hf.training.checkpoints import find_last_checkpoint
from sanet_hf.training.data.record import read_record
from sanet_hf.training.refit import first_phase, is_refit_wanted, make_plan, second_phase
from sanet_hf.training.run_folder import REFIT_FOLDER
from sanet_hf.training.train import train


SPLITS = ("train", "validation", "test")


class Interrupted(BaseException):
    pass


@pytest.fixture(scope="module")
def options(few_tones, tiny_options) -> list[str]:
    others = ["--max_length_seconds", "0.2", "--num_train_epochs", "3", "--refit", "true"]
    return ["sanet.yaml", "--data_dir", str(few_tones), *tiny_options, *others]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def interrupt_refit(self, args, state, control, **kwargs):
    if Path(args.output_dir).name == REFIT_FOLDER:
        raise Interrupted


@pytest.fixture(scope="module", autouse=True)
def calibrated():
    """Calibrate on as few as four validation recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sanet_hf.training.calibrate.MIN_RECORDINGS", 4)
        yield


@pytest.fixture(scope="module")
def refitted(options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "refitted"
    train(*parse_train_arguments([*options, "--output_dir", str(folder)]))
    return folder


def test_second_phase_trains_on_validation(refitted, options):
    metrics, state = read(refitted / "all_results.json"), read(refitted / "trainer_state.json")
    (epochs,) = [entry["epoch"] for entry in state["log_history"] if "eval_loss" in entry][-1:]
    chosen = max(2, state["best_global_step"] * epochs / state["global_step"])
    assert metrics["refit_samples"] == 16 and metrics["refit_epochs"] == chosen
    assert metrics["train_runtime"] > metrics["refit_runtime"] > 0
    # The weights differ from those of the chosen epoch, which gave the validation results.
    best = load_file(Path(state["best_model_checkpoint"]) / "model.safetensors")
    weights = load_file(refitted / "model.safetensors")
    assert not all(torch.equal(weights[name], best[name]) for name in weights)
    entry = next(e for e in state["log_history"] if e.get("step") == state["best_global_step"] and "eval_loss" in e)
    assert metrics["eval_log_loss_uncalibrated"] == pytest.approx(entry["eval_loss"], rel=1e-4)
    for name in ("README.md", "report.html"):
        assert "16 training and validation recordings" in (refitted / name).read_text(encoding="utf-8")
    record = read_record(refitted / "recordings.csv")
    assert record["validation"] < record["train"] and not record["test"] & record["train"]
    assert (len(record["validation"]), len(record["train"])) == (4, 16)


@torch.no_grad()
def test_second_phase_gets_the_first_calibration_once(refitted):
    """The second network was trained on validation, so it cannot be calibrated on it."""
    metrics = read(refitted / "all_results.json")
    folders = (refitted, find_last_checkpoint(refitted / REFIT_FOLDER))
    calibrated, own = (SANetForAudioClassification.from_pretrained(folder).eval() for folder in folders)
    clips = 0.1 * torch.randn(3, 3200, generator=torch.Generator().manual_seed(0))
    logits, temperature = own(clips).logits, metrics["temperature"]
    assert abs(temperature - 1) > 0.05 and logits.std() > 0
    assert torch.allclose(calibrated(clips).logits, logits / temperature, rtol=1e-4, atol=1e-5)
    # Validation metrics are those of the first network, on which the calibration was fitted.
    assert metrics["eval_log_loss"] < metrics["eval_log_loss_uncalibrated"]
    assert metrics["test_log_loss"] != metrics["test_log_loss_uncalibrated"]
    assert "fitted before refit" in (refitted / "README.md").read_text(encoding="utf-8")


def test_interrupted_second_phase_resumes_to_the_same_weights(refitted, options, tmp_path, monkeypatch):
    arguments = [*options, "--output_dir", str(tmp_path / "run"), "--save_total_limit", "1"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingClock, "on_save", interrupt_refit, raising=False)
        train(*parse_train_arguments(arguments))
    (begun,) = (tmp_path / "run" / REFIT_FOLDER).glob("checkpoint-*")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(
            refit_module, "find_last_checkpoint", lambda folder: found.append(find_last_checkpoint(folder)) or found[0]
        )
        train(*parse_train_arguments(arguments))
    assert found == [str(begun)]
    weights, others = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", refitted))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for split in SPLITS:
        one, other = ((folder / f"predictions/{split}.csv").read_text() for folder in (tmp_path / "run", refitted))
        assert one == other
    # As if interrupted after saving the calibrated weights: they are not calibrated again.
    (tmp_path / "run/all_results.json").unlink()
    train(*parse_train_arguments(arguments))
    again = load_file(tmp_path / "run/model.safetensors")
    assert all(torch.equal(again[name], others[name]) for name in others)


# Plans


def make_arguments(options: list[str], *others: str):
    return parse_train_arguments([*options, "--output_dir", "run", *others])[2]


STATE = TrainerState(
    epoch=3.0,
    global_step=9,
    best_global_step=6,
    best_model_checkpoint="run/checkpoint-6",
    log_history=[{"step": step, "epoch": step / 3, "eval_loss": 1.0} for step in (3, 6, 9)],
)


@pytest.mark.parametrize(
    ("others", "epochs"),
    [
        ([], 2),
        (["--load_best_model_at_end", "false"], 3),
        (["--refit_from", "trained"], 1),
        (["--max_steps", "9"], 2),
        (["--num_train_epochs", "6"], 3),
    ],
    ids=["best", "last", "continued", "steps", "at least half"],
)
def test_second_phase_has_as_many_epochs_as_the_chosen_one(options, others, epochs):
    arguments = make_arguments(options, *others)
    state = replace(STATE, epoch=6.0) if others[:1] == ["--num_train_epochs"] else STATE
    second = second_phase(arguments, make_plan(state, arguments, {}, 60.0))
    assert (second.num_train_epochs, second.max_steps, second.eval_strategy) == (epochs, -1, "no")
    assert not second.load_best_model_at_end and Path(second.output_dir).parent == Path("run")
    rate = arguments.learning_rate * (0.25 if others[:1] == ["--refit_from"] else 1)
    assert second.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(("seconds", "minutes"), [(4 * 60, 6), (60, 9), (9 * 60, 3)], ids=["all", "early", "late"])
def test_time_limit_is_divided_between_the_phases(options, seconds, minutes):
    arguments = make_arguments(options, "--max_minutes", "10")
    assert first_phase(arguments).max_minutes == 4
    second = second_phase(arguments, make_plan(STATE, arguments, {}, seconds))
    assert second.max_minutes == minutes and arguments.max_minutes == 10


@pytest.mark.parametrize(
    ("changes", "splits", "message"),
    [
        ({}, ["train"], "there are none"),
        ({"streaming": True}, ["validation"], "--streaming"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, ["train", "validation"], "reduce_lr_on_plateau"),
    ],
)
def test_impossible_second_phase_is_refused(options, changes, splits, message):
    data = DataArguments(streaming=changes.get("streaming", False))
    others = [word for name, value in changes.items() if name != "streaming" for word in (f"--{name}", value)]
    recordings = dict.fromkeys(splits, range(10))
    with pytest.raises(UsageError, match=message):
        is_refit_wanted(make_arguments(options, *others), data, recordings)
    assert not is_refit_wanted(make_arguments(options, *others, "--refit", "auto"), data, recordings)


def test_auto_refits_on_few_recordings(options):
    arguments = make_arguments(options, "--refit", "auto")
    for count, is_wanted in ((1999, True), (2000, False)):
        recordings = {"train": range(count), "validation": range(9)}
        assert is_refit_wanted(arguments, DataArguments(), recordings) is is_wanted
    assert not is_refit_wanted(arguments, DataArguments(), {"train": range(9), "validation": range(9)}, is_final=True)
