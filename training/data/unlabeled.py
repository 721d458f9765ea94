# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings without labels, for which a model learns its teachers' predictions."""

from collections.abc import Mapping
from pathlib import Path

from datasets import Audio, Dataset, DatasetDict
from transformers.utils import logging

from sanet_hf.audio.folders import list_audio_files
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.record import UNLABELED
from sanet_hf.training.data.recording_checks import check_recordings, leave_out_unreadable
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)


def load_unlabeled(
    folder: str | Path,
    recordings: Mapping[str, Dataset],
    arguments: DataArguments,
    sampling_rate: int,
    num_threads: int = 4,
) -> Dataset:
    """
    Load the recordings of a folder and its subfolders, and check every recording, as [`load_recordings`] does.

    Recordings whose content or file is also in a split are skipped with a message: they have labels there, and the
    model must not be trained on validation and test recordings.

    Args:
        folder: Folder of recordings of any format and length.
        recordings: Splits as [`load_recordings`] returns them.
        arguments: Options `check_recordings` and `max_bad_fraction`.
        sampling_rate: In Hz.
        num_threads: Number of threads that check recordings.

    Returns:
        The recordings in the order of their names, with the columns of the splits. Their label has no meaning.

    Raises:
        DataError: There are no usable recordings, or too many are unreadable.
    """
    folder = Path(folder)
    paths = [str(path.resolve()) for path in list_audio_files(folder, is_deep=True)]
    if not paths:
        raise DataError(f"--unlabeled_dir {folder} contains no recordings, such as .wav, .flac or .mp3 files.")
    source = Dataset.from_dict({"audio": paths, "file": paths, "key": paths}).cast_column("audio", Audio(decode=False))
    rows = {UNLABELED: (UNLABELED, range(len(source)))}
    source = DatasetDict({UNLABELED: source})
    checks = check_recordings(source, rows, sampling_rate, num_threads, arguments.check_recordings)
    _, indices = leave_out_unreadable(source, rows, checks, arguments.max_bad_fraction)[UNLABELED]
    found, checks = source[UNLABELED], checks[UNLABELED]
    digests = {digest for dataset in recordings.values() for digest in dataset["digest"] if digest}
    files = {_find_file(audio) for dataset in recordings.values() for audio in dataset["audio"]}
    seen = [index for index in indices if checks[index].content_hash in digests or paths[index] in files]
    if seen:
        logger.warning(
            f"Skipped {len(seen)} of {len(paths)} recordings of --unlabeled_dir that are also in "
            f"{' or '.join(recordings)}: {shorten([paths[index] for index in seen])}."
        )
    if not arguments.check_recordings:
        logger.warning(
            "With --check_recordings false, copies of validation or test recordings in --unlabeled_dir are not "
            "detected."
        )
    indices = sorted(set(indices) - set(seen))
    # Teachers' predictions on silence have no meaning.
    silent = [index for index in indices if checks[index].is_silent]
    indices = [index for index in indices if not checks[index].is_silent]
    if silent:
        logger.warning(
            f"Skipped {len(silent)} silent recordings of --unlabeled_dir: "
            f"{shorten([paths[index] for index in silent])}."
        )
    if not indices:
        raise DataError(f"--unlabeled_dir {folder}: no usable recordings remain.")
    features = next(iter(recordings.values())).features
    columns = {
        "seconds": [checks[index].seconds for index in indices],
        "digest": [checks[index].content_hash for index in indices],
        "label": [0 if hasattr(features["label"], "names") else []] * len(indices),
    }
    return (
        found.select(indices)
        .add_column("seconds", columns["seconds"])
        .add_column("digest", columns["digest"])
        .add_column("label", columns["label"], feature=features["label"])
    )


def _find_file(audio: Mapping | None) -> str | None:
    path = (audio or {}).get("path")
    return str(Path(path).resolve()) if path and (audio or {}).get("bytes") is None else None
