# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts that all HTML reports use: page, style, plots and audio."""

import base64
import io
import re
from collections.abc import Mapping
from typing import NamedTuple

import jinja2
import matplotlib
import numpy as np
import soundfile
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sanet_hf.utils.formatting import format_duration
from sanet_hf.utils.plot_style import DARK, LIGHT, style


MAX_AUDIO_SECONDS = 10

# Placeholders for the CSS variables of the page, whose values differ between light and dark.
COLORS = {name: f"#0{i}0{i}0{i}" for i, name in enumerate(LIGHT, 1)}
STYLE = {
    **style(COLORS),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}
# Without metadata, which contain URLs and the time, equal plots are equal files.
SVG_OPTIONS = {
    "format": "svg",
    "transparent": True,
    "metadata": dict.fromkeys(("Creator", "Date", "Format", "Type")),
}


class Plot(NamedTuple):
    title: str
    svg: Markup
    caption: str


def render_page(template: str, **values) -> str:
    """Return a page from a template of this package. Values are escaped unless they are `Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(duration=format_duration, shorten_middle=shorten_middle)
    environment.filters["rgb"] = lambda color: " ".join(str(value) for value in bytes.fromhex(color[1:]))
    environment.globals.update(light=LIGHT, dark=DARK)
    return environment.get_template(template).render(**values)


@matplotlib.rc_context(STYLE)
def plot_durations(durations: Mapping[str, np.ndarray]) -> Plot:
    """Return a histogram of the durations of the clips in seconds, with the splits stacked."""
    everything = np.concatenate(list(durations.values()))
    shortest, median, percentile_99, longest = np.percentile(everything, [0, 50, 99, 100])
    caption = f"From {format_duration(shortest)} to {format_duration(longest)}, median {format_duration(median)}."
    if format_duration(shortest) == format_duration(longest):
        caption = f"All clips: {format_duration(median)}."
    # Otherwise a few very long recordings would compress all others into one bar.
    limit = longest
    if longest > 2 * percentile_99:
        limit = percentile_99
        caption += f" The last bar contains all clips from {format_duration(limit)} on."
    axes = make_axes("duration (s)", "clips")
    axes.hist(
        [np.minimum(seconds, limit) for seconds in durations.values()],
        bins=30,
        range=(0, limit),
        rwidth=0.9,
        stacked=True,
        label=list(durations),
        color=[split_color(split) for split in durations],
    )
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return make_plot("Durations of the clips", axes, caption)


def split_color(split: str) -> str:
    """Return the colour of a split, the same in all plots."""
    return COLORS[{"validation": "second", "test": "third"}.get(split, "first")]


def shorten_middle(text: str, limit: int = 20) -> str:
    """Return the beginning and the end of a long text, since long class names often differ at the end only."""
    if len(text) <= limit:
        return text
    start = limit // 2
    return f"{text[:start].rstrip()}…{text[start + 1 - limit :].lstrip()}"


def encode_audio(waveform: np.ndarray, sampling_rate: int) -> str:
    """Return the data URI of a waveform of shape (samples,) as 16-bit WAV, at most its middle 10 s."""
    length = MAX_AUDIO_SECONDS * sampling_rate
    start = max(0, (len(waveform) - length) // 2)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[start : start + length], sampling_rate, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_axes(xlabel: str, ylabel: str) -> Axes:
    """Return the axes of a new figure for [`make_plot`]."""
    axes = Figure(figsize=(4.4, 2.7), layout="constrained").subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return axes


def make_plot(title: str, axes: Axes, caption: str) -> Plot:
    """Return the figure as SVG for an HTML page, in the page's colours, with a legend if there are several series."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        axes.figure.legend(loc="outside upper left", ncols=len(labels), handlelength=1.2)
    buffer = io.StringIO()
    axes.figure.savefig(buffer, **SVG_OPTIONS)
    return Plot(title, embed_svg(buffer.getvalue(), title), caption)


def embed_svg(svg: str, title: str) -> Markup:
    """Return an SVG of matplotlib, drawn with [`STYLE`], as part of a page in the page's colours."""
    opening = rf'<svg role="img" aria-label="{title}" \1>'
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', opening, svg[svg.index("<svg") :])
    # Ids of parts repeat in each plot, and ids must be unique. Ids that are referenced are hashes, without "_".
    svg = re.sub(r' id="[^"]*_\d+"', "", svg)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return Markup(svg)
