# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds of cross-validation: equal shares, undivided groups, independent of the order of the recordings."""

import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from datasets import Audio, Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.folds import (
    PREPARE_PROGRESS,
    assign_folds,
    check_fold_options,
    divide_by_fold,
    name_folds,
    pool_splits,
    sort_folds,
)
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.options import override_data_arguments


CLASSES = st.lists(st.sampled_from("abcdef"), min_size=10, max_size=80)
# Labels and group of each recording. Groups have any size.
GROUPED = st.lists(
    st.tuples(st.lists(st.sampled_from("abcd"), max_size=3, unique=True), st.integers(0, 20)), min_size=1, max_size=60
)


def make_source(keys, labels) -> Dataset:
    columns = {"audio": [f"/data/{key}" for key in keys], "file": list(keys), "key": list(keys), "label": list(labels)}
    return Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))


def count_of(values, number: int) -> list[int]:
    counts = Counter(values)
    return [counts[index] for index in range(number)]


@settings(max_examples=60, deadline=None)
@given(CLASSES, st.integers(2, 10), st.randoms(use_true_random=False))
def test_fold_sizes_differ_by_at_most_one(labels, num_folds, random):
    names = [f"{label}/{index}" for index, label in enumerate(labels)]
    folds = assign_folds(labels, names, num_folds)
    assert set(folds) <= set(range(num_folds)) and len(folds) == len(labels)
    sizes = count_of(folds, num_folds)
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        sizes = count_of([fold for fold, own in zip(folds, labels) if own == label], num_folds)
        assert max(sizes) - min(sizes) <= 1
    # The order of the recordings does not matter.
    order = random.sample(range(len(labels)), len(labels))
    again = assign_folds([labels[i] for i in order], [names[i] for i in order], num_folds)
    assert again == [folds[i] for i in order]


@settings(max_examples=60, deadline=None)
@given(GROUPED, st.integers(2, 6), st.randoms(use_true_random=False))
def test_folds_do_not_divide_groups(recordings, num_folds, random):
    labels, groups = [label for label, _ in recordings], [f"speaker {number}" for _, number in recordings]
    folds = assign_folds(labels, groups, num_folds)
    assert len(set(zip(groups, folds))) == len(set(groups))
    # No fold is empty while another has two groups.
    assert len(set(folds)) == min(num_folds, len(set(groups)))
    order = random.sample(range(len(labels)), len(labels))
    again = assign_folds([labels[i] for i in order], [groups[i] for i in order], num_folds)
    assert again == [folds[i] for i in order]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=30), st.integers(2, 6))
def test_groups_of_any_size_are_balanced(sizes, num_folds):
    """The largest and the smallest fold differ by at most the size of the largest group."""
    groups = [f"speaker {number}" for number, size in enumerate(sizes) for _ in range(size)]
    counts = count_of(assign_folds(["owl"] * len(groups), groups, num_folds), num_folds)
    assert max(counts) - min(counts) <= max(sizes)


def test_folds_do_not_depend_on_unicode_forms():
    names = [f"vögel/{index}_möwe.wav" for index in range(40)]
    other = [unicodedata.normalize("NFD", name) for name in names]
    assert other != names and assign_folds(["owl"] * 40, other, 5) == assign_folds(["owl"] * 40, names, 5)


def test_recordings_without_a_label_are_a_class():
    labels = [["owl"]] * 20 + [[]] * 10
    folds = assign_folds(labels, [str(index) for index in range(30)], 5)
    assert count_of(folds[:20], 5) == [4] * 5 and count_of(folds[20:], 5) == [2] * 5


