# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The notebooks run from top to bottom, their commands parse, and their stored outputs are small.

After changing a notebook, store its new outputs:

    SANET_STORE_NOTEBOOKS=1 python -m pytest -m slow tests/test_notebooks.py
"""

import itertools
import json
import os
import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .test_documentation import parse_command


FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
# Owner and name of the public repository, as in the badges.
REPOSITORY = "sanet-hf/sanet-hf"
MAX_IMAGE_BYTES = 200_000
MAX_TEXT_CHARACTERS = 20_000  # of all outputs of a notebook
# `/folder/…` and `C:\…`, but not a web address.
ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'`(=:,\[])(?:/[A-Za-z][\w.-]*/\S*|[A-Z]:\\\S*)", re.MULTILINE)


def find_commands(text: str) -> list[str]:
    """Return the lines of `text` that start with `sanet`. Lines that end with a backslash are joined."""
    return re.findall(r"^sanet .*$", re.sub(r"\\\n\s*", "", text), re.MULTILINE)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def find_texts(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the sources of cells and the text outputs."""
    texts = [cell.source for cell in notebook.cells]
    for output in find_outputs(notebook):
        texts += [output.get("text", "")]
        texts += [data for name, data in output.get("data", {}).items() if name.startswith("text/")]
    return texts


def find_outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


COMMANDS = [
    pytest.param(command, id=f"{path.stem}-{number}")
    for path in PATHS
    for number, command in enumerate(find_commands("\n".join(cell.source for cell in read(path).cells)))
]


def test_notebooks_and_commands_are_found():
    assert len(PATHS) == 3 and len(COMMANDS) >= 9


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_is_valid(path):
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    notebook = read(path)
    badge, install = notebook.cells[0], next(cell for cell in notebook.cells if cell.cell_type == "code")
    address = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{path.name}"
    assert badge.cell_type == "markdown" and f"]({address})" in badge.source
    assert 'if importlib.util.find_spec("sanet_hf") is None:\n    %pip install' in install.source


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_absolute_paths(path):
    assert not [found for text in find_texts(read(path)) for found in ABSOLUTE_PATH.findall(text)]


def test_absolute_paths_are_found():
    for text in ("file: /home/me/a.wav", '"/tmp/x"', "C:\\data\\a.wav"):
        assert ABSOLUTE_PATH.search(text)
    for text in ("https://example.org/a/b", "data/a.wav", "1 / 2", "accuracy/recall"):
        assert not ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_small(path):
    notebook = read(path)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # run once, from top to bottom
    outputs = find_outputs(notebook)
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    images = [data for output in outputs for name, data in output.get("data", {}).items() if name.startswith("image/")]
    assert all(len(image) * 3 / 4 < MAX_IMAGE_BYTES for image in images)
    assert sum(map(len, find_texts(notebook))) < MAX_TEXT_CHARACTERS + sum(len(cell.source) for cell in notebook.cells)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    """The command is parsed up to the first redirection or pipe."""
    tokens = itertools.takewhile(lambda token: not re.match(r"\d?>|\|", token), shlex.split(command))
    _, subcommand, *argv = tokens
    parse_command(subcommand, argv)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """A failing cell raises CellExecutionError. Its message has the cell, its output and the error."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = read(path)
    metadata = dict(notebook.metadata)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False, coalesce_streams=True
    ).execute()
    if os.environ.get("SANET_STORE_NOTEBOOKS"):
        notebook.metadata = nbformat.from_dict(metadata)  # without the versions of Python and its packages
        nbformat.write(notebook, path)
