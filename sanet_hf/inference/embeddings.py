# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings of files, the inputs of the classifier head, for search, clustering and plots."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas

from sanet_hf.errors import UsageError
from sanet_hf.inference.windows import Prediction
from sanet_hf.utils.files import to_text, write_atomically


FORMATS = (".parquet", ".npz")


def check_embedding_file(path: str | Path) -> None:
    """Raise a UsageError if the suffix of a file is not in [`FORMATS`]."""
    if Path(path).suffix not in FORMATS:
        raise UsageError(f"{path}: the output must end in {' or '.join(FORMATS)}.")


def make_embedding_table(predictions: Iterable[Prediction], normalize: bool = False) -> pandas.DataFrame:
    """
    Return a table with the columns `path`, `label` (name of the parent folder), `prediction` (empty if no class is
    predicted), `score`, and `embedding`, float32 of shape (features,).

    Args:
        predictions: Results of [`predict`] with `return_embeddings`. Those with an error are skipped.
        normalize: Whether to scale each embedding to an L2 norm of 1.
    """
    rows = []
    for prediction in predictions:
        if prediction.error is not None:
            continue
        embedding = prediction.embedding
        if normalize:
            embedding = embedding / max(float(np.linalg.norm(embedding)), 1e-12)
        path = Path(prediction.path)
        label = to_text(path.absolute().parent.name)
        rows.append((to_text(prediction.path), label, prediction.label or "", prediction.score, embedding))
    return pandas.DataFrame(rows, columns=["path", "label", "prediction", "score", "embedding"])


def write_embeddings(table: pandas.DataFrame, path: str | Path) -> None:
    """
    Write the columns of [`make_embedding_table`] as Parquet, or as arrays of a `.npz` file with an `embedding` of
    shape (files, features).

    Raises:
        UsageError: The suffix is not in [`FORMATS`].
    """
    check_embedding_file(path)
    with write_atomically(path) as file:
        _write(table, file, Path(path).suffix)


def _write(table: pandas.DataFrame, file: BinaryIO, suffix: str) -> None:
    if suffix == ".parquet":
        table.to_parquet(file, index=False)
        return
    columns = {name: np.array(table[name].tolist(), dtype=np.str_) for name in ("path", "label", "prediction")}
    columns["score"] = table["score"].to_numpy(np.float32)
    np.savez(file, **columns, embedding=np.stack(table["embedding"].tolist()))
