# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`--head_only` and `--head_first`: logistic regression on a pretrained network, instead of or before training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sanet_hf.architectures import backbone, extract_features
from sanet_hf.cli.main import main
from sanet_hf.errors import DataError, UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.modeling_sanet import SANetModel
from sanet_hf.pretrained import DEFAULT, find_model, model_names
from sanet_hf.training import regression_heads
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.evaluation.saved_models import _make_trainer
from sanet_hf.training.evaluation.scores import Score
from sanet_hf.training.recipe import RECIPE_FILE
from sanet_hf.training.regression_heads import choose_head, fit_first_head, fit_head, refit_head, start_from_head

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
    """Return a checkpoint with other classes than the recordings."""
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
def test_classifier_gives_the_scores_of_the_regression(trainer, recordings, data, monkeypatch, few):
    """With few validation recordings, half of each score comes from the log-mel bands."""
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
    # The same recordings again. The search starts from other weights, so the result differs slightly.
    refitted = refit_head(trainer, head, recordings["train"], data)
    assert refitted.num_recordings == 32 and refitted.classifier.C == head.classifier.C
    with torch.no_grad():
        again = model(**features).logits.numpy()
    np.testing.assert_allclose(again, logits, atol=0.02 * np.abs(logits).max())


def test_head_only_run(tones, checkpoint, tmp_path, capsys):
    """--head_only fits the head and leaves the rest of the network unchanged."""
    output_dir = tmp_path / "run"
    command = ["train", "--data_dir", str(tones), "--output_dir", str(output_dir), "--head_only", "true"]
    command += ["--model_name_or_path", str(checkpoint), "--max_length_seconds", "0.3", "--refit", "true"]
    command += ["--false_alarm_minutes", "0"]
    assert main(command) == 0
    text = capsys.readouterr().err
    assert (
        "logistic regression on the embeddings of 32 recordings" in text
        and "the rest of the network is unchanged" in text
    )
    results = json.loads((output_dir / "all_results.json").read_text())
    assert results["test_accuracy"] == 1.0 and results["refit_samples"] == 40
    assert "head only" in (output_dir / "report.html").read_text()
    model, _ = load_classifier(output_dir)
    assert not model.config.classifier_hidden_sizes and set(model.config.label2id) == {"high", "low"}
    before, after = SANetModel.from_pretrained(checkpoint).state_dict(), model.base_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # A finished run does not change.
    assert main(command) == 0
    assert json.loads((output_dir / "all_results.json").read_text()) == results


def test_head_only_supports_several_classes_per_clip(make_tone, checkpoint, tmp_path):
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


def test_head_only_uses_the_shipped_network_by_default(few_tones, tmp_path, capsys):
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
    # A local folder of the same name is used only if it contains a model.
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()
    assert find_model(DEFAULT) != DEFAULT
    (tmp_path / DEFAULT / "config.json").write_text("{}")
    assert find_model(DEFAULT) == DEFAULT


def test_a_recipe_repeats_the_run(few_tones, tmp_path):
    """The recipe contains `head_only`. A recipe left behind by a failed command is not used."""
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
        (["--config_overrides", "pool_hidden_size=8"], "does not work with --config_overrides"),
        (["--sampling_rate", "8000"], "--sampling_rate 8000"),
    ],
)
def test_options_incompatible_with_head_only_are_refused(tones, checkpoint, tmp_path, capsys, options, reason):
    options = [str(checkpoint) if option == "CHECKPOINT" else option for option in options]
    command = ["train", *options, "--data_dir", str(tones), "--output_dir", str(tmp_path / "run")]
    assert main([*command, "--head_only", "true"]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / RECIPE_FILE).exists()


def test_head_only_refuses_other_architectures(tones, tmp_path, capsys):
    save_checkpoint(tmp_path / "ast", "audio-spectrogram-transformer", ["x", "y"])
    command = ["train", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), "--head_only", "true"]
    assert main([*command, "--model_name_or_path", str(tmp_path / "ast")]) == 2
    assert "--freeze backbone" in capsys.readouterr().err


def test_silent_class_is_refused(trainer, recordings, data, monkeypatch):
    monkeypatch.setattr("sanet_hf.training.data.clips.is_silent", lambda waveform: True)
    with pytest.raises(DataError, match="are silent"):
        fit_head(trainer, recordings["train"], None, data)


def test_when_a_score_is_clearly_better():
    losses = np.random.default_rng(0).random(40)
    score = Score(0.8, losses)
    assert Score(0.9, losses - 0.1).is_clearly_better_than(score)
    assert not score.is_clearly_better_than(Score(0.9, losses - 0.1))
    assert not score.is_clearly_better_than(score) and not Score(0.8, losses - 0.1).is_clearly_better_than(score)
    # A difference in one of forty recordings is not enough.
    one = losses.copy()
    one[0] -= 0.5
    assert not Score(0.825, one).is_clearly_better_than(score)


