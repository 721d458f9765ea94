# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Read the prediction files of training runs, of the network and of the baseline."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sanet_hf.errors import DataError
from sanet_hf.training.evaluation.results import BASELINE_PREFIX, Evaluation


PROBABILITY = "probability_"


def read_predictions(path: Path) -> tuple[list[str], list[list[str]]]:
    """
    Return the header and the rows of a file from [`results.write_predictions`].

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Delete {path.parents[1]} and run the training again."
        ) from error
    return header, rows


def as_evaluation(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    is_multi_label: bool,
    split: str,
    background: str | None = None,
) -> Evaluation:
    """
    Rebuild an evaluation from its table of predictions. Probabilities are rounded.

    Args:
        header, rows: As [`read_predictions`] returns them. Rows of all folds begin with the fold.
        is_multi_label: Whether a clip can have several classes.
        split: Name of the split.
        background: The background class, if there is one.
    """
    labels = [name.removeprefix(PROBABILITY) for name in header if name.startswith(PROBABILITY)]
    numbers = {label: number for number, label in enumerate(labels)}
    true, predicted = np.zeros((2, len(rows), len(labels)), dtype=int)
    for matrix, column in ((true, header.index("label")), (predicted, header.index("prediction"))):
        for index, row in enumerate(rows):
            for name in row[column].split(";") if is_multi_label else [row[column]]:
                if name:
                    matrix[index, numbers[name]] = 1
    probabilities = np.array([row[-len(labels) :] for row in rows], dtype=np.float32)
    # Use the predictions in the table: models of folds have different thresholds, and rounded probabilities can tie.
    if not is_multi_label:
        tied = probabilities.argmax(axis=1) != predicted.argmax(axis=1)
        largest = np.nextafter(probabilities[tied].max(axis=1), np.float32(2))
        probabilities[tied, predicted[tied].argmax(axis=1)] = largest
    return Evaluation(
        split=split,
        files=[row[header.index("file")] for row in rows],
        labels=labels,
        references=true if is_multi_label else true.argmax(axis=1),
        probabilities=probabilities,
        background=background,
        predicted=predicted if is_multi_label else None,
    )


def read_baseline(folder: str | Path, name: str, is_multi_label: bool) -> Evaluation | None:
    """
    Return the predictions of the baseline of a run or cross-validation; `None` if it has none.

    Args:
        folder: Folder of the run or cross-validation.
        name: Name of the split, or `out_of_fold`.
        is_multi_label: Whether a clip can have several classes.

    Raises:
        DataError: The file is damaged.
    """
    path = _baseline_path(folder, name)
    return as_evaluation(*read_predictions(path), is_multi_label, name) if path.is_file() else None


def pool_baselines(output_dir: Path, folders: Mapping[str, str]) -> list[list[str]]:
    """
    Return the header and rows of the baselines' predictions on all test folds, with the fold as the first column; an
    empty list if a fold has no baseline.

    Args:
        output_dir: Folder of a cross-validation.
        folders: Folder of each fold.
    """
    paths = {fold: _baseline_path(output_dir / folder, "test") for fold, folder in folders.items()}
    if not all(path.is_file() for path in paths.values()):
        return []
    tables = {fold: read_predictions(path) for fold, path in paths.items()}
    rows = [[fold, *row] for fold, (_, own) in tables.items() for row in own]
    header, _ = next(iter(tables.values()))
    return [["fold", *header], *sorted(rows, key=lambda row: row[1])]


def _baseline_path(folder: str | Path, name: str) -> Path:
    return Path(folder) / "predictions" / f"{BASELINE_PREFIX}{name}.csv"
