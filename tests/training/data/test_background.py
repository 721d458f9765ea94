# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The background class, and background clips that are added to the recordings."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from sanet_hf import SANetFeatureExtractor
from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments
from sanet_hf.training.data import background as background_module
from sanet_hf.training.data.background import FOLDER, add_background, find_quiet_part
from sanet_hf.training.data.background_labels import store_background, without_added
from sanet_hf.training.data.clips import TrainingClips
from sanet_hf.training.data.labels import label_names
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.noises import TRAINED_KINDS, make_noise
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.data.stretches import find_loud_starts


RATE = 16000
SEVERAL = "multi_label_classification"


def add(tones, output_dir, seed=0, **options):
    data = DataArguments(data_dir=str(tones), max_length_seconds=0.5, **options)
    training = AudioTrainingArguments(output_dir=str(output_dir), seed=seed, use_cpu=True)
    return add_background(load_recordings(data, RATE), data, training, RATE)


@pytest.fixture
def no_likeness(monkeypatch):
    monkeypatch.setattr(background_module, "find_alike", lambda *arguments: {})


@pytest.mark.parametrize("problem_type", ["single_label_classification", SEVERAL])
def test_generated_clips_are_added(tones, tmp_path, no_likeness, problem_type, capsys):
    recordings, background = add(tones, tmp_path, background="auto", problem_type=problem_type)
    is_several = problem_type == SEVERAL
    assert label_names(recordings["train"]) == ["high", "low", *([] if is_several else ["background"])]
    own = {split: dataset.select(range(len(dataset))) for split, dataset in without_added(recordings).items()}
    assert {split: len(dataset) for split, dataset in own.items()} == {"train": 32, "validation": 8, "test": 8}
    # The median class has 16 training and 4 validation recordings. Validation gets one clip of each kind.
    assert {split: len(dataset) for split, dataset in recordings.items()} == {"train": 48, "validation": 17, "test": 8}
    assert background.counts["train"].keys() == set(TRAINED_KINDS) and not background.test_files
    added = recordings["train"].select(range(32, 48))
    assert set(map(str, added["label"])) == {"[]" if is_several else "2"}
    assert all(len(load_recording(row, RATE)) == round(row["seconds"] * RATE) for row in added)
    digests = [set(recordings[split]["digest"]) for split in ("train", "validation")]
    assert not digests[0] & digests[1] and len(digests[0]) == 48
    # The same seed gives the same noise, another seed gives other noise.
    again, _ = add(tones, tmp_path, background="auto", problem_type=problem_type)
    assert again["train"]["digest"][:] == recordings["train"]["digest"][:]
    other, _ = add(tones, tmp_path / "other", 1, background="auto", problem_type=problem_type)
    assert not set(other["train"]["digest"][32:]) & digests[0]
    assert "Background added: 16 train, 9 validation clips" in capsys.readouterr().err
    record = json.loads((tmp_path / FOLDER / "background.json").read_text())
    assert sum(clip["split"] == "train" for clip in record["clips"]) == 16
    # Every part of steady noise can be drawn.
    for row in added:
        if "-white" in row["file"] or "-silence" in row["file"]:
            assert find_loud_starts(load_recording(row, RATE), 8000, RATE).all()
    # Training reads the clips like other recordings. Silence gives no NaN.
    model = {name: index for index, name in enumerate(label_names(recordings["train"]))}
    clips = TrainingClips(recordings["train"], SANetFeatureExtractor(max_length=8000), model, 0.5)
    for index in range(32, 48):
        assert np.isfinite(clips[index]["input_values"]).all()
        assert clips[index]["labels"].sum() == 0 if is_several else clips[index]["labels"] == 2


