# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Decode every recording once before training, to find unreadable, silent and duplicate recordings."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from datasets import Dataset, DatasetDict, List
from tqdm.auto import tqdm
from transformers.utils import logging

from sanet_hf.audio.decode import describe_audio
from sanet_hf.audio.levels import SILENCE, largest_amplitude
from sanet_hf.errors import AudioError, DataError
from sanet_hf.training.data.check_cache import CheckCache, RecordingState, find_state
from sanet_hf.training.data.rows import check_end, find_stretch, open_row
from sanet_hf.utils.formatting import MAX_LISTED, format_count, shorten, shorten_lines


logger = logging.get_logger(__name__)


@dataclass
class RecordingCheck:
    """The result of reading a recording: its length and content, or the error."""

    seconds: float = 0.0
    digest: bytes = b""
    is_silent: bool = False
    error: str | None = None

    @property
    def content_hash(self) -> str:
        """Return the digest as text; empty if the recording was not read."""
        return self.digest.hex()[:DIGEST_LENGTH]


# Checks are stored for the next run in batches of this size, which is the most that an interruption loses.
STORED_AT_ONCE = 500
T = TypeVar("T")

DIGEST_LENGTH = 32  # hexadecimal digits, 128 bits

# Rows of a split: the split of the source and the indices in it.
Rows = Mapping[str, tuple[str, Sequence[int]]]
Place = tuple[str, int]


def check_recordings(
    source: DatasetDict, rows: Rows, sampling_rate: int, num_threads: int, is_thorough: bool = True
) -> dict[str, dict[int, RecordingCheck]]:
    """
    Read every recording that was not read before. With several processes, only one reads.

    Args:
        source: As [`read_source`] returns it.
        rows: The recordings to check.
        sampling_rate: In Hz.
        num_threads: Number of threads that read.
        is_thorough: Whether to read recordings. If false, only find their lengths, from headers if these are reliable.

    Returns:
        Checks by split of the source and index.
    """
    places = [(origin, index) for origin, indices in rows.values() for index in indices]
    with ThreadPoolExecutor(num_threads) as pool:

        def apply(function: Callable[[Mapping, int], T], places: Sequence[Place]) -> Iterator[T]:
            return pool.map(lambda place: function(source[place[0]][place[1]], sampling_rate), places)

        if is_thorough:
            checks = _check_new(places, apply)
        else:
            checks = dict(zip(places, apply(_measure, places)))
    by_origin: dict[str, dict[int, RecordingCheck]] = defaultdict(dict)
    for (origin, index), check in checks.items():
        by_origin[origin][index] = check
    return by_origin


def _check_new(places: Sequence[Place], apply: Callable[[Callable, Sequence[Place]], Iterator]) -> dict:
    """Return the stored checks, and check the other recordings. `apply` maps a function over them."""
    cache, states = CheckCache(), list(apply(find_state, places))
    checks = _load(cache, places, states)
    if len(checks) == len(places):
        return checks
    with cache.alone(states):
        checks = _load(cache, places, states)
        before = dict(zip(places, states))
        new = [place for place in places if place not in checks]
        if not new:
            return checks
        bar = tqdm(apply(_check_and_state, new), total=len(new), desc="Checking recordings", unit="file")
        found = {}
        try:
            # `bar` is the first argument of zip, so that the progress bar is finished.
            for (check, state), place in zip(bar, new):
                checks[place] = check
                # Do not store checks of damaged files or files that changed during the check.
                if check.error is None and state is not None and state == before[place]:
                    found[state] = (check.seconds, check.digest, int(check.is_silent))
                if len(found) == STORED_AT_ONCE:
                    cache.store(found)
                    found = {}
        finally:
            cache.store(found)
    return checks


def _load(cache: CheckCache, places: Sequence[Place], states: Sequence[RecordingState | None]) -> dict:
    values = zip(places, cache.load(states))
    return {place: RecordingCheck(*found[:2], bool(found[2])) for place, found in values if found}


def _check_and_state(row: Mapping, sampling_rate: int) -> tuple[RecordingCheck, RecordingState | None]:
    """Return the check of a recording and its state afterwards."""
    return _check(row, sampling_rate), find_state(row, sampling_rate)


