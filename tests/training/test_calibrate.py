# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The calibration is part of the saved model, for every architecture, and is applied once."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn

from sanet_hf.architectures import extract_features
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.training.calibrate import calibrate, find_logits_layer, fold, print_calibration
from sanet_hf.training.evaluation.calibration import Calibration
from sanet_hf.training.evaluation.evaluate import evaluate_splits, predict_windows
from sanet_hf.training.evaluation.saved_models import _make_trainer

from .tiny_models import MODEL_TYPES, save_checkpoint


MULTI_LABEL = "multi_label_classification"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_folded_calibration_scales_the_logits(tmp_path, model_type):
    model, feature_extractor = save_checkpoint(tmp_path, model_type)
    clip = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    features = extract_features(feature_extractor, [clip])
    before = model(**features).logits
    calibration = Calibration(np.array([0.5, 2.0, 3.0]), np.array([-1.0, 0.0, 1.0]), 30)
    fold(model, calibration)
    expected = calibration.apply(before.numpy())
    assert model(**features).logits.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_last_layer_of_another_size_is_no_logits_layer(tmp_path):
    model, _ = save_checkpoint(tmp_path, "sanet")
    model.classifier.append(nn.Linear(3, 5))
    assert find_logits_layer(model) is None


@pytest.fixture
def make_trainer(tmp_path, make_tone):
    """Return a function that makes a trainer of a model with random weights, and 24 recordings."""

    def make(model_type: str, problem_type: str | None = None):
        model, feature_extractor = save_checkpoint(tmp_path / "initial", model_type, problem_type=problem_type)
        with torch.no_grad():  # Makes scores differ and too certain.
            find_logits_layer(model).weight *= 100
        rows = []
        for index in range(24):
            path, seconds = tmp_path / f"{index}.wav", 0.3 + 0.05 * (index % 4)
            make_tone(path, 200 * (1 + index % 3), seconds, seed=index)
            label = [["x"], ["x", "y"], []][index % 3] if problem_type == MULTI_LABEL else "xyz"[index % 3]
            audio = {"bytes": None, "path": str(path)}
            rows.append({"audio": audio, "file": path.name, "label": label, "seconds": seconds})
        trainer = _make_trainer(model, feature_extractor, batch_size=8)
        trainer.args.output_dir = str(tmp_path / "run")
        kind = ClassLabel(names=["x", "y", "z"])
        features = Features(
            audio={"bytes": Value("binary"), "path": Value("string")},
            file=Value("string"),
            label=List(kind) if problem_type == MULTI_LABEL else kind,
            seconds=Value("float64"),
        )
        return trainer, {"validation": Dataset.from_list(rows, features=features)}

    return make


@pytest.mark.parametrize(("model_type", "problem_type"), [("sanet", None), ("ast", None), ("wav2vec2", MULTI_LABEL)])
def test_saved_model_is_calibrated(make_trainer, capsys, model_type, problem_type):
    trainer, recordings = make_trainer(model_type, problem_type)
    data = recordings["validation"], lambda split: predict_windows(trainer, "validation", split, 1.0)
    calibration, text = calibrate(trainer, *data)
    trainer.save_model()
    assert calibration is not None and "24 validation recordings" in text and text in capsys.readouterr().err
    (evaluation,) = evaluate_splits(trainer, recordings, 1.0, calibration).values()
    metrics = evaluation.metrics
    assert metrics["log_loss"] < metrics["log_loss_uncalibrated"]
    # The saved files give the same scores without a separate calibration.
    saved, feature_extractor = load_classifier(trainer.args.output_dir, "cpu")
    again = _make_trainer(saved, feature_extractor, batch_size=8)
    (expected,) = evaluate_splits(again, recordings, 1.0).values()
    assert evaluation.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert "ece_uncalibrated" not in expected.metrics
    assert expected.metrics["accuracy_low"] < expected.metrics["accuracy"] < expected.metrics["accuracy_high"]
    results = print_calibration(trainer, calibration, {"validation": evaluation})
    assert "used for fitting" in capsys.readouterr().err
    if problem_type == MULTI_LABEL:
        assert results == {} and decision_threshold(saved.config)[2] == 0.5  # no clip has this class
        assert evaluation.thresholds.tolist() == decision_threshold(saved.config).tolist() != [0.5] * 3
        predicted = expected.probabilities >= np.float32(saved.config.thresholds)
        assert (expected.predicted_matrix == predicted).all()
    else:
        assert results == {"temperature": calibration.temperature} and calibration.temperature > 1
        assert getattr(saved.config, "thresholds", None) is None


def test_runs_without_calibration(make_trainer, capsys):
    """There is no calibration with few recordings, without the option, or with a layer after the last linear one."""
    trainer, recordings = make_trainer("sanet")
    weight = trainer.model.classifier[-1].weight.detach().clone()
    data = recordings["validation"], lambda split: predict_windows(trainer, "validation", split, 1.0)
    few = data[0].select(range(19))
    for given, reason in ((None, "no validation split"), (few, "the validation split has 19 recordings")):
        assert calibrate(trainer, given, data[1]) == (None, f"none: {reason}; at least 20 are needed")
        assert f"Calibration of the scores: none: {reason}" in capsys.readouterr().err
    trainer.args.calibrate = False
    assert calibrate(trainer, *data) == (None, "none (--calibrate false)")
    # A layer after the last linear one.
    trainer.args.calibrate = True
    trainer.model.classifier.append(nn.Softplus())
    calibration, text = calibrate(trainer, *data)
    assert calibration is None and "depend on more than its last linear layer" in text
    assert torch.equal(trainer.model.classifier[-2].weight, weight)
