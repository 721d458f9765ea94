# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Outputs that cannot be written. The error names the path, if possible before any work. No data is lost."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sanet_hf.cli import main as cli
from sanet_hf.cli.main import main
from sanet_hf.training import train
from sanet_hf.training.evaluation import saved_models as evaluate
from sanet_hf.training.trainer import AudioClassificationTrainer

from .kills import PROCESSES, contents, start
from .tiny_models import save_checkpoint


CLONE_NEWNS = 0x20000
# Models and recordings do not exist, so only a check before any work finds the bad output.
COMMANDS = {
    "prepare": ["prepare", "RECORDINGS", "OUTPUT"],
    "predict": ["predict", "MODEL", "a.wav", "--output", "OUTPUT/rows.csv"],
    "predict parquet": ["predict", "MODEL", "a.wav", "--output", "OUTPUT/rows.parquet"],
    "embed": ["embed", "MODEL", "a.wav", "--output", "OUTPUT/embeddings.npz"],
    "explain": ["explain", "MODEL", "a.wav", "--output", "OUTPUT/explained.png"],
    "train": ["train", "sanet.yaml", "--data_dir", "RECORDINGS", "--output_dir", "OUTPUT"],
    "evaluate": ["evaluate", "MODEL", "--data_dir", "RECORDINGS", "--output", "OUTPUT"],
    "compare": ["compare", "MODEL", "--data_dir", "RECORDINGS", "--output", "OUTPUT"],
    "export": ["export", "MODEL", "OUTPUT"],
    "augment": ["augment", "a.wav", "OUTPUT", "--config", "sanet_dynamic.yaml"],
    "convert": ["convert", "a.pt", "OUTPUT"],
}


