# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings that a run was trained on are skipped in its evaluation, whatever their names."""

import csv
import shutil
from pathlib import Path

import pytest
import soundfile
import yaml

from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import DataError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.record import EARLIER, RECORD_FILE, find_record, read_record, write_record
from sanet_hf.training.evaluation.saved_models import evaluate_models
from sanet_hf.training.run_folder import OPTIONS_FILE
from sanet_hf.training.train import train


def make_classes(folder: Path, make_tone, numbers) -> None:
    for label, frequency in (("fox", 800), ("owl", 300)):
        for index in numbers:
            path = folder / label / f"{label}_{index}.wav"
            make_tone(path, frequency, seconds=0.1, seed=2 * index + (label == "owl"))


@pytest.fixture
def grown(tmp_path, make_tone) -> Path:
    """Make the recordings of `run` and five more per class."""
    make_classes(tmp_path / "grown", make_tone, range(25))
    return tmp_path / "grown"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_options) -> Path:
    """Train on class folders with twenty recordings each. Return the folder of the run."""
    from tests.training.conftest import write_tone

    folder = tmp_path_factory.mktemp("seen")
    make_classes(folder / "data", write_tone, range(20))
    command = ["sanet.yaml", "--data_dir", str(folder / "data"), "--output_dir", str(folder / "run"), *tiny_options]
    train(*parse_train_arguments([*command, "--num_train_epochs", "1"]))
    return folder / "run"


def names_in(run: Path, *splits: str) -> list[str]:
    """Return the names of the recordings in the run's predictions of these splits."""
    return [
        Path(row["file"]).name
        for split in splits
        for row in csv.DictReader((run / "predictions" / f"{split}.csv").open())
    ]


def evaluated(run: Path, split: str | None = None, **data_options) -> set[str]:
    """Evaluate a run. Return the names of the recordings that are used."""
    (result,) = evaluate_models([str(run)], {name: str(value) for name, value in data_options.items()}, split, 4)
    assert split in (None, result.evaluation.split)
    return {Path(file).name for file in result.evaluation.files}


def test_record_is_written_before_training(run):
    record = read_record(run / RECORD_FILE)
    counts = {split: len(names_in(run, split)) for split in ("train", "validation", "test")}
    assert {split: len(digests) for split, digests in record.items()} == counts
    assert find_record(next(run.glob("checkpoint-*"))) == record
    first_checkpoint = min(path.stat().st_mtime_ns for path in run.glob("checkpoint-*/*"))
    assert (run / RECORD_FILE).stat().st_mtime_ns < first_checkpoint


def test_grown_folder_keeps_its_splits(run, grown, caplog):
    before = set(names_in(run, "test"))
    names = evaluated(run, "test", data_dir=grown)
    assert before <= names and not names & set(names_in(run, "train", "validation"))
    assert "Skipped" not in caplog.text


def test_renamed_training_recording_is_skipped(run, grown, caplog):
    """A copy of a training recording replaces a recording of the test split."""
    test_names = names_in(run, "test")
    label = test_names[0].split("_")[0]
    trained = next(name for name in names_in(run, "train") if name.startswith(label))
    samples, rate = soundfile.read(grown / label / trained, dtype="int16")
    soundfile.write(grown / label / test_names[0], samples, rate)
    names = evaluated(run, "test", data_dir=grown)
    assert test_names[0] not in names and set(test_names[1:]) <= names
    assert f"Skipped 1 of {len(names) + 1} recordings, because {run} was trained on them" in caplog.text
    assert test_names[0] in caplog.text


def test_all_unseen_recordings_are_evaluated(run, grown, make_tone, tmp_path, caplog):
    """In a folder without splits, only the run's training and validation recordings are skipped."""
    names = evaluated(run, data_dir=grown)
    new = {f"{label}_{index}.wav" for label in ("fox", "owl") for index in range(20, 25)}
    assert names == new | set(names_in(run, "test"))
    assert f"Skipped {len(names_in(run, 'train', 'validation'))} of 50 recordings, " in caplog.text
    caplog.clear()
    make_classes(tmp_path / "others", make_tone, range(40, 43))
    assert len(evaluated(run, data_dir=tmp_path / "others")) == 6 and not caplog.text
    # The recordings of the run are divided into splits, so only the test split is evaluated.
    assert evaluated(run) == set(names_in(run, "test"))
    assert evaluated(run, "validation") == set(names_in(run, "validation"))


