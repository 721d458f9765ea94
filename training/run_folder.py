# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of a training run: its lock, its options, its results."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from sanet_hf.audio.folders import find_split_folders
from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import DATA_SOURCES, AudioTrainingArguments, DataArguments, is_resumption


LOCK_FILE = ".train.lock"
OPTIONS_FILE = "train_options.yaml"
# Written last: a run that has it is finished.
RESULTS_FILE = "all_results.json"
# Checkpoints of the second phase of a training with `--refit`; `Trainer` uploads no file whose name begins like this.
REFIT_FOLDER = "_refit"
# Files of a cross-validation, whose runs are in folders below.
CROSS_VALIDATION_FILE = "cross_validation.json"
FOLDS_FILE = "folds.csv"
# Options that say where things lie here, and are nobody else's business.
LOCAL_OPTIONS = (*DATA_SOURCES, "model_name_or_path", "background_dir", "teacher", "unlabeled_dir")
# How to go on where a folder holds another run.
START_ANEW = "Choose another --output_dir, or start anew with --overwrite_output_dir true."
METRIC_PREFIXES = {"train": "train", "validation": "eval", "test": "test"}


def read_options(name: str | Path) -> dict:
    """Options that differ from the defaults of the training run that left a folder; none where there is no such."""
    return read_file(Path(name) / OPTIONS_FILE)


def read_file(path: Path) -> dict:
    """
    The options or results in a YAML or JSON file; none where there is no such file.

    Raises:
        DataError: The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        # JSON is nearly YAML, but YAML takes 1e-05 for text.
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged: it holds no options.")
    return values


def is_finished(output_dir: str | Path) -> bool:
    """Whether a run trained and was evaluated to the end."""
    return (Path(output_dir) / RESULTS_FILE).is_file()


def is_left_alone(arguments: AudioTrainingArguments) -> bool:
    """Whether `output_dir` holds a finished run that is neither overwritten nor resumed."""
    is_resumed = is_resumption(arguments.resume_from_checkpoint)
    return is_finished(arguments.output_dir) and not is_resumed and not arguments.overwrite_output_dir


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """
    The folder for this run alone. The system releases the lock of a run that was killed.

    Raises:
        UsageError: Another training has it.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"Another `sanet train` is writing to {output_dir}. Wait until it has ended, or choose another "
            "--output_dir."
        ) from None
    try:
        yield
    finally:
        # The folder is a model to share. Windows deletes no open file.
        with suppress(OSError):
            path.unlink()
        lock.release()


def is_cross_validation(output_dir: str | Path) -> bool:
    """Whether a folder holds a cross-validation, perhaps unfinished, instead of a run."""
    return any((Path(output_dir) / name).is_file() for name in (CROSS_VALIDATION_FILE, FOLDS_FILE))


def show_model(name: str) -> str:
    """Return the name of a model for others: a Hub id, or a folder without the way to it; of a fold, with its run."""
    path = Path(name).resolve()
    if not path.is_dir():
        return name
    return f"{path.parent.name}/{path.name}" if is_cross_validation(path.parent) else path.name


def check_output(output_dir: Path, arguments: DataArguments, unlabeled_dir: str | None = None) -> None:
    """
    Raises:
        UsageError: The next training would take the output for a class of its recordings, or for recordings without
            labels; or there is no folder of the latter.
    """
    output = output_dir.resolve()
    if unlabeled_dir is not None:
        if not Path(unlabeled_dir).is_dir():
            raise UsageError(f"--unlabeled_dir {unlabeled_dir}: there is no such folder.")
        if Path(unlabeled_dir).resolve() in (output, *output.parents):
            raise UsageError(f"--output_dir {output_dir} is in the folder of --unlabeled_dir, {unlabeled_dir}.")
    if not arguments.data_dir or not Path(arguments.data_dir).is_dir():
        return
    data_dir = Path(arguments.data_dir).resolve()
    if output == data_dir or (data_dir in output.parents and not find_split_folders(data_dir)):
        raise UsageError(f"--output_dir {output_dir} is in the folder of the recordings, {arguments.data_dir}.")
