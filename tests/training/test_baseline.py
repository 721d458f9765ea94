# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The baseline: features, choice of the regularization strength, and classes in no clip or in all clips."""

import numpy as np
import pytest

from sanet_hf.training.baseline import STRENGTHS, fit
from sanet_hf.training.data.log_mel import NUM_MELS, log_mel_statistics


def make_examples(num_clips: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features of three classes, and targets of 0 and 1."""
    rng = np.random.default_rng(seed)
    targets = np.eye(3, dtype=int)[np.arange(num_clips) % 3]
    features = targets @ np.random.default_rng(1).standard_normal((3, 20))
    return features + noise * rng.standard_normal((num_clips, 20)), targets


def test_statistics_do_not_depend_on_loudness():
    rng = np.random.default_rng(0)
    waveform = rng.standard_normal(8000).astype(np.float32)
    mean, deviation, highest, change = log_mel_statistics(waveform, 16000).reshape(4, NUM_MELS)
    assert (highest > mean).all() and (deviation > 0).all() and (change > 0).all()
    np.testing.assert_allclose(log_mel_statistics(0.01 * waveform, 16000).reshape(4, -1)[0], mean, atol=1e-3)
    # A steady tone changes less than noise.
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000).astype(np.float32)
    loudest = log_mel_statistics(tone, 16000).reshape(4, -1)[0].argmax()
    assert log_mel_statistics(tone, 16000).reshape(4, -1)[3, loudest] < 0.3 * change[loudest]
    # A clip shorter than a window, and a silent one.
    for short in (waveform[:1], np.zeros(100, np.float32)):
        assert np.isfinite(log_mel_statistics(short, 16000)).all()


def test_strength_is_chosen_on_validation(monkeypatch):
    features, targets = make_examples(90, noise=4.0)
    validation = make_examples(300, seed=1, noise=4.0)
    fitted = fit(features, targets, list(range(90)), validation)

    def accuracy(baseline) -> float:
        return (baseline.predict_proba(validation[0]).argmax(1) == validation[1].argmax(1)).mean()

    one_by_one = {C: accuracy(fitted._replace(C=C).refit(features, targets)) for C in STRENGTHS}
    assert len(set(one_by_one.values())) > 1
    assert accuracy(fitted) == pytest.approx(max(one_by_one.values()), abs=0.01)
    # Without enough validation clips, cross-validation decides. Random labels need a strong penalty.
    random = np.eye(3, dtype=int)[np.random.default_rng(0).integers(3, size=90)]
    assert fit(features, random, list(range(90))).C < 0.1
    assert fit(features, random, list(range(90)), (features[:2], random[:2])).C < 0.1


def test_out_of_fold_keeps_groups_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    # The features identify only the group, which says nothing about the class of another group.
    features, targets = rng.standard_normal((12, 40))[groups], np.eye(2, dtype=int)[groups % 2]
    baseline = fit(features, targets, groups)
    accuracies = [
        (baseline.out_of_fold(features, targets, own).argmax(1) == groups % 2).mean() for own in (range(60), groups)
    ]
    assert accuracies[0] == 1.0 and accuracies[1] < 0.8
    assert baseline.out_of_fold(features, targets, np.zeros(60)) is None


def test_missing_classes_have_probability_zero():
    features, targets = make_examples(30)
    # Classes without clips before and after the others, then between them, then all but one class.
    wider = np.insert(targets, [0, 3], 0, axis=1)
    probabilities = fit(features, wider, list(range(30))).predict_proba(features)
    assert (probabilities[:, [0, 4]] == 0).all() and (probabilities.argmax(1) == wider.argmax(1)).mean() > 0.9
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    two = np.insert(targets[:, [0, 1]], 1, 0, axis=1)[targets[:, 2] == 0]
    probabilities = fit(features[targets[:, 2] == 0], two, list(range(20))).predict_proba(features)
    assert (probabilities[:, 1] == 0).all() and ((probabilities[:, 2] > 0.5) == targets[:, 1])[
        targets[:, 2] == 0
    ].all()
    alone = np.eye(3, dtype=int)[np.full(30, 1)]
    assert (fit(features, alone, list(range(30))).predict_proba(features) == alone).all()


def test_several_classes_per_clip():
    features, targets = make_examples(60)
    several = np.column_stack([targets[:, 0] | targets[:, 1], targets[:, 1], np.zeros(60, int), np.ones(60, int)])
    baseline = fit(features, several, list(range(60)), is_multi_label=True)
    probabilities = baseline.predict_proba(features)
    assert ((probabilities > 0.5) == several).mean() > 0.95
    assert (probabilities[:, 2] == 0).all() and (probabilities[:, 3] == 1).all()
    # A detector of one class.
    detector = fit(features, targets[:, :1], list(range(60)), is_multi_label=True).predict_proba(features)
    assert detector.shape == (60, 1) and ((detector > 0.5) == targets[:, :1]).mean() > 0.9


def test_balanced_weights_find_more_of_a_rare_class():
    features, targets = make_examples(120, noise=3.0)
    kept = (targets[:, 0] == 0) | (np.arange(120) < 18)
    features, targets, groups = features[kept], targets[kept], list(range(kept.sum()))
    validation = make_examples(300, seed=1, noise=3.0)
    found = [
        (fit(features, targets, groups, validation, is_balanced=balanced).predict_proba(validation[0]).argmax(1) == 0)
        for balanced in (False, True)
    ]
    assert found[1].sum() > found[0].sum()
