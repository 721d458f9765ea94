# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run and report the right rows. The measured times are not tested."""

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from benchmarks import busy, features, gpu_report, inference, memory, timing, training
from benchmarks.variants import count_sanet_flops
from sanet_hf.utils.openmp import SHORT_WAIT


def test_flops():
    # The known 13.3 GFLOP do not include the products of activations in the attention.
    assert count_sanet_flops("sanet", 4.0) == pytest.approx(13.3e9, rel=0.04)


def test_smaller_networks():
    """`small` needs about 1/4 of the compute of `sanet`, `tiny` 1/20."""
    flops = {name: count_sanet_flops(name, 4.0) for name in ("sanet", "small", "tiny")}
    assert flops["small"] < 0.26 * flops["sanet"]
    assert flops["tiny"] < 0.05 * flops["sanet"]


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [
        pytest.param(inference, ["original", "sanet", "optimized", "int8"], id="inference", marks=pytest.mark.slow),
        pytest.param(training, ["original", "sanet"], id="training"),
    ],
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
    assert len(output.partition("Old / new (higher is better)")[2].splitlines()) == 1 + len(names)
    with pytest.raises(SystemExit):
        run("--compare", __file__)
    assert "contains no results of a benchmark" in capsys.readouterr().err


def test_features(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "BATCH_SIZE", 2)
    path = tmp_path / "features.json"
    monkeypatch.setattr(sys, "argv", f"benchmark --num_rounds 3 --max_seconds 0 --output {path}".split())
    features.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["wav2vec2", "sanet"] * 2
    assert all(row["ms"] > 0 for row in rows)


def test_memory(tmp_path, monkeypatch, capsys):
    """Each benchmark runs in a process with little more than the model and a batch."""
    path = tmp_path / "memory.json"
    options = f"--variants sanet --seconds 0.1 --batch_sizes 2 --dtypes float32 --output {path}"
    monkeypatch.setattr(sys, "argv", ["benchmark", *options.split()])
    memory.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["benchmark"] for row in rows] == ["inference", "training"]
    assert all(200 < row["megabytes"] < 2000 for row in rows)
    # Training adds gradients and two moments of the optimizer.
    assert rows[1]["megabytes"] - rows[0]["megabytes"] > 50


def test_threads_wait_as_in_the_command(tmp_path):
    """In benchmarks, threads spin as briefly as in the command, unless the user chose otherwise."""
    code = "import os, sys, benchmarks; print(os.environ.get('KMP_BLOCKTIME'), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in busy.WAIT_VARIABLES}
    for choice, expected in (({}, SHORT_WAIT["KMP_BLOCKTIME"]), ({"OMP_WAIT_POLICY": "active"}, "None")):
        command, root = [sys.executable, "-c", code], Path(__file__).parents[1]
        output = subprocess.check_output(command, env=environment | choice, cwd=root, text=True)
        assert output.split() == [expected, "False"]


def test_busy(tmp_path, monkeypatch, capsys):
    """Each environment has a child process. Here this process replaces it."""
    given = []

    @contextmanager
    def child(task, settings, arguments):
        given.append(settings)
        run = busy.make_task(task, arguments.network, arguments.batch_size, arguments.seconds)
        yield lambda: busy.measure(run, arguments.min_seconds)

    monkeypatch.setattr(busy, "child", child)
    monkeypatch.delattr(os, "sched_setaffinity")
    path = tmp_path / "busy.json"
    options = f"--quick --tasks training_bfloat16 prediction_float32 --environments GOMP_SPINCOUNT=1 --output {path}"
    monkeypatch.setattr(sys, "argv", ["benchmark", *options.split()])
    busy.main()
    assert given == [busy.AS_IT_IS, SHORT_WAIT, {"GOMP_SPINCOUNT": "1"}] * 2
    rows = json.loads(path.read_text())["rows"]
    states = ("free", "one core taken")
    names = [f"{task}, {state}" for task in ("training", "prediction") for _ in range(3) for state in states]
    assert [row["benchmark"] for row in rows] == names
    assert [row["variant"] for row in rows[::2]] == ["as it is", "sanet", "GOMP_SPINCOUNT=1"] * 2
    assert all(row["ms"] > 0 for row in rows)


