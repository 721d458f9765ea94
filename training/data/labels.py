# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Labels: their formats in sources, and the classes of recordings as indices and matrices.

The same rules apply to every source, streamed or not:

- A label is text or a class index. A multi-label is a list of these, text separated by `;`, or a list of 0 and 1 with
  one entry per class.
- `None`, NaN and -1 mean that the label is missing. Blank text (and, in multi-label data, an empty list) means a
  missing label in single-label data, and no class in multi-label data.
- Names are compared in Unicode's composed form (NFC), without spaces around them.
"""

import ast
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from datasets import List
from transformers.utils import logging

from sanet_hf.errors import DataError
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)


# Class names that may be missing values, as written by R, pandas and databases.
LOOK_MISSING = {"na", "n/a", "nan", "<na>", "#n/a", "null"}


def clean_label(text: str) -> str:
    """Return the name of a class in NFC, without spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


@dataclass(frozen=True)
class LabelFormat:
    """
    The format of the labels in a source.

    Attributes:
        is_multi_label: Whether a recording can have several classes.
        names: Names of the class indices, or of the positions in lists of 0 and 1; `None` if labels are names.
        is_zero_one: Whether a label is a list of 0 and 1 with one entry for each of `names`.
    """

    is_multi_label: bool
    names: Sequence[str] | None = None
    is_zero_one: bool = False

    def read(self, label: object, file: str) -> list[str] | None:
        """
        Return the names of a recording's classes in alphabetical order, or `None` if the label is missing.

        Args:
            label: Label in the source.
            file: Name of the recording for errors.

        Raises:
            DataError: The label does not have this format.
        """
        if isinstance(label, (list, tuple, np.ndarray)) and not self.is_multi_label:
            raise DataError(
                f"The labels are lists, the first is that of {file}. If recordings can have several classes, use "
                "--problem_type multi_label_classification."
            )
        entries = _read_entries(label, self.is_multi_label)
        if entries is None or not self.is_zero_one:
            return entries if entries is None else sorted({self._read_name(entry, file) for entry in entries})
        if not entries:
            return None
        if len(entries) != len(self.names) or not _are_zero_one(entries):
            raise DataError(f"{file} has the label {label}, which is not a list of {len(self.names)} times 0 or 1.")
        return sorted({name for name, entry in zip(self.names, entries) if int(entry)})

    def _read_name(self, entry: object, file: str) -> str:
        is_whole = not isinstance(entry, float) or entry.is_integer()
        if self.names is None and isinstance(entry, (str, bool, int, float)) and is_whole:
            return str(int(entry) if isinstance(entry, float) else entry)
        if self.names is not None and entry in self.names:
            return entry
        if isinstance(entry, str) and entry.isdecimal():
            entry = int(entry)
        if self.names is None or not isinstance(entry, (int, float)) or not is_whole:
            raise DataError(f"{file} has the label {entry!r}, which is not a class{self._list_names()}.")
        if not 0 <= entry < len(self.names):
            raise DataError(f"{file} has the label {entry}, which is not a class{self._list_names()}.")
        return self.names[int(entry)]

    @property
    def unique_names(self) -> list[str] | None:
        """Return `names` without duplicates."""
        return None if self.names is None else list(dict.fromkeys(self.names))

    def _list_names(self) -> str:
        return "" if self.names is None else f". The classes are 0 to {len(self.names) - 1} ({shorten(self.names)})"


def find_label_format(
    labels: Iterable[object],
    is_multi_label: bool,
    column_names: Sequence[str] | None = None,
    class_names: str | None = None,
) -> LabelFormat:
    """
    Find the format of labels.

    Args:
        labels: All labels of a source, or a sample of them.
        is_multi_label: Whether a recording can have several classes.
        column_names: Names of class indices in the source.
        class_names: Option of that name: names by index or position, separated by commas.

    Returns:
        The format.

    Raises:
        DataError: They are lists of 0 and 1, but the names of the classes are not known.
    """
    given = list(filter(None, map(clean_label, class_names.split(",")))) if class_names else None
    if given is not None and len(set(given)) < len(given):
        raise DataError(f"--class_names {class_names} contains a class twice.")
    names = given or ([clean_label(name) for name in column_names] if column_names is not None else None)
    length = _zero_one_length(labels, column_names is not None) if is_multi_label else 0
    if given is not None and length == 1 < len(given):
        length = 0
    if length and given is None:
        raise DataError(
            f"The labels are lists of 0 and 1, all of length {length}, but the names of the classes are not known. "
            "Give one name per position, such as --class_names owl,fox. If they are class indices, give the name of "
            "each index."
        )
    if length and length != len(given):
        raise DataError(
            f"The labels are lists of {length} times 0 or 1, but --class_names has {len(given)} classes: "
            f"{shorten(given)}. Give one name per position."
        )
    return LabelFormat(is_multi_label, names, is_zero_one=bool(length))


def _zero_one_length(labels: Iterable[object], are_class_labels: bool) -> int:
    """Return the length of all labels if they are lists of 0 and 1 with one entry per class, else 0."""
    lists = [entries for label in labels if (entries := _read_entries(label, True)) is not None]
    filled = [entries for entries in lists if entries]
    lengths = {len(entries) for entries in filled}
    if len(lengths) != 1 or not all(map(_are_zero_one, filled)):
        return 0
    (length,) = lengths
    has_repeats = any(len(set(entries)) < length for entries in filled)
    if are_class_labels and not has_repeats:
        return 0
    # Lists of class indices may be empty or have one entry.
    return length if length > 1 or len(filled) == len(lists) else 0


