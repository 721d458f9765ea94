# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Find the checkpoint to resume from, and check that options and data agree with the interrupted training."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import yaml
from transformers.utils import logging

from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import AudioTrainingArguments, is_resumption
from sanet_hf.training.checkpoints import PREFIX, STATE_FILE, TRAINING_WEIGHTS_FILE, find_last_checkpoint
from sanet_hf.training.run_folder import (
    OPTIONS_FILE,
    REFIT_FOLDER,
    RESTART,
    RESULTS_FILE,
    is_finished,
    read_file,
    read_options,
)


logger = logging.get_logger(__name__)

# Fingerprint of the recordings of a run; see `data_fingerprint`.
DATA_FILE = "training_data.json"
# Shown as the value of an option that is missing in a file of options.
DEFAULT = "default"
# Options that cannot change when training resumes, and why.
FIXED = {
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), "it has selected the best epoch so far"),
    **dict.fromkeys(("optim", "optim_args"), "the checkpoint contains the state of the other optimizer"),
    **dict.fromkeys(("averaged_epochs", "averaged_fraction"), "the checkpoint may contain another average"),
    "problem_type": "the model was trained for another kind of labels",
}
BATCH_OPTIONS = ("per_device_train_batch_size", "gradient_accumulation_steps")
# Schedules whose state includes the learning rate.
SCHEDULES_WITH_RATE = ("reduce_lr_on_plateau", "greedy")
RESUME_ANYWAY = "To resume anyway, add --resume_from_checkpoint true."

# Options that do not affect the weights, so that they may change when a run is resumed.
FREE_OPTIONS = {
    *("band_head", "baseline", "cache_audio", "false_alarm_minutes"),
    *(
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
    ),
    *("disable_tqdm", "hub_model_id", "hub_private_repo", "hub_strategy", "log_level", "logging_first_step"),
    *("logging_steps", "logging_strategy", "push_to_hub", "report_to", "run_name", "save_total_limit"),
}
Changes = Mapping[str, tuple[object, object]]


def find_checkpoint(output_dir: Path, options: Mapping, arguments: AudioTrainingArguments) -> str | None:
    """
    Return the checkpoint to resume from, if there is one.

    Raises:
        UsageError: The folder contains a run with other options, and `resume_from_checkpoint` is not given; or an
            option was changed that cannot change when training resumes.
    """
    checkpoint = _find_checkpoint(output_dir, options, arguments)
    if checkpoint is not None:
        check_state(checkpoint)
        old = read_options(Path(checkpoint).parent)
        # A checkpoint from another program has no options to compare with.
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
            raise UsageError(f"--resume_from_checkpoint {resume}: folder not found.")
        if not (Path(resume) / STATE_FILE).is_file():
            raise UsageError(f"--resume_from_checkpoint {resume}: the folder is not a checkpoint of a training.")
        return resume
    checkpoint = find_last_checkpoint(output_dir)
    if resume and resume.lower() == "true":
        if checkpoint is None:
            raise UsageError(f"--resume_from_checkpoint: {output_dir} contains no complete checkpoint.")
        return checkpoint
    options_file = output_dir / OPTIONS_FILE
    if not options_file.is_file() and (checkpoint is not None or (output_dir / "config.json").exists()):
        raise UsageError(f"{output_dir} already contains a model. {RESTART}")
    if checkpoint is None and not is_finished(output_dir):
        return None
    changes = find_changes(read_file(options_file), options, FREE_OPTIONS)
    if changes:
        resuming = "" if checkpoint is None else f" {RESUME_ANYWAY}"
        raise UsageError(
            f"{output_dir} contains a run with other options: {list_changes(changes)}. {RESTART}{resuming}"
        )
    return None if is_finished(output_dir) else checkpoint


