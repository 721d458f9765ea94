# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation clips: parts of recordings, joined clips, labels and augmentation."""

import pickle

import numpy as np
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from sanet_hf import SANetFeatureExtractor
from sanet_hf.audio import decoders
from sanet_hf.audio.decode import OpenedRecording, WindowReader, load_audio, open_recording
from sanet_hf.errors import DataError
from sanet_hf.training.data import rows as rows_module
from sanet_hf.training.data.augmentation import make_augmentation
from sanet_hf.training.data.clips import EvaluationClips, StreamedClips, TrainingClips


RATE = 16000
LABEL2ID = {"b": 0, "a": 1}
SECONDS = {"a": [0.5, 1.0, 3.0, 8.0], "b": [0.25, 2.0, 2.5]}
LARGEST_STEP = 1.2 / (RATE * min(min(lengths) for lengths in SECONDS.values()))
# Does not change the waveform.
PLAIN = Wav2Vec2FeatureExtractor(do_normalize=False)


def make_recordings(rows: list[dict], is_multi_label: bool = False) -> Dataset:
    label = ClassLabel(names=["a", "b"])
    audio = {"bytes": Value("binary"), "path": Value("string")}
    features = {"audio": audio, "file": Value("string"), "label": List(label) if is_multi_label else label}
    return Dataset.from_list(rows, features=Features({**features, "seconds": Value("float64")}))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Return ramps from one whole number to the next, so that each sample identifies its recording and position."""
    folder, rows = tmp_path_factory.mktemp("ramps"), []
    for label, lengths in SECONDS.items():
        for seconds in lengths:
            number, path = len(rows) + 1, folder / f"{len(rows)}.wav"
            soundfile.write(path, number + np.linspace(0, 0.999, round(seconds * RATE)), RATE, subtype="FLOAT")
            audio = {"bytes": None, "path": str(path)}
            rows.append({"audio": audio, "file": path.name, "label": label, "seconds": seconds})
    return rows


@pytest.fixture(scope="module")
def recordings(rows) -> Dataset:
    return make_recordings(rows)


def runs_of(waveform: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the row and the samples of each recording in a joined clip, in order. Row -1 is silence."""
    rows = np.floor(waveform).astype(int) - 1
    # A recording can follow itself. The ramp then falls or jumps.
    steps = np.diff(waveform)
    edges = np.flatnonzero((np.diff(rows) != 0) | (steps < 0) | (steps > LARGEST_STEP)) + 1
    return [(int(np.floor(part[0])) - 1, part) for part in np.split(waveform, edges)]


def test_random_part_of_each_recording(recordings):
    clips = TrainingClips(recordings, PLAIN, LABEL2ID, max_length_seconds=1.5)
    assert len(clips) == len(recordings) == len(clips.seconds)
    assert clips.class_matrix.argmax(axis=1).tolist() == [1] * 4 + [0] * 3
    starts = set()
    for epoch in range(5):
        for row in range(len(clips)):
            item = clips[epoch * len(clips) + row]
            waveform = item["input_values"]
            assert item["labels"] == clips.class_matrix[row].argmax()
            assert len(waveform) == min(1.5, recordings[row]["seconds"]) * RATE
            assert (np.floor(waveform) == row + 1).all() and (np.diff(waveform) > 0).all()
            starts.add((row, float(waveform[0])))
    # The three short recordings always start at 0; the four longer ones start elsewhere in each of five epochs.
    assert len(starts) == 3 + 5 * 4