@pytest.mark.parametrize("is_worse", [True, False])
def test_first_head_stays_if_training_is_clearly_worse(trainer, recordings, data, capsys, is_worse):
    train, model = recordings["train"], trainer.model
    first = fit_first_head(trainer, train, train, data)
    assert "Before training: 100.0% on 32 validation recordings" in capsys.readouterr().err
    assert not hasattr(model, "band_head") and first.head.bands is not None
    # Training starts from the full weights of the regression, not from its half of the scores.
    whole, half = model.classifier[-1].weight, first.weights["classifier.0.weight"]
    torch.testing.assert_close(whole, 2 * half)
    if is_worse:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.neg_()
    is_kept, text = choose_head(first, trainer, train, data)
    assert is_kept == is_worse and text.startswith("100.0% on validation before training")
    state = model.state_dict()
    if is_worse:
        assert "clearly worse" in text and state.keys() == first.weights.keys()
        assert all(torch.equal(value, first.weights[name]) for name, value in state.items())
    else:
        assert "band_head.weight" not in state


def test_few_validation_recordings_give_no_comparison(trainer, recordings, data):
    first = fit_first_head(trainer, recordings["train"], recordings["validation"], data)
    assert first.score is None
    is_kept, text = choose_head(first, trainer, recordings["validation"], data)
    assert not is_kept and "too few" in text


def test_silent_class_is_trained_without_a_first_head(trainer, recordings, data, capsys, monkeypatch):
    def refuse(*arguments):
        raise DataError("All training recordings of 'silence' are silent.")

    monkeypatch.setattr(regression_heads, "_check_classes", refuse)
    assert fit_first_head(trainer, recordings["train"], None, data) is None
    assert "Head first: left out. All training recordings of 'silence' are silent" in capsys.readouterr().err
    assert not hasattr(trainer.model, "band_head")


def test_head_first(tones, checkpoint, tmp_path, capsys):
    """The training and its refit both start from a fitted head."""
    output_dir = tmp_path / "run"
    command = ["train", "--data_dir", str(tones), "--output_dir", str(output_dir), "--precision", "fp32"]
    command += ["--model_name_or_path", str(checkpoint), "--head_first", "true", "--false_alarm_minutes", "0"]
    assert main([*command, "--num_train_epochs", "1"]) == 0
    text = capsys.readouterr().err
    assert "on the embeddings of 32 recordings" in text and "on the embeddings of 40 recordings" in text
    report = (output_dir / "report.html").read_text()
    assert "Head first" in report and "too few validation recordings" in report
    assert load_classifier(output_dir)[0].config.id2label == {0: "high", 1: "low"}


def test_second_training_starts_from_the_head(trainer, recordings, data):
    first = fit_first_head(trainer, recordings["train"], None, data)
    whole = trainer.model.classifier[-1].weight.detach().clone()
    labels = recordings["train"].features["label"].names
    fresh, _ = save_checkpoint(
        Path(trainer.args.output_dir), "sanet", labels, **{**NETWORK, "classifier_hidden_sizes": [8]}
    )
    fresh.load_state_dict(
        {**fresh.state_dict(), **{f"sanet.{k}": v for k, v in backbone(trainer.model).state_dict().items()}}
    )
    trainer.model = fresh
    start_from_head(first, trainer, recordings["train"], data)
    # The same recordings again, but the search starts from other weights.
    torch.testing.assert_close(
        fresh.classifier[-1].weight.detach(), whole, atol=0.02 * whole.abs().max().item(), rtol=0
    )
    assert not hasattr(fresh, "band_head")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head_first", "true"], "--head_first needs --model_name_or_path"),
        (
            ["--head_first", "true", "--model_name_or_path", "{}", "--fsdp", "true"],
            "--head_first does not work with --fsdp: it needs all weights",
        ),
        (["--head_first", "true", "--head_only", "true"], "--head_first"),
    ],
)
def test_options_incompatible_with_head_first_are_refused(tones, checkpoint, tmp_path, capsys, options, message):
    options = [option.format(checkpoint) for option in options]
    command = ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), *options]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_mistyped_folder_lists_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("runs/sanetx") == "runs/sanetx"
    (tmp_path / "runs" / "sanet").mkdir(parents=True)
    assert find_model("runs/sanetx") == "runs/sanetx"
    (tmp_path / "runs" / "sanet" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"runs/sanetx: no such folder. Models in runs: runs/sanet\."):
        find_model("runs/sanetx")
    assert find_model("runs") == "runs"
    assert find_model("someone/model") == "someone/model"
