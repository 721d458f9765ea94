# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Draw the network, with the shapes that a model of the default configuration gives, as `docs/network.svg`:

    python docs/draw_network.py
"""

import itertools
import sys
from pathlib import Path

import matplotlib


matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from sanet_hf import SANetConfig, SANetForAudioClassification
from sanet_hf.modeling_sanet import SANetAttentionLayer


COLORS = {
    "input": "#e8e8e8",
    "residual": "#cfe2f3",
    "attention": "#fce5cd",
    "pooling": "#d9ead3",
    "classifier": "#ead1dc",
}
RESIDUAL_STEPS = [
    ("conv k, stride s", "residual"),
    ("BatchNorm, GELU", "residual"),
    ("conv k", "residual"),
    ("BatchNorm", "residual"),
    ("squeeze-excitation", "residual"),
    ("+ shortcut, GELU", "residual"),
]
ATTENTION_STEPS = [
    ("conv 4, stride 4", "attention"),
    ("BatchNorm, GELU\n1×1, + positions", "attention"),
    ("self-attention\n8 heads", "attention"),
    ("+ input\nLayerNorm", "attention"),
    ("transposed conv 4\nBatchNorm, GELU\n1×1", "attention"),
    ("+ shortcut", "attention"),
]


def network_blocks(config: SANetConfig) -> list[tuple[str, str, str]]:
    """Title, kind and output shape of every block, in data-flow order, as a model of this configuration gives them."""
    model = SANetForAudioClassification(config).eval()
    num_samples = config.max_input_samples
    with torch.no_grad():
        output = model(torch.zeros(1, num_samples), output_hidden_states=True)
        pooled = model.sanet(torch.zeros(1, num_samples)).pooler_output
    blocks = [("waveform", "input", f"{num_samples} samples")]
    num_stages = num_attentions = 0
    for layer, hidden_state in zip(model.sanet.layers, output.hidden_states):
        frames, channels = hidden_state.shape[1:]
        if isinstance(layer, SANetAttentionLayer):
            num_attentions += 1
            title, kind = f"attention {num_attentions}\nwidth {layer.in_proj.out_features}", "attention"
        else:
            num_stages += 1
            title = f"stage {num_stages}\nk {layer.conv1.kernel_size[0]}, s {layer.stride}"
            kind = "residual"
        blocks.append((title, kind, f"{channels} × {frames}"))
    blocks.append(("attentive\npooling", "pooling", f"{pooled.shape[1]}"))
    blocks.append(("classifier", "classifier", f"{output.logits.shape[1]} logits"))
    return blocks


def draw_network(config: SANetConfig) -> plt.Figure:
    """The blocks in a row, and below what a residual and an attention block are made of."""
    blocks = network_blocks(config)
    num_parameters = SANetForAudioClassification(config).num_parameters()
    figure, axes = plt.subplots(figsize=(13, 5.4))
    axes.set_xlim(0, 13)
    axes.set_ylim(0, 5.4)
    axes.axis("off")
    axes.text(0.1, 5.2, f"SANet: {num_parameters:,} parameters", fontsize=13, weight="bold", va="top")
    _draw_row(axes, [(title, kind) for title, kind, _ in blocks], y=3.7, height=0.8, width=0.98)
    pitch = 13 / len(blocks)
    for index, (_, _, shape) in enumerate(blocks):
        axes.text((index + 0.5) * pitch, 3.5, shape, ha="center", va="top", fontsize=9, color="#444444")
    for y, title, steps, shortcut in (
        (2.1, "residual block", RESIDUAL_STEPS, "identity, or 1×1 conv with stride s and BatchNorm"),
        (0.5, "attention block", ATTENTION_STEPS, "identity"),
    ):
        axes.text(0.1, y + 0.8, title, fontsize=11, weight="bold", va="bottom")
        _draw_row(axes, steps, y=y, height=0.7, width=1.85, shortcut=shortcut)
    return figure


def _draw_row(
    axes: Axes, steps: list[tuple[str, str]], y: float, height: float, width: float, shortcut: str | None = None
) -> None:
    pitch = 13 / len(steps)
    arrow = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 0, "shrinkB": 0}
    centers = [(index + 0.5) * pitch for index in range(len(steps))]
    for x, (text, kind) in zip(centers, steps):
        box = FancyBboxPatch(
            (x - width / 2, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=COLORS[kind], ec="#555555"
        )
        axes.add_patch(box)
        axes.text(x, y + height / 2, text, ha="center", va="center", fontsize=9)
    for left, right in itertools.pairwise(centers):
        axes.annotate("", (right - width / 2, y + height / 2), (left + width / 2, y + height / 2), arrowprops=arrow)
    if shortcut is not None:
        first, last, middle, low = centers[0] - width / 2, centers[-1], y + height / 2, y - 0.2
        axes.plot([first, 0.05, 0.05, last], [middle, middle, low, low], color="#555555", lw=1.2)
        axes.annotate("", (last, y), (last, low), arrowprops=arrow)
        axes.text(6.5, low - 0.03, shortcut, ha="center", va="top", fontsize=8, color="#444444")


def main() -> None:
    # Text stays text and nothing depends on the day, so that the file changes only with the network.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sanet", "font.family": "sans-serif"})
    path = Path(__file__).with_name("network.svg")
    draw_network(SANetConfig(num_labels=10)).savefig(path, bbox_inches="tight", metadata={"Date": None})
    print(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
