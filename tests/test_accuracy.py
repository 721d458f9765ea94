# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The accuracy benchmark: its runs, the table of results, and resuming. Nothing is trained."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks import accuracy, accuracy_runs
from benchmarks.accuracy_table import (
    CHOSEN,
    Result,
    estimate_accuracy,
    estimate_difference,
    format_table,
    make_rows,
    read_result,
)
from sanet_hf.errors import DataError


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """
    Make two folders with two classes each. `folds` has two recordings per class in each of three folds. `splits` has
    ten per class to train and two to test.
    """
    for label in ("cat", "dog"):
        names = [f"folds/{label}/{fold}-{take}.wav" for fold in (1, 2, 3) for take in "AB"]
        names += [f"splits/train/{label}/{index}.wav" for index in range(10)]
        names += [f"splits/test/{label}/{index}.wav" for index in range(2)]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(folder: Path, right: list[int], baseline: list[int] | None = None, **metrics: float) -> None:
    """Write the result files of a finished run, with clips named 0, 1, ..."""
    (folder / "predictions").mkdir(parents=True)
    for name, answers in (("test", right), ("baseline_test", baseline or [])):
        rows = [(index, "cat", "cat" if answer else "dog") for index, answer in enumerate(answers)]
        if rows:
            metrics[f"{name}_accuracy"] = sum(answers) / len(answers)
            with open(folder / "predictions" / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("file", "label", "prediction"), *rows])
    (folder / "all_results.json").write_text(json.dumps(metrics))


def make_result(recipe: str, fold: str, seed: int, right: list[int], validation: float | None, **others) -> Result:
    values = {"is_baseline_right": None, "parameters": 10**6, "command_seconds": None, **others}
    files = tuple(map(str, range(len(right))))
    return Result(
        "set", recipe, fold, seed, files, np.array(right, bool), validation=validation, training_seconds=60.0, **values
    )


def test_dry_run(folders, capsys):
    options = "--data folds=folds splits=splits plain=splits --seeds 0 splits=3,4 --clips_per_class splits=5"
    recipes = ["default", "own=sanet.yaml,--num_train_epochs=3,--config_overrides=conv_dim=[8,16],se_reduction=4"]
    command = [
        *options.split(),
        "--fold_pattern",
        r"folds=(\d)-",
        "--output",
        "out",
        "--dry_run",
        "--recipes",
        *recipes,
    ]
    assert accuracy.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{run} (to do)"
        for run in (
            *(f"folds/{recipe}/fold_{fold}-0" for fold in (1, 2, 3) for recipe in ("default", "own")),
            *(f"splits/{recipe}/splits-{seed}" for seed in (3, 4) for recipe in ("default", "own")),
            *(f"plain/{recipe}/splits-0" for recipe in ("default", "own")),
        )
    ]
    assert lines[3].strip() == (
        "sanet train sanet.yaml --manifest out/folds/fold_1-0.csv --output_dir out/folds/own/fold_1-0 --seed 0 "
        "--num_train_epochs=3 '--config_overrides=conv_dim=[8,16],se_reduction=4'"
    )
    assert "--data_dir splits" in lines[-1]
    assert not Path("out").exists()


def test_recipe_can_refer_to_the_run_of_another(folders, capsys):
    recipes = ["default", "taught=--teacher={default},--class_weights=balanced"]
    data = ["--data", "folds=folds", "--fold_pattern", r"folds=(\d)-", "--seeds", "3", "--output", "out"]
    assert accuracy.main([*data, "--recipes", *recipes, "--dry_run"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if "--teacher" in line]
    assert len(commands) == 3
    for fold, command in zip((1, 2, 3), commands):
        assert f"--teacher=out/folds/default/fold_{fold}-3 " in command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipes", "fast"], "Choose one of default, ast, wav2vec2"),
        (["--recipes", "fast=sanet.yaml,--speed=3"], "--recipes fast: --speed=3 is not an option"),
        (["--recipes", "fast=sanet.yaml,--seed=3"], "--seed=3 is set by this command"),
        (["--recipes", "default", "Default=sanet.yaml"], "two recipes have the same name"),
        (["--seeds", "0", "0"], "needs different integers"),
        (["--seeds", "other=0"], "--data does not have other"),
        (["--clips_per_class", "set=11"], "cat has only 10"),
        (["--fold_pattern", r"set=(\d)", "--folds", "77"], "--folds 77: fold not found"),
    ],
)
def test_mistakes_are_found_before_training(options, message, folders, capsys):
    assert accuracy.main(["--data", "set=splits", "--output", "out", *options]) == 2
    assert message in capsys.readouterr().err and not Path("out").exists()


@pytest.mark.parametrize("validation", ["fold", "tenth"])
def test_folds(validation, folders):
    data = accuracy_runs.Data("folds", Path("folds"), r"(\d)-", None, (0, 1))
    runs = accuracy_runs.plan_runs(data, [accuracy_runs.parse_recipe("default")], Path("out"), validation)
    assert [(run.fold, run.seed) for run in runs] == [(fold, seed) for seed in (0, 1) for fold in "123"]
    splits = {(Path(file).parent.name, Path(file).name): split for file, _, split in runs[2].manifest}
    assert all((split == "test") == name.startswith("3") for (_, name), split in splits.items())
    count = Counter(splits.values())
    assert count == {"test": 4, "validation": 4, "train": 4} if validation == "fold" else count["train"] > 4
    if validation == "fold":
        assert all((split == "validation") == name.startswith("1") for (_, name), split in splits.items())


