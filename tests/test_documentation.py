# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The README and the documentation agree with the code. Python examples run and print the output shown. Commands parse.
Options, files, modules, make targets and link targets exist. The diagram shows the network, and the site builds.
"""

import csv
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from markdown.extensions.toc import slugify, unique

import sanet_hf
from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.cli.main import make_parser
from sanet_hf.cli.train_options import make_train_parser, parse_train_arguments
from sanet_hf.training.config_files import shipped_configs


ROOT = Path(__file__).parents[1]
README = "README.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / README, *sorted((ROOT / "docs").glob("*.md")))
}
# Fenced blocks may be indented, as in lists.
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# Placeholders that the reader replaces.
PLACEHOLDER = re.compile(r"…|\.\.\.|\bCOMMAND\b")
# Options of other programs, and `--flag` as an example of any.
FOREIGN_OPTIONS = {
    *(
        "--main_process_ip",
        "--main_process_port",
        "--machine_rank",
        "--multi_gpu",
        "--num_machines",
        "--num_processes",
    ),
    *("--flag", "--format"),
}
# Folders of the checkout. Pages name files in them.
FOLDERS = ("benchmarks", "configs", "docs", "examples", "sanet_hf", "tests", "training")
# Configuration files of runs, and of this site.
OTHER_CONFIGS = {"recipe.yaml", "train_options.yaml", "first.yaml", "second.yaml", "student.yaml", "mkdocs.yml"}


def _blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and text of the fenced blocks of a page. Lines that end with a backslash are joined."""
    blocks = [(language, textwrap.dedent(text)) for _, language, text in FENCE.findall(PAGES[page])]
    return [(language, re.sub(r" *\\\n *", " ", text)) for language, text in blocks]


