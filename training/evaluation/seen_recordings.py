# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Find evaluation recordings that a model was trained on, under any name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from transformers.utils import logging

from sanet_hf.errors import DataError
from sanet_hf.training.data.record import UNLABELED, Record, find_record, read_record, seen_digests, write_record
from sanet_hf.training.data.recording_checks import hash_recordings
from sanet_hf.training.run_folder import show_model
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

MAX_EXAMPLES = 5


def leave_out_seen(recordings: Dataset, split: str, sampling_rate: int, model_rates: Mapping[str, int]) -> Dataset:
    """
    Skip recordings that at least one of several models was trained on, with a warning.

    Except in the split `validation`, also skip recordings that selected a model's best epoch. Do not change the split
    `train`.

    Args:
        recordings: Evaluation recordings, as [`load_recordings`] returns them.
        split: Name of their split; `all` for a source without splits.
        sampling_rate: Sampling rate of the recordings' hashes in Hz.
        model_rates: Sampling rate in Hz of each model (folder of a run or Hub id).

    Returns:
        The remaining recordings, in the same order.

    Raises:
        DataError: None remain.
    """
    if split == "train":
        return recordings
    seen: set[int] = set()
    for name, rate in model_rates.items():
        record = find_record(name)
        # The hashes of a record are of samples at the model's sampling rate.
        digests = recordings["digest"][:] if rate == sampling_rate else hash_recordings(recordings, rate)
        if record is None or not all(digests):
            reason = "it does not list its training recordings" if record is None else "recordings are not checked"
            logger.warning(f"Cannot check whether {name} was trained on some of these recordings: {reason}.")
            continue
        seen_by_model = seen_digests(record, with_validation=split != "validation")
        seen |= {index for index, digest in enumerate(digests) if digest in seen_by_model}
    if not seen:
        return recordings
    models = " or ".join(model_rates)
    if len(seen) == len(recordings):
        raise DataError(
            f"{models} was trained on all {len(seen)} recordings, so none remain for evaluation. Use other "
            "recordings, or --split train to evaluate on the training recordings."
        )
    logger.warning(
        f"Skipped {len(seen)} of {len(recordings)} recordings, because {models} was trained on them: "
        f"{_examples(recordings, seen)}."
    )
    return recordings.select([index for index in range(len(recordings)) if index not in seen])


def warn_of_seen(
    recordings: Mapping[str, Dataset],
    record: Record,
    name: str,
    digests: Mapping[str, Sequence[str]] | None = None,
    is_teacher: bool = False,
) -> list[str]:
    """
    Warn of validation and test recordings that a model was already trained on.

    Args:
        recordings: Splits as [`load_recordings`] returns them.
        record: Record of the model's recordings.
        name: Name of the model for the warning.
        digests: Digests of the recordings of each split, if the record has another sampling rate.
        is_teacher: Whether the model is a teacher of the trained model.

    Returns:
        The warnings without the names of recordings.
    """
    texts = []
    for split, dataset in recordings.items():
        seen_before = seen_digests(record, with_validation=split == "test")
        column = dataset["digest"] if digests is None else digests[split]
        seen = {index for index, digest in enumerate(column) if digest in seen_before}
        if split not in ("train", UNLABELED) and seen:
            subject = f"The teacher {name}" if is_teacher else name
            texts.append(
                f"{subject} was already trained on {len(seen)} of {len(dataset)} {split} recordings, so that scores "
                "on them are too high"
            )
            logger.warning(f"{texts[-1]}: {_examples(dataset, seen)}.")
    return texts


def record_run(
    path: Path,
    recordings: Mapping[str, Dataset],
    sampling_rate: int,
    base_model: str | None,
    teachers: Mapping[str, int],
    checkpoint: str | None,
    is_refit: bool,
) -> list[str]:
    """
    Write the record of a model's recordings, including earlier training recordings of the model and its teachers. Warn
    if these contain validation or test recordings.

    Args:
        path: `RECORD_FILE` in the folder of the run.
        recordings: Splits, and recordings without labels, as in [`write_record`].
        sampling_rate: Sampling rate of their hashes in Hz.
        base_model: Folder or Hub id of the model from which training starts.
        teachers: Sampling rate of each teacher in Hz, by folder or Hub id.
        checkpoint: Checkpoint to resume from, whose record has the earlier recordings.
        is_refit: As in [`write_record`].

    Returns:
        Sentences for a report about teachers that were or may have been trained on validation or test recordings.
    """
    record = (read_record(path) or find_record(checkpoint)) if checkpoint else None
    earlier = {split: set(digests) for split, digests in (record or {}).items()}
    if base_model and Path(base_model).is_dir() and record is None:
        found = find_record(base_model)
        if found is None:
            logger.warning(f"{base_model} does not list its training recordings. Some may be in validation or test.")
        else:
            warn_of_seen(recordings, found, base_model)
            _add(earlier, found)
    texts = []
    for name, rate in teachers.items():
        found, shown = find_record(name), show_model(name)
        if found is None:
            texts.append(
                f"The teacher {shown} does not list its training recordings. If some are in validation or test, "
                "scores are too high"
            )
            logger.warning(f"{texts[-1]}.")
            continue
        digests = None
        if rate != sampling_rate:
            digests = {split: hash_recordings(dataset, rate) for split, dataset in recordings.items()}
        texts += warn_of_seen(recordings, found, shown, digests, is_teacher=True)
        if digests is None:
            _add(earlier, found)
        else:
            # For recordings that are not available, the hash at this rate is not known.
            pairs = {
                other: own for split in digests for other, own in zip(digests[split], recordings[split]["digest"])
            }
            _add(earlier, {split: {pairs[one] for one in ones if one in pairs} for split, ones in found.items()})
    write_record(path, recordings, earlier, is_refit)
    return texts


def _add(earlier: dict[str, set[str]], record: Record) -> None:
    for split, digests in record.items():
        earlier.setdefault(split, set()).update(digests)


def _examples(recordings: Dataset, indices: set[int]) -> str:
    return shorten([recordings[index]["file"] for index in sorted(indices)], MAX_EXAMPLES)
