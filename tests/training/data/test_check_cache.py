# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The cache of recording checks: unchanged recordings are read once, changed ones are read again."""

import io
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset
from filelock import FileLock
from huggingface_hub import cached_assets_path

from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data import check_cache, recording_checks
from sanet_hf.training.data.check_cache import DATABASE_FILE
from sanet_hf.training.data.load import load_recordings


@pytest.fixture
def folder(tmp_path, make_tone, monkeypatch) -> Path:
    """Make six recordings and an empty cache."""

    def assets(*names: str) -> Path:
        path = tmp_path.joinpath("assets", *names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    monkeypatch.setattr(check_cache, "cached_assets_path", assets)
    for seed, name in enumerate(("a/0", "a/1", "a/2", "b/0", "b/1", "b/2")):
        make_tone(tmp_path / "data" / f"{name}.wav", 300, seconds=0.1, seed=seed)
    return tmp_path / "data"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Return a list to which the name of each recording that is read is added."""
    names = []
    check = recording_checks._check

    def note(row, sampling_rate):
        names.append(Path(row["file"]).name)
        return check(row, sampling_rate)

    monkeypatch.setattr(recording_checks, "_check", note)
    return names


def load(folder: Path, sampling_rate: int = 16000, **options) -> dict[str, tuple[float, str]]:
    """Return the length and the hash of each recording."""
    recordings = load_recordings(DataArguments(data_dir=str(folder), **options), sampling_rate)
    rows = (row for dataset in recordings.values() for row in dataset)
    return {str(Path(row["file"]).relative_to(folder)): (row["seconds"], row["digest"]) for row in rows}


def test_recordings_are_read_once(folder, read, caplog):
    soundfile.write(folder / "a" / "silent.wav", np.zeros(800), 16000)
    first = load(folder)
    assert len(read) == 7 and len(set(first.values())) == 7
    caplog.clear()
    assert load(folder) == first and len(read) == 7
    assert "1 silent recording, used nevertheless" in caplog.text
    # At another sampling rate, or after the folder was moved, recordings are read again.
    assert load(folder, 8000).keys() == first.keys() and len(read) == 14
    moved = folder.rename(folder.with_name("moved"))
    assert load(moved) == first and len(read) == 21


@pytest.mark.parametrize("how", ["content", "replaced", "touched"])
def test_changed_file_is_read_again(folder, read, make_tone, how):
    first = load(folder)
    path, status = folder / "a" / "1.wav", (folder / "a" / "1.wav").stat()
    if how == "touched":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        # Keep the size and the modification time.
        new = path if how == "content" else folder.parent / "new.wav"
        make_tone(new, 900, seconds=0.1)
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        new.rename(path)
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    second = load(folder)
    assert read[6:] == ["1.wav"]
    assert {name for name in first if first[name] != second[name]} == ({"a/1.wav"} if how != "touched" else set())


def test_unreadable_files_are_read_again(folder, read):
    (folder / "b" / "3.wav").write_text("no audio")
    load(folder, max_bad_fraction=0.5)
    load(folder, max_bad_fraction=0.5)
    assert read[7:] == ["3.wav"]


@pytest.mark.parametrize("damage", ["text", "torn", "empty", "folder", "other_table", "values"])
def test_damaged_cache_does_not_change_results(folder, read, caplog, damage):
    first = load(folder)
    (path,) = folder.parent.rglob(DATABASE_FILE)
    if damage == "text":
        path.write_text("this is no database " * 100)
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-3000])
    elif damage == "values":
        with sqlite3.connect(path) as database:
            database.execute("UPDATE checks SET seconds = 'long', digest = NULL")
    elif damage == "other_table":
        path.unlink()
        sqlite3.connect(path).execute("CREATE TABLE checks (path)")
    else:
        path.unlink()
        path.touch() if damage == "empty" else path.mkdir()
    assert load(folder) == first and len(read) == 12
    assert ("Recordings are checked without it" in caplog.text) == (damage in ("text", "folder", "other_table"))
    if damage in ("text", "torn", "empty"):
        assert load(folder) == first and len(read) == 12


def test_unwritable_cache_is_not_used(folder, read, monkeypatch):
    def refuse(*names):
        raise PermissionError("read-only")

    monkeypatch.setattr(check_cache, "cached_assets_path", refuse)
    assert load(folder) == load(folder) and len(read) == 12


def test_one_of_several_processes_reads(folder, read):
    """Each thread opens its own lock and database, as a process does."""
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: load(folder), range(3)))
    assert results[0] == results[1] == results[2] and len(read) == 6


def test_loading_waits_for_another_process(folder, read, monkeypatch, caplog):
    monkeypatch.setattr(check_cache, "PATIENCE_SECONDS", 0.01)
    first = load(folder)
    (folder.parent / "assets" / "sanet_hf" / "recordings" / DATABASE_FILE).unlink()
    (path,) = folder.parent.rglob("*.lock")
    is_held = threading.Event()

    def hold() -> None:
        with FileLock(path):
            is_held.set()
            for _ in range(3000):
                if "Waiting for another process" in caplog.text:
                    break
                time.sleep(0.01)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    assert load(folder) == first
    thread.join()
    assert "Waiting for another process" in caplog.text


def test_audio_in_a_dataset_is_cached_by_its_hash(folder, read, tmp_path):
    cells = [{"path": None, "bytes": path.read_bytes()} for path in sorted(folder.rglob("*.wav"))]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        table = Dataset.from_dict({"audio": cells, "label": list("aaabbb")}).cast_column("audio", Audio(decode=False))
        table.to_parquet(tmp_path / name / "train.parquet")
        load_recordings(DataArguments(dataset_name=str(tmp_path / name)))
        cells[0] = {"path": None, "bytes": cells[1]["bytes"]}
    assert len(read) == 6


def test_check_recordings_false_decodes_only_mp3(folder, read, caplog):
    mp3 = folder / "b" / "3.mp3"
    samples, rate = soundfile.read(folder / "b" / "2.wav")
    soundfile.write(mp3, samples, rate)
    (folder / "b" / "4.wav").write_text("no audio")
    thorough = load(folder, max_bad_fraction=0.5)
    read.clear()
    quick = load(folder, max_bad_fraction=0.5, check_recordings=False)
    # MP3 must be decoded to find its length. Files that are no audio are found by their header.
    assert sorted(read) == ["3.mp3"]
    assert {name: seconds for name, (seconds, _) in quick.items()} == {
        n: seconds for n, (seconds, _) in thorough.items()
    }
    assert not any(digest for _, digest in quick.values())
    assert "in two splits" not in caplog.text


@pytest.mark.parametrize("content", ["file", "bytes"])
def test_length_without_check_comes_from_the_header(tmp_path, content):
    for rate in (8000, 16000, 44100):
        for suffix, options in ((".wav", {"subtype": "FLOAT"}), (".flac", {}), (".aiff", {})):
            file = io.BytesIO()
            soundfile.write(file, np.full(rate // 7, 0.1), rate, format=suffix[1:], **options)
            path = tmp_path / f"{rate}{suffix}"
            path.write_bytes(file.getvalue())
            audio = {"path": str(path), "bytes": file.getvalue() if content == "bytes" else None}
            row = {"audio": audio, "file": path.name}
            quick, thorough = recording_checks._measure(row, 16000), recording_checks._check(row, 16000)
            assert abs(quick.seconds - thorough.seconds) < 1 / 16000 and not quick.digest


def test_parts_of_a_file_have_separate_entries(folder):
    row = {"audio": {"path": str(folder / "a" / "0.wav"), "bytes": None}}
    parts = [{}, {"start": 0.0, "end": 0.04}, {"start": 0.04, "end": None}, {"start": 0.04, "end": 0.06}]
    assert len({check_cache.find_state({**row, **part}, 16000) for part in parts}) == 4
    assert check_cache.find_state({**row, "start": None, "end": None}, 16000) == check_cache.find_state(row, 16000)
    assert check_cache.find_state({"audio": None}, 16000) is None


def test_tests_do_not_use_the_cache_of_the_user():
    assert os.environ["HF_ASSETS_CACHE"] in str(cached_assets_path("sanet_hf", "recordings"))


def test_progress_bar_reaches_100_percent(folder, capsys):
    load_recordings(DataArguments(data_dir=str(folder)))
    bar = capsys.readouterr().err.rpartition("Checking recordings: ")[2]
    assert bar.startswith("100%") and "6/6" in bar
