# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The words, the table and the plot of a comparison."""

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path as Line
from matplotlib.text import Annotation, Text
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from sanet_hf.training.evaluation.metric_names import METRICS
from sanet_hf.training.reports.html import COLORS, SVG_OPTIONS, embed_svg, render_page
from sanet_hf.utils.files import atomic_directory
from sanet_hf.utils.formatting import (
    escape_markdown,
    format_duration,
    format_markdown_table,
    format_p,
    format_with_interval,
)
from sanet_hf.utils.plot_style import LIGHT, style


# Marker areas in square points: of the model with the most parameters, and the smallest visible one.
MARKER_AREA, MIN_MARKER_AREA = 900, 20
# Candidate positions of texts: distances in points from the edge of their marker, and directions.
DISTANCES = (5, 20, 40, 65, 95, 130)
DIRECTIONS = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))
UNKNOWN = "–"
# Times per clip whose ratio is below this count as about the same.
SAME_TIME = 1.1


def write_comparison(result: Mapping[str, Any], output_dir: str | Path) -> None:
    """Write the result of [`compare.compare`] as `comparison.json`, `.md`, `.html` and `.png`."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_directory(output_dir) as folder:
        (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        (folder / "comparison.md").write_text(to_markdown(result), encoding="utf-8")
        (folder / "comparison.html").write_text(to_html(result), encoding="utf-8")
        plot(result, LIGHT, folder / "comparison.png", dpi=200)


def describe(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return two lists of sentences: `summary` interprets the numbers, `notes` describes the measurements."""
    first, *others = result["candidates"]
    if others:
        summary = [describe_difference(result["metric"], first, other) for other in others] + [recommend(result)]
    else:
        summary = [
            f"{first['name']} has {'an accuracy' if result['metric'] == 'accuracy' else 'a mAP'} of "
            f"{format_with_interval(first['metrics'][result['metric']])} and takes "
            f"{_number(1e3 * first['latency_median'])} ms per clip."
        ]
    return {"summary": summary, "notes": _notes(result)}