def test_parts_contain_the_sound(tmp_path):
    """
    Single-label clips contain the only second of sound; the rest is silence, or noise 30 dB quieter. Multi-label clips
    need not.
    """
    for number, silence in enumerate((0.0, 0.003)):
        waveform = silence * np.random.default_rng(0).standard_normal(8 * RATE).astype(np.float32)
        waveform[3 * RATE : 4 * RATE] = 0.1
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, waveform, RATE, subtype="FLOAT")
        audio = {"bytes": None, "path": str(path)}
        row = {"audio": audio, "file": path.name, "label": "a", "seconds": 8.0}
        clips = TrainingClips(make_recordings([row]), PLAIN, LABEL2ID, max_length_seconds=1)
        # The search step is coarse, so a clip may contain only a little of the sound.
        assert all((clips[epoch]["input_values"] == np.float32(0.1)).sum() > 50 for epoch in range(30))
        stream = StreamedClips(
            Dataset.from_list([row] * 30).to_iterable_dataset(),
            *(PLAIN, {"a": 0}, 1),
            buffer_size=1, max_bad_fraction=0, seed=0, process_index=0, num_processes=1,
        )  # fmt: skip
        stream._labels = lambda label, name: np.array([1])
        assert all((item["input_values"] == np.float32(0.1)).sum() > 50 for item in stream)
        # In multi-label data, the quiet parts may contain another class, or none.
        several = TrainingClips(make_recordings([{**row, "label": ["a"]}], True), PLAIN, LABEL2ID, 1)
        assert not all((several[epoch]["input_values"] == np.float32(0.1)).any() for epoch in range(30))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10), index=st.integers(0, 10_000), max_segments=st.integers(1, 5))
def test_joined_clips_contain_parts_of_one_class(recordings, seed, index, max_segments):
    clips = TrainingClips(
        recordings, PLAIN, LABEL2ID, max_length_seconds=4, samples_per_class=10, max_segments=max_segments, seed=seed
    )
    assert len(clips) == 20 and clips.class_matrix.sum(axis=0).tolist() == [10, 10] and clips.seconds == [4.0] * 20
    item = clips[index]
    waveform, label = item["input_values"], item["labels"]
    assert waveform.shape == (4 * RATE,) and label == clips.class_matrix[index % 20].argmax()
    parts = runs_of(waveform)
    sounds = [(row, part) for row, part in parts if row >= 0]
    assert 1 <= len(sounds) <= max_segments
    # Silence is only at the start and the end.
    assert all(row >= 0 for row, _ in parts[1:-1])
    for number, (row, part) in enumerate(sounds):
        seconds, is_cut = recordings[row]["seconds"], number == len(sounds) - 1 and parts[-1][0] >= 0
        assert recordings[row]["label"] == 1 - label
        if not is_cut and seconds <= 2:
            assert len(part) == seconds * RATE
        elif not is_cut:
            assert 0.3 * seconds * RATE - 1 <= len(part) <= 0.6 * seconds * RATE
        else:
            assert len(part) <= min(2 if seconds <= 2 else 0.6 * seconds, 4) * RATE


def test_padding_starts_and_segments_vary(recordings):
    clips = TrainingClips(recordings, PLAIN, LABEL2ID, 4, samples_per_class=40, max_segments=2)
    waveforms = [clips[index]["input_values"] for index in range(80)]
    before = {int(np.argmax(waveform > 0)) for waveform in waveforms if waveform.min() == 0}
    assert len(before) > 30 and max(before) > RATE
    long = {float(part[0]) for waveform in waveforms for row, part in runs_of(waveform) if row == 3}
    assert len(long) > 5
    assert {len([row for row, _ in runs_of(waveform) if row >= 0]) for waveform in waveforms} == {1, 2}


@pytest.mark.parametrize("samples_per_class", [None, 4], ids=["recordings", "joined"])
def test_same_clips_in_any_number_of_workers(recordings, samples_per_class):
    augment = make_augmentation([{"AddGaussianSNR": {"p": 0.7}}, {"Gain": {"p": 0.7}}], RATE)
    clips = TrainingClips(recordings, PLAIN, LABEL2ID, 1, augment, samples_per_class=samples_per_class)
    indices = [5, 0, len(clips) + 5, 3]

    def load(num_workers: int) -> list[np.ndarray]:
        loader = DataLoader(clips, batch_size=None, sampler=indices, num_workers=num_workers)
        return [np.asarray(item["input_values"]) for item in loader]

    torch.manual_seed(0)
    alone = load(0)
    np.random.seed(1)
    for one, other, third in zip(alone, load(1), load(2)):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)
    assert alone[0].shape != alone[2].shape or not np.allclose(alone[0], alone[2])


