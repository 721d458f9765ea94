# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of a preparation: options, progress, lock, and what an interrupted one left."""

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


# Of clips, which are called by what they hold, and of stretches of speech.
CLIPS, DENOISED_CLIPS, SEGMENTS = FOLDERS = CLIP_FOLDERS
MANIFEST, REPORT = "manifest.parquet", "report.html"
TEMPORARY, LOCK = ".prepare_tmp", ".prepare.lock"
FORMAT_VERSION = 2  # raise it whenever the same options give other clips


@dataclass(frozen=True)
class PrepareOptions:
    """What decides how clips are cut; see `sanet prepare --help`."""

    max_seconds: float = 4.0
    min_seconds: float = 0.5
    denoise: bool = False
    group_pattern: str | None = None
    sampling_rate: int = DEFAULT_SAMPLING_RATE
    segments: bool = True

    @property
    def folders(self) -> dict[str, str]:
        """The folder for each kind of stretch."""
        return {"clip": DENOISED_CLIPS if self.denoise else CLIPS, "segment": SEGMENTS}


class Task(NamedTuple):
    """A recording to cut: everything a worker needs to know."""

    file: SourceFile
    source: str  # path in the source folder, as text
    output_dir: Path
    options: PrepareOptions


@dataclass
class FinishedRecording:
    """A line of the progress file: which state of a recording was cut, and its rows of the manifest."""

    source: str
    split: str
    size: int
    mtime: int  # ns
    rows: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """The folder for this run alone. The system releases the lock of a run that was killed."""
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(output_dir / LOCK).acquire(blocking=False)
    except Timeout:
        raise DataError(
            f"Another `sanet prepare` is writing to {output_dir}: wait until it has ended, or choose another folder."
        ) from None
    with lock:
        yield


@contextlib.contextmanager
def temporary_folder(output_dir: Path) -> Iterator[None]:
    """The folder of unfinished files, empty at first and removed at the end."""
    folder = output_dir / TEMPORARY
    # What a killed run left.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(source_dir: Path, output_dir: Path) -> None:
    """
    Raises:
        DataError: The output folder is in that of the recordings, or holds files of another origin.
    """
    source, output = source_dir.resolve(), output_dir.resolve()
    if output == source or source in output.parents:
        raise DataError(f"{output_dir} lies in the folder of the recordings, {source_dir}, where nothing is written.")
    for name in FOLDERS:
        if (output / name).resolve() in (source, *source.parents):
            raise DataError(f"{source_dir} lies in {output_dir / name}, where clips would be written.")
    if output_dir.exists() and not output_dir.is_dir():
        raise DataError(f"{output_dir} is a file: choose a folder.")
    if not (output_dir / PROGRESS).exists():
        for name in (*FOLDERS, MANIFEST, REPORT, RECORD):
            if (output_dir / name).exists():
                raise DataError(f"{output_dir / name} was not written by sanet prepare: choose another folder.")


def remove_output(output_dir: Path) -> None:
    """Remove all that an earlier preparation wrote."""
    if (output_dir / PROGRESS).exists():
        for name in (*FOLDERS, TEMPORARY):
            if (output_dir / name).exists():
                shutil.rmtree(output_dir / name)
        # The last to go says that the others were written here.
        for name in (MANIFEST, REPORT, RECORD, PROGRESS):
            (output_dir / name).unlink(missing_ok=True)


def relative_name(path: Path, folder: Path) -> str:
    """The path in the folder, as text."""
    return to_text(path.relative_to(folder).as_posix())


def file_state(task: Task) -> FinishedRecording:
    """What a finished line must say to be of this file."""
    try:
        status = task.file.path.stat()
    except OSError:
        return FinishedRecording(task.source, task.file.split, 0, 0)
    return FinishedRecording(task.source, task.file.split, status.st_size, status.st_mtime_ns)


def read_progress(output_dir: Path, header: Mapping[str, Any]) -> tuple[bool, dict[str, FinishedRecording]]:
    """Whether an earlier run got to the end, and what it finished, by source."""
    path = output_dir / PROGRESS
    if not path.exists():
        return False, {}
    # The last line may be cut off within a character.
    first, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        written = dict(json.loads(first))
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged. Choose another folder, or --overwrite to prepare anew.") from None
    other = [name for name in header if written.get(name) != header[name]]
    if other:
        differences = ", ".join(f"{name} {written.get(name)!r} and not {header[name]!r}" for name in other)
        raise DataError(
            f"{output_dir} was prepared with {differences}. Choose another folder, or --overwrite to prepare anew."
        )
    finished = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            entry = FinishedRecording(**json.loads(line))
            # Files that are no clips, as of a list that came from elsewhere, are nothing to remove.
            if all(_is_clip(row["file"]) for row in entry.rows if "file" in row):
                finished[entry.source] = entry
    return bool(written.get("finished")), finished


def _is_clip(file: str) -> bool:
    folder, *others = Path(file).parts
    return folder in FOLDERS and ".." not in others


def drop_changed(
    finished: Mapping[str, FinishedRecording], states: Mapping[str, FinishedRecording], output_dir: Path
) -> dict[str, FinishedRecording]:
    """Lines of recordings that are as they were and whose clips are there; the clips of others are removed."""
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
    """A line of the progress file."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def write_progress(output_dir: Path, header: Mapping[str, Any], lines: Iterable[FinishedRecording]) -> None:
    """Replace the progress file."""
    text = "".join([to_line(header), *(to_line(asdict(line)) for line in lines)])
    with write_output(output_dir, PROGRESS) as file:
        file.write(text.encode())


def write_output(output_dir: Path, name: str | Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """[`write_atomically`] for a file of the preparation, by way of the folder that the next run empties."""
    return write_atomically(output_dir / name, output_dir / TEMPORARY / str(os.getpid()))
