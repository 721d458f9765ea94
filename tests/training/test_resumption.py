# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options and data that may differ between an interrupted training and the one that resumes it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from sanet_hf.cli.main import main
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.training import train as train_module
from sanet_hf.training.arguments import AudioTrainingArguments
from sanet_hf.training.callbacks import EarlyStoppingCallback, TrainingClock
from sanet_hf.training.checkpoints import check_position, read_state
from sanet_hf.training.resumption import check_data, find_changes
from sanet_hf.training.run_folder import LOCK_FILE, locked
from sanet_hf.training.train import train


EPOCHS, STEPS = 4, 8  # epochs of the run, steps of each epoch


class Interrupted(BaseException):
    """Raised to end a training in a test."""


@pytest.fixture(scope="module")
def data(tones, tmp_path_factory) -> Path:
    """Return a copy of `tones`. Tests that change it must restore it."""
    return Path(shutil.copytree(tones, tmp_path_factory.mktemp("data") / "tones"))


@pytest.fixture(scope="module")
def options(data, tiny_options) -> list[str]:
    options = ["sanet.yaml", "--data_dir", str(data), *tiny_options, "--num_train_epochs", str(EPOCHS)]
    return [*options, "--save_total_limit", "9", "--warmup_steps", "0", "--train_sampling_strategy", "random"]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(*parse_train_arguments([*options, "--output_dir", str(folder)]))
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """Return a run that looks like one killed after two epochs."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "all_results.json").unlink()
    for epoch in range(3, EPOCHS + 1):
        shutil.rmtree(folder / f"checkpoint-{epoch * STEPS}")
    return folder


@pytest.fixture
def resume(options, monkeypatch):
    """Return a function that resumes a run with other options and returns the state of its first step."""

    def begin(folder: Path, *others: str, explicit: bool = True) -> SimpleNamespace:
        found = SimpleNamespace()

        def on_step_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
            found.args, found.state, found.groups = args, state, [dict(group) for group in optimizer.param_groups]
            raise Interrupted

        monkeypatch.setattr(TrainingClock, "on_step_begin", on_step_begin, raising=False)
        command = [*options, "--output_dir", str(folder), *others]
        with pytest.raises(Interrupted):
            train(*parse_train_arguments([*command, *(["--resume_from_checkpoint", "true"] if explicit else [])]))
        return found

    return begin


def refuse(options: list[str], folder: Path, *others: str) -> str:
    """Return the message of a refused command. Check that the command changes no file."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as error:
        train(*parse_train_arguments([*options, "--output_dir", str(folder), *others]))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    return str(error.value)


# Options


def test_optimizer_is_resumed_from_the_checkpoint(run, resume):
    found = resume(run, explicit=False)
    (rate,) = {group["lr"] for group in found.groups}
    (logged,) = [
        entry["learning_rate"]
        for entry in found.state.log_history
        if entry.get("step") == 2 * STEPS and "loss" in entry
    ]
    assert rate == pytest.approx(5e-3) and 0 < logged < 1e-2
    assert found.state.global_step == 2 * STEPS and found.state.max_steps == EPOCHS * STEPS


@pytest.mark.parametrize(
    ("others", "rates", "decay", "betas"),
    [
        (["--learning_rate", "1e-3"], {5e-4}, 0.05, (0.9, 0.999)),
        (["--weight_decay", "0.2", "--adam_beta1", "0.8"], {5e-3}, 0.2, (0.8, 0.999)),
        (["--lr_scheduler_type", "constant", "--learning_rate", "3e-4"], {3e-4}, 0.05, (0.9, 0.999)),
        # A quarter of the new schedule is over, where it was half of the old one.
        (["--num_train_epochs", "8"], {1e-2 * 0.8535534}, 0.05, (0.9, 0.999)),
    ],
    ids=["rate", "decay", "schedule", "epochs"],
)
def test_new_hyperparameters_apply_on_resuming(run, resume, others, rates, decay, betas):
    found = resume(run, *others)
    assert sorted({group["lr"] for group in found.groups}) == pytest.approx(sorted(rates))
    assert {group["weight_decay"] for group in found.groups} == {0.0, decay}
    assert {tuple(group["betas"]) for group in found.groups} == {betas}


