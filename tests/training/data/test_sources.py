# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Sources of recordings: folders, manifests, datasets and groups; checks for duplicates and silence."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, List, Value

from sanet_hf.audio.find import find_audio_files
from sanet_hf.audio.formats import SUFFIXES
from sanet_hf.cli.main import main
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.preparation.source_files import list_files


MULTI_LABEL = {"problem_type": "multi_label_classification"}


def names_of(dataset) -> list:
    feature = dataset.features["label"]
    if isinstance(feature, List):
        return [[feature.feature.names[i] for i in label] for label in dataset["label"]]
    return [feature.names[label] for label in dataset["label"]]


def contents(recordings) -> dict[str, list[tuple]]:
    """Return the file names and labels of each split."""
    return {
        split: [(Path(file).name, label) for file, label in zip(dataset["file"], names_of(dataset))]
        for split, dataset in recordings.items()
    }


HIDDEN = [".hidden.wav", "._recording.mp3", ".hidden/a.wav", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.wav"]


def test_all_commands_find_the_same_files(tmp_path, caplog):
    names = [f"recording{suffix}" for suffix in SUFFIXES]
    folder, elsewhere = tmp_path / "recordings", tmp_path / "elsewhere"
    for name in (*names, "LOUD.WAV", *HIDDEN, "notes.txt", "NOTES.TXT", "samples.raw"):
        for parent in (folder / "a", folder / "b", elsewhere):
            path = parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    # Links to files, to folders elsewhere, to a parent folder, and broken links.
    (folder / "c").symlink_to(elsewhere)
    (folder / "a/linked.wav").symlink_to(folder / "b/LOUD.WAV")
    (folder / "a/gone.flac").symlink_to(folder / "gone.flac")
    (folder / "a/again").symlink_to(folder)
    (folder / ".git").symlink_to(elsewhere)
    (folder / "__MACOSX").symlink_to(elsewhere)
    expected = {str(folder / label / name) for label in ("a", "b", "c") for name in (*names, "LOUD.WAV")}
    expected |= {str(folder / "a/linked.wav"), str(folder / "a/gone.flac")}
    assert set(find_audio_files([folder])) == set(find_audio_files([folder / "a", folder])) == expected
    assert set(read_source(DataArguments(data_dir=str(folder)))["unsplit"]["file"]) == expected
    files = list_files(folder)
    assert {str(file.path) for file in files if file.error is None} == expected
    left_out = {"notes.txt", "NOTES.TXT", "samples.raw"}
    assert {file.path.name for file in files if file.error is not None} == {*left_out, "again"}
    assert "skipped files whose suffix is not an audio format: 6 .txt, 3 .raw." in caplog.text


def test_circular_links_are_followed_once(tmp_path):
    """Twelve folders that link to each other give an exponential number of paths, but each file is found once."""
    for index in range(12):
        for other in range(12):
            (tmp_path / f"{index}").mkdir(exist_ok=True)
            (tmp_path / f"{index}/{other}").symlink_to(tmp_path / f"{other}")
        (tmp_path / f"{index}/a.wav").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "0")
    assert len(list(find_audio_files([tmp_path]))) == 12
    assert len(list(find_audio_files([tmp_path / "out"]))) == 12


# Manifests


@pytest.fixture
def clips(tmp_path, make_tone) -> Path:
    """Return a folder with `clips/0.wav` to `clips/5.wav`."""
    for index in range(6):
        make_tone(tmp_path / "clips" / f"{index}.wav", 200 + 100 * index, seconds=0.1, seed=index)
    return tmp_path


def write_manifest(folder: Path, suffix: str, rows: list[dict]) -> str:
    path = folder / f"manifest{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("place", ["a/\udcff.wav", "\udcff/a.wav"])
def test_files_with_names_not_in_utf8_are_skipped(clips, place, caplog):
    path = clips / "folder" / place
    path.parent.mkdir(parents=True)
    (clips / "clips" / "0.wav").rename(path)
    (clips / "folder" / "b").mkdir()
    (clips / "clips" / "1.wav").rename(clips / "folder" / "b" / "1.wav")
    with caplog.at_level("WARNING"):
        recordings = read_source(DataArguments(data_dir=str(clips / "folder")))
    assert [Path(file).name for file in recordings["unsplit"]["file"]] == ["1.wav"]
    assert "xff" in caplog.text and "its name is not UTF-8. Rename it" in caplog.text


