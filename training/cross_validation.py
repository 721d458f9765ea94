# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Cross-validation: one model per fold of the recordings, and the pooled results of all folds.

    sanet train sanet.yaml --data_dir recordings --output_dir runs/folds --folds 5
    sanet train sanet.yaml --data_dir ESC-50 --output_dir runs/esc50 --fold_pattern "(\\d)-" --final_model true
"""

import copy
import csv
import dataclasses
import gc
import io
import json
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import stats

from sanet_hf.errors import DataError, UsageError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments, is_resumption
from sanet_hf.training.data.background_labels import background_name
from sanet_hf.training.data.folds import (
    FINAL,
    check_fold_options,
    name_folds,
    pool_splits,
    sort_folds,
)
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.evaluation.metric_names import METRICS
from sanet_hf.training.evaluation.prediction_files import as_evaluation, pool_baselines, read_predictions
from sanet_hf.training.evaluation.results import BASELINE_PREFIX, Evaluation, accuracy_interval, proportion_interval
from sanet_hf.training.evaluation.statistics import bootstrap, compare_with_baseline, interval
from sanet_hf.training.options import without_evaluation
from sanet_hf.training.reports.run import write_report
from sanet_hf.training.run_folder import (
    CROSS_VALIDATION_FILE,
    FOLDS_FILE,
    OPTIONS_FILE,
    RESTART,
    RESULTS_FILE,
    is_cross_validation,
    is_finished,
    locked,
    read_file,
)
from sanet_hf.utils.files import write_atomically


# Name of the predictions of all test folds in a report.
POOLED = "pooled test"
PREDICTIONS = Path("predictions/out_of_fold.csv")
BASELINE_PREDICTIONS = PREDICTIONS.with_name(BASELINE_PREFIX + PREDICTIONS.name)
Train = Callable[[ModelArguments, DataArguments, AudioTrainingArguments], Mapping[str, float]]


def cross_validate(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: AudioTrainingArguments,
    train: Train,
) -> dict[str, Any]:
    """
    Train one model per fold and test it on that fold. Write to `output_dir`: a folder per run (`fold_1`, ...),
    `cross_validation.json`, `predictions/out_of_fold.csv`, `report.html`, `folds.csv` and, with `final_model`, a model
    trained on all recordings in `final`.

    Finished runs are kept, and an interrupted run is resumed.

    Args:
        model_arguments, data_arguments, training_arguments: As in [`train.train`]; `data_arguments` has `folds` or
            `fold_pattern`.
        train: [`train.train`].

    Returns:
        The content of `cross_validation.json`: `folds`, a list of `fold`, `folder`, number of `recordings` and
        `metrics`; `metrics`, for each the `mean`, the `standard_deviation` and the 95 % interval of the mean (`low`,
        `high`) over folds; `out_of_fold`, number of `recordings` and `metrics` of all predictions; and `baseline`, if
        the runs have one, as [`compare_with_baseline`] returns it.

    Raises:
        UsageError: Options contradict each other, or `output_dir` contains something else.
        DataError: The recordings cannot be divided into these folds.
        TrainingTerminated: SIGTERM ended the training; a checkpoint was saved.
    """
    _check_options(data_arguments, training_arguments)
    output_dir = Path(training_arguments.output_dir)
    # With several processes, only the first one takes the lock.
    with locked(output_dir) if training_arguments.process_index == 0 else nullcontext():
        return _cross_validate(model_arguments, data_arguments, training_arguments, train)


def _cross_validate(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: AudioTrainingArguments,
    train: Train,
) -> dict[str, Any]:
    output_dir = Path(training_arguments.output_dir)
    source = pool_splits(read_source(data_arguments))["unsplit"]
    folds = name_folds(source, data_arguments)
    is_main = training_arguments.process_index == 0
    if training_arguments.overwrite_output_dir:
        with training_arguments.main_process_first(local=False, desc="deleting the old runs"):
            if is_main:
                _delete_runs(output_dir)
    labels = [label if isinstance(label, str) else ";".join(label) for label in source["label"]]
    table = _format_csv([["file", "fold", "label"], *map(list, zip(source["key"], folds, labels))])
    _check_output(output_dir, data_arguments, table)
    folders = name_folders(sort_folds(folds))
    for number, (fold, folder) in enumerate(folders.items(), 1):
        is_old = is_finished(output_dir / folder) and not training_arguments.overwrite_output_dir
        if is_main:
            state = " is finished." if is_old else ""
            print(f"\nFold {fold} ({number} of {len(folders)}){state}", file=sys.stderr)
        train(
            model_arguments,
            dataclasses.replace(data_arguments, fold=fold),
            _arguments_for(training_arguments, output_dir / folder),
        )
        if not is_old:
            # Free the memory before the next model needs it.
            gc.collect()
        if is_main and not (output_dir / FOLDS_FILE).exists():
            with write_atomically(output_dir / FOLDS_FILE) as file:
                file.write(table.encode())
    # The main process arrives last, because it writes the results of the last fold.
    with training_arguments.main_process_first(local=False, desc="the results of all folds"):
        result, evaluation, tables = collect(output_dir, folders, data_arguments)
        if is_main:
            _write_results(output_dir, result, evaluation, tables, source, data_arguments)
    if training_arguments.final_model:
        if is_main:
            print("\nFinal model, trained on all recordings", file=sys.stderr)
        arguments = _arguments_for(training_arguments, output_dir / FINAL, is_final=True)
        train(model_arguments, dataclasses.replace(data_arguments, fold=FINAL), arguments)
    return result


def summarize(result: Mapping[str, Any]) -> str:
    """Return a text table with one row per fold, the mean, the standard deviation and intervals."""
    names = [name for name in METRICS if name in result["metrics"]]
    pooled, metrics = result["out_of_fold"], result["metrics"]

    def row(title: str, count: object, values: Sequence[str]) -> str:
        return f"{title:24}{count:>8}" + "".join(f"{value:>16}" for value in values)

    lines = [row("fold", "clips", [*(METRICS[name][0] for name in names), "acc. 95 % int."])]
    for fold in result["folds"]:
        values, count = fold["metrics"], fold["recordings"]
        low, high = proportion_interval(round(values["accuracy"] * count), count)
        lines.append(row(fold["fold"], count, [*(f"{values[name]:.3f}" for name in names), f"{low:.3f}–{high:.3f}"]))
    lines.append(row("mean", "", [f"{metrics[name]['mean']:.3f}" for name in names]))
    lines.append(row("standard deviation", "", [f"{metrics[name]['standard_deviation']:.3f}" for name in names]))
    intervals = [f"{metrics[name]['low']:.3f}–{metrics[name]['high']:.3f}" for name in names]
    lines.append(row("95 % interval of mean", "", intervals))
    values = pooled["metrics"]
    interval_of_all = f"{values['accuracy']['low']:.3f}–{values['accuracy']['high']:.3f}"
    cells = [*(f"{values[name]['value']:.3f}" for name in names), interval_of_all]
    lines.append(row("all folds pooled", pooled["recordings"], cells))
    if result.get("baseline"):
        simple = {values["metric"]: f"{values['baseline']['value']:.3f}" for values in result["baseline"]["rows"]}
        count = result["baseline"]["rows"][0]["num_clips"]
        lines += [row("baseline, pooled", count, [simple.get(name, "") for name in names])]
        lines += ["", result["baseline"]["text"]]
    return "\n".join(lines)


def name_folders(folds: Sequence[str]) -> dict[str, str]:
    """Return the folder of each fold: `fold_1`, or its name, with `_` for characters that some file systems reject."""
    folders: dict[str, str] = {}
    for fold in folds:
        plain = folder = "fold_" + re.sub(r"[^\w.-]+", "_", fold)[:100]
        number = 1
        # Some file systems ignore case.
        while folder.lower() in {name.lower() for name in folders.values()}:
            number += 1
            folder = f"{plain}_{number}"
        folders[fold] = folder
    return folders


def collect(
    output_dir: Path, folders: Mapping[str, str], arguments: DataArguments
) -> tuple[dict[str, Any], Evaluation, dict[Path, list[list[str]]]]:
    """
    Collect the results of finished folds.

    Args:
        output_dir: Folder of the cross-validation.
        folders: Folder of each fold.
        arguments: Data options of the cross-validation.

    Returns:
        The result as in [`cross_validate`], the predictions of all folds, and the rows of `out_of_fold.csv` and, if
        the runs have a baseline, of `baseline_out_of_fold.csv`.

    Raises:
        DataError: The models of the folds have different classes, or a file is damaged.
    """
    results, rows, header = [], [], None
    for fold, folder in folders.items():
        own_header, own_rows = read_predictions(output_dir / folder / "predictions" / "test.csv")
        header = header or own_header
        if own_header != header:
            raise DataError(
                f"{output_dir / folder} and {output_dir / next(iter(folders.values()))} have different classes."
            )
        metrics = read_file(output_dir / folder / RESULTS_FILE)
        metrics = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
        metrics = {name: metrics[name] for name in ("loss", *METRICS) if name in metrics}
        results.append({"fold": fold, "folder": folder, "recordings": len(own_rows), "metrics": metrics})
        rows += [[fold, *row] for row in own_rows]
    is_multi_label = arguments.problem_type == "multi_label_classification"
    rows.sort(key=lambda row: row[1])
    background = background_name(arguments.background)
    evaluation = as_evaluation(header, [row[1:] for row in rows], is_multi_label, POOLED, background)
    names = [name for name in results[0]["metrics"] if all(name in result["metrics"] for result in results)]
    result = {
        "folds": results,
        "metrics": {name: over_folds([result["metrics"][name] for result in results], name) for name in names},
        "out_of_fold": {"recordings": len(rows), "metrics": _pooled_metrics(evaluation)},
    }
    tables = {PREDICTIONS: [["fold", *header], *rows]}
    baseline_rows = pool_baselines(output_dir, folders)
    if baseline_rows:
        tables[BASELINE_PREDICTIONS] = baseline_rows
        baseline = as_evaluation(baseline_rows[0], baseline_rows[1:], is_multi_label, POOLED, background)
        result["baseline"] = compare_with_baseline({POOLED: evaluation}, {POOLED: baseline})
    return result, evaluation, tables


def read_out_of_fold(output_dir: str | Path) -> Evaluation:
    """
    Return the predictions of a finished cross-validation.

    Raises:
        DataError: The cross-validation is not finished, or a file is damaged.
    """
    output_dir = Path(output_dir)
    folds = read_file(output_dir / CROSS_VALIDATION_FILE).get("folds")
    if not folds:
        raise DataError(f"{output_dir}: the cross-validation is not finished. Run its command again.")
    options = read_file(output_dir / folds[0]["folder"] / OPTIONS_FILE)
    header, rows = read_predictions(output_dir / PREDICTIONS)
    is_multi_label = options.get("problem_type") == "multi_label_classification"
    return as_evaluation(header, rows, is_multi_label, POOLED, background_name(options.get("background")))


def over_folds(values: Sequence[float], metric: str) -> dict[str, float]:
    """
    Return `mean`, `standard_deviation` (over folds, with n - 1) and the 95 % interval of the mean (`low`, `high`) by
    Student's t. Except for the loss, the interval is clipped to 0 to 1.
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    margin = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    low, high = mean - margin, mean + margin
    if metric in METRICS:
        low, high = max(0.0, low), min(1.0, high)
    return {"mean": mean, "standard_deviation": deviation, "low": low, "high": high}


