# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk prediction on a local Ray cluster with two processes, one of which is killed. Each row is written once."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from datasets import Audio, Dataset

from sanet_hf.cli.main import main
from sanet_hf.optimization.int8 import CALIBRATION_FILE
from sanet_hf.optimization.int8_layers import has_int8_layers, is_quantized

from .conftest import write_tone
from .tiny_models import save_checkpoint


pytest.importorskip("ray", reason="needs Ray: pip install sanet-hf[ray]")
SCRIPT = Path(__file__).parents[2] / "examples" / "ray_predict.py"
# The first process to reach its third batch dies after classifying it.
DRIVER = """
import importlib.util, os, signal, sys

specification = importlib.util.spec_from_file_location("ray_predict", sys.argv[1])
ray_predict = sys.modules["ray_predict"] = importlib.util.module_from_spec(specification)
specification.loader.exec_module(ray_predict)
import ray

class Mortal(ray_predict.Predictor):
    marker, num_batches = sys.argv[2], 0

    def __call__(self, batch):
        table = super().__call__(batch)
        self.num_batches += 1
        if self.num_batches == 3 and not os.path.exists(self.marker):
            open(self.marker, "w").write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return table

ray.cloudpickle.register_pickle_by_value(ray_predict)
ray_predict.Predictor = Mortal
ray.init(address="local", num_cpus=3, include_dashboard=False)
sys.exit(ray_predict.main(sys.argv[3:]))
"""


def run(tmp_path: Path, *argv: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", DRIVER, str(SCRIPT), str(tmp_path / "killed"), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, "sanet", labels=("high", "low"), max_position_embeddings=20)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Return a folder of short and long recordings, with a name that is not UTF-8 and a file that is not audio."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(30):
        write_tone(folder / f"{index}.wav", 100 * (index + 1), 1.5 if index % 7 == 0 else 0.2, seed=index)
    os.rename(folder / "3.wav", os.path.join(os.fsencode(folder), b"\xff.wav"))
    (folder / "text.wav").write_text("this is no audio")
    return folder


def read(path: Path) -> pandas.DataFrame:
    return pandas.read_parquet(path).sort_values(["path", "start"]).reset_index(drop=True)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["files", "parquet"])
def test_rows_agree_with_predict(model, recordings, tmp_path, source):
    assert main(["predict", str(model), str(recordings), "--output", str(tmp_path / "rows.parquet")]) == 1
    expected = read(tmp_path / "rows.parquet")
    inputs = [recordings]
    if source == "parquet":
        names = sorted(recordings.glob("*.wav"), key=lambda path: os.fsencode(path.name))
        names = [path for path in names if path.name.isascii()]
        rows = [{"audio": {"bytes": path.read_bytes(), "path": str(path)}} for path in names]
        Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "clips.parquet")
        inputs = [tmp_path / "clips.parquet", "--audio_column", "audio"]
        expected = expected[~expected["path"].str.contains("xff")].reset_index(drop=True)
    output = tmp_path / "output"
    command = [model, *inputs, "--output", output, "--files_per_task", 2, "--num_actors", 2]
    result = run(tmp_path, *command)
    num_files = expected["start"].isna().sum()
    assert result.returncode == 1, result.stderr[-3000:]
    assert f"contains rows of {num_files} files. 1 could not be classified" in result.stdout
    assert (tmp_path / "killed").exists()
    pandas.testing.assert_frame_equal(read(output), expected, check_exact=False, atol=2e-6)
    # Another run adds missing rows, and all rows of a truncated file.
    first, second, *_ = sorted(output.glob("*.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-20])
    result = run(tmp_path, *command)
    assert result.returncode == 1, result.stderr[-3000:]
    pandas.testing.assert_frame_equal(read(output), expected, check_exact=False, atol=2e-6)


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit) as info:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr().out
    assert info.value.code == 0 and "--gpus_per_actor" in output and "--audio_column" in output


@pytest.fixture
def ray_predict():
    specification = importlib.util.spec_from_file_location("ray_predict", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif(not has_int8_layers(), reason="needs PyTorch's int8 layers through oneDNN")
def test_int8_ranges_of_few_files_are_not_saved(ray_predict, model, recordings, tmp_path):
    """Each process measures them again."""
    folder = shutil.copytree(model, tmp_path / "model")
    inputs = [recordings / "1.wav", recordings / "2.wav"]
    options = (str(folder), None, "windows", 8, None, set())
    for _ in range(2):
        predictor = ray_predict.Predictor(*options, dtype="int8", calibration_inputs=inputs)
        assert is_quantized(predictor.model) and not (folder / CALIBRATION_FILE).exists()


def test_missing_model_or_recordings_are_refused(ray_predict, model, tmp_path, capsys):
    assert ray_predict.main(["nowhere", "a.wav", "--output", str(tmp_path / "output")]) == 2
    assert "nowhere: model not found, neither as a folder" in capsys.readouterr().err
    assert ray_predict.main([str(model), str(tmp_path / "*.wav"), "--output", str(tmp_path / "output")]) == 2
    assert "no file matches" in capsys.readouterr().err and not (tmp_path / "output").exists()
