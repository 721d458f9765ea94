# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics against values computed by hand, and edge cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support
from transformers import EvalPrediction

from sanet_hf.training.evaluation.calibration import softmax_or_sigmoid
from sanet_hf.training.evaluation.evaluate import make_compute_metrics
from sanet_hf.training.evaluation.metrics import (
    PerClassMetrics,
    calibration,
    compute_metrics,
    expected_calibration_error,
)
from sanet_hf.training.evaluation.results import Evaluation, describe_missing, list_classes, write_predictions
from sanet_hf.training.evaluation.statistics import resampled_f1, resampled_map


def certain(predicted: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[predicted]


def test_single_label_metrics():
    """Class 0: precision 2/3, recall 1. Class 1: precision 1, recall 1/2. Class 2: never predicted."""
    metrics = compute_metrics(certain([0, 0, 0, 1], 3), np.array([0, 0, 2, 1]))
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((0.8 + 1.0 + 0.0) / 3)
    assert metrics["ece"] == pytest.approx(0.25)
    # Class 0: two of four pairs, those with clip 2, are ties. Class 1 is perfect. Class 2 is always tied.
    assert metrics["auroc"] == pytest.approx(((0.5 + 0.5 + 1 + 1) / 4 + 1.0 + 0.5) / 3)
    assert "top_3_accuracy" not in metrics


def test_added_background_is_not_in_macro_f1():
    """Background without clips has no F1. A clip predicted as background still lowers the recall of class 1."""
    probabilities, references = certain([0, 0, 1, 2], 3), np.array([0, 0, 1, 1])
    plain, other = (
        Evaluation("test", list("abcd"), ["x", "y", "z"], references, probabilities, background=background)
        for background in (None, "z")
    )
    assert plain.metrics["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert other.metrics["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert other.metrics["accuracy"] == plain.metrics["accuracy"] == 0.75
    once = np.ones((4, 1), np.float32)
    assert resampled_f1(other, once)[0] == pytest.approx(other.metrics["macro_f1"])
    with_clips = Evaluation("test", list("abcd"), ["x", "y", "z"], references + 1, probabilities, background="z")
    assert with_clips.left_out is None


def test_missing_classes_are_named():
    probabilities, references = certain([0, 1], 3), np.array([0, 1])
    full, added = (
        Evaluation("test", ["a", "b"], ["x", "y", "z"], references, probabilities, background=background)
        for background in (None, "z")
    )
    assert describe_missing({"test": full}) == ["Classes without clips in test, which its metrics do not cover: z."]
    # Only training has clips of a background class that it added.
    assert describe_missing({"test": added}) == []


def test_auroc_needs_two_classes():
    assert "auroc" not in compute_metrics(certain([0, 0], 2), np.array([0, 0]))
    assert compute_metrics(certain([0, 1], 3), np.array([0, 1]))["auroc"] == 1


def test_top_3_accuracy():
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]])
    metrics = compute_metrics(probabilities, np.array([2, 3]))
    assert (metrics["accuracy"], metrics["top_3_accuracy"]) == (0.0, 0.5)