def _check_options(data: DataArguments, training: AudioTrainingArguments) -> None:
    check_fold_options(data)
    if is_resumption(training.resume_from_checkpoint):
        raise UsageError("Leave out --resume_from_checkpoint: the same command resumes a cross-validation.")
    if training.push_to_hub and not training.final_model:
        raise UsageError("--push_to_hub with --folds uploads the final model. Add --final_model true.")
    if training.final_model:
        # Raise its errors before any training.
        without_evaluation(training)


def _check_output(output_dir: Path, data: DataArguments, table: str) -> None:
    """Raise a UsageError if the folder contains a single run, or a cross-validation with other folds."""
    if not is_cross_validation(output_dir) and any((output_dir / n).exists() for n in (OPTIONS_FILE, "config.json")):
        raise UsageError(f"{output_dir} contains a single run. Use another --output_dir.")
    for path in sorted(output_dir.glob(f"fold_*/{OPTIONS_FILE}")):
        old = read_file(path)
        for name in ("folds", "fold_pattern", "group_pattern"):
            if old.get(name) != getattr(data, name) and is_cross_validation(output_dir):
                raise UsageError(
                    f"{output_dir} contains a cross-validation with {name}={old.get(name, 'its default')}, not "
                    f"{getattr(data, name) or 'its default'}. {RESTART}"
                )
    if not (output_dir / FOLDS_FILE).is_file():
        return
    old, new = (_read_folds(text) for text in ((output_dir / FOLDS_FILE).read_bytes().decode(), table))
    old_places, new_places = (Counter(row[:2] for row in rows.elements()) for rows in (old, new))
    if old_places == new_places:
        changed_labels = sorted((new - old).elements())
        # Files of an earlier version contain no labels.
        if changed_labels and all(len(row) > 2 for row in old):
            name, _, label = changed_labels[0]
            raise UsageError(
                f"The labels differ from those of the cross-validation in {output_dir}: {len(changed_labels)} "
                f"changed, the first: {name} (now {label}). {RESTART}"
            )
        return
    new, gone = new_places - old_places, old_places - new_places
    first = min(new + gone)
    raise UsageError(
        f"The recordings or their folds differ from those of the cross-validation in {output_dir}: "
        f"{len(new)} new and {len(gone)} missing, the first: {first[0]} (fold {first[1]}). {RESTART}"
    )


