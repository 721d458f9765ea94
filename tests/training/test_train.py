# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet train` from recordings to a folder that transformers loads."""

import csv
import json
import re
import shutil
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, TrainerCallback, pipeline

from sanet_hf.audio.decode import load_audio, open_recording
from sanet_hf.audio.folders import SPLITS
from sanet_hf.cli.main import main
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.inference.int8 import load_classifier
from sanet_hf.inference.prediction import predict
from sanet_hf.optimization.int8_layers import has_int8_layers, is_quantized
from sanet_hf.training import train as train_module
from sanet_hf.training.baseline import STRENGTHS
from sanet_hf.training.callbacks import TrainingClock
from sanet_hf.training.data import decoded as decoded_module
from sanet_hf.training.data.rows import open_row
from sanet_hf.training.evaluation.false_alarms import measure_false_alarms
from sanet_hf.training.evaluation.saved_models import evaluate_models
from sanet_hf.training.make_trainer import let_steps_overlap
from sanet_hf.training.train import train
from sanet_hf.training.trainer import AudioClassificationTrainer


def test_learns_and_reports(trained):
    results = json.loads((trained / "all_results.json").read_text())
    assert results["eval_accuracy"] == results["eval_macro_f1"] == 1.0
    assert results["test_accuracy"] == results["test_macro_f1"] == 1.0
    assert results["epoch"] == 12
    # Logistic regression also separates high and low tones easily.
    assert results["baseline_eval_accuracy"] == results["baseline_test_macro_f1"] == 1.0
    assert results["baseline_C"] in STRENGTHS
    # A model of two classes detects one of them in any noise.
    assert results["false_alarms_per_hour"] >= 60 and results["false_alarms_hours"] == pytest.approx(1 / 60)
    card, report = ((trained / name).read_text(encoding="utf-8") for name in ("README.md", "report.html"))
    assert "Train with --background auto" in card and "Train with --background auto" in report


@pytest.mark.slow
def test_added_background_is_not_reported(tones, tiny_options, tmp_path, monkeypatch, caplog):
    """The background is a class of the model, but not part of predictions, metrics or the baseline."""
    monkeypatch.setattr("sanet_hf.training.data.background.find_alike", lambda *arguments: {"rain": "low"})
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), *tiny_options]
    command += ["--background", "auto", "--false_alarm_minutes", "5", "--refit", "true", "--baseline", "true"]
    results = train(*parse_train_arguments(command))
    model, feature_extractor = load_classifier(tmp_path / "run")
    assert model.config.background_label == "background"
    assert model.config.id2label == {0: "high", 1: "low", 2: "background"}
    rows = list(csv.DictReader((tmp_path / "run/predictions/validation.csv").open()))
    assert (
        len(rows) == 8 and "probability_background" in rows[0] and not [row for row in rows if "_back" in row["file"]]
    )
    assert results["test_accuracy"] == results["baseline_test_accuracy"] == 1.0
    own = csv.DictReader((tmp_path / "run/predictions/baseline_validation.csv").open())
    assert [row["file"] for row in own] == [row["file"] for row in rows]
    # Refit also trains on the added clips, but they do not count as recordings.
    assert results["refit_samples"] == 40
    # White, pink, brown and hum are counted. Rain sounds like a class.
    assert results["false_alarms_hours"] == pytest.approx(4 / 60) and "false_alarms_per_hour" in results
    # Without the added clips, all windows have a detection. Windows are compared, because a single detection can
    # last for a whole minute, while a better network can have several short ones.
    alarms = measure_false_alarms(model, feature_extractor, 4)
    assert sum(kind.num_windows for kind in alarms.counts) == 4 * 60
    assert sum(kind.num_detected for kind in alarms.counts) <= 4 * 60 / 2
    report = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Generated rain is not counted, because it may sound like low" in report and "<th>hum</th>" in report
    assert "background is the background class" in (tmp_path / "run/README.md").read_text(encoding="utf-8")
    noises = sorted((tmp_path / "run/_background/train").iterdir())
    predictions = list(predict(model, feature_extractor, noises))
    assert len(noises) == 16 and sum(prediction.label is None for prediction in predictions) >= 4
    assert not [prediction for prediction in predictions if prediction.label == "background"]


def test_folder_works_with_auto_classes_and_pipeline(trained, tones):
    model = AutoModelForAudioClassification.from_pretrained(trained)
    assert model.config.id2label == {0: "high", 1: "low"}
    assert model.config.label2id == {"high": 0, "low": 1}
    assert AutoFeatureExtractor.from_pretrained(trained).max_length == 16000
    classifier = pipeline("audio-classification", model=str(trained))
    for label in ("high", "low"):
        clips = sorted(str(path) for path in (tones / "test" / label).iterdir())
        assert [scores[0]["label"] for scores in classifier(clips, batch_size=2)] == [label] * 4