def test_no_unseen_recordings_are_an_error(run, tmp_path):
    for name in names_in(run, "train"):
        path = run.parent / "data" / name.split("_")[0] / name
        target = tmp_path / "data" / path.parent.name / f"copy_{name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with pytest.raises(DataError, match=r"was trained on all .* recordings, so none remain"):
        evaluated(run, data_dir=tmp_path / "data")


def test_model_without_a_record_warns(run, grown, tmp_path, caplog):
    other = shutil.copytree(run, tmp_path / "older")
    (other / RECORD_FILE).unlink()
    assert len(evaluated(other, data_dir=grown)) == 50
    assert f"Cannot check whether {other} was trained on some of these recordings: " in caplog.text


def test_comparison_skips_recordings_seen_by_any_model(run, grown, tmp_path, caplog):
    """This also holds for models with different sampling rates."""
    other = shutil.copytree(run, tmp_path / "other")
    _, feature_extractor = load_classifier(other)
    feature_extractor.sampling_rate = 8000
    feature_extractor.save_pretrained(other)
    new = {f"{label}_{index}.wav" for label in ("fox", "owl") for index in range(20, 25)}
    for name in new:
        folder = tmp_path / "data" / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(grown / folder.name / name, folder / f"other_{name}")
    recordings = load_recordings(DataArguments(data_dir=str(tmp_path / "data")), 8000)
    write_record(other / RECORD_FILE, recordings)
    results = evaluate_models([str(run), str(other)], {"data_dir": str(grown)}, "all", 4)
    trained = {
        Path(file).name.removeprefix("other_")
        for split in ("train", "validation")
        for file in recordings[split]["file"]
    }
    expected = (new - trained) | set(names_in(run, "test"))
    assert len(trained) > 5
    for result in results:
        assert {Path(file).name for file in result.evaluation.files} == expected
    assert f"Skipped {50 - len(expected)} of 50 recordings, because {run} or {other}" in caplog.text


def test_each_model_gets_windows_of_its_own_length(run, tmp_path):
    """A run whose options do not name a length uses the default, not the length of the first model."""
    folders = [shutil.copytree(run, tmp_path / name) for name in ("short", "default")]
    for folder, own in zip(folders, ({"max_length_seconds": 0.05}, {})):
        path = folder / OPTIONS_FILE
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        options.pop("max_length_seconds", None)
        path.write_text(yaml.safe_dump(options | own), encoding="utf-8")
    results = evaluate_models([str(folder) for folder in folders], {}, "test", 4)
    assert [result.max_length_seconds for result in results] == [0.05, DataArguments().max_length_seconds]


def test_fine_tuning_keeps_the_earlier_record(run, grown, tmp_path, tiny_options, caplog):
    # Other names give other splits.
    for path in list(grown.rglob("*.wav")):
        path.rename(path.with_name(f"renamed_{path.name}"))
    command = ["sanet.yaml", "--data_dir", str(grown), "--output_dir", str(tmp_path / "tuned"), *tiny_options[2:]]
    train(*parse_train_arguments([*command, "--num_train_epochs", "1", "--model_name_or_path", str(run)]))
    seen = {name.removeprefix("renamed_") for name in names_in(tmp_path / "tuned", "test")}
    seen &= set(names_in(run, "train", "validation"))
    assert seen
    assert f"{run} was already trained on {len(seen)} of " in caplog.text and "test recordings, so" in caplog.text
    before, after = read_record(run / RECORD_FILE), read_record(tmp_path / "tuned" / RECORD_FILE)
    assert before["train"] | before["validation"] <= after["train"] | after["validation"] | after[EARLIER]
    assert not {name.removeprefix("renamed_") for name in evaluated(tmp_path / "tuned")} & seen
