# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Sampling rate and noise reduction are the same in training and in use, end to end."""

import json
import runpy
import shutil

import numpy as np
import pytest
import soundfile
from transformers import AutoFeatureExtractor, pipeline

from sanet_hf.audio.denoise import DENOISED, denoise
from sanet_hf.audio.denoise import logger as denoising_logger
from sanet_hf.cli.main import main
from sanet_hf.errors import DataError
from sanet_hf.inference.app import classify_recording
from sanet_hf.inference.prediction import load_denoised, predict
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.preparation_record import note_preparation, read_preparation

from .conftest import write_tone
from .tiny_models import overrides, save_checkpoint


# 48 kHz, with tones above the range of a 16 kHz model; and 16 kHz, resampled to the 8 kHz of telephones.
RATES = {48_000: (48_000, {"high": 20_000, "low": 12_000}), 8000: (16_000, {"high": 2500, "low": 300})}


@pytest.fixture(scope="module", params=RATES)
def run(request, tmp_path_factory):
    """Return a rate, a folder of recordings, and the folder of a model trained at that rate."""
    rate, (native, classes) = request.param, RATES[request.param]
    folder = tmp_path_factory.mktemp("rates")
    for split, count in (("train", 8), ("validation", 2), ("test", 2)):
        for label, frequency in classes.items():
            for index in range(count):
                path = folder / "data" / split / label / f"{index}.wav"
                write_tone(path, frequency * (1 + 0.01 * index), 0.12, native, seed=index)
    options = ["--config_overrides", overrides("sanet"), "--sampling_rate", str(rate), "--max_length_seconds", "0.1"]
    options += ["--num_train_epochs", "24", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2"]
    options += ["--precision", "fp32", "--eval_strategy", "no", "--save_strategy", "no"]
    options += ["--load_best_model_at_end", "false"]
    command = ["train", "sanet.yaml", "--data_dir", str(folder / "data"), "--output_dir", str(folder / "run")]
    assert main([*command, *options]) == 0
    return rate, folder / "data", folder / "run"


def test_training_uses_the_rate(run):
    rate, _, model = run
    feature_extractor = AutoFeatureExtractor.from_pretrained(model)
    assert (feature_extractor.sampling_rate, feature_extractor.max_length) == (rate, rate // 10)
    assert json.loads((model / "all_results.json").read_text())["test_accuracy"] == 1.0
    card = (model / "README.md").read_text()
    assert f"mono audio at {rate:,} Hz" in card and "0.1 s" in card
    assert f"sampling_rate: {rate}\n" in (model / "train_options.yaml").read_text()


def test_commands_use_the_rate_of_the_model(run, tmp_path, capsys):
    _, data, model = run
    files = [str(data / "test" / label / "0.wav") for label in ("high", "low")]
    assert main(["predict", str(model), *files, "--output", str(tmp_path / "p.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    # A window of 0.1 s, and one at the end of the file of 0.12 s.
    times = [(row["start"], row["end"]) for row in rows if row["path"] == files[0] and row["start"] is not None]
    np.testing.assert_allclose(times, [(0, 0.1), (0.02, 0.12)], atol=1e-6)
    assert [row["label"] for row in rows if row["start"] is None] == ["high", "low"]
    assert [scores[0]["label"] for scores in pipeline("audio-classification", model=str(model))(files)] == [
        "high",
        "low",
    ]
    assert main(["explain", str(model), files[0], "--output", str(tmp_path / "e.json")]) == 0
    explanation = json.loads((tmp_path / "e.json").read_text())
    assert explanation["occlusion"]["end"][-1] <= 0.12 and explanation["pooling"]["edges"][-1] <= 0.12
    capsys.readouterr()
    assert main(["evaluate", str(model), "--data_dir", str(data), "--split", "train"]) == 0
    assert "1.000" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("run", [48_000, 8000], indirect=True)
def test_export_uses_the_rate_of_the_model(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    rate, data, model = run
    assert main(["export", str(model), str(tmp_path / "out")]) == 0
    for label in ("high", "low"):
        clip, native = soundfile.read(data / "test" / label / "0.wav")
        path = tmp_path / f"{label}.wav"
        # At 8 kHz, every second sample is enough: the tones are below 4 kHz.
        soundfile.write(path, clip[:: native // rate], rate)
        monkeypatch.setattr("sys.argv", ["classify.py", str(path)])
        capsys.readouterr()
        runpy.run_path(str(tmp_path / "out" / "classify.py"))
        assert capsys.readouterr().out.split()[1] == label
    soundfile.write(tmp_path / "other.wav", clip, rate + 1)
    monkeypatch.setattr("sys.argv", ["classify.py", str(tmp_path / "other.wav")])
    with pytest.raises(SystemExit, match=f"at {rate} Hz first"):
        runpy.run_path(str(tmp_path / "out" / "classify.py"))


# Noise reduction


def test_noise_reduction_is_stored_and_compared(tmp_path, caplog):
    """`sanet prepare` and `sanet train` store it. `sanet predict` and `sanet evaluate` warn about a difference."""
    for label, frequency in (("high", 2000), ("low", 300)):
        for index in range(4):
            write_tone(tmp_path / "recordings" / label / f"{index}.wav", frequency, 0.5, seed=index)
    source, raw = str(tmp_path / "recordings"), str(tmp_path / "recordings/low/0.wav")
    tiny = ["--config_overrides", overrides("sanet"), "--max_length_seconds", "0.5", "--max_steps", "1"]
    tiny += ["--precision", "fp32"]
    for options, folder in ((["--denoise"], "denoised_clips"), ([], "clips")):
        data, model = tmp_path / folder / "data", tmp_path / folder / "model"
        command = ["prepare", source, str(data), "--no_segments", "--num_workers", "1", "--group_pattern", ".*"]
        assert main([*command, *options]) == 0
        # The name of the folder says whether clips are denoised. There are no speech segments.
        assert {path.name for path in data.iterdir() if path.is_dir()} == {folder}
        clips = str(data / folder)
        shutil.copytree(data / folder / "train", data / folder / "validation", dirs_exist_ok=True)
        assert main(["train", "sanet.yaml", "--data_dir", clips, "--output_dir", str(model), *tiny]) == 0
        is_denoised = folder == "denoised_clips"
        assert getattr(AutoFeatureExtractor.from_pretrained(model), DENOISED) is is_denoised
        assert ("sanet predict --denoise" in (model / "README.md").read_text()) is is_denoised
        for use in ([], ["--denoise"]):
            denoising_logger.warning_once.cache_clear()
            caplog.clear()
            assert main(["predict", str(model), raw, *use]) == 0
            differs = bool(use) is not is_denoised
            assert ("denoised clips" in caplog.text) is differs
    caplog.clear()
    # Each model is evaluated on the other kind of clips. The last one was trained without noise reduction.
    assert main(["evaluate", str(model), "--data_dir", str(tmp_path / "denoised_clips/data/denoised_clips")]) == 0
    assert "trained on clips that were not" in caplog.text
    caplog.clear()
    assert main(["evaluate", str(tmp_path / "denoised_clips/model"), "--data_dir", source, "--split", "all"]) == 0
    assert "these recordings are not known to be denoised" in caplog.text


@pytest.fixture
def record(tmp_path):
    """Return a function that writes a `preparation.json` and returns data options for recordings below it."""

    def write(text: str = '{"denoise": true, "sampling_rate": 16000}', place: str = "clips/train") -> DataArguments:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "preparation.json").write_text(text)
        return DataArguments(data_dir=str(tmp_path / place))

    return write


@pytest.mark.parametrize("place", [".", "clips", "clips/train"])
def test_record_is_found_from_any_folder_of_the_clips(record, place):
    assert read_preparation(record(place=place)) == {"denoise": True, "sampling_rate": 16000}


def test_record_of_other_folders_is_not_used(record, tmp_path):
    assert read_preparation(record(place="clips/train/a/b")) is None
    manifest = tmp_path / "list.csv"
    manifest.touch()
    assert read_preparation(DataArguments(manifest=str(manifest)))["denoise"]
    assert read_preparation(DataArguments(dataset_name="me/sounds")) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"denoise": true, "sampling_rate": "x"}'])
def test_damaged_record_is_refused(record, text):
    with pytest.raises(DataError, match=r"preparation\.json is damaged"):
        read_preparation(record(text))


def test_denoised_checkpoint_on_other_clips_is_a_warning(record, tmp_path, caplog):
    _, feature_extractor = save_checkpoint(tmp_path / "checkpoint", "sanet")
    note_preparation(feature_extractor, DataArguments(data_dir=str(tmp_path / "checkpoint")))
    assert not hasattr(feature_extractor, DENOISED)
    note_preparation(feature_extractor, record())
    assert feature_extractor.denoised_training is True and not caplog.text
    (tmp_path / "preparation.json").unlink()
    note_preparation(feature_extractor, DataArguments(data_dir=str(tmp_path / "clips")))
    assert feature_extractor.denoised_training is False and "not known to be denoised" in caplog.text


def test_clips_of_another_rate_are_a_warning(record, tmp_path, caplog):
    _, feature_extractor = save_checkpoint(tmp_path / "checkpoint", "sanet")
    note_preparation(feature_extractor, record('{"denoise": false, "sampling_rate": 8000}'))
    assert "prepared at 8000 Hz, but the model needs 16000 Hz" in caplog.text


def test_denoised_predictions_agree_with_denoised_recordings(tmp_path):
    """Denoising a stream of windows equals `sanet prepare`, which denoises the whole recording before cutting."""
    model, feature_extractor = save_checkpoint(tmp_path / "checkpoint", "sanet")
    model.eval()
    path = tmp_path / "a.wav"
    write_tone(path, 440, 7.0)
    waveform = np.concatenate(list(denoise([soundfile.read(path, dtype="float32")[0]], 16000)))
    (expected,) = predict(model, feature_extractor, [waveform], denoise=None)
    (found,) = predict(model, feature_extractor, [path], denoise=True)
    (raw,) = predict(model, feature_extractor, [path])
    assert len(found.windows) == 2
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert not np.array_equal(raw.scores, expected.scores)
    np.testing.assert_allclose(load_denoised(path, 16000, 100, 5000), waveform[100:5100], atol=1e-7)
    # The app draws the waveform that the model gets.
    prediction, heard = classify_recording(model, feature_extractor, path, denoise=True)
    np.testing.assert_array_equal(heard, waveform)
    np.testing.assert_array_equal(prediction.scores, expected.scores)
