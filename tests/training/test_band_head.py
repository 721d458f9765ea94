# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The band head: logistic regression on log-mel bands, whose scores are added to those of the network."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, List
from transformers import AutoModelForAudioClassification

from sanet_hf.architectures import extract_features, remove_band_head
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import AudioError, UsageError
from sanet_hf.modeling_sanet import SANetForAudioClassification
from sanet_hf.training import regression_heads
from sanet_hf.training.arguments import DataArguments, ModelArguments
from sanet_hf.training.baseline import fit
from sanet_hf.training.checkpoints import find_last_checkpoint
from sanet_hf.training.data.background_labels import ADDED
from sanet_hf.training.data.folds import group_recordings
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.evaluation.evaluate import predict_windows
from sanet_hf.training.evaluation.saved_models import _make_trainer
from sanet_hf.training.make_trainer import is_band_head_wanted
from sanet_hf.training.models import make_model
from sanet_hf.training.refit import REFIT_FOLDER
from sanet_hf.training.regression_heads import add_band_head, refit_band_head
from sanet_hf.training.train import train

from .tiny_models import save_checkpoint


NETWORK = {
    "spectrogram_dim": [8],
    "spectrogram_pool": [[4, 4]],
    "conv_dim": [],
    "conv_kernel": [],
    "conv_stride": [],
    "attention_after": [],
    "attention_dim": [],
    "classifier_hidden_sizes": [],
}
MULTI_LABEL = "multi_label_classification"


@pytest.fixture(autouse=True)
def few_recordings(monkeypatch):
    monkeypatch.setattr(regression_heads, "MIN_RECORDINGS", 4)


@pytest.fixture(scope="module")
def data(tones) -> DataArguments:
    return DataArguments(data_dir=str(tones), max_length_seconds=0.3)


@pytest.fixture(scope="module")
def recordings(data):
    return load_recordings(data)


@pytest.fixture
def trainer(tmp_path, recordings):
    """Return a trainer of a network with random weights."""
    labels = recordings["train"].features["label"].names
    model, feature_extractor = save_checkpoint(tmp_path / "initial", "sanet", labels, **NETWORK)
    trainer = _make_trainer(model, feature_extractor, batch_size=8)
    trainer.args.band_head, trainer.args.class_weights = "auto", "none"
    trainer.args.output_dir = str(tmp_path / "run")
    return trainer


def predict(trainer, recordings, split: str = "test") -> np.ndarray:
    return predict_windows(trainer, split, recordings[split], 0.3).logits


def test_scores_of_network_and_regression_are_added(trainer, recordings, data, capsys):
    before = predict(trainer, recordings)
    head = add_band_head(trainer, recordings["train"], recordings["validation"], data)
    assert head.share in regression_heads.SHARES and head.losses[1] < head.losses[0]
    assert f"{head.share:.0%} of the scores" in capsys.readouterr().err
    after = predict(trainer, recordings)
    # The scores of the regression for each test clip.
    model, scores = trainer.model, []
    for row in recordings["test"]:
        features = extract_features(trainer.processing_class, [load_recording(row, 16000, 0, 4800)])
        with torch.no_grad():
            statistics = model.base_model(**features).band_statistics.double().numpy()
        scores.append((statistics - head.baseline.mean) / head.baseline.scale @ head.baseline.weights)
    added = np.concatenate(scores) + head.baseline.bias
    clips = predict_windows(trainer, "test", recordings["test"], 0.3)
    firsts = np.flatnonzero(np.diff(clips.rows, prepend=-1))
    np.testing.assert_allclose(after[firsts], before[firsts] + head.factor * added, atol=2e-3, rtol=1e-3)
    # transformers loads the model without further steps.
    trainer.save_model()
    loaded = AutoModelForAudioClassification.from_pretrained(trainer.args.output_dir).eval()
    assert loaded.config.use_band_statistics
    with torch.no_grad():
        assert torch.equal(loaded(**features).logits, model.eval()(**features).logits)
    remove_band_head(model)
    assert not model.config.use_band_statistics
    np.testing.assert_array_equal(predict(trainer, recordings), before)