def test_padding_is_the_same_in_training_and_use(tones, tiny_options, tmp_path):
    """Training, predictions, pipeline and `sanet predict` see the same silence after a clip, in any batch."""
    output_dir = tmp_path / "run"
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(output_dir), *tiny_options]
    train(*parse_train_arguments([*command, "--padding", "max_length"]))
    model, feature_extractor = load_classifier(output_dir)
    assert not feature_extractor.return_attention_mask
    rows = list(csv.DictReader((output_dir / "predictions/test.csv").open()))
    files = [row["file"] for row in rows]
    expected = [[float(row["probability_high"]), float(row["probability_low"])] for row in rows]
    predictions = list(predict(model, feature_extractor, files, batch_size=3))
    classifier = pipeline("audio-classification", model=str(output_dir))
    for (high, low), prediction, scores in zip(expected, predictions, classifier(files, batch_size=2)):
        assert prediction.score == pytest.approx(max(high, low), abs=1e-4)
        assert {score["label"]: score["score"] for score in scores} == pytest.approx(
            {"high": high, "low": low}, abs=1e-4
        )
    # The model uses the padding: without it, the scores differ.
    waveform = load_audio(files[0], 16000)
    alone = feature_extractor([waveform], padding=False, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        high_alone = model(**alone).logits.softmax(-1)[0, 0].item()
    assert high_alone != pytest.approx(expected[0][0], abs=1e-4)


def test_keeps_the_best_epoch(trained):
    state = json.loads((trained / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_macro_f1"] for entry in state["log_history"] if "eval_macro_f1" in entry}
    assert state["best_metric"] == max(scores.values()) == scores[state["best_global_step"]]
    # The saved weights are those of that epoch, not of the last.
    best = AutoModelForAudioClassification.from_pretrained(state["best_model_checkpoint"]).state_dict()
    saved = AutoModelForAudioClassification.from_pretrained(trained).state_dict()
    assert all(torch.equal(saved[name], best[name]) for name in saved)


def test_run_writes_all_files(trained, tones):
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if "checkpoint-" not in str(path)}
    expected = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "all_results.json"}
    assert names >= {*expected, "report.html", "train_options.yaml", *(f"predictions/{s}.csv" for s in SPLITS)}
    rows = list(csv.DictReader((trained / "predictions/test.csv").open()))
    assert [row["file"] for row in rows] == sorted(str(path) for path in (tones / "test").rglob("*.wav"))
    assert all(row["label"] == row["prediction"] == Path(row["file"]).parent.name for row in rows)
    assert all(0.5 < float(row[f"probability_{row['label']}"]) <= 1 for row in rows)
    assert yaml.safe_load((trained / "train_options.yaml").read_text())["num_train_epochs"] == 12
    baseline = list(csv.DictReader((trained / "predictions/baseline_test.csv").open()))
    assert [(row["file"], row["prediction"]) for row in baseline] == [(row["file"], row["label"]) for row in rows]
    card = (trained / "README.md").read_text(encoding="utf-8")
    for text in (card, (trained / "report.html").read_text(encoding="utf-8")):
        assert "both reach accuracy 1.000 on test (8 clips)" in text and "1.000 (0.676–1.000)" in text
    if has_int8_layers():
        calibration = json.loads((trained / "int8_calibration.json").read_text())
        results = {"num_clips": 8, "accuracy": [1.0, 1.0], "macro_f1": [1.0, 1.0], "agreement": 1.0}
        assert calibration["evaluation"] == results and calibration["num_clips"] == 8 and calibration["error"] < 0.05
        interval = "0.676–1.000"
        assert f"8 validation clips is 1.000 (95 % interval {interval}) instead of 1.000 ({interval})" in card
        # The stored hash matches the weights in the folder.
        assert is_quantized(load_classifier(trained, dtype="int8")[0])
    assert "Calibration of the scores: none: the validation split has 8 recordings; at least 20 are needed." in card
    assert re.search(r"^Trained on: \S.*, (bfloat16|float32), PyTorch .*\.$", card, re.MULTILINE)


def test_finished_run_is_not_trained_again(trained, tones, tiny_options, capsys):
    before = (trained / "all_results.json").read_bytes()
    command = ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(trained), *tiny_options]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert f"{'test':12}{'1.000':>16}" in output
    # The last line, because the table is the same as after training.
    assert output.splitlines()[-1].startswith(f"Nothing was trained: {trained} already contains a finished run")
    assert (trained / "all_results.json").read_bytes() == before