def test_manifest_in_a_folder_not_in_utf8_is_an_error(clips):
    folder = clips / "\udcff"
    folder.mkdir()
    manifest = write_manifest(folder, ".csv", [{"file": "../clips/0.wav", "label": "a"}])
    with pytest.raises(DataError, match=r"\\udcff.* is not UTF-8\. Rename it"):
        read_source(DataArguments(manifest=manifest))


def rows_of(labels: list, splits: list[str] | None = None) -> list[dict]:
    rows = [{"file": f"clips/{index}.wav", "label": label} for index, label in enumerate(labels)]
    return [{**row, "split": split} for row, split in zip(rows, splits)] if splits else rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_manifest_splits_have_common_spellings(clips, suffix, monkeypatch):
    splits = ["train", "Training", "val", "dev", "test", " eval "]
    manifest = write_manifest(clips, suffix, rows_of(["a", "b", "a", "b", "a", "b"], splits))
    monkeypatch.chdir("/")
    recordings = load_recordings(DataArguments(manifest=manifest))
    assert contents(recordings) == {
        split: [(f"{first}.wav", "a"), (f"{first + 1}.wav", "b")]
        for split, first in (("train", 0), ("validation", 2), ("test", 4))
    }
    assert recordings["train"]["seconds"][:] == [0.1, 0.1]
    assert recordings["train"]["file"][0] == str(clips / "clips/0.wav")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_manifest_without_splits_is_divided(clips, suffix):
    manifest = write_manifest(clips, suffix, rows_of(["a", "b"] * 3))
    found = contents(load_recordings(DataArguments(manifest=manifest)))
    assert {split: sorted(label for _, label in rows) for split, rows in found.items()} == {
        split: ["a", "b"] for split in ("train", "validation", "test")
    }
    assert sorted(name for rows in found.values() for name, _ in rows) == [f"{index}.wav" for index in range(6)]


def test_manifest_supports_absolute_paths(clips, tmp_path_factory):
    rows = [{**row, "file": str(clips / row["file"])} for row in rows_of(["a", "b"] * 3)]
    manifest = write_manifest(tmp_path_factory.mktemp("elsewhere"), ".csv", rows)
    assert sum(map(len, load_recordings(DataArguments(manifest=manifest)).values())) == 6


def test_labels_like_numbers_or_null_stay_text(clips):
    manifest = write_manifest(clips, ".csv", rows_of(["01", "NA", "null"] * 2, ["train"] * 3 + ["val"] * 3))
    assert names_of(load_recordings(DataArguments(manifest=manifest))["train"]) == ["01", "NA", "null"]


def test_numbers_in_json_become_class_names(clips):
    manifest = write_manifest(clips, ".jsonl", rows_of([0, 1, 2] * 2, ["train"] * 3 + ["val"] * 3))
    assert names_of(load_recordings(DataArguments(manifest=manifest))["train"]) == ["0", "1", "2"]


NO_LABEL = r"1 of 2 recordings \(unsplit\) are unlabelled, more than max_bad_fraction=0.05: .*clips/1.wav\. Missing"


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".csv", "path,label\nclips/0.wav,a\n", "has no column 'file'. Its columns are 'path', 'label'"),
        (
            ".jsonl",
            '{"file": "clips/0.wav", "class": "a"}\n',
            "has no column 'label'. Its columns are 'file', 'class'",
        ),
        (".csv", "file,label,split\nclips/0.wav,a,train\nclips/1.wav,a,held\n", "split of row 2 is 'held'"),
        (".csv", "file,label,split\nclips/0.wav,a,\nclips/1.wav,a,test\n", "split of row 1 is ''.* or in none"),
        (".csv", "file,label\nclips/0.wav,a\nclips/1.wav,\n", NO_LABEL),
        (".csv", "file,label\nclips/0.wav,a\nclips/1.wav,  \n", NO_LABEL),
        (".csv", "file,label\nclips/0.wav,a\nclips/1.wav\n", NO_LABEL),
        (".jsonl", '{"file": "clips/0.wav", "label": "a"}\n{"file": "clips/1.wav"}\n', NO_LABEL),
        (".jsonl", '{"file": "clips/0.wav", "label": ["a", "b"]}\n', "--problem_type multi_label_classification"),
        (".jsonl", "file,label\n", "cannot be read"),
        (".csv", "", "cannot be read"),
        (".csv", "file,label\n", "has no rows"),
    ],
    ids=[
        "no_file_column",
        "no_label_column",
        "unknown_split",
        "empty_split",
        "empty_label",
        "blank_label",
        "short_row",
        "json_without_label",
        "lists_where_single_label",
        "no_json",
        "empty_file",
        "no_rows",
    ],
)
def test_invalid_manifest_is_an_error(clips, suffix, content, message):
    manifest = clips / f"manifest{suffix}"
    manifest.write_text(content)
    with pytest.raises(DataError, match=message):
        load_recordings(DataArguments(manifest=str(manifest)))


