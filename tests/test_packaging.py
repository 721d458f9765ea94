# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The contents of the wheel, and the installed command outside of a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to build from its files and not from what else lies there")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    # Use committed and new files only, not leftovers of earlier builds.
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
        str(source),
    ]
    subprocess.run(command, check=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_contains_only_the_package_and_its_configs(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sanet_hf").rglob("*.py")}
    for folder, suffixes, installed in (
        ("training", (".py", ".html", ".md"), "sanet_hf/training"),
        ("configs", (".yaml",), "sanet_hf/training/configs"),
    ):
        paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
        expected |= {f"{installed}/{path.relative_to(ROOT / folder).as_posix()}" for path in paths}
    networks = [path for path in (ROOT / "sanet_hf" / "pretrained").glob("*/*") if path.suffix != ".pyc"]
    assert {path.name for path in networks} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert names == expected | {path.relative_to(ROOT).as_posix() for path in networks}


def test_licence_and_command_are_in_the_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in metadata
    assert "sanet = sanet_hf.cli.main:main" in archive.read(metadata["entry_points.txt"]).decode()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """Return a folder with the installed package, without its dependencies."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    return site


def run(site: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Run Python with the installed package, in a folder outside of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *options], cwd=folder, env=environment, capture_output=True, text=True)


def test_one_top_level_package(site, tmp_path):
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names - {"bin"} == {"sanet_hf"}
    code = (
        "import importlib.util, sanet_hf.training; print(sanet_hf.training.__file__); "
        "print([name for name in ('training', 'configs') if importlib.util.find_spec(name)])"
    )
    result = run(site, tmp_path, "-P", "-c", code)
    assert result.stdout.split() == [str(site / "sanet_hf/training/__init__.py"), "[]"], result.stderr


def test_command_ignores_folders_named_like_its_packages(site, tmp_path):
    """`python -m` searches the working directory first."""
    for name in ("training", "configs", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not of sanet-hf')", encoding="utf-8")
    argv = ("train", "sanet.yaml", "sanet_tiny", "--data_dir", "nowhere", "--output_dir", "out")
    result = run(site, tmp_path, "-m", "sanet_hf", *argv)
    assert result.returncode == 2, result.stderr
    assert "nowhere: folder not found" in result.stderr