def test_new_logging_and_saving_steps_apply_on_resuming(run, resume):
    """Logging steps change no weights, so they need no --resume_from_checkpoint."""
    others = ["--cache_audio", "0"]
    found = resume(run, "--logging_strategy", "steps", "--logging_steps", "3", *others, explicit=False)
    assert found.state.logging_steps == 3
    found = resume(
        run, "--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps", "--save_steps", "5"
    )
    assert (found.state.eval_steps, found.state.save_steps) == (5, 5)


def test_batches_can_be_accumulated_in_other_parts(run, resume):
    found = resume(run, "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    assert found.args.per_device_train_batch_size == 2 and found.state.global_step == 2 * STEPS


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--metric_for_best_model", "loss"], "greater_is_better=True. It cannot be resumed with False"),
        (["--metric_for_best_model", "auroc"], "metric_for_best_model=macro_f1. It cannot be resumed with auroc"),
        (["--per_device_train_batch_size", "16"], "per_device_train_batch_size=4. It cannot be resumed with 16"),
        (["--gradient_accumulation_steps", "2"], "gradient_accumulation_steps=default. It cannot be resumed with 2"),
        (["--optim", "sgd"], "optim=default. It cannot be resumed with sgd"),
        (["--averaged_epochs", "2"], "averaged_epochs=default. It cannot be resumed with 2"),
        (
            ["--lr_scheduler_type", "reduce_lr_on_plateau"],
            "lr_scheduler_type=cosine. It cannot be resumed with reduce",
        ),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, list) else "",
)
def test_options_that_must_not_change_are_refused(run, options, others, message):
    assert message in refuse(options, run, *others, "--resume_from_checkpoint", "true")
    # The same holds for a named checkpoint.
    checkpoint = str(run / f"checkpoint-{STEPS}")
    assert message in refuse(options, run, *others, "--resume_from_checkpoint", checkpoint)
    # Without --resume_from_checkpoint, any other option is refused.
    assert "contains a run with other options" in refuse(options, run, *others)


def test_all_changed_options_are_named(run, options, resume, caplog):
    others = ["--learning_rate", "0.5", "--mixup_alpha", "0.2"]
    message = refuse(options, run, *others)
    assert "learning_rate 0.01 → 0.5, mixup_alpha default → 0.2" in message
    resume(run, *others)
    assert "with other options: learning_rate 0.01 → 0.5, mixup_alpha default → 0.2" in caplog.text


def test_other_spelling_of_a_value_is_no_change():
    old, new = {"a": 1, "b": [1, 2], "c": 1e-05}, {"a": 1, "b": (1, 2), "c": 0.00001, "free": 1}
    assert find_changes(old, {**new, "b": [1, 2]}, {"free"}) == {}
    assert find_changes({**old, "d": "x"}, {**new, "b": [1, 2], "a": 2}, {"free"}) == {
        "a": (1, 2),
        "d": ("x", "default"),
    }