def test_drawn_clips(folders):
    data = accuracy_runs.Data("splits", Path("splits"), None, 5, (0, 1))
    first, second = accuracy_runs.plan_runs(data, [accuracy_runs.parse_recipe("default")], Path("out"))
    for run in (first, second):
        assert Counter((label, split) for _, label, split in run.manifest) == {
            (label, split): number
            for label in ("cat", "dog")
            for split, number in (("train", 4), ("validation", 1), ("test", 2))
        }
        assert len({file for file, *_ in run.manifest}) == 14
    assert first.manifest != second.manifest
    again, _ = accuracy_runs.plan_runs(data, [accuracy_runs.parse_recipe("default")], Path("out"))
    assert first.manifest == again.manifest


def test_interval_of_one_seed_pools_the_clips():
    right = [np.array([[1, 1, 1, 0]]), np.array([[1, 1, 0, 1, 1, 1]])]
    expected = binomtest(8, 10).proportion_ci(method="wilson")
    assert estimate_accuracy(right) == pytest.approx((0.8, expected.low, expected.high))
    low, high = estimate_accuracy([np.ones((3, 10))])[1:]
    assert (low, high) == pytest.approx((10 / (10 + 1.959964**2), 1))


def test_interval_of_several_seeds():
    """
    Scores of the clips 1, .5, 0, 1: variance .171875, over 4 clips .04296875. Accuracies of the seeds .75 and .5:
    variance .03125, over 2 seeds .015625. The sum V = .05859375 has V² / .015625² = 14.0625 degrees of freedom,
    t = 2.14400. p (1 - p) / V = 4 effective clips.
    """
    right = np.array([[1, 1, 0, 1], [1, 0, 0, 1]])
    assert estimate_accuracy([right]) == pytest.approx((0.625, 0.19787, 0.91848), abs=2e-4)


def test_paired_difference():
    """
    Differences of the clips 0, .5, 0, 0: variance .046875, over 4 clips .01171875. Differences of the seeds .25 and 0:
    variance .03125, over 2 seeds .015625. The sum V = .02734375 has 3.0625 degrees of freedom, t = 3.1477. Half of the
    width is 3.1477 √V = .52051.
    """
    right = np.array([[1, 1, 0, 1], [1, 0, 0, 1]])
    baseline = np.array([[1, 0, 0, 1]] * 2)
    assert estimate_difference([right], [baseline]) == pytest.approx((0.125, 0.125 - 0.5205, 0.125 + 0.5205), abs=1e-3)


def test_table(tmp_path):
    """Two folds of five clips. The baseline classifies 6 of 10 correctly, the network the same 6 and 2 more."""
    answers = {"1": ([1, 1, 1, 1, 0], [1, 1, 1, 0, 0]), "2": ([1, 1, 1, 1, 0], [1, 1, 1, 0, 0])}
    results = []
    for fold, (right, baseline) in answers.items():
        write_run(tmp_path / fold, right, baseline, eval_accuracy=0.5 + int(fold) / 10, train_runtime=60.0 * int(fold))
        results.append(read_result(tmp_path / fold, "set", "default", fold, 0, 120.0, 1_234_567))
    (row,) = make_rows(results)
    # Difference: mean .2, variance .16, over 10 clips: 1.95996 · √.016 = .24792.
    line = "| set | default | 80.0 (49.0 to 94.3) | 60.0 (31.3 to 83.2) | +20.0 (-4.8 to +44.8) | 65.0 | 1.5 | 2.0 | "
    assert format_table([row]).splitlines()[2] == line + "1.23 M | 2: 2 × 1 |"
    # The baseline has predictions of only three clips in fold 1: 6 of 8 are correct, and 7 for the network.
    path = tmp_path / "1/predictions/baseline_test.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    results[0] = read_result(tmp_path / "1", "set", "default", "1", 0)
    (row,) = make_rows(results)
    assert (row["baseline_test_accuracy"]["value"], row["difference"]["value"]) == (6 / 8, 1 / 8)
    assert row["baseline_clips"] == 8 and row["test_accuracy"]["value"] == 0.8
    assert row["command_seconds"] is None


def test_validation_chooses_the_recipe_of_each_fold():
    results = [
        make_result("a", "1", 0, [0, 0, 0, 1], 0.9),
        make_result("b", "1", 0, [1, 1, 1, 1], 0.8),
        make_result("a", "2", 0, [1, 1, 1, 1], 0.3),
        make_result("b", "2", 0, [1, 1, 0, 0], 0.4),
        make_result("without validation", "1", 0, [1, 1, 1, 1], None),
        make_result("without validation", "2", 0, [1, 1, 1, 1], None),
    ]
    rows = make_rows(results)
    assert [row["recipe"] for row in rows] == ["a", "b", "without validation", CHOSEN]
    assert rows[-1]["choice"] == {"1": "a", "2": "b"}
    assert rows[-1]["test_accuracy"]["value"] == 3 / 8
    assert rows[-1]["validation_accuracy"] == pytest.approx(0.65)