def test_head_is_refitted_to_other_recordings(trainer, recordings, data):
    head = add_band_head(trainer, recordings["train"], recordings["validation"], data)
    logits = predict(trainer, recordings)
    tolerance = 0.02 * np.abs(logits).max()
    refit_band_head(trainer, head, recordings["train"], data)
    # The same recordings. The result depends slightly on the initial weights of the search.
    np.testing.assert_allclose(predict(trainer, recordings), logits, atol=tolerance)
    refit_band_head(trainer, head, recordings["validation"], data)
    assert np.abs(predict(trainer, recordings) - logits).max() > tolerance


def test_unreadable_recordings_are_skipped(trainer, recordings, data, monkeypatch):
    read = regression_heads.EvaluationClips.__getitem__

    def fail(clips, index):
        if index == 3:
            raise AudioError("x.wav is damaged.")
        return read(clips, index)

    regression_heads.attach_band_head(trainer.model)
    whole = regression_heads.measure_windows(trainer, recordings["validation"], data)
    monkeypatch.setattr(regression_heads.EvaluationClips, "__getitem__", fail)
    rest = regression_heads.measure_windows(trainer, recordings["validation"], data)
    others = np.arange(len(whole.statistics)) != 3
    np.testing.assert_allclose(rest.statistics, whole.statistics[others], atol=1e-4)
    assert rest.groups == [group for group, other in zip(whole.groups, others) if other]
    assert rest.logits.probabilities().shape[0] == len(rest.logits.files)


def test_nearly_constant_features_get_no_weight():
    features = np.random.default_rng(0).normal(size=(20, 3))
    features[:, 1] *= 1e-3
    targets = np.eye(2, dtype=int)[(features[:, 1] > 0).astype(int)]
    fitted = fit(regression_heads.drop_flat(features), targets, [str(row) for row in range(20)])
    assert not fitted.weights[1].any() and fitted.weights[0].any()


@pytest.mark.parametrize("reason", ["no validation split", "has 2 recordings", "only from", "silent"])
def test_runs_without_a_band_head(trainer, recordings, data, monkeypatch, capsys, reason):
    """Without enough validation recordings, gain or sound, no band head is added and the model does not change."""
    validation = recordings["validation"]
    if reason == "no validation split":
        validation = None
    elif reason == "has 2 recordings":
        validation = validation.select([0, 1])
    elif reason == "only from":
        # The gain is too small.
        monkeypatch.setattr(regression_heads, "MIN_GAIN", 1.1)
    else:
        monkeypatch.setattr("sanet_hf.training.data.clips.is_silent", lambda waveform: True)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert add_band_head(trainer, recordings["train"], validation, data) is None
    assert "left out" in (text := capsys.readouterr().err) and reason in text
    after = trainer.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not trainer.model.config.use_band_statistics


@pytest.mark.parametrize(
    ("option", "spectrogram", "count", "wanted"),
    [
        ("auto", (8,), 1999, True),
        ("auto", (8,), 2000, False),
        ("auto", (), 10, False),
        ("auto", (8,), None, False),
        ("false", (8,), 10, False),
        ("true", (8,), 5000, True),
        ("true", (), 10, "needs a network on a spectrogram"),
        ("true", (8,), None, "--streaming"),
    ],
)
def test_when_a_band_head_is_wanted(option, spectrogram, count, wanted):
    trainer = SimpleNamespace(
        args=SimpleNamespace(band_head=option),
        model=SimpleNamespace(config=SimpleNamespace(spectrogram_dim=spectrogram)),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
    )
    train = None if count is None else range(count)
    if isinstance(wanted, str):
        with pytest.raises(UsageError, match=wanted):
            is_band_head_wanted(trainer, train)
    else:
        assert is_band_head_wanted(trainer, train) == wanted


