# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
What reading recordings showed, kept for the next run: a database in the Hub's folder for assets (`HF_ASSETS_CACHE`,
`~/.cache/huggingface/assets` by default), which may be deleted at any time.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from filelock import FileLock, Timeout
from huggingface_hub import cached_assets_path
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Another number where files are read in another way or the table is another one: nothing older is believed.
DATABASE_FILE = "checks-1.sqlite"
# Seconds that another process may take to write, and that a process waits without a word for another one to read.
WRITING_SECONDS, PATIENCE_SECONDS = 30, 5

# What is kept of a recording: its length in seconds, its digest, and whether it is silent.
Values = tuple[float, bytes, int]
T = TypeVar("T")


class RecordingState(NamedTuple):
    """
    What tells that a recording is the same as before: the place and state of its file, or a hash of the content that a
    dataset holds; the part of it in seconds (no `end`: -1), and the sampling rate at which it is read.
    """

    path: str
    start: float
    end: float
    sampling_rate: int
    size: int
    mtime_ns: int
    ctime_ns: int


def find_state(row: Mapping, sampling_rate: int) -> RecordingState | None:
    """
    Return the state of the recording of a row, `None` where it cannot be told.

    Args:
        row: With the columns `audio` and, for clips of a file, `start` and `end` in seconds.
        sampling_rate: In Hz.
    """
    audio = row["audio"] or {}
    part = (float(row.get("start") or 0), -1.0 if row.get("end") is None else float(row["end"]), sampling_rate)
    if audio.get("bytes") is not None:
        return RecordingState(f"sha256:{sha256(audio['bytes']).hexdigest()}", *part, len(audio["bytes"]), 0, 0)
    try:
        path = os.path.abspath(audio["path"])
        status = os.stat(path)
    except (KeyError, TypeError, ValueError, OSError):
        return None
    # Another file moved here can have the same size and time of modification, but not of its last change of state.
    return RecordingState(path, *part, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class CheckCache:
    """
    A database of what reading recordings showed, which several processes can use. Where it is damaged or cannot be
    written, nothing is found in it.
    """

    def __init__(self):
        self._path: Path | None = None
        with suppress(OSError):
            self._path = cached_assets_path("sanet_hf", "recordings") / DATABASE_FILE

    def load(self, states: Sequence[RecordingState | None]) -> list[Values | None]:
        """Return what is kept of each recording, `None` where nothing is."""
        names = RecordingState._fields
        query = f"SELECT seconds, digest, is_silent FROM checks WHERE {' AND '.join(f'{name} = ?' for name in names)}"

        def select(database: sqlite3.Connection) -> list[Values | None]:
            found = [state and database.execute(query, state).fetchone() for state in states]
            # SQLite does not check types, nor all that a damaged file can hold.
            return [values if values and list(map(type, values)) == [float, bytes, int] else None for values in found]

        return self._use(select, [None] * len(states))

    def store(self, found: Mapping[RecordingState, Values]) -> None:
        """Keep what reading recordings showed."""
        rows = [(*state, *values) for state, values in found.items()]
        query = f"INSERT OR REPLACE INTO checks VALUES ({', '.join('?' * (len(RecordingState._fields) + 3))})"
        self._use(lambda database: database.executemany(query, rows), None)

    @contextmanager
    def alone(self, states: Sequence[RecordingState | None]) -> Iterator[None]:
        """Let one process at a time read the recordings of some folders, so that the others find what it kept."""
        if self._path is None:
            yield
            return
        folders = sorted({os.path.dirname(state.path) for state in states if state})
        name = sha256("\n".join(folders).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        lock = FileLock(self._path.with_name(f"{name}.lock"))
        with suppress(OSError, NotImplementedError):
            try:
                lock.acquire(timeout=PATIENCE_SECONDS)
            except Timeout:
                logger.warning("Waiting for another process, which checks recordings in the same folders.")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _use(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        if self._path is None:
            return otherwise
        try:
            with closing(sqlite3.connect(self._path, timeout=WRITING_SECONDS)) as database, database:
                # What is known of an earlier state of a file is replaced.
                database.execute(
                    f"CREATE TABLE IF NOT EXISTS checks ({', '.join(RecordingState._fields)}, seconds, digest, "
                    "is_silent, PRIMARY KEY (path, start, end, sampling_rate))"
                )
                return work(database)
        except sqlite3.Error as error:
            logger.warning(f"{self._path} cannot be used ({error}); recordings are checked all the same.")
            if type(error) is sqlite3.DatabaseError:
                # Damaged.
                with suppress(OSError):
                    self._path.unlink()
            return otherwise