def test_splits_of_a_fold_share_no_group():
    keys = [f"{label}/s{index // 2}_{index}.wav" for label in ("owl", "fox") for index in range(20)]
    source = DatasetDict({"unsplit": make_source(keys, [key.split("/")[0] for key in keys])})
    options = {"folds": 4, "group_pattern": r"/(s\d+)_"}
    tested = []
    for fold in "1234":
        rows = divide_by_fold(source, DataArguments(fold=fold, **options))
        assert list(rows) == ["train", "validation", "test"]
        assert sorted(index for _, indices in rows.values() for index in indices) == list(range(40))
        groups = {split: {keys[index].split("/")[1].split("_")[0] for index in rows[split][1]} for split in rows}
        assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 10
        tested += rows["test"][1]
    assert sorted(tested) == list(range(40))
    rows = divide_by_fold(source, DataArguments(fold="final", **options))
    assert {split: list(indices) for split, (_, indices) in rows.items()} == {"train": list(range(40))}
    with pytest.raises(UsageError, match=r"--fold 5: fold not found\. Choose one of: 1, 2, 3, 4\."):
        divide_by_fold(source, DataArguments(fold="5", **options))
    with pytest.raises(UsageError, match="Choose one with --fold"):
        divide_by_fold(source, DataArguments(**options))


def test_fold_pattern_finds_published_folds():
    keys = [
        f"{label}/{fold}-{index}-A-0.wav" for label in ("dog", "rain") for fold in (1, 2, 10) for index in range(3)
    ]
    source = make_source(keys, [key.split("/")[0] for key in keys])
    folds = name_folds(source, DataArguments(fold_pattern=r"/(\d+)-"))
    assert folds == [key.split("/")[1].split("-")[0] for key in keys] and sort_folds(folds) == ["1", "2", "10"]
    rows = divide_by_fold(DatasetDict({"unsplit": source}), DataArguments(fold_pattern=r"/(\d+)-", fold="10"))
    assert {keys[index].split("/")[1].split("-")[0] for index in rows["test"][1]} == {"10"}
    for pattern, message in (
        (r"/(\d+)_", r"--fold_pattern '/\(\\\\d\+\)_' does not match 18 of 18 names, the first: dog/1-0-A-0.wav"),
        ("(", "--fold_pattern '\\(' is not a valid regular expression"),
        ("(A)", "finds 'A' in every name. At least two folds are needed"),
        (".*", "finds a different text in every name"),
        (r"/(1?)", "finds an empty name or 'final'"),
        (r"^(\w+)/", r"dog \(fold dog\), rain \(fold rain\). Each class needs recordings in at least two folds"),
    ):
        with pytest.raises(DataError, match=message):
            name_folds(source, DataArguments(fold_pattern=pattern))


def test_classes_with_few_recordings_are_named(caplog):
    labels = ["owl"] * 12 + ["fox"] * 2
    source = make_source([f"{label}/{index}.wav" for index, label in enumerate(labels)], labels)
    folds = name_folds(source, DataArguments(folds=4))
    lacking = [fold for fold in "1234" if fold not in folds[-2:]]
    assert len(lacking) == 2
    assert "Some classes have fewer recordings than there are folds" in caplog.text
    assert f"not tested in every fold: fox in {', '.join(lacking)}." in caplog.text
    with pytest.raises(DataError, match="--folds 15: there are only 14 recordings"):
        name_folds(source, DataArguments(folds=15))
    with pytest.raises(DataError, match=r"fox \(fold \d\). Each class needs recordings in at least two folds"):
        name_folds(source.select(range(13)), DataArguments(folds=4))
    with pytest.raises(DataError, match="--folds 4: there are only 2 groups of --group_pattern"):
        name_folds(source, DataArguments(folds=4, group_pattern="^(.)"))


def test_groups_in_several_published_folds_warn(caplog):
    keys = [f"{label}/{fold}-s{index}.wav" for label in ("dog", "rain") for fold in (1, 2) for index in range(2)]
    source = make_source(keys, [key.split("/")[0] for key in keys])
    name_folds(source, DataArguments(fold_pattern=r"/(\d)", group_pattern=r"-(s\d)"))
    assert "2 groups are in several folds of --fold_pattern. Scores are therefore too high" in caplog.text


