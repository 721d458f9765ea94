# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings ready to train on: splits, checks of every recording, labels as class indices."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import fsspec
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, List
from tqdm.auto import tqdm
from transformers.utils import logging

from sanet_hf.audio import AudioError, load_audio

from .arguments import DataArguments
from .sources import SPLITS, DataError, read_source


logger = logging.get_logger(__name__)

# Part of each split where the source has none, and of train where only validation is missing.
SPLIT_PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}
HELD_OUT_PARTS = {"train": 0.9, "validation": 0.1}
SILENCE = 1e-4  # largest amplitude, -80 dB of full scale
NUM_SHOWN = 20  # recordings that a message lists
CHECKED_AT_ONCE = 2**24  # samples of a recording that lie in memory; 17 minutes at 16 kHz


def load_recordings(
    arguments: DataArguments, sampling_rate: int = 16000, splits: Collection[str] = SPLITS, num_threads: int = 4
) -> DatasetDict:
    """
    Load recordings, divide them into splits where their source does not, and check every one.

    Recordings that cannot be read are left out with a warning that names them. Silent recordings, and recordings
    that stand in two splits under whatever name, are warned of.

    Args:
        arguments: Where the recordings are; see [`DataArguments`].
        sampling_rate: Sampling rate in Hz at which recordings must be readable.
        splits: What to load of `train`, `validation` and `test`; or `all`, every recording as one split.
        num_threads: Threads that read recordings to check them.

    Returns:
        The splits that there are, with the columns `audio` (not decoded), `file`, `label` (a `ClassLabel`, or a list
        of them where multi-label) and `seconds`.

    Raises:
        DataError: There is nothing to use, too many recordings cannot be read, or labels do not fit.
    """
    source = read_source(arguments)
    rows = _divide(source, arguments, splits)
    if not rows:
        raise DataError(f"There is no {' or '.join(splits)} split: the recordings have {', '.join(source)}.")
    checks = _check_recordings(source, rows, sampling_rate, num_threads)
    rows = _leave_out_unreadable(source, rows, checks, arguments.max_bad_fraction)
    _warn_of_silence(source, rows, checks)
    _warn_of_duplicates(source, rows, checks)
    names = _check_labels(source, rows)
    label = ClassLabel(names=names)
    is_multi_label = arguments.problem_type == "multi_label_classification"
    recordings = DatasetDict()
    for split, (origin, indices) in rows.items():
        dataset = source[origin].select(indices).remove_columns("key")
        dataset = dataset.add_column("seconds", [checks[origin][index].seconds for index in indices])
        recordings[split] = dataset.cast_column("label", List(label) if is_multi_label else label)
    return recordings


def longest_first(dataset: Dataset) -> Dataset:
    """Recordings in the order of their length: batches of them need little padding, and memory runs out at once."""
    return dataset.select(np.argsort(-np.array(dataset["seconds"]), kind="stable"))


@dataclass
class _Check:
    """What reading a recording showed: its length and content, or the error."""

    seconds: float = 0.0
    digest: bytes = b""
    is_silent: bool = False
    error: str | None = None


# Rows of a split: the split of the source and the indices in it.
Rows = Mapping[str, tuple[str, Sequence[int]]]


def _divide(source: DatasetDict, arguments: DataArguments, splits: Collection[str]) -> Rows:
    if "all" in splits:
        if len(source) > 1:
            raise DataError(f"The recordings are in splits already: {', '.join(source)}. Choose one of them.")
        (origin,) = source
        return {"all": (origin, range(len(source[origin])))}
    groups = {split: make_groups(dataset["key"][:], arguments.group_pattern) for split, dataset in source.items()}
    rows = {split: (split, range(len(source[split]))) for split in SPLITS if split in source}
    if "unsplit" in source:
        parts = split_by_hash(source["unsplit"]["label"], groups["unsplit"], SPLIT_PARTS)
        rows = {split: ("unsplit", indices) for split, indices in parts.items()}
    elif "train" not in source and "train" in splits:
        raise DataError(f"The recordings have {', '.join(source)} but no train split to learn from.")
    elif "validation" not in source and "train" in source:
        logger.warning("There is no validation split: a tenth of the training recordings is held out instead.")
        parts = split_by_hash(source["train"]["label"], groups["train"], HELD_OUT_PARTS)
        rows.update({split: ("train", indices) for split, indices in parts.items()})
    if arguments.group_pattern:
        _warn_of_shared_groups(groups)
    return {split: rows[split] for split in SPLITS if split in rows and split in splits and len(rows[split][1])}