def _are_zero_one(entries: Iterable[object]) -> bool:
    return all(entry in (0, 1) or entry in ("0", "1") for entry in entries)


def _read_entries(label: object, is_multi_label: bool) -> list | None:
    """Return the parts of a label, or `None` if it is missing."""
    if isinstance(label, np.ndarray):
        label = label.tolist()
    if isinstance(label, str) and is_multi_label:
        label = _read_list(label)
    entries = list(label) if isinstance(label, (list, tuple)) else [label]
    entries = [clean_label(entry) if isinstance(entry, str) else entry for entry in entries]
    # pandas writes integers as floats if a value is missing.
    entries = [
        entry.partition(".")[0] if isinstance(entry, str) and re.fullmatch(r"-?\d+\.0+", entry) else entry
        for entry in entries
    ]
    if is_multi_label:
        entries = [entry for entry in entries if entry != ""]
    is_missing = (entry is None or entry != entry or entry in (-1, "-1", "") for entry in entries)
    return None if any(is_missing) else entries


def _read_list(text: str) -> list:
    """Return the parts of text such as `owl;fox`, or of a list as text, such as `[1, 0]` or `['owl']`."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            if re.fullmatch(r"\[[\d\s.]+\]", text):
                return [float(number) for number in text[1:-1].split()]
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if isinstance(value, list):
            return value
    return text.split(";")


def warn_of_spellings(labels: Iterable[object], names: Iterable[str] = ()) -> None:
    """
    Warn of different spellings that count as one class, of names that differ only in case, and of names that other
    programs write for missing values.

    Args:
        labels: Labels of a source.
        names: Names of the classes in a source.
    """
    spellings = defaultdict(set)
    texts = set(names)
    for label in labels:
        for text in label if isinstance(label, list) else [label]:
            if isinstance(text, str):
                texts |= {part.strip() for part in text.split(";")}
    for text in texts:
        spellings[clean_label(text)].add(text)
    same = [", ".join(sorted(map(ascii, of_name))) for of_name in spellings.values() if len(of_name) > 1]
    if same:
        logger.warning(f"Names that differ only in Unicode form or spaces count as one class: {shorten(same)}.")
    missing = sorted(name for name in spellings if name.lower() in LOOK_MISSING)
    if missing and not names:
        logger.warning(
            f"{shorten(missing)} counts as a class. If it means that the label is missing, leave the label empty."
        )
    by_case = defaultdict(set)
    for name in spellings:
        by_case[name.casefold()].add(name)
    alike = [" and ".join(sorted(of_case)) for of_case in by_case.values() if len(of_case) > 1]
    if alike:
        logger.warning(
            f"Classes that differ only in case: {shorten(alike)}. If they are the same class, rename one of them."
        )


def label_names(recordings: datasets.Dataset) -> list[str]:
    """Return the names of the classes in the order of their indices in the `label` column."""
    feature = recordings.features["label"]
    return feature.feature.names if isinstance(feature, List) else feature.names


def feature_names(feature: object) -> list[str] | None:
    """Return the class names in the feature of a column, or `None`."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def stream_label_names(stream: datasets.IterableDataset, class_names: str | None = None) -> list[str] | None:
    """Return the class names from the option `class_names` or the stream's `label` column, or `None`."""
    return find_label_format([], False, feature_names(stream.features["label"]), class_names).unique_names


def is_multi_label(recordings: datasets.Dataset) -> bool:
    """Return whether a recording can have several classes."""
    return isinstance(recordings.features["label"], List)


def indices_of_names(label2id: Mapping[str, int]) -> dict[str, int]:
    """Return a model's class indices by name, and also by the name from [`clean_label`]."""
    return {clean_label(name): index for name, index in label2id.items()} | dict(label2id)


def label_matrix(recordings: datasets.Dataset, label2id: Mapping[str, int]) -> np.ndarray:
    """
    Return the classes of each recording in the order of the model's classes: 0/1 of shape (recordings, classes).

    Raises:
        DataError: A recording has a label that the model does not have.
    """
    indices = indices_of_names(label2id)
    unknown = set(label_names(recordings)) - set(indices)
    if unknown:
        raise DataError(
            f"The recordings have classes that the model does not have: {shorten(sorted(unknown))}. Its classes are "
            f"{shorten(sorted(label2id))}."
        )
    ids = [indices[name] for name in label_names(recordings)]
    matrix = np.zeros((len(recordings), len(label2id)), dtype=int)
    for row, label in enumerate(recordings["label"]):
        matrix[row, [ids[i] for i in (label if isinstance(label, list) else [label])]] = 1
    return matrix


def warn_of_missing_contrast(recordings: datasets.Dataset, split: str) -> None:
    """Warn of classes that all recordings of a split have, and of splits whose recordings have no class at all."""
    names = label_names(recordings)
    matrix = label_matrix(recordings, {name: index for index, name in enumerate(names)})
    common = [name for name, is_common in zip(names, matrix.all(axis=0)) if is_common]
    if not matrix.any():
        logger.warning(f"No recording in {split} has a class, so that scores on {split} are meaningless.")
    elif common:
        logger.warning(
            f"Every recording in {split} has {shorten(common)}, so that its absence is not "
            f"{'learned' if split == 'train' else 'tested'}. Add recordings without it (with an empty label)."
        )


def as_target(classes: np.ndarray, is_multi_label: bool) -> np.ndarray | int:
    """Return the target of the loss for classes of shape (classes,), 0/1: an index, or float 0/1 if multi-label."""
    return classes.astype(np.float32) if is_multi_label else int(classes.argmax())