def test_options_that_change_no_weights_may_differ(trained, tones, tiny_options, capsys):
    """Runs of earlier versions, whose YAML files had another --save_total_limit, also count as finished."""
    command = ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(trained), *tiny_options]
    before = (trained / "train_options.yaml").read_bytes()
    assert main([*command, "--save_total_limit", "7", "--logging_steps", "3"]) == 0
    assert f"{trained} already contains a finished run" in capsys.readouterr().out
    assert (trained / "train_options.yaml").read_bytes() == before


def test_checkpoint_of_another_network_is_refused(trained, tones, tiny_options, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    before = (other / "train_options.yaml").read_bytes()
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(other), *tiny_options]
    command += ["--config_overrides", "classifier_hidden_sizes=[6]", "--resume_from_checkpoint", "true"]
    with pytest.raises(UsageError, match="it has another network or other classes"):
        train(*parse_train_arguments(command))
    assert (other / "train_options.yaml").read_bytes() == before


def test_output_inside_the_data_is_refused(tones, tiny_options):
    """The next training would use it as a class."""
    classes = tones / "train"
    for output_dir in (classes, classes / "run"):
        command = ["sanet.yaml", "--data_dir", str(classes), "--output_dir", str(output_dir), *tiny_options]
        with pytest.raises(UsageError, match="is inside --data_dir"):
            train(*parse_train_arguments(command))
    assert not (classes / "run").exists()


def test_compiling_with_an_older_torch_is_refused(tones, tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), *tiny_options]
    with pytest.raises(UsageError, match=r"--torch_compile needs PyTorch 2\.11 .*, but 2\.8\.0\+cpu is installed"):
        train(*parse_train_arguments([*command, "--torch_compile", "true"]))


def test_folder_of_another_run_or_model_is_refused(trained, tones, tiny_options, tmp_path):
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(trained), *tiny_options]
    with pytest.raises(UsageError, match=r"contains a run with other options: learning_rate 0\.01 → 0\.5"):
        train(*parse_train_arguments([*command, "--learning_rate", "0.5"]))
    model_dir = tmp_path / "model"
    shutil.copytree(trained, model_dir, ignore=shutil.ignore_patterns("checkpoint-*", "train_options.yaml"))
    with pytest.raises(UsageError, match="already contains a model"):
        train(*parse_train_arguments([*command, "--output_dir", str(model_dir)]))


def test_same_command_resumes_after_an_interruption(trained, tones, tiny_options, tmp_path, capsys):
    """An interrupted run ends with the weights of an uninterrupted one."""
    output_dir = tmp_path / "run"
    command = ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(output_dir), *tiny_options]
    save = TrainerCallback.on_save

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 40:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingClock, "on_save", interrupt, raising=False)
        assert main(command) == 130
    assert TrainerCallback.on_save is save and not (output_dir / "all_results.json").exists()
    assert main(command) == 0
    expected = AutoModelForAudioClassification.from_pretrained(trained).state_dict()
    resumed = AutoModelForAudioClassification.from_pretrained(output_dir).state_dict()
    assert all(torch.allclose(resumed[name], expected[name], atol=1e-6) for name in expected)
    state = json.loads((output_dir / "trainer_state.json").read_text())
    assert [entry["epoch"] for entry in state["log_history"] if "eval_loss" in entry] == list(range(1, 13))


def test_run_without_a_checkpoint_does_not_bind_the_next(tones, tiny_options, tmp_path):
    """After an error before the first checkpoint, the next command may have other options."""
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), *tiny_options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AudioClassificationTrainer, "training_step", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(*parse_train_arguments([*command, "--learning_rate", "7"]))
    assert (tmp_path / "run/train_options.yaml").exists()
    assert train(*parse_train_arguments([*command, "--num_train_epochs", "1"]))["epoch"] == 1