def split_by_hash(
    labels: Iterable[str | list[str]], groups: Sequence[str], parts: Mapping[str, float]
) -> dict[str, list[int]]:
    """
    Divide recordings so that every class is divided by `parts` and no group crosses splits, as well as whole groups
    can.

    The order in which groups are dealt out is that of their size and of a hash of their name: the same recordings give
    the same splits wherever they lie and in whatever order they come. Every split gets a group of a class before a
    split gets its second; the first goes to the first split.

    Args:
        labels: Label or labels of each recording.
        groups: Name of each recording's group.
        parts: Part of each split.

    Returns:
        Indices of each split, in ascending order.
    """
    members = defaultdict(list)
    sizes: dict[str, Counter] = defaultdict(Counter)
    for index, (label, group) in enumerate(zip(labels, groups)):
        members[group].append(index)
        sizes[group].update(label if isinstance(label, list) else [label])
    counts = {split: Counter() for split in parts}

    def need(split: str, group: str) -> tuple[int, float]:
        missing = sum(counts[split][label] == 0 for label in sizes[group])
        filled = sum((counts[split][label] + size / 2) / parts[split] for label, size in sizes[group].items())
        return -missing, filled

    indices: dict[str, list[int]] = {split: [] for split in parts}
    for group in sorted(members, key=lambda name: (len(members[name]), hashlib.sha256(name.encode()).digest())):
        split = min(parts, key=partial(need, group=group))
        counts[split].update(sizes[group])
        indices[split] += members[group]
    return {split: sorted(values) for split, values in indices.items()}


def make_groups(keys: Sequence[str], pattern: str | None) -> list[str]:
    """The group of each recording, of which `keys` are names: what the pattern finds, or each one for itself."""
    if pattern is None:
        # Each recording for itself, even where names repeat.
        seen: Counter = Counter()
        groups = []
        for key in keys:
            groups.append(f"{key} {seen[key]}" if seen[key] else key)
            seen[key] += 1
        return groups
    try:
        matches = [re.search(pattern, key) for key in keys]
    except re.error as error:
        raise DataError(f"--group_pattern {pattern!r} is no regular expression: {error}.") from error
    # A group of the expression that took no part in the match is None.
    groups = [match and (match.group(1) if match.re.groups else match.group()) for match in matches]
    unmatched = [key for key, group in zip(keys, groups) if group is None]
    if unmatched:
        raise DataError(
            f"--group_pattern {pattern!r} finds nothing in {len(unmatched)} of {len(keys)} names, the first: "
            f"{unmatched[0]}."
        )
    return groups


def _warn_of_shared_groups(groups: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for split, names in groups.items():
        shared = sorted(name for name in set(names) if seen.setdefault(name, split) != split)
        if shared:
            logger.warning(
                f"{len(shared)} groups of --group_pattern stand in {split} and {seen[shared[0]]}, the first: "
                f"{shared[0]}. The source's own splits are kept; scores on them are flattering."
            )


def _check_recordings(
    source: DatasetDict, rows: Rows, sampling_rate: int, num_threads: int
) -> dict[str, dict[int, _Check]]:
    """Read every recording once."""
    places = [(origin, index) for origin, indices in rows.values() for index in indices]
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda place: _check(source[place[0]][place[1]], sampling_rate), places)
        bar = tqdm(results, total=len(places), desc="Checking recordings", unit="file")
        checks: dict[str, dict[int, _Check]] = defaultdict(dict)
        for (origin, index), check in zip(places, bar):
            checks[origin][index] = check
    return checks


def _check(row: Mapping, sampling_rate: int) -> _Check:
    digest, count, largest = hashlib.sha256(), 0, 0.0
    is_whole = False
    try:
        while not is_whole:
            # From a sample that is known on: where there are none, loading is an error.
            known = min(1, count)
            stretch = load_recording(row, sampling_rate, count - known, CHECKED_AT_ONCE)
            is_whole = len(stretch) < CHECKED_AT_ONCE
            count += len(stretch) - known
            digest.update(stretch[known:])
            largest = max(largest, float(np.abs(stretch).max()))
    except AudioError as error:
        return _Check(error=str(error))
    return _Check(seconds=count / sampling_rate, digest=digest.digest(), is_silent=largest < SILENCE)


