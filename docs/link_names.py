# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Make links of names in docstrings, which are written as in transformers: [`SANetModel`]."""

import re


def on_page_content(html: str, **_) -> str:
    """Return the HTML of a page where each such name is a link to its entry on the page, or else plain code."""
    entries = {name.rpartition(".")[2]: name for name in re.findall(r'id="(sanet_hf\.[\w.]+)"', html)}

    def link(match: re.Match) -> str:
        code = f"<code>{match[1]}</code>"
        return f'<a href="#{entries[match[1]]}">{code}</a>' if match[1] in entries else code

    return re.sub(r"\[<code>~?(?:[\w.]+\.)?(\w+)</code>\](?:\([\w.]+\))?", link, html)
