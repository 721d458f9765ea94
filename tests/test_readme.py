# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The README's example runs, its commands parse, its diagram shows the network."""

import importlib.util
import re
from pathlib import Path

import pytest

from sanet_hf import SANetConfig
from sanet_hf.cli.main import make_parser

from .sanet_commands import find_commands, parse_command


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *((ROOT / f"docs/{name}.md").read_text() for name in ("cross_validation", "teachers"))]
COMMANDS = find_commands("\n".join(PAGES))


def test_example_prints_what_it_says(capsys):
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "np.random" in block]
    exec(compile(example, "README.md", "exec"), {})
    expected = re.findall(r"# (torch\.Size\(\[.*?\]\))", example)
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    parse_command(command)


def test_every_command_is_shown():
    commands = re.findall(r"^    (\w+) ", make_parser().format_help().partition("COMMAND")[2], re.MULTILINE)
    assert len(commands) >= 7 and {command.split()[1] for command in COMMANDS} == set(commands)


def test_files_that_are_linked_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links and all((ROOT / link).exists() for link in links)


def test_diagram_shows_the_network():
    specification = importlib.util.spec_from_file_location("draw_network", ROOT / "docs/draw_network.py")
    draw_network = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(draw_network)
    svg = (ROOT / "docs/network.svg").read_text()
    blocks = draw_network.network_blocks(SANetConfig(num_labels=10))
    assert len(blocks) == 10
    for title, _, shape in blocks:
        assert shape in svg and all(line in svg for line in title.splitlines())
    assert "5,797,703 parameters" in svg
