# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Trainings that are killed, ended by a scheduler, or diverge. Finished work is kept, and training can resume."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from sanet_hf.cli.main import main
from sanet_hf.training import train as train_module
from sanet_hf.training.callbacks import CheckpointOnSIGTERM
from sanet_hf.training.checkpoints import find_last_checkpoint
from sanet_hf.training.trainer import AudioClassificationTrainer


pytestmark = pytest.mark.usefixtures("without_report")
NUM_KILLS = 24
# Modules that every child process needs, loaded once.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["sanet_hf.training.train", "sanet_hf.cli.main", "transformers.trainer", "datasets"])


class SignalAtStep(TrainerCallback):
    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            # Like a scheduler, also signal the workers that read clips.
            workers = active_children()
            processes = [*(worker.pid for worker in workers), os.getpid()]
            subprocess.run(["kill", f"-{int(self.number)}", *map(str, processes)], check=True)
            if workers:
                time.sleep(1)
                assert all(worker.is_alive() for worker in workers)


def kill_while_writing(number: int) -> None:
    """Make the process kill itself when half of the `number`-th checkpoint file is written."""
    count = 0

    def wrap(module, name: str, path_of) -> None:
        original = getattr(module, name)

        def write(*args, **kwargs):
            nonlocal count
            count += 1
            result = original(*args, **kwargs)
            path = Path(path_of(*args, **kwargs))
            if count == number:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(module, name, write)

    import safetensors.torch
    import transformers.modeling_utils
    from transformers.trainer_callback import TrainerState

    for module in (safetensors.torch, transformers.modeling_utils):
        name = "save_file" if module is safetensors.torch else "safe_save_file"
        wrap(module, name, lambda tensors, filename, *args, **kwargs: filename)
    wrap(torch, "save", lambda thing, path, *args, **kwargs: path)
    wrap(TrainerState, "save_to_json", lambda state, path: path)


def run_command(command: list[str], log: str, step: int | None, number: int, kill_at_file: int | None) -> None:
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    # The plots of the report take as long as the training.
    train_module.write_report = lambda *arguments, **options: None
    if step is not None:
        original = AudioClassificationTrainer.__init__

        def init(self, **kwargs):
            original(self, **kwargs)
            self.add_callback(SignalAtStep(step, number))

        AudioClassificationTrainer.__init__ = init
    if kill_at_file is not None:
        kill_while_writing(kill_at_file)
    code = main(command)
    # With sys.exit, a process of a pool would report a failure.
    os._exit(code)


def run(
    command: list[str],
    log: Path,
    step: int | None = None,
    number: int = signal.SIGKILL,
    kill_at_file: int | None = None,
) -> int:
    """
    Run a command in a new process and return its exit code, which is negative for a signal.

    The process gets a signal in a step, or is killed while it writes a checkpoint file.
    """
    process = PROCESSES.Process(target=run_command, args=(command, str(log), step, number, kill_at_file))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def options(tones, tiny_options) -> list[str]:
    """Return a command with every random part (dropout, augmentation, order of clips) and averaged weights."""
    more = "--num_train_epochs 6 --averaged_epochs 3 --save_total_limit 2 --train_sampling_strategy random".split()
    overrides = [tiny_options[0], f"{tiny_options[1]},attention_dropout=0.1,classifier_dropout=0.1", *tiny_options[2:]]
    noise = json.dumps([{"AddGaussianSNR": {"p": 0.5}}, {"Shift": {"p": 0.5}}])
    return ["train", "sanet.yaml", "--data_dir", str(tones), *overrides, *more, "--augmentations", noise]


@pytest.fixture
def command(options) -> list[str]:
    return list(options)