def test_missing_manifest_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        load_recordings(DataArguments(manifest=str(tmp_path / "none.csv")))


def test_missing_file_is_named(clips, caplog):
    rows = [*rows_of(["a", "b"] * 3), {"file": "clips/lost.wav", "label": "a"}]
    manifest = write_manifest(clips, ".csv", rows)
    with pytest.raises(DataError, match=r"1 of 7 recordings are unreadable.*\n.*clips/lost.wav: file not found"):
        load_recordings(DataArguments(manifest=manifest))
    recordings = load_recordings(DataArguments(manifest=manifest, max_bad_fraction=0.2))
    assert sum(map(len, recordings.values())) == 6
    assert "lost.wav: file not found" in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_manifest_with_several_labels_per_row(clips, suffix):
    labels = [["b", "a"], ["a"], [], ["c", "b"], ["b"], ["c"]]
    written = labels if suffix == ".jsonl" else [" ; ".join(label) for label in labels]
    manifest = write_manifest(clips, suffix, rows_of(written, ["train"] * 4 + ["val", "test"]))
    recordings = load_recordings(DataArguments(manifest=manifest, **MULTI_LABEL))
    assert names_of(recordings["train"]) == [["a", "b"], ["a"], [], ["b", "c"]]
    assert recordings["train"].features["label"].feature.names == ["a", "b", "c"]
    assert names_of(recordings["test"]) == [["c"]]


def test_semicolon_is_part_of_a_single_label(clips):
    manifest = write_manifest(clips, ".csv", rows_of(["a;b", "b"] * 3))
    assert load_recordings(DataArguments(manifest=manifest))["train"].features["label"].names == ["a;b", "b"]


# Datasets


def wav_bytes(seed: int) -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(1600)
    soundfile.write(file, noise, 16000, format="WAV")
    return file.getvalue()


def save_dataset(folder: Path, labels: dict[str, list], feature, audio="audio", label="label", named=True) -> str:
    """Write one Parquet file per split, as on the Hub, with the content of the recordings. Return the folder."""
    (folder / "data").mkdir(parents=True)
    for number, (split, values) in enumerate(labels.items()):
        clips = [
            {"bytes": wav_bytes(100 * number + index), "path": f"{split}_{index}.wav" if named else None}
            for index in range(len(values))
        ]
        dataset = Dataset.from_dict(
            {audio: clips, label: values, "speaker": [f"s{index}" for index in range(len(values))]},
            features=Features({audio: Audio(sampling_rate=16000), label: feature, "speaker": Value("string")}),
        )
        dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (ClassLabel(names=["dog", "cat"]), [1, 0]),
        (Value("string"), ["cat", "dog"]),
        (List(ClassLabel(names=["dog", "cat"])), [[1], [0, 1]]),
        (List(Value("string")), [["cat"], ["cat", "dog"]]),
        (Value("int64"), [7, 11]),
    ],
    ids=["class_label", "string", "list_of_class_label", "list_of_string", "integer"],
)
def test_dataset_supports_label_types(tmp_path, feature, values):
    name = save_dataset(tmp_path / "pets", {"train": values, "validation": values, "test": values[:1]}, feature)
    options = MULTI_LABEL if isinstance(feature, List) else {}
    expected = {
        "ClassLabel": ["cat", "dog"],
        "Value": list(map(str, values)),
        "List": [["cat"], ["cat", "dog"]],
    }[type(feature).__name__]
    recordings = load_recordings(DataArguments(dataset_name=name, **options))
    assert contents(recordings) == {
        split: [(f"{split}_{index}.wav", label) for index, label in enumerate(expected[:count])]
        for split, count in (("train", 2), ("validation", 2), ("test", 1))
    }
    assert recordings["train"]["seconds"][:] == [0.1, 0.1]


