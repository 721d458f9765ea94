# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Convert predictions to rows, and write them as CSV, JSON Lines or Parquet."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas
from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from sanet_hf.errors import DataError, UsageError
from sanet_hf.inference.windows import Prediction, merge_windows
from sanet_hf.utils.files import to_text, write_atomically


FORMATS = (".csv", ".jsonl", ".parquet")
NO_CLASS = ("-", "-")  # score and label in the table

Row = dict[str, Any]


def column_names(top_k: int, several: bool = False) -> list[str]:
    """Return the columns of [`to_rows`]; with `several`, for multi-label models. Times are in seconds."""
    best = [name for rank in range(2, top_k + 1) for name in (f"label_{rank}", f"score_{rank}")]
    return ["path", "start", "end", "label", "score", *best, *(["labels"] if several else []), "duration", "error"]


def default_top_k(model: PreTrainedModel, top_k: int | None) -> int:
    """Return the number of classes per row, at most all (default: 1, or 5 for multi-label models)."""
    if top_k is None:
        top_k = 5 if model.config.problem_type == "multi_label_classification" else 1
    return min(top_k, model.config.num_labels)


def to_rows(prediction: Prediction, top_k: int = 1, parts: str = "windows") -> list[Row]:
    """
    Return the rows of a file. If it was classified in several windows, its parts come first, with `start` and `end`.
    The last row is that of the file.

    `label` and `score`, `label_2` and `score_2` and so on are the predicted classes, best first. They are empty if
    fewer classes are predicted, since scores are below `prediction.min_score` or the audio is silent. If a
    single-label model predicts no class, `label` is [`UNKNOWN`] and `score` is the highest score. For multi-label
    models, `labels` lists all predicted classes, joined by `;`. If the background has the highest score, there is no
    label, and `score` is that of the background.

    Args:
        prediction: Result of [`predict`].
        top_k: Number of classes with columns in a row.
        parts: `windows`; `segments`: neighbouring windows with the same classes are merged, and only the best class is
            written; or `none`.
    """
    rows: list[Row] = []
    path = to_text(prediction.path)
    if len(prediction.windows) > 1 and parts == "segments":
        for segment in merge_windows(prediction):
            rows.append({"path": path, **segment._asdict(), "labels": _join(segment.labels)})
    elif len(prediction.windows) > 1 and parts == "windows":
        for window in prediction.windows:
            best = _best(prediction, window.scores, top_k)
            rows.append({"path": path, "start": window.start, "end": window.end, **best})
    row = {"path": path, "duration": prediction.duration, "error": prediction.error}
    rows.append(row | _best(prediction, prediction.scores, top_k))
    names = column_names(top_k, prediction.several)
    return [{name: _rounded(row.get(name)) for name in names} for row in rows]


def _best(prediction: Prediction, scores: np.ndarray | None, top_k: int) -> Row:
    predicted = prediction.rank_classes(scores)
    row: Row = {"labels": _join(prediction.labels[index] for index in predicted)}
    if scores is not None and prediction.is_background(scores):
        row["score"] = float(scores.max())
    for rank, index in enumerate(predicted[:top_k], start=1):
        suffix = "" if rank == 1 else f"_{rank}"
        row |= {f"label{suffix}": prediction.labels[index], f"score{suffix}": float(scores[index])}
    if not predicted and (label := prediction.name_class(scores)) is not None:
        row |= {"label": label, "score": float(scores.max())}
    return row


def _join(labels: Iterable[str]) -> str | None:
    return ";".join(labels) or None


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