def test_child_of_busy(monkeypatch, capsys):
    """The child answers each line with a time. It does not inherit the user's wait settings."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    calls = []
    busy.serve(lambda: calls.append(1), min_seconds=0.0)
    ready, *answers = capsys.readouterr().out.splitlines()
    assert ready == "" and len(answers) == 2 and all(float(answer) >= 0 for answer in answers) and len(calls) == 3
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    environment = busy.child_environment({"KMP_BLOCKTIME": "7"})
    assert {name: environment.get(name) for name in busy.WAIT_VARIABLES} == {
        "OMP_WAIT_POLICY": None,
        "GOMP_SPINCOUNT": None,
        "KMP_BLOCKTIME": "7",
    }


def test_inputs_and_appending(tmp_path, monkeypatch, capsys):
    """Inputs are features (the model alone) or waveforms. `--append` keeps the rows of an earlier run."""
    path = tmp_path / "inference.json"

    def run(options: str) -> list[tuple]:
        command = ["benchmark", *f"{options} --quick --append --dtypes float32 --seconds 0.1 --output {path}".split()]
        monkeypatch.setattr(sys, "argv", command)
        inference.main()
        rows = json.loads(path.read_text())["rows"]
        return [(row["benchmark"], row["variant"], row["batch_size"]) for row in rows]

    first = run("--inputs features waveforms --variants sanet wav2vec2 --batch_sizes 2")
    assert first == [(name, variant, 2) for name in ("model", "inference") for variant in ("sanet", "wav2vec2")]
    assert run("--variants sanet --batch_sizes 2 3") == [
        *(row for row in first if row != ("inference", "sanet", 2)),
        *(("inference", "sanet", size) for size in (2, 3)),
    ]


def test_failing_variant_is_skipped(capsys):
    def fail() -> None:
        raise torch.OutOfMemoryError("out of memory")

    times = timing.take_turns({"failing": fail, "other": int}, 3, 0.0, torch.device("cpu"))
    assert list(times) == ["other"] and len(times["other"]) == 3
    assert "Skipped failing: OutOfMemoryError: out of memory" in capsys.readouterr().out


def make_row(benchmark: str, variant: str, dtype: str, rate: float, **others) -> dict:
    row = {"benchmark": benchmark, "variant": variant, "dtype": dtype, "clips_per_second": rate, "device": "cuda"}
    return {**row, "batch_size": 256, "seconds": 4.0, **others}


def test_summary_of_a_gpu_run(tmp_path):
    """In an interrupted run, targets are met, missed or not measured."""
    assert "| inference | 20,000 clips/s, 8 × | not measured | |" in gpu_report.summarize(tmp_path)
    machine = {"device": "a GPU", "torch": "2.11", "transformers": "5.23"}
    rows = [
        make_row("model", "original", "float32", 2000.0),
        make_row("model", "compiled", "bfloat16", 21_000.0),
        # Rows with another network or batch size do not count.
        make_row("model", "wav2vec2", "bfloat16", 90_000.0),
        make_row("model", "original", "float32", 10.0, batch_size=64),
    ]
    results = {"machine": machine, "commit": "abc", "rows": rows}
    (tmp_path / "inference.json").write_text(json.dumps(results))
    results["rows"] = [
        make_row("training", "original", "float32", 700.0),
        make_row("training", "sanet", "bfloat16", 3000.0),
    ]
    (tmp_path / "training.json").write_text(json.dumps(results))
    (tmp_path / "parts.jsonl").write_text('{"part": "training", "code": 124, "seconds": 9}\n')
    failure = {"test": "test_x", "outcome": "failed", "seconds": 1, "reason": "def test_x():\nE   assert 1 == 2"}
    (tmp_path / "tests.jsonl").write_text(json.dumps(failure) + "\n")
    summary = gpu_report.summarize(tmp_path)
    for line in (
        "- training: cut off by its time limit, 9 s",
        "0 passed, 1 failed, 0 xfailed, 0 skipped",
        "- failed: test_x: E   assert 1 == 2",
        "| inference, clips/s | 20,000 | 21,000 (compiled, bfloat16, batch 256, 4 s, cuda) | met |",
        "| inference, over the original in float32 | 8 | 10.5 (2,000) | met |",
        "| training, clips/s | 4,000 | 3,000 (sanet, bfloat16, batch 256, 4 s, cuda) | missed |",
        "| training, over the original in float32 | 5 | 4.3 (700) | missed |",
    ):
        assert line in summary.splitlines()


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(gpu_report, "PACKAGES", {"json": "json", "no_such_module": "no-such-package"})
    with pytest.raises(SystemExit, match="pip install no-such-package"):
        gpu_report.check("cpu")


@pytest.mark.slow
def test_gpu_script_on_the_cpu(tmp_path):
    """Every part of the script finishes on the CPU, so that only the device differs on a GPU."""
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
    command = [script, tmp_path, "--device", "cpu", "--quick"]
    result = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    log = (tmp_path / "gpu.log").read_text()
    assert result.returncode == 0, log
    assert "Skipped" not in log
    parts = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert [part["code"] for part in parts] == [0] * 9
    tests = [json.loads(line) for line in (tmp_path / "tests.jsonl").read_text().splitlines()]
    assert len(tests) > 40 and {test["outcome"] for test in tests} <= {"passed", "skipped", "xfailed"}
    rows = json.loads((tmp_path / "inference.json").read_text())["rows"]
    assert {row["variant"] for row in rows} == {"original", "sanet", "optimized", "compiled", "ast", "wav2vec2"}
    assert len(rows) == 6 * 2 * 2 * 2  # variants, formats, batch sizes, inputs
    assert len(json.loads((tmp_path / "training.json").read_text())["rows"]) == 2 * 2 + 3 * 2
    assert len(json.loads((tmp_path / "loader.json").read_text())["rows"]) == 7
    assert (tmp_path / "summary.md").read_text() in result.stdout