def test_columns_and_splits_with_other_names(tmp_path):
    splits = {"fit": ["a", "b"], "dev": ["b", "a"], "held": ["a"]}
    name = save_dataset(tmp_path / "other", splits, Value("string"), audio="sound", label="kind", named=False)
    options = DataArguments(
        dataset_name=name,
        audio_column_name="sound",
        label_column_name="kind",
        train_split_name="fit",
        validation_split_name="dev",
        test_split_name="held",
    )
    assert contents(load_recordings(options)) == {
        "train": [("0", "a"), ("1", "b")],
        "validation": [("0", "b"), ("1", "a")],
        "test": [("0", "a")],
    }


def test_validation_is_taken_from_train(tmp_path, caplog):
    name = save_dataset(tmp_path / "d", {"train": ["a", "b"] * 10, "test": ["a"]}, Value("string"))
    recordings = load_recordings(DataArguments(dataset_name=name))
    assert {split: len(rows) for split, rows in recordings.items()} == {"train": 18, "validation": 2, "test": 1}
    assert sorted(names_of(recordings["validation"])) == ["a", "b"]
    assert not set(recordings["train"]["file"]) & set(recordings["validation"]["file"])
    assert "no validation split" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_column_name": "sound"}, "no column 'sound'. Choose --audio_column_name from audio, label, speaker"),
        ({"label_column_name": "kind"}, "no column 'kind'. Choose --label_column_name from"),
        ({"train_split_name": "fit"}, "no split 'fit'. Choose one of: train, test"),
        ({"validation_split_name": "dev"}, "no split 'dev'. Choose one of: train, test"),
        ({"test_split_name": "held"}, "no split 'held'. Choose one of: train, test"),
        ({"dataset_name": "none/such"}, "cannot load the dataset"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_dataset_option_is_an_error(tmp_path, options, message):
    name = save_dataset(tmp_path / "d", {"train": ["a", "b"], "test": ["a", "b"]}, Value("string"))
    with pytest.raises(DataError, match=message):
        load_recordings(DataArguments(**{"dataset_name": name, **options}))


def test_train_on_a_dataset(tmp_path, tiny_options):
    labels = {"train": ["a", "b"] * 4, "validation": ["a", "b"], "test": ["b", "a"]}
    name = save_dataset(tmp_path / "d", labels, Value("string"))
    output_dir = tmp_path / "run"
    command = ["train", "sanet.yaml", "--dataset_name", name, "--output_dir", str(output_dir), *tiny_options]
    assert main([*command, "--num_train_epochs", "1"]) == 0
    predictions = (output_dir / "predictions/test.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in predictions[1:]] == [["test_0.wav", "b"], ["test_1.wav", "a"]]


# Splits by groups


@pytest.fixture
def speakers(tmp_path, make_tone) -> Path:
    """Make a folder of eight speakers, each with two recordings of `a` and two of `b`."""
    for speaker in range(8):
        for label in "ab":
            for take in range(2):
                path = tmp_path / label / f"spk{speaker}_{take}.wav"
                make_tone(path, 200 + 100 * speaker, seconds=0.05, seed=4 * speaker + 2 * (label == "a") + take)
    return tmp_path


@pytest.mark.parametrize(
    "pattern", [r"(spk\d+)_", r"spk\d+", r"[ab]/(spk\d+)"], ids=["group", "whole_match", "with_class"]
)
def test_group_pattern_keeps_speakers_together(speakers, pattern):
    recordings = load_recordings(DataArguments(data_dir=str(speakers), group_pattern=pattern))
    found = {
        split: {Path(file).name.split("_")[0] for file in dataset["file"]} for split, dataset in recordings.items()
    }
    assert sum(map(len, found.values())) == 8 and set(found) == {"train", "validation", "test"}
    assert all(len(recordings[split]) == 4 * len(names) for split, names in found.items())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"speaker\d+", "does not match 32 of 32 names, the first: a/spk0_0.wav"),
        (r"(spk[0-6])_", "does not match 4 of 32 names, the first: a/spk7_0.wav"),
        (r"(spk[0-6])?", "does not match .* of 32 names"),
        (r"(spk\d+", "is not a valid regular expression"),
    ],
    ids=["nowhere", "in_some", "in_an_optional_group", "no_regex"],
)
def test_group_pattern_must_match_every_name(speakers, pattern, message):
    with pytest.raises(DataError, match=message):
        load_recordings(DataArguments(data_dir=str(speakers), group_pattern=pattern))


