# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Finding the input files, and the tables of predictions."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas
import pytest

from sanet_hf.audio.find import find_audio_files
from sanet_hf.errors import UsageError
from sanet_hf.inference.outputs import PredictionFile, column_names, make_table_printer, to_rows
from sanet_hf.inference.windows import Prediction, Window


LABELS = ("cat", "dog", "owl")


def make_prediction(path: str, *scores: tuple[float, ...]) -> Prediction:
    rows = [np.array(row, dtype=np.float32) for row in scores]
    windows = [Window(4.0 * index, 4.0 * index + 4, row) for index, row in enumerate(rows)]
    return Prediction(path, LABELS, np.mean(rows, axis=0), windows, 4.0 * len(rows))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "b/2.mp3",
        "b/deep/1.FLAC",
        "a.wav",
        "notes.txt",
        ".hidden.wav",
        ".git/x.wav",
        "b/ü b.m4a",
        "[c].wav",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_patterns_and_lists(folder):
    assert list(find_audio_files(["b"])) == ["b/2.mp3", "b/ü b.m4a", "b/deep/1.FLAC"]
    assert list(find_audio_files(["missing.wav", "notes.txt", "[c].wav"])) == ["missing.wav", "notes.txt", "[c].wav"]
    assert list(find_audio_files(["**/*.mp3", "*.wav"])) == ["b/2.mp3", "[c].wav", "a.wav"]
    (folder / "list.txt").write_text("a.wav\n\nb/deep\nb/*.mp3\n")
    files = ["a.wav", "b/deep/1.FLAC", "b/2.mp3"]
    assert list(find_audio_files(["@list.txt"])) == files
    assert list(find_audio_files(["-"], (folder / "list.txt").open())) == files
    assert list(find_audio_files(["b/deep", "@list.txt", "a.wav"])) == ["b/deep/1.FLAC", "a.wav", "b/2.mp3"]


def test_patterns_of_any_depth(folder):
    everything = ["[c].wav", "a.wav", "b/2.mp3", "b/deep/1.FLAC", "b/ü b.m4a", "notes.txt"]
    for pattern in ("**", "**/*", "./**", "**/**/*", f"{folder}/**/", f"{folder}/**/*"):
        assert [os.path.relpath(name) for name in find_audio_files([pattern])] == everything
    assert list(find_audio_files(["b/**/1.*", "**/deep/*", "*/**/*.mp3"])) == ["b/deep/1.FLAC", "b/2.mp3"]


def test_patterns_do_not_follow_link_cycles(folder):
    for name in ("b/here", "b/there", "b/deep/up"):
        os.symlink(folder / "b", name)
    assert list(find_audio_files(["**/*.FLAC"])) == list(find_audio_files(["b"]))[-1:] == ["b/deep/1.FLAC"]
    assert list(find_audio_files(["b/here/*.mp3"])) == ["b/here/2.mp3"]


