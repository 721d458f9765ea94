# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoded recordings are kept for the next epoch. Their samples are exactly those of decoding."""

import builtins
import errno
import pickle
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import TrainingArguments, Wav2Vec2FeatureExtractor

from sanet_hf.errors import AudioError
from sanet_hf.training.data import decoded, rows
from sanet_hf.training.data.clips import EvaluationClips, TrainingClips
from sanet_hf.training.data.decoded import FOLDER, DecodedRecordings, keep_decoded
from sanet_hf.training.data.rows import load_recording

from .test_clips import LABEL2ID, make_recordings


RATE = 16000
PLAIN = Wav2Vec2FeatureExtractor(do_normalize=False)
FORMATS = [(16000, "wav"), (44100, "wav"), (8000, "flac"), (48000, "flac"), (44100, "ogg"), (22050, "mp3")]
FORMATS += [(44100, "m4a"), (44099, "wav")]


def write_noise(path: Path, rate: int = RATE, seconds: float = 1.6, channels: int = 2, seed: int = 0) -> Path:
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(rate * seconds) + 13, channels))
    # The two channels of MP3 files nearly cancel.
    samples = samples if path.suffix != ".mp3" else samples[:, :1] * [[1, -0.9]]
    if path.suffix != ".m4a":
        soundfile.write(path, samples, rate)
        return path
    soundfile.write(path.with_suffix(".flac"), samples, rate)
    command = ["ffmpeg", "-y", "-v", "error", "-i", path.with_suffix(".flac"), path]
    subprocess.run(command, check=True)
    return path


def as_row(path: Path, **others) -> dict:
    return {"audio": {"bytes": None, "path": str(path)}, "file": path.name, **others}


@pytest.fixture(scope="module")
def noises(tmp_path_factory) -> dict[tuple[int, str], dict]:
    folder = tmp_path_factory.mktemp("noises")
    return {(rate, suffix): as_row(write_noise(folder / f"{rate}.{suffix}", rate)) for rate, suffix in FORMATS}


@pytest.fixture
def cannot_decode(monkeypatch):
    """Return a function that makes all further decoding fail."""

    def forbid() -> None:
        def fail(*args, **kwargs):
            raise AssertionError("decoded again")

        monkeypatch.setattr(rows, "open_recording", fail)
        monkeypatch.setattr(rows, "load_audio", fail)

    return forbid


def keep(folder: Path, *parts: tuple[int, int], are_whole: bool = True, most_seekable: float = 1e9):
    folder.mkdir(exist_ok=True)
    return DecodedRecordings(folder, "train", dict(enumerate(parts)), are_whole, most_seekable)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    stretches=st.lists(st.tuples(st.integers(0, 26_000), st.integers(1, 30_000)), min_size=1, max_size=3),
    start=st.sampled_from([None, 0.0, 0.03, 0.71]),
    end=st.sampled_from([None, 0.9, 1.3]),
    is_content=st.booleans(),
)
def test_kept_samples_equal_decoded_ones(noises, tmp_path_factory, kind, stretches, start, end, is_content):
    row = {**noises[kind], "start": start, "end": end}
    if is_content:
        row["audio"] = {"bytes": Path(row["audio"]["path"]).read_bytes(), "path": None}
    whole = load_recording(row, RATE)
    recordings = keep(tmp_path_factory.mktemp("kept"), (0, len(whole)))
    for first, length in stretches:
        first = first % len(whole)
        expected = load_recording(row, RATE, first, length)
        np.testing.assert_array_equal(expected, whole[first:][:length])
        with pytest.MonkeyPatch.context() as monkeypatch:
            for _ in range(2):
                found = recordings.read(0, row, RATE, first, length)
                assert found.dtype == np.float32 and found.flags.writeable
                np.testing.assert_array_equal(found, expected)
                # The second reading must not decode.
                monkeypatch.setattr(rows, "open_recording", None)
                monkeypatch.setattr(rows, "load_audio", None)


