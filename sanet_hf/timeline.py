# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A picture of a long file: its waveform, and what a model says of it over time."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from .audio_blocks import stream_audio
from .inference import Prediction, merge_windows
from .pictures import COLORS, OTHER_COLOR, check_picture


SAMPLING_RATE = 16000  # Hz, of the waveform that is drawn
NUM_PIXELS = 2000
MAX_CLASSES = 10


def plot_timeline(prediction: Prediction, path: str | Path) -> None:
    """
    Draw the waveform's envelope, the segments of one label, and the score of each class over time; of many classes,
    the ten with the highest scores.

    Args:
        prediction: Of a file that can still be read, as [`predict`] gives it.
        path: Picture to write, of a format of [`PICTURES`].

    Raises:
        ValueError: The file could not be classified, or `path` is not that of a picture.
    """
    # Imported late, since other commands do not draw.
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    check_picture(path)
    if prediction.error is not None:
        raise ValueError(f"{prediction.path}: {prediction.error}")
    scores = np.stack([window.scores for window in prediction.windows])
    segments = merge_windows(prediction)
    peaks = scores.max(axis=0)
    shown = np.argsort(-peaks, kind="stable")[:MAX_CLASSES]
    colors = {prediction.labels[index]: color for index, color in zip(shown, COLORS)}
    edges = [
        0.0,
        *((a.end + b.start) / 2 for a, b in pairwise(prediction.windows)),
        prediction.windows[-1].end,
    ]
    figure, (wave_axes, label_axes, score_axes) = plt.subplots(
        3,
        figsize=(10, 2.4 + 0.28 * len(shown)),
        sharex=True,
        layout="constrained",
        height_ratios=[1.5, 0.3, 0.28 * len(shown) + 0.3],
    )
    low, high = read_envelope(prediction.path, prediction.duration)
    times = np.linspace(0, prediction.duration, len(low))
    wave_axes.fill_between(times, low, high, color="#555555", linewidth=0)
    wave_axes.set_ylabel("amplitude")
    title = f"{Path(prediction.path).name}: {prediction.label} ({prediction.score:.2f})"
    wave_axes.set_title(title.encode("utf-8", "backslashreplace").decode(), loc="left", parse_math=False)
    for segment in segments:
        color = colors.get(segment.label, OTHER_COLOR)
        label_axes.axvspan(segment.start, segment.end, facecolor=color, edgecolor="white", linewidth=0.5)
    label_axes.set_yticks([0.5], ["label"])
    label_axes.set_ylim(0, 1)
    image = score_axes.pcolormesh(edges, np.arange(len(shown) + 1), scores[:, shown].T, cmap="Greys", vmin=0, vmax=1)
    score_axes.set_yticks(np.arange(len(shown)) + 0.5, [prediction.labels[index] for index in shown])
    for tick, index in zip(score_axes.get_yticklabels(), shown):
        tick.set_parse_math(False)
        score_axes.plot(
            -0.006,
            np.flatnonzero(shown == index)[0] + 0.5,
            marker="s",
            color=colors.get(prediction.labels[index], OTHER_COLOR),
            transform=score_axes.get_yaxis_transform(),
            clip_on=False,
        )
    score_axes.tick_params(axis="y", length=0, pad=10)
    score_axes.invert_yaxis()
    score_axes.set_xlim(0, prediction.duration)
    score_axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_time(seconds)))
    score_axes.set_xlabel("time (h:min:s)" if prediction.duration >= 3600 else "time (min:s)")
    figure.colorbar(image, ax=score_axes, label="score", pad=0.01)
    for axes in (wave_axes, label_axes):
        axes.tick_params(axis="x", length=0)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def format_time(seconds: float) -> str:
    """Seconds as `1:02:03`, `2:03` or, of fractions, `2:03.5`."""
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    rest = f"{rest:06.3f}".removesuffix(".000").rstrip("0" if rest % 1 else "")
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def read_envelope(path: str | Path, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Lowest and highest samples of a file in 2,000 or so equal stretches.

    Args:
        path: Audio file.
        duration: In seconds.
    """
    length = max(1, round(duration * SAMPLING_RATE / NUM_PIXELS))
    low, high = [], []
    rest = np.zeros(0, np.float32)
    for block in stream_audio(path, SAMPLING_RATE):
        block = np.concatenate([rest, block])
        whole = len(block) // length * length
        stretches, rest = block[:whole].reshape(-1, length), block[whole:]
        low.append(stretches.min(axis=1))
        high.append(stretches.max(axis=1))
    if len(rest):
        low.append(rest.min(keepdims=True))
        high.append(rest.max(keepdims=True))
    return np.concatenate(low), np.concatenate(high)
