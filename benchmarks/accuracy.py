# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
r"""
Measure the accuracy of recipes and of a baseline over folds and seeds. Each run is a separate `sanet train`.

    python -m benchmarks.accuracy --data esc10=DIR drums=DIR voices=DIR --fold_pattern 'esc10=(\d)-' \
        --clips_per_class voices=10 --seeds 0 1 2 esc10=0 voices=0,1,2,3,4 \
        --recipes default ast wav2vec2 'tiny=sanet.yaml,sanet_tiny.yaml,--num_train_epochs=60' --output runs/accuracy

After an interruption, run the same command again: finished runs are kept, and the interrupted run is resumed.
`OUTPUT/accuracy.md` has the table, and `OUTPUT/accuracy.json` has all results. Both are written after each run.

Test clips are never used for choices. With `--fold_pattern`, one fold is the test split. Epochs, calibration and so on
are chosen on the next fold (`--validation fold`) or on a tenth of the others (`--validation tenth`). With `--refit
true` in a recipe, the final training uses all of them. `{default}` in a recipe is the output folder of the recipe
`default` on the same recordings and seed: `'taught=sanet.yaml,--teacher={default}'`. The splits of a folder are kept.
With `--clips_per_class`, the seed draws clips of the training split, a fifth of them for validation; the whole test
split is used for testing. Compare recipes by the validation column. The row "chosen by validation" tests the recipe
that validation chooses. `accuracy_table.py` explains the intervals.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from sanet_hf.errors import DataError, SanetError, UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.training.evaluation.costs import describe_machine
from sanet_hf.training.run_folder import RESULTS_FILE, is_finished, read_file
from sanet_hf.utils.files import write_atomically

from . import timing
from .accuracy_runs import (
    RECIPES,
    VALIDATION,
    Run,
    check_runs,
    format_manifest,
    identity,
    parse_data,
    parse_recipe,
    plan_runs,
)
from .accuracy_table import CHOSEN, Result, describe, format_table, make_rows, read_result


# Signals that end the command like Ctrl-C.
STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Metrics to print after each run.
SHOWN = ("eval_accuracy", "test_accuracy", "baseline_test_accuracy")


def train(run: Run) -> bool:
    """
    Train or resume in a separate process. Return whether it finished.

    Raises:
        KeyboardInterrupt: The user interrupted. The training got a SIGTERM and saved a checkpoint.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    manifest = Path(run.source[1])
    if run.manifest is not None and not manifest.exists():
        with write_atomically(manifest) as file:
            file.write(format_manifest(run))
    command = [sys.executable, "-m", "sanet_hf", "train", *run.arguments]
    attempt = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": timing.describe_commit(),
        "machine": describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "seconds": None,
        "exit_code": None,
    }
    record = read_file(run.record_file) or {**identity(run), "attempts": []}
    record["attempts"].append(attempt)
    _write_json(run.record_file, record)
    start = time.monotonic()
    with open(run.log_file, "ab") as log:
        # In a separate session, because otherwise Ctrl-C would end it before it can save a checkpoint.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
            print(f"\n{run}: saving a checkpoint. Press Ctrl-C again to kill it.", file=sys.stderr)
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
                process.wait()
            raise
        finally:
            attempt |= {"seconds": time.monotonic() - start, "exit_code": process.returncode}
            if is_finished(run.folder):
                record["parameters"] = load_classifier(run.folder)[0].num_parameters()
            _write_json(run.record_file, record)
    return process.returncode == 0 and is_finished(run.folder)


def _write_json(path: Path, values: object) -> None:
    with write_atomically(path) as file:
        file.write(json.dumps(values, indent=2, ensure_ascii=False).encode())


def collect(runs: Sequence[Run]) -> tuple[list[Result], dict[str, str]]:
    """Return the results of the finished runs, and the reasons of failed runs."""
    results, failures = [], {}
    for run in runs:
        record = read_file(run.record_file)
        if not is_finished(run.folder):
            if record and record["attempts"][-1]["exit_code"] not in (None, -signal.SIGTERM, 128 + signal.SIGTERM):
                failures[str(run)] = _last_line(run.log_file)
            continue
        seconds = [attempt["seconds"] for attempt in record["attempts"]]
        total = None if None in seconds else sum(seconds)
        try:
            results.append(
                read_result(run.folder, run.data, run.recipe.name, run.fold, run.seed, total, record.get("parameters"))
            )
        except DataError as error:
            failures[str(run)] = str(error)
    return results, failures


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")