def test_fine_tuning_uses_the_rate_of_the_checkpoint(trained, tones, tiny_options, tmp_path, monkeypatch):
    model, feature_extractor = load_classifier(trained)
    feature_extractor.sampling_rate = 8000
    for part in (model, feature_extractor):
        part.save_pretrained(tmp_path / "checkpoint")
    rates, heard = [], []

    def make_augmentation(transforms, sampling_rate):
        rates.append(sampling_rate)
        return lambda waveform: heard.append(waveform) or waveform

    def noting(read):
        def read_and_note(source, sampling_rate, *arguments, **options):
            rates.append(sampling_rate)
            return read(source, sampling_rate, *arguments, **options)

        return read_and_note

    monkeypatch.setattr("sanet_hf.training.train.make_augmentation", make_augmentation)
    monkeypatch.setattr("sanet_hf.training.data.rows.load_audio", noting(load_audio))
    monkeypatch.setattr("sanet_hf.training.data.rows.open_recording", noting(open_recording))
    output_dir = tmp_path / "run"
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(output_dir), *tiny_options[2:]]
    command += ["--model_name_or_path", str(tmp_path / "checkpoint"), "--dataloader_num_workers", "0"]
    train(*parse_train_arguments([*command, "--num_train_epochs", "1"]))
    evaluate_models([str(output_dir)], {}, "test", 4)
    assert set(rates) == {8000} and len(rates) > 100
    # Once before and once after loudness normalization.
    assert len(heard) == 2 * 32
    for waveform in heard:
        assert 0.3 * 8000 - 1 <= len(waveform) <= 0.8 * 8000 + 1
        frequency = np.abs(np.fft.rfft(waveform)).argmax() * 8000 / len(waveform)
        assert 190 < frequency < 410 or 990 < frequency < 2010
    assert load_classifier(output_dir)[1].sampling_rate == 8000


def test_kept_recordings_change_nothing(tiny_options, tmp_path, make_tone, monkeypatch, capsys):
    """Keeping decoded recordings changes neither weights nor results. Each recording is decoded once."""
    for index in range(16):
        label, split = ("a", "b")[index % 2], "validation" if index < 4 else "train"
        path = tmp_path / "data" / split / label / f"{index}.ogg"
        make_tone(path, 300 + 500 * (index % 2), 0.5 + 0.1 * index, sampling_rate=44100, seed=index)
    decoded, weights, lines = [], {}, {}
    workers = "--dataloader_num_workers 2 --dataloader_persistent_workers true"
    for options in ("--cache_audio 0", "", f"{workers} --cache_audio 0.0005"):
        output_dir = tmp_path / f"run{len(weights)}"
        command = ["sanet.yaml", "--data_dir", str(tmp_path / "data"), "--output_dir", str(output_dir), *tiny_options]
        command = parse_train_arguments([*command, "--num_train_epochs", "3", *options.split()])
        if not options:

            def note(row, *arguments):
                decoded.append(row["file"])
                return open_row(row, *arguments)

            monkeypatch.setattr(decoded_module, "open_row", note)
        capsys.readouterr()
        results = train(*command)
        monkeypatch.setattr(decoded_module, "open_row", open_row)
        lines[options] = [line for line in capsys.readouterr().err.splitlines() if "decoded once" in line]
        results = {name: value for name, value in results.items() if not re.search("runtime|second|flos", name)}
        weights[options] = (output_dir / "model.safetensors").read_bytes(), results
        assert not (output_dir / "_decoded").exists()
        # Remaining workers would prevent the command from ending.
        assert not active_children()
    assert all(found == weights[""] for found in weights.values())
    assert len(decoded) == len(set(decoded)) == 16
    none, everything, some = lines.values()
    assert not none and re.search(r"All [1-9]\d*\.\d s of recordings are decoded once", everything[0])
    assert re.search(r"The shortest [1-9]\d*\.\d s of [1-9]\d*\.\d s of recordings", some[0])


def test_overwrite_output_dir_starts_again(tones, tiny_options, tmp_path):
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), *tiny_options]
    train(*parse_train_arguments([*command, "--num_train_epochs", "2"]))
    metrics = train(*parse_train_arguments([*command, "--num_train_epochs", "1", "--overwrite_output_dir", "true"]))
    assert metrics["epoch"] == 1
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-8"]


