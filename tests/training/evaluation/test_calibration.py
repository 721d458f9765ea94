# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Calibration: temperatures, scales and offsets lower the log loss; thresholds maximise F1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.training.evaluation.calibration import (
    MAX_TEMPERATURE,
    WindowLogits,
    best_thresholds,
    coverage,
    fit,
    log_loss,
)


def make_windows(seed: int, num_recordings=40, num_classes=4, is_multi_label=False, factor=1.0, max_windows=4):
    """Return logits that predict the true classes with some mistakes, multiplied by a factor."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(num_recordings), rng.integers(1, max_windows + 1, num_recordings))
    logits = rng.standard_normal((len(rows), num_classes))
    if is_multi_label:
        references = (rng.random((num_recordings, num_classes)) < 0.3).astype(int)[rows]
        logits += 2 * references - 1
    else:
        references = rng.integers(num_classes, size=num_recordings)[rows]
        logits[np.arange(len(rows)), references] += 2
    files = [f"{index}.wav" for index in range(num_recordings)]
    silent = rng.random(len(rows)) < 0.2
    return WindowLogits(files, rows, silent, (factor * logits).astype(np.float32), references)


@given(seed=st.integers(0, 1000), is_multi_label=st.booleans(), factor=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=20, deadline=None)
def test_fitting_does_not_raise_the_log_loss(seed, is_multi_label, factor):
    windows = make_windows(seed, is_multi_label=is_multi_label, factor=factor)
    calibration, references = fit(windows), windows.recording_references
    before, after = (windows.probabilities(logits) for logits in (None, calibration.apply(windows.logits)))
    if is_multi_label:
        for column in range(references.shape[1]):
            losses = [log_loss(p[:, [column]], references[:, [column]]) for p in (before, after)]
            assert losses[1] <= losses[0] + 1e-6
    else:
        assert log_loss(after, references) <= log_loss(before, references) + 1e-6
        assert 1 / MAX_TEMPERATURE <= calibration.temperature <= MAX_TEMPERATURE
    assert (calibration.scale > 0).all()  # keeps the order of scores in a class
    assert calibration.undo(calibration.apply(windows.logits)) == pytest.approx(windows.logits, rel=1e-4, abs=1e-4)


def test_known_temperature_is_found():
    """Labels are drawn from the mean probability over windows. Logits multiplied by 3 then need temperature 3."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(4000), 3)
    logits = 2 * rng.standard_normal((len(rows), 5)).astype(np.float32)
    windows = WindowLogits(list("a" * 4000), rows, np.zeros(len(rows), bool), logits, np.zeros(len(rows), int))
    labels = np.array([rng.choice(5, p=p / p.sum()) for p in windows.probabilities().astype(np.float64)])
    windows = windows._replace(logits=3 * logits, references=labels[rows])
    assert fit(windows).temperature == pytest.approx(3, rel=0.1)


def test_few_clips_give_moderate_values():
    """Without mistakes, scores stay below 0.99. If one of 20 clips has all classes, scales and offsets stay small."""
    windows = make_windows(0, num_recordings=20, factor=1.0, max_windows=1)
    certain = windows._replace(logits=2 * np.eye(4, dtype=np.float32)[windows.references])
    assert 0.9 < certain.probabilities(fit(certain).apply(certain.logits)).max() < 0.99
    windows = make_windows(1, num_recordings=20, is_multi_label=True)
    references = np.zeros_like(windows.references)
    references[windows.rows == 3] = 1  # one clip has all classes
    calibration = fit(windows._replace(references=references))
    assert (np.abs(np.log(calibration.scale)) < 1.5).all() and (np.abs(calibration.offset) < 4).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_temperature_does_not_change_predicted_classes(seed):
    windows = make_windows(seed, factor=3.0, max_windows=1)
    after = windows.probabilities(fit(windows).apply(windows.logits))
    assert (after.argmax(axis=1) == windows.probabilities().argmax(axis=1)).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_thresholds_maximise_f1(seed):
    rng = np.random.default_rng(seed)
    present = (rng.random(40) < 0.4).astype(int)
    scores = (rng.integers(0, 20, 40) / 20 + 0.1 * present).clip(0, 1).astype(np.float32)  # with ties
    (threshold,) = best_thresholds(scores[:, None], present[:, None])
    limits = np.append(np.unique(scores), np.float32(threshold))
    predicted = scores >= limits[:, None]
    f1 = 2 * (predicted & (present == 1)).sum(axis=1) / (predicted.sum(axis=1) + present.sum())
    assert f1[-1] == pytest.approx(f1.max()) or present.sum() < 5


def test_class_with_few_clips_keeps_the_threshold_0_5():
    scores = np.linspace(0, 0.4, 30)[:, None]
    present = (np.arange(30) >= 26).astype(int)[:, None]
    assert best_thresholds(scores, present) == best_thresholds(scores, 1 - present) == [0.5]
    present[25] = 1
    assert best_thresholds(scores, present) == [pytest.approx(scores[24:26].mean(), abs=1e-6)]
    assert best_thresholds(2 * scores, present) == [pytest.approx(2 * scores[24:26].mean(), abs=1e-6)]
    assert best_thresholds(np.where(present, 0.9, 0.1), present) == [0.5]


def test_log_loss_and_coverage():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]])
    assert log_loss(probabilities, np.array([0, 1, 1])) == pytest.approx(-np.log([0.9, 0.6, 0.2]).mean())
    assert log_loss(probabilities[:1], np.array([[1, 1]])) == pytest.approx(-np.log([0.9, 0.1]).mean())
    is_right = np.array([True, True, False])
    assert coverage(probabilities, is_right, (0, 0.7, 0.95)) == [(0, 3, 2), (0.7, 2, 1), (0.95, 0, 0)]
