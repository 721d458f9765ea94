# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings of files: what a classifier's head is given, for search, clustering and pictures."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas

from .audio import to_text
from .inference import Prediction
from .pictures import COLORS, check_picture


FORMATS = (".parquet", ".npz")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")


def check_embedding_file(path: str | Path) -> None:
    """Raise a ValueError for a file whose suffix is not of [`FORMATS`]."""
    if Path(path).suffix not in FORMATS:
        raise ValueError(f"{path}: embeddings are written to a file that ends in {' or '.join(FORMATS)}.")


def make_embedding_table(predictions: Iterable[Prediction], normalize: bool = False) -> pandas.DataFrame:
    """
    A table with the columns `path`, `label` (the folder that the file lies in), `prediction`, `score`, and
    `embedding`, float32 of shape (features,).

    Args:
        predictions: As [`predict`] gives them with `return_embeddings`; those with an error are left out.
        normalize: Whether to bring each embedding to an L2 norm of 1.
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
        rows.append((to_text(prediction.path), label, prediction.label, prediction.score, embedding))
    return pandas.DataFrame(rows, columns=["path", "label", "prediction", "score", "embedding"])


def write_embeddings(table: pandas.DataFrame, path: str | Path) -> None:
    """
    Write the columns of [`make_embedding_table`] as Parquet, or as arrays of a `.npz` file, where `embedding` is of
    shape (files, features).

    Raises:
        ValueError: The suffix is none of [`FORMATS`].
    """
    check_embedding_file(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # What was there stays until the new file is whole.
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            _write(table, file, path.suffix)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(table: pandas.DataFrame, file: BinaryIO, suffix: str) -> None:
    if suffix == ".parquet":
        table.to_parquet(file, index=False)
        return
    columns = {name: np.array(table[name].tolist(), dtype=np.str_) for name in ("path", "label", "prediction")}
    columns["score"] = table["score"].to_numpy(np.float32)
    np.savez(file, **columns, embedding=np.stack(table["embedding"].tolist()))


def plot_embeddings(table: pandas.DataFrame, path: str | Path, method: str = "pca", seed: int = 0) -> None:
    """
    Draw a map of the embeddings in two dimensions, coloured by `label`, with a ring where the model says otherwise.

    Args:
        table: As [`make_embedding_table`] gives it.
        path: Picture to write, of a format of [`pictures.PICTURES`].
        method: `pca`, or `tsne`, which shows clusters but no distances between them.
        seed: Of t-SNE.

    Raises:
        ValueError: There are fewer than three embeddings, or `path` is not that of a picture.
    """
    # Imported late, since other commands do not draw.
    import matplotlib.pyplot as plt
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    check_picture(path)
    if len(table) < 3:
        raise ValueError(f"A map of {len(table)} files would show nothing: it takes three or more.")
    embeddings = np.stack(table["embedding"].tolist())
    if method == "pca":
        pca = PCA(2, random_state=seed)
        points = pca.fit_transform(embeddings)
        parts = 100 * pca.explained_variance_ratio_
        names = [f"component {index} ({part:.0f} % of the variance)" for index, part in enumerate(parts, start=1)]
    else:
        perplexity = min(30.0, (len(table) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings)
        names = ["t-SNE 1", "t-SNE 2"]
    labels = table["label"].value_counts().index
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    for index, label in enumerate(labels):
        of_label = points[(table["label"] == label).to_numpy()]
        color, marker = COLORS[index % len(COLORS)], MARKERS[index // len(COLORS) % len(MARKERS)]
        axes.scatter(*of_label.T, s=16, color=color, marker=marker, label=f"{label} ({len(of_label)})", linewidths=0)
    known = set(table["prediction"]) & set(labels)
    is_mistake = (table["prediction"] != table["label"]) & table["label"].isin(known)
    if is_mistake.any():
        ring = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
        axes.scatter(*points[is_mistake.to_numpy()].T, s=40, label=f"predicted otherwise ({is_mistake.sum()})", **ring)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