def write_results(runs: Sequence[Run], output: Path, validation: str) -> tuple[str, dict[str, str]]:
    """
    Write `accuracy.md` and `accuracy.json`.

    Returns:
        The table with its notes as Markdown, and the failed runs.
    """
    results, failures = collect(runs)
    rows = make_rows(results)
    records = [read_file(run.record_file) for run in runs if is_finished(run.folder)]
    last = [record["attempts"][-1] for record in records]
    machines = sorted({f"{one['machine']['device']}, {one['machine']['threads']} threads" for one in last})
    commits = sorted({one["commit"] or "unknown" for one in last})
    choice = (
        "Epochs, calibration and thresholds are chosen on validation clips, never on test clips. With folds, "
        f"validation is {VALIDATION[validation]}. With --clips_per_class it is a fifth of the drawn clips. Recipes "
        f"are chosen by the validation column. The row '{CHOSEN}' chooses in each fold by the runs of that fold."
    )
    missing = len(runs) - len(results)
    notes = [
        "Mean over folds and seeds; 95 % intervals in brackets (benchmarks/accuracy_table.py says how they are "
        "computed). Difference: test minus baseline, in points. Times are per run.",
        choice,
        f"Trained on {'; '.join(machines) or 'no machine yet'}; commit {', '.join(commits) or 'unknown'}.",
    ]
    if any(row["seeds"] == 1 for row in rows):
        notes.append("With one seed, intervals only cover the choice of clips, not the variation between seeds.")
    if any(0 < row["baseline_clips"] < row["test_clips"] for row in rows):
        notes.append(
            "The baseline and the difference are measured on a part of the test clips; see baseline_clips in the JSON."
        )
    if missing:
        notes.append(f"{missing} of {len(runs)} runs are missing, {len(failures)} of them failed.")
    notes += [f"Failed: {name}: {reason}" for name, reason in failures.items()]
    table = "\n".join([format_table(rows), "", *(f"- {note}" for note in notes)]) + "\n"
    by_run = {(run.data, run.recipe.name, run.fold, run.seed): run for run in runs}
    singles = []
    for result in results:
        run = by_run[result.data, result.recipe, result.fold, result.seed]
        singles.append({**describe(result), "folder": str(run.folder), **read_file(run.record_file)})
    _write_json(
        output / "accuracy.json",
        {
            "command": shlex.join(["python", "-m", "benchmarks.accuracy", *sys.argv[1:]]),
            "versions": timing.package_versions(),
            "choice": choice,
            "rows": rows,
            "runs": singles,
            "failures": failures,
        },
    )
    with write_atomically(output / "accuracy.md") as file:
        file.write(table.encode())
    return table, failures


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER", help="folders of recordings")
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["default"],
        metavar="NAME[=YAML,...,--FLAG=VALUE,...]",
        help=f"{', '.join(RECIPES)}, or others with their YAML files and flags of sanet train (default: default)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=["0"],
        metavar="SEED",
        help="seeds of each fold or draw of clips; NAME=0,1,2 for one of --data (default: 0)",
    )
    parser.add_argument(
        "--fold_pattern",
        nargs="+",
        default=[],
        metavar="NAME=PATTERN",
        help="regular expression that finds the fold in CLASS/FILE, for data with published folds",
    )
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="for data with folds: test only these folds")
    parser.add_argument(
        "--validation", choices=list(VALIDATION), default="fold", help="for data with folds (default: %(default)s)"
    )
    parser.add_argument(
        "--clips_per_class",
        nargs="+",
        default=[],
        metavar="NAME=NUMBER",
        help="clips per class, for training and validation together, that each seed draws",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs and the table")
    parser.add_argument("--dry_run", action="store_true", help="list the runs with their commands; train nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train the missing runs and print the table. Return the exit code, which is 1 if a run failed."""
    arguments = make_parser().parse_args(argv)
    try:
        data = parse_data(arguments)
        recipes = [parse_recipe(text) for text in arguments.recipes]
        if len({recipe.name.lower() for recipe in recipes}) < len(recipes):
            raise UsageError(f"--recipes {' '.join(arguments.recipes)}: two recipes have the same name.")
        runs = [
            run
            for one in data
            for run in plan_runs(one, recipes, arguments.output, arguments.validation, arguments.folds)
        ]
        check_runs(runs)
        if arguments.dry_run:
            for run in runs:
                print(f"{run} ({run.state})\n    {shlex.join(['sanet', 'train', *run.arguments])}")
            return 0
        return run_all(runs, arguments.output, arguments.validation)
    except SanetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run_all(runs: Sequence[Run], output: Path, validation: str) -> int:
    """Train the unfinished runs, one at a time. Return the exit code."""
    disable_progress_bar()
    handlers = {}
    for number in STOPS:
        # Keep SIGHUP ignored under nohup.
        if signal.getsignal(number) != signal.SIG_IGN:
            handlers[number] = signal.signal(number, _interrupt)
    try:
        for number, run in enumerate(runs, 1):
            if is_finished(run.folder):
                continue
            print(f"{run} ({number} of {len(runs)}) …", file=sys.stderr, flush=True)
            if train(run):
                metrics = read_file(run.folder / RESULTS_FILE)
                outcome = ", ".join(f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics)
            else:
                outcome = f"failed: {_last_line(run.log_file)} (see {run.log_file})"
            print(f"{run} {outcome}", file=sys.stderr, flush=True)
            write_results(runs, output, validation)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    table, failures = write_results(runs, output, validation)
    print(table)
    return 1 if failures else 0


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
