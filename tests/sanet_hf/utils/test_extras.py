# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Optional packages, needed only by some commands."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from sanet_hf.utils.extras import MissingPackageError, require


def test_installed_packages_pass():
    require("torch", "train")
    require(["numpy", "transformers"], "train")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ("none_such", 'none_such is not installed. Run: pip install "sanet-hf[plot]"'),
        (["torch", "one", "two"], 'one, two are not installed. Run: pip install "sanet-hf[plot]"'),
    ],
)
def test_error_names_missing_packages_and_the_extra(packages, message):
    with pytest.raises(MissingPackageError) as error:
        require(packages, "plot")
    assert str(error.value) == message


def test_package_set_to_none_in_sys_modules_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="matplotlib"):
        require("matplotlib", "plot")


# Runs without the packages of any extra.
CORE_COMMANDS = """
import json, sys

for package in json.loads(sys.argv[1]):
    sys.modules[package] = None
from sanet_hf.cli.main import main

model, clip = sys.argv[2:]
assert main(["predict", model, clip]) == 0
assert main(["embed", model, clip, "--output", "embeddings.npz"]) == 0
assert main(["explain", model, clip, "--output", "explanation.json"]) == 0
"""
PACKAGES = """
accelerate audiomentations datasets evaluate gradio jinja2 matplotlib noisereduce onnx onnxruntime onnxscript pyarrow
pyroomacoustics ray scipy silero_vad sklearn soxr torchcodec
""".split()


def test_core_dependencies_are_enough_for_inference(tiny_checkpoint, tmp_path):
    soundfile.write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 8000)
    command = [sys.executable, "-c", CORE_COMMANDS, json.dumps(PACKAGES), str(tiny_checkpoint), "clip.wav"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
