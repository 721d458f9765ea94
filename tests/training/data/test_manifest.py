# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Manifests in the formats of common programs, and clips of files by start and end."""

import csv
import io
import itertools
import json
import math
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2FeatureExtractor

from sanet_hf.audio.decode import load_audio
from sanet_hf.errors import AudioError, DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.clips import (
    EvaluationClips,
    StreamedClips,
    TrainingClips,
)
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.manifest import read_bounds, read_manifest_rows
from sanet_hf.training.data.rows import check_end, load_recording, recording_bounds
from sanet_hf.training.data.sources import read_source, stream_training_split


PLAIN = Wav2Vec2FeatureExtractor(do_normalize=False)
RATE = 16000


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """Shorten the pause of seconds that datasets makes after each pass over a stream."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01)


def read(folder: Path, content: str | bytes, suffix: str = ".csv") -> list[dict]:
    path = folder / f"manifest{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_manifest_rows(path)


EXPECTED = [{"file": "a.wav", "label": "owl"}, {"file": "b c.wav", "label": "Käuzchen, klein"}]


def write(delimiter: str, line_end: str, header: tuple[str, str] = ("file", "label")) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([header, *([row["file"], row["label"]] for row in EXPECTED)])
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_formats_are_read(tmp_path, encoding, delimiter, line_end):
    assert read(tmp_path, write(delimiter, line_end).encode(encoding)) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["lines", "windows lines", "list", "ascii"])
def test_json_formats_are_read(tmp_path, encoding, form):
    lines = [json.dumps(row, ensure_ascii=form == "ascii") for row in EXPECTED]
    text = {"list": f"[{', '.join(lines)}]", "windows lines": "\r\n".join(lines) + "\r\n"}.get(form, "\n".join(lines))
    assert read(tmp_path, text.encode(encoding), ".jsonl") == EXPECTED


@pytest.mark.parametrize(
    "content",
    [
        write(",", "\n", (" File ", "LABEL")),
        '"file","label"\na.wav,owl\nb c.wav,"Käuzchen, klein"\n',
        'file;label\na.wav;owl\nb c.wav;"Käuzchen, klein"',
        'file,label\na.wav,owl,\n\nb c.wav,"Käuzchen, klein",,\n,\n',
    ],
    ids=["capitals", "quotes", "semicolon_and_comma", "empty_fields_and_rows"],
)
def test_csv_variants_are_read(tmp_path, content):
    assert read(tmp_path, content) == EXPECTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.wav,Käuzchen\n".encode("cp1252"), r"line 2 is not UTF-8\. Save it as UTF-8 \(in Excel"),
        ("file,label\na.wav,owl,fox\n", "row 1 has more fields than the header"),
        ('file,label\na.wav,"owl\nb.wav,fox\n', ": line 3: unexpected end of data"),
        ("file,label,file\na.wav,owl,b.wav\n", "several columns named 'file'"),
        ("file,label\n ,owl\n", "row 1 has no file"),
        ("file,label\na.wav,owl\n./a.wav,fox\n", "rows 1 and 2 have different labels for ./a.wav: 'owl' and 'fox'"),
        ("file,label\na.wav,owl\na.wav,fox\n", "rows 1 and 2 have different labels for a.wav: 'owl' and 'fox'"),
        ("file,label,start,end\na.wav,owl,0,1\na.wav,fox,0.0,1.0\n", "rows 1 and 2 have different labels for a.wav"),
        ("file,label,split\na.wav,owl,train\nb.wav,owl,\n", "the split of row 2 is ''.*in every row or in none"),
    ],
    ids=[
        "cp1252",
        "more_fields",
        "open_quote",
        "column_twice",
        "no_file",
        "two_paths",
        "two_labels",
        "clip_twice",
        "split_blank",
    ],
)
def test_invalid_csv_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file": "a.wav", "label": "owl"}\n{"file": \n', "line 2 is not valid JSON"),
        ('{"file": "a.wav", "label": "owl"}\n3\n', "row 2 is not a JSON object"),
        ("[" * 100_000, "line 1 is not valid JSON"),
    ],
    ids=["cut", "number", "nested"],
)
def test_invalid_json_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, ".jsonl")


def test_duplicate_rows_are_skipped(tmp_path, caplog):
    rows = read(tmp_path, "file,label,split\na.wav,owl,train\nb.wav,fox,train\na.wav, owl ,train\na.wav,owl,test\n")
    assert [(row["file"], row["split"]) for row in rows] == [("a.wav", "train"), ("b.wav", "train"), ("a.wav", "test")]
    assert "skipped 1 duplicate rows: row 3 (a.wav)" in caplog.text


def test_unused_columns_are_named(tmp_path, caplog):
    assert read(tmp_path, "id,file,label,Start_s,site,\n1,a.wav,owl,0,x,\n")[0] == EXPECTED[0]
    (message,) = [record.message for record in caplog.records]
    assert message.endswith("unused columns: id, Start_s, site.")


def test_blank_split_column_is_ignored(tmp_path):
    assert read(tmp_path, "file,label,split\na.wav,owl,\nb.wav,owl, \n")[0] == EXPECTED[0]


def test_windows_paths_are_found(tmp_path, make_tone):
    for index in range(4):
        make_tone(tmp_path / "calls" / f"{index}.wav", 300, seconds=0.05, seed=index)
    make_tone(tmp_path / "with\\backslash.wav", 300, seconds=0.05, seed=9)
    names = [*(f"calls\\{index}.wav" for index in range(4)), "with\\backslash.wav"]
    lines = [f"{name},{'ab'[index % 2]},train" for index, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["file,label,split", *lines]))
    arguments = DataArguments(manifest=str(tmp_path / "list.csv"))
    assert sum(map(len, load_recordings(arguments).values())) == 5
    assert read_source(arguments)["train"]["key"][:2] == ["calls/0.wav", "calls/1.wav"]


@given(st.binary(max_size=60), st.sampled_from([".csv", ".jsonl"]))
def test_any_bytes_give_rows_or_an_error(tmp_path_factory, content, suffix):
    folder = tmp_path_factory.getbasetemp()
    for start in (b"", b"file,label\n", b'{"file": "a.wav", "label": 1}\n'):
        try:
            rows = read(folder, start + content, suffix)
        except DataError as error:
            assert "manifest" in str(error)
        else:
            assert all({"file", "label"} <= row.keys() and row["file"] for row in rows)


# Clips by start and end


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("0", "0.4", (0.0, 0.4)),
        ("0,4", "1,25", (0.4, 1.25)),
        ("", "2", (None, 2.0)),
        (1, None, (1.0, None)),
        (math.nan, 3.5, (None, 3.5)),
        (" 1e1 ", "", (10.0, None)),
        ("", " ", (None, None)),
    ],
)
def test_start_and_end_are_read(start, end, expected):
    assert read_bounds(start, end, "row 1") == expected


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("0:10", "0:20", "row 1 has the start '0:10', which is not a number of seconds"),
        ("0", "inf", "row 1 has the end 'inf', which is not a number of seconds"),
        (True, 2, "row 1 has the start True"),
        ([1], 2, r"row 1 has the start \[1\]"),
        ("-1", "2", "row 1 has a negative start or end: -1, 2"),
        ("", "-2", "row 1 has a negative start or end"),
        ("2", "2", "row 1 ends at 2 s, not after its start at 2 s"),
        ("", "0", "row 1 ends at 0 s, not after its start at 0 s"),
    ],
)
def test_invalid_bounds_are_an_error(start, end, message):
    with pytest.raises(DataError, match=message):
        read_bounds(start, end, "row 1")


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> dict[int, Path]:
    """Return recordings of 1.2 s by sampling rate. The value of a sample identifies its position."""
    folder, paths = tmp_path_factory.mktemp("ramps"), {}
    for rate in (RATE, 22050):
        paths[rate] = folder / f"{rate}.wav"
        soundfile.write(paths[rate], np.linspace(-0.9, 0.9, round(1.2 * rate)), rate, subtype="FLOAT")
    return paths


SECONDS = st.floats(0, 1.2).map(lambda value: round(value, 3))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([RATE, 22050]),
    bounds=st.lists(SECONDS, min_size=2, max_size=2, unique=True).map(sorted),
    is_to_the_end=st.booleans(),
    stretch=st.none() | st.tuples(st.integers(0, 5000), st.integers(1, 5000)),
    has_bytes=st.booleans(),
)
def test_clip_is_a_slice_of_the_file(ramps, rate, bounds, is_to_the_end, stretch, has_bytes):
    path = ramps[rate]
    audio = {"bytes": path.read_bytes(), "path": None} if has_bytes else {"bytes": None, "path": str(path)}
    start, end = bounds[0], None if is_to_the_end else bounds[1]
    row = {"audio": audio, "file": "a.wav", "start": start, "end": end}
    whole = load_audio(path, RATE)
    expected = whole[round(start * RATE) : None if end is None else round(end * RATE)]
    first, length = stretch or (0, None)
    expected = expected[first : None if length is None else first + length]
    if len(expected):
        found = load_recording(row, RATE, first, length)
        np.testing.assert_allclose(found, expected, atol=1e-6, strict=True)
        check_end(row, RATE, recording_bounds(row, RATE)[1] or 0)
    else:
        with pytest.raises(AudioError, match="contains no samples"):
            load_recording(row, RATE, first, length)


def write_calls(folder: Path, kind: str, num_files: int = 10, with_splits: bool = False) -> dict[str, object]:
    """
    Write files with two calls: an owl (value 0.1) from 0 to 0.4 s, and a fox (value 0.2) from 0.4 to 0.7 s. Return the
    options that select them as a source of this kind.
    """
    rows = []
    for number in range(num_files):
        path = folder / "calls" / f"{number:02}.wav"
        path.parent.mkdir(exist_ok=True)
        values = np.repeat([0.1, 0.2], [round(0.4 * RATE), round(0.3 * RATE)]) + number / 1000
        soundfile.write(path, values, RATE, subtype="FLOAT")
        for start, end, label in ((None, 0.4, "owl"), (0.4, None, "fox")):
            rows.append({"file": f"calls/{path.name}", "start": start, "end": end, "label": label})
    if kind == "csv":
        text = [[("" if value is None else str(value)) for value in row.values()] for row in rows]
        (folder / "calls.csv").write_text("\n".join(map(",".join, [rows[0].keys(), *text])))
    elif kind == "jsonl":
        (folder / "calls.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        (folder / "table").mkdir()
        cells = [{"bytes": (folder / row["file"]).read_bytes(), "path": row["file"]} for row in rows]
        table = {"audio": cells, **{name: [row[name] for row in rows] for name in ("start", "end", "label")}}
        seconds = {"start": Value("float64"), "end": Value("float32")}
        features = Features({"audio": Audio(), **seconds, "label": Value("string")})
        for split in ("train", "validation"):
            Dataset.from_dict(table, features=features).to_parquet(folder / "table" / f"{split}.parquet")
        return {"dataset_name": str(folder / "table"), "streaming": kind == "streamed"}
    return {"manifest": str(folder / f"calls.{kind}")}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_are_parts_of_files(tmp_path, kind):
    """Training and evaluation read only the part of each row. All clips of a file are in one split."""
    recordings = load_recordings(DataArguments(**write_calls(tmp_path, kind)), splits=["train", "validation", "test"])
    names = recordings["train"].features["label"].names
    files: dict[str, set[str]] = {}
    for split, dataset in recordings.items():
        files[split] = {re.sub(r" \[.*\]$", "", file) for file in dataset["file"]}
        label2id = {name: index for index, name in enumerate(names)}
        for clips in (TrainingClips(dataset, PLAIN, label2id, 0.27), EvaluationClips(dataset, PLAIN, label2id, 1.0)):
            for index in range(len(clips)):
                item = clips[index]
                is_fox = names[item["labels"]] == "fox"
                assert set(np.floor(item["input_values"] * 10 + 1e-3)) == {2 if is_fox else 1}
                if isinstance(clips, EvaluationClips):
                    assert len(item["input_values"]) == (0.3 if is_fox else 0.4) * RATE
        for row in dataset:
            assert row["seconds"] == pytest.approx(0.3 if names[row["label"]] == "fox" else 0.4)
            assert row["file"].endswith(("[0–0.4 s]", "[from 0.4 s]"))
    assert all(len(dataset) == 2 * len(files[split]) for split, dataset in recordings.items())
    if kind != "parquet":
        assert not any(first & second for first, second in itertools.combinations(files.values(), 2))
        assert sum(map(len, files.values())) == 10


def test_streamed_rows_are_parts_of_files(tmp_path):
    arguments = DataArguments(**write_calls(tmp_path, "streamed"))
    clips = StreamedClips(stream_training_split(arguments), PLAIN, {"owl": 0, "fox": 1}, 1.0)
    lengths = [(len(item["input_values"]), item["labels"]) for item in clips]
    assert sorted(lengths) == [(0.3 * RATE, 1)] * 10 + [(0.4 * RATE, 0)] * 10


def test_clips_of_a_file_in_two_splits_warn(tmp_path, caplog):
    write_calls(tmp_path, "csv", 4)
    header, *lines = (tmp_path / "calls.csv").read_text().splitlines()
    splits = ["train"] * 4 + ["test", "train", "validation", "validation"]
    lines = [f"{line},{split}" for line, split in zip(lines, splits)]
    (tmp_path / "calls.csv").write_text("\n".join([f"{header},split", *lines]))
    load_recordings(DataArguments(manifest=str(tmp_path / "calls.csv")))
    assert "1 files with clips are in both test and train, the first: calls/02.wav" in caplog.text


def test_clip_beyond_the_end_of_its_file(tmp_path, caplog):
    """A clip may end slightly after the file, because annotations are rounded. It must start before the end."""
    write_calls(tmp_path, "csv", 10)
    path = tmp_path / "calls.csv"
    path.write_text(
        path.read_text() + "\ncalls/00.wav,0.5,0.75,fox\ncalls/01.wav,0.5,0.9,fox\ncalls/02.wav,0.8,,fox\n"
    )
    recordings = load_recordings(DataArguments(manifest=str(path), max_bad_fraction=0.1))
    assert sum(map(len, recordings.values())) == 21
    assert "calls/01.wav [0.5–0.9 s]: the file ends earlier, after 0.70 s" in caplog.text
    assert "calls/02.wav [from 0.8 s]: the file contains no samples after 0.8 s" in caplog.text
    with pytest.raises(DataError, match=r"2 of 23 recordings are unreadable"):
        load_recordings(DataArguments(manifest=str(path)))


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (2.0, 1.0), (math.nan, 1.0)])
def test_invalid_bounds_in_a_stream_are_an_error(bounds):
    row = {"audio": None, "file": "a.wav", "start": bounds[0], "end": bounds[1]}
    with pytest.raises(AudioError, match="invalid clip from"):
        recording_bounds(row, RATE)
