# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`make demo` with a fraction of its data."""

import subprocess
import sys

import pytest

from sanet_hf.training.demo.speech import VOICES


@pytest.mark.slow
def test_demo_runs_from_data_to_pipeline(tmp_path):
    pytest.importorskip("espeakng_loader", reason='the demo\'s voices need pip install "sanet-hf[demo]"')
    command = [sys.executable, "-m", "sanet_hf.training.demo", "demo", "--num_train", "2", "--max_minutes", "0.05"]
    for _ in range(2):  # the second run finds the files of the first
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert [line.split()[0] for line in lines if "/000.wav" in line] == [
            f"{voice}/000.wav" for voice in sorted(VOICES)
        ]
        assert [line.split()[0] for line in lines if line.startswith(("validation ", "test "))] == [
            "validation",
            "test",
        ]
    assert "not supported" not in result.stdout + result.stderr
    assert (tmp_path / "demo/model/model.safetensors").exists()
