# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`--head_only`: logistic regression on a network that stays as it is."""

import json

import numpy as np
import pytest
import torch

from sanet_hf.architectures import backbone, extract_features
from sanet_hf.cli.main import main
from sanet_hf.errors import DataError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.modeling_sanet import SANetModel
from sanet_hf.pretrained import DEFAULT, find_model, model_names
from sanet_hf.training import regression_heads
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.evaluation.saved_models import _make_trainer
from sanet_hf.training.recipe import RECIPE_FILE
from sanet_hf.training.regression_heads import fit_head, refit_head

from .test_band_head import NETWORK
from .tiny_models import save_checkpoint


@pytest.fixture(scope="module")
def data(tones) -> DataArguments:
    return DataArguments(data_dir=str(tones), max_length_seconds=0.3)


@pytest.fixture(scope="module")
def recordings(data):
    return load_recordings(data)


@pytest.fixture
def checkpoint(tmp_path):
    """Of other classes than those of the recordings."""
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, "sanet", ["x", "y", "z"], **NETWORK)
    return folder


@pytest.fixture
def trainer(tmp_path, recordings):
    labels = recordings["train"].features["label"].names
    model, feature_extractor = save_checkpoint(
        tmp_path / "initial", "sanet", labels, **{**NETWORK, "classifier_hidden_sizes": [8]}
    )
    trainer = _make_trainer(model, feature_extractor, batch_size=8)
    trainer.args.band_head, trainer.args.class_weights = "auto", "none"
    return trainer


def score(baseline, values: torch.Tensor) -> np.ndarray:
    return (values.double().numpy() - baseline.mean) / baseline.scale @ baseline.weights + baseline.bias


@pytest.mark.parametrize("few", [9, 8])
def test_the_classifier_is_the_regression(trainer, recordings, data, monkeypatch, few):
    """With few validation recordings, the log-mel bands have half of the scores."""
    monkeypatch.setattr(regression_heads, "MIN_FOR_SHARE", few)
    model, row = trainer.model, recordings["test"][0]
    weights = {name: value.clone() for name, value in backbone(model).state_dict().items()}
    head = fit_head(trainer, recordings["train"], recordings["validation"], data)
    assert (head.bands is not None) == (few == 9) and head.num_recordings == 32
    features = extract_features(trainer.processing_class, [load_recording(row, 16000, 0, 4800)])
    model.eval().float()
    with torch.no_grad():
        outputs, logits = model.base_model(**features), model(**features).logits.numpy()
    expected = score(head.classifier, outputs.pooler_output)
    if head.bands is not None:
        expected = (expected + score(head.bands, outputs.band_statistics)) / 2
    np.testing.assert_allclose(logits, expected, atol=2e-3, rtol=2e-3)
    after = backbone(model).state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)
    # To the same recordings again: the search for the weights starts elsewhere.
    refitted = refit_head(trainer, head, recordings["train"], data)
    assert refitted.num_recordings == 32 and refitted.classifier.C == head.classifier.C
    with torch.no_grad():
        again = model(**features).logits.numpy()
    np.testing.assert_allclose(again, logits, atol=0.02 * np.abs(logits).max())


def test_a_run(tones, checkpoint, tmp_path, capsys):
    output_dir = tmp_path / "run"
    command = ["train", "--data_dir", str(tones), "--output_dir", str(output_dir), "--head_only", "true"]
    command += ["--model_name_or_path", str(checkpoint), "--max_length_seconds", "0.3", "--refit", "true"]
    command += ["--false_alarm_minutes", "0"]
    assert main(command) == 0
    text = capsys.readouterr().err
    assert "logistic regression on the embeddings of 32 recordings" in text and "stays as it was" in text
    results = json.loads((output_dir / "all_results.json").read_text())
    assert results["test_accuracy"] == 1.0 and results["refit_samples"] == 40
    assert "the head alone" in (output_dir / "report.html").read_text()
    model, _ = load_classifier(output_dir)
    assert not model.config.classifier_hidden_sizes and set(model.config.label2id) == {"high", "low"}
    before, after = SANetModel.from_pretrained(checkpoint).state_dict(), model.base_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # A finished run is left as it is.
    assert main(command) == 0
    assert json.loads((output_dir / "all_results.json").read_text()) == results