def _read_folds(table: str) -> Counter:
    # macOS lists file names in another Unicode form.
    table = unicodedata.normalize("NFC", table)
    return Counter(tuple(row) for row in list(csv.reader(io.StringIO(table, newline="")))[1:])


def _delete_runs(output_dir: Path) -> None:
    """Delete all runs of an earlier cross-validation, including folds that no longer exist."""
    for folder in (*output_dir.glob("fold_*"), output_dir / FINAL):
        if (folder / OPTIONS_FILE).is_file():
            shutil.rmtree(folder)
    for name in (CROSS_VALIDATION_FILE, FOLDS_FILE, PREDICTIONS, BASELINE_PREDICTIONS):
        (output_dir / name).unlink(missing_ok=True)


def _arguments_for(arguments: AudioTrainingArguments, folder: Path, is_final: bool = False) -> AudioTrainingArguments:
    """Return the options of one run of a cross-validation, as if it were trained alone."""
    name = Path(arguments.output_dir).resolve().name
    # dataclasses.replace would check and convert the options a second time.
    arguments = copy.copy(arguments)
    arguments.output_dir, arguments.final_model = str(folder), False
    if arguments.run_name is not None:
        arguments.run_name = f"{arguments.run_name}-{folder.name}"
    if not is_final:
        arguments.push_to_hub = False
    elif arguments.push_to_hub and arguments.hub_model_id is None:
        arguments.hub_model_id = name
    return arguments


