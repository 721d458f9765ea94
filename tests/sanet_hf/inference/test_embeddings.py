# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings of files: tables and maps."""

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest

from sanet_hf.inference.embeddings import make_embedding_table, write_embeddings
from sanet_hf.inference.plots import plot_embeddings
from sanet_hf.inference.windows import Prediction


LABELS = tuple("abcdefghij")


@pytest.fixture
def predictions() -> list[Prediction]:
    rng = np.random.default_rng(0)
    scores = np.eye(len(LABELS), dtype=np.float32)
    items = [
        Prediction(f"{label}/{index}.wav", LABELS, scores[(place + (index == 3)) % 10], embedding=embedding)
        for place, label in enumerate(LABELS)
        for index, embedding in enumerate(rng.standard_normal((4, 6)).astype(np.float32) + 5 * scores[place, :6])
    ]
    return [*items, Prediction("a/broken.wav", LABELS, error="empty")]


def test_table(predictions):
    table = make_embedding_table(predictions)
    assert table["path"].tolist() == [item.path for item in predictions[:-1]]
    assert table["label"].tolist() == [label for label in LABELS for _ in range(4)]
    assert table["prediction"].tolist()[:4] == ["a", "a", "a", "b"] and (table["score"] == 1).all()
    assert all(row is item.embedding for row, item in zip(table["embedding"], predictions))
    normalized = np.stack(make_embedding_table(predictions, normalize=True)["embedding"])
    assert np.allclose(np.linalg.norm(normalized, axis=1), 1)
    assert np.allclose(normalized[0], predictions[0].embedding / np.linalg.norm(predictions[0].embedding))


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_files(predictions, tmp_path, suffix):
    table, path = make_embedding_table(predictions), tmp_path / f"embeddings{suffix}"
    write_embeddings(table, path)
    if suffix == ".npz":
        loaded = np.load(path)
        embeddings = loaded["embedding"]
    else:
        loaded = pandas.read_parquet(path)
        embeddings = np.stack(loaded["embedding"])
    assert embeddings.shape == (40, 6) and embeddings.dtype == np.float32
    assert np.array_equal(embeddings, np.stack(table["embedding"]))
    for name in ("path", "label", "prediction", "score"):
        assert list(loaded[name]) == list(table[name])


def test_other_suffixes_are_refused(predictions, tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv: the output must end in \.parquet or \.npz"):
        write_embeddings(make_embedding_table(predictions), tmp_path / "a.csv")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_map(predictions, tmp_path, method):
    plot_embeddings(make_embedding_table(predictions), tmp_path / "map.png", method)
    assert plt.imread(tmp_path / "map.png").std() > 0


def test_map_needs_three_files_and_a_picture_suffix(predictions, tmp_path):
    with pytest.raises(ValueError, match="A map needs at least three files, but there are 2"):
        plot_embeddings(make_embedding_table(predictions[:2]), tmp_path / "map.png")
    with pytest.raises(ValueError, match="a picture must end in"):
        plot_embeddings(make_embedding_table(predictions), tmp_path / "map.txt")
