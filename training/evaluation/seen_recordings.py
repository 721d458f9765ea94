# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings that a model was trained on, under whatever name, are no test of it."""

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
    Leave out recordings that one of several models was trained on, with a warning that names some.

    Recordings of other splits than `validation` are left out also where a model's best epoch was chosen by them. The
    `train` split is left as it is.

    Args:
        recordings: To evaluate the models on, as [`load_recordings`] gives them.
        split: Which split they are; `all` for a source without splits.
        sampling_rate: Of the recordings' hashes, in Hz.
        model_rates: The models, folders of runs or Hub ids, and the sampling rate in Hz of each.

    Returns:
        The recordings that are left, in the same order.

    Raises:
        DataError: None is left.
    """
    if split == "train":
        return recordings
    seen: set[int] = set()
    for name, rate in model_rates.items():
        record = find_record(name)
        # Hashes are of the samples at the rate that the model hears.
        digests = recordings["digest"][:] if rate == sampling_rate else hash_recordings(recordings, rate)
        if record is None or not all(digests):
            reason = "it does not list what it was trained on" if record is None else "recordings are not checked"
            logger.warning(f"Whether {name} was trained on some of these recordings is not known: {reason}.")
            continue
        seen_by_model = seen_digests(record, with_validation=split != "validation")
        seen |= {index for index, digest in enumerate(digests) if digest in seen_by_model}
    if not seen:
        return recordings
    models = " or ".join(model_rates)
    if len(seen) == len(recordings):
        raise DataError(
            f"{models} was trained on all {len(seen)} recordings: none is left to evaluate on. "
            "--split train evaluates on the recordings of the training."
        )
    logger.warning(
        f"{len(seen)} of {len(recordings)} recordings are left out, since {models} was trained on them: "
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
    Warn of recordings to validate or test on that a model was trained on before.

    Args:
        recordings: Splits as [`load_recordings`] gives them.
        record: What the model was trained on.
        name: What the warning calls the model.
        digests: Of the recordings of each split, where the record has those at another sampling rate.
        is_teacher: Whether the model teaches the one that is trained.

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
                f"{subject} was trained on {len(seen)} of {len(dataset)} {split} recordings already, so that scores "
                "on them are flattering"
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
    Write what a model is trained on, and what it or its teachers were trained on before; warn of recordings of
    validation and test among the latter.

    Args:
        path: `RECORD_FILE` in the folder of the run.
        recordings: Splits, and recordings without labels, as [`write_record`] takes them.
        sampling_rate: Of their hashes, in Hz.
        base_model: Folder or Hub id of the model that training starts from.
        teachers: The sampling rate of each teacher in Hz, by folder or Hub id.
        checkpoint: That the training resumes from: what was before is in its record.
        is_refit: As in [`write_record`].

    Returns:
        What a report says of teachers that have seen recordings of validation or test, or may have.
    """
    record = (read_record(path) or find_record(checkpoint)) if checkpoint else None
    earlier = {split: set(digests) for split, digests in (record or {}).items()}
    if base_model and Path(base_model).is_dir() and record is None:
        found = find_record(base_model)
        if found is None:
            logger.warning(f"{base_model} does not list what it was trained on: a part may be in validation or test.")
        else:
            warn_of_seen(recordings, found, base_model)
            _add(earlier, found)
    texts = []
    for name, rate in teachers.items():
        found, shown = find_record(name), show_model(name)
        if found is None:
            texts.append(
                f"The teacher {shown} does not list what it was trained on: where a part is in validation or test, "
                "scores are flattering"
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
            # Of recordings that are not here, the hash at this rate is not known.
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