def test_group_in_two_splits_of_the_source_warns(clips, caplog):
    manifest = write_manifest(clips, ".csv", rows_of(["a", "b"] * 3, ["train"] * 4 + ["val", "test"]))
    recordings = load_recordings(DataArguments(manifest=manifest, group_pattern=r"clips/[0-4]|5"))
    assert "are in both" not in caplog.text
    load_recordings(DataArguments(manifest=manifest, group_pattern=r"(clips)/"))
    assert "1 groups of --group_pattern are in both validation and train, the first: clips" in caplog.text
    assert len(recordings["train"]) == 4


# Checks


@pytest.mark.parametrize("source", ["folder", "manifest"])
def test_duplicates_are_found_by_content(tmp_path, make_tone, caplog, source):
    for seed, name in enumerate(("train/a/0", "train/a/1", "train/b/2", "validation/b/3", "test/b/4")):
        make_tone(tmp_path / f"{name}.wav", 300, seconds=0.05, seed=seed)
    samples, rate = soundfile.read(tmp_path / "train/a/1.wav", dtype="int16")
    (tmp_path / "test/a").mkdir()
    soundfile.write(tmp_path / "test/a/other.flac", samples, rate, subtype="PCM_16")
    soundfile.write(tmp_path / "train/a/again.flac", samples, rate, subtype="PCM_16")
    options = DataArguments(data_dir=str(tmp_path))
    if source == "manifest":
        files = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*.*"))]
        rows = [{"file": str(path), "label": path.parts[1], "split": path.parts[0]} for path in files]
        options = DataArguments(manifest=write_manifest(tmp_path, ".csv", rows))
    recordings = load_recordings(options)
    (line,) = [record.message for record in caplog.records if "in two splits" in record.message]
    # Duplicates within train are not reported.
    assert line.startswith("1 recording in") and line.count(" = ") == 1
    assert "train/a/1.wav (train) = " in line and "test/a/other.flac (test)" in line
    assert {split: len(rows) for split, rows in recordings.items()} == {"train": 4, "validation": 1, "test": 2}


def test_silent_recordings_are_named_and_used(tones, tiny_options, tmp_path, caplog):
    data = tmp_path / "data"
    for label in ("high", "low"):
        for split, count in (("train", 3), ("validation", 1), ("test", 1)):
            (data / split / label).mkdir(parents=True)
            for index in range(count):
                name = f"{label}_{split}_{index}.wav"
                (data / split / label / name).write_bytes((tones / split / label / name).read_bytes())
    for split in ("train", "test"):
        soundfile.write(data / split / "low/silent.wav", np.zeros(8000), 16000)
    output_dir = tmp_path / "run"
    command = ["train", "sanet.yaml", "--data_dir", str(data), "--output_dir", str(output_dir), *tiny_options]
    assert main([*command, "--num_train_epochs", "2"]) == 0
    (line,) = [record.message for record in caplog.records if "silent" in record.message]
    assert line.startswith("2 silent recordings, used nevertheless") and line.count("low/silent.wav") == 2
    assert not any("in two splits" in record.message for record in caplog.records)
    results = json.loads((output_dir / "all_results.json").read_text())
    assert all(np.isfinite(results[f"{split}_loss"]) for split in ("train", "eval", "test"))
    assert "silent.wav" in (output_dir / "predictions/train.csv").read_text()


# Single splits


def test_split_all_of_a_source_without_splits(clips):
    manifest = write_manifest(clips, ".csv", rows_of(["b", "a"] * 3))
    recordings = load_recordings(DataArguments(manifest=manifest), splits=["all"])
    assert contents(recordings) == {"all": [(f"{index}.wav", "ba"[index % 2]) for index in range(6)]}


def test_split_all_of_a_source_with_splits_is_an_error(tones):
    with pytest.raises(DataError, match=r"already have splits: .*train"):
        load_recordings(DataArguments(data_dir=str(tones)), splits=["all"])