def test_inconsistent_results_are_refused(tmp_path):
    write_run(tmp_path / "run", [1, 1, 0, 0])
    results = json.loads((tmp_path / "run/all_results.json").read_text())
    (tmp_path / "run/all_results.json").write_text(json.dumps(results | {"test_accuracy": 0.75}))
    with pytest.raises(DataError, match="are right, but"):
        read_result(tmp_path / "run", "set", "a", "1", 0)
    with pytest.raises(DataError, match="different clips"):
        make_rows([make_result("a", "1", 0, [1, 1], None), make_result("a", "1", 1, [1, 1, 1], None)])


class Training:
    """Replaces a training process. It writes results, fails, or is interrupted, depending on its folder."""

    def __init__(self, command: list[str], stdout, **_):
        self.folder, self.returncode, self.is_terminated = (
            Path(command[command.index("--output_dir") + 1]),
            None,
            False,
        )
        self.log = stdout
        Training.started.append(self.folder.as_posix())

    def wait(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if self.is_terminated:
            self.returncode = 128 + signal.SIGTERM
        elif self.folder.as_posix() in Training.interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.folder.as_posix() in Training.failing:
            self.log.write(b"Out of memory.\n\n")
            self.returncode = 1
        else:
            write_run(self.folder, [1, 0, 1, 1], [0, 0, 1, 1], eval_accuracy=0.5, train_runtime=30)
            self.returncode = 0

    def terminate(self) -> None:
        self.is_terminated = True


def test_resumption(folders, monkeypatch, capsys):
    """The first run finishes, the second fails, the third is interrupted, and the next command starts the fourth."""
    monkeypatch.setattr(accuracy, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Training}))
    monkeypatch.setattr(accuracy, "load_classifier", lambda _: [SimpleNamespace(num_parameters=lambda: 2_000_000)])
    runs = [f"out/set/{recipe}/splits-{seed}" for seed in (0, 1) for recipe in ("default", "other")]
    Training.started, Training.failing, Training.interrupted = [], {runs[1]}, {runs[2]}
    command = [
        "--data",
        "set=splits",
        "--clips_per_class",
        "set=5",
        "--seeds",
        "0",
        "1",
        "--output",
        "out",
        "--recipes",
    ]
    recipes = ["default", "other=sanet.yaml,--num_train_epochs=3"]
    assert accuracy.main([*command, *recipes]) == 128 + signal.SIGINT
    assert Training.started == runs[:3]
    assert f"{runs[1][4:]} failed: Out of memory." in capsys.readouterr().err
    first = json.loads(Path("out/accuracy.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in first["runs"]] == [0] and first["failures"] == {runs[1][4:]: "Out of memory."}
    accuracy.main([*command, *recipes, "--dry_run"])
    states = [line.split("(")[1] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert states == ["finished)", "interrupted)", "interrupted)", "to do)"]
    Training.failing, Training.interrupted = {runs[1]}, set()
    assert accuracy.main([*command, *recipes]) == 1
    assert Training.started == [*runs[:3], *runs[1:]]
    output = capsys.readouterr().out
    assert output == Path("out/accuracy.md").read_text(encoding="utf-8") + "\n"
    assert "| set | default | 75.0 (" in output and "| 2.00 M | 2: 1 × 2 |" in output
    assert "1 of 4 runs are missing, 1 of them failed." in output
    results = json.loads(Path("out/accuracy.json").read_text(encoding="utf-8"))
    assert [len(run["attempts"]) for run in results["runs"]] == [1, 2, 1]
    assert results["runs"][1]["attempts"][0]["exit_code"] == 128 + signal.SIGTERM
    # Other options under the same name, or other recordings, are an error: the table would be wrong.
    assert accuracy.main([*command, "default", "other=sanet.yaml,--num_train_epochs=4"]) == 2
    Path("splits/train/cat/0.wav").rename("splits/train/cat/00.wav")
    assert accuracy.main([*command, *recipes]) == 2
    assert (
        "was trained with flags" in (error := capsys.readouterr().err)
        and "has other recordings or other splits" in error
    )
    assert len(Training.started) == 6


def test_documented_command_parses():
    page = (Path(__file__).parents[1] / "docs/accuracy.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m benchmarks\.accuracy (.*?)\n```", page, re.DOTALL | re.MULTILINE)
    arguments = accuracy.make_parser().parse_args(shlex.split(command.replace("\\\n", "")))
    assert arguments.fold_pattern == [r"esc10=(\d)-"]
    assert accuracy_runs.parse_seeds(arguments.seeds, ["esc10", "drums", "voices"])["voices"] == (0, 1, 2, 3, 4)
    assert {accuracy_runs.parse_recipe(text).name for text in arguments.recipes} == set(accuracy_runs.RECIPES)
