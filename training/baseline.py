# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A baseline: logistic regression on log-mel statistics."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sanet_hf.audio.folders import SPLITS
from sanet_hf.training.evaluation.calibration import softmax_or_sigmoid


# Inverse strengths of the L2 penalty, weakest last, and the default if there is no data to choose one.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DEFAULT_STRENGTH = 0.3
# With fewer validation clips, cross-validation helps to choose the strength.
FEW_CLIPS = 30
NUM_FOLDS = 5
# More training clips are divided into fewer folds, to save time.
MANY_CLIPS, FEW_FOLDS = 1000, 3
MAX_ITERATIONS = 300


class Baseline(NamedTuple):
    """
    Logistic regression on standardised features: multinomial, or one binary regression per class (multi-label).

    Attributes:
        mean, scale: Mean and standard deviation of the features in training, shape (features,).
        weights, bias: Shape (features, classes) and (classes,). The bias is -inf for a class that no training clip
            has. With multi-label data, it is inf for a class that all training clips have.
        C: Inverse strength of the L2 penalty.
        is_multi_label: Whether a clip can have several classes.
        is_balanced: Whether every class has the same weight, as with `--class_weights balanced`.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    C: float
    is_multi_label: bool = False
    is_balanced: bool = False

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return float32 probabilities of shape (clips, classes) from features of shape (clips, features)."""
        return softmax_or_sigmoid(self.logits(features), self.is_multi_label)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits of shape (clips, classes) from features of shape (clips, features)."""
        return ((features - self.mean) / self.scale) @ self.weights + self.bias

    def refit(self, features: np.ndarray, targets: np.ndarray) -> "Baseline":
        """Return a baseline with the same options, fitted to other clips, such as training and validation together."""
        return next(_fit(features, targets, [self.C], self.is_multi_label, self.is_balanced))

    def out_of_fold(self, features: np.ndarray, targets: np.ndarray, groups: Sequence[str]) -> np.ndarray | None:
        """
        Predict each training clip with a baseline that was fitted to the other folds, with the same options.

        Args:
            features, targets, groups: As in [`fit`].

        Returns:
            float32 probabilities of shape (clips, classes); `None` if there is only one group.
        """
        found = predict_out_of_fold(features, targets, groups, [self.C], self.is_multi_label, self.is_balanced)
        return None if found is None else found[0]


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    is_multi_label: bool = False,
    is_balanced: bool = False,
) -> Baseline:
    """
    Fit a baseline. `C` is the value in `STRENGTHS` with the highest accuracy (mAP with multi-label data). It is
    measured on the validation clips, in cross-validation if there are none, or on both together if there are fewer
    than `FEW_CLIPS`. If several are equal, the one with the lowest loss is chosen.

    Args:
        features: Float, shape (clips, features).
        targets: Classes, 0/1 of shape (clips, classes).
        groups: Group of each clip. A group stays in one fold of the cross-validation.
        validation: Features and targets of the validation clips.
        is_multi_label, is_balanced: As in [`Baseline`].

    Returns:
        The fitted baseline.
    """
    options = (is_multi_label, is_balanced)
    fitted = list(_fit(features, targets, STRENGTHS, *options))
    truth, predicted = [], [[] for _ in fitted]
    if validation is not None and len(validation[1]):
        truth.append(validation[1])
        for own, candidate in zip(predicted, fitted):
            own.append(candidate.predict_proba(validation[0]))
    if sum(map(len, truth)) < FEW_CLIPS:
        folds = predict_out_of_fold(features, targets, groups, STRENGTHS, *options)
        if folds is not None:
            truth.append(targets)
            for own, probabilities in zip(predicted, folds):
                own.append(probabilities)
    if not truth:
        return next(candidate for candidate in fitted if candidate.C == DEFAULT_STRENGTH)
    scores = [score_probabilities(np.concatenate(own), np.concatenate(truth), is_multi_label) for own in predicted]
    return fitted[max(range(len(fitted)), key=scores.__getitem__)]


class Score(NamedTuple):
    """Results of the baseline on a split."""

    split: str
    num_files: int
    accuracy: float
    macro_f1: float


def fit_baseline(
    features: np.ndarray, labels: Sequence[str], splits: Sequence[str], groups: Sequence[str]
) -> tuple[list[Score], str]:
    """
    Fit a baseline and test it on the validation and test splits. Without splits, use cross-validation with fixed `C`.

    Args:
        features: Float, shape (files, features).
        labels, splits, groups: Label, split and group of each file. A group stays in one fold.

    Returns:
        The scores, and a text: how the baseline was tested, or why it was not.
    """
    from sklearn.metrics import accuracy_score, f1_score

    def score(split: str, true: np.ndarray, probabilities: np.ndarray) -> Score:
        predicted = probabilities.argmax(axis=1)
        macro_f1 = f1_score(true, predicted, average="macro", zero_division=0)
        return Score(split, len(true), float(accuracy_score(true, predicted)), float(macro_f1))

    names, indices = np.unique(labels, return_inverse=True)
    splits, groups, targets = np.array(splits), np.array(groups), np.eye(len(names), dtype=int)[indices]
    fitting = np.isin(splits, ("train", "unsplit"))
    if len(set(indices[fitting])) < 2:
        return [], "it needs training files of at least two classes"
    if fitting.all():
        rarest = min(len(set(groups[indices == index])) for index in range(len(names)))
        if rarest < 2:
            return [], "a class has only one file or group, so that none remains for testing"
        num_folds = min(NUM_FOLDS, rarest)
        (probabilities,) = predict_out_of_fold(features, targets, groups, [DEFAULT_STRENGTH], num_folds=num_folds)
        return [score("all", indices, probabilities)], f"by cross-validation in {num_folds} parts"
    validating = splits == "validation"
    validation = (features[validating], targets[validating])
    baseline = fit(features[fitting], targets[fitting], groups[fitting], validation)
    tested = [split for split in SPLITS if split != "train" and (splits == split).any()]
    return [
        score(split, indices[splits == split], baseline.predict_proba(features[splits == split])) for split in tested
    ], "fitted to the training split"


def _fit(
    features: np.ndarray,
    targets: np.ndarray,
    strengths: Sequence[float],
    is_multi_label: bool = False,
    is_balanced: bool = False,
) -> Iterator[Baseline]:
    """Yield a baseline for each strength, in ascending order. Each fit starts from the previous solution."""
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    num_classes = targets.shape[1]
    # With multi-label data, each column is a separate problem.
    columns = list(targets.T) if is_multi_label else [targets.argmax(axis=1)]
    weight = "balanced" if is_balanced else None
    models = [LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, class_weight=weight) for _ in columns]
    for C in sorted(strengths):
        weights = np.zeros((features.shape[1], num_classes))
        bias = np.full(num_classes, -np.inf)
        for place, (model, column) in enumerate(zip(models, columns)):
            classes = np.unique(column)
            if len(classes) == 1:
                # One class alone cannot be fitted.
                if not is_multi_label:
                    bias[classes] = 0.0
                elif classes[0]:
                    bias[place] = np.inf
                continue
            # With few clips, the checks take longer than the fit.
            with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=C).fit(scaled, column)
            if is_multi_label:
                weights[:, place], bias[place] = model.coef_[0], model.intercept_[0]
            elif len(classes) == 2:
                weights[:, classes[1]], bias[classes] = model.coef_[0], (0.0, model.intercept_[0])
            else:
                weights[:, classes], bias[classes] = model.coef_.T, model.intercept_
        yield Baseline(scaler.mean_, scaler.scale_, weights, bias, C, is_multi_label, is_balanced)


def predict_out_of_fold(
    features: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str],
    strengths: Sequence[float],
    is_multi_label: bool = False,
    is_balanced: bool = False,
    num_folds: int | None = None,
) -> np.ndarray | None:
    """
    Predict each clip with logistic regression that was fitted to the other folds.

    Args:
        features, targets, groups, is_multi_label, is_balanced: As in [`fit`].
        strengths: Inverse strengths of the penalty, ascending.
        num_folds: Largest number of folds (default: 5, or 3 with more than `MANY_CLIPS` clips).

    Returns:
        float32 probabilities of shape (strengths, clips, classes); `None` if there is only one group.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if num_folds is None:
        num_folds = NUM_FOLDS if len(targets) <= MANY_CLIPS else FEW_FOLDS
    # A clip of several classes is stratified by its rarest one. Clips of no class are one stratum.
    rarity = np.where(targets, -targets.sum(axis=0), -len(targets) - 1)
    strata = np.where(targets.any(axis=1), rarity.argmax(axis=1), targets.shape[1])
    num_folds = min(num_folds, len(set(groups)), np.bincount(strata).max())
    if num_folds < 2:
        return None
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=0)
    probabilities = np.zeros((len(strengths), *targets.shape), np.float32)
    with warnings.catch_warnings():
        # A class with fewer groups than folds is missing in some folds, which is fine.
        warnings.simplefilter("ignore", UserWarning)
        parts = list(folds.split(features, strata, np.asarray(groups)))
    for fitting, tested in parts:
        fitted = _fit(features[fitting], targets[fitting], strengths, is_multi_label, is_balanced)
        for own, baseline in zip(probabilities, fitted):
            own[tested] = baseline.predict_proba(features[tested])
    return probabilities


def score_probabilities(probabilities: np.ndarray, targets: np.ndarray, is_multi_label: bool) -> tuple[float, float]:
    """Return the accuracy (mAP with multi-label data) and the negative loss."""
    from sklearn.metrics import average_precision_score

    likelihoods = np.where(targets, probabilities, 1 - probabilities if is_multi_label else 1).clip(1e-7)
    if is_multi_label:
        mixed = targets.any(axis=0) & ~targets.all(axis=0)
        score = average_precision_score(targets[:, mixed], probabilities[:, mixed]) if mixed.any() else 0.0
    else:
        score = (probabilities.argmax(axis=1) == targets.argmax(axis=1)).mean()
    return float(score), float(np.log(likelihoods).mean())
