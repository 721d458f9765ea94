# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Decoded and resampled recordings, kept for the next epoch: files of samples in a folder of the run, which all its
processes read and write. The folder is deleted when training ends. If a run was killed, it is deleted on resuming.
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

# `Trainer` does not upload names with this underscore.
FOLDER = "_decoded"
SAMPLE = np.dtype(np.float32)
GIBIBYTE = 2**30
# Fraction of the free disk space. Checkpoints also need space.
MAX_PART_OF_DISK = 0.1


class DecodedRecordings:
    """
    Recordings of a split, whose samples are kept after the first reading. The samples are those of [`load_recording`].
    Recordings that cannot be kept or have changed are decoded again.

    Args:
        folder: Folder of the files. If it does not exist, nothing is kept.
        name: Name of the split.
        parts: First sample and number of samples of each recording that may be kept, by its row.
        are_whole: Whether parts extend to the end of their recordings.
        most_seekable: Longest part, in samples, to keep if the format also allows decoding of short parts.
    """

    def __init__(
        self, folder: Path, name: str, parts: Mapping[int, tuple[int, int]], are_whole: bool, most_seekable: float
    ):
        self.folder, self.name, self.parts = folder, name, dict(parts)
        self.are_whole, self.most_seekable = are_whole, most_seekable

    def read(self, place: int, row: Mapping, sampling_rate: int, start: int, length: int) -> np.ndarray:
        """
        Return the samples `start` to `start + length` of a recording, shape (samples,); fewer at its end.

        Args:
            place: Index of its row.
            row: Has the columns `audio` and `file`.
            sampling_rate: In Hz.
            start, length: Samples within the part that may be kept.

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
        """Return the path for the samples of a recording in its current state; `None` if the state is not known."""
        audio = row["audio"] or {}
        state = ""
        # The content of a dataset does not change, and a URL is downloaded only once.
        if audio.get("bytes") is None and not is_url(audio.get("path") or ""):
            found = find_state(row, sampling_rate)
            if found is None:
                return None
            state = f"-{found.size}-{found.mtime_ns}-{found.ctime_ns}"
        return self.folder / f"{self.name}-{place}{state}"

    def _write(self, path: Path, place: int, row: Mapping, sampling_rate: int, length: int) -> bool:
        """Write the samples of a recording, of which `length` are needed. Return whether they are in the file now."""
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
                            # The file is longer than when it was checked.
                            break
                        file.write(np.ascontiguousarray(block, SAMPLE))
                if num_written <= count and path == self._find_path(place, row, sampling_rate):
                    # Readers must never see an incomplete file.
                    os.replace(part, path)
                    return True
        except (AudioError, FileNotFoundError):
            # The needed part may still be readable, or the folder was deleted.
            pass
        except OSError as error:
            # Leave the disk space to checkpoints.
            shutil.rmtree(self.folder, ignore_errors=True)
            logger.warning(f"{part} cannot be written ({error.strerror}). Recordings are decoded in each epoch.")
        # Do not try again.
        self.parts.pop(place)
        with suppress(OSError):
            part.unlink()
        return False


class Clips(Protocol):
    """Clips for training or evaluation from parts of recordings, which are read about once per epoch."""

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
    Keep the decoded recordings of clips while the context is open, as many as fit, the shortest first. Print their
    amount to stderr. Delete them at the end.

    Args:
        clips: Clips by the name of their split.
        output_dir: Folder of the run.
        gibibytes: Largest amount to keep.
        arguments: Length of the training, and index of this process.
    """
    folder = output_dir / FOLDER
    is_first = arguments.local_process_index == 0
    # Delete the folder of a killed run before any process reads it.
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
    """Choose the recordings to keep. Return a text about them."""
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
        # For longer recordings, decoding all takes longer than decoding the parts of all epochs.
        recordings = DecodedRecordings(folder, name, kept[name], some.are_whole, num_epochs * some.max_length)
        some.read_kept = recordings.read
    seconds = SAMPLE.itemsize * clips["train"].feature_extractor.sampling_rate
    total = f"{format_duration(sizes.sum() / seconds)} of recordings"
    if len(order) == len(parts):
        return f"All {total} are decoded once and kept in {folder} during training ({sizes.sum() / 2**20:,.0f} MiB)."
    reason = "a tenth of the free disk space" if room < gibibytes * GIBIBYTE else f"--cache_audio {gibibytes:g}"
    fitting = sizes[order].sum()
    return (
        f"The shortest {format_duration(fitting / seconds)} of {total} are decoded once and kept in {folder} during "
        f"training ({fitting / 2**20:,.0f} MiB, limited by {reason})."
    )
