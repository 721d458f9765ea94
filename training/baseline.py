# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A baseline: logistic regression on log-mel statistics."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sanet_hf.audio.folders import SPLITS


NUM_FOLDS = 5


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
    Logistic regression, tested on the validation and test splits, or else by cross-validation.

    Args:
        features: Float, shape (files, features).
        labels, splits, groups: Of each file; a group stays in one fold.

    Returns:
        The scores, and how it was tested, or why it was not.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def score(split: str, true: np.ndarray, predicted: np.ndarray) -> Score:
        macro_f1 = f1_score(true, predicted, average="macro", zero_division=0)
        return Score(split, len(true), float(accuracy_score(true, predicted)), float(macro_f1))

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=0))
    labels, splits, groups = np.array(labels), np.array(splits), np.array(groups)
    learnt = np.isin(splits, ("train", "unsplit"))
    if len(set(labels[learnt])) < 2:
        return [], "it needs two classes to learn from"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if learnt.all():
            rarest = min(len(set(groups[labels == label])) for label in set(labels))
            if rarest < 2:
                return [], "a class has one file or group alone, so that none is left to test on"
            folds = StratifiedGroupKFold(min(NUM_FOLDS, rarest), shuffle=True, random_state=0)
            predicted = cross_val_predict(model, features, labels, groups=groups, cv=folds)
            return [score("all", labels, predicted)], f"by cross-validation in {folds.n_splits} parts"
        model.fit(features[learnt], labels[learnt])
    tested = [split for split in SPLITS if split != "train" and (splits == split).any()]
    return [
        score(split, labels[splits == split], model.predict(features[splits == split])) for split in tested
    ], "fitted to the training split"