def test_patterns_keep_the_spelling_of_paths(folder):
    """`--resume` compares paths as text."""
    for name in ("x[1]/1.wav", os.fsdecode(b"x[1]/\xff.wav")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert list(find_audio_files(["./*.wav"])) == ["./[c].wav", "./a.wav"]
    assert list(find_audio_files(["b/../a.*", "a**"])) == ["b/../a.wav", "a.wav"]
    assert list(find_audio_files([f"{folder}/x[[]1]/*"])) == [f"{folder}/x[1]/1.wav", f"{folder}/x[1]/\udcff.wav"]


def test_patterns_find_hidden_files_only_by_name(folder):
    assert list(find_audio_files([".git/*", ".h*"])) == [".git/x.wav", ".hidden.wav"]
    assert "x.wav" not in str(list(find_audio_files(["*/*", "**/*.wav"])))


@pytest.mark.parametrize(
    ("name", "message"),
    [("*.ogg", "no file matches"), ("@none.txt", "the list cannot be read"), (".git/y", "contains no audio files")],
)
def test_inputs_without_files_are_an_error(folder, name, message):
    (folder / ".git/y").mkdir()
    with pytest.raises(ValueError, match=message):
        list(find_audio_files([name]))


@pytest.mark.parametrize("line", ["nothing/*.wav", ".git/y", "@none.txt", "missing.wav", "b/*.ogg"])
@pytest.mark.parametrize("source", ["list", "pipe", "list in a list"])
def test_wrong_line_in_a_list_is_kept_as_a_file(folder, line, source):
    """Reading this file gives an error later. The lines after it are found."""
    (folder / ".git/y").mkdir()
    lines = ["a.wav", line, "b/2.mp3"]
    (folder / "list.txt").write_text("\n".join(lines))
    (folder / "lists.txt").write_text("@list.txt\n")
    name = {"list": "@list.txt", "pipe": "-", "list in a list": "@lists.txt"}[source]
    assert list(find_audio_files([name], lines if source == "pipe" else [])) == lines


def test_empty_folder_named_like_a_recording(folder):
    """`sanet predict MODEL *.wav` includes such a folder."""
    (folder / "folder.wav").mkdir()
    assert list(find_audio_files(["a.wav", "folder.wav", "[c].wav"])) == ["a.wav", "folder.wav", "[c].wav"]
    (folder / "folder.wav/1.flac").touch()
    assert list(find_audio_files(["folder.wav"])) == ["folder.wav/1.flac"]


def test_rows_of_windows_and_file():
    prediction = make_prediction("a.wav", (0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.0, 0.2, 0.8))
    *windows, file = to_rows(prediction, top_k=2)
    assert (
        list(file)
        == column_names(2)
        == [*("path", "start", "end", "label", "score", "label_2", "score_2", "duration", "error")]
    )
    assert [(row["start"], row["end"], row["label"], row["label_2"]) for row in windows] == [
        (0.0, 4.0, "cat", "dog"),
        (4.0, 8.0, "cat", "dog"),
        (8.0, 12.0, "owl", "dog"),
    ]
    assert (file["start"], file["label"], file["duration"]) == (None, "cat", 12.0)
    assert file["score"] == pytest.approx(0.433333, abs=1e-6)
    assert [row["label"] for row in to_rows(prediction, parts="segments")] == ["cat", "owl", "cat"]
    assert len(to_rows(prediction, parts="none")) == len(to_rows(make_prediction("b.wav", (1, 0, 0)))) == 1
    (row,) = to_rows(Prediction("c.wav", LABELS, error="empty"), top_k=2)
    assert row == dict.fromkeys(column_names(2)) | {"path": "c.wav", "error": "empty"}


def test_background_is_no_label():
    """If the background has the highest score, there is no label. It never counts as one of the classes."""
    prediction = make_prediction("a.wav", (0.9, 0.06, 0.04), (0.1, 0.8, 0.1), (0.1, 0.3, 0.6))
    prediction = dataclasses.replace(prediction, background="dog")
    *windows, file = to_rows(prediction, top_k=3)
    assert [(row["label"], row["label_2"], row["label_3"]) for row in windows] == [
        ("cat", "owl", None),
        (None, None, None),
        ("owl", "cat", None),
    ]
    assert [row["score"] for row in windows] == pytest.approx([0.9, 0.8, 0.6])
    assert file["label"] is None and file["score"] == pytest.approx(0.386667, abs=1e-6)
    assert [row["label"] for row in to_rows(prediction, parts="segments")] == ["cat", None, "owl", None]
    assert prediction.label is None


def read(path) -> list[tuple[str, str]]:
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pandas.read_parquet(path).to_dict("records")
    return [(row["path"], None if not row["label"] or pandas.isna(row["label"]) else row["label"]) for row in rows]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_resuming_adds_missing_rows_in_order(tmp_path, suffix):
    path = tmp_path / f"predictions{suffix}"
    long = make_prediction("b,\n.wav", (1, 0, 0), (1, 0, 0))
    bad = Prediction("c.wav", LABELS, error="empty")
    file = PredictionFile(path, column_names(1))
    file.add(to_rows(make_prediction("a.wav", (1, 0, 0))))
    file.add(to_rows(bad))
    file.add(to_rows(make_prediction("d.wav", (1, 0, 0))))
    # The run is killed while it writes the rows of a file.
    file.add(to_rows(long)[:1])
    file._file.write('{"path": "b')
    file.close()
    assert path.exists() == (suffix != ".parquet")
    with pytest.raises(ValueError, match=r"already exists\. Use --resume to add missing rows, --overwrite"):
        PredictionFile(path, column_names(1))
    with pytest.raises(ValueError, match="has the columns"):
        PredictionFile(path, column_names(2), resume=True)

    file = PredictionFile(path, column_names(1), resume=True)
    assert file.finished == {"a.wav", "d.wav"}
    file.add(to_rows(long))
    file.add(to_rows(make_prediction("c.wav", (0, 1, 0))))
    file.close(["a.wav", "b,\n.wav", "c.wav", "d.wav"])
    expected = [("a.wav", "cat"), *[("b,\n.wav", "cat")] * 3, ("c.wav", "dog"), ("d.wav", "cat")]
    assert read(path) == expected
    file = PredictionFile(path, column_names(1), resume=True)
    assert file.finished == {"a.wav", "b,\n.wav", "c.wav", "d.wav"}
    file.close(["a.wav", "b,\n.wav", "c.wav", "d.wav"])
    assert read(path) == expected and [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_run_killed_at_any_byte_is_resumed(tmp_path, suffix):
    """The run is cut within characters, quoted lines and line ends. Names contain Unicode line separators."""
    names = ["a\u2028\x85\x0c.wav", 'b,\n\r\n"ü🎵\n\n.wav', "ü.wav"]
    path = tmp_path / f"a{suffix}"

    def write(names: list[str], resume: bool = False) -> PredictionFile:
        file = PredictionFile(path, column_names(1), resume)
        for name in names:
            if name not in file.finished:
                file.add(to_rows(make_prediction(name, (1, 0, 0), (0, 1, 0))))
        return file

    write(names).close(names)
    whole = path.read_bytes()
    first = whole.index(b"a\xe2")
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        write(names, resume=True).close(names)
        assert path.read_bytes() == whole, end


def test_kill_before_the_partial_rows_are_removed(tmp_path, monkeypatch):
    """The Parquet file is complete, but the partial rows still exist."""
    path, names = tmp_path / "a.parquet", ["a.wav", "b.wav"]
    file = PredictionFile(path, column_names(1))
    for name in names:
        file.add(to_rows(make_prediction(name, (1, 0, 0))))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        file.close(names)
    assert path.exists() and path.with_name("a.parquet.partial.jsonl").exists()
    PredictionFile(path, column_names(1), resume=True).close(names)
    assert read(path) == [("a.wav", "cat"), ("b.wav", "cat")] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_overwriting(tmp_path, suffix):
    """A new run overwrites earlier results, including those of a killed run, but no files of other types."""
    path = tmp_path / f"a{suffix}"
    for number in range(3):
        file = PredictionFile(path, column_names(1), overwrite=True)
        file.add(to_rows(make_prediction(f"{number}.wav", (1, 0, 0))))
        # The second run is killed.
        file.close(None if number == 1 else [])
    assert read(path) == [("2.wav", "cat")]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="the output must end in"):
        PredictionFile(tmp_path / "notes.txt", column_names(1), overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_column_types_of_parquet(tmp_path):
    file = PredictionFile(tmp_path / "a.parquet", column_names(1))
    file.add(to_rows(make_prediction("a.wav", (1, 0, 0))))
    file.close([])
    table = pandas.read_parquet(tmp_path / "a.parquet")
    assert table.dtypes.astype(str).to_dict() == {
        name: "string" if name in ("path", "label", "error") else "Float64" for name in column_names(1)
    }


def test_file_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"\xff.wav")
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"a{suffix}"
        file = PredictionFile(path, column_names(1))
        file.add(to_rows(make_prediction(name, (1, 0, 0))))
        file.close([name])
        assert read(path) == [("\\xff.wav", "cat")]


def test_label_is_unknown_below_the_minimum_score():
    prediction = make_prediction("a.wav", (0.5, 0.3, 0.2))
    prediction.min_score = 0.6
    (row,) = to_rows(prediction, top_k=2)
    assert (row["label"], row["score"], row["label_2"]) == ("unknown", 0.5, None)


def make_several(*scores: tuple[float, ...] | None) -> Prediction:
    rows = [None if row is None else np.array(row, dtype=np.float32) for row in scores]
    windows = [Window(4.0 * index, 4.0 * index + 4, row) for index, row in enumerate(rows)]
    heard = [row for row in rows if row is not None]
    mean = np.mean(heard, axis=0) if heard else None
    return Prediction("a.wav", LABELS, mean, windows, 4.0 * len(rows), min_score=0.5, several=True)


def test_rows_of_several_classes():
    """`labels` contains all classes with a score of at least 0.5. There may be none."""
    prediction = make_several((0.9, 0.6, 0.7), (0.4996, 0.1, 0.2), None)
    rows = to_rows(prediction, top_k=2)
    columns = ["path", "start", "end", "label", "score", "label_2", "score_2", "labels", "duration", "error"]
    assert all(list(row) == columns == column_names(2, several=True) for row in rows)
    assert [row["labels"] for row in rows] == ["cat;owl;dog", None, None, "cat"]
    assert [(row["label"], row["label_2"]) for row in rows] == [
        ("cat", "owl"),
        (None, None),
        (None, None),
        ("cat", None),
    ]
    assert [row["score"] for row in rows] == [0.9, None, None, pytest.approx(0.6998)]
    segments = to_rows(prediction, top_k=2, parts="segments")
    assert [(row["start"], row["end"], row["labels"]) for row in segments[:-1]] == [
        (0, 4, "cat;owl;dog"),
        (4, 12, None),
    ]
    (file,) = to_rows(make_several(None), top_k=2)
    assert file == dict.fromkeys(columns) | {"path": "a.wav", "duration": 4.0}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_without_a_class_count_as_finished(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    columns = column_names(2, several=True)
    file = PredictionFile(path, columns)
    file.add(to_rows(make_several((0.1, 0.2, 0.3), None), top_k=2))
    file.close(["a.wav"])
    assert read(path) == [("a.wav", None)] * 3
    file = PredictionFile(path, columns, resume=True)
    assert file.finished == {"a.wav"}
    file.close(["a.wav"])
    assert read(path) == [("a.wav", None)] * 3


def test_table_of_rows_without_a_class(capsys):
    show = make_table_printer(LABELS)
    show(to_rows(make_several((0.9, 0.6, 0.1)), top_k=3))
    show(to_rows(make_several((0.1, 0.2, 0.3)), top_k=3))
    show(to_rows(make_several(None), top_k=3))
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["0.9000", "cat", "0.6000", "dog", "a.wav"],
        ["-", "-", "a.wav"],
        ["-", "-", "a.wav"],
    ]
    assert lines[1].index("a.wav") == lines[2].index("a.wav")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}, {}])
