# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of recordings: layouts, errors and warnings; batches."""

import shutil

import numpy as np
import pytest
import torch

from sanet_hf import SANetFeatureExtractor
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import EvaluationClips, TrainingClips
from sanet_hf.training.data.load import check_validation
from sanet_hf.training.data.load import load_recordings as load


def load_recordings(data_dir, **options):
    return load(DataArguments(data_dir=str(data_dir), **options))


def labels_of(dataset) -> list[str]:
    names = dataset.features["label"].names
    return [names[label] for label in dataset["label"]]


def test_split_folders_are_loaded(tones):
    recordings = load_recordings(tones)
    assert {split: len(dataset) for split, dataset in recordings.items()} == {"train": 32, "validation": 8, "test": 8}
    for dataset in recordings.values():
        paths = [audio["path"] for audio in dataset["audio"]]
        assert labels_of(dataset) == [path.split("/")[-2] for path in paths]


@pytest.mark.parametrize(
    "names", [("training", "valid", "testing"), ("Train", "dev", "eval"), ("train", "val", "test")]
)
def test_split_folders_can_have_other_names(tones, tmp_path, names):
    for source, name in zip(("train", "validation", "test"), names):
        shutil.copytree(tones / source, tmp_path / name)
    assert set(load_recordings(tmp_path)) == {"train", "validation", "test"}


def test_class_folders_are_split_by_name(tmp_path, make_tone):
    for label in ("a", "b", "test_tones"):
        for index in range(20):
            make_tone(tmp_path / label / f"{index}.wav", 440, seed=index)
    recordings = load_recordings(tmp_path)
    paths = {split: {audio["path"] for audio in dataset["audio"]} for split, dataset in recordings.items()}
    assert {split: len(names) for split, names in paths.items()} == {"train": 48, "validation": 9, "test": 3}
    assert len(set.union(*paths.values())) == 60
    for dataset in recordings.values():
        assert set(labels_of(dataset)) == {"a", "b", "test_tones"}
    moved = tmp_path.parent / "moved"
    shutil.move(tmp_path, moved)
    again = load_recordings(moved)
    for split, dataset in again.items():
        assert {audio["path"].replace(str(moved), str(tmp_path)) for audio in dataset["audio"]} == paths[split]


def test_files_named_like_splits_keep_their_class(tones, tmp_path, make_tone):
    for label, frequency in (("a", 440), ("b", 880)):
        for split in ("train", "validation"):
            for name in ("test_1.wav", "validation-2.wav", "train.wav"):
                make_tone(tmp_path / split / label / name, frequency)
    recordings = load_recordings(tmp_path)
    assert {split: len(dataset) for split, dataset in recordings.items()} == {"train": 6, "validation": 6}


def test_missing_validation_split_is_held_out(tones, tmp_path):
    shutil.copytree(tones / "train", tmp_path / "train")
    recordings = load_recordings(tmp_path)
    assert {split: len(dataset) for split, dataset in recordings.items()} == {"train": 27, "validation": 5}


def make_nothing(folder):
    folder.rmdir()


def make_empty(folder):
    pass


def make_loose_files(folder, tone):
    tone(folder / "one.wav", 440)


def make_one_class(folder, tone):
    for index in range(5):
        tone(folder / "only" / f"{index}.wav", 440)


def make_empty_class(folder, tone):
    make_one_class(folder, tone)
    (folder / "empty").mkdir()


def make_test_only(folder, tone):
    for label in ("a", "b"):
        tone(folder / "test" / label / "0.wav", 440)


def make_unknown_label(folder, tone):
    for label in ("a", "b"):
        tone(folder / "train" / label / "0.wav", 440)
        tone(folder / "validation" / label / "0.wav", 440)
    tone(folder / "test" / "c" / "0.wav", 440)


def make_bad_files(folder, tone):
    for label in ("a", "b"):
        for index in range(9):
            tone(folder / label / f"{index}.wav", 440)
        (folder / label / "text.wav").write_text("this is no audio")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "folder not found"),
        (make_empty, "contains nothing but no class folders"),
        (make_loose_files, "contains 1 recording but no class folders"),
        (make_one_class, r"Found only one class \(only\)"),
        (make_empty_class, "class empty has no recordings"),
        (make_test_only, "have test, but no train split"),
        (make_unknown_label, "Classes in test but not in train: c"),
        (make_bad_files, r"2 of 20 recordings are unreadable(.|\n)*a/text.wav"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_errors_name_the_fault(tmp_path, make_tone, make, message):
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder, *[make_tone][: make.__code__.co_argcount - 1])
    with pytest.raises(DataError, match=message):
        load_recordings(folder)