def _measure(row: Mapping, sampling_rate: int) -> RecordingCheck:
    """Return a check with only the length of a recording, from its header or by reading it."""
    try:
        source, first, length = find_stretch(row, sampling_rate)
        rate, num_frames = describe_audio(source, row["file"])
    except AudioError as error:
        return RecordingCheck(error=str(error))
    if num_frames is None:
        return dataclasses.replace(_check(row, sampling_rate), digest=b"", is_silent=False)
    # Resampling rounds up.
    num_samples = -(-num_frames * sampling_rate // rate) - first
    if num_samples <= 0:
        return _check(row, sampling_rate)
    return RecordingCheck(seconds=(num_samples if length is None else min(length, num_samples)) / sampling_rate)


def _check(row: Mapping, sampling_rate: int) -> RecordingCheck:
    digest, count, largest = hashlib.sha256(), 0, 0.0
    try:
        for block in open_row(row, sampling_rate).blocks:
            count += len(block)
            digest.update(block)
            largest = max(largest, largest_amplitude(block))
        check_end(row, sampling_rate, count)
    except AudioError as error:
        return RecordingCheck(error=str(error))
    return RecordingCheck(seconds=count / sampling_rate, digest=digest.digest(), is_silent=largest < SILENCE)


def hash_recordings(dataset: Dataset, sampling_rate: int, num_threads: int = 4) -> list[str]:
    """
    Return the hash of each recording of a split.

    Args:
        dataset: A split as [`load_recordings`] returns it.
        sampling_rate: Sampling rate of the hashed samples in Hz.
        num_threads: Number of threads that read recordings.
    """
    rows = {"all": ("all", range(len(dataset)))}
    checks = check_recordings(DatasetDict({"all": dataset}), rows, sampling_rate, num_threads)["all"]
    return [checks[index].content_hash for index in range(len(dataset))]


def leave_out_unreadable(
    source: DatasetDict, rows: Rows, checks: Mapping[str, Mapping[int, RecordingCheck]], max_bad_fraction: float
) -> Rows:
    """
    Return the rows without recordings that cannot be decoded. Warn of these.

    Raises:
        DataError: More than `max_bad_fraction` of them cannot be decoded.
    """
    bad = [check.error for by_index in checks.values() for check in by_index.values() if check.error]
    total = sum(len(indices) for _, indices in rows.values())
    for error in bad[:MAX_LISTED]:
        logger.warning(f"Skipped: {error}")
    if len(bad) > max_bad_fraction * total:
        raise DataError(
            f"{len(bad)} of {total} recordings are unreadable, more than max_bad_fraction={max_bad_fraction:g}. "
            f"Remove them, or set a larger --max_bad_fraction to skip them:{shorten_lines(bad)}"
        )
    if len(bad) > MAX_LISTED:
        logger.warning(f"Skipped:\n  and {len(bad) - MAX_LISTED} more")
    return {
        split: (origin, [index for index in indices if checks[origin][index].error is None])
        for split, (origin, indices) in rows.items()
    }


def warn_of_silence(source: DatasetDict, rows: Rows, checks: Mapping[str, Mapping[int, RecordingCheck]]) -> None:
    """Warn of silent recordings, which are used nevertheless."""
    silent = [
        source[origin][index]["file"]
        for origin, indices in rows.values()
        for index in indices
        if checks[origin][index].is_silent
    ]
    if silent:
        logger.warning(f"{format_count(len(silent), 'silent recording')}, used nevertheless: {shorten(silent)}.")


def warn_of_duplicates(source: DatasetDict, rows: Rows, checks: Mapping[str, Mapping[int, RecordingCheck]]) -> None:
    """Warn of recordings with the same samples in two splits."""
    first: dict[bytes, tuple[str, str, int]] = {}
    pairs = []
    for split, (origin, indices) in rows.items():
        for index in indices:
            check = checks[origin][index]
            if not check.digest:
                continue
            other = first.setdefault(check.digest, (split, origin, index))
            if other[0] != split and not check.is_silent:
                names = source[other[1]][other[2]]["file"], source[origin][index]["file"]
                pairs.append(f"{names[0]} ({other[0]}) = {names[1]} ({split})")
    if pairs:
        logger.warning(
            f"{format_count(len(pairs), 'recording')} in two splits, so that scores are too high: {shorten(pairs)}."
        )


def check_labels(source: DatasetDict, rows: Rows) -> list[str]:
    """
    Return the names of the classes in alphabetical order.

    Raises:
        DataError: A class has no recordings in the training split, or there is only one class.
    """
    labels: dict[str, set[str]] = {}
    for split, (origin, indices) in rows.items():
        column = source[origin]["label"][:]
        labels[split] = _names_in(column[index] for index in indices)
    names = sorted(set().union(*labels.values()))
    if not any(indices for _, indices in rows.values()) or not names:
        raise DataError("No readable recordings with a label remain.")
    if "train" not in rows:
        return names
    for split, found in labels.items():
        unknown = sorted(found - labels["train"])
        if unknown:
            raise DataError(
                f"Classes in {split} but not in train: {shorten(unknown)}. Add training recordings of them."
            )
    lost = _names_in(source[rows["train"][0]]["label"]) - labels["train"]
    if lost:
        raise DataError(f"No readable training recordings remain for: {shorten(sorted(lost))}.")
    is_multi_label = isinstance(source[rows["train"][0]].features["label"], List)
    if len(names) == 1 and not is_multi_label:
        raise DataError(f"Found only one class ({names[0]}). At least two are needed.")
    if "validation" in rows and not rows["validation"][1]:
        raise DataError("No readable recordings remain for validation. Add some, because they select the best epoch.")
    return names


def _names_in(labels: Iterable[str | list[str]]) -> set[str]:
    return {name for label in labels for name in (label if isinstance(label, list) else [label])}
