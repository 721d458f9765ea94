# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of a training run: its lock, its options, its results."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from sanet_hf.audio.folders import find_split_folders
from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import DATA_SOURCES, AudioTrainingArguments, DataArguments, is_resumption
from sanet_hf.utils.files import OPTIONS_FILE


LOCK_FILE = ".train.lock"
# Written last: a run that has it is finished.
RESULTS_FILE = "all_results.json"
RECIPE_FILE = "recipe.yaml"
# Reason in a recipe for an option that was not chosen, and the options that limit a training.
GIVEN, DURATIONS = "given as an option", ("num_train_epochs", "max_steps", "max_minutes")
# Checkpoints of the second phase of a training with `--refit`. `Trainer` does not upload names with this underscore.
REFIT_FOLDER = "_refit"
# Files of a cross-validation, whose runs are in subfolders.
CROSS_VALIDATION_FILE = "cross_validation.json"
FOLDS_FILE = "folds.csv"
# Options with local paths, which are private.
LOCAL_OPTIONS = (*DATA_SOURCES, "model_name_or_path", "background_dir", "teacher", "unlabeled_dir")
# The remedy if a folder contains another run.
RESTART = "Use another --output_dir, or start again with --overwrite_output_dir true."
METRIC_PREFIXES = {"train": "train", "validation": "eval", "test": "test"}


def read_options(name: str | Path) -> dict:
    """Return the options of the run in a folder that differ from the defaults; empty if there is no run."""
    return read_file(Path(name) / OPTIONS_FILE)


def read_file(path: Path) -> dict:
    """
    Return the options or results in a YAML or JSON file; empty if the file does not exist.

    Raises:
        DataError: The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        # YAML would read the number 1e-05 as text.
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged: it is not a mapping of names to values.")
    return values


def are_epochs_chosen(output_dir: str | Path) -> bool:
    """Return whether a recipe chose the length of the training in a folder, rather than the user."""
    path = Path(output_dir) / RECIPE_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    reasons = {line.split(":")[0]: reason.removeprefix("# ") for reason, line in pairwise(lines)}
    return "num_train_epochs" in reasons and GIVEN not in map(reasons.get, DURATIONS)


def is_finished(output_dir: str | Path) -> bool:
    """Return whether a run was trained and evaluated to the end."""
    return (Path(output_dir) / RESULTS_FILE).is_file()


def is_left_alone(arguments: AudioTrainingArguments) -> bool:
    """Return whether `output_dir` contains a finished run that is neither overwritten nor resumed."""
    is_resumed = is_resumption(arguments.resume_from_checkpoint)
    return is_finished(arguments.output_dir) and not is_resumed and not arguments.overwrite_output_dir


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """
    Lock the folder for this run. The operating system releases the lock of a killed run.

    Raises:
        UsageError: Another training has locked the folder.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"Another `sanet train` is writing to {output_dir}. Wait until it has ended, or use another --output_dir."
        ) from None
    try:
        yield
    finally:
        # Remove the lock file, because the folder may be shared as a model. Windows cannot delete an open file.
        with suppress(OSError):
            path.unlink()
        lock.release()


def is_cross_validation(output_dir: str | Path) -> bool:
    """Return whether a folder contains a cross-validation, perhaps unfinished, instead of a single run."""
    return any((Path(output_dir) / name).is_file() for name in (CROSS_VALIDATION_FILE, FOLDS_FILE))


def show_model(name: str) -> str:
    """Return a model name to publish: a Hub id, or a folder without its path; for a fold, the last two folders."""
    path = Path(name).resolve()
    if not path.is_dir():
        return name
    return f"{path.parent.name}/{path.name}" if is_cross_validation(path.parent) else path.name


def check_output(output_dir: Path, arguments: DataArguments, unlabeled_dir: str | None = None) -> None:
    """
    Check that the output is not written into a folder of recordings.

    Raises:
        UsageError: It is, so that the next training would read it as recordings; or `unlabeled_dir` does not exist.
    """
    output = output_dir.resolve()
    if unlabeled_dir is not None:
        if not Path(unlabeled_dir).is_dir():
            raise UsageError(f"--unlabeled_dir {unlabeled_dir}: folder not found.")
        if Path(unlabeled_dir).resolve() in (output, *output.parents):
            raise UsageError(
                f"--output_dir {output_dir} is inside --unlabeled_dir {unlabeled_dir}. Use a folder outside it."
            )
    if not arguments.data_dir or not Path(arguments.data_dir).is_dir():
        return
    data_dir = Path(arguments.data_dir).resolve()
    if output == data_dir or (data_dir in output.parents and not find_split_folders(data_dir)):
        raise UsageError(
            f"--output_dir {output_dir} is inside --data_dir {arguments.data_dir}. Use a folder outside it."
        )