@pytest.mark.parametrize("kind", [(16000, "wav"), (44100, "m4a")], ids=str)
def test_only_windows_are_kept(noises, tmp_path, cannot_decode, kind):
    row, recordings = noises[kind], keep(tmp_path, (5000, 8000), are_whole=False)
    expected = load_recording(row, RATE, 5000, 8000)
    recordings.read(0, row, RATE, 5000, 8000)
    cannot_decode()
    np.testing.assert_array_equal(recordings.read(0, row, RATE, 5000, 8000), expected)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [4 * 8000]


def test_long_seekable_recordings_are_not_kept(noises, tmp_path):
    for number, kind in enumerate([(48000, "flac"), (44100, "ogg")]):
        recordings = keep(tmp_path / str(number), (0, 30_000), most_seekable=20_000)
        for _ in range(2):
            expected = load_recording(noises[kind], RATE, 100, 4000)
            np.testing.assert_array_equal(recordings.read(0, noises[kind], RATE, 100, 4000), expected)
    assert [len(list((tmp_path / name).iterdir())) for name in "01"] == [0, 1]


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_changed_recordings_are_decoded_again(tmp_path, suffix):
    path = write_noise(tmp_path / f"a.{suffix}", seed=1)
    row, recordings = as_row(path), keep(tmp_path / "kept", (0, 25_613))
    before = recordings.read(0, row, RATE, 0, 9000)
    write_noise(path, seed=2)
    after = recordings.read(0, row, RATE, 0, 9000)
    np.testing.assert_array_equal(after, load_recording(row, RATE, 0, 9000))
    assert not np.array_equal(before, after)
    # A longer file does not fit the planned length, so it is not kept.
    write_noise(path, seconds=5, seed=3)
    for start in (0, 70_000, 0):
        np.testing.assert_array_equal(
            recordings.read(0, row, RATE, start, 9000), load_recording(row, RATE, start, 9000)
        )
    assert sum(file.stat().st_size for file in (tmp_path / "kept").iterdir()) == 2 * 4 * 25_613
    path.unlink()
    with pytest.raises(AudioError, match="file not found"):
        recordings.read(0, row, RATE, 0, 9000)


def test_recording_that_changes_during_reading_is_not_kept(tmp_path, monkeypatch):
    path = write_noise(tmp_path / "a.wav", seed=1)
    row, recordings, open_row = as_row(path), keep(tmp_path / "kept", (0, 25_613)), decoded.open_row

    def change(*args):
        opened = open_row(*args)
        write_noise(path, seed=2)
        return opened

    monkeypatch.setattr(decoded, "open_row", change)
    found = recordings.read(0, row, RATE, 0, 9000)
    np.testing.assert_array_equal(found, load_recording(row, RATE, 0, 9000))
    assert not list((tmp_path / "kept").iterdir())


def test_damaged_recordings_give_the_errors_of_decoding(tmp_path):
    path = write_noise(tmp_path / "a.flac", seconds=20)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    row, recordings = as_row(path), keep(tmp_path / "kept", (0, 20 * RATE + 13))
    np.testing.assert_array_equal(recordings.read(0, row, RATE, 0, 9000), load_recording(row, RATE, 0, 9000))
    for start in (15 * RATE, 30 * RATE):
        with pytest.raises(AudioError) as error:
            recordings.read(0, row, RATE, start, 9000)
        with pytest.raises(AudioError) as expected:
            load_recording(row, RATE, start, 9000)
        assert str(error.value) == str(expected.value)
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("at_once", [True, False])
def test_full_disk_deletes_kept_samples(noises, tmp_path, monkeypatch, caplog, at_once):
    """If the disk is full, the kept samples are deleted with one warning, and reading still works."""
    recordings = keep(tmp_path / "kept", (0, 30_000), (0, 30_000))
    row = noises[44100, "ogg"]
    recordings.read(0, row, RATE, 0, 9000)
    open_file = builtins.open

    def open_full(file, mode="r", *args, **kwargs):
        if mode != "wb":
            return open_file(file, mode, *args, **kwargs)
        error = OSError(errno.ENOSPC, "No space left on device")
        if at_once:
            raise error
        file = open_file(file, mode, *args, **kwargs)
        monkeypatch.setattr(decoded.np, "ascontiguousarray", lambda *_: (_ for _ in ()).throw(error))
        return file

    monkeypatch.setattr(decoded, "open", open_full, raising=False)
    expected = load_recording(row, RATE, 100, 9000)
    for place in (1, 0, 1):
        np.testing.assert_array_equal(recordings.read(place, row, RATE, 100, 9000), expected)
    assert caplog.text.count("No space left on device") == 1
    assert not (tmp_path / "kept").exists()