def _pooled_metrics(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return the `value` of each metric, with a 95 % interval (`low`, `high`) if there is one."""
    intervals = {name: interval(values[0]) for name, values in bootstrap([evaluation], seed=0).items()}
    # Wilson's interval also holds for few clips and for an accuracy of 100 %.
    low, high = accuracy_interval(evaluation)
    intervals["accuracy"] = {"low": low, "high": high}
    return {name: {"value": value, **intervals.get(name, {})} for name, value in evaluation.metrics.items()}


def _write_results(
    output_dir: Path,
    result: Mapping[str, Any],
    evaluation: Evaluation,
    tables: Mapping[Path, Sequence[Sequence[str]]],
    source: Dataset,
    arguments: DataArguments,
) -> None:
    for name, rows in tables.items():
        with write_atomically(output_dir / name) as file:
            file.write(_format_csv(rows).encode())
    # If several recordings have the same name, the row of a prediction is ambiguous.
    names = Counter(source["file"])
    places = {name: index for index, name in enumerate(source["file"]) if names[name] == 1}
    model, extractor = (
        read_file(output_dir / result["folds"][0]["folder"] / name)
        for name in ("config.json", "preprocessor_config.json")
    )
    rate = extractor.get("sampling_rate", DEFAULT_SAMPLING_RATE)
    num_tested = result["out_of_fold"]["recordings"]
    unread = f"; {len(source) - num_tested} of {len(source)} unreadable" if num_tested < len(source) else ""
    facts = {
        "Model": model.get("model_type", ""),
        "Recordings": Path(arguments.data_dir or arguments.manifest or arguments.dataset_name).name + unread,
        "Folds": f"{len(result['folds'])}, "
        + (f"by --fold_pattern {arguments.fold_pattern}" if arguments.fold_pattern else "stratified by class")
        + (f"; groups by {arguments.group_pattern}" if arguments.group_pattern else ""),
    }
    write_report(
        output_dir / "report.html",
        title=f"Cross-validation: {output_dir.resolve().name}",
        facts=facts,
        evaluations={POOLED: evaluation},
        durations={},
        log_history=[],
        load_clip=lambda _, index: load_recording(source[places[evaluation.files[index]]], rate),
        sampling_rate=rate,
        cross_validation=result,
        baseline=result.get("baseline"),
    )
    with write_atomically(output_dir / CROSS_VALIDATION_FILE) as file:
        file.write(json.dumps(result, indent=2, ensure_ascii=False).encode())


def _format_csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