def test_only_the_final_model_uses_the_own_test_split(tones, tmp_path, caplog):
    """Folds divide the training and validation recordings. Only the final model is tested on the test split."""
    source = {}
    for fold in ("1", "2", "final"):
        source[fold] = load_recordings(DataArguments(data_dir=str(tones), folds=2, fold=fold))
    assert "Its test split (8 recordings) is not used for training or folds" in caplog.text
    sizes = {fold: {split: len(dataset) for split, dataset in splits.items()} for fold, splits in source.items()}
    assert sizes["1"] == sizes["2"] == {"train": 17, "validation": 3, "test": 20}
    assert sizes["final"] == {"train": 40, "test": 8}
    own = {str(path) for path in (tones / "test").rglob("*.wav")}
    assert set(source["final"]["test"]["file"]) == own
    assert not own & {file for fold in "12" for dataset in source[fold].values() for file in dataset["file"]}
    # Without a test split, no recordings remain to test the final model.
    unsplit = shutil.copytree(tones / "train", tmp_path / "unsplit")
    with pytest.raises(DataError, match="trained on all recordings, so there is no test split"):
        load_recordings(DataArguments(data_dir=str(unsplit), folds=2, fold="final"), splits=["test"])
    with pytest.raises(DataError, match="only a test split"):
        pool_splits(DatasetDict({"test": make_source(["a/1.wav"], ["a"])}))


def test_clips_of_a_prepared_recording_stay_together(make_tone, tmp_path):
    for label in ("owl", "fox"):
        for recording in range(4):
            for clip in range(3):
                make_tone(tmp_path / "denoised_clips/train" / label / f"{recording}_wav_{clip:04}.wav", 440, 0.05)
    (tmp_path / PREPARE_PROGRESS).touch()
    data = DataArguments(data_dir=str(tmp_path / "denoised_clips"), folds=2, fold="1")
    recordings = load_recordings(data)
    names = [{file.rpartition("_")[0] for file in dataset["file"]} for dataset in recordings.values()]
    assert sum(map(len, names)) == len(set().union(*names)) == 8
    # The same holds without folds, for each way to name the folder.
    for source in (
        {"data_dir": str(tmp_path / "denoised_clips")},
        {"data_dir": str(tmp_path / "denoised_clips/train")},
        {"dataset_name": str(tmp_path / "denoised_clips")},
    ):
        recordings = load_recordings(DataArguments(**source))
        names = [{Path(file).name.rpartition("_")[0] for file in own["file"]} for own in recordings.values()]
        assert len(names) > 1 and sum(map(len, names)) == len(set().union(*names)), source
    # In folders that `sanet prepare` did not write, each file is a separate recording.
    shutil.move(tmp_path / PREPARE_PROGRESS, tmp_path / "moved")
    recordings = load_recordings(data)
    assert sum(len({file.rpartition("_")[0] for file in dataset["file"]}) for dataset in recordings.values()) > 8


def test_clips_of_a_file_stay_together():
    keys = [f"{label}/day_{index // 4}.flac" for label in ("owl", "fox") for index in range(24)]
    source = make_source(keys, [key.split("/")[0] for key in keys])
    assert len(set(zip(keys, name_folds(source, DataArguments(folds=3))))) > 12
    source = source.add_column("start", [float(index) for index in range(48)])
    assert len(set(zip(keys, name_folds(source, DataArguments(folds=3))))) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds 1 must be at least 2"),
        ({"folds": 3, "fold_pattern": "(.)"}, "both make folds"),
        ({"fold": "1"}, "--fold needs --folds or --fold_pattern"),
        ({"folds": 3, "streaming": True}, "do not work with --streaming"),
    ],
)
def test_contradictory_options_are_an_error(options, message):
    with pytest.raises(UsageError, match=message):
        check_fold_options(DataArguments(data_dir="data", **options))


def test_other_recordings_do_not_use_the_folds_of_the_run(tmp_path, caplog):
    run = {"data_dir": str(tmp_path), "folds": 5, "fold": "2", "max_length_seconds": 1.0}
    for same in ({}, {"data_dir": f"{tmp_path}/x/.."}):
        assert override_data_arguments(run, same).fold == "2" and not caplog.text
    other = override_data_arguments(run, {"data_dir": str(tmp_path / "other")})
    assert (other.folds, other.fold, other.max_length_seconds) == (None, None, 1.0)
    assert "trained in cross-validation (fold 2)" in caplog.text
    moved = override_data_arguments(run, {"data_dir": str(tmp_path / "other"), "folds": 5, "fold": "2"})
    assert (moved.folds, moved.fold) == (5, "2")
