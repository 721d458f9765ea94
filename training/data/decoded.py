# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Decoded and resampled recordings, kept for the next epoch: files of samples in a folder of the run, which all of its
processes read and write. The folder is deleted when training ends, and that of a killed run when it is resumed.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from transformers import FeatureExtractionMixin, TrainingArguments
from transformers.utils import logging

from sanet_hf.errors import AudioError
from sanet_hf.training.data.check_cache import find_state
from sanet_hf.training.data.rows import is_url, load_recording, open_row
from sanet_hf.utils.formatting import format_duration


logger = logging.get_logger(__name__)

# `Trainer` uploads no file whose name begins like this.
FOLDER = "_decoded"
SAMPLE = np.dtype(np.float32)
GIBIBYTE = 2**30
# Of the free space on disk: checkpoints need some as well.
MAX_PART_OF_DISK = 0.1


class DecodedRecordings:
    """
    Recordings of a split of which the samples are kept once they have been read. Samples are those of
    [`load_recording`]. What cannot be kept, or has changed since, is decoded.

    Args:
        folder: Of the files. Where it is missing, nothing is kept.
        name: Of the split.
        parts: For each recording that may be kept, by its row: the first sample that is read, and how many there are.
        are_whole: Whether parts go up to the end of their recordings.
        most_seekable: A longer part, in samples, is not kept where stretches of it are decoded by themselves.
    """

    def __init__(
        self, folder: Path, name: str, parts: Mapping[int, tuple[int, int]], are_whole: bool, most_seekable: float
    ):
        self.folder, self.name, self.parts = folder, name, dict(parts)
        self.are_whole, self.most_seekable = are_whole, most_seekable

    def read(self, place: int, row: Mapping, sampling_rate: int, start: int, length: int) -> np.ndarray:
        """
        Return samples `start` to `start + length` of a recording, of shape (samples,); fewer at its end.

        Args:
            place: Number of its row.
            row: With the columns `audio` and `file`.
            sampling_rate: In Hz.
            start, length: Within the part that may be kept.

        Raises:
            AudioError: As in [`load_recording`].
        """
        path = self._find_path(place, row, sampling_rate) if place in self.parts else None
        if path is not None:
            where = {"count": length, "offset": (start - self.parts[place][0]) * SAMPLE.itemsize}
            with suppress(OSError):
                if path.exists() or self._write(path, place, row, sampling_rate, length):
                    waveform = np.fromfile(path, SAMPLE, **where)
                    if len(waveform):
                        return waveform
        return load_recording(row, sampling_rate, start, length)

    def _find_path(self, place: int, row: Mapping, sampling_rate: int) -> Path | None:
        """The file of a recording in its present state; `None` where that cannot be told."""
        audio = row["audio"] or {}
        state = ""
        # The content of a dataset stays as it is, and what an address names is downloaded once.
        if audio.get("bytes") is None and not is_url(audio.get("path") or ""):
            found = find_state(row, sampling_rate)
            if found is None:
                return None
            state = f"-{found.size}-{found.mtime_ns}-{found.ctime_ns}"
        return self.folder / f"{self.name}-{place}{state}"

    def _write(self, path: Path, place: int, row: Mapping, sampling_rate: int, length: int) -> bool:
        """Write the samples of a recording, of which `length` are wanted; return whether they are there now."""
        if not self.folder.is_dir():
            return False
        first, count = self.parts[place]
        part, num_written = path.with_name(f"{path.name}.{os.getpid()}"), 0
        try:
            opened = open_row(row, sampling_rate, first, None if self.are_whole else length)
            if not opened.is_seekable or count <= self.most_seekable:
                with open(part, "wb") as file:
                    for block in opened.blocks:
                        num_written += len(block)
                        if num_written > count:
                            # It is longer than it was.
                            break
                        file.write(np.ascontiguousarray(block, SAMPLE))
                if num_written <= count and path == self._find_path(place, row, sampling_rate):
                    # Readers see all of it or nothing.
                    os.replace(part, path)
                    return True
        except (AudioError, FileNotFoundError):
            # What is wanted may be sound. Or the folder was deleted.
            pass
        except OSError as error:
            # Checkpoints need the space more.
            shutil.rmtree(self.folder, ignore_errors=True)
            logger.warning(f"{part} cannot be written ({error.strerror}): recordings are decoded in each epoch.")
        # Not tried again.
        self.parts.pop(place)
        with suppress(OSError):
            part.unlink()
        return False


