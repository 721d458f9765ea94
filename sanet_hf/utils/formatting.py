# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Durations, times, tables and lists of names as text."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence


MAX_LISTED = 20  # names that a message lists


def shorten(names: Collection[str], limit: int = MAX_LISTED, separator: str = ", ") -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(list(names)[:limit]) + more


def shorten_lines(lines: Collection[str], limit: int = MAX_LISTED, indent: int = 2) -> str:
    """The first lines, each after a line break and indented, and how many more there are."""
    shown = list(lines)[:limit]
    if len(lines) > limit:
        shown.append(f"and {len(lines) - limit} more")
    return "".join(f"\n{' ' * indent}{line}" for line in shown)


def format_markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], alignments: Sequence[str] | None = None
) -> str:
    """
    A Markdown table: floats with three digits, a dash for `None`.

    Args:
        header: Titles of the columns.
        rows: Cells of each row.
        alignments: `:--` or `--:` for each column; by default text is on the left, and numbers are on the right.
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
    """Text on one line that Markdown shows as it is, also in a table."""
    return re.sub(r"[\\`*\[\]>|~$&#]|<(?=\S)|\b_|_\b", r"\\\g<0>", " ".join(text.split()))


def format_time(seconds: float) -> str:
    """Seconds as `1:02:03`, `2:03` or, of fractions, `2:03.5`."""
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    rest = f"{rest:06.3f}".removesuffix(".000").rstrip("0" if rest % 1 else "")
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def format_table(title: str, splits: list[str], table: list[tuple[str, list[tuple[int, float]]]]) -> list[str]:
    """Lines with a row for each class: count and duration in each split, and the sums."""
    width = max(len(title), *(len(label) for label, _ in table)) + 2
    totals = [tuple(map(sum, zip(*cells))) for cells in zip(*(cells for _, cells in table))]
    rows = [*table, ("all", totals)] if len(table) > 1 else table
    lines = [f"{title:{width}}" + "".join(f"{split:>20}" for split in splits)]
    for label, cells in rows:
        lines.append(f"{label:{width}}" + "".join(f"{count:8} {format_duration(s):>11}" for count, s in cells))
    return lines


def format_duration(seconds: float) -> str:
    """For instance `4.0 s`, `12.5 min` or `131 h`."""
    size, unit = next(((size, unit) for size, unit in ((3600, "h"), (60, "min")) if seconds >= size), (1, "s"))
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def format_interval(values: Mapping[str, float], name: str = "accuracy") -> str:
    """Return the interval of a metric as text, such as `0.612–0.804`; a dash where earlier versions kept none."""
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def format_p(p: float, name: str = "") -> str:
    """Write a probability as `0.02`, or with a name as `p = 0.02`."""
    if p < 0.001:
        return f"{name} < 0.001".strip()
    return f"{name} = {p:.2g}" if name else f"{p:.2g}"
