# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Timelines of long files."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile

from sanet_hf.inference.plots import plot_timeline
from sanet_hf.inference.windows import Prediction, Window
from sanet_hf.utils.formatting import format_time
from sanet_hf.utils.plot_style import BLUE, ORANGE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (2.5, "0:02.5"), (60, "1:00"), (119.9999, "2:00"), (3723, "1:02:03"), (36000, "10:00:00")],
)
def test_times(seconds, text):
    assert format_time(seconds) == text


@pytest.mark.parametrize("num_classes", [2, 30])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(tmp_path, num_classes, suffix):
    soundfile.write(tmp_path / "a $ b.wav", 0.1 * np.random.default_rng(0).standard_normal(16000 * 6), 16000)
    scores = np.random.default_rng(1).dirichlet(np.ones(num_classes), 5).astype(np.float32)
    windows = [Window(index, index + 2.0, row) for index, row in enumerate(scores)]
    labels = tuple(f"class_{index}$" for index in range(num_classes))
    prediction = Prediction(str(tmp_path / "a $ b.wav"), labels, scores.mean(axis=0), windows, duration=6.0)
    path = tmp_path / f"timeline.{suffix}"
    plot_timeline(prediction, path)
    assert plt.imread(path).std() > 0 if suffix == "png" else "</svg>" in path.read_text()


@pytest.mark.parametrize(("scores", "title"), [([0.9, 0.1, 0.1, 0.1], "a.wav"), ([0.1] * 4, "a.wav: no class")])
def test_title_says_when_there_is_no_class(tmp_path, monkeypatch, scores, title):
    """The picture has a class if one window has a detection, even if the whole recording has none."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000 * 8), 16000)
    windows = [
        Window(2.0 * index, 2.0 * index + 2, np.array([score], np.float32)) for index, score in enumerate(scores)
    ]
    mean = np.array([np.mean(scores)], np.float32)
    prediction = Prediction(
        str(tmp_path / "a.wav"), ("bell",), mean, windows, duration=8.0, min_score=0.5, several=True
    )
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, text, **options: titles.append(text))
    plot_timeline(prediction, tmp_path / "timeline.png")
    assert titles == [title]


def test_simultaneous_labels_are_stripes(tmp_path, monkeypatch):
    """The stripes are ordered by score from top to bottom. A single label has the whole height."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000 * 3), 16000)
    scores = np.array([[0.9, 0.1], [0.9, 0.8], [0.1, 0.8]], np.float32)
    windows = [Window(float(index), index + 1.0, row) for index, row in enumerate(scores)]
    prediction = Prediction(
        str(tmp_path / "a.wav"), ("rain", "dog"), scores.mean(axis=0), windows, 3.0, min_score=0.5, several=True
    )
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.axvspan", lambda axes, *place, facecolor, **style: drawn.append((*place, facecolor))
    )
    plot_timeline(prediction, tmp_path / "timeline.png")
    assert drawn == [(0, 1, 0, 1, BLUE), (1, 2, 0, 0.5, ORANGE), (1, 2, 0.5, 1, BLUE), (2, 3, 0, 1, ORANGE)]


def test_other_suffixes_and_files_with_errors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a picture must end in"):
        plot_timeline(Prediction("a.wav"), tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"a\.wav: the file is empty"):
        plot_timeline(Prediction("a.wav", error="the file is empty."), tmp_path / "a.png")
