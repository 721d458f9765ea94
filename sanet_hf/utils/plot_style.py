# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Colours and style of all plots and pages, and picture formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sanet_hf.errors import UsageError


PICTURES = (".png", ".jpg", ".svg", ".pdf")

# The colour-blind-safe palette of Okabe and Ito. Source: https://jfly.uni-koeln.de/color/
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN, PINK, SKY_BLUE, VERMILION, YELLOW = COLORS
GRAY, OTHER_COLOR = "#555555", "#999999"
# Colours by role for light and dark pages: background, panels, text, secondary text, lines, series.
LIGHT = {
    **{"page": "#ffffff", "panel": "#f6f7f9", "text": "#1b1f24", "muted": "#5c6570", "line": "#dfe3e8"},
    **{"first": BLUE, "second": VERMILION, "third": GREEN},
}
DARK = {
    **{"page": "#14171b", "panel": "#1c2026", "text": "#e4e7eb", "muted": "#9aa4b0", "line": "#303740"},
    **{"first": SKY_BLUE, "second": ORANGE, "third": GREEN},
}


def label_colors(labels: Sequence[str], ranked: Sequence[str]) -> dict[str, str]:
    """
    Return a colour for each label. If there are few, their order decides, so that a class has the same colour in all
    pictures of a model. Otherwise, the first of `ranked` have colours, and the others are grey.
    """
    first = labels if len(labels) <= len(COLORS) else ranked
    return dict.fromkeys(labels, OTHER_COLOR) | dict(zip(first, COLORS))


def style(colors: Mapping[str, str] = LIGHT) -> dict[str, object]:
    """
    Return parameters for `matplotlib.rc_context`.

    Args:
        colors: Hexadecimal colours for the roles in [`LIGHT`].
    """
    # Imported here, because most commands do not draw.
    from matplotlib import cycler

    return {
        "figure.dpi": 100,
        "savefig.dpi": 120,
        "svg.fonttype": "none",
        "svg.hashsalt": "sanet-hf",
        "font.size": 9,
        "text.color": colors["text"],
        "axes.edgecolor": colors["line"],
        "axes.labelcolor": colors["muted"],
        "axes.prop_cycle": cycler(color=[colors["first"], colors["second"], colors["third"]]),
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titlepad": 3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": colors["line"],
        "grid.linewidth": 0.6,
        "xtick.color": colors["muted"],
        "ytick.color": colors["muted"],
        "lines.linewidth": 1.6,
        "lines.markersize": 3.5,
        "legend.frameon": False,
    }


def check_picture(path: str | Path) -> None:
    """Raise a UsageError for a file name without the suffix of a picture."""
    if Path(path).suffix.lower() not in PICTURES:
        raise UsageError(f"{path}: a picture must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}.")
