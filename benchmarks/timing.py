# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Timing by turns, and results that can be kept and compared."""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from training.measure import describe_machine, synchronize


# Columns that say what was measured; the others say what came out.
KEYS = ("benchmark", "variant", "batch_size", "seconds", "dtype", "device")
PACKAGES = ("sanet-hf", "onnxruntime", "openvino")


def take_turns(
    functions: Mapping[str, Callable[[], object]], num_rounds: int, max_seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """
    Seconds of each call, all functions in turns, in random order, so that what else the machine does meets them alike.

    A first round is not counted. One that has taken `max_seconds` so far is called three times all the same, then no
    more.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(num_rounds + 1):
        for name in rng.permutation(list(functions)):
            if len(times[name]) >= 3 and sum(times[name]) > max_seconds:
                continue
            synchronize(device)
            start = time.perf_counter()
            functions[name]()
            synchronize(device)
            if index:
                times[name].append(time.perf_counter() - start)
    return times


def matrix_product_rate(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """The machine's best rate of products of two square matrices, in FLOP/s: through oneDNN on a CPU."""
    size = size or (2048 if device.type == "cpu" else 8192)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        # On processors other than Intel's, PyTorch's own product in float32 (MKL) has half the rate of oneDNN's.
        if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        else:
            left @ right

    with torch.inference_mode():
        times = take_turns({"product": multiply}, 10, 10.0, device)["product"]
    return 2 * size**3 / min(times)


def add_options(parser: argparse.ArgumentParser, batch_sizes: list[int], durations: list[float]) -> None:
    """Options that benchmarks of models have, with the default sizes of batches and durations of clips."""
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=batch_sizes)
    parser.add_argument("--seconds", type=float, nargs="+", default=durations, help="durations of clips")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--num_rounds", type=int, default=15, help="turns of each variant (default: %(default)s)")
    parser.add_argument(
        "--max_seconds",
        type=float,
        default=20.0,
        help="of a variant's turns, but three at least (default: %(default)g)",
    )
    parser.add_argument("--threads", type=int, help="of PyTorch and the others (default: one a core)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--compare", type=_read_rows, metavar="OLD.json", help="results to compare with")


def run(
    benchmark: str,
    arguments: argparse.Namespace,
    make_variant: Callable[[str, torch.dtype, torch.device], Callable[[object], object]],
    make_inputs: Callable[[int, float, torch.device], object],
    count_flops: Callable[[str, float], float | None],
) -> None:
    """
    Measure variants in each number format, duration and size of batches, print tables and keep the results.

    Args:
        benchmark: Name of the benchmark.
        arguments: `variants`, and the options of [`add_options`].
        make_variant: A function of what `make_inputs` gives, for a variant, number format and device; a ValueError or
            ModuleNotFoundError says why there is none.
        make_inputs: Of a batch size, duration in seconds and device.
        count_flops: Operations a clip of a variant and duration in seconds, or `None` if they are not SANet's.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print("Speed-ups are over the first variant; it, too, is computed in the number format above the table.")
    rows = []
    for dtype in arguments.dtypes:
        variants = {}
        for name in arguments.variants:
            try:
                variants[name] = make_variant(name, getattr(torch, dtype), device)
            except (ValueError, ModuleNotFoundError) as error:
                print(f"{name} is left out: {error}")
        peak = matrix_product_rate(getattr(torch, dtype), device)
        print(f"\n{dtype}, products of matrices at {peak / 1e9:,.0f} GFLOP/s")
        print(f"{'':16}{'batch':>6}{'s':>4}{'ms':>10}{'p95':>10}{'clips/s':>10}{'of the rate':>12}{'speed-up':>10}")
        for seconds in arguments.seconds:
            for batch_size in arguments.batch_sizes:
                inputs = make_inputs(batch_size, seconds, device)
                functions = {name: partial(variant, inputs) for name, variant in variants.items()}
                times = take_turns(functions, arguments.num_rounds, arguments.max_seconds, device)
                group = []
                for name in variants:
                    what = dict(zip(KEYS, (benchmark, name, batch_size, seconds, dtype, device.type)))
                    group.append(what | _summarize(times[name], batch_size, count_flops(name, seconds), peak))
                    _print_row(group[-1], group[0]["ms"])
                rows += group
    _finish(rows, arguments, device)


def _summarize(times: list[float], batch_size: int, flops_per_clip: float | None, peak: float) -> dict[str, float]:
    """Of the seconds of calls with a batch: median, 95th percentile and interquartile range in ms, and the rate."""
    median = statistics.median(times)
    low, high = np.percentile(times, [25, 75])
    row = {
        "ms": 1000 * median,
        "ms_p95": 1000 * float(np.percentile(times, 95)),
        "ms_spread": 1000 * float(high - low),
        "clips_per_second": batch_size / median,
    }
    if flops_per_clip is not None:
        row["fraction_of_matrix_product_rate"] = batch_size * flops_per_clip / median / peak
    return row


def _print_row(row: Mapping[str, object], reference: float) -> None:
    fraction = row.get("fraction_of_matrix_product_rate")
    print(
        f"{row['variant']:16}{row['batch_size']:6}{row['seconds']:4g}{row['ms']:10.1f}{row['ms_p95']:10.1f}"
        f"{row['clips_per_second']:10.1f}{'' if fraction is None else f'{fraction:.2f}':>12}"
        f"{reference / row['ms']:10.2f}",
        flush=True,
    )


def _finish(rows: list[dict], arguments: argparse.Namespace, device: torch.device) -> None:
    """Write the results to `--output`, and print how they compare with those of `--compare`."""
    if arguments.output is not None:
        results = {"machine": describe_machine(device), "versions": _versions(), "commit": _commit(), "rows": rows}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nThe results are in {arguments.output}.")
    if arguments.compare is not None:
        old = {_key(row): row for row in arguments.compare}
        print("\nTimes as fast as before:")
        for row in rows:
            if _key(row) in old:
                what = ", ".join(str(value) for value in _key(row)[1:] if value is not None)
                print(f"  {what:50}{old[_key(row)]['ms'] / row['ms']:6.2f}")


def _read_rows(path: str) -> list[dict]:
    try:
        return json.loads(Path(path).read_text())["rows"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{path} holds no results of a benchmark ({error})") from error


def _key(row: Mapping[str, object]) -> tuple:
    return tuple(row.get(name) for name in KEYS)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit, with a + where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None
