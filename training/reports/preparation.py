# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The result of `sanet prepare`: an HTML page, and lines for the terminal."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas
import soundfile
from matplotlib.figure import Figure

from sanet_hf.training.data.log_mel import log_mel
from sanet_hf.training.evaluation.results import in_order
from sanet_hf.training.reports.html import MAX_AUDIO_SECONDS, STYLE, encode_audio, plot_durations, render_page
from sanet_hf.utils.formatting import format_table, shorten_lines


KIND_TITLES = {"clip": "Clips", "segment": "Speech segments"}
NUM_SPECTROGRAMS = 6
# Maximum number of skipped files in the page. The manifest lists all.
MAX_SKIPPED = 500


class Spectrogram(NamedTuple):
    """A spectrogram of a clip, and its audio, as data URIs."""

    label: str
    file: str
    picture: str
    audio: str


def to_html(
    manifest: pandas.DataFrame, output_dir: Path, title: str, facts: Mapping[str, str], sampling_rate: int
) -> str:
    """
    Return the report as HTML: clips by class and split, durations, spectrograms, skipped files with reasons.

    Args:
        manifest: Result of [`prepare.make_manifest`].
        output_dir: Folder of the clips.
        title: Heading of the page.
        facts: Names and values for the table at the top.
        sampling_rate: Sampling rate of the clips in Hz.
    """
    skipped = manifest[manifest["skipped"].notna()]
    parts = {kind: manifest[manifest["file"].notna() & (manifest["kind"] == kind)] for kind in KIND_TITLES}
    parts = {kind: rows for kind, rows in parts.items() if len(rows)}
    warned = manifest[manifest["warning"].notna()].drop_duplicates("source")
    return render_page(
        "preparation.html",
        title=title,
        facts=facts,
        sampling_rate=sampling_rate,
        parts=[_describe_part(kind, rows) for kind, rows in parts.items()],
        spectrograms=draw_spectrograms(parts.get("clip", manifest[:0]), output_dir),
        quality=list_quality(parts.get("clip", manifest[:0])),
        rates=list_rates(manifest),
        reasons=count_reasons(skipped),
        skipped=[
            (row.source, "" if pandas.isna(row.start) else f"{row.start:.2f} s", row.skipped)
            for row in skipped[:MAX_SKIPPED].itertuples()
        ],
        num_skipped=len(skipped),
        warnings=[(label, "no usable recording") for label in list_empty_classes(manifest)]
        + [(row.source, row.warning) for row in warned[:MAX_SKIPPED].itertuples()],
    )


def _describe_part(kind: str, rows: pandas.DataFrame) -> dict:
    splits = _by_split(rows)
    return {
        "kind": kind,
        "title": KIND_TITLES[kind],
        "splits": list(splits),
        "table": list_classes(rows),
        "totals": [(len(part), float(part["duration"].sum())) for part in splits.values()],
        "plot": plot_durations({split: to_array(part["duration"]) for split, part in splits.items()}),
    }


def to_array(column: pandas.Series) -> np.ndarray:
    """Return the numbers of a column as float64; missing ones are NaN."""
    return column.to_numpy(np.float64, na_value=np.nan)


def _by_split(rows: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    return in_order({str(split): part for split, part in rows.groupby("split")})


def list_classes(rows: pandas.DataFrame) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each class with the number and the total seconds of its clips in each split."""
    splits = in_order(_by_split(rows)).values()
    by_class = [
        {label: (len(part), float(part["duration"].sum())) for label, part in s.groupby("class")} for s in splits
    ]
    return [(label, [totals.get(label, (0, 0.0)) for totals in by_class]) for label in sorted(set(rows["class"]))]


def list_empty_classes(manifest: pandas.DataFrame) -> list[str]:
    """Return the classes without a clip."""
    used = set(manifest.loc[manifest["file"].notna(), "class"])
    return sorted(set(manifest["class"]) - used - {""})


def list_quality(rows: pandas.DataFrame) -> list[tuple[str, list[float | None]]]:
    """Return each class with its median RMS in dBFS, its median SNR in dB, and its mean share of clipped samples."""
    table = []
    for label, part in rows.groupby("class"):
        snr = to_array(part["snr"])
        rms = 20 * np.log10(np.maximum(to_array(part["rms"]), 1e-5))
        median_snr = float(np.nanmedian(snr)) if np.isfinite(snr).any() else None
        table.append((str(label), [float(np.median(rms)), median_snr, float(to_array(part["clipped"]).mean())]))
    return table


def list_rates(manifest: pandas.DataFrame) -> list[tuple[int, int, str, int]]:
    """Return sampling rates, channels and resampling methods with their number of recordings."""
    recordings = manifest[manifest["original_rate"].notna()].drop_duplicates("source")
    counts = recordings.groupby(["original_rate", "channels", "resampling"]).size()
    return [(*map(int, key[:2]), key[2], int(count)) for key, count in counts.items()]


def count_reasons(skipped: pandas.DataFrame) -> list[tuple[str, str, int]]:
    """Return kind, reason and count of the skipped items, the most frequent first."""
    counts = skipped.groupby(["kind", "skipped"]).size().sort_values(ascending=False, kind="stable")
    return [(*key, int(count)) for key, count in counts.items()]


def draw_spectrograms(clips: pandas.DataFrame, output_dir: Path) -> list[Spectrogram]:
    """Return log-mel spectrograms of the longest clip of each of the first classes."""
    drawn = []
    for label, rows in clips.groupby("class"):
        if len(drawn) == NUM_SPECTROGRAMS:
            break
        file = rows.sort_values(["duration", "file"], ascending=[False, True], kind="stable")["file"].iloc[0]
        with soundfile.SoundFile(output_dir / file) as clip:
            rate = clip.samplerate
            waveform = clip.read(MAX_AUDIO_SECONDS * rate, dtype="float32")
        drawn.append(Spectrogram(str(label), file, _draw(waveform, rate), encode_audio(waveform, rate)))
    return drawn


@matplotlib.rc_context(STYLE)
def _draw(waveform: np.ndarray, sampling_rate: int) -> str:
    decibels = log_mel(waveform, sampling_rate).T * (10 / np.log(10))
    figure = Figure(figsize=(4.4, 1.8), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(decibels, origin="lower", aspect="auto", cmap="magma", vmin=decibels.max() - 70)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def summarize(manifest: pandas.DataFrame) -> str:
    """Return the clips by class and split, and the skipped items, as lines for the terminal."""
    lines = []
    for kind, title in KIND_TITLES.items():
        rows = manifest[manifest["file"].notna() & (manifest["kind"] == kind)]
        if len(rows):
            lines += ["", *format_table(title, list(_by_split(rows)), list_classes(rows))]
    lines += [f"\nNo usable recording of {label}." for label in list_empty_classes(manifest)]
    reasons = count_reasons(manifest[manifest["skipped"].notna()])
    if reasons:
        skipped = [f"{count:6} {kind:10} {reason}" for kind, reason, count in reasons]
        lines += ["", f"Skipped:{shorten_lines(skipped)}"]
    warned = manifest[manifest["warning"].notna()].drop_duplicates("source")
    if len(warned):
        warnings = [f"{row.source}: {row.warning}" for row in warned.itertuples()]
        lines += ["", f"Recordings with warnings ({len(warned)}):{shorten_lines(warnings)}"]
    return "\n".join(lines)