def test_resumes_from_the_last_checkpoint(tones, tiny_options, tmp_path, capsys):
    """Two epochs and then two more give the model of four epochs at once."""
    data = ["--data_dir", str(tones), *tiny_options, "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    data += ["--load_best_model_at_end", "false", "--precision", "fp32"]
    at_once, in_two = tmp_path / "at_once", tmp_path / "in_two"
    assert main(["train", "sanet.yaml", *data, "--output_dir", str(at_once), "--num_train_epochs", "4"]) == 0
    assert main(["train", "sanet.yaml", *data, "--output_dir", str(in_two), "--num_train_epochs", "2"]) == 0
    again = ["--num_train_epochs", "4", "--resume_from_checkpoint", "true"]
    capsys.readouterr()
    assert main(["train", "sanet.yaml", *data, "--output_dir", str(in_two), *again]) == 0
    assert "already contains a finished run" not in capsys.readouterr().out
    expected = AutoModelForAudioClassification.from_pretrained(at_once).state_dict()
    resumed = AutoModelForAudioClassification.from_pretrained(in_two).state_dict()
    assert all(torch.allclose(resumed[name], expected[name], atol=1e-6) for name in expected)


def test_resumed_run_is_unfinished_until_its_end(tones, tiny_options, tmp_path, monkeypatch):
    """Otherwise, the same command would report the results of the first training."""
    data = ["--data_dir", str(tones), *tiny_options, "--output_dir", str(tmp_path / "run")]
    train(*parse_train_arguments(["sanet.yaml", *data, "--num_train_epochs", "1"]))
    data += ["--num_train_epochs", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(*parse_train_arguments(["sanet.yaml", *data, "--resume_from_checkpoint", "true"]))
    assert train(*parse_train_arguments(["sanet.yaml", *data]))["epoch"] == 2


def interrupt(*args):
    raise KeyboardInterrupt


def test_resuming_without_a_checkpoint_is_refused(tones, tiny_options, tmp_path):
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path), *tiny_options]
    with pytest.raises(UsageError, match="no complete checkpoint"):
        train(*parse_train_arguments([*command, "--resume_from_checkpoint", "true"]))


def test_last_batch_may_have_one_clip(tones, tiny_options, tmp_path):
    """17 clips in batches of 4 leave a batch of one, on which BatchNorm alone would fail."""
    data = tmp_path / "data"
    shutil.copytree(tones, data)
    for path in sorted((data / "train/high").iterdir())[1:]:
        path.unlink()
    assert len(list((data / "train").rglob("*.wav"))) == 17
    options = [*tiny_options, "--num_train_epochs", "1"]
    assert main(["train", "sanet.yaml", "--data_dir", str(data), "--output_dir", str(tmp_path / "o"), *options]) == 0


@pytest.mark.parametrize("freeze", ["feature_encoder", "backbone"])
def test_fine_tunes_a_checkpoint_on_other_labels(trained, tones, tiny_options, tmp_path, freeze, caplog):
    data = tmp_path / "data"
    for path in tones.rglob("*.wav"):
        split, label, name = path.relative_to(tones).parts
        target = data / split / {"high": "treble", "low": "bass"}[label] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    output_dir = tmp_path / "tuned"
    command = ["train", "sanet.yaml", "--data_dir", str(data), "--output_dir", str(output_dir), *tiny_options[2:]]
    assert main([*command, "--model_name_or_path", str(trained), "--freeze", freeze]) == 0
    tuned = AutoModelForAudioClassification.from_pretrained(output_dir)
    assert tuned.config.label2id == {"bass": 0, "treble": 1}
    before = AutoModelForAudioClassification.from_pretrained(trained).state_dict()
    after = tuned.state_dict()
    frozen = [
        name for name in before if name.startswith("sanet.layers.0." if freeze == "feature_encoder" else "sanet.")
    ]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["classifier.0.weight"], after["classifier.0.weight"])
    assert json.loads((output_dir / "all_results.json").read_text())["test_accuracy"] == 1.0


def test_checkpoint_keeps_the_order_of_its_labels(trained, tones, tiny_options, tmp_path):
    """A head for the same labels in another order needs no training."""
    reversed_dir = tmp_path / "reversed"
    model = AutoModelForAudioClassification.from_pretrained(trained)
    with torch.no_grad():
        for parameter in (model.classifier[-1].weight, model.classifier[-1].bias):
            parameter.copy_(parameter.flip(0))
    model.config.id2label, model.config.label2id = {0: "low", 1: "high"}, {"low": 0, "high": 1}
    model.save_pretrained(reversed_dir)
    AutoFeatureExtractor.from_pretrained(trained).save_pretrained(reversed_dir)
    command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "o"), *tiny_options[2:]]
    command += ["--model_name_or_path", str(reversed_dir), "--num_train_epochs", "1", "--learning_rate", "0"]
    metrics = train(*parse_train_arguments([*command, "--freeze", "backbone"]))
    assert metrics["test_accuracy"] == 1.0


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cuda", False), ("mps", True), ("cpu", False)])
def test_steps_do_not_wait_for_a_gpu(device, pinned):
    """Steps wait neither for the copy of a batch nor for the value of the loss."""
    arguments = SimpleNamespace(device=torch.device(device), dataloader_pin_memory=pinned, logging_nan_inf_filter=True)
    arguments.accelerator_config = SimpleNamespace(non_blocking=False)
    let_steps_overlap(arguments)
    assert not arguments.logging_nan_inf_filter
    # A copy from memory that is not pinned waits anyway.
    assert arguments.accelerator_config.non_blocking == (device == "cuda" and pinned)