def test_other_seed_gives_other_clips(recordings):
    first, second = (TrainingClips(recordings, PLAIN, LABEL2ID, 1, seed=seed)[3]["input_values"] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_joined_clips_of_several_classes(rows):
    """The labels of a joined clip are the classes of all its recordings."""
    several = [{**row, "label": ["a", "b"] if index == 0 else [row["label"]]} for index, row in enumerate(rows)]
    recordings = make_recordings(several, is_multi_label=True)
    clips = TrainingClips(recordings, PLAIN, LABEL2ID, 4, samples_per_class=20, max_segments=2)
    for index in range(40):
        item = clips[index]
        found = {row for row, _ in runs_of(item["input_values"]) if row >= 0}
        expected = {LABEL2ID[name] for row in found for name in several[row]["label"]}
        assert set(np.flatnonzero(item["labels"])) == expected and item["labels"].dtype == np.float32


def test_joined_clips_of_no_class(rows):
    """Recordings without a class are joined like those of a class."""
    several = [{**row, "label": [] if row["label"] == "b" else ["a"]} for row in rows]
    recordings = make_recordings(several, is_multi_label=True)
    recordings = recordings.cast_column("label", List(ClassLabel(names=["a"])))
    clips = TrainingClips(recordings, PLAIN, {"a": 0}, 4, samples_per_class=10, max_segments=2)
    assert clips.class_matrix.tolist() == [[1]] * 10 + [[0]] * 10
    for index in range(len(clips)):
        item = clips[index]
        labels = {tuple(several[row]["label"]) for row, _ in runs_of(item["input_values"]) if row >= 0}
        assert labels == {("a",) if index < 10 else ()} and item["labels"].tolist() == [index < 10]


def test_gain_after_normalization_changes_the_level(recordings):
    gain = make_augmentation([{"Gain": {"min_gain_db": -6, "max_gain_db": -6, "p": 1}}], RATE)
    extractor = SANetFeatureExtractor(max_length=RATE)

    def rms(**augmentations) -> float:
        waveform = TrainingClips(recordings, extractor, LABEL2ID, 1, **augmentations)[1]["input_values"]
        return float(np.sqrt(np.mean(waveform.astype(float) ** 2)))

    assert rms(augment=gain) == pytest.approx(rms()) == pytest.approx(0.1, rel=1e-3)
    assert rms(augment_normalized=gain) == pytest.approx(0.1 * 10 ** (-6 / 20), rel=1e-3)


def test_gain_after_normalization_changes_spectrograms(rows, tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    recordings = make_recordings([{**rows[0], "audio": {"bytes": None, "path": str(path)}, "seconds": 1.0}])
    gain = make_augmentation([{"Gain": {"min_gain_db": -6, "max_gain_db": -6, "p": 1}}], RATE)
    extractor = ASTFeatureExtractor(max_length=98)
    plain, quieter = (
        TrainingClips(recordings, extractor, LABEL2ID, 1, augment_normalized=augment)[0]["input_values"]
        for augment in (None, gain)
    )
    # The extractor normalises log energies x to (x - mean) / (2 std).
    expected = 2 * np.log(10 ** (-6 / 20)) / (2 * extractor.std)
    # Silence, and a filter of AST's filter bank that contains no frequency, do not change.
    assert np.isclose(quieter - plain, expected, atol=2e-3)[:90].mean() > 0.98


@pytest.mark.parametrize("make", [TrainingClips, EvaluationClips])
def test_unknown_labels_are_an_error(recordings, make):
    with pytest.raises(DataError, match=r"does not have: b\. Its classes are a, c"):
        make(recordings, PLAIN, {"a": 0, "c": 1}, 4)


def test_evaluation_reads_middle_or_all_windows(recordings):
    clips = EvaluationClips(recordings, PLAIN, LABEL2ID, 2, all_windows=True)
    lengths = [round(seconds * RATE) for seconds in recordings["seconds"]]
    assert clips.rows.tolist() == [row for row, length in enumerate(lengths) for _ in range(-(-length // (2 * RATE)))]
    items = [clips[index] for index in np.flatnonzero(clips.rows == 3)]
    assert len(items) > 1 and all(len(item["input_values"]) == 2 * RATE and item["labels"] == 1 for item in items)
    whole, _ = soundfile.read(recordings[3]["audio"]["path"], dtype="float32")
    assert np.array_equal(items[0]["input_values"], whole[: 2 * RATE])
    assert np.array_equal(items[-1]["input_values"], whole[-2 * RATE :])
    item = EvaluationClips(recordings, PLAIN, LABEL2ID, 2)[3]
    assert item["labels"] == 1 and len(item["input_values"]) == 2 * RATE
    assert item["input_values"].mean() == pytest.approx(4.4995, abs=1e-3)


def test_evaluation_ignores_quiet_windows(rows, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    gains = {"one.wav": [1, 0.12, 0.08, 0], "silent.wav": [0, 0], "even.wav": [0.01, 0.01]}
    found = []
    for name, own in gains.items():
        soundfile.write(tmp_path / name, np.concatenate([gain * noise for gain in own]), RATE, subtype="FLOAT")
        audio = {"bytes": None, "path": str(tmp_path / name)}
        found.append({**rows[0], "audio": audio, "seconds": len(own)})
    clips = EvaluationClips(make_recordings(found), PLAIN, LABEL2ID, 1, all_windows=True)
    for index in range(len(clips)):
        clips[index]
    assert clips.silent.tolist() == [False, False, True, True, True, True, False, False]


@pytest.mark.parametrize("suffix", ["mp3", "wav"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_mp3_is_evaluated_in_one_decoding_pass(rows, tmp_path, monkeypatch, suffix, num_workers):
    """Decoding from the start for every window would take quadratic time in the length of the recording."""
    path = tmp_path / f"long.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(20 * RATE + 500), RATE)
    whole = load_audio(path, RATE)
    audio = {"bytes": None, "path": str(path)}
    recordings = make_recordings([{**rows[0], "audio": audio, "seconds": len(whole) / RATE}, rows[1]])
    monkeypatch.setattr(decoders, "DECODING_BLOCK", 5000)
    opened = []

    def open_and_note(*args, **options):
        opened.append(args)
        return open_recording(*args, **options)

    monkeypatch.setattr(rows_module, "open_recording", open_and_note)
    clips = EvaluationClips(recordings, PLAIN, LABEL2ID, 1, all_windows=True)
    starts = [*range(0, 20 * RATE, RATE), len(whole) - RATE]
    for start, item in zip(starts, DataLoader(clips, batch_size=None, num_workers=num_workers)):
        np.testing.assert_allclose(item["input_values"], whole[start : start + RATE], atol=1e-6)
    if num_workers == 0:
        assert len(opened) == (1 if suffix == "mp3" else len(starts))
    # Any other order gives the same samples.
    for index in (7, 3, 3, 20, 0):
        np.testing.assert_allclose(clips[index]["input_values"], whole[starts[index] :][:RATE], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 29_000), st.integers(1, 9000)), max_size=6), is_seekable=st.booleans())
def test_windows_can_be_read_in_any_order(places, is_seekable):
    waveform = np.arange(30_000, dtype=np.float32)

    def open_from(start: int) -> OpenedRecording:
        blocks = (waveform[place : place + 700] for place in range(start, 30_000, 700))
        return OpenedRecording(RATE, 1, None, is_seekable, blocks)

    reader = WindowReader()
    for start, length in places:
        np.testing.assert_array_equal(reader.read("a", open_from, start, length), waveform[start : start + length])
        reader = pickle.loads(pickle.dumps(reader)) if length % 5 == 0 else reader


def test_faster_clips_keep_their_length(recordings):
    """Clips that are resampled to a higher speed keep their length, and reach every part of the recording."""
    fast = [{"Resample": {"min_speed": 1.5, "max_speed": 2.0, "p": 0.5}}]
    augment = make_augmentation(fast, RATE)
    assert augment.shortening == pytest.approx(2.0, rel=0.01)
    longest = int(np.argmax(recordings["seconds"]))
    clips = TrainingClips(recordings, PLAIN, LABEL2ID, recordings["seconds"][longest] / 4, augment)
    items = [clips[epoch * len(clips) + longest]["input_values"] for epoch in range(200)]
    assert {len(item) for item in items} == {clips.max_length}
    # A sample's value is its position in the recording. Resampling distorts the first and last samples.
    places = np.array(items)[:, 100:-100] - (longest + 1)
    assert places.min() < 0.05 and places.max() > 0.95
    slow = make_augmentation([{"TimeStretch": {"min_rate": 0.5, "max_rate": 0.9, "p": 1}}], RATE)
    assert slow.shortening == 1 and TrainingClips(recordings, PLAIN, LABEL2ID, 1, slow).read_length == RATE