def test_resumed_run_uses_the_new_patience(options, tmp_path, monkeypatch):
    """With a learning rate of zero, the first evaluation stays the best."""
    folder = tmp_path / "run"
    command = [*options, "--output_dir", str(folder), "--num_train_epochs", "9", "--learning_rate", "0"]
    command += ["--freeze", "backbone"]
    command[command.index("--config_overrides") + 1] += ",classifier_hidden_sizes=[]"

    def end(self, args, state, control, **kwargs):
        ended.append(state)
        raise Interrupted

    def evaluations(patience: int, *others: str) -> int:
        with pytest.raises(Interrupted):
            train(*parse_train_arguments([*command, "--early_stopping_patience", str(patience), *others]))
        assert ended[-1].epoch == ended[-1].global_step / STEPS
        return len([entry for entry in ended[-1].log_history if "eval_macro_f1" in entry])

    # End the process between the last step and the results.
    monkeypatch.setattr(TrainingClock, "on_train_end", end)
    ended = []
    assert evaluations(2) == 3
    assert evaluations(2) == 3 and ended[-1].epoch == 3
    again = ["--resume_from_checkpoint", "true"]
    assert evaluations(4, *again) == 5
    state = read_state(folder / f"checkpoint-{5 * STEPS}")
    assert EarlyStoppingCallback.has_stopped(state, 4) and not EarlyStoppingCallback.has_stopped(state, 5)
    # The count can restart from zero.
    assert evaluations(2, *again, "--restore_callback_states_from_checkpoint", "false") == 7


# Checkpoints


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("explicit", [False, True], ids=["same_command", "explicit"])
def test_a_checkpoint_without_state_is_refused(run, options, name, explicit):
    (run / f"checkpoint-{2 * STEPS}" / name).unlink()
    message = refuse(options, run, *(["--resume_from_checkpoint", "true"] if explicit else []))
    assert f"has no {name.split('.')[0]} (saved with --save_only_model true?)" in message
    assert "--overwrite_output_dir true" in message and "--model_name_or_path" in message


def test_checkpoint_with_only_weights_is_refused(options, tmp_path, monkeypatch):
    monkeypatch.setattr(
        TrainingClock, "on_save", lambda *args, **kwargs: (_ for _ in ()).throw(Interrupted), raising=False
    )
    command = [*options, "--output_dir", str(tmp_path / "run"), "--save_only_model", "true"]
    with pytest.raises(Interrupted):
        train(*parse_train_arguments(command))
    with pytest.raises(
        UsageError, match=r"has no optimizer, scheduler, rng_state \(saved with --save_only_model true"
    ):
        train(*parse_train_arguments(command))


@pytest.mark.parametrize(
    ("epoch", "step", "num_batches", "per_step", "is_same"),
    [(2, 16, 8, 1, True), (1.5, 12, 8, 1, True), (1.8, 3, 5, 4, True), (2, 16, 9, 1, False), (2, 16, 16, 1, False)],
)
def test_changed_epoch_of_a_checkpoint_is_a_warning(epoch, step, num_batches, per_step, is_same, caplog):
    check_position(SimpleNamespace(epoch=epoch, global_step=step), num_batches, per_step)
    assert ("This was epoch" in caplog.text) != is_same


# Data


@pytest.fixture
def change_classes(data):
    """Return a function that renames or copies a class folder in every split. Undo all changes at the end."""
    undo = []

    def change(old: str, new: str, is_copied: bool = False) -> None:
        for split in sorted(data.iterdir()):
            if is_copied:
                shutil.copytree(split / old, split / new)
                undo.append(lambda folder=split / new: shutil.rmtree(folder))
            else:
                (split / old).rename(split / new)
                undo.append(lambda split=split: (split / new).rename(split / old))

    yield change
    for step in reversed(undo):
        step()


@pytest.mark.parametrize("explicit", [[], ["--resume_from_checkpoint", "true"]], ids=["same_command", "explicit"])
@pytest.mark.parametrize(
    ("old", "new", "is_copied", "message"),
    [
        # New names that sort first, which would swap the indices, and new names that sort last.
        ("low", "a", False, "low renamed or replaced by a"),
        ("low", "lower", False, "low renamed or replaced by lower"),
        ("low", "a", True, "a added"),
        ("low", "z", True, "z added"),
    ],
)
def test_other_classes_are_refused(run, options, change_classes, old, new, is_copied, message, explicit):
    change_classes(old, new, is_copied)
    assert f"was trained on other classes: {message}. Its weights do not fit the current classes" in refuse(
        options, run, *explicit
    )


