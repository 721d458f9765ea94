# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet predict` and `sanet prepare`, killed at any moment. The same command resumes, without loss or repetition."""

import itertools
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from .conftest import write_tone
from .kills import Kill, contents, run
from .tiny_models import save_checkpoint


NUM_KILLS = 12


def kill_and_go_on(
    command: list[str], folder: Path, log: Path, kinds: list[tuple[int, dict]], code: int, seed: int
) -> dict[str, str]:
    """
    Kill a command `NUM_KILLS` times, resume it each time, and return the final contents of `folder`.

    Args:
        command: Arguments of `sanet`.
        folder: Its output folder, deleted whenever a run reaches its end.
        log: File for its output.
        kinds: Ways to kill it: the number of changes to choose from, and fields of [`Kill`]. One kill of four is
            after a random time.
        code: Exit code of a run that reaches its end.
        seed: Seed of the random choices.
    """
    generator = random.Random(seed)
    contents_at_end, num_killed, seconds = [], 0, 1.0
    for number in itertools.count():
        start, is_last = time.monotonic(), num_killed == NUM_KILLS
        if is_last:
            result, _ = run(command, log)
        elif number % 4 == 3:
            result, _ = run(command, log, seconds=generator.uniform(0.3, 1) * seconds)
        else:
            num_changes, fields = generator.choice(kinds)
            result, _ = run(command, log, Kill(generator.randint(1, num_changes), generator.random(), **fields))
        if result == code:
            seconds = time.monotonic() - start
            contents_at_end.append(contents(folder))
            shutil.rmtree(folder)
        else:
            num_killed += 1
            # If only a worker was killed, the run ends with another code.
            assert result == -signal.SIGKILL or "A worker process died" in log.read_text(encoding="utf-8"), (
                log.read_text(encoding="utf-8")[-3000:]
            )
        if is_last:
            assert all(content == contents_at_end[-1] for content in contents_at_end)
            return contents_at_end[-1]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    names = ["a.wav", "b,\n\r\n\"'.wav", "c\u2028\x85\x0c.wav", "ü 🎵.wav", os.fsdecode(b"\xff.wav"), "long.wav"]
    for index, name in enumerate([*names, *(f"{number}.flac" for number in range(8))]):
        plain = folder / f"plain{Path(name).suffix}"
        write_tone(plain, 100 * (index + 2), seconds=2.3 if name == "long.wav" else 0.3, seed=index)
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        plain.rename(folder / "ab"[index % 2] / name)
    (folder / "a" / "text.wav").write_text("this is no audio")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, "sanet", labels=('höch,\n"x"', "low"), max_position_embeddings=250)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_killed_prediction_resumes_to_the_same_bytes(recordings, model, tmp_path, suffix):
    """With batches of one clip, the scores do not depend on where a run started."""
    log = tmp_path / "log.txt"

    def command(folder: str) -> list[str]:
        options = ["--batch_size", "1", "--device", "cpu", "--window", "1", "--resume", "--output"]
        return ["predict", str(model), str(recordings), *options, str(tmp_path / folder / f"rows{suffix}")]

    code, num_changes = run(command("expected"), log)
    assert code == 1 and "1 of 15 files could not be classified" in log.read_text() and num_changes > 15
    found = kill_and_go_on(command("output"), tmp_path / "output", log, [(num_changes, {})], 1, seed=len(suffix))
    assert found == contents(tmp_path / "expected") and list(found) == [f"rows{suffix}"]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 3])
def test_killed_preparation_resumes_to_the_same_files(recordings, tmp_path, num_workers):
    log = tmp_path / "log.txt"

    def command(folder: str) -> list[str]:
        options = ["--no_denoise", "--max_seconds", "1", "--num_workers", str(num_workers)]
        return ["prepare", str(recordings), str(tmp_path / folder), *options]

    code, num_changes = run(command("expected"), log)
    assert code == 0 and num_changes > 30, log.read_text()
    kinds = [(num_changes, {})]
    if num_workers > 1:
        kinds += [(10, {"in_worker": True}), (10, {"in_worker": True, "whole": False})]
    found = kill_and_go_on(command("output"), tmp_path / "output", log, kinds, 0, seed=num_workers)
    assert found == contents(tmp_path / "expected")
    assert len([name for name in found if name.endswith(".wav")]) == 16