def test_few_unreadable_files_are_skipped(tmp_path, make_tone, caplog):
    make_bad_files(tmp_path, make_tone)
    recordings = load_recordings(tmp_path, max_bad_fraction=0.1)
    assert sum(len(dataset) for dataset in recordings.values()) == 18
    assert caplog.text.count("Skipped: ") == 2 and "a/text.wav" in caplog.text and "b/text.wav" in caplog.text


def test_labels_are_the_class_indices_of_the_model(tones):
    recordings = load_recordings(tones)
    feature_extractor = SANetFeatureExtractor(max_length=4000)
    arguments = feature_extractor, {"high": 1, "low": 0}, 0.25
    test, train = EvaluationClips(recordings["test"], *arguments), TrainingClips(recordings["train"], *arguments)
    item = test[0]
    assert item["labels"] == 1 and "/high/" in recordings["test"][0]["audio"]["path"]
    assert len(item["input_values"]) == 4000
    # Evaluation reads the middle, training a new random part in each epoch.
    assert np.array_equal(item["input_values"], test[0]["input_values"])
    first, second = (train[index]["input_values"] for index in (0, len(train)))
    assert not np.array_equal(first, second)


def test_collate_pads_and_drops_full_masks():
    feature_extractor = SANetFeatureExtractor()
    features = [feature_extractor(np.ones(length), sampling_rate=16000, padding=False) for length in (3, 5)]
    items = [{**{name: value[0] for name, value in clip.items()}, "labels": 7} for clip in features]
    batch = collate(items, feature_extractor)
    assert batch["input_values"].dtype == torch.float32
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [7, 7]
    assert "attention_mask" not in collate([items[1], items[1]], feature_extractor)
    alike = collate([items[1], items[1]], feature_extractor, length=7)
    assert alike["input_values"].shape == (2, 7) and alike["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0]] * 2
    assert "attention_mask" in collate([items[1], items[1]], feature_extractor, length=5)


@pytest.mark.parametrize(
    ("count", "lines"),
    [
        (3, ["Few recordings: 2 train (fewest: 1 of a), 2 validation (fewest: 1 of a), 2 test (fewest: 1 of a)"]),
        (
            2,
            [
                "2 of 2 classes are not in test: a, b",
                "Few recordings: 2 train (fewest: 1 of a), 2 validation (fewest: 1 of a), 0 test",
            ],
        ),
        (1, []),
    ],
)
def test_few_recordings_warn(tmp_path, make_tone, caplog, count, lines):
    for label in "ab":
        for index in range(count):
            make_tone(tmp_path / label / f"{index}.wav", 440, seconds=0.05, seed=2 * index + (label == "a"))
    recordings = load_recordings(tmp_path)
    assert len(caplog.messages) == len(lines)
    assert all(message.startswith(line) for message, line in zip(caplog.messages, lines))
    assert not lines or "--folds 5" in caplog.messages[-1]
    if count > 1:
        check_validation(recordings)
    else:
        with pytest.raises(DataError, match=r"A class needs at least two recordings \(only one: a, b\)"):
            check_validation(recordings)


def test_class_missing_in_validation_or_test_is_named(tmp_path, make_tone, caplog):
    sites = {"A": {"owl": 2, "fox": 2}, "B": {"fox": 3, "owl": 3}, "C": {"fox": 4, "bat": 4}}
    for site, counts in sites.items():
        for label, count in counts.items():
            for index in range(count):
                make_tone(
                    tmp_path / label / f"site{site}_{index}.wav",
                    440,
                    0.05,
                    seed=len(site + label) + 10 * index + 100 * ord(site),
                )
    recordings = load_recordings(tmp_path, group_pattern="(site[A-Z])_")
    assert {split: len(dataset) for split, dataset in recordings.items()} == {"train": 14, "validation": 4}
    assert "1 of 3 classes are not in validation: bat." in caplog.text
    assert "3 of 3 classes are not in test: bat, fox, owl." in caplog.text
