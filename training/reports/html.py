# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What HTML reports share: page, style, plots and audio."""

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

# Stand-ins for variables of the page's style sheet, which change between light and dark.
COLORS = {name: f"#0{i}0{i}0{i}" for i, name in enumerate(LIGHT, 1)}
STYLE = {
    **style(COLORS),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}
# What the file would say of itself holds addresses and the time.
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
    """A page from a template of this package; values are escaped unless they are `Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["duration"] = format_duration
    environment.filters["rgb"] = lambda color: " ".join(str(value) for value in bytes.fromhex(color[1:]))
    environment.globals.update(light=LIGHT, dark=DARK)
    return environment.get_template(template).render(**values)


@matplotlib.rc_context(STYLE)
def plot_durations(durations: Mapping[str, np.ndarray]) -> Plot:
    """Histogram of the clips' durations in seconds, split by split on top of each other."""
    everything = np.concatenate(list(durations.values()))
    shortest, median, usual, longest = np.percentile(everything, [0, 50, 99, 100])
    caption = f"From {format_duration(shortest)} to {format_duration(longest)}, median {format_duration(median)}."
    # A few very long recordings would press all others into one bar.
    limit = longest
    if longest > 2 * usual:
        limit = usual
        caption += f" The last bar holds all clips from {format_duration(limit)}."
    axes = make_axes("duration (s)", "clips")
    axes.hist(
        [np.minimum(seconds, limit) for seconds in durations.values()],
        bins=30,
        range=(0, limit),
        rwidth=0.9,
        stacked=True,
        label=list(durations),
    )
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return make_plot("Durations of the clips", axes, caption)


def encode_audio(waveform: np.ndarray, sampling_rate: int) -> str:
    """Data URI of a waveform of shape (samples,) as 16-bit WAV; the middle of one that is longer than 10 s."""
    length = MAX_AUDIO_SECONDS * sampling_rate
    start = max(0, (len(waveform) - length) // 2)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[start : start + length], sampling_rate, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_axes(xlabel: str, ylabel: str) -> Axes:
    """Axes of a new figure for [`make_plot`]."""
    axes = Figure(figsize=(4.4, 2.7), layout="constrained").subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return axes


def make_plot(title: str, axes: Axes, caption: str) -> Plot:
    """The figure as SVG to stand in HTML: as wide as its place, in the page's colours, with a legend above."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        axes.figure.legend(loc="outside upper left", ncols=len(labels), handlelength=1.2)
    buffer = io.StringIO()
    axes.figure.savefig(buffer, **SVG_OPTIONS)
    return Plot(title, embed_svg(buffer.getvalue(), title), caption)


def embed_svg(svg: str, title: str) -> Markup:
    """SVG of matplotlib, drawn with [`STYLE`], as a part of a page in the page's colours."""
    opening = rf'<svg role="img" aria-label="{title}" \1>'
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', opening, svg[svg.index("<svg") :])
    # Names of parts are the same in each plot; those that are referred to are hashes, without "_".
    svg = re.sub(r' id="[^"]*_\d+"', "", svg)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return Markup(svg)
