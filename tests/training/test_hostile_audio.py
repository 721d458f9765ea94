# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Untrusted recordings: damaged, odd and harmful files beside good ones, in bounded memory and time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from sanet_hf.audio.formats import SUFFIXES, is_audio_file
from sanet_hf.utils.files import to_text

from ..hostile_audio import HOURS, Case, write_corpus


IN_BOUNDS = Path(__file__).parents[1] / "in_bounds.py"
GIB = 1024  # MiB
# Seconds. They only catch programs that hang, because machines are slow and shared.
FILE_TIMEOUT, TIMEOUT = 60, 600


def run(arguments: list, megabytes: int = GIB, **options) -> subprocess.CompletedProcess:
    root = str(IN_BOUNDS.parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, IN_BOUNDS, str(megabytes), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT, env=environment, **options)


def read(reader: str, paths: list[Path], megabytes: int = GIB) -> dict[Path, dict]:
    """Return the result of a reader of in_bounds.py for each file."""
    result = run(["read", reader, FILE_TIMEOUT], megabytes, input=b"\0".join(map(os.fsencode, paths)))
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == len(paths), f"died at {paths[len(rows)]}: {result.stderr[-2000:]}"
    return {Path(row["path"]): row for row in rows}


def is_as_expected(row: dict, case: Case) -> bool:
    if "seconds" in row:
        return case.shortest is not None and case.shortest <= row["seconds"] <= case.longest
    message = row["error"].removeprefix(f"{row['path']}: ").removeprefix(f"{to_text(row['path'])}: ")
    is_named = message != row["error"] and "\n" not in message
    return row["type"] == "AudioError" and is_named and bool(case.reason and re.search(case.reason, message))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, tones) -> tuple[Path, dict[Path, Case]]:
    """Return a folder of two classes, one of which also contains the corpus, and the cases of the corpus."""
    folder = tmp_path_factory.mktemp("hostile") / "recordings"
    for label in ("high", "low"):
        shutil.copytree(tones / "train" / label, folder / label)
    return folder, write_corpus(folder / "low")


@pytest.fixture(scope="module")
def long_recordings(tmp_path_factory, tones) -> tuple[Path, dict[Path, Case]]:
    folder = tmp_path_factory.mktemp("long") / "recordings"
    for label in ("high", "low"):
        shutil.copytree(tones / "train" / label, folder / label)
    return folder, write_corpus(folder / "low", is_long=True)


# --- reading


@pytest.mark.parametrize("reader", ["load_audio", "stream_audio", "read_recording"])
def test_files_are_read_or_refused_with_the_reason(recordings, reader):
    cases = recordings[1]
    assert len(cases) >= 60
    rows = read(reader, list(cases))
    assert [row for path, row in rows.items() if not is_as_expected(row, cases[path])] == []


@pytest.mark.parametrize("reader", ["load_audio of bytes", "load_audio of a stretch"])
def test_bytes_and_stretches_are_read_or_refused(recordings, reader):
    cases = recordings[1]
    # Only files have content. Bytes or a stretch can be readable where the whole file is not.
    paths = [path for path in cases if path.is_file() and not path.is_symlink()]
    rows = read(reader, paths)
    for path, row in rows.items():
        case = cases[path]
        if "seconds" in row:
            assert case.shortest is not None or "NaN" in case.reason, row
            assert reader != "load_audio of a stretch" or row["seconds"] * 16000 <= 2000
        else:
            assert row["type"] == "AudioError" and row["error"].startswith(f"{path}: "), row


@pytest.mark.slow
def test_reading_ten_hours(long_recordings):
    cases = long_recordings[1]
    rows = read("stream_audio", list(cases))
    assert [row for path, row in rows.items() if not is_as_expected(row, cases[path])] == []
    # The limit includes the memory-mapped file.
    rows = read("read_recording", list(cases), 4 * GIB)
    assert [row for path, row in rows.items() if not is_as_expected(row, cases[path])] == []
    assert all(row["seconds"] == 2000 / 16000 for row in read("load_audio of a stretch", list(cases)).values())
    for row in read("load_audio", list(cases)).values():
        assert "too long for the available memory" in row["error"]


# --- commands