def test_recordings_of_background_are_divided(tones, tmp_path, no_likeness):
    """Recordings of --background_dir are divided into splits. Files held out for testing are not trained on."""
    folder = tmp_path / "yard"
    for index in range(40):
        (folder / f"{index % 2}").mkdir(parents=True, exist_ok=True)
        noise = make_noise("pink", np.random.default_rng(index), RATE, RATE, -30.0)
        soundfile.write(folder / f"{index % 2}" / f"{index}.wav", noise, RATE, subtype="PCM_16")
    recordings, background = add(tones, tmp_path / "run", background_dir=str(folder))
    assert background.counts["train"] == {"recorded": 16} and background.counts["validation"].keys() == {"recorded"}
    assert len(background.test_files) > 0
    written = {clip.tobytes() for clip in (load_recording(row, RATE) for row in recordings["train"].select([40, 47]))}
    files = {path: soundfile.read(path, dtype="float32")[0] for path in map(str, folder.rglob("*.wav"))}
    sources = {path for path, own in files.items() if {own[:8000].tobytes(), own[8000:].tobytes()} & written}
    assert len(sources) >= 1 and not sources & set(background.test_files)
    _, background = add(tones, tmp_path / "both", background="auto", background_dir=str(folder))
    assert background.counts["train"]["recorded"] == 8 and background.counts["train"]["white"] >= 1
    for other, message in (("nowhere", "folder not found"), ("empty", "contains no recordings")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            add(tones, tmp_path / "run", background_dir=str(tmp_path / other))


def test_quiet_part_is_found():
    rng = np.random.default_rng(0)
    loud, quiet = 0.3 * rng.standard_normal(2 * RATE), 0.002 * rng.standard_normal(round(1.5 * RATE))
    assert find_quiet_part(np.concatenate([loud, quiet, loud]), RATE) == (2 * RATE, round(3.5 * RATE))
    # The quiet part is too short, there is none, digital silence, the recording is too short.
    for waveform in (np.concatenate([loud, quiet[: RATE // 2], loud]), loud, np.zeros(3 * RATE), loud[:10]):
        assert find_quiet_part(waveform, RATE) is None
    assert find_quiet_part(np.concatenate([loud, 0 * quiet]), RATE) is None


def test_noise_that_sounds_like_a_class_is_not_added(tmp_path):
    """With a class of white noise and a class of tones, white noise is not added. No kind is like a tone."""
    rng = np.random.default_rng(5)
    for split, count in (("train", 12), ("validation", 4)):
        for index in range(count):
            noise = make_noise("white", rng, RATE // 2, RATE, -20.0)
            tone = 0.1 * np.sin(np.arange(RATE // 2) * rng.uniform(0.1, 0.3)) + 0.001 * rng.standard_normal(RATE // 2)
            for label, waveform in (("waterfall", noise), ("tone", tone)):
                path = tmp_path / "data" / split / label / f"{split}{index}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, waveform, RATE)
    _, background = add(tmp_path / "data", tmp_path / "run", background="auto")
    assert background.alike["white"] == "waterfall" and "white" not in background.counts["train"]
    assert "tone" not in background.alike.values() and len(background.alike) < len(TRAINED_KINDS)


def test_config_stores_the_background_label():
    config = SimpleNamespace()
    store_background(config, ["background", "owl"], DataArguments())
    assert config.background_label == "background"
    # The config of an initial checkpoint may have a background label.
    store_background(config, ["owl", "fox"], DataArguments())
    assert config.background_label is None
    store_background(config, ["yard", "owl"], DataArguments(background="yard"))
    assert config.background_label == "yard"
    store_background(config, ["background", "owl"], DataArguments(background="none"))
    assert config.background_label is None
    with pytest.raises(UsageError, match=r"--background yard: class not found\. The classes are fox, owl"):
        store_background(config, ["fox", "owl"], DataArguments(background="yard"))


def test_background_is_no_class_in_multi_label_data(tmp_path, make_tone):
    """The label is removed. Recordings keep their other classes, or have no class."""
    for index in range(6):
        make_tone(tmp_path / f"{index}.wav", 300 + 50 * index, seed=index)
    labels = ["owl", "fox", "background", "owl;background", "owl;fox", "background"]
    rows = [f"{index}.wav,{label}" for index, label in enumerate(labels)]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    options = {"manifest": str(tmp_path / "list.csv"), "problem_type": SEVERAL}
    (dataset,) = load_recordings(DataArguments(**options), RATE, splits=("all",)).values()
    names = label_names(dataset)
    assert names == ["fox", "owl"]
    assert [[names[i] for i in label] for label in dataset["label"]] == [
        ["owl"],
        ["fox"],
        [],
        ["owl"],
        ["fox", "owl"],
        [],
    ]
    with pytest.raises(UsageError, match="--background yard: class not found in the recordings"):
        load_recordings(DataArguments(**options, background="yard"), RATE)
    (source,) = read_source(DataArguments(**options)).values()
    assert "background" in source["label"][3]