def test_loss_of_zero_gets_no_band_head(trainer, recordings, data, monkeypatch):
    """The loss of a network that is certain and right cannot decrease."""
    monkeypatch.setattr(regression_heads, "log_loss", lambda probabilities, references: 0.0)
    assert add_band_head(trainer, recordings["train"], recordings["validation"], data) is None
    assert not trainer.model.config.use_band_statistics


def test_group_pattern_is_not_applied_to_added_clips(recordings, data):
    own = recordings["train"].select([0, 1, 2])
    keys = ["a_1.wav", "a_2.wav", "/run/_background/train/0000-white.wav"]
    both = own.remove_columns("key").add_column("key", keys).add_column(ADDED, [False, False, True])
    groups = group_recordings(both, replace(data, group_pattern="^(a)_"))
    assert groups[0] == groups[1] != groups[2]


def test_band_head_of_a_checkpoint_is_dropped_silently(trainer, recordings, data, capfd):
    add_band_head(trainer, recordings["train"], recordings["validation"], data)
    trainer.save_model()
    capfd.readouterr()
    for labels in (list(trainer.model.config.label2id), ["x", "y", "z"]):
        arguments = ModelArguments(model_name_or_path=trainer.args.output_dir)
        model, _ = make_model(arguments, labels, 0.3, "single_label_classification")
        assert not model.config.use_band_statistics and not hasattr(model, "band_head")
        assert model.config.num_labels == len(labels)
        assert "UNEXPECTED" not in capfd.readouterr().err


def test_class_in_all_recordings_gets_no_band_head(trainer, recordings, data, capsys):
    """The regression of such a class has no finite bias."""

    def several(dataset: Dataset) -> Dataset:
        kind = dataset.features["label"]
        labels = [sorted({0, label}) for label in dataset["label"]]
        return dataset.remove_columns("label").add_column("label", labels, feature=List(kind))

    trainer.model.config.problem_type = MULTI_LABEL
    head = add_band_head(trainer, several(recordings["train"]), several(recordings["validation"]), data)
    assert head is None and "has all training recordings or none" in capsys.readouterr().err


def test_training_with_refit(tones, tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr("sanet_hf.training.calibrate.MIN_RECORDINGS", 4)
    network = "{" + ", ".join(f"{name}: {value}" for name, value in NETWORK.items()) + "}"
    options = ["sanet.yaml", "--data_dir", str(tones), *tiny_options, "--config_overrides", network]
    options += ["--max_length_seconds", "0.3", "--num_train_epochs", "2", "--refit", "true"]
    options += ["--output_dir", str(tmp_path / "run")]
    train(*parse_train_arguments(options))
    metrics = json.loads((tmp_path / "run/all_results.json").read_text(encoding="utf-8"))
    assert metrics["band_head_share"] in regression_heads.SHARES
    for name in ("README.md", "report.html"):
        assert "of the scores, chosen on validation" in (tmp_path / "run" / name).read_text(encoding="utf-8")
    # The saved model is the network of the second phase plus the regression, both calibrated.
    saved = SANetForAudioClassification.from_pretrained(tmp_path / "run").eval()
    own = SANetForAudioClassification.from_pretrained(find_last_checkpoint(tmp_path / "run" / REFIT_FOLDER)).eval()
    clips = 0.1 * torch.randn(3, 4800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        added = saved.band_head(saved.sanet(clips).band_statistics)
        expected = own(clips).logits / metrics["temperature"] + added
        torch.testing.assert_close(saved(clips).logits, expected, atol=1e-4, rtol=1e-4)
    assert saved.band_head.weight.abs().max() > 0
    # Another training starts from the network without the band head.
    again = ["--data_dir", str(tones), "--output_dir", str(tmp_path / "again"), "--max_steps", "1"]
    again += ["--model_name_or_path", str(tmp_path / "run"), "--band_head", "false", "--precision", "fp32"]
    train(*parse_train_arguments(again))
    assert not SANetForAudioClassification.from_pretrained(tmp_path / "again").config.use_band_statistics