def _spans(page: str) -> list[str]:
    """Return the inline code in the text of a page."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", PAGES[page]))]


def _lines(page: str) -> list[str]:
    """Return the lines of shell blocks and the inline code of a page."""
    return [line for language, text in _blocks(page) if language == "" for line in text.splitlines()] + _spans(page)


def _is_mention(command: str) -> bool:
    """Return whether a span only mentions a command, possibly with options: `predict --segments`."""
    name, *argv = command.split()
    if name == "train":
        return argv in ([], ["--help"]) or bool(re.search(r"--\w+ --", command))
    return not argv or argv[0].startswith("-")


def _sanet_commands(page: str) -> list[str]:
    """Return the `sanet` commands of a page without the name: those in blocks, and complete ones in spans."""
    found = []
    for line in _lines(page):
        match = re.match(r"(?:sanet|accelerate launch .*-m sanet_hf) +(\w.*)", line)
        if match and not PLACEHOLDER.search(line):
            found.append(match[1])
    spans = set(_spans(page))
    return [command for command in found if not (f"sanet {command}" in spans and _is_mention(command))]


def _mentioned(page: str) -> set[str]:
    """Return the names of commands in the text of a page."""
    return {match[1] for span in _spans(page) if (match := re.match(r"sanet (\w+)", span)) and match[1] != "COMMAND"}


COMMANDS = {command: page for page in PAGES for command in _sanet_commands(page)}
EXAMPLES = [
    pytest.param(text, id=f"{page}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(_blocks(page))
    if language == "python"
]


def _command_names() -> list[str]:
    return re.findall(r"^    (\w+) ", make_parser().format_help().partition("COMMAND")[2], re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with `runs/sanet` (it always predicts robin), `clip.wav`, and a small `ESC-50`."""
    folder = tmp_path_factory.mktemp("reader")
    config = SANetConfig(
        conv_dim=(8, 8),
        conv_kernel=(16, 8),
        conv_stride=(16, 16),
        attention_after=(),
        attention_dim=(),
        classifier_hidden_sizes=(),
        id2label={0: "blackbird", 1: "robin"},
        label2id={"blackbird": 0, "robin": 1},
    )
    model = SANetForAudioClassification(config)
    with torch.no_grad():
        model.classifier[-1].weight.zero_()
        model.classifier[-1].bias.copy_(torch.tensor([0.03, 0.97]).log())
    for part in (model, SANetFeatureExtractor()):
        part.save_pretrained(folder / "runs/sanet")
    clip = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(folder / "clip.wav", clip, 16000)
    for name in ("meta", "audio"):
        (folder / "ESC-50" / name).mkdir(parents=True)
    soundfile.write(folder / "ESC-50/audio/1-1-A-0.wav", clip, 16000)
    with open(folder / "ESC-50/meta/esc50.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("filename", "category", "esc10"), ("1-1-A-0.wav", "dog", "True")])
    return folder


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_prints_the_output_shown(example, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    exec(compile(example, "example", "exec"), {})
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert len(expected) == example.count("print(")
    assert capsys.readouterr().out.splitlines() == expected


def test_examples_are_found():
    pages = {page for page in PAGES for language, _ in _blocks(page) if language == "python"}
    assert {README, "docs/quickstart.md", "docs/model.md", "docs/inference.md", "docs/accuracy.md"} <= pages


def parse_command(subcommand: str, argv: list[str]) -> None:
    """Parse the arguments of `sanet`. A wrong option raises SystemExit."""
    if subcommand == "train":
        parse_train_arguments(argv)
    else:
        make_parser().parse_args([subcommand, *argv])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    subcommand, *argv = shlex.split(command, comments=True)
    parse_command(subcommand, _complete(argv) if subcommand == "train" else argv)


def _complete(argv: list[str]) -> list[str]:
    """Return the arguments of `sanet train` with a data source and an output folder, if the page omits them."""
    sources = {"--data_dir", "--manifest", "--dataset_name"}
    argv = argv if sources & set(argv) else [*argv, "--data_dir", "recordings"]
    return argv if "--output_dir" in argv else [*argv, "--output_dir", "runs/sanet"]


def test_every_command_is_shown():
    commands = _command_names()
    assert len(commands) >= 12
    for pages in ({README}, set(PAGES) - {README}):
        assert {command.split()[0] for page in pages for command in _sanet_commands(page)} == set(commands)
    assert {name for page in PAGES for name in _mentioned(page)} <= set(commands)


def _known_options() -> set[str]:
    """Return the options of all commands, benchmarks and scripts."""
    parser = make_parser()
    (subcommands,) = [action for action in parser._actions if isinstance(action.choices, dict)]
    parsers = [parser, make_train_parser(all_options=True), *subcommands.choices.values()]
    return _script_options() | {name for each in parsers for action in each._actions for name in action.option_strings}


def _script_options() -> set[str]:
    """Return the options of benchmarks, examples, the demo and pretraining."""
    paths = [path for name in ("benchmarks", "examples", "training") for path in (ROOT / name).rglob("*.py")]
    return {name for path in paths for name in re.findall(r'"(--[a-z_]+)"', path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page):
    known = _known_options() | FOREIGN_OPTIONS
    options = {option for line in _lines(page) for option in re.findall(r"(?<![\w-])--[a-z]\w*", line)}
    assert sorted(options - known) == []


@pytest.mark.parametrize("page", PAGES)
def test_training_options_accept_the_values_shown(page):
    names = {name for action in make_train_parser(all_options=True)._actions for name in action.option_strings}
    scripts = _script_options()
    for span in _spans(page):
        argv = shlex.split(span) if span.startswith("--") and not PLACEHOLDER.search(span) else []
        given = {argument for argument in argv if re.match(r"--[a-z]", argument)}
        # A span without a value only names the option.
        if given and given <= names and not given <= scripts and len(argv) > len(given):
            parse_train_arguments(_complete(argv))


@pytest.mark.parametrize("page", PAGES)
def test_files_modules_and_targets_exist(page):
    lines = _lines(page)
    configs = {path.name for path in shipped_configs()} | OTHER_CONFIGS
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in lines:
        for name in re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*", line):
            assert (ROOT / name).exists(), name
        for name in re.findall(r"python -m ([\w.]+\w)", line):
            assert importlib.util.find_spec(name), name
        for name in re.findall(r"^make ([\w-]+)", line):
            assert name in targets, name
        for name in re.findall(r"(?<![\w/.])\w+\.ya?ml\b", line):
            assert name in configs, name
        for name in re.findall(r"sanet_hf\.([a-z_]\w*)(?:\(|$)", line):
            assert hasattr(sanet_hf, name) or importlib.util.find_spec(f"sanet_hf.{name}"), name


def _anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as the site and GitHub generate them."""
    ids: set[str] = set()
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        unique(slugify(heading.replace("`", ""), "-"), ids)
    return ids


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_files_and_headings(page):
    source = ROOT / page
    for link in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", PAGES[page])):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        path = (source.parent / name).resolve() if name else source
        assert path.exists(), link
        assert not anchor or path.suffix != ".md" or anchor in _anchors(path), link


def test_readme_is_short_and_links_the_documentation():
    assert len(PAGES[README].splitlines()) <= 130
    linked = re.findall(r"\]\((docs/[^)#]+\.md)", PAGES[README])
    assert len(set(linked)) >= 10


def _build(root: Path, site: Path) -> subprocess.CompletedProcess:
    # With --quiet, mkdocs does not count warnings.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_site_builds_without_warnings(tmp_path):
    """mkdocs warns about dead links and anchors, and about pages outside of its table of contents."""
    result = _build(ROOT, tmp_path / "site")
    assert result.returncode == 0, result.stderr
    built = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {Path(page).stem for page in PAGES} - {"README"} <= built
    html = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")]
    assert not [text for text in html if "[<code>" in text]  # names in docstrings are links
    loaded = r'<(?:script|img|iframe)[^>]*src="?(?:https?:)?//|<link[^>]*rel="?(?:stylesheet|preconnect)[^>]*https?://'
    assert not [text for text in html if re.search(loaded, text)]


def test_dead_links_fail_the_build(tmp_path):
    targets = ["no_page.md", "data.md#no-heading", "#no-heading-here", "no_picture.png"]
    for name in ("mkdocs.yml", "sanet_hf"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with open(tmp_path / "docs/index.md", "a", encoding="utf-8") as file:
        file.writelines(f"\n[a]({target})\n" for target in targets)
    result = _build(tmp_path, tmp_path / "site")
    assert result.returncode != 0 and f"Aborted with {len(targets)} warnings" in result.stdout + result.stderr
    assert all(f"'{target}'" in result.stderr for target in targets), result.stderr


def test_reference_has_every_public_name():
    reference = PAGES["docs/reference.md"]
    for name in sanet_hf.__all__:
        module = getattr(sanet_hf, name).__module__
        assert re.search(rf"^::: {re.escape(module)}\.{name}$", reference, re.MULTILINE), name


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
