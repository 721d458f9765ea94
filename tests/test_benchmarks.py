# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks measure is right; how long it takes is not tested."""

import json
import sys

import pytest

from benchmarks import features, inference, memory, training
from benchmarks.variants import count_sanet_flops


def test_flops():
    # The known 13.3 GFLOP leave out the attention's products of activations.
    assert count_sanet_flops("sanet", 4.0) == pytest.approx(13.3e9, rel=0.04)


def test_smaller_networks():
    """A quarter, or nearly, and a twentieth of the arithmetic."""
    flops = {name: count_sanet_flops(name, 4.0) for name in ("sanet", "small", "tiny")}
    assert flops["small"] < 0.26 * flops["sanet"]
    assert flops["tiny"] < 0.05 * flops["sanet"]


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [(inference, ["original", "sanet", "optimized", "int8"]), (training, ["original", "sanet"])],
    ids=["inference", "training"],
)
def test_benchmark(benchmark, names, tmp_path, monkeypatch, capsys):
    def run(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["benchmark", *options])
        benchmark.main()
        return capsys.readouterr().out

    options = ["--variants", *names, *"--seconds 0.1 --batch_sizes 2 --num_rounds 3 --max_seconds 0".split()]
    output = run(*options, "--output", str(tmp_path / "new.json"))
    assert all(output.count(f"\n{name} ") == 2 for name in names)
    results = json.loads((tmp_path / "new.json").read_text())
    assert [row["variant"] for row in results["rows"]] == names * 2
    assert [row["dtype"] for row in results["rows"]] == ["float32"] * len(names) + ["bfloat16"] * len(names)
    assert all(row["ms"] > 0 and row["clips_per_second"] > 0 for row in results["rows"])
    assert {"machine", "versions", "commit"} <= results.keys()
    output = run(*options, "--dtypes", "float32", "--compare", str(tmp_path / "new.json"))
    assert len(output.partition("Before over now")[2].splitlines()) == 1 + len(names)
    with pytest.raises(SystemExit):
        run("--compare", __file__)
    assert "holds no results of a benchmark" in capsys.readouterr().err


def test_features(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "BATCH_SIZE", 2)
    path = tmp_path / "features.json"
    monkeypatch.setattr(sys, "argv", f"benchmark --num_rounds 3 --max_seconds 0 --output {path}".split())
    features.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["wav2vec2", "sanet"] * 2
    assert all(row["ms"] > 0 for row in rows)


def test_memory(tmp_path, monkeypatch, capsys):
    """Of processes with little besides the model and a batch."""
    path = tmp_path / "memory.json"
    options = f"--variants sanet --seconds 0.1 --batch_sizes 2 --dtypes float32 --output {path}"
    monkeypatch.setattr(sys, "argv", ["benchmark", *options.split()])
    memory.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["benchmark"] for row in rows] == ["inference", "training"]
    assert all(200 < row["megabytes"] < 2000 for row in rows)
    # Gradients and the optimizer's two moments beside the weights.
    assert rows[1]["megabytes"] - rows[0]["megabytes"] > 50
