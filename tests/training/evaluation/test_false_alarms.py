# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""False alarms: detections of a model on noise."""

import numpy as np
import pytest
import soundfile
import torch

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.inference.windows import Prediction, Window
from sanet_hf.training.data.noises import KINDS
from sanet_hf.training.evaluation.false_alarms import (
    choose_minutes,
    count_detections,
    measure_false_alarms,
    print_false_alarms,
)


LABELS = ("fox", "owl", "yard")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"background": "yard"}, {"fox": 2, "owl": 2}),
        ({}, {"fox": 2, "owl": 2, "yard": 2}),
        # In multi-label models, each class with a score of at least 0.35 is a detection.
        ({"several": True, "min_score": 0.35}, {"fox": 2, "owl": 2, "yard": 2}),
    ],
)
def test_neighbouring_windows_are_one_detection(options, expected):
    rows = [[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1], None, [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    if options.get("several"):
        rows[5:7] = [[1, 1, 0], [0, 1, 0]]
    scores = [None if row is None else np.array(row, np.float32) for row in rows]
    windows = [Window(index, index + 1, row) for index, row in enumerate(scores)]
    detections, num_windows = count_detections(Prediction("a", LABELS, windows=windows, **options))
    assert detections == expected
    assert num_windows == 5 + 2 * ("background" not in options)


def make_classifier(*bias: float, problem_type=None, background=None):
    """Return a classifier that gives every sound the same scores, and its feature extractor."""
    config = SANetConfig(
        *(), conv_dim=[4], conv_kernel=[16], conv_stride=[16], attention_after=[], attention_dim=[], se_reduction=2,
        classifier_hidden_sizes=[], pool_hidden_size=4, id2label=dict(enumerate(LABELS)), problem_type=problem_type,
    )  # fmt: skip
    config.background_label = background
    model = SANetForAudioClassification(config).eval()
    with torch.no_grad():
        model.classifier[-1].weight.zero_()
        model.classifier[-1].bias.copy_(torch.tensor(bias))
    return model, SANetFeatureExtractor(sampling_rate=1000, max_length=4000)


def test_false_alarms_of_a_constant_classifier(tmp_path, capsys, caplog):
    """A classifier that always detects an owl has one detection per minute of each kind of noise."""
    soundfile.write(tmp_path / "yard.wav", 0.1 * np.random.default_rng(0).standard_normal(6000), 1000)
    files = [str(tmp_path / "yard.wav"), str(tmp_path / "gone.wav")]
    result = measure_false_alarms(*make_classifier(0, 5, 0), len(KINDS), files=files)
    assert result.per_hour == pytest.approx(60) and result.hours == pytest.approx(len(KINDS) / 60)
    assert [count.kind for count in result.counts] == list(KINDS) and result.labels == ["owl"]
    assert all(count.detections == {"owl": 1} and count.num_detected == 15 for count in result.counts)
    assert result.recorded.per_hour == pytest.approx(600)
    metrics = result.metrics
    assert metrics["false_alarms_per_hour_rain"] == pytest.approx(60)
    assert metrics["false_alarms_per_hour"] == pytest.approx(60)
    print_false_alarms(result)
    message = "(tested on 12 min, score of at least 0.5), with detections of owl (12)"
    assert f"60 false alarms per hour of generated noise {message}" in capsys.readouterr().err
    assert "assigns every sound to one of them. Train with --background auto" in caplog.text
    assert "--min_score" in caplog.text


@pytest.mark.parametrize(
    ("bias", "options", "per_hour"),
    [
        ((0, 0, 5), {"background": "yard"}, 0),
        # No class reaches a score of 0.5.
        ((0, 0.1, 0), {}, 0),
        # In multi-label models, each class that reaches its threshold is a detection.
        ((5, -5, 5), {"problem_type": "multi_label_classification"}, 120),
        ((-5, -5, -5), {"problem_type": "multi_label_classification"}, 0),
    ],
)
def test_background_and_low_scores_are_no_detections(bias, options, per_hour):
    result = measure_false_alarms(*make_classifier(*bias, **options), 1)
    assert result.per_hour == pytest.approx(per_hour)
    assert (result.advice is None) == (per_hour == 0)


def test_noise_that_sounds_like_a_class_is_not_counted():
    model = make_classifier(0, 5, 0)
    result = measure_false_alarms(*model, 2, alike={"white": "owl"}, has_background=True)
    assert result.hours == pytest.approx(1 / 60) and result.per_hour == pytest.approx(60)
    assert result.metrics["false_alarms_per_hour_white"] == pytest.approx(60)
    assert "--background_dir" in result.advice
    assert measure_false_alarms(*model, 0) is None and measure_false_alarms(*model, 1, alike={"white": "owl"}) is None


def test_noise_that_is_called_like_a_class_is_not_counted():
    model, extractor = make_classifier(0, 5, 0)
    model.config.id2label = {0: "fox", 1: "owl", 2: "White"}
    result = measure_false_alarms(model, extractor, 2)
    assert result.alike == {"white": "White"} and result.hours == pytest.approx(1 / 60)
    # A background class is not detected, so that its noise counts.
    model.config.background_label = "White"
    assert measure_false_alarms(model, extractor, 2).hours == pytest.approx(2 / 60)


def test_minutes_depend_on_the_training():
    assert choose_minutes(None, 240 * 60, 4.0) == 60 and choose_minutes(7, 0, 4.0) == 7
    assert choose_minutes(None, 480, 1.0) == 2 and choose_minutes(None, 100, 1.0) == 0