def test_missing_split_is_an_error(clips):
    manifest = write_manifest(clips, ".csv", rows_of(["a", "b"] * 3, ["train"] * 4 + ["val"] * 2))
    with pytest.raises(DataError, match="no test split: the recordings have train, validation"):
        load_recordings(DataArguments(manifest=manifest), splits=["test"])


def test_test_split_needs_no_train_split(clips):
    """A model can be tested on recordings that have only a test split."""
    manifest = write_manifest(clips, ".csv", rows_of(["a"] * 6, ["test"] * 6))
    recordings = load_recordings(DataArguments(manifest=manifest), splits=["test"])
    assert {split: len(rows) for split, rows in recordings.items()} == {"test": 6}
    with pytest.raises(DataError, match="but no train split"):
        load_recordings(DataArguments(manifest=manifest))


def test_evaluate_split_all(trained, tones, tmp_path, capsys):
    output = tmp_path / "evaluation"
    command = ["evaluate", str(trained), "--data_dir", str(tones / "test"), "--split", "all", "--output", str(output)]
    assert main(command) == 0
    assert "all" in [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert json.loads((output / "metrics.json").read_text())["accuracy"] == 1.0
    header, *rows = (output / "predictions/all.csv").read_text().splitlines()
    assert header == "file,label,prediction,probability_high,probability_low" and len(rows) == 8


@pytest.mark.parametrize("label_as", ["text", "list"])
def test_label_column_of_every_source_is_text(clips, label_as):
    labels = ["a", "b"] * 3 if label_as == "text" else [["a"], ["a", "b"]] * 3
    manifest = write_manifest(clips, ".jsonl", rows_of(labels))
    source = read_source(DataArguments(manifest=manifest, **({} if label_as == "text" else MULTI_LABEL)))
    assert list(source) == ["unsplit"]
    assert source["unsplit"].features["label"] == (Value("string") if label_as == "text" else List(Value("string")))
    assert source["unsplit"]["key"][0] == "clips/0.wav"


def test_files_with_the_same_name_are_no_group(tmp_path, make_tone):
    """Without --group_pattern, each recording of a manifest is its own group."""
    lines = ["file,label"]
    for index in range(20):
        make_tone(tmp_path / f"{index}" / "audio.wav", 440, seed=index)
        lines.append(f"{index}/audio.wav,{'ab'[index % 2]}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    recordings = load_recordings(DataArguments(manifest=str(tmp_path / "list.csv")))
    assert {split: len(dataset) for split, dataset in recordings.items()} == {"train": 14, "validation": 2, "test": 4}


@pytest.mark.parametrize("folder", ["recordings", "[2024] a::b"])
@pytest.mark.parametrize("label", ["a::b", "[x]", "*", "zip:", "{a,b}", " b "])
def test_names_are_not_read_as_globs_or_urls(tmp_path, make_tone, folder, label):
    names = ["0.wav", "1::2.wav", "[3].wav", "*.wav", "http:::x.wav", "a#b%20?.wav"]
    for index, name in enumerate(names):
        for other in (label, "a"):
            make_tone(tmp_path / folder / other / name, 440, seed=2 * index + (other == label))
    recordings = load_recordings(DataArguments(data_dir=str(tmp_path / folder)))
    found = [
        (rows.features["label"].int2str(row["label"]), Path(row["file"]).parent.name, Path(row["file"]).name)
        for rows in recordings.values()
        for row in rows.remove_columns("audio")
    ]
    assert sorted(found) == sorted((name.strip(), name, file) for name in (label, "a") for file in names)


def test_script_dataset_loads_its_parquet_conversion(tmp_path, make_tone, monkeypatch):
    """datasets does not support scripts. The Hub's Parquet conversion is loaded instead."""
    calls = []

    def load_dataset(name, config, streaming, revision=None):
        calls.append((name, config, revision))
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found superb.py")
        return datasets.load_dataset("audiofolder", data_dir=str(tmp_path))

    for label in "ab":
        for index in range(4):
            make_tone(tmp_path / "train" / label / f"{index}.wav", 440, seed=ord(label) + index)
    monkeypatch.setattr("sanet_hf.training.data.sources.load_dataset", load_dataset)
    recordings = load_recordings(DataArguments(dataset_name="superb", dataset_config_name="ks"))
    assert calls == [("superb", "ks", None), ("superb", "ks", "refs/convert/parquet")]
    assert set(recordings) == {"train", "validation"} and sum(map(len, recordings.values())) == 8