def load_recording(row: Mapping, sampling_rate: int, start: int = 0, length: int | None = None) -> np.ndarray:
    """
    The waveform of a row with the columns `audio` and `file`, or a stretch of it, from a file or from bytes in the
    data set; see [`load_audio`].
    """
    audio = row["audio"]
    if audio["bytes"] is not None:
        return load_audio(audio["bytes"], sampling_rate, row["file"], start, length)
    return load_audio(audio["path"], sampling_rate, start=start, length=length)


def load_streamed(audio: Mapping, sampling_rate: int, name: str) -> np.ndarray:
    """The waveform of streamed audio: bytes, or a file here or on the Hub."""
    if audio["bytes"] is not None:
        return load_audio(audio["bytes"], sampling_rate, name)
    with fsspec.open(audio["path"], "rb") as file:
        return load_audio(file.read(), sampling_rate, name)


def _leave_out_unreadable(
    source: DatasetDict, rows: Rows, checks: Mapping[str, Mapping[int, _Check]], max_bad_fraction: float
) -> Rows:
    bad = [check.error for by_index in checks.values() for check in by_index.values() if check.error]
    total = sum(len(indices) for _, indices in rows.values())
    for error in bad[:NUM_SHOWN]:
        logger.warning(f"Left out: {error}")
    more = f"\n  and {len(bad) - NUM_SHOWN} more" if len(bad) > NUM_SHOWN else ""
    if len(bad) > max_bad_fraction * total:
        shown = "".join(f"\n  {error}" for error in bad[:NUM_SHOWN])
        raise DataError(
            f"{len(bad)} of {total} recordings cannot be read, more than max_bad_fraction={max_bad_fraction:g}:"
            f"{shown}{more}"
        )
    if more:
        logger.warning(f"Left out:{more}")
    return {
        split: (origin, [index for index in indices if checks[origin][index].error is None])
        for split, (origin, indices) in rows.items()
    }


def _warn_of_silence(source: DatasetDict, rows: Rows, checks: Mapping[str, Mapping[int, _Check]]) -> None:
    silent = [
        source[origin][index]["file"]
        for origin, indices in rows.values()
        for index in indices
        if checks[origin][index].is_silent
    ]
    if silent:
        logger.warning(f"{len(silent)} recordings are silent, and used all the same: {_shorten(silent)}.")


def _warn_of_duplicates(source: DatasetDict, rows: Rows, checks: Mapping[str, Mapping[int, _Check]]) -> None:
    first: dict[bytes, tuple[str, str, int]] = {}
    pairs = []
    for split, (origin, indices) in rows.items():
        for index in indices:
            check = checks[origin][index]
            other = first.setdefault(check.digest, (split, origin, index))
            if other[0] != split and not check.is_silent:
                names = source[other[1]][other[2]]["file"], source[origin][index]["file"]
                pairs.append(f"{names[0]} ({other[0]}) = {names[1]} ({split})")
    if pairs:
        logger.warning(
            f"{len(pairs)} recordings stand in two splits, so that scores on them are flattering: {_shorten(pairs)}."
        )


def _check_labels(source: DatasetDict, rows: Rows) -> list[str]:
    """Names of the classes in alphabetical order."""
    labels: dict[str, set[str]] = {}
    for split, (origin, indices) in rows.items():
        column = source[origin]["label"][:]
        labels[split] = _names_in(column[index] for index in indices)
    names = sorted(set().union(*labels.values()))
    if not any(indices for _, indices in rows.values()) or not names:
        raise DataError("No recordings with a label are left.")
    if "train" not in rows:
        return names
    for split, found in labels.items():
        unknown = sorted(found - labels["train"])
        if unknown:
            raise DataError(f"{_shorten(unknown)}: in {split} but not in train, so that it cannot be learnt.")
    lost = _names_in(source[rows["train"][0]]["label"]) - labels["train"]
    if lost:
        raise DataError(f"No recordings that can be read are left to learn {_shorten(sorted(lost))} from.")
    is_multi_label = isinstance(source[rows["train"][0]].features["label"], List)
    if len(names) == 1 and not is_multi_label:
        raise DataError(f"There is one class, {names[0]}, and nothing to tell it from. Add another.")
    if "validation" in rows and not rows["validation"][1]:
        raise DataError("No recordings are left for validation. Add some to choose the best epoch by.")
    return names


def _names_in(labels: Iterable[str | list[str]]) -> set[str]:
    return {name for label in labels for name in (label if isinstance(label, list) else [label])}


def _shorten(names: Sequence[str], limit: int = NUM_SHOWN) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