def describe_difference(metric: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return a sentence that compares the other model with the first in accuracy (or mAP) and in time."""
    difference = other["difference"]
    low, points, high = (100 * difference[name] for name in ("low", "value", "high"))
    is_less = points < 0
    if is_less:
        low, points, high = -high, -points, -low
    is_same = f"{points:.1f}" == "0.0"
    if is_same:
        claim = f"{other['name']} has the same {metric} as {first['name']} within 0.1 points"
    elif metric == "accuracy":
        claim = f"{other['name']} is {points:.1f} points {'less' if is_less else 'more'} accurate than {first['name']}"
    else:
        claim = (
            f"{other['name']} has a mAP {points:.1f} points {'below' if is_less else 'above'} that of {first['name']}"
        )
    if not is_same and not difference["is_significant"]:
        claim += ", which could be chance"
    test = f"; {format_p(difference['p'], 'p')}" if metric == "accuracy" else ""
    ratio = other["latency_median"] / first["latency_median"]
    if ratio > SAME_TIME:
        time = f"takes {_ratio(ratio)} times as long per clip"
    elif ratio < 1 / SAME_TIME:
        time = f"is {_ratio(1 / ratio)} times as fast per clip"
    else:
        time = "takes about the same time per clip"
    return f"{claim} (95 % interval {_signed(low, '')} to {_signed(high, '')}{test}), and {time}."


def recommend(result: Mapping[str, Any]) -> str:
    """
    Return which model to use: the fastest of those that are not significantly worse than the best one. Of models with
    about the same time, this is the most accurate. Models that are not better than their baseline are avoided.
    """
    rows = result["candidates"]
    better, worse, top = "better", "worse", "best"
    if result["metric"] == "accuracy":
        better, worse, top = "more accurate", "less accurate", "most accurate"
    as_good = [row for row in rows if not row["behind_best"]["is_significant"]]
    useful = [row for row in as_good if _gain(row) > 0] or as_good
    best = max(rows, key=lambda row: _score(row, result))
    fastest, choice = (_choose_fastest(group, result) for group in (rows, useful))
    name, is_fastest = choice["name"], _is_as_fast(choice, rows)
    gain = _gain(choice)
    if gain < 0:
        return f"Use none of these models: {name} is {worse} than its log-mel baseline. Train on more recordings."
    warning = "" if gain > 0 else f" {name} is not {better} than its log-mel baseline."
    within = "" if choice is min(useful if not is_fastest else rows, key=_time) else " (within 10 %)"
    is_top = all(row is choice or _score(row, result) < _score(choice, result) for row in rows)
    if is_fastest and is_top:
        return f"Use {name}: it is the {top} and the fastest{within}.{warning}"
    if len(as_good) == 1:
        if _gain(fastest) > 0:
            return f"Use {name} if accuracy matters most, {fastest['name']} if speed does.{warning}"
        return f"Use {name}: it is the {top}. {fastest['name']} is faster, but not {better} than its log-mel baseline."
    if is_fastest:
        advice = f"Use {name}: it is the fastest{within}, and no other model is significantly {better}."
    else:
        than_baseline = "" if len(useful) == len(as_good) else f" and {better} than their log-mel baselines"
        but = worse if _score(fastest, result) < _score(choice, result) else f"not {better} than its log-mel baseline"
        advice = (
            f"Use {name}: it is the fastest{within} of the models that are not significantly {worse} than the best"
            f"{than_baseline}. {fastest['name']} is faster, but {but}."
        )
    advice += warning
    possible = 100 * choice["behind_best"]["high"]
    if choice is best or possible < 0.05:
        return advice
    return f"{advice} {best['name']} could still be up to {possible:.1f} points {better}."


def _time(row: Mapping[str, Any]) -> float:
    return row["latency_median"]


def _score(row: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    return row["metrics"][result["metric"]]["value"]


def _gain(row: Mapping[str, Any]) -> float:
    """Return the accuracy (or mAP) of a model minus that of its baseline; infinity without a baseline."""
    return row["baseline"]["difference"]["value"] if row.get("baseline") else math.inf


def _is_as_fast(row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    return _time(row) <= SAME_TIME * min(map(_time, others))


def _choose_fastest(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the most accurate of the models that take about as little time as the fastest."""
    fast = [row for row in rows if _is_as_fast(row, rows)]
    return max(fast, key=lambda row: (_score(row, result), -_time(row)))


def make_table(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table: a title, and a cell for each candidate."""
    rows = result["candidates"]
    first, differences = rows[0]["name"], [row["difference"] for row in rows[1:]]
    table = [
        (f"{METRICS[metric][0]} (95 % interval)", [format_with_interval(row["metrics"][metric]) for row in rows])
        for metric in rows[0]["metrics"]
    ]
    if differences:
        table += [
            (
                f"{METRICS[result['metric']][0]} minus that of {first}, points",
                ["", *map(_gap, differences)],
            ),
            (
                f"Clips that are correct only with {first} / only with this",
                ["", *(f"{d['b']} / {d['c']}" for d in differences)],
            ),
            ("p, McNemar's exact test", ["", *(format_p(d["p"]) for d in differences)]),
        ]
    if any(row.get("baseline") for row in rows):
        baselines = [row.get("baseline") for row in rows]
        title = METRICS[result["metric"]][0]
        table += [
            (
                f"Log-mel baseline: {title} (95 % interval)",
                [format_with_interval(own) if own else UNKNOWN for own in baselines],
            ),
            (
                f"{title} minus that of the baseline, points",
                [_gap(own["difference"]) if own else UNKNOWN for own in baselines],
            ),
        ]
    training_times = [row["training_seconds"] for row in rows]
    table += [
        ("Parameters", [_with_unit(row["parameters"]) for row in rows]),
        ("Operations per clip", [_with_unit(row["flops"], "FLOP") for row in rows]),
        (
            "Time per clip, median / 95th percentile",
            [f"{_number(1e3 * row['latency_median'])} / {_number(1e3 * row['latency_p95'])} ms" for row in rows],
        ),
        (
            "Time per clip, without feature extraction",
            [f"{_number(1e3 * row['model_latency_median'])} ms" for row in rows],
        ),
        (f"Clips per second, batches of {result['batch_size']}", [_number(row["clips_per_second"]) for row in rows]),
        ("Peak memory", [_with_unit(row["memory_bytes"], "B") for row in rows]),
        ("Size on disk", [_with_unit(row["disk_bytes"], "B") for row in rows]),
        ("Training time", [UNKNOWN if seconds is None else format_duration(seconds) for seconds in training_times]),
        ("Input of the model per window", [" × ".join(f"{size:,}" for size in row["input_shape"]) for row in rows]),
        ("Number format", [row["dtype"] for row in rows]),
    ]
    return table


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown: table, summary, link to the plot, and notes."""
    names = [row["name"] for row in result["candidates"]]
    rows = [[title, *cells] for title, cells in make_table(result)]
    table = format_markdown_table(["", *names], rows, [":--", *("--:" for _ in names)])
    summary = escape_markdown(" ".join(result["summary"]))
    notes = [f"- {escape_markdown(note)}" for note in result["notes"]]
    image = f"![{METRICS[result['metric']][0]} and time per clip](comparison.png)"
    return "\n".join([table, "", summary, "", image, "", "How it was measured:", "", *notes, ""])


def to_html(result: Mapping[str, Any]) -> str:
    """Return the comparison as an HTML page that needs no other file and no network."""
    buffer = io.StringIO()
    plot(result, COLORS, buffer, **SVG_OPTIONS)
    metric = METRICS[result["metric"]][0]
    return render_page(
        "comparison.html",
        result=result,
        table=make_table(result),
        metric=metric,
        svg=embed_svg(buffer.getvalue(), f"{metric} and time per clip"),
    )


def plot(result: Mapping[str, Any], colors: Mapping[str, str], file, **options) -> None:
    """
    Draw accuracy (or mAP) with its interval over the time per clip. The area of a point shows the parameters.

    Args:
        result: Result of [`compare.compare`].
        colors: Colours for [`style`].
        file, options: Arguments of `Figure.savefig`.
    """
    rows, metric = result["candidates"], result["metric"]
    times = [1e3 * row["latency_median"] for row in rows]
    lows, values, highs = ([row["metrics"][metric][name] for row in rows] for name in ("low", "value", "high"))
    largest = max(row["parameters"] for row in rows)
    areas = [max(MIN_MARKER_AREA, MARKER_AREA * row["parameters"] / largest) for row in rows]
    # Space for the texts beside the outermost points.
    factor = max(2.2, (max(times) / min(times)) ** (1 / 3))
    margin = max(0.01, 0.15 * (max(highs) - min(lows)))
    bottom, top = min(lows) - margin, max(highs) + margin
    ticks = [tick for tick in MaxNLocator("auto", steps=[1, 2, 5, 10]).tick_values(bottom, top) if 0 <= tick <= 1]
    with matplotlib.rc_context({**style(colors), "font.size": 11}):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        axes = figure.subplots()
        axes.set(xscale="log", xlim=(min(times) / factor, factor * max(times)), yticks=ticks, ylim=(bottom, top))
        axes.set_xlabel("time per clip, from waveform to scores (ms, log)")
        axes.set_ylabel(f"{metric if metric == 'mAP' else 'accuracy'} on {result['num_clips']} clips")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid()
        axes.tick_params(which="both", length=0)
        axes.vlines(times, lows, highs, color=colors["first"], linewidth=1.5)
        axes.scatter(times, values, areas, color=colors["first"], linewidth=0, alpha=0.75)
        texts = [
            axes.annotate(
                f"{row['name']}\n{_with_unit(row['parameters'])} parameters",
                (time, value),
                xytext=(0, 0),
                textcoords="offset points",
                parse_math=False,
                arrowprops={"arrowstyle": "-", "color": colors["muted"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
            )
            for row, time, value in zip(rows, times, values)
        ]
        intervals = list(zip(times, lows, highs))
        _place(axes, texts, intervals, [area**0.5 / 2 for area in areas])
        figure.savefig(file, **options)


def _place(
    axes: Axes, texts: Sequence[Annotation], intervals: Sequence[tuple[float, float, float]], radii: Sequence[float]
) -> None:
    """Move each text to the nearest position that overlaps no point, no interval and no other text."""
    axes.figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken, lines = [], []
    for text, (x, low, high), radius in zip(texts, intervals, radii):
        (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
        taken.append(Bbox.from_extents(left - 2, bottom, left + 2, top))
        center, size = axes.transData.transform(text.xy), radius * axes.figure.dpi / 72
        taken.append(Bbox([center - size, center + size]))
    for text, radius in zip(texts, radii):
        center = axes.transData.transform(text.xy)
        best = None
        for distance, (dx, dy) in itertools.product(DISTANCES, DIRECTIONS):
            place = dx * (radius + distance), dy * (radius + distance)
            _move(text, *place, has_line=distance > DISTANCES[0])
            box = Text.get_window_extent(text).padded(2)
            line = Line([center, np.clip(center, box.min, box.max)])
            cost = box.count_overlaps(taken) + sum(other.intersects_bbox(box, filled=False) for other in lines)
            cost += sum(line.intersects_bbox(other, filled=False) for other in taken[2 * len(texts) :])
            cost += 10 * (not frame.contains(*box.min) or not frame.contains(*box.max))
            if best is None or cost < best[0]:
                best = cost, box, line, place, distance > DISTANCES[0]
            if cost == 0:
                break
        _, box, line, place, has_line = best
        _move(text, *place, has_line)
        taken.append(box)
        lines.append(line)


def _move(text: Annotation, x: float, y: float, has_line: bool) -> None:
    """Place a text at an offset from its point, in points."""
    text.set_position((x, y))
    text.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    text.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
    text.set_multialignment("right" if x < 0 else "left")
    text.arrow_patch.set_visible(has_line)


def _notes(result: Mapping[str, Any]) -> list[str]:
    rows, machine, num_clips = result["candidates"], result["machine"], result["num_clips"]
    wilson = "Wilson's interval for the accuracy. For other metrics and for differences, p"
    notes = [
        f"95 % intervals: {wilson if result['metric'] == 'accuracy' else 'p'}ercentiles over "
        f"{result['num_resamples']:,} bootstrap resamples of the {num_clips} clips of the {result['split']} split, "
        "the same for all models. They show the influence of the choice of clips, if the clips are independent of "
        "each other. They do not show the influence of the training seed."
    ]
    if any(metric["low"] == metric["high"] for row in rows for metric in row["metrics"].values()):
        notes.append(f"({UNKNOWN}): all resamples are equal, so the bootstrap gives no interval.")
    if len(rows) > 1:
        notes.append(
            f"p: McNemar's exact test against {rows[0]['name']} on the clips that only one of the two models "
            f"classifies correctly{', not corrected for the number of tests' if len(rows) > 2 else ''}. A difference "
            "that could be chance can still be real. More clips would show it."
        )
    if any(row.get("baseline") for row in rows):
        notes.append(
            "Log-mel baseline: logistic regression on log-mel statistics, fitted to the same recordings as the "
            "network of the run. Do not use a model that is worse. A model that is equal gains nothing."
        )
    memory = "a new process that loads the model and classifies one batch, including Python and PyTorch"
    if machine["is_gpu"]:
        memory = "the weights and the allocations of one batch on the GPU"
    notes += [
        f"Time: from waveform to scores, including feature extraction, on {result['clip_seconds']:g} s of noise. A "
        "model with a shorter maximum length classifies several windows, like in prediction. The "
        f"models are interleaved in one process: {result['num_rounds']} rounds after one warm-up round, each with "
        f"batches of {result['batch_size']} clips and with single clips.",
        "Operations per clip: matrix products, convolutions and attention of the model. A multiply-add counts as two. "
        "Feature extraction is not counted.",
        f"Peak memory: {memory}. Size on disk: the files that from_pretrained needs, without checkpoints.",
        f"Machine: {machine['device']}, CPU threads: {machine['threads']}, Python {machine['python']}, "
        f"PyTorch {machine['torch']}, transformers {machine['transformers']}.",
    ]
    for row in rows:
        for name, reason in row["not_measured"].items():
            notes.append(f"{UNKNOWN}: {row['name']}, {name.replace('_', ' ')}: {reason}.")
    return notes


def _gap(difference: Mapping[str, float]) -> str:
    value, low, high = (_signed(100 * difference[name], "+") for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _signed(value: float, plus: str) -> str:
    sign = "" if f"{abs(value):.1f}" == "0.0" else "−" if value < 0 else plus
    return f"{sign}{abs(value):.1f}"


def _number(value: float) -> str:
    """Return a number with two or three digits: `0.12`, `1.2`, `12.3`, `1,234`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def _with_unit(value: float | None, unit: str = "") -> str:
    return UNKNOWN if value is None else EngFormatter(unit, places=1)(value).strip()
