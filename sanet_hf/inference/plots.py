# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Plots of predictions, embeddings and explanations."""

import json
import math
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas

from sanet_hf.audio.decode import stream_audio
from sanet_hf.audio.levels import envelope
from sanet_hf.errors import AudioError, DataError, UsageError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.inference.explanation import Explanation, as_dict
from sanet_hf.inference.windows import Prediction, merge_windows
from sanet_hf.utils.formatting import format_time
from sanet_hf.utils.plot_style import (
    BLUE,
    COLORS,
    GRAY,
    OTHER_COLOR,
    PICTURES,
    VERMILION,
    check_picture,
    label_colors,
    style,
)


NUM_PIXELS = 2000
MAX_CLASSES = 10


def plot_timeline(prediction: Prediction, path: str | Path, sampling_rate: int = DEFAULT_SAMPLING_RATE) -> None:
    """
    Draw over time the envelope of the waveform, the predicted labels, and the score of each class. A segment with
    several labels has a stripe for each. Of many classes, the ten with the highest scores are drawn. Segments without
    a predicted class, and scores of silence, stay blank.

    Args:
        prediction: Result of [`predict`] for a file that can still be read.
        path: Picture to write, in a format of [`PICTURES`].
        sampling_rate: Sampling rate of the model in Hz, used to read the waveform.

    Raises:
        SanetError: The file could not be classified, or `path` has no picture format.
    """
    # Imported here, because other commands do not draw.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    check_picture(path)
    if prediction.error is not None:
        raise AudioError(f"{prediction.path}: {prediction.error}")
    # Silent windows stay blank.
    silence = np.full(len(prediction.labels), np.nan, np.float32)
    scores = np.stack([silence if window.scores is None else window.scores for window in prediction.windows])
    segments = merge_windows(prediction)
    peaks = np.where(np.isnan(scores), 0, scores).max(axis=0)
    shown = np.argsort(-peaks, kind="stable")[:MAX_CLASSES]
    colors = label_colors(prediction.labels, [prediction.labels[index] for index in shown])
    edges = [
        0.0,
        *((a.end + b.start) / 2 for a, b in pairwise(prediction.windows)),
        prediction.windows[-1].end,
    ]
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(10, 2.4 + 0.28 * len(shown)), layout="constrained")
        heights = [1.5, 0.45 if prediction.several else 0.3, 0.28 * len(shown) + 0.3]
        wave_axes, label_axes, score_axes = figure.subplots(3, sharex=True, height_ratios=heights)
        length = max(1, round(prediction.duration * sampling_rate / NUM_PIXELS))
        low, high = envelope(stream_audio(prediction.path, sampling_rate), length)
        times = np.linspace(0, prediction.duration, len(low))
        wave_axes.fill_between(times, low, high, color=GRAY, linewidth=0)
        wave_axes.set_ylabel("amplitude")
        is_background = prediction.scores is not None and prediction.is_background(prediction.scores)
        title = f"{Path(prediction.path).name}: {'background' if is_background else 'no class'}"
        if any(segment.labels for segment in segments) and not prediction.label:
            # A part has a class, although the mean of all parts has none.
            title = Path(prediction.path).name
        elif prediction.label is not None:
            title = f"{Path(prediction.path).name}: {prediction.label} (score {prediction.score:.2f})"
        wave_axes.set_title(title.encode("utf-8", "backslashreplace").decode(), parse_math=False)
        order = {prediction.labels[index]: place for place, index in enumerate(shown)}
        for segment in segments:
            # Stripes in the order of the scores below, from top to bottom.
            stripes = sorted(segment.labels, key=lambda label: -order.get(label, len(order)))
            for number, label in enumerate(stripes):
                label_axes.axvspan(
                    segment.start,
                    segment.end,
                    number / len(stripes),
                    (number + 1) / len(stripes),
                    facecolor=colors[label],
                    edgecolor="white",
                    linewidth=0.5,
                )
        label_axes.set_yticks([0.5], ["labels" if prediction.several else "label"])
        label_axes.set_ylim(0, 1)
        image = score_axes.pcolormesh(
            edges, np.arange(len(shown) + 1), scores[:, shown].T, cmap="Greys", vmin=0, vmax=1
        )
        score_axes.set_yticks(np.arange(len(shown)) + 0.5, [prediction.labels[index] for index in shown])
        for tick, index in zip(score_axes.get_yticklabels(), shown):
            tick.set_parse_math(False)
            score_axes.plot(
                -0.006,
                np.flatnonzero(shown == index)[0] + 0.5,
                marker="s",
                markersize=6,
                color=colors[prediction.labels[index]],
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
        figure.savefig(path)


MARKERS = ("o", "^", "s", "D", "v", "P", "X")


def plot_embeddings(table: pandas.DataFrame, path: str | Path, method: str = "pca", seed: int = 0) -> None:
    """
    Draw a two-dimensional map of the embeddings, coloured by `label`. A ring marks a different prediction.

    Args:
        table: Result of [`make_embedding_table`].
        path: Picture to write, in a format of [`PICTURES`].
        method: `pca`, or `tsne`, which shows clusters but not the distances between them.
        seed: Seed of t-SNE.

    Raises:
        SanetError: There are fewer than three embeddings, or `path` has no picture format.
    """
    # Imported here, because other commands do not draw.
    import matplotlib
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    check_picture(path)
    if len(table) < 3:
        raise DataError(f"A map needs at least three files, but there are {len(table)}. Add files.")
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
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.subplots()
        for index, label in enumerate(labels):
            of_label = points[(table["label"] == label).to_numpy()]
            color, marker = COLORS[index % len(COLORS)], MARKERS[index // len(COLORS) % len(MARKERS)]
            axes.scatter(
                *of_label.T, s=16, color=color, marker=marker, label=f"{label} ({len(of_label)})", linewidths=0
            )
        known = set(table["prediction"]) & set(labels)
        is_mistake = (table["prediction"] != table["label"]) & table["label"].isin(known)
        if is_mistake.any():
            ring = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
            axes.scatter(
                *points[is_mistake.to_numpy()].T, s=40, label=f"different prediction ({is_mistake.sum()})", **ring
            )
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for text in legend.get_texts():
            text.set_parse_math(False)
        figure.savefig(path)


SUFFIXES = (*PICTURES, ".json")


def write_explanation(explanation: Explanation, path: str | Path, name: str = "") -> None:
    """
    Write an explanation as a picture (.png, .jpg, .svg or .pdf), or as numbers (.json, result of [`as_dict`]). An
    existing file is overwritten.

    Args:
        explanation: Result of [`explain`].
        path: The file to write.
        name: Name of the recording in the title of the picture.

    Raises:
        SanetError: The suffix is none of these.
    """
    path = Path(path)
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps(as_dict(explanation), allow_nan=False) + "\n", encoding="utf-8")
    else:
        plot_explanation(explanation, path, name)


def check_suffix(path: Path) -> None:
    """Raise a UsageError for a suffix that [`write_explanation`] does not support."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: an explanation must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")


def plot_explanation(explanation: Explanation, path: str | Path, name: str = "") -> None:
    """
    Draw an explanation over one time axis: waveform, spectrogram, occlusion and, for SANet, pooling weights and
    attention.

    Args:
        explanation: Result of [`explain`].
        path: The picture to write, in any format of matplotlib.
        name: Name of the recording in the title.
    """
    # Imported here, because other commands do not draw.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    has_pooling = explanation.pooling_weights is not None
    heights = [0.7, 1.3, 1.1] + [1.1] * has_pooling + [1.6] * len(explanation.attentions)
    heard = explanation.pooling_edges[-1] if has_pooling else explanation.end
    # Only a part of the padding is drawn, so that the clip remains wide enough.
    end = min(heard, explanation.end + 0.25 * (explanation.end - explanation.start))
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(9, 1.0 + 1.25 * sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
        _draw_waveform(panels[0], explanation)
        _draw_spectrogram(panels[1], explanation, end)
        _draw_occlusion(panels[2], explanation)
        if has_pooling:
            _draw_pooling(panels[3], explanation)
        for block, axes in enumerate(panels[4:]):
            _draw_attention(axes, explanation, block, end)
        for axes in panels:
            axes.yaxis.set_major_locator(MaxNLocator(3))
            if end > explanation.end:
                axes.axvline(explanation.end, color=OTHER_COLOR, linewidth=1, linestyle=(0, (4, 3)))
        panels[0].set_yticks([])
        panels[0].set_xlim(explanation.start, end)
        panels[-1].set_xlabel("time (s)")
        figure.align_ylabels()
        figure.suptitle(_title(explanation, name, heard), fontsize=11, parse_math=False)
        figure.savefig(path)


def _title(explanation: Explanation, name: str, heard: float) -> str:
    best = max(explanation.scores, key=explanation.scores.get)
    title = f"{explanation.label}: {explanation.scores[explanation.label]:.2f}"
    if best != explanation.label:
        title += f" ({best}: {explanation.scores[best]:.2f})"
    stretch = f"{explanation.start:.2f}–{explanation.end:.2f} s"
    if heard > explanation.end:
        stretch += f", padded with silence to {heard:.2f} s"
    return textwrap.fill("   ".join(text for text in (name, stretch, title) if text), 110)


def _draw_waveform(axes, explanation: Explanation) -> None:
    length = -(-len(explanation.waveform) // NUM_PIXELS)
    low, high = envelope([explanation.waveform], length)
    times = explanation.start + np.arange(len(low)) * length / explanation.sampling_rate
    axes.fill_between(times, low, high, color=GRAY, linewidth=0.6)
    axes.set_title("waveform")


def _draw_spectrogram(axes, explanation: Explanation, end: float) -> None:
    from matplotlib.mlab import specgram

    rate = explanation.sampling_rate
    hop = max(1, rate // 125)
    # mlab warns about a single column.
    num_columns = max(2, math.ceil((end - explanation.start) * rate / hop))
    silence = round((end - explanation.end) * rate)
    padded = np.pad(explanation.waveform.astype(np.float64), (0, silence))
    # Each window has four hops and is centred on a column of one hop. The ends are mirrored: where a clip was cut out
    # of a recording, zeros would look like clicks.
    front = 3 * hop // 2
    padded = np.pad(padded, (front, (num_columns + 3) * hop - front - len(padded)), mode="symmetric")
    power, frequencies, _ = specgram(padded, NFFT=4 * hop, noverlap=3 * hop, Fs=rate)
    decibels = 10 * np.log10(np.maximum(power, 1e-30))
    loudest = max(decibels.max(), -120)  # silence is dark
    axes.imshow(
        decibels,
        extent=(explanation.start, explanation.start + num_columns * hop / rate, 0, frequencies[-1] / 1000),
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest - 80,
        vmax=loudest,
    )
    axes.set_title("spectrogram")
    axes.set_ylabel("frequency (kHz)")


def _draw_occlusion(axes, explanation: Explanation) -> None:
    centers = (explanation.occlusion_starts + explanation.occlusion_ends) / 2
    drops, seconds = explanation.score_drops, explanation.occlusion_ends[0] - explanation.occlusion_starts[0]
    axes.axhline(0, color=GRAY, linewidth=0.6)
    axes.fill_between(centers, drops, 0, where=drops >= 0, interpolate=True, color=BLUE, alpha=0.35, linewidth=0)
    axes.fill_between(centers, drops, 0, where=drops <= 0, interpolate=True, color=VERMILION, alpha=0.35, linewidth=0)
    axes.plot(centers, drops, color="black", linewidth=1, marker="o", markersize=2.5)
    title = f"occlusion: drop of the score of {explanation.label} if {seconds:.2g} s are silenced"
    axes.set_title(title, parse_math=False)
    axes.set_ylabel("score drop")


def _draw_pooling(axes, explanation: Explanation) -> None:
    weights, edges = explanation.pooling_weights, explanation.pooling_edges
    axes.stairs(weights * len(weights), edges, fill=True, color=BLUE, alpha=0.6)
    axes.axhline(1, color=GRAY, linewidth=0.6)
    axes.set_ylim(0)
    title = "pooling: weight of each frame; 1 is the mean"
    if edges[-1] > explanation.end:
        share = weights[edges[:-1] >= explanation.end].sum()
        title += f"; {100 * share:.0f} % of the weight is on the silence after the recording"
    axes.set_title(title)
    axes.set_ylabel("weight")


def _draw_attention(axes, explanation: Explanation, block: int, end: float) -> None:
    attention, edges = explanation.attentions[block], explanation.attention_edges[block]
    visible = edges[:-1] < end
    axes.imshow(
        attention,
        extent=(edges[0], edges[-1], edges[-1], edges[0]),
        aspect="auto",
        cmap="viridis",
        vmin=0,
        # The few frames with the most attention would make all others dark.
        vmax=np.percentile(attention[visible][:, visible], 99),
    )
    axes.set_ylim(end, edges[0])
    axes.set_title(f"attention, block {block + 1}: from each frame (vertical) to each frame (horizontal)")
    axes.set_ylabel("time (s)")
