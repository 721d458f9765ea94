# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Manifests: tables of recordings in CSV or JSON Lines files."""

import codecs
import csv
import io
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from sanet_hf.audio.folders import SPLIT_NAMES
from sanet_hf.errors import DataError
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

COLUMNS = ("file", "label", "split", "start", "end")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# Excel writes different separators in different countries.
SEPARATORS = (",", ";", "\t")


def read_manifest_rows(path: Path) -> list[dict[str, object]]:
    """
    Read the rows of a manifest.

    A CSV file has commas, semicolons or tabs as separators. JSON has one object per line, or is a list of objects. The
    text is UTF-8, or UTF-16 with a byte-order mark. Column names may be capitalised.

    Returns:
        `file` (text), `label` (as in the file) and, in all rows or none, `split` (`train`, `validation` or `test`) and
        `start` and `end` (seconds or `None`). Duplicate rows are skipped.

    Raises:
        DataError: The file cannot be read or lacks a column, or a row is wrong.
    """
    text = _read_text(path)
    rows = _read_json(path, text) if path.suffix.lower() in JSON_SUFFIXES else _read_csv(path, text)
    # Unique names in the order of the file.
    names = list(dict.fromkeys(name for row in rows for name in row)) if rows else []
    missing = [name for name in ("file", "label") if name not in names]
    if rows and missing:
        raise _no_column(path, missing[0], names)
    if not rows:
        raise DataError(f"{path} has no rows.")
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        logger.warning(f"{path}: unused columns: {shorten(unknown)}.")
    splits = _read_splits(path, [row.get("split") for row in rows])
    read = []
    for number, row in enumerate(rows, 1):
        if _is_blank(row.get("file")):
            raise DataError(f"{path}: row {number} has no file.")
        read.append({"file": str(row["file"]), "label": row.get("label")})
        if splits:
            read[-1]["split"] = splits[number - 1]
        if "start" in names or "end" in names:
            place = f"{path}: row {number}"
            read[-1]["start"], read[-1]["end"] = read_bounds(row.get("start"), row.get("end"), place)
    return _without_duplicates(path, read)


def read_bounds(start: object, end: object, place: str) -> tuple[float | None, float | None]:
    """
    Return the start and end of a clip in its file in seconds; `None` for a blank cell.

    Args:
        start, end: As numbers or text, with a point or a comma before the decimals.
        place: Name of the row for errors.

    Raises:
        DataError: They are not numbers, or not 0 ≤ start < end.
    """
    values = []
    for name, value in (("start", start), ("end", end)):
        if _is_blank(value):
            values.append(None)
            continue
        try:
            seconds = float(value.replace(",", ".") if isinstance(value, str) else value)
        except (TypeError, ValueError):
            seconds = math.nan
        if isinstance(value, bool) or not math.isfinite(seconds):
            raise DataError(f"{place} has the {name} {value!r}, which is not a number of seconds.")
        values.append(seconds)
    if min(value for value in (*values, 0.0) if value is not None) < 0:
        raise DataError(f"{place} has a negative start or end: {start}, {end}.")
    if values[1] is not None and values[1] <= (values[0] or 0.0):
        raise DataError(f"{place} ends at {values[1]:g} s, not after its start at {values[0] or 0.0:g} s.")
    return values[0], values[1]


def _is_blank(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"--manifest {path} cannot be read: {error.strerror}.") from error
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"--manifest {path} cannot be read: line {line} is not UTF-8. Save it as UTF-8 (in Excel: CSV UTF-8)."
        ) from error


def _column_name(name: object) -> str:
    text = str(name).strip()
    return text.lower() if text.lower() in COLUMNS else text


def _read_csv(path: Path, text: str) -> list[dict[str, str]]:
    header_line = text.lstrip("\r\n").split("\n", 1)[0]
    headers = {mark: list(map(_column_name, header_line.split(mark))) for mark in SEPARATORS}
    separator = max(SEPARATORS, key=lambda mark: ("file" in [name.strip('"') for name in headers[mark]], mark == ","))
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [_column_name(name) for name in next(reader, [])]
        while not any(header):
            header = [_column_name(name) for name in next(reader)]
        doubled = [name for name in COLUMNS if header.count(name) > 1]
        if doubled:
            raise DataError(f"{path} has several columns named {doubled[0]!r}.")
        for fields in reader:
            if not any(map(str.strip, fields)):
                continue
            if any(map(str.strip, fields[len(header) :])):
                raise DataError(
                    f"{path}: row {len(rows) + 1} has more fields than the header. Put quotes around texts that "
                    f"contain {separator!r}."
                )
            fields += [""] * (len(header) - len(fields))
            rows.append({name: value for name, value in zip(header, fields) if name})
    except StopIteration:
        raise DataError(f"--manifest {path} cannot be read: the file is empty.") from None
    except csv.Error as error:
        raise DataError(f"--manifest {path} cannot be read: line {reader.line_num}: {error}.") from error
    missing = [name for name in ("file", "label") if name not in header]
    if missing:
        raise _no_column(path, missing[0], header)
    return rows


def _no_column(path: Path, missing: str, names: Iterable[str]) -> DataError:
    return DataError(
        f"{path} has no column {missing!r}. Its columns are {', '.join(map(repr, filter(None, names))) or 'none'}. A "
        "manifest needs the columns file and label, and may have split, start and end."
    )


def _read_json(path: Path, text: str) -> list[dict[str, object]]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if text.lstrip().startswith("["):
        lines = [(1, text)]
    rows = []
    for number, line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"--manifest {path} cannot be read: line {number} is not valid JSON ({error}).") from error
        rows += value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"--manifest {path} cannot be read: row {number} is not a JSON object.")
    return [{_column_name(name): value for name, value in row.items()} for row in rows]


def _read_splits(path: Path, values: list) -> list[str]:
    """Return the split of each row; an empty list if the column is blank."""
    if all(map(_is_blank, values)):
        return []
    splits = [SPLIT_NAMES.get(str(value).strip().lower()) for value in values]
    if None in splits:
        row = splits.index(None)
        value = "" if values[row] is None else values[row]
        raise DataError(
            f"{path}: the split of row {row + 1} is {value!r}. It must be train, validation or test, in every row or "
            "in none."
        )
    return splits


def _without_duplicates(path: Path, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """
    Skip duplicate rows with a warning. Return the others.

    Raises:
        DataError: Two rows of the same clip have different labels.
    """
    numbers: dict[tuple, int] = {}
    kept, repeated = [], []
    for number, row in enumerate(rows, 1):
        clip = os.path.normpath(row["file"].replace("\\", "/")), row.get("start"), row.get("end")
        first = numbers.setdefault(clip, number)
        other = rows[first - 1]
        if _label_key(row["label"]) != _label_key(other["label"]):
            raise DataError(
                f"{path}: rows {first} and {number} have different labels for {row['file']}: {other['label']!r} and "
                f"{row['label']!r}. Keep one row. Write several classes of a recording as one label, such as owl;fox."
            )
        if first != number and row.get("split") == other.get("split"):
            repeated.append(f"row {number} ({row['file']})")
        else:
            kept.append(row)
    if repeated:
        logger.warning(f"{path}: skipped {len(repeated)} duplicate rows: {shorten(repeated)}.")
    return kept


def _label_key(label: object) -> str:
    return "" if _is_blank(label) else str(label).strip()