def test_several_classes_a_clip(make_tone, checkpoint, tmp_path):
    folder, rows = tmp_path / "clips", ["file,label"]
    for index in range(12):
        names = [name for place, name in enumerate(("low", "high")) if (index + 1) >> place & 1]
        make_tone(folder / f"{index}.wav", {0: 500, 1: 300, 2: 2000}.get((index + 1) & 3, 900), seed=index)
        rows.append(f"{index}.wav,{';'.join(names)}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    command = ["train", "--manifest", str(folder / "manifest.csv"), "--output_dir", str(tmp_path / "run")]
    command += ["--problem_type", "multi_label_classification", "--head_only", "true", "--max_length_seconds", "0.5"]
    assert main([*command, "--model_name_or_path", str(checkpoint), "--baseline", "false"]) == 0
    model, _ = load_classifier(tmp_path / "run")
    assert model.config.problem_type == "multi_label_classification" and model.num_labels == 2


def test_the_shipped_network(few_tones, tmp_path, capsys):
    """Without a checkpoint, the network that comes with sanet-hf is used, without a connection."""
    command = ["train", "--data_dir", str(few_tones), "--output_dir", str(tmp_path / "run"), "--head_only", "true"]
    assert main([*command, "--baseline", "false", "--false_alarm_minutes", "0"]) == 0
    assert f"model_name_or_path {DEFAULT}" in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["test_accuracy"] == 1.0


def test_shipped_networks_are_found(tmp_path, monkeypatch):
    assert DEFAULT in model_names()
    for name in model_names():
        assert SANetModel.from_pretrained(find_model(name)).config.name_or_path == find_model(name)
    assert find_model("someone/model") == "someone/model"
    # A model of the same name is meant, but no other folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()
    assert find_model(DEFAULT) != DEFAULT
    (tmp_path / DEFAULT / "config.json").write_text("{}")
    assert find_model(DEFAULT) == DEFAULT


def test_a_recipe_repeats_the_run(few_tones, tmp_path):
    """It says itself that the head alone is fitted; and one that a command left which failed is not used."""
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    (second / RECIPE_FILE).write_text("num_train_epochs: 7\n")
    command = ["train", "--data_dir", str(few_tones), "--baseline", "false", "--false_alarm_minutes", "0"]
    assert main([*command, "--output_dir", str(first), "--head_only", "true"]) == 0
    assert main([*command, "--output_dir", str(second), "--head_only", "true"]) == 0
    third = tmp_path / "third"
    assert main(["train", str(first / RECIPE_FILE), *command[1:], "--output_dir", str(third)]) == 0
    results = [json.loads((path / "all_results.json").read_text()) for path in (first, second, third)]
    for result in results:
        assert result["test_loss"] == pytest.approx(results[0]["test_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["sanet.yaml"], "--head_only needs --model_name_or_path"),
        (["--model_name_or_path", "CHECKPOINT", "--samples_per_class", "5"], "--samples_per_class"),
        (["--model_name_or_path", "CHECKPOINT", "--teacher", "CHECKPOINT"], "--teacher"),
        (["--model_name_or_path", "CHECKPOINT", "--learning_rate", "0.1"], "--learning_rate has no effect"),
        (["--model_name_or_path", "CHECKPOINT", "--mixup_alpha", "1"], "--mixup_alpha has no effect"),
        (["--early_stopping_patience", "3"], "--early_stopping_patience has no effect"),
        (["--resume_from_checkpoint", "true"], "--resume_from_checkpoint has no effect"),
        (["--model_type", "ast"], "Leave out --model_type ast"),
        (["--config_overrides", "pool_hidden_size=8"], "--config_overrides is for a model from scratch"),
        (["--sampling_rate", "8000"], "--sampling_rate 8000"),
    ],
)
def test_options_that_do_not_go_with_it(tones, checkpoint, tmp_path, capsys, options, reason):
    options = [str(checkpoint) if option == "CHECKPOINT" else option for option in options]
    command = ["train", *options, "--data_dir", str(tones), "--output_dir", str(tmp_path / "run")]
    assert main([*command, "--head_only", "true"]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / RECIPE_FILE).exists()


def test_other_architectures(tones, tmp_path, capsys):
    save_checkpoint(tmp_path / "ast", "audio-spectrogram-transformer", ["x", "y"])
    command = ["train", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), "--head_only", "true"]
    assert main([*command, "--model_name_or_path", str(tmp_path / "ast")]) == 2
    assert "--freeze backbone" in capsys.readouterr().err


def test_a_class_without_sound(trainer, recordings, data, monkeypatch):
    monkeypatch.setattr("sanet_hf.training.data.clips.is_silent", lambda waveform: True)
    with pytest.raises(DataError, match="has a sound"):
        fit_head(trainer, recordings["train"], None, data)