@pytest.fixture
def recordings(tmp_path):
    """Return recordings of every format in two classes, each as a file and as content of a dataset."""
    found = []
    for number, (rate, suffix) in enumerate(FORMATS):
        path = write_noise(tmp_path / f"{rate}.{suffix}", rate, seconds=0.3 + 0.1 * number, seed=number)
        row = as_row(path, label="ab"[number % 2])
        row["seconds"] = len(load_recording(row, RATE)) / RATE
        content = {"bytes": path.read_bytes(), "path": None}
        found += [row, {**row, "audio": content}]
    return make_recordings(found)


def make_clips(recordings) -> dict[str, TrainingClips | EvaluationClips]:
    clips = {"train": TrainingClips(recordings, PLAIN, LABEL2ID, 0.5)}
    return {**clips, "validation": EvaluationClips(recordings, PLAIN, LABEL2ID, 0.4)}


def test_workers_share_kept_samples(recordings, tmp_path, cannot_decode):
    clips, plain = make_clips(recordings), make_clips(recordings)
    items = {name: [item["input_values"] for item in map(plain[name].__getitem__, range(16))] for name in clips}
    (tmp_path / "run").mkdir()
    with keep_decoded(clips, tmp_path / "run", 1, TrainingArguments(tmp_path / "run", use_cpu=True)):
        for name in clips:
            for found, expected in zip(DataLoader(clips[name], None, num_workers=2), items[name], strict=True):
                np.testing.assert_array_equal(found["input_values"], expected)
        # All training recordings and one window of each validation recording are kept.
        assert len(list((tmp_path / "run" / FOLDER).iterdir())) == 2 * len(recordings)
        cannot_decode()
        # Spawned workers receive pickled clips.
        for name, copied in pickle.loads(pickle.dumps(clips)).items():
            for index, expected in enumerate(items[name]):
                np.testing.assert_array_equal(copied[index]["input_values"], expected)
    assert not (tmp_path / "run" / FOLDER).exists()


def test_joined_clips_use_kept_samples(recordings, tmp_path, cannot_decode):
    options = {"samples_per_class": 4, "max_segments": 3}
    clips = TrainingClips(recordings, PLAIN, LABEL2ID, 1.5, **options)
    plain = [item["input_values"] for item in (clips[index] for index in range(2 * len(clips)))]
    arguments = TrainingArguments(tmp_path / "run", num_train_epochs=3, use_cpu=True)
    (tmp_path / "run").mkdir()
    with keep_decoded({"train": clips}, tmp_path / "run", 1, arguments):
        for _ in range(2):
            for index, expected in enumerate(plain):
                np.testing.assert_array_equal(clips[index]["input_values"], expected)
            cannot_decode()