class Clips(Protocol):
    """Clips to train or evaluate on, made of parts of recordings, each read once an epoch or so."""

    feature_extractor: FeatureExtractionMixin
    parts: Sequence[tuple[int, int]]
    are_whole: bool
    max_length: int
    read_kept: Callable[..., np.ndarray] | None

    def __len__(self) -> int: ...


@contextmanager
def keep_decoded(
    clips: Mapping[str, Clips], output_dir: Path, gibibytes: float, arguments: TrainingArguments
) -> Iterator[None]:
    """
    Let clips keep what they read, as much as fits, the shortest recordings first; delete it in the end. A line to
    stderr says how much that is.

    Args:
        clips: By the name of their split.
        output_dir: Folder of the run.
        gibibytes: Most that may be kept.
        arguments: How long training lasts, and which of the processes that train together this one is.
    """
    folder = output_dir / FOLDER
    is_first = arguments.local_process_index == 0
    # That of a run that was killed, before any process reads.
    with arguments.main_process_first(local=True, desc="deleting decoded recordings"):
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)
    num_epochs = _count_epochs(clips["train"], arguments) if gibibytes else 0
    if num_epochs > 1:
        line = _choose(clips, folder, gibibytes, num_epochs)
        folder.mkdir(exist_ok=True)
        if arguments.process_index == 0:
            print(line, file=sys.stderr)
    try:
        yield
    finally:
        for some in clips.values():
            some.read_kept = None
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)


def _count_epochs(clips: Clips, arguments: TrainingArguments) -> float:
    if arguments.max_steps <= 0:
        return arguments.num_train_epochs
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return arguments.max_steps * batch_size / len(clips)


def _choose(clips: Mapping[str, Clips], folder: Path, gibibytes: float, num_epochs: float) -> str:
    """Choose what is kept; return what there is to say of it."""
    room = min(gibibytes * GIBIBYTE, MAX_PART_OF_DISK * shutil.disk_usage(folder.parent).free)
    parts = [(name, place, part) for name, some in clips.items() for place, part in enumerate(some.parts)]
    sizes = np.array([length * SAMPLE.itemsize for _, _, (_, length) in parts])
    order = np.argsort(sizes, kind="stable")
    order = order[: np.searchsorted(np.cumsum(sizes[order]), room, side="right")]
    kept: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in clips}
    for number in order:
        name, place, part = parts[number]
        kept[name][place] = part
    for name, some in clips.items():
        # Of others, all would take longer than the stretches of all epochs.
        recordings = DecodedRecordings(folder, name, kept[name], some.are_whole, num_epochs * some.max_length)
        some.read_kept = recordings.read
    seconds = SAMPLE.itemsize * clips["train"].feature_extractor.sampling_rate
    total = f"{format_duration(sizes.sum() / seconds)} of recordings"
    if len(order) == len(parts):
        return f"Decoded once, all {total} are kept in {folder} ({sizes.sum() / 2**20:,.0f} MiB)."
    reason = "a tenth of the free disk space" if room < gibibytes * GIBIBYTE else f"--cache_audio {gibibytes:g}"
    fitting = sizes[order].sum()
    return (
        f"Decoded once, the shortest {format_duration(fitting / seconds)} of {total} are kept in {folder} "
        f"({fitting / 2**20:,.0f} MiB: {reason})."
    )