def test_multi_label_metrics():
    """Class 0 is ranked perfectly; class 1's positives rank 1st and 3rd: (1 + 2/3) / 2; class 2 has no clip."""
    probabilities = np.array([[0.9, 0.9, 0.1], [0.8, 0.7, 0.6], [0.2, 0.6, 0.4]])
    references = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]])
    metrics = compute_metrics(probabilities, references)
    assert metrics["mAP"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    assert metrics["auroc"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["macro_f1"] == pytest.approx((1 + 0.8 + 0) / 3)


def test_classes_without_contrast():
    """mAP and AUROC ignore class 0, which no clip has, and class 1, which all clips have."""
    probabilities = np.array([[0.9, 0.9, 0.1], [0.8, 0.7, 0.6]])
    metrics = compute_metrics(probabilities[:, :2], np.array([[0, 1], [0, 1]]))
    assert metrics["mAP"] == 0 and "auroc" not in metrics
    # Class 2 counts. The clip without it is ranked first.
    metrics = compute_metrics(probabilities[:, [0, 1, 0]], np.array([[0, 1, 0], [0, 1, 1]]))
    assert (metrics["mAP"], metrics["auroc"]) == (0.5, 0)
    assert compute_metrics(probabilities, np.zeros((2, 3), int))["mAP"] == 0


def test_per_class_metrics():
    values = PerClassMetrics().compute(predictions=certain([0, 0, 0, 1], 3), references=certain([0, 0, 2, 1], 3))
    assert values["precision"] == [pytest.approx(2 / 3), 1, 0]
    assert values["recall"] == [1, 1, 0]
    assert values["support"] == [2, 1, 1]


def detector(num_found: int, num_calls: int, num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips found by a detector without false alarms, and the clips with calls, 0/1 of shape (clips, 1)."""
    clips = np.arange(num_clips)[:, None]
    return (clips < num_found).astype(int), (clips < num_calls).astype(int)


def test_detector_of_one_class():
    """The detector finds 10 of 19 calls in 100 clips. Metrics are those of the calls, not of their absence."""
    predicted, true = detector(10, 19, 100)
    values = PerClassMetrics().compute(predictions=predicted, references=true)
    assert values == {
        "precision": [1.0],
        "recall": [pytest.approx(0.526, abs=5e-4)],
        "f1": [pytest.approx(0.690, abs=5e-4)],
        "support": [19],
    }
    evaluation = Evaluation("test", ["a"] * 100, ["owl"], true, predicted.astype(np.float32))
    assert evaluation.metrics["macro_f1"] == pytest.approx(20 / 29)
    assert evaluation.metrics["accuracy"] == pytest.approx(0.91)
    # Ten calls are ranked first. Nine are tied with 81 other clips, where the precision is 0.19.
    assert evaluation.metrics["mAP"] == pytest.approx((10 + 9 * 0.19) / 19)
    assert evaluation.metrics["auroc"] == pytest.approx((10 + 9 / 2) / 19)
    assert evaluation.metrics["ece"] == pytest.approx(0.09)
    once = np.ones((100, 1), np.float32)
    assert resampled_f1(evaluation, once)[0] == pytest.approx(20 / 29)
    assert resampled_map(evaluation, once)[0] == pytest.approx(evaluation.metrics["mAP"])
    (row,) = list_classes(evaluation)
    assert (row["precision"], row["support"]) == (1, 19)


@pytest.mark.parametrize(("num_calls", "precision"), [(0, 0), (5, 1)], ids=["nothing_has_it", "everything_has_it"])
def test_detector_without_contrast(num_calls, precision):
    predicted, true = detector(2, num_calls, 5)
    values = PerClassMetrics().compute(predictions=predicted, references=true)
    assert (values["precision"], values["support"]) == ([precision], [num_calls])
    metrics = compute_metrics(predicted, true)
    assert metrics["mAP"] == 0 and "auroc" not in metrics
    assert metrics["macro_f1"] == pytest.approx(4 / 7 if num_calls else 0)


@given(st.integers(1, 8), st.integers(2, 5), st.integers(0, 1000))
def test_per_class_metrics_equal_scikit_learn(num_clips, num_classes, seed):
    """A class evaluated alone has the same metrics."""
    rng = np.random.default_rng(seed)
    predicted, true = rng.integers(2, size=(2, num_clips, num_classes))
    values = PerClassMetrics(keep_in_memory=True).compute(predictions=predicted, references=true)
    expected = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(list(values.values()), expected)
    for column in range(num_classes):
        one = PerClassMetrics(keep_in_memory=True).compute(
            predictions=predicted[:, [column]], references=true[:, [column]]
        )
        assert {name: [value[column]] for name, value in values.items()} == one


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.3, 0.7], [0.35, 0.65]])
    confidences, right, counts = calibration(probabilities, np.array([0, 1, 1, 0]), num_bins=10)
    assert confidences == pytest.approx([0.65, 0.7, 0.91])
    assert right == pytest.approx([0, 1, 0.5])
    assert counts.tolist() == [1, 1, 2]


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 1000))
def test_calibration_error_of_certain_scores_is_0_or_1(num_clips, num_classes, seed):
    references = np.random.default_rng(seed).integers(num_classes, size=num_clips)
    assert expected_calibration_error(np.eye(num_classes)[references], references) == 0
    assert expected_calibration_error(np.eye(num_classes)[(references + 1) % num_classes], references) == 1


@given(st.integers(1, 8), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_metrics_of_any_data_are_numbers_from_0_to_1(num_clips, num_classes, is_multi_label, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(num_classes), num_clips)
    shape = (num_clips, num_classes) if is_multi_label else num_clips
    references = rng.integers(2 if is_multi_label else num_classes, size=shape)
    assert all(0 <= value <= 1 for value in compute_metrics(probabilities, references).values())


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: (logits, np.zeros((2, 5)))])
def test_compute_metrics_from_logits(wrap):
    logits = np.array([[2.0, -1.0], [0.0, 3.0]])
    prediction = EvalPrediction(predictions=wrap(logits), label_ids=np.array([0, 0]))
    metrics = make_compute_metrics(is_multi_label=False)(prediction)
    assert metrics["accuracy"] == 0.5 and metrics["macro_f1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_probabilities_of_large_logits(size):
    logits = size * np.array([[1.0, -1.0, 0.0]])
    assert softmax_or_sigmoid(logits, False).sum() == pytest.approx(1)
    sigmoid = softmax_or_sigmoid(logits, True)
    assert sigmoid[0, 0] == pytest.approx(1 - sigmoid[0, 1]) and sigmoid[0, 2] == 0.5


def test_predictions_file(tmp_path):
    evaluation = Evaluation(
        split="test",
        files=["b.wav", "a, with comma.wav"],
        labels=["x", "y"],
        references=np.array([[1, 1], [0, 0]]),
        probabilities=np.array([[0.75, 0.5], [0.25, 0.125]], dtype=np.float32),
    )
    write_predictions(evaluation, tmp_path / "predictions" / "test.csv")
    assert (tmp_path / "predictions/test.csv").read_text().splitlines() == [
        "file,label,prediction,probability_x,probability_y",
        '"a, with comma.wav",,,0.250000,0.125000',
        "b.wav,x;y,x;y,0.750000,0.500000",
    ]
    assert evaluation.is_right.tolist() == [True, True]
