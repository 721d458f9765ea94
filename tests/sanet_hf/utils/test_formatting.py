# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Formatting of lists of names and of Markdown."""

import pytest

from sanet_hf.utils.formatting import escape_markdown, format_count, format_markdown_table, shorten, shorten_lines


@pytest.mark.parametrize(
    ("count", "line", "lines"),
    [
        (0, "", ""),
        (2, "0, 1", "\n   0\n   1"),
        (3, "0, 1 and 1 more", "\n   0\n   1\n   and 1 more"),
        (12, "0, 1 and 10 more", "\n   0\n   1\n   and 10 more"),
    ],
)
def test_lists_of_names(count, line, lines):
    names = dict.fromkeys(map(str, range(count)))
    assert shorten(names, 2) == line
    assert shorten_lines(names, 2, indent=3) == lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p < 0.001, 95 % and snake_case", "p < 0.001, 95 % and snake_case"),
        ("<b>a|b</b>", r"\<b\>a\|b\</b\>"),
        ("_x_ *y* `z` [a](b) #1 $2", r"\_x\_ \*y\* \`z\` \[a\](b) \#1 \$2"),
        ("two\n lines ", "two lines"),
    ],
)
def test_markdown_is_escaped(text, expected):
    assert escape_markdown(text) == expected


def test_markdown_table():
    table = format_markdown_table(["name", "value"], [["a|b", 0.5], ["c", None]])
    assert table == "| name | value |\n| :-- | --: |\n| a\\|b | 0.500 |\n| c | – |"
    assert format_markdown_table(["", "x"], [["a", "1 %"]], [":--", "--:"]).splitlines()[1] == "| :-- | --: |"


def test_nouns_follow_their_number():
    numbers = [(0, "clip"), (1, "class"), (2, "class"), (1200, "clip"), (1.0, "epoch"), (2.5, "epoch")]
    texts = ["0 clips", "1 class", "2 classes", "1,200 clips", "1 epoch", "2.5 epochs"]
    assert [format_count(*pair) for pair in numbers] == texts
