# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Labels, by the same rules from every source: missing, hidden, 0/1, Unicode forms. Also recordings without audio."""

import io
import json
import math
import tarfile
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, LargeList, List, Value
from hypothesis import given
from hypothesis import strategies as st
from transformers import Wav2Vec2FeatureExtractor

from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.clips import StreamedClips
from sanet_hf.training.data.labels import LabelFormat, find_label_format, label_matrix
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.sources import read_source, stream_training_split


PLAIN = Wav2Vec2FeatureExtractor(do_normalize=False)
MULTI_LABEL = {"problem_type": "multi_label_classification"}
SOURCES = ["csv", "jsonl", "parquet", "streamed parquet", "tar", "streamed tar"]


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """Shorten the pause of seconds that datasets makes after each pass over a stream."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01)


def encode(number: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(160, number / 1000), 16000, format="FLAC")
    return file.getvalue()


def as_text(label: object) -> str:
    if isinstance(label, list):
        return ";".join(map(str, label))
    return "" if label is None or label != label else str(label)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def make_source(kind: str, folder: Path, splits: dict[str, list], feature=None) -> dict[str, object]:
    """Write recordings with these labels as a source of this kind, and return the options that select it."""
    if kind in ("csv", "jsonl"):
        rows = []
        for split, labels in splits.items():
            for index, label in enumerate(labels):
                name = f"{split}_{index:02}.flac"
                (folder / name).write_bytes(encode(index))
                rows.append({"file": name, "label": label, "split": split})
        path = folder / f"manifest.{kind}"
        if kind == "csv":
            lines = [f"{row['file']},{as_text(row['label'])},{row['split']}" for row in rows]
            path.write_text("\n".join(["file,label,split", *lines]))
        else:
            path.write_text("\n".join(map(json.dumps, rows)))
        return {"manifest": str(path)}
    for split, labels in splits.items():
        if "parquet" in kind:
            audio = [{"bytes": encode(i), "path": f"{split}_{i:02}.flac"} for i in range(len(labels))]
            features = {"features": Features({"audio": Audio(), "label": feature})} if feature is not None else {}
            dataset = Dataset.from_dict({"audio": audio, "label": labels}, **features)
            dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        else:
            members = []
            for index, label in enumerate(labels):
                members.append((f"{split}_{index:02}.flac", encode(index)))
                if label is not None:
                    members.append((f"{split}_{index:02}.txt", as_text(label).encode()))
            write_tar(folder / f"{split}-00000.tar", members)
    columns = {} if "parquet" in kind else {"audio_column_name": "flac", "label_column_name": "txt"}
    return {"dataset_name": str(folder), "streaming": "streamed" in kind, **columns}


def read(options: dict[str, object]) -> dict[str, list]:
    """Return the labels of each split, in the order of the source."""
    arguments = DataArguments(**options)
    found = {split: dataset["label"][:] for split, dataset in read_source(arguments).items()}
    if arguments.streaming:
        names = sorted({name for labels in found.values() for label in labels for name in np.atleast_1d(label)})
        is_multi_label = arguments.problem_type == "multi_label_classification"
        clips = StreamedClips(
            stream_training_split(arguments),
            PLAIN,
            {name: index for index, name in enumerate(names)},
            1,
            is_multi_label=is_multi_label,
            class_names=arguments.class_names,
        )
        # The value of a recording's samples is its position in the source.
        items = sorted(clips, key=lambda item: item["input_values"][0])
        labels = [item["labels"] for item in items]
        if is_multi_label:
            found["train"] = [[names[i] for i in np.flatnonzero(label)] for label in labels]
        else:
            found["train"] = [names[label] for label in labels]
    return found


PETS = ["cat", "dog"] * 10


@pytest.mark.parametrize("kind", SOURCES)
def test_missing_labels_are_skipped(tmp_path, kind, caplog):
    """
    A recording without a label is skipped with a warning. 1 of 20 is the most that max_bad_fraction allows by default.
    In tars it is not among the first five, because datasets infers the columns from them.
    """
    train = [None if index == 7 else name for index, name in enumerate(PETS)]
    options = make_source(kind, tmp_path, {"train": train, "validation": PETS[:3], "test": PETS[:2]})
    found = read(options)
    assert found == {
        "train": [name for index, name in enumerate(PETS) if index != 7],
        "validation": ["cat", "dog", "cat"],
        "test": ["cat", "dog"],
    }
    assert "train_07" in caplog.text and "label" in caplog.text


def test_labels_1_and_1_0_are_one_class():
    """pandas writes 0 and 1 as 0.0 and 1.0 if a label of the column is missing."""
    assert find_label_format(["0", "1"], False, None, "owl,fox").read("1.0", "a.wav") == ["fox"]
    assert LabelFormat(False).read("1.0", "a.wav") == LabelFormat(False).read(1.0, "a.wav") == ["1"]
    assert LabelFormat(False).read("-1.0", "a.wav") is None
    assert LabelFormat(False).read("1.05", "a.wav") == ["1.05"]
    with pytest.raises(DataError, match="lists of 0 and 1"):
        find_label_format(["0.0", "1.0", "0.0"], True)


@pytest.mark.parametrize("text", ["nan", "NA", "<NA>", "Null", "#N/A"])
def test_text_like_a_missing_label_warns(tmp_path, text, caplog):
    read(make_source("csv", tmp_path, {"train": ["cat", "dog", text, "cat"]}))
    assert f"{text} counts as a class. If it means that the label is missing" in caplog.text
    caplog.clear()
    read(make_source("csv", tmp_path, {"train": ["cat", "dog", "nandu", "none"]}))
    assert "counts as a class" not in caplog.text


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "tar"])
def test_too_many_missing_labels_are_an_error(tmp_path, kind):
    labels = [None if index in (7, 9) else name for index, name in enumerate(PETS)]
    options = make_source(kind, tmp_path, {"train": labels, "test": PETS})
    with pytest.raises(DataError, match=r"2 of 20 recordings \(train\) are unlabelled.*train_07.*train_09"):
        read(options)
    assert len(read({**options, "max_bad_fraction": 0.1})["train"]) == 18


NAMED = ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    ("kind", "missing", "feature"),
    [
        ("csv", "", None),
        ("csv", "  ", None),
        ("csv", "-1", None),
        ("jsonl", None, None),
        ("jsonl", -1, None),
        ("jsonl", math.nan, None),
        ("parquet", -1, NAMED),
        ("parquet", None, NAMED),
        ("parquet", -1, Value("int64")),
        ("parquet", math.nan, Value("float32")),
        ("parquet", None, Value("string")),
        ("parquet", "", Value("string")),
        ("streamed parquet", -1, NAMED),
        ("streamed parquet", None, Value("string")),
        ("tar", "", None),
        ("streamed tar", "-1", None),
    ],
)
def test_split_with_hidden_labels_is_skipped(tmp_path, kind, missing, feature, caplog):
    """Test splits of competitions often have hidden labels."""
    labels = [0, 1, 0, 1] if feature is None or feature.dtype != "string" else ["0", "1"] * 2
    splits = {"train": labels, "validation": labels[:2], "test": [missing] * 3}
    found = read(make_source(kind, tmp_path, splits, feature))
    names = ["cat", "dog"] if feature is NAMED else ["0", "1"]
    assert found == {"train": names * 2, "validation": names}
    assert "Skipped the test split: none of its 3 recordings has a label" in caplog.text


def test_no_labels_at_all_are_an_error(tmp_path):
    options = make_source("jsonl", tmp_path, {"train": [-1] * 3, "test": PETS})
    with pytest.raises(DataError, match="None of the 3 training recordings has a label"):
        read(options)


@pytest.mark.parametrize(
    ("kind", "labels", "feature"),
    [
        ("csv", [["cat"], [], ["dog", "cat"]], None),
        ("csv", ["['cat']", "[]", "\"['dog', 'cat']\""], None),
        ("jsonl", [["cat"], [], ["dog", "cat"]], None),
        ("jsonl", ["cat", "", "dog;cat"], None),
        ("parquet", [["cat"], [], ["dog", "cat"]], List(Value("string"))),
        ("parquet", [["cat"], [], ["dog", "cat"]], LargeList(Value("string"))),
        ("parquet", [[0], [], [1, 0]], List(NAMED)),
        ("parquet", ["cat", "", "dog;cat"], Value("string")),
        ("streamed parquet", [[0], [], [1, 0]], List(NAMED)),
        ("streamed parquet", ["cat", "", "dog;cat"], Value("string")),
        ("tar", [["cat"], [], ["dog", "cat"]], None),
        ("streamed tar", [["cat"], [], ["dog", "cat"]], None),
    ],
)
def test_recordings_of_no_class(tmp_path, kind, labels, feature):
    """An empty list or text means no class, in every split."""
    found = read({**make_source(kind, tmp_path, {"train": labels, "validation": labels}, feature), **MULTI_LABEL})
    assert found == {split: [["cat"], [], ["cat", "dog"]] for split in ("train", "validation")}


@pytest.mark.parametrize(
    ("kind", "missing", "feature"),
    [
        ("jsonl", None, None),
        ("jsonl", [-1], None),
        ("parquet", None, List(NAMED)),
        ("parquet", [1, -1], List(NAMED)),
        ("parquet", [0, None], List(NAMED)),
        ("streamed parquet", None, List(NAMED)),
    ],
)
def test_missing_label_lists_are_skipped(tmp_path, kind, missing, feature):
    present = [["cat"], ["dog"]] if feature is None else [[0], [1]]
    labels = present * 10 + [missing]
    found = read({**make_source(kind, tmp_path, {"train": labels, "test": present}, feature), **MULTI_LABEL})
    assert found == {"train": [["cat"], ["dog"]] * 10, "test": [["cat"], ["dog"]]}


ZERO_ONE = [[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("kind", "labels", "feature"),
    [
        ("csv", ZERO_ONE, None),
        ("csv", [f"[{' '.join(map(str, label))}]" for label in ZERO_ONE], None),
        ("csv", [f'"{label}"' for label in ZERO_ONE], None),
        ("jsonl", ZERO_ONE, None),
        ("jsonl", [[entry == 1 for entry in label] for label in ZERO_ONE], None),
        ("parquet", ZERO_ONE, List(Value("int64"))),
        ("parquet", ZERO_ONE, List(Value("float32"))),
        ("parquet", ZERO_ONE, List(Value("bool"))),
        ("parquet", ZERO_ONE, List(Value("int8"), length=3)),
        ("parquet", ZERO_ONE, List(ClassLabel(names=["absent", "present"]))),
        ("streamed parquet", ZERO_ONE, List(Value("int64"))),
        ("tar", ZERO_ONE, None),
        ("streamed tar", ZERO_ONE, None),
    ],
)
def test_lists_of_0_and_1(tmp_path, kind, labels, feature):
    """Lists of 0 and 1 mean classes by position and need --class_names. Otherwise 0 and 1 would be the classes."""
    options = {**make_source(kind, tmp_path, {"train": labels, "test": labels}, feature), **MULTI_LABEL}
    found = read({**options, "class_names": "owl,fox, bat"})
    expected = [["owl"], [], ["bat", "fox"], ["bat", "fox", "owl"]]
    assert found == {"train": expected, "test": expected}
    with pytest.raises(DataError, match=r"lists of 0 and 1, all of length 3.*--class_names owl,fox"):
        read(options)
    with pytest.raises(DataError, match="3 times 0 or 1, but --class_names has 2 classes: owl, fox"):
        read({**options, "class_names": "owl,fox"})


@pytest.mark.parametrize(("kind", "labels"), [("csv", [1, 0]), ("jsonl", [[1], [0]]), ("jsonl", [True, False])])
def test_detector_with_0_and_1(tmp_path, kind, labels):
    options = {**make_source(kind, tmp_path, {"train": labels, "test": labels}), **MULTI_LABEL}
    assert read({**options, "class_names": "owl"})["test"] == [["owl"], []]
    assert read({**options, "class_names": "noise,owl"})["test"] == [["owl"], ["noise"]]
    with pytest.raises(DataError, match="lists of 0 and 1, all of length 1"):
        read(options)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "streamed parquet", "tar"])
def test_class_names_name_class_indices(tmp_path, kind):
    options = make_source(kind, tmp_path, {"train": [1, 0, 1], "validation": [1, 0]}, Value("int64"))
    assert read({**options, "class_names": "owl,fox"}) == {
        "train": ["fox", "owl", "fox"],
        "validation": ["fox", "owl"],
    }
    with pytest.raises(DataError, match=r"has the label 1, which is not a class\. The classes are 0 to 0 \(owl\)"):
        read({**options, "class_names": "owl"})
    with pytest.raises(DataError, match="contains a class twice"):
        read({**options, "class_names": "owl,owl"})


@pytest.mark.parametrize(
    ("feature", "labels", "message"),
    [
        (Value("float64"), [0.5, 1.0], r"train_00.flac \(train\) has the label 0.5, which is not a class"),
        (List(Value("float64")), [[0.5, 1.0]], "has the label 0.5, which is not a class"),
        (
            Features({"name": Value("string")}),
            [{"name": "owl"}],
            "has the label {'name': 'owl'}, which is not a class",
        ),
    ],
)
def test_invalid_labels_are_an_error(tmp_path, feature, labels, message):
    options = make_source("parquet", tmp_path, {"train": labels * 2, "test": labels}, feature)
    with pytest.raises(DataError, match=message):
        read({**options, **(MULTI_LABEL if isinstance(feature, List) else {})})


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "streamed parquet"])
def test_lists_in_single_label_data_are_an_error(tmp_path, kind):
    labels = [["owl"], ["fox", "owl"]]
    options = make_source(kind, tmp_path, {"train": labels, "test": labels}, List(Value("string")))
    with pytest.raises(DataError, match=r"labels are lists.*--problem_type multi_label_classification"):
        read(options)


# Unicode forms

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "streamed parquet", "tar"])
def test_unicode_forms_are_one_class(tmp_path, kind, caplog):
    labels = [COMPOSED, DECOMPOSED, "owl", f" {DECOMPOSED} "]
    found = read(make_source(kind, tmp_path, {"train": labels, "validation": labels}))
    assert found == {split: [COMPOSED, COMPOSED, "owl", COMPOSED] for split in ("train", "validation")}
    assert "count as one class" in caplog.text and "Cafe\\u0301" in caplog.text


def test_class_folders_in_unicode_forms_are_merged(tmp_path, caplog):
    for number, name in enumerate([COMPOSED, DECOMPOSED, "owl", "owl ", "Owl"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{number}.flac").write_bytes(encode(number))
    labels = read({"data_dir": str(tmp_path)})["unsplit"]
    assert sorted(labels) == sorted([COMPOSED, COMPOSED, "owl", "owl", "Owl"])
    assert "count as one class" in caplog.text and "'owl ', 'owl'" in caplog.text
    assert "Classes that differ only in case: Owl and owl." in caplog.text


def test_class_folders_0_and_1_are_names(tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.flac").write_bytes(encode(1))
    assert read({"data_dir": str(tmp_path), **MULTI_LABEL})["unsplit"] == [["0"], ["1"]]


def test_model_with_another_unicode_form(tmp_path):
    """A model keeps the class names in the Unicode form of its training data."""
    options = make_source("csv", tmp_path, {"test": [COMPOSED, "owl"]})
    recordings = load_recordings(DataArguments(**options), splits=["test"])["test"]
    assert label_matrix(recordings, {"owl": 0, DECOMPOSED: 1}).tolist() == [[0, 1], [1, 0]]


@given(
    st.lists(st.lists(st.sampled_from(["owl", "fox", "bat"]), unique=True), min_size=1, max_size=8),
    st.sampled_from(["names", "indices", "positions", "text", "list as text", "array"]),
)
def test_every_notation_gives_the_same_classes(labels, how):
    names = ["owl", "fox", "bat"]
    indices = [[names.index(name) for name in label] for label in labels]
    positions = [[int(name in label) for name in names] for label in labels]
    written = {
        "names": labels,
        "indices": indices,
        "positions": positions,
        "text": [";".join(label) for label in labels],
        "list as text": [str(label) for label in labels],
        "array": list(map(np.array, positions)),
    }[how]
    is_by_number = how in ("indices", "positions", "array")
    # Lists of the indices 0 and 1 alone could also be positions. The list [2] shows that they are indices.
    if how == "indices":
        written = [[2], *written] if all(map(len, labels)) else written
        labels = [["bat"], *labels] if all(map(len, labels)) else labels
    label_format = find_label_format(written, True, None, "owl,fox,bat" if is_by_number else None)
    assert [label_format.read(label, "a.wav") for label in written] == [sorted(label) for label in labels]


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text(max_size=3))))
def test_any_value_is_names_missing_or_an_error(label):
    for is_multi_label in (False, True):
        for names in (None, ["owl", "fox"]):
            try:
                found = LabelFormat(is_multi_label, names).read(label, "a.wav")
            except DataError as error:
                assert "a.wav" in str(error)
                continue
            assert found is None or (is_multi_label or len(found) == 1)
            assert found is None or all(isinstance(name, str) and name == name.strip() != "" for name in found)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ([["owl"], ["owl", "fox"]], "Every recording in validation has owl, so that its absence is not tested."),
        ([[], []], "No recording in validation has a class"),
        ([["owl"], []], None),
    ],
)
def test_classes_without_contrast_warn(tmp_path, validation, message, caplog):
    train = [["owl"], ["fox"], []]
    options = {**make_source("jsonl", tmp_path, {"train": train, "validation": validation}), **MULTI_LABEL}
    load_recordings(DataArguments(**options))
    assert ("recording in validation" in caplog.text) == (message is not None) and (message or "") in caplog.text


# Recordings without audio


@pytest.mark.parametrize("kind", ["parquet", "streamed parquet", "tar", "streamed tar"])
@pytest.mark.parametrize("audio", ["none", "empty", "lost"])
def test_recordings_without_audio_are_skipped(tmp_path, kind, audio, caplog):
    """Recordings without audio are skipped with a warning, like unreadable ones."""
    options = make_source(kind, tmp_path, {"train": PETS, "validation": PETS[:2], "test": PETS[:2]})
    if "parquet" in kind:
        cells = [{"bytes": encode(index), "path": f"train_{index:02}.flac"} for index in range(20)]
        cells[7] = {
            "none": None,
            "empty": {"bytes": None, "path": None},
            "lost": {"bytes": None, "path": "lost.flac"},
        }[audio]
        # Audio() does not write files that it cannot read.
        cell = Audio() if audio == "none" else {"bytes": Value("binary"), "path": Value("string")}
        features = Features({"audio": cell, "label": Value("string")})
        dataset = Dataset.from_dict({"audio": cells, "label": PETS}, features=features)
        dataset.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    else:
        members = [(f"{index:02}.{suffix}", (encode(index), PETS[index].encode())[suffix == "txt"])
                   for index in range(20) for suffix in ("flac", "txt")]  # fmt: skip
        members = [(name, b"" if name == "07.flac" and audio == "empty" else content) for name, content in members]
        write_tar(tmp_path / "train-00000.tar", [m for m in members if m[0] != "07.flac" or audio == "empty"])
    expected = [name for index, name in enumerate(PETS) if index != 7]
    if options["streaming"]:
        assert read(options)["train"] == expected
    else:
        train = load_recordings(DataArguments(**options))["train"]
        assert [train.features["label"].int2str(label) for label in train["label"]] == expected
    assert "Skipped" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("written", ["absolute", "relative", "url"])
def test_csv_dataset_with_a_column_of_paths(tmp_path, streaming, written, monkeypatch):
    table = tmp_path / "table"  # without audio files, which datasets would load instead
    for folder in (table, tmp_path / "clips"):
        folder.mkdir()
    for split in ("train", "validation"):
        lines = ["audio,label"]
        for index, label in enumerate(PETS[:6]):
            path = tmp_path / "clips" / f"{split}_{index}.flac"
            path.write_bytes(encode(index))
            name = {"absolute": str(path), "relative": f"../clips/{path.name}", "url": path.as_uri()}[written]
            lines.append(f"{name},{label}")
        (table / f"{split}.csv").write_text("\n".join(lines))
    monkeypatch.chdir("/")
    options = {"dataset_name": str(table), "streaming": streaming}
    if streaming:
        assert read(options)["train"] == PETS[:6]
    else:
        recordings = load_recordings(DataArguments(**options))
        assert {split: len(rows) for split, rows in recordings.items()} == {"train": 6, "validation": 6}
        assert recordings["train"]["seconds"][:] == [0.01] * 6


CELLS = {
    "content": (encode, Value("binary")),
    "struct": (
        lambda index: {"bytes": encode(index), "path": None},
        {"bytes": Value("binary"), "path": Value("string")},
    ),
    "mono": (
        lambda index: {"array": [index / 1000] * 160, "sampling_rate": 16000},
        {"array": List(Value("float32")), "sampling_rate": Value("int64")},
    ),
    "stereo": (
        lambda index: {"array": [[index / 1000] * 160] * 2, "sampling_rate": 16000},
        {"array": List(List(Value("float32"))), "sampling_rate": Value("int64")},
    ),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_audio_in_a_table(tmp_path, streaming, cell):
    make, feature = CELLS[cell]
    features = Features({"audio": feature, "label": Value("string")})
    for split in ("train", "validation"):
        dataset = Dataset.from_dict({"audio": list(map(make, range(6))), "label": PETS[:6]}, features=features)
        dataset.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    options = {"dataset_name": str(tmp_path), "streaming": streaming}
    if streaming:
        assert read(options)["train"] == PETS[:6]
    recordings = load_recordings(DataArguments(**options), splits=["validation"])["validation"]
    waveforms = [load_recording(row, 16000) for row in recordings]
    assert [waveform.shape for waveform in waveforms] == [(160,)] * 6
    np.testing.assert_allclose([waveform[0] for waveform in waveforms], np.arange(6) / 1000, atol=1e-4)


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_without_audio_are_an_error(tmp_path, streaming):
    for split in ("train", "validation"):
        Dataset.from_dict({"audio": [1, 2], "label": ["a", "b"]}).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="the column 'audio' contains no audio"):
        read_source(DataArguments(dataset_name=str(tmp_path), streaming=streaming))