def check_prepared(folder: Path, cases: dict[Path, Case], output: Path) -> None:
    manifest = pandas.read_parquet(output / "manifest.parquet")
    rows = dict(iter(manifest.groupby("source")))
    for path, case in cases.items():
        name = to_text(path.relative_to(folder).as_posix())
        if path.name.startswith("."):
            assert name not in rows
        elif path.suffix.lower() not in SUFFIXES and not path.is_dir():
            assert rows[name]["skipped"].item().startswith("its suffix is not an audio format")
        elif path.is_symlink() and path.is_dir():
            # All files of this folder are deeper than the class folder.
            assert name not in rows or rows[name]["skipped"].notna().all()
        elif case.shortest is None:
            assert re.search(f"{case.reason}|a folder", rows[name]["skipped"].item()), (name, case.reason)
        elif case.reason is None:
            assert rows[name]["channels"].notna().all(), rows[name]["skipped"]
        else:
            assert name in rows
    for label in ("high", "low"):
        sound = [rows[f"{label}/{label}_train_{index}.wav"] for index in range(16)]
        assert all((row["kind"].eq("clip") & row["file"].notna()).any() for row in sound)


def test_prepare(recordings, tmp_path):
    folder, cases = recordings
    before = sorted(path.name for path in folder.rglob("*"))
    result = run(["sanet", "prepare", folder, tmp_path / "data", "--no_denoise", "--num_workers", 1], 2 * GIB)
    assert result.returncode == 0, result.stderr
    check_prepared(folder, cases, tmp_path / "data")
    assert sorted(path.name for path in folder.rglob("*")) == before


def train(folder: Path, output: Path, tiny_options: list[str], *options) -> subprocess.CompletedProcess:
    arguments = ["--data_dir", folder, "--output_dir", output, *tiny_options, "--num_train_epochs", 1, *options]
    return run(["sanet", "train", "sanet.yaml", *arguments], 3 * GIB)


@pytest.mark.slow
def test_train(recordings, tiny_options, tmp_path):
    folder, cases = recordings
    result = train(folder, tmp_path / "run", tiny_options, "--max_bad_fraction", 1)
    messages = result.stderr.decode(errors="backslashreplace")
    assert result.returncode == 0, messages[-3000:]
    left_out = re.search(r"Skipped:\n  and (\d+) more", messages)
    assert messages.count("Skipped: ") >= 20 and left_out
    bad = [path for path, case in cases.items() if case.shortest is None and is_audio_file(path.relative_to(folder))]
    assert 20 + int(left_out[1]) >= sum(not path.is_dir() for path in bad)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_train_with_too_many_bad_files(recordings, tiny_options, tmp_path):
    result = train(recordings[0], tmp_path / "run", tiny_options)
    assert result.returncode == 2
    assert b"recordings are unreadable, more than max_bad_fraction=0.05" in result.stderr
    assert b"Traceback" not in result.stderr


def check_predicted(folder: Path, cases: dict[Path, Case], output: Path) -> None:
    rows = pandas.read_csv(output, keep_default_na=False)
    rows = rows[rows["start"] == ""].set_index("path")
    silent = set()
    for path, case in cases.items():
        if is_audio_file(path.relative_to(folder)) and not path.is_dir():
            row = rows.loc[to_text(str(path))]
            assert not (row["error"] and row["label"])
            if not row["error"] and not row["label"]:
                silent.add(case.name)
            assert not row["error"] or re.search(case.reason, row["error"]), row
            assert case.shortest is not None or row["error"], row
    # These files are readable, but silent, so they get no class.
    names = {"silence.wav", "denormals.wav", "ten_hours.wav", "ten_hours.flac"}
    assert silent == names & {case.name for case in cases.values()}
    sound = rows[rows.index.str.contains("_train_")]
    assert len(sound) == 32 and (sound["error"] == "").all()


def test_predict(recordings, trained, tmp_path):
    folder, cases = recordings
    result = run(["sanet", "predict", trained, folder, "--output", tmp_path / "rows.csv"], 2 * GIB)
    assert result.returncode == 1, result.stderr
    assert b"Traceback" not in result.stderr and b"files could not be classified." in result.stderr
    check_predicted(folder, cases, tmp_path / "rows.csv")


@pytest.mark.slow
def test_commands_on_ten_hours(long_recordings, trained, tiny_options, tmp_path):
    folder, cases = long_recordings
    result = run(["sanet", "prepare", folder, tmp_path / "data", "--num_workers", 1], 4 * GIB)
    assert result.returncode == 0, result.stderr
    manifest = pandas.read_parquet(tmp_path / "data" / "manifest.parquet")
    long = manifest[manifest["source"].str.contains("ten_hours")]
    assert len(long) == 2 and (long["skipped"] == "completely silent").all()
    result = train(folder, tmp_path / "run", tiny_options)
    assert result.returncode == 0 and b"2 silent recordings, used nevertheless" in result.stderr, result.stderr
    result = run(["sanet", "predict", trained, folder, "--output", tmp_path / "rows.csv", "--files_only"], 2 * GIB)
    assert result.returncode == 0, result.stderr
    check_predicted(folder, cases, tmp_path / "rows.csv")
    rows = pandas.read_csv(tmp_path / "rows.csv")
    assert (rows["duration"] == HOURS * 3600).sum() == 2