def mount(folder: Path, *options: str) -> None:
    """Mount a file system in memory. Only this process sees it, and it ends with the process."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise PermissionError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=64m", *options]), "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def can_mount() -> bool:
    process = PROCESSES.Process(target=mount, args=(Path("/mnt"),))
    process.start()
    process.join()
    return process.exitcode == 0


@pytest.fixture(scope="module")
def mounts():
    if not hasattr(os, "O_TMPFILE") or not can_mount():
        pytest.skip("file systems can be mounted by root alone, where the machine lets it")


def fill(folder: Path, left: int = 0) -> None:
    """Fill a disk except for `left` bytes."""
    free = os.statvfs(folder)
    with open(folder / "filler", "wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_bsize - left)))


def spell(command: list[str], output: Path) -> list[str]:
    return [argument.replace("OUTPUT", str(output)) for argument in command]


@pytest.mark.parametrize("name", COMMANDS)
def test_path_that_cannot_be_created_is_an_error(name, tmp_path, capsys):
    """A file is where a folder is needed. In /proc, not even root can write."""
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file" / "deep", Path("/proc/deep")):
        command = spell(COMMANDS[name], folder)
        assert main(command) in (1, 2)
        error = capsys.readouterr().err
        assert "sanet: error:" in error and f"{folder}" in error.splitlines()[-1] and "cannot be written" in error
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    if "OUTPUT" in COMMANDS[name]:
        assert main(spell(COMMANDS[name], tmp_path / "file")) == 2
        assert f"{tmp_path / 'file'} is a file. Choose a folder" in capsys.readouterr().err


def run_all(folder: str, is_full: bool, log: str) -> None:
    start(log)
    mount(Path(folder))
    if is_full:
        fill(Path(folder))
    else:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    codes = [main(spell(command, Path(folder) / "new")) for command in COMMANDS.values()]
    assert codes == [1] * len(codes), codes
    assert [path.name for path in Path(folder).iterdir()] == ["filler"] * is_full


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_full_or_read_only_disk_is_found_before_any_work(mounts, tmp_path, is_full):
    log = tmp_path / "log.txt"
    (tmp_path / "disk").mkdir()
    process = PROCESSES.Process(target=run_all, args=(str(tmp_path / "disk"), is_full, str(log)))
    process.start()
    process.join()
    errors = [line for line in log.read_text().splitlines() if line.startswith("sanet: error: ")]
    assert process.exitcode == 0 and len(errors) == len(COMMANDS), log.read_text()
    reason = "No space left on device" if is_full else "Read-only file system"
    assert all(f"{tmp_path}/disk/new" in error and f"cannot be written: {reason}" in error for error in errors)


def run_until_full(command: list[str], disk: str, left: int, copy: str, log: str, at_checkpoint: int | None) -> None:
    """Run a command on a disk that becomes full after the work has begun. Copy the files of the disk to `copy`."""
    start(log)
    earlier = Path(copy)
    mount(Path(disk))
    if earlier.exists():
        shutil.copytree(earlier, disk, dirs_exist_ok=True)
        shutil.rmtree(earlier)

    def fill_first(module, name: str) -> None:
        original = getattr(module, name)

        def function(*args, **kwargs):
            fill(Path(disk), left)
            return original(*args, **kwargs)

        setattr(module, name, function)

    save_checkpoint = AudioClassificationTrainer._save_checkpoint

    def fill_at_checkpoint(trainer, *args):
        if trainer.state.global_step == at_checkpoint:
            fill(Path(disk), left)
        save_checkpoint(trainer, *args)

    AudioClassificationTrainer._save_checkpoint = fill_at_checkpoint
    # By then, training has written its checkpoints, other commands nothing.
    fill_first(train, "evaluate_splits")
    fill_first(evaluate, "evaluate_splits")
    for name in ("prepare", "predict", "embed", "export"):
        original = cli.COMMANDS[name]
        cli.COMMANDS[name] = lambda arguments, original=original: (fill(Path(disk), left), original(arguments))[1]
    code = main(command)
    (Path(disk) / "filler").unlink()
    shutil.copytree(disk, copy)
    os._exit(code)


@pytest.fixture
def fill_while(mounts, tmp_path):
    def run(command: list[str], left: int, at_checkpoint: int | None = None) -> str:
        """
        Run a command while `disk` has `left` bytes. Check for exit code 1 and return the error.

        The folder `left` is then a copy of the disk.
        """
        log, disk = tmp_path / "log.txt", tmp_path / "disk"
        disk.mkdir(exist_ok=True)
        log.write_text("")
        arguments = (command, str(disk), left, str(tmp_path / "left"), str(log), at_checkpoint)
        process = PROCESSES.Process(target=run_until_full, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == 1, log.read_text()[-3000:]
        assert "Traceback" not in log.read_text()
        return log.read_text().rpartition("sanet: error: ")[2]

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, "sanet", labels=("high", "low"), max_position_embeddings=250)
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("pages", [0, 2])
def test_predictions_that_fit_are_kept(fill_while, model, tones, tmp_path, suffix, pages):
    """Rows of an earlier run stay. New rows of CSV and JSONL files that fit on the disk are also kept."""
    folder = tmp_path / "left"
    options = ["--batch_size", "1", "--window", "0.1", "--resume", "--output"]
    command = ["predict", str(model), str(tones / "test"), str(tones / "train"), *options]
    assert main([*command[:3], *options, str(folder / f"rows{suffix}")]) == 0
    earlier = (folder / f"rows{suffix}").read_bytes()
    output = tmp_path / "disk" / f"rows{suffix}"
    # Resuming writes the earlier rows again.
    left = pages * 4096 + pages // 2 * 12 * 1024
    assert f"{output} cannot be written: No space" in fill_while([*command, str(output)], left)
    found = (folder / f"rows{suffix}").read_bytes()
    assert found.startswith(earlier) and (len(found) > len(earlier)) == (pages > 0 and suffix != ".parquet")
    assert main([*command, str(folder / f"rows{suffix}")]) == 0
    assert main([*command, str(tmp_path / "expected" / f"rows{suffix}")]) == 0
    assert contents(folder) == contents(tmp_path / "expected")


@pytest.mark.parametrize(
    "name",
    [
        *("embeddings.npz", "embeddings.parquet", "evaluation", "comparison", "program"),
        pytest.param("exported", marks=pytest.mark.slow),
    ],
)
def test_output_written_at_the_end_is_all_or_nothing(fill_while, model, tones, tmp_path, name):
    """A full disk leaves only the earlier output."""
    output = tmp_path / "disk" / name
    data = ["--data_dir", str(tones), "--output", str(output)]
    command = {
        "evaluation": ["evaluate", str(model), *data],
        "comparison": ["compare", str(model), *data, "--num_rounds", "1"],
        "exported": ["export", str(model), str(output)],
        "program": ["export", str(model), str(output), "--format", "torch_export"],
    }.get(name, ["embed", str(model), str(tones / "test"), "--output", str(output)])
    earlier = {}
    if name.startswith(("comparison", "embeddings")):
        folder = tmp_path / "left" / (name if name == "comparison" else "")
        folder.mkdir(parents=True)
        (folder / ("comparison.md" if name == "comparison" else name)).write_text("earlier")
        earlier = contents(tmp_path / "left")
    assert f"{output} cannot be written: No space left on device" in fill_while(command, 0)
    assert contents(tmp_path / "left") == earlier


@pytest.mark.parametrize("left", [0, 24 * 1024, 60 * 1024])
def test_training_resumes_after_a_checkpoint_did_not_fit(fill_while, tones, tiny_options, tmp_path, left):
    """The earlier checkpoint stays, and the same command resumes from it."""
    command = ["train", "sanet.yaml", "--data_dir", str(tones), *tiny_options, "--num_train_epochs", "2"]
    output = tmp_path / "disk" / "run"
    error = fill_while([*command, "--output_dir", str(output)], left, at_checkpoint=16)
    assert f"{output}/checkpoint-16 cannot be written" in error
    folder = tmp_path / "left" / "run"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-8"]
    assert main([*command, "--output_dir", str(folder)]) == 0 and train.is_finished(folder)


def test_full_disk_after_training_needs_no_new_training(fill_while, tones, tiny_options, tmp_path):
    """The disk is full when the trained model is evaluated. The same command finishes without training again."""
    command = ["train", "sanet.yaml", "--data_dir", str(tones), *tiny_options, "--num_train_epochs", "2"]
    output = tmp_path / "disk" / "run"
    assert f"{output} cannot be written: No space left on device" in fill_while(
        [*command, "--output_dir", str(output)], 4096
    )
    folder = tmp_path / "left" / "run"
    assert (folder / "checkpoint-16" / "model.safetensors").is_file() and not train.is_finished(folder)
    before = (folder / "checkpoint-16" / "model.safetensors").stat().st_mtime_ns
    assert main([*command, "--output_dir", str(folder)]) == 0 and train.is_finished(folder)
    assert (folder / "checkpoint-16" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_preparation_keeps_finished_recordings(fill_while, tones, tmp_path, num_workers):
    command = ["prepare", "--no_denoise", str(tones)]
    output = tmp_path / "disk" / "data"
    # 48 clips of about 18 kB.
    error = fill_while([*command, str(output), "--num_workers", str(num_workers)], 400_000)
    assert f"The disk of {output} is full. Finished recordings are kept" in error
    folder = tmp_path / "left" / "data"
    written = contents(folder)
    assert len([name for name in written if name.endswith(".wav")]) > 10
    for data in (folder, tmp_path / "expected"):
        assert main([*command, str(data), "--num_workers", "1"]) == 0
    expected = contents(tmp_path / "expected")
    assert contents(folder) == expected
    assert all(expected[name] == digest for name, digest in written.items() if name.endswith(".wav"))
