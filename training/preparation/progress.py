# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of a preparation: options, progress, lock, and the files of an interrupted run."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from sanet_hf.errors import DataError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.data.folds import CLIP_FOLDERS
from sanet_hf.training.data.folds import PREPARE_PROGRESS as PROGRESS
from sanet_hf.training.data.preparation_record import RECORD
from sanet_hf.training.preparation.source_files import SourceFile
from sanet_hf.utils.files import to_text, write_atomically


# Folders of clips (original or denoised) and of speech segments.
CLIPS, DENOISED_CLIPS, SEGMENTS = FOLDERS = CLIP_FOLDERS
MANIFEST, REPORT = "manifest.parquet", "report.html"
TEMPORARY, LOCK = ".prepare_tmp", ".prepare.lock"
FORMAT_VERSION = 2  # increase it if the same options give other clips


@dataclass(frozen=True)
class PrepareOptions:
    """Options that determine the clips; see `sanet prepare --help`."""

    max_seconds: float = 4.0
    min_seconds: float = 0.5
    denoise: bool = False
    group_pattern: str | None = None
    sampling_rate: int = DEFAULT_SAMPLING_RATE
    segments: bool = True

    @property
    def folders(self) -> dict[str, str]:
        """Return the folder for each kind of clip."""
        return {"clip": DENOISED_CLIPS if self.denoise else CLIPS, "segment": SEGMENTS}


class Task(NamedTuple):
    """A recording to cut, with everything that a worker needs."""

    file: SourceFile
    source: str  # path in the source folder, as text
    output_dir: Path
    options: PrepareOptions


@dataclass
class FinishedRecording:
    """A line of the progress file: the state of a finished recording and its rows of the manifest."""

    source: str
    split: str
    size: int
    mtime: int  # ns
    rows: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Lock the folder for this run. The operating system releases the lock of a killed run."""
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(output_dir / LOCK).acquire(blocking=False)
    except Timeout:
        raise DataError(
            f"Another `sanet prepare` is writing to {output_dir}. Wait until it has ended, or use another folder."
        ) from None
    with lock:
        yield


@contextlib.contextmanager
def temporary_folder(output_dir: Path) -> Iterator[None]:
    """Create an empty folder for unfinished files, and remove it at the end."""
    folder = output_dir / TEMPORARY
    # Remove the files of a killed run.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(source_dir: Path, output_dir: Path) -> None:
    """
    Check the output folder.

    Raises:
        DataError: It is inside the folder of the recordings, or contains files that were not written here.
    """
    source, output = source_dir.resolve(), output_dir.resolve()
    if output == source or source in output.parents:
        raise DataError(
            f"The output folder {output_dir} is inside the folder of the recordings, {source_dir}. Use a folder "
            "outside it."
        )
    for name in FOLDERS:
        if (output / name).resolve() in (source, *source.parents):
            raise DataError(
                f"The folder of the recordings, {source_dir}, is inside {output_dir / name}, where clips are written. "
                "Use another output folder."
            )
    if output_dir.exists() and not output_dir.is_dir():
        raise DataError(f"{output_dir} is a file. Use a folder.")
    if not (output_dir / PROGRESS).exists():
        for name in (*FOLDERS, MANIFEST, REPORT, RECORD):
            if (output_dir / name).exists():
                raise DataError(f"{output_dir / name} was not written by sanet prepare. Use another folder.")


def remove_output(output_dir: Path) -> None:
    """Remove the output of an earlier preparation."""
    if (output_dir / PROGRESS).exists():
        for name in (*FOLDERS, TEMPORARY):
            if (output_dir / name).exists():
                shutil.rmtree(output_dir / name)
        # Remove the progress file last, because it shows that the other files were written here.
        for name in (MANIFEST, REPORT, RECORD, PROGRESS):
            (output_dir / name).unlink(missing_ok=True)


def relative_name(path: Path, folder: Path) -> str:
    """Return the path relative to the folder, as text."""
    return to_text(path.relative_to(folder).as_posix())


def file_state(task: Task) -> FinishedRecording:
    """Return the current state of the file. A progress line with another state is outdated."""
    try:
        status = task.file.path.stat()
    except OSError:
        return FinishedRecording(task.source, task.file.split, 0, 0)
    return FinishedRecording(task.source, task.file.split, status.st_size, status.st_mtime_ns)


def read_progress(output_dir: Path, header: Mapping[str, Any]) -> tuple[bool, dict[str, FinishedRecording]]:
    """Return whether an earlier run was completed, and its finished recordings by source."""
    path = output_dir / PROGRESS
    if not path.exists():
        return False, {}
    # The last line may be truncated within a character.
    first, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        written = dict(json.loads(first))
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged. Use another folder, or start again with --overwrite.") from None
    other = [name for name in header if written.get(name) != header[name]]
    if other:
        differences = ", ".join(f"{name} {written.get(name)!r} instead of {header[name]!r}" for name in other)
        raise DataError(
            f"{output_dir} was prepared with {differences}. Use another folder, or start again with --overwrite."
        )
    finished = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            entry = FinishedRecording(**json.loads(line))
            # Ignore entries that are not clips, so that an untrusted list cannot make this run remove other files.
            if all(_is_clip(row["file"]) for row in entry.rows if "file" in row):
                finished[entry.source] = entry
    return bool(written.get("finished")), finished


def _is_clip(file: str) -> bool:
    folder, *others = Path(file).parts
    return folder in FOLDERS and ".." not in others


def drop_changed(
    finished: Mapping[str, FinishedRecording], states: Mapping[str, FinishedRecording], output_dir: Path
) -> dict[str, FinishedRecording]:
    """Return the lines of unchanged recordings whose clips exist. Remove the clips of the others."""
    kept = {}
    for source, line in finished.items():
        files = [output_dir / row["file"] for row in line.rows if row.get("file")]
        state = states.get(source)
        is_same = state and (state.split, state.size, state.mtime) == (line.split, line.size, line.mtime)
        if is_same and all(path.is_file() for path in files):
            kept[source] = line
        else:
            for path in files:
                path.unlink(missing_ok=True)
    return kept


def to_line(value: Mapping[str, Any]) -> str:
    """Return a line of the progress file."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def write_progress(output_dir: Path, header: Mapping[str, Any], lines: Iterable[FinishedRecording]) -> None:
    """Replace the progress file."""
    text = "".join([to_line(header), *(to_line(asdict(line)) for line in lines)])
    with write_output(output_dir, PROGRESS) as file:
        file.write(text.encode())


def write_output(output_dir: Path, name: str | Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """Write a file with [`write_atomically`], through the folder that the next run empties."""
    return write_atomically(output_dir / name, output_dir / TEMPORARY / str(os.getpid()))
