# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks measure is right; how long it takes is not tested."""

import json
import sys

import pytest

from benchmarks import inference, training
from benchmarks.variants import count_sanet_flops


def test_flops():
    # The known 13.3 GFLOP leave out the attention's products of activations.
    assert count_sanet_flops(4.0) == pytest.approx(13.3e9, rel=0.04)


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [(inference, ["original", "sanet", "optimized"]), (training, ["original", "sanet"])],
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
    assert len(output.partition("Times as fast")[2].splitlines()) == 1 + len(names)
    with pytest.raises(SystemExit):
        run("--compare", __file__)
    assert "holds no results of a benchmark" in capsys.readouterr().err
