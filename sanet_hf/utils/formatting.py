# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Durations, times and tables as text."""


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
