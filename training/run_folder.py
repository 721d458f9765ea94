# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of a training run: its lock, its options, its results, and the checkpoint to resume from."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import DATA_SOURCES, AudioTrainingArguments
from sanet_hf.training.checkpoints import PREFIX, STATE_FILE, find_last_checkpoint
from sanet_hf.training.resumption import DATA_FILE, check_options, check_state, find_changes, list_changes


LOCK_FILE = ".train.lock"
OPTIONS_FILE = "train_options.yaml"
# Written last: a run that has it is finished.
RESULTS_FILE = "all_results.json"
# Files of a cross-validation, whose runs are in folders below.
CROSS_VALIDATION_FILE = "cross_validation.json"
FOLDS_FILE = "folds.csv"
# Options that say where things lie here, and are nobody else's business.
LOCAL_OPTIONS = (*DATA_SOURCES, "model_name_or_path")
# Options that change nothing in the weights, so that a run may be resumed with others.
FREE_OPTIONS = {
    *(
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
    ),
    *("disable_tqdm", "hub_model_id", "hub_private_repo", "hub_strategy", "log_level", "logging_first_step"),
    *("logging_steps", "logging_strategy", "push_to_hub", "report_to", "run_name", "save_total_limit"),
}
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


def find_checkpoint(output_dir: Path, options: Mapping, arguments: AudioTrainingArguments) -> str | None:
    """
    The checkpoint to resume from, if there is one.

    Raises:
        UsageError: The folder holds a run that other options describe, and `resume_from_checkpoint` is not given; or
            an option was changed that cannot count on resuming.
    """
    checkpoint = _find_checkpoint(output_dir, options, arguments)
    if checkpoint is not None:
        check_state(checkpoint)
        old = read_options(Path(checkpoint).parent)
        # Of a checkpoint that another program saved, nothing is known.
        if old:
            check_options(checkpoint, find_changes(old, options, FREE_OPTIONS), options, arguments.world_size)
    return checkpoint


def _find_checkpoint(output_dir: Path, options: Mapping, arguments: AudioTrainingArguments) -> str | None:
    resume = arguments.resume_from_checkpoint
    if arguments.overwrite_output_dir:
        _delete_run(output_dir)
        return None
    if resume and resume.lower() not in ("true", "false"):
        if not Path(resume).is_dir():
            raise UsageError(f"--resume_from_checkpoint {resume}: there is no such folder.")
        if not (Path(resume) / STATE_FILE).is_file():
            raise UsageError(f"--resume_from_checkpoint {resume}: the folder holds no checkpoint of a training.")
        return resume
    checkpoint = find_last_checkpoint(output_dir)
    if resume and resume.lower() == "true":
        if checkpoint is None:
            raise UsageError(f"--resume_from_checkpoint: {output_dir} holds no checkpoint to go on from.")
        return checkpoint
    anew = "Choose another --output_dir, or start anew with --overwrite_output_dir true."
    options_file = output_dir / OPTIONS_FILE
    if not options_file.is_file() and (checkpoint is not None or (output_dir / "config.json").exists()):
        raise UsageError(f"{output_dir} already holds a model. {anew}")
    if checkpoint is None and not is_finished(output_dir):
        return None
    changes = find_changes(read_file(options_file), options, FREE_OPTIONS)
    if changes:
        raise UsageError(
            f"{output_dir} holds a run with other options: {list_changes(changes)}. {anew} To resume it all the same: "
            "--resume_from_checkpoint true."
        )
    return None if is_finished(output_dir) else checkpoint


def _delete_run(output_dir: Path) -> None:
    """Delete what tells a run to go on; the rest is written over at its end."""
    for path in output_dir.glob(f"{PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)
    for name in (OPTIONS_FILE, RESULTS_FILE, DATA_FILE):
        (output_dir / name).unlink(missing_ok=True)
