# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Cache of the checks of recordings for later runs: a database in the Hub's folder for assets (`HF_ASSETS_CACHE`, by
default `~/.cache/huggingface/assets`), which may be deleted at any time.
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

# Increase the number if files are read in another way or the table changes, so that older entries are not used.
DATABASE_FILE = "checks-1.sqlite"
# Timeout in seconds while another process writes, and seconds of waiting for a lock before a message.
WRITING_SECONDS, PATIENCE_SECONDS = 30, 5

# Length of a recording in seconds, its digest, and whether it is silent.
Values = tuple[float, bytes, int]
T = TypeVar("T")


class RecordingState(NamedTuple):
    """
    Identifies an unchanged recording: the path and state of its file, or a hash of its content in a dataset; its part
    in seconds (no `end`: -1), and the sampling rate at which it is read.
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
    Return the state of the recording of a row; `None` if it cannot be determined.

    Args:
        row: Has the columns `audio` and, for clips of a file, `start` and `end` in seconds.
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
    # Another file that is moved here can have the same size and mtime, but not the same ctime.
    return RecordingState(path, *part, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class CheckCache:
    """
    A database of checks of recordings, which several processes can use. If it is damaged or cannot be written, it
    behaves as if it were empty.
    """

    def __init__(self):
        self._path: Path | None = None
        with suppress(OSError):
            self._path = cached_assets_path("sanet_hf", "recordings") / DATABASE_FILE

    def load(self, states: Sequence[RecordingState | None]) -> list[Values | None]:
        """Return the stored check of each recording, or `None`."""
        names = RecordingState._fields
        query = f"SELECT seconds, digest, is_silent FROM checks WHERE {' AND '.join(f'{name} = ?' for name in names)}"

        def select(database: sqlite3.Connection) -> list[Values | None]:
            found = [state and database.execute(query, state).fetchone() for state in states]
            # SQLite does not check types, and a damaged file can contain anything.
            return [values if values and list(map(type, values)) == [float, bytes, int] else None for values in found]

        return self._use(select, [None] * len(states))

    def store(self, found: Mapping[RecordingState, Values]) -> None:
        """Store checks of recordings."""
        rows = [(*state, *values) for state, values in found.items()]
        query = f"INSERT OR REPLACE INTO checks VALUES ({', '.join('?' * (len(RecordingState._fields) + 3))})"
        self._use(lambda database: database.executemany(query, rows), None)

    @contextmanager
    def alone(self, states: Sequence[RecordingState | None]) -> Iterator[None]:
        """Let only one process at a time read the recordings of these folders, so that others find its results."""
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
                logger.warning("Waiting for another process that checks recordings in the same folders.")
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
                # The primary key makes a new state of a file replace the old one.
                database.execute(
                    f"CREATE TABLE IF NOT EXISTS checks ({', '.join(RecordingState._fields)}, seconds, digest, "
                    "is_silent, PRIMARY KEY (path, start, end, sampling_rate))"
                )
                return work(database)
        except sqlite3.Error as error:
            logger.warning(f"Cannot use the cache {self._path} ({error}). Recordings are checked without it.")
            if type(error) is sqlite3.DatabaseError:
                # Delete the damaged database.
                with suppress(OSError):
                    self._path.unlink()
            return otherwise
