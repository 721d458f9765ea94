# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The generated speech dataset of the demo."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile


espeakng_loader = pytest.importorskip(
    "espeakng_loader", reason='making the speech demo set needs pip install "sanet-hf[demo]"'
)

from sanet_hf.training.demo import speech as demo_speech  # noqa: E402
from sanet_hf.training.demo.speech import make_speech_dataset  # noqa: E402


NUM_CLIPS = {"num_train": 2, "num_validation": 1, "num_test": 1}


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    make_speech_dataset(folder, **NUM_CLIPS)
    return folder


@pytest.fixture
def copied_dir(dataset_dir, tmp_path):
    for name, content in read_files(dataset_dir).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_voices_exist():
    # If a variant is missing, espeak-ng uses its default voice without an error.
    folder = Path(espeakng_loader.get_data_path(), "voices", "!v")
    assert len(demo_speech.VOICES) == len(set(demo_speech.VOICES.values())) == 10
    assert set(demo_speech.VOICES.values()) <= {path.name for path in folder.iterdir()}


def test_clips_are_in_split_and_voice_folders(dataset_dir):
    expected = {"demo_speech.json"}
    for voice in demo_speech.VOICES:
        expected |= {f"{split}/{voice}/000.wav" for split in ("train", "validation", "test")}
        expected.add(f"train/{voice}/001.wav")
    assert set(read_files(dataset_dir)) == expected


def test_counts_of_clips_are_returned(dataset_dir):
    voices = demo_speech.VOICES
    expected = {"train": dict.fromkeys(voices, 2), "validation": dict.fromkeys(voices, 1)}
    expected["test"] = dict.fromkeys(voices, 1)
    assert make_speech_dataset(dataset_dir, **NUM_CLIPS) == expected


def test_clips_are_audible_16_khz_mono(dataset_dir):
    paths = sorted(dataset_dir.rglob("*.wav"))
    assert len(paths) == 40
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "WAV", "PCM_16")
        assert 1.2 <= info.duration <= 3.5
        waveform, _ = soundfile.read(path)
        assert 0.09 < np.abs(waveform).max() < 0.9
        assert np.sqrt(np.mean(waveform**2)) > 0.005


def test_clips_do_not_share_sentences(dataset_dir):
    sentences = json.loads((dataset_dir / "demo_speech.json").read_text())["sentences"]
    assert set(sentences) == {name for name in read_files(dataset_dir) if name.endswith(".wav")}
    by_split = {
        split: {sentence.lower() for path, sentence in sentences.items() if path.startswith(f"{split}/")}
        for split in ("train", "validation", "test")
    }
    assert [len(group) for group in by_split.values()] == [20, 10, 10]
    assert len(set.union(*by_split.values())) == 40


def test_same_seed_gives_same_bytes(dataset_dir, tmp_path):
    make_speech_dataset(tmp_path / "other", **NUM_CLIPS, seed=1)
    make_speech_dataset(tmp_path / "same", **NUM_CLIPS)
    expected, other = read_files(dataset_dir), read_files(tmp_path / "other")
    assert read_files(tmp_path / "same") == expected
    assert all(other[name] != content for name, content in expected.items())


def test_test_split_does_not_depend_on_train_size(dataset_dir, tmp_path):
    make_speech_dataset(tmp_path, num_train=1, num_validation=1, num_test=1)
    for split in ("validation", "test"):
        assert read_files(tmp_path / split) == read_files(dataset_dir / split)


def test_complete_set_is_kept(dataset_dir, monkeypatch):
    times = {path: path.stat().st_mtime_ns for path in dataset_dir.rglob("*")}
    # espeak-ng is not needed for a complete set.
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    make_speech_dataset(dataset_dir, **NUM_CLIPS)
    assert {path: path.stat().st_mtime_ns for path in dataset_dir.rglob("*")} == times


@pytest.mark.parametrize("broken", ["no settings", "cut settings", "missing clip"])
def test_incomplete_set_is_made_again(dataset_dir, copied_dir, broken):
    settings_path = copied_dir / "demo_speech.json"
    voice = next(iter(demo_speech.VOICES))
    if broken == "no settings":
        settings_path.unlink()
        (copied_dir / "train" / voice / "000.wav").write_bytes(b"RIFF")
    elif broken == "cut settings":
        settings_path.write_text(settings_path.read_text()[:100])
    else:
        (copied_dir / "test" / voice / "000.wav").unlink()
    make_speech_dataset(copied_dir, **NUM_CLIPS)
    assert read_files(copied_dir) == read_files(dataset_dir)


def test_other_settings_replace_the_set(copied_dir):
    make_speech_dataset(copied_dir, num_train=1, num_validation=1, num_test=1)
    assert len(list(copied_dir.rglob("*.wav"))) == 30


@pytest.mark.parametrize("name", ["train/notes.txt", "train/dog/000.wav", "test/000.wav"])
def test_files_of_the_user_are_not_removed(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="is not a clip of the demo dataset"):
        make_speech_dataset(tmp_path, **NUM_CLIPS)
    assert read_files(tmp_path) == {name: b"mine"}


def test_missing_espeak_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'pip install "sanet-hf\[demo\]"'):
        make_speech_dataset(tmp_path, **NUM_CLIPS)
    assert read_files(tmp_path) == {}


def test_too_long_data_path_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: "/" + 160 * "a")
    with pytest.raises(RuntimeError, match="more than 159 bytes"):
        make_speech_dataset(tmp_path, **NUM_CLIPS)


def test_empty_split_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one clip per class"):
        make_speech_dataset(tmp_path, num_test=0)