def check_same(folder: Path, expected: Path, in_whole_epochs: bool = True) -> None:
    """Compare weights, optimizer, metrics and predictions, but not times. Training losses need whole epochs."""
    weights, others = load_file(folder / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    last, other = find_last_checkpoint(folder), find_last_checkpoint(expected)
    assert Path(last).name == Path(other).name
    states = [torch.load(Path(path) / "optimizer.pt", weights_only=True)["state"] for path in (last, other)]
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][name]) for name, value in state.items())
    histories = [
        json.loads((Path(path) / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        for path in (last, other)
    ]
    for history in histories:
        for entry in history:
            for name in [name for name in entry if "runtime" in name or "per_second" in name]:
                del entry[name]
    if not in_whole_epochs:
        histories = [[entry for entry in history if "eval_loss" in entry] for history in histories]
    assert histories[0] == histories[1]
    results = [json.loads((path / "all_results.json").read_text(encoding="utf-8")) for path in (folder, expected)]
    names = [name for name in results[0] if name.startswith(("eval_", "test_")) and "per_second" not in name]
    assert {name: results[0][name] for name in names} == {name: results[1][name] for name in names}
    for split in ("train", "validation", "test"):
        name = f"predictions/{split}.csv"
        assert (folder / name).read_text(encoding="utf-8") == (expected / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def expected(options, tmp_path_factory) -> Path:
    """Return the run of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run([*options, "--output_dir", str(folder / "expected")], folder / "expected.txt") == 0
    return folder / "expected"


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_result(command, expected, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    num_steps = 6 * 8
    generator = random.Random(0)
    command = [*command, "--output_dir", str(folder)]
    for number in range(NUM_KILLS):
        last = find_last_checkpoint(folder) if folder.exists() else None
        step = 0 if last is None else int(last.rpartition("-")[2])
        if step > num_steps - 16:
            # Too close to the end: start from scratch.
            shutil.rmtree(folder)
            step = 0
        if number % 2:
            code = run(command, log, step=step + generator.randint(1, 15))
        else:
            # A checkpoint has about seven files.
            code = run(command, log, kill_at_file=generator.randint(1, 14))
        assert code == -signal.SIGKILL, log.read_text(encoding="utf-8")[-3000:]
    assert run(command, log) == 0, log.read_text(encoding="utf-8")[-3000:]
    check_same(folder, expected)
    assert "Skipping incomplete checkpoint" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("step", [20, 24, 41, 48], ids=["amid", "end of an epoch", "amid averaging", "last step"])
def test_terminated_trainings_save_a_checkpoint(command, expected, tmp_path, step):
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    command = [*command, "--output_dir", str(folder)]
    assert run(command, log, step=step, number=signal.SIGTERM) == 143
    assert f"SIGTERM ended the training after step {step} of 48" in log.read_text(encoding="utf-8")
    assert Path(find_last_checkpoint(folder)).name == f"checkpoint-{step}"
    assert not (folder / "all_results.json").exists()
    assert run(command, log) == 0
    check_same(folder, expected, in_whole_epochs=False)


def test_a_terminated_training_keeps_its_last_checkpoint(command, tmp_path):
    """With --save_total_limit 1, a finished training keeps only its best checkpoint."""
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    command = [*command, "--output_dir", str(folder), "--save_total_limit", "1"]
    assert run(command, log, step=20, number=signal.SIGTERM) == 143
    assert Path(find_last_checkpoint(folder)).name == "checkpoint-20"


def test_workers_outlive_sigterm(command, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    command = [*command, "--output_dir", str(folder), "--dataloader_num_workers", "1"]
    command += ["--dataloader_persistent_workers", "true"]
    assert run(command, log, step=12, number=signal.SIGTERM) == 143, log.read_text(encoding="utf-8")[-3000:]
    assert Path(find_last_checkpoint(folder)).name == "checkpoint-12"


def test_incomplete_checkpoints_are_skipped(command, tmp_path, caplog):
    assert find_last_checkpoint(tmp_path / "none") is None
    folder = tmp_path / "run"
    assert run([*command, "--output_dir", str(folder)], tmp_path / "log.txt", step=30) == -signal.SIGKILL
    whole, last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert find_last_checkpoint(folder) == str(last) == str(folder / "checkpoint-24")
    (folder / "checkpoint-copy").mkdir()
    for path in sorted(last.iterdir()):
        if path.suffix in (".safetensors", ".pt", ".pth") or path.name == "trainer_state.json":
            content = path.read_bytes()
            for end in (0, len(content) // 2, len(content) - 2):
                path.write_bytes(content[:end])
                caplog.clear()
                assert find_last_checkpoint(folder) == str(whole), path
                assert f"Skipping incomplete checkpoint {last}: {path.name}" in caplog.text
            path.write_bytes(content)
    assert find_last_checkpoint(folder) == str(last)


@pytest.fixture
def diverging(monkeypatch):
    """Make the loss NaN in step 12 of a training."""
    original = AudioClassificationTrainer.compute_loss

    def compute_loss(trainer, model, inputs, *args, **kwargs):
        loss = original(trainer, model, inputs, *args, **kwargs)
        return loss * float("nan") if model.training and trainer.state.global_step == 11 else loss

    monkeypatch.setattr(AudioClassificationTrainer, "compute_loss", compute_loss)


def test_nan_loss_ends_the_training(command, diverging, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*command, "--output_dir", str(folder), "--max_grad_norm", "0"]) == 1
    error = capsys.readouterr().err
    assert "The loss is nan at step 12. Its batch contains" in error
    (line,) = [line for line in error.splitlines() if "Its batch" in line]
    assert len(set(re.findall(r"(?:high|low)_train_\d+\.wav", line))) == 4
    assert "--learning_rate" in line and "--max_grad_norm 1" in line
    assert Path(find_last_checkpoint(folder)).name == "checkpoint-8"
    assert not (folder / "all_results.json").exists()


def test_weights_that_are_not_finite_are_not_saved(command, tmp_path, capsys):
    """The last step before a checkpoint can have a finite loss and still make the weights infinite or NaN."""
    folder = tmp_path / "run"
    options = ["--output_dir", str(folder), "--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    options += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--averaged_epochs", "1"]
    assert main([*command, *options, "--learning_rate", "1e39", "--warmup_steps", "0"]) == 1
    assert "Weights are no longer finite at step 1" in capsys.readouterr().err
    assert find_last_checkpoint(folder) is None


def test_training_resumes_after_a_full_disk(command, expected, monkeypatch, tmp_path, capsys):
    """The earlier checkpoint stays, the incomplete one is deleted, and the same command resumes."""
    folder, save = tmp_path / "run", torch.save

    def full(thing, path, *args, **kwargs):
        if "checkpoint-16" in str(path):
            Path(path).write_bytes(b"PK")
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
        save(thing, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    torch.set_num_threads(1)
    command = [*command, "--output_dir", str(folder)]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "checkpoint-16 cannot be written" in error and "Then run the same command again to resume" in error
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-8"]
    monkeypatch.undo()
    assert run(command, tmp_path / "log.txt") == 0
    check_same(folder, expected)


def test_deleted_recording_is_named_and_training_resumes(tones, command, tmp_path, monkeypatch, capsys):
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tones, data)
    victim = data / "train/high/high_train_3.wav"

    def remove(callback, args, state, control, **kwargs):
        if state.global_step == 12:
            victim.unlink(missing_ok=True)

    monkeypatch.setattr(CheckpointOnSIGTERM, "on_step_begin", remove)
    command = [*command, "--data_dir", str(data), "--output_dir", str(folder)]
    assert main(command) in (1, 2)
    _, _, error = capsys.readouterr().err.rpartition("sanet: error: ")
    assert "high_train_3.wav" in error.splitlines()[0]
    assert find_last_checkpoint(folder) is not None
    shutil.copy(tones / "train/high/high_train_3.wav", victim)
    monkeypatch.undo()
    assert main(command) == 0