def test_removed_or_reordered_classes_are_named(run, options):
    """Earlier versions left no record of the data. Then the classes of the checkpoint are compared."""
    (run / "training_data.json").unlink()
    path = run / f"checkpoint-{2 * STEPS}" / "config.json"
    config = json.loads(path.read_text())
    for names, message in (
        (["high", "low", "mid"], "mid removed"),
        (["low", "high"], "the same in another order, low, high → high, low"),
    ):
        path.write_text(json.dumps({**config, "id2label": dict(enumerate(names))}))
        assert f"other classes: {message}." in refuse(options, run)


@pytest.mark.parametrize("was_checked", [True, False])
def test_unchecked_recordings_are_not_reported_as_changed(tmp_path, was_checked, caplog):
    """With --check_recordings false there is no hash of the contents to compare."""
    old = {"counts": {"train": 3}, "digest": "a", "is_checked": was_checked}
    (tmp_path / "training_data.json").write_text(json.dumps(old))
    arguments = AudioTrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="true", report_to="none")
    new = {"counts": {"train": 3}, "digest": "b", "is_checked": not was_checked}
    check_data(tmp_path / "checkpoint-1", {}, new, arguments)
    assert (
        "was trained on the same recordings: --check_recordings has changed" in caplog.text
        and "other recordings" not in caplog.text
    )
    check_data(tmp_path / "checkpoint-1", {}, {**new, "counts": {"train": 4}}, arguments)
    assert "trained on other recordings: train 3 → 4 recordings" in caplog.text


@pytest.mark.parametrize("change", ["added", "removed", "content", "class"])
def test_changed_recordings_need_an_explicit_resume(run, options, data, resume, make_tone, change, caplog):
    split, before = data / "train", shutil.copytree(data, run.parent / "before")
    path = split / "low" / "low_train_3.wav"
    if change == "added":
        make_tone(split / "low" / "new.wav", 250)
    elif change == "content":
        make_tone(path, 251)
    elif change == "removed":
        path.unlink()
    else:
        path.rename(split / "high" / path.name)
    try:
        message = refuse(options, run)
        counts = {"added": "train 32 → 33 recordings", "removed": "train 32 → 31 recordings"}
        assert counts.get(change, "the same number, but other contents, labels or splits") in message
        assert "--resume_from_checkpoint true" in message
        resume(run)
        assert "was trained on other recordings" in caplog.text
        assert ("This was epoch 2 and is now epoch" in caplog.text) == (change == "added")
        # From now on, these recordings belong to the run.
        caplog.clear()
        resume(run, explicit=False)
        assert "other recordings" not in caplog.text
    finally:
        shutil.rmtree(data)
        shutil.copytree(before, data)


# Lock


def test_folder_is_locked_by_one_training(options, tmp_path, capsys):
    folder = tmp_path / "run"
    with locked(folder):
        assert main(["train", *options, "--output_dir", str(folder)]) == 2
        assert f"Another `sanet train` is writing to {folder}" in capsys.readouterr().err
        with locked(tmp_path / "other"):
            pass
    with locked(folder):
        pass
    assert list(folder.iterdir()) == []


def test_an_error_releases_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_a_killed_training_releases_the_folder(tmp_path):
    code = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True)"
    code += "; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / LOCK_FILE)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.read(1) == b"1"
        with pytest.raises(UsageError, match="Another `sanet train`"), locked(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path):
        pass


def test_only_the_main_process_has_the_lock(finished, options, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "_train", lambda *arguments: {})
    arguments = parse_train_arguments([*options, "--output_dir", str(tmp_path)])
    with locked(tmp_path):
        with pytest.raises(UsageError, match="Another `sanet train`"):
            train(*arguments)
        monkeypatch.setattr(AudioTrainingArguments, "process_index", property(lambda arguments: 1))
        assert train(*arguments) == {}
    monkeypatch.undo()
    # A finished run is only read, so a lock does not matter.
    with FileLock(finished / LOCK_FILE):
        assert train(*parse_train_arguments([*options, "--output_dir", str(finished)]))["epoch"] == EPOCHS