def test_two_runs_on_one_file_are_refused(tmp_path, suffix, options):
    path = tmp_path / f"a{suffix}"
    first = PredictionFile(path, column_names(1))
    first.add(to_rows(make_prediction("a.wav", (1, 0, 0))))
    with pytest.raises(UsageError, match=rf"Another run is writing .*a{suffix}\. Wait until it ends"):
        PredictionFile(path, column_names(1), **options)
    first.add(to_rows(make_prediction("b.wav", (1, 0, 0))))
    first.close(["a.wav", "b.wav"])
    assert read(path) == [("a.wav", "cat"), ("b.wav", "cat")] and [path] == list(tmp_path.iterdir())
    # The lock is released, also after an error.
    for _ in range(2):
        with pytest.raises(ValueError, match="has the columns"):
            PredictionFile(path, column_names(2), resume=True)
    PredictionFile(path, column_names(1), resume=True).close()


def test_rows_are_written_at_once(tmp_path):
    """A run may wait at a pipe for days."""
    for path in (tmp_path / "a.csv", tmp_path / "a.jsonl"):
        file = PredictionFile(path, column_names(1))
        for count in (1, 2):
            file.add(to_rows(make_prediction(f"{count}.wav", (1, 0, 0))))
            assert len(read(path)) == count
        file.close()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xlsx: the output must end in \.csv, \.jsonl or \.parquet"):
        PredictionFile(tmp_path / "a.xlsx", column_names(1))
