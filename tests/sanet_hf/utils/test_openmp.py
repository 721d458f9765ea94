# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command shortens the time that OpenMP threads spin. A program that imports the package does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sanet_hf.utils import openmp


VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
ROOT = Path(__file__).parents[3]
# Replaces transformers, the first import that loads OpenMP.
TRANSFORMERS = """
import os, subprocess, sys
assert "torch" not in sys.modules
subprocess.run([sys.executable, "-c", "import os; print(os.environ.get('KMP_BLOCKTIME'))"])
os._exit(0)
"""


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    """Return the environment of a process without settings by the user and before the import of PyTorch."""
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.delitem(sys.modules, "torch")
    return variables


def test_shorten_wait(environment):
    openmp.shorten_wait()
    assert openmp.SHORT_WAIT.items() <= environment.items()


@pytest.mark.parametrize("name", VARIABLES)
def test_choice_of_the_user_is_kept(environment, name):
    """The choice may be for all libraries or for one of them."""
    environment[name] = "2"
    openmp.shorten_wait()
    assert environment[name] == "2"
    others = {} if name == "OMP_WAIT_POLICY" else openmp.SHORT_WAIT
    assert {other: environment[other] for other in VARIABLES if other in environment} == {**others, name: "2"}


def test_no_change_after_pytorch_is_imported(environment, monkeypatch):
    """It would have no effect in this process, but in child processes."""
    monkeypatch.setitem(sys.modules, "torch", pytest)
    openmp.shorten_wait()
    assert not openmp.SHORT_WAIT.keys() & environment.keys()


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["/home/me/venv/bin/sanet", "train"], ["python", "/home/me/venv/bin/sanet", "train"], True),
        (["sanet.exe", "train"], ["python", "sanet.exe", "train"], True),
        (["-m", "train"], ["python", "-m", "sanet_hf", "train"], True),
        (["-m", "folder"], ["python", "-u", "-m", "sanet_hf.training.demo", "folder"], True),
        (["-m"], ["python", "-msanet_hf"], True),
        (["-m"], ["python", "-m", "my_package"], False),
        (["-m"], ["python", "-m", "sanet_hfx"], False),
        (["train.py", "sanet"], ["python", "train.py", "sanet"], False),
        (["my_program.py"], ["python", "my_program.py", "-m", "sanet_hf"], False),
        ([""], ["python"], False),
        (["-c"], ["python", "-c", "import sanet_hf"], False),
    ],
)
def test_is_sanet(monkeypatch, argv, original, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert openmp.is_sanet() == expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (["-m", "sanet_hf", "train"], openmp.SHORT_WAIT["KMP_BLOCKTIME"]),
        (["-m", "sanet_hf.training.demo"], openmp.SHORT_WAIT["KMP_BLOCKTIME"]),
        (["sanet", "train"], openmp.SHORT_WAIT["KMP_BLOCKTIME"]),
        (["-c", "import sanet_hf"], "None"),
        (["-m", "program"], "None"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[1],
)
def test_children(program, expected, environment, tmp_path):
    """Child processes inherit the setting only from `sanet`, not from a program that imports the package."""
    (tmp_path / "transformers.py").write_text(TRANSFORMERS)
    (tmp_path / "sanet").write_text("from sanet_hf.cli.main import main")
    (tmp_path / "program.py").write_text("import sanet_hf")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, *program]
    result = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout.strip() == expected


def test_libgomp(environment):
    """PyTorch's libgomp reads a setting made within the process that loads it."""
    libraries = list(Path(torch.__file__).parent.glob("lib/libgomp*"))
    if not libraries or "GOMP_SPINCOUNT" not in openmp.SHORT_WAIT:
        pytest.skip("no libgomp, or not on this processor")
    code = f"""
import ctypes, runpy
runpy.run_path({openmp.__file__!r})["shorten_wait"]()
ctypes.CDLL({str(libraries[0])!r})
"""
    environment["OMP_DISPLAY_ENV"] = "verbose"
    result = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    assert f"GOMP_SPINCOUNT = '{openmp.SHORT_WAIT['GOMP_SPINCOUNT']}'" in result.stderr
