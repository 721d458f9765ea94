# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The rules for split and class folders. They are the same for training, preparation and checks."""

from pathlib import Path

import pytest

from sanet_hf.audio.folders import SPLIT_NAMES, find_split_folders
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.preparation.source_files import list_files


def make(folder: Path, paths: str) -> Path:
    for path in paths.split():
        path = folder / path
        (path if path.suffix == "" else path.parent).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
    return folder


def found(folder: Path) -> dict[str, set[str]]:
    """Return the classes of each split. Check that training and preparation find the same."""
    source = read_source(DataArguments(data_dir=str(folder)))
    classes = {split: set(dataset["label"]) for split, dataset in source.items()}
    prepared: dict[str, set[str]] = {}
    for file in list_files(folder):
        if file.error is None:
            prepared.setdefault(file.split, set()).add(file.label)
    assert prepared == classes
    return classes


@pytest.mark.parametrize("names", ["airplane car train", "Asha Dev Ravi", "test a", "eval valid owl"])
def test_classes_with_names_of_splits(tmp_path, names, caplog):
    names = names.split()
    make(tmp_path, " ".join(f"{name}/0.wav" for name in names))
    assert found(tmp_path) == {"unsplit": set(names)}
    assert next(name for name in names if name.lower() in SPLIT_NAMES) in caplog.text
    assert "as a class, not as a split" in caplog.text


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("train/a/0.wav train/b/0.wav", {"train": {"a", "b"}}),
        ("Training/a/0.wav dev/a/0.wav EVAL/a/0.wav", {"train": {"a"}, "validation": {"a"}, "test": {"a"}}),
        ("train/train/0.wav train/test/0.wav test/test/0.wav", {"train": {"train", "test"}, "test": {"test"}}),
        ("train/a/0.wav test/a", {"train": {"a"}}),
    ],
)
def test_splits(tmp_path, paths, expected):
    assert found(make(tmp_path, paths)) == expected


@pytest.mark.parametrize(
    ("paths", "left_out"),
    [
        ("train/a/0.wav test/a/0.wav notes/a.txt", "skipped notes/, because there are split folders"),
        ("train/a/0.wav test/a/0.wav more/a/0.wav", "skipped more/, because there are split folders"),
        ("train/a/0.wav test/a/0.wav validation/0.wav", "validation, because it contains no class folders"),
        ("train/a/0.wav test/a/0.wav test/1.wav", "Skipped 1 recording outside of class folders"),
    ],
)
def test_extra_folders_and_files_are_skipped_with_a_warning(tmp_path, paths, left_out, caplog):
    assert found(make(tmp_path, paths)) == {"train": {"a"}, "test": {"a"}}
    assert left_out in caplog.text


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("airplane/0.wav car/0.wav train/steam/0.wav", "train/ has the name of a split and contains class folders"),
        ("train/a/0.wav test/a/0.wav noise/0.wav", "noise/ next to it contains recordings"),
        ("train/a/0.wav training/a/0.wav", "several folders for the train split: train/, training/"),
    ],
)
def test_ambiguous_folders_are_an_error(tmp_path, paths, message):
    make(tmp_path, paths)
    for read in (find_split_folders, list_files, lambda folder: read_source(DataArguments(data_dir=str(folder)))):
        with pytest.raises(DataError, match=message):
            read(tmp_path)


def test_splits_without_classes_are_an_error(tmp_path):
    make(tmp_path, "train/0.wav test/0.wav")
    with pytest.raises(DataError, match="train contains 1 recording but no class folders"):
        read_source(DataArguments(data_dir=str(tmp_path)))


def test_recordings_outside_of_classes_are_skipped(tmp_path, caplog):
    assert found(make(tmp_path, "a/0.wav b/0.wav 1.wav")) == {"unsplit": {"a", "b"}}
    assert "Skipped 1 recording outside of class folders" in caplog.text