class PredictionFile:
    """
    A file to which rows are added immediately. Its suffix chooses CSV, JSON Lines or Parquet.

    Parquet does not support adding rows. They are kept in `<name>.partial.jsonl` until the end. A lock, `<name>.lock`,
    keeps other runs from writing the file. The system releases the lock if the run is killed.

    Args:
        path: The file.
        columns: Result of [`column_names`].
        resume: Keep the rows of an earlier run, except those of files with an error and of unfinished files.
        overwrite: Overwrite an existing file.

    Attributes:
        finished: Files of the earlier run that are not classified again.

    Raises:
        SanetError: The suffix is not in [`FORMATS`], the file exists without `resume` or `overwrite`, it has other
            columns, or another run is writing it.
    """

    def __init__(self, path: str | Path, columns: Sequence[str], resume: bool = False, overwrite: bool = False):
        self.path, self.columns = Path(path), list(columns)
        if self.path.suffix not in FORMATS:
            raise UsageError(f"{path}: the output must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
        self._rows_path = self.path
        if self.path.suffix == ".parquet":
            self._rows_path = self.path.with_name(f"{self.path.name}.partial.jsonl")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UsageError(f"Another run is writing {path}. Wait until it ends, or choose another file.") from None
        try:
            self._open(resume, overwrite)
        except BaseException:
            self._unlock()
            raise

    def _open(self, resume: bool, overwrite: bool) -> None:
        if overwrite:
            for file in (self.path, self._rows_path):
                file.unlink(missing_ok=True)
        earlier = [file for file in (self.path, self._rows_path) if file.exists()]
        if earlier and not resume:
            raise UsageError(
                f"{earlier[0]} already exists. Use --resume to add missing rows, --overwrite, or another file."
            )
        # The partial file of a Parquet file also contains the rows of the Parquet file.
        rows = self._read(earlier[-1]) if earlier else []
        # The row of a whole file has no start and follows the rows of its parts.
        self.finished = {row["path"] for row in rows if row["start"] in ("", None) and row["error"] in ("", None)}
        self._is_resumed = bool(rows)
        self._write([row for row in rows if row["path"] in self.finished])
        self._file = open(self._rows_path, "a", newline="", encoding="utf-8")

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of a file."""
        _print_rows(self._file, self._rows_path.suffix, rows, self.columns)
        self._file.flush()

    def close(self, paths: Sequence[str] | None = None) -> None:
        """
        Close the file.

        Args:
            paths: Files in the order of their rows; None if the run did not finish.
        """
        try:
            self._close(paths)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _close(self, paths: Sequence[str] | None) -> None:
        self._file.close()
        if paths is None:
            return
        if self._is_resumed:
            places = {to_text(path): place for place, path in reversed(list(enumerate(paths)))}
            self._write(sorted(self._read(self._rows_path), key=lambda row: places.get(row["path"], -1)))
        if self._rows_path != self.path:
            with write_atomically(self.path) as file:
                to_table(self._read(self._rows_path), self.columns).to_parquet(file, index=False)
            self._rows_path.unlink()

    def _read(self, path: Path) -> list[Row]:
        try:
            if path.suffix == ".parquet":
                table = pandas.read_parquet(path)
                columns, rows = list(table), table.astype(object).where(table.notna(), None).to_dict("records")
            else:
                # A killed run can leave an incomplete line or row; names may contain line breaks.
                text = path.read_bytes().rpartition(b"\n")[0].decode()
                if path.suffix == ".csv":
                    reader = csv.DictReader(io.StringIO(text, newline=""))
                    columns = list(reader.fieldnames or self.columns)
                    rows = [row for row in reader if None not in row.values()]
                else:
                    rows = [json.loads(line) for line in text.split("\n") if line]
                    columns = next((list(row) for row in rows if list(row) != self.columns), self.columns)
        except (OSError, TypeError, ValueError, csv.Error) as error:
            raise DataError(f"Cannot resume {path} ({error}). Choose another file.") from error
        if columns != self.columns:
            raise DataError(
                f"{path} has the columns {', '.join(columns)}, not {', '.join(self.columns)}. Use the same options as "
                "before, or --overwrite, or choose another file."
            )
        return rows

    def _write(self, rows: Sequence[Row]) -> None:
        with (
            write_atomically(self._rows_path) as content,
            io.TextIOWrapper(content, encoding="utf-8", newline="") as file,
        ):
            if self._rows_path.suffix == ".csv":
                csv.writer(file).writerow(self.columns)
            _print_rows(file, self._rows_path.suffix, rows, self.columns)


def _print_rows(file: TextIO, suffix: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    if suffix == ".csv":
        csv.DictWriter(file, columns).writerows(rows)
    else:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def to_table(rows: Sequence[Row], columns: Sequence[str]) -> pandas.DataFrame:
    """Return rows as a table of texts and numbers with missing values."""
    is_text = {name: name in ("path", "error") or name.startswith("label") for name in columns}
    return pandas.DataFrame(rows, columns=list(columns)).astype(
        {name: "string" if text else "Float64" for name, text in is_text.items()}
    )


def make_table_printer(labels: Iterable[str]) -> Callable[[list[dict]], None]:
    """Return a function that prints rows of files as a table with a header."""
    width = max(5, *map(len, labels)) + 2
    is_first = True

    def show(rows: list[dict]) -> None:
        nonlocal is_first
        rows = [row for row in rows if row["error"] is None]
        lines = [f"{'score':8}{'label':{width}}file"] if is_first and rows else []
        is_first = is_first and not rows
        for row in rows:
            best = [(f"{row[f'score{rank}']:.4f}", row[f"label{rank}"]) for rank in _ranks(row)]
            scores = "  ".join(f"{score:6}  {label:{width - 2}}" for score, label in best or [NO_CLASS])
            time = "" if row["start"] is None else f"  {row['start']:.2f} to {row['end']:.2f} s"
            lines.append(f"{scores}  {row['path']}{time}")
        if lines:
            tqdm.write("\n".join(lines))
            sys.stdout.flush()

    return show


def _ranks(row: Mapping[str, object]) -> list[str]:
    """Return the suffixes of the class columns of a row that have a value."""
    names = [name.removeprefix("label") for name in row if name == "label" or name.startswith("label_")]
    return [name for name in names if row[f"label{name}"] is not None]