def choose(clips, output_dir: Path, gibibytes: float, capsys, **options) -> tuple[str, dict[str, list[int]]]:
    """Return the printed text and the rows of each split that are kept."""
    output_dir.mkdir(exist_ok=True)
    with keep_decoded(clips, output_dir, gibibytes, TrainingArguments(output_dir, use_cpu=True, **options)):
        kept = {n: sorted(some.read_kept.__self__.parts) if some.read_kept else None for n, some in clips.items()}
        assert (output_dir / FOLDER).exists() == (kept["train"] is not None)
    assert all(some.read_kept is None for some in clips.values())
    return capsys.readouterr().err, kept


def test_shortest_recordings_are_kept(recordings, tmp_path, capsys, monkeypatch):
    clips, everything = make_clips(recordings), list(range(len(recordings)))
    lengths = {name: [count for _, count in some.parts] for name, some in clips.items()}
    assert choose(clips, tmp_path / "run", 0, capsys) == ("", {"train": None, "validation": None})
    assert choose(clips, tmp_path / "run", 2, capsys, num_train_epochs=1)[1]["train"] is None
    assert choose(clips, tmp_path / "run", 2, capsys, max_steps=2)[1]["train"] is None
    line, kept = choose(clips, tmp_path / "run", 2, capsys, max_steps=4)
    assert kept == {"train": everything, "validation": everything}
    whole = sum(map(sum, lengths.values())) / clips["train"].feature_extractor.sampling_rate
    assert line.startswith(f"All {whole:.1f} s of recordings are decoded once and kept in ") and line.endswith(
        "(1 MiB).\n"
    )
    # The four shortest training recordings and all validation windows fit.
    room = sum(lengths["train"][:4]) + sum(lengths["validation"])
    line, kept = choose(clips, tmp_path / "run", (4 * room + 3) / 2**30, capsys)
    assert kept == {"train": everything[:4], "validation": everything}
    fitting = room / clips["train"].feature_extractor.sampling_rate
    assert (
        f"The shortest {fitting:.1f} s of {whole:.1f} s of recordings" in line
        and "MiB, limited by --cache_audio" in line
    )
    # Checkpoints also need disk space.
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 4 * room + 10))
    line, kept = choose(clips, tmp_path / "run", 2, capsys)
    assert kept == {"train": everything[:4], "validation": everything}
    assert "MiB, limited by a tenth of the free disk space" in line


@pytest.mark.parametrize("gibibytes", [0, 1])
def test_samples_of_a_killed_run_are_deleted(recordings, tmp_path, capsys, gibibytes):
    clips = make_clips(recordings)
    left = tmp_path / "run" / FOLDER / "train-1"
    left.parent.mkdir(parents=True)
    # Samples of another dataset.
    left.write_bytes(np.full(9000, 7, np.float32).tobytes())
    expected = clips["train"][1]["input_values"]
    with keep_decoded(clips, tmp_path / "run", gibibytes, TrainingArguments(tmp_path / "run", use_cpu=True)):
        assert not left.exists()
        np.testing.assert_array_equal(clips["train"][1]["input_values"], expected)
    with pytest.raises(KeyboardInterrupt), keep_decoded(clips, tmp_path / "run", 1, TrainingArguments(tmp_path)):
        assert clips["train"][1] and left.exists()
        raise KeyboardInterrupt
    assert not list((tmp_path / "run").iterdir())


def test_folder_deleted_during_training_is_harmless(recordings, tmp_path):
    clips = make_clips(recordings)["train"]
    expected = [clips[index]["input_values"] for index in range(len(clips))]
    (tmp_path / "run").mkdir()
    with keep_decoded({"train": clips}, tmp_path / "run", 1, TrainingArguments(tmp_path / "run", use_cpu=True)):
        for index in range(len(clips)):
            if index == 5:
                shutil.rmtree(tmp_path / "run" / FOLDER)
            np.testing.assert_array_equal(clips[index]["input_values"], expected[index])
        for index in range(len(clips)):
            np.testing.assert_array_equal(clips[index]["input_values"], expected[index])
        assert not (tmp_path / "run" / FOLDER).exists()
