# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing, and results that can be stored and compared."""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from sanet_hf.optimization.cpu_layers import has_onednn, onednn_linear
from sanet_hf.training.evaluation.costs import describe_machine, synchronize
from sanet_hf.utils.files import write_atomically


# Columns that identify a measurement. The others are its results.
KEYS = ("benchmark", "variant", "batch_size", "seconds", "dtype", "device")
PACKAGES = ("sanet-hf", "onnxruntime", "openvino")


def take_turns(
    functions: Mapping[str, Callable[[], object]], num_rounds: int, max_seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """
    Return the seconds of each call. All functions run interleaved, in random order, so that other load on the machine
    affects all of them equally.

    The first round does not count. A function that has used `max_seconds` is not called again after three calls. A
    function that fails, for example because memory runs out, is skipped.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(num_rounds + 1):
        for name in rng.permutation(list(functions)):
            if name not in times or (len(times[name]) >= 3 and sum(times[name]) > max_seconds):
                continue
            synchronize(device)
            start = time.perf_counter()
            try:
                functions[name]()
                synchronize(device)
            except RuntimeError as error:
                print(f"Skipped {name}: {type(error).__name__}: {error}", flush=True)
                del times[name]
                continue
            if index:
                times[name].append(time.perf_counter() - start)
    return times


def matrix_product_rate(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """Return the best rate of products of two square matrices in FLOP/s; with oneDNN on a CPU."""
    size = size or (2048 if device.type == "cpu" else 8192)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        # On non-Intel processors, PyTorch's default float32 product (MKL) has half the rate of oneDNN.
        if device.type == "cpu" and has_onednn():
            onednn_linear(left, right, None)
        else:
            left @ right

    with torch.inference_mode():
        times = take_turns({"product": multiply}, 10, 10.0, device)["product"]
    return 2 * size**3 / min(times)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of benchmarks with interleaved variants."""
    parser.add_argument("--num_rounds", type=int, default=15, help="calls per variant (default: %(default)s)")
    parser.add_argument(
        "--max_seconds",
        type=float,
        default=20.0,
        help="largest total time of a variant, but at least three calls (default: %(default)g)",
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch and other libraries (default: one per core)")
    parser.add_argument("--quick", action="store_true", help="try the benchmark: few calls of small networks")
    add_output_options(parser)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="JSON file for the results, written after each group")
    parser.add_argument("--append", action="store_true", help="keep other results in the file")
    parser.add_argument("--compare", type=_read_rows, metavar="OLD.json", help="results to compare with")


def add_model_options(
    parser: argparse.ArgumentParser, variants: Sequence[str], batch_sizes: Sequence[int], durations: Sequence[float]
) -> None:
    """Add the options of benchmarks of models, with these defaults."""
    parser.add_argument("--variants", nargs="+", default=list(variants), choices=variants)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=list(batch_sizes), metavar="N")
    parser.add_argument("--seconds", type=float, nargs="+", default=list(durations), help="durations of clips")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads. Return the arguments."""
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        arguments.num_rounds, arguments.max_seconds = 3, 0.0
    return arguments


def run(
    benchmarks: Mapping[str, Callable[[Callable, object], Callable[[], object]]],
    arguments: argparse.Namespace,
    make_variant: Callable[[str, torch.dtype, torch.device], Callable[[object], object]],
    make_inputs: Callable[[int, float, torch.device], object],
    count_flops: Callable[[str, float], float | None],
) -> None:
    """
    Measure variants in each number format, duration and batch size, print tables and write the results.

    Args:
        benchmarks: Functions by the name of the benchmark. Each makes a callable from a variant and its inputs, such
            as `partial`, or does a part of the work before.
        arguments: The options of [`add_options`] and [`add_model_options`].
        make_variant: Makes a function of the inputs for a variant, number format and device. Raises a ValueError or
            ModuleNotFoundError if the variant is not available.
        make_inputs: Makes inputs from a batch size, a duration in seconds and a device.
        count_flops: Returns the operations per clip for a variant and a duration in seconds; `None` for models other
            than SANet.
    """
    device = torch.device(arguments.device)
    print("Speed-ups are relative to the first variant in the same number format, which is given above the table.")
    rows = []
    for dtype in arguments.dtypes:
        variants = {}
        for name in arguments.variants:
            try:
                variants[name] = make_variant(name, getattr(torch, dtype), device)
            except (ValueError, ModuleNotFoundError) as error:
                print(f"Skipped {name}: {error}")
        peak = matrix_product_rate(getattr(torch, dtype), device, 256 if arguments.quick else None)
        print(f"\n{dtype}, products of matrices at {peak / 1e9:,.0f} GFLOP/s")
        print_header()
        for seconds in arguments.seconds:
            for batch_size in arguments.batch_sizes:
                inputs = make_inputs(batch_size, seconds, device)
                for benchmark, bind in benchmarks.items():
                    functions = {name: bind(variant, inputs) for name, variant in variants.items()}
                    what = {"benchmark": benchmark, "batch_size": batch_size, "seconds": seconds, "dtype": dtype}
                    group = time_group(functions, what, arguments, device)
                    if len(benchmarks) > 1:
                        print(f"{benchmark}:")
                    for row in group:
                        flops = count_flops(row["variant"], seconds)
                        if flops is not None:
                            row["fraction_of_matrix_product_rate"] = row["clips_per_second"] * flops / peak
                        print_row(row, group[0])
                    rows += group
                    write_rows(rows, arguments, device)
    finish(rows, arguments, device)


def time_group(
    functions: Mapping[str, Callable[[], object]],
    what: Mapping[str, object],
    arguments: argparse.Namespace,
    device: torch.device,
) -> list[dict]:
    """Return one row per function, with `what`: median, 95th percentile and interquartile range in ms, and rate."""
    rows = []
    for name, times in take_turns(functions, arguments.num_rounds, arguments.max_seconds, device).items():
        low, median, high, p95 = (float(value) for value in np.percentile(times, [25, 50, 75, 95]))
        row = {**what, "variant": name, "device": device.type, "ms": 1000 * median, "ms_p95": 1000 * p95}
        rows.append(row | {"ms_spread": 1000 * (high - low), "clips_per_second": what["batch_size"] / median})
    return rows


def print_header() -> None:
    print(f"{'':16}{'batch':>6}{'s':>5}{'ms':>10}{'p95':>10}{'clips/s':>10}{'of the rate':>12}{'speed-up':>10}")


def print_row(row: Mapping[str, object], first: Mapping[str, object]) -> None:
    fraction = row.get("fraction_of_matrix_product_rate")
    print(
        f"{row['variant']:16}{row['batch_size']:6}{row['seconds']:5.3g}{row['ms']:10.1f}{row['ms_p95']:10.1f}"
        f"{row['clips_per_second']:10.1f}{'' if fraction is None else f'{fraction:.2f}':>12}"
        f"{first['ms'] / row['ms']:10.2f}",
        flush=True,
    )


def write_rows(rows: list[dict], arguments: argparse.Namespace, device: torch.device) -> None:
    """Write the results so far to `--output`. With `--append`, keep the results of other benchmarks in it."""
    if arguments.output is None:
        return
    kept = []
    if arguments.append and arguments.output.exists():
        keys = {_key(row) for row in rows}
        kept = [row for row in _read_rows(arguments.output) if _key(row) not in keys]
    results = {
        "machine": describe_machine(device),
        "versions": package_versions(),
        "commit": describe_commit(),
        "rows": kept + rows,
    }
    with write_atomically(arguments.output) as file:
        file.write(json.dumps(results, indent=2).encode())


def finish(rows: list[dict], arguments: argparse.Namespace, device: torch.device) -> None:
    """Write the results to `--output`, and print the ratios to the results of `--compare`."""
    if arguments.output is not None:
        write_rows(rows, arguments, device)
        print(f"\nThe results are in {arguments.output}.")
    if arguments.compare is not None:
        old = {_key(row): row for row in arguments.compare}
        print("\nOld / new (higher is better):")
        for row in rows:
            if _key(row) in old:
                what = ", ".join(str(value) for value in _key(row) if value is not None)
                measured = "ms" if "ms" in row else "megabytes"
                print(f"  {what:60}{old[_key(row)][measured] / row[measured]:6.2f}")


def _read_rows(path: str | Path) -> list[dict]:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{path} contains no results of a benchmark ({error})") from error


def _key(row: Mapping[str, object]) -> tuple:
    return tuple(row.get(name) for name in KEYS)


def package_versions() -> dict[str, str]:
    """Return the versions of this package and of the compared packages, if they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_commit() -> str | None:
    """Return the commit, with a + if files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None
