# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Durations, times, tables and lists of names as text."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence


MAX_LISTED = 20  # names that a message lists


def format_count(number: float, noun: str) -> str:
    """Return a number with a noun in singular or plural: `1 class`, `1,200 clips`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    text = f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
    return f"{text} {noun if text == '1' else plural}"


def shorten(names: Collection[str], limit: int = MAX_LISTED, separator: str = ", ") -> str:
    """Return the first names and the number of others: `a, b and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(list(names)[:limit]) + more


def shorten_lines(lines: Collection[str], limit: int = MAX_LISTED, indent: int = 2) -> str:
    """Return the first lines, each indented after a line break, and the number of others."""
    shown = list(lines)[:limit]
    if len(lines) > limit:
        shown.append(f"and {len(lines) - limit} more")
    return "".join(f"\n{' ' * indent}{line}" for line in shown)


def format_markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], alignments: Sequence[str] | None = None
) -> str:
    """
    Return a Markdown table. Floats have three decimals, `None` is a dash.

    Args:
        header: Titles of the columns.
        rows: Cells of each row.
        alignments: `:--` or `--:` for each column (default: text left, numbers right).
    """
    rows = list(rows)
    if alignments is None:
        alignments = [":--" if any(isinstance(value, str) for value in column) else "--:" for column in zip(*rows)]

    def cell(value: object) -> str:
        text = f"{value:.3f}" if isinstance(value, float) else "–" if value is None else str(value)
        return escape_markdown(text)

    lines = [map(cell, header), alignments, *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Return text on one line that Markdown shows unchanged, also in a table."""
    return re.sub(r"[\\`*\[\]>|~$&#]|<(?=\S)|\b_|_\b", r"\\\g<0>", " ".join(text.split()))


def format_time(seconds: float) -> str:
    """Return seconds as `1:02:03`, `2:03` or, with fractions, `2:03.5`."""
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    rest = f"{rest:06.3f}".removesuffix(".000").rstrip("0" if rest % 1 else "")
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def format_table(title: str, splits: list[str], table: list[tuple[str, list[tuple[int, float]]]]) -> list[str]:
    """Return the lines of a table with one row per class: count and duration in each split, and totals."""
    width = max(len(title), *(len(label) for label, _ in table)) + 2
    totals = [tuple(map(sum, zip(*cells))) for cells in zip(*(cells for _, cells in table))]
    rows = [*table, ("all", totals)] if len(table) > 1 else table
    lines = [f"{title:{width}}" + "".join(f"{split:>20}" for split in splits)]
    for label, cells in rows:
        lines.append(f"{label:{width}}" + "".join(f"{count:8} {format_duration(s):>11}" for count, s in cells))
    return lines


def format_duration(seconds: float) -> str:
    """Return a duration as text, such as `4.0 s`, `12.5 min` or `131 h`."""
    size, unit = next(((size, unit) for size, unit in ((3600, "h"), (60, "min")) if seconds >= size), (1, "s"))
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def format_interval(values: Mapping[str, float], name: str = "accuracy") -> str:
    """Return the interval of a metric as text, such as `0.612–0.804`, or a dash if there is none (older versions)."""
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def format_with_interval(metric: Mapping[str, float]) -> str:
    """
    Return `value`, `low` and `high` as text, such as `0.925 (0.846–0.965)`, or `1.000 (–)` if the bounds are equal:
    the bootstrap gives no interval if all resamples are equal, for instance if all clips are correct.
    """
    value, low, high = (f"{metric[name]:.3f}" for name in ("value", "low", "high"))
    return f"{value} (–)" if metric["low"] == metric["high"] else f"{value} ({low}–{high})"


def format_p(p: float, name: str = "") -> str:
    """Return a probability as `0.02`, or with a name as `p = 0.02`."""
    if p < 0.001:
        return f"{name} < 0.001".strip()
    return f"{name} = {p:.2g}" if name else f"{p:.2g}"