def _delete_run(output_dir: Path) -> None:
    """Delete the files that make a run resume. The others are overwritten at the end of the new run."""
    for path in output_dir.glob(f"{PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(output_dir / REFIT_FOLDER, ignore_errors=True)
    for name in (OPTIONS_FILE, RESULTS_FILE, DATA_FILE):
        (output_dir / name).unlink(missing_ok=True)


def find_changes(old: Mapping, new: Mapping, free: Collection[str] = ()) -> Changes:
    """Return the old and the new value of each option that differs, except for those in `free`."""
    pairs = {
        name: (old.get(name, DEFAULT), _as_yaml(new.get(name, DEFAULT))) for name in sorted({*old, *new} - set(free))
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def list_changes(changes: Changes) -> str:
    """Return the options as text: name, old and new value."""
    return ", ".join(f"{name} {old} → {new}" for name, (old, new) in changes.items())


def check_state(checkpoint: str | Path) -> None:
    """
    Check that training can resume from a checkpoint.

    Raises:
        UsageError: The state of the optimizer, the schedule or the random numbers is missing.
    """
    # DeepSpeed stores the state of the optimizer and the schedule elsewhere.
    names = (
        ["rng_state*"] if any(Path(checkpoint).glob("global_step*")) else ["optimizer*", "scheduler*", "rng_state*"]
    )
    missing = [name.rstrip("*") for name in names if not any(Path(checkpoint).glob(name))]
    if missing:
        raise UsageError(
            f"Training cannot resume from {checkpoint}: it has no {', '.join(missing)} (saved with --save_only_model "
            f"true?). {RESTART} To start from its weights, use another --output_dir and --model_name_or_path "
            f"{checkpoint}."
        )


def check_options(checkpoint: str | Path, changes: Changes, options: Mapping, num_processes: int = 1) -> None:
    """
    Refuse options that cannot change when training resumes. Warn of all other changes.

    Args:
        checkpoint: Checkpoint to resume from.
        changes: Options that differ from those of the checkpoint's run.
        options: Current options that differ from their defaults.
        num_processes: Current number of processes.

    Raises:
        UsageError: Names the option, its values and the reason.
    """
    reasons = {name: FIXED[name] for name in changes if name in FIXED}
    if any(name in changes for name in BATCH_OPTIONS):
        sizes = [
            _batch_size(
                {name: changes[name][i] for name in changes}
                | {name: options[name] for name in BATCH_OPTIONS if name in options and name not in changes}
            )
            for i in (0, 1)
        ]
        if sizes[0] != sizes[1]:
            reasons.update(
                {name: "the position in an epoch is counted in batches" for name in BATCH_OPTIONS if name in changes}
            )
    if "lr_scheduler_type" in changes and any(kind in SCHEDULES_WITH_RATE for kind in changes["lr_scheduler_type"]):
        reasons["lr_scheduler_type"] = "the checkpoint contains the state of the other schedule"
    elif options.get("lr_scheduler_type") in SCHEDULES_WITH_RATE:
        reasons.update(
            {
                name: "the schedule of the checkpoint has already changed it"
                for name in ("learning_rate", "head_learning_rate")
                if name in changes
            }
        )
    if (Path(checkpoint) / TRAINING_WEIGHTS_FILE).is_file():
        reasons.update(
            {
                name: "averaging of the weights has already begun"
                for name in ("num_train_epochs", "max_steps", "max_minutes")
                if name in changes
            }
        )
    if reasons:
        name, reason = next(iter(reasons.items()))
        old, new = changes[name]
        raise UsageError(
            f"{checkpoint} was trained with {name}={old}. It cannot be resumed with {new}, because {reason}. {RESTART}"
        )
    if "model_name_or_path" in changes:
        logger.warning("model_name_or_path has no effect when training resumes: the checkpoint has the weights.")
    if changes:
        logger.warning(f"Resuming {checkpoint} with other options: {list_changes(changes)}.")


def check_data(
    checkpoint: str | Path, id2label: Mapping[int, str], fingerprint: Mapping, arguments: AudioTrainingArguments
) -> None:
    """
    Compare classes and recordings with those of a checkpoint's training.

    Args:
        checkpoint: Checkpoint to resume from.
        id2label: Current classes of the model.
        fingerprint: Fingerprint of the current recordings; see [`data_fingerprint`].
        arguments: With `resume_from_checkpoint`, other recordings only give a warning.

    Raises:
        UsageError: The classes differ, or the recordings differ and `resume_from_checkpoint` is not given.
    """
    config = _read_json(Path(checkpoint) / "config.json")
    if "id2label" in config:
        old = [config["id2label"][index] for index in sorted(config["id2label"], key=int)]
        new = [id2label[index] for index in sorted(id2label)]
        if old != new:
            raise UsageError(
                f"{checkpoint} was trained on other classes: {_compare_classes(old, new)}. Its weights do not fit "
                f"the current classes. {RESTART}"
            )
    old = _read_json(Path(checkpoint).parent / DATA_FILE)
    pairs = zip(old.get("teachers", []), fingerprint.get("teachers", []))
    changed = [name for (_, before), (name, now) in pairs if before != now]
    if changed:
        message = f"The teacher {', '.join(changed)} has changed since the training of {checkpoint}."
        if not is_resumption(arguments.resume_from_checkpoint):
            raise UsageError(f"{message} {RESTART} {RESUME_ANYWAY}")
        logger.warning(f"{message} Training resumes with the current one.")
    if not old or old.get("digest") == fingerprint["digest"]:
        return
    counts = find_changes(old.get("counts", {}), fingerprint["counts"])
    if not counts and old.get("is_checked", True) != fingerprint["is_checked"]:
        logger.warning(
            f"Cannot check whether {checkpoint} was trained on the same recordings: --check_recordings has changed."
        )
        return
    what = f"{list_changes(counts)} recordings" if counts else "the same number, but other contents, labels or splits"
    message = f"{checkpoint} was trained on other recordings: {what}."
    if not is_resumption(arguments.resume_from_checkpoint):
        raise UsageError(f"{message} {RESTART} {RESUME_ANYWAY}")
    logger.warning(f"{message} Training resumes with the current ones.")


def _batch_size(options: Mapping) -> int:
    size, steps = (options.get(name, DEFAULT) for name in BATCH_OPTIONS)
    return (8 if size == DEFAULT else size) * (1 if steps == DEFAULT else steps)


def _compare_classes(old: list[str], new: list[str]) -> str:
    removed, added = [name for name in old if name not in new], [name for name in new if name not in old]
    if not removed and not added:
        return f"the same in another order, {', '.join(old)} → {', '.join(new)}"
    if len(removed) == len(added):
        return f"{', '.join(removed)} renamed or replaced by {', '.join(added)}"
    parts = [f"{', '.join(names)} {verb}" for names, verb in ((removed, "removed"), (added, "added")) if names]
    return "; ".join(parts)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"Training cannot resume: {path} is damaged ({error}). {RESTART}") from error
    return values if isinstance(values, dict) else {}


def _as_yaml(value: object) -> object:
    return yaml.safe_load(yaml.safe_dump(value))
