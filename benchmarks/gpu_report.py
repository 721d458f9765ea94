# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The check of the machine before the first part of benchmarks/gpu.sh, and the summary after each part.

    python -m benchmarks.gpu_report check [--device cpu]
    python -m benchmarks.gpu_report summary OUT
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path


# Packages by the name to import, with the name to install.
PACKAGES = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "audiomentations": "audiomentations",
    "datasets": "datasets",
    "evaluate": "evaluate",
    "hypothesis": "hypothesis",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "pandas": "pandas",
    "pytest": "pytest",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "soundfile": "soundfile",
    "yaml": "pyyaml",
}
ORIGINAL = "original"
# Targets of each benchmark: clips of 4 s per second in bfloat16, and ratio to the original in float32, not compiled.
AIMS = {"model": (20_000, 8), "training": (4_000, 5)}
TITLES = {
    "model": "Inference, from features on the device (subject of the target)",
    "inference": "Inference, from waveforms on the CPU, with the feature extractor",
    "training": "Training steps, from waveforms on the device",
}


def check(device: str) -> None:
    """
    Print a description of the machine.

    Raises:
        SystemExit: A package, or a GPU, is missing.
    """
    missing = []
    for name, package in PACKAGES.items():
        try:
            import_module(name)
        except ImportError as error:
            print(f"{name}: {error}")
            missing.append(package)
    if missing:
        sys.exit(f"Packages are missing. Run make setup, or pip install {' '.join(missing)}")
    import torch
    import transformers

    print(f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores")
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        sys.exit("PyTorch found no GPU. Install a build with CUDA, or try the script on the CPU: --device cpu --quick")
    # The first product also loads cuBLAS.
    product = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    free, total = torch.cuda.mem_get_info()
    print(f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, {product[0, 0]:g}")


def summarize(folder: Path) -> str:
    """Return a Markdown summary of the results in a folder."""
    lines = ["# GPU run", ""]
    rows = []
    machine = {}
    for name in ("inference", "training", "loader"):
        path = folder / f"{name}.json"
        if path.exists():
            results = json.loads(path.read_text(encoding="utf-8"))
            rows += results["rows"]
            machine = results
    if machine:
        described = machine["machine"]
        lines += [
            f"{described['device']}, PyTorch {described['torch']}, transformers {described['transformers']}, "
            f"commit {machine['commit']}",
            "",
        ]
    lines += _describe_parts(_read_lines(folder / "parts.jsonl"))
    lines += _describe_tests(_read_lines(folder / "tests.jsonl"))
    lines += _describe_aims(rows)
    for benchmark, title in TITLES.items():
        lines += _tabulate(title, [row for row in rows if row["benchmark"] == benchmark])
    lines += _tabulate_loader([row for row in rows if row["benchmark"] == "loader"])
    return "\n".join(lines).rstrip() + "\n"


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _describe_parts(parts: Iterable[dict]) -> list[str]:
    reasons = {0: "done", 124: "cut off by its time limit", 137: "cut off by its time limit"}
    return [
        f"- {part['part']}: {reasons.get(part['code'], 'failed, code {}'.format(part['code']))}, {part['seconds']} s"
        for part in parts
    ] + [""]


def _describe_tests(tests: Sequence[dict]) -> list[str]:
    counts = {
        name: sum(test["outcome"] == name for test in tests) for name in ("passed", "failed", "xfailed", "skipped")
    }
    lines = ["## Tests", "", ", ".join(f"{count} {name}" for name, count in counts.items()), ""]
    for test in tests:
        if test["outcome"] != "passed":
            reasons = test["reason"].strip().splitlines()
            # pytest marks the lines of the error with E.
            errors = [line for line in reasons if line.startswith("E ")] or reasons[-1:] or [""]
            lines.append(f"- {test['outcome']}: {test['test']}: {errors[0][:200]}")
    return [*lines, ""]


def _rate(rows: Iterable[dict], **values: object) -> float | None:
    found = [row["clips_per_second"] for row in rows if all(row.get(name) == value for name, value in values.items())]
    return found[0] if found else None


def _describe_aims(rows: Sequence[dict]) -> list[str]:
    lines = ["## Aims", "", "| | aim | measured | |", "| --- | --- | --- | --- |"]
    for benchmark, (rate_aim, ratio_aim) in AIMS.items():
        ours = [
            row
            for row in rows
            if row["benchmark"] == benchmark
            and row["dtype"] == "bfloat16"
            and row["variant"] in ("sanet", "optimized", "compiled")
        ]
        name = {"model": "inference"}.get(benchmark, benchmark)
        if not ours:
            lines.append(f"| {name} | {rate_aim:,} clips/s, {ratio_aim} × | not measured | |")
            continue
        best = max(ours, key=lambda row: row["clips_per_second"])
        rate, batch_size = best["clips_per_second"], best["batch_size"]
        original = _rate(
            rows,
            benchmark=benchmark,
            variant=ORIGINAL,
            dtype="float32",
            batch_size=batch_size,
            seconds=best["seconds"],
        )
        how = f"{best['variant']}, bfloat16, batch {batch_size}, {best['seconds']:g} s, {best['device']}"
        counts = best["device"] != "cpu" and best["seconds"] == 4
        verdict = ("met" if rate >= rate_aim else "missed") if counts else "does not count"
        lines.append(f"| {name}, clips/s | {rate_aim:,} | {rate:,.0f} ({how}) | {verdict} |")
        if original is None:
            lines.append(f"| {name}, over the original in float32 | {ratio_aim} | not measured | |")
            continue
        ratio = rate / original
        verdict = ("met" if ratio >= ratio_aim else "missed") if counts else "does not count"
        lines.append(
            f"| {name}, over the original in float32 | {ratio_aim} | {ratio:.1f} ({original:,.0f}) | {verdict} |"
        )
    return [*lines, ""]


def _tabulate(title: str, rows: Sequence[dict]) -> list[str]:
    """Return a table of clips per second, with the ratio to the original in float32 at the same batch size."""
    if not rows:
        return []
    sizes = list(dict.fromkeys((row["batch_size"], row["seconds"]) for row in rows))
    lines = [f"## {title}", "", "Clips per second (ratio to the original in float32), ms per batch:", ""]
    lines.append("| | " + " | ".join(f"batch {size}, {seconds:g} s" for size, seconds in sizes) + " |")
    lines.append("| --- |" + " --- |" * len(sizes))
    for variant, dtype in dict.fromkeys((row["variant"], row["dtype"]) for row in rows):
        cells = []
        for size, seconds in sizes:
            keys = {"batch_size": size, "seconds": seconds}
            rate = _rate(rows, variant=variant, dtype=dtype, **keys)
            original = _rate(rows, variant=ORIGINAL, dtype="float32", **keys)
            ratio = f" ({rate / original:.2f})" if rate and original else ""
            cells.append(f"{rate:,.0f}{ratio}, {1000 * size / rate:.2f} ms" if rate else "")
        lines.append(f"| {variant}, {dtype} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _tabulate_loader(rows: Iterable[dict]) -> list[str]:
    lines = [
        f"| {row['variant']} | {row['ms']:.1f} | {row['clips_per_second']:,.0f} | {row['in_next']:.0%} | "
        f"{row['device_waits']:.0%} |"
        for row in rows
    ]
    if not lines:
        return []
    header = ["| | ms per step | clips/s | in next(loader) | the device waits |", "| --- | --- | --- | --- | --- |"]
    return ["## Loader", "", *header, *lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    commands.add_parser("summary").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "check":
        check(arguments.device)
    else:
        summary = summarize(arguments.folder)
        (arguments.folder / "summary.md").write_text(summary, encoding="utf-8")
        print(summary)


if __name__ == "__main__":
    main()
