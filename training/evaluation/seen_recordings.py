# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings that a model was trained on, under whatever name, are no test of it."""

from collections.abc import Mapping

from datasets import Dataset, DatasetDict
from transformers.utils import logging

from sanet_hf.errors import DataError
from sanet_hf.training.data.record import Record, find_record, seen_digests
from sanet_hf.training.data.recording_checks import hash_recordings
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


def warn_of_seen(recordings: DatasetDict, record: Record, name: str) -> None:
    """
    Warn of recordings to validate or test on that a model was trained on before.

    Args:
        recordings: Splits as [`load_recordings`] gives them.
        record: What the model was trained on.
        name: What the warning calls the model.
    """
    for split, dataset in recordings.items():
        seen_before = seen_digests(record, with_validation=split == "test")
        seen = {index for index, digest in enumerate(dataset["digest"]) if digest in seen_before}
        if split != "train" and seen:
            logger.warning(
                f"{name} was trained on {len(seen)} of {len(dataset)} {split} recordings already, so that scores on "
                f"them are flattering: {_examples(dataset, seen)}."
            )


def _examples(recordings: Dataset, indices: set[int]) -> str:
    return shorten([recordings[index]["file"] for index in sorted(indices)], MAX_EXAMPLES)
