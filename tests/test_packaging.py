# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user installs: the wheel's contents, and the command without a checkout."""

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
    # From what is committed or new, not from what an earlier build left in the checkout.
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


def test_wheel_holds_one_package_with_the_configs_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sanet_hf").rglob("*.py")}
    for folder, suffixes, installed in (
        ("training", (".py", ".html", ".md"), "sanet_hf/training"),
        ("configs", (".yaml",), "sanet_hf/training/configs"),
    ):
        paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
        expected |= {f"{installed}/{path.relative_to(ROOT / folder).as_posix()}" for path in paths}
    assert names == expected


def test_licence_and_command_are_in_the_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in metadata
    assert "sanet = sanet_hf.cli.main:main" in archive.read(metadata["entry_points.txt"]).decode()


def test_command_finds_its_configs_without_a_checkout(wheel, tmp_path):
    """Installed beside the dependencies, in a process that cannot see the checkout."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.path[:] = [p for p in sys.path if p != sys.argv[1]]; "
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; sys.argv.pop(1); "
        "import sanet_hf.training; assert 'site' in sanet_hf.__file__ and 'site' in sanet_hf.training.__file__; "
        "from sanet_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = ["train", "sanet.yaml", "--data_dir", "nowhere", "--output_dir", "out"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, str(site), str(ROOT), *argv],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert "nowhere: there is no such folder" in result.stderr
