# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""File names as text, atomic writes, and outputs that can be written."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from safetensors import SafetensorError


PROBE_BYTES = READ_BYTES = 2**16


@contextmanager
def writing_to(path: str | Path, is_folder: bool = True) -> Iterator[None]:
    """
    Work that ends in a folder or file, which is tried first; the attempt leaves nothing.

    Raises:
        OSError: Nothing can be written there, before the work or, since the disk got full, in it. The message names
            the path, which errors of a full disk do not.
    """
    path = Path(path)
    if is_folder and path.is_file():
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is a file: choose a folder.")
    _probe(path)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if any(f"{path}{end}" in str(error) for end in (" ", os.sep)):
            raise
        if is_full(error) or "No space left on device" in str(error):
            raise OSError(errno.ENOSPC, f"{path} cannot be written: {os.strerror(errno.ENOSPC)}") from error
        # Some libraries do not say what the matter is.
        _probe(path)
        raise


@contextmanager
def write_atomically(path: str | Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """
    A file to write that takes its name when it is whole: until then, or if writing fails, what was there stays. The
    folders for it are made.

    Safe against the end of the process at any moment, which can leave the temporary file. Not against a power cut: the
    file is not synchronised to the disk.

    Args:
        path: The file.
        temporary: Name until it is whole, on the same file system; by default `path` with `.tmp` at its end, which the
            next run overwrites. Processes that write one file at the same time need one each.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_full(error: Exception) -> bool:
    """Whether an error is that of a full disk."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _probe(path: Path) -> None:
    # Folders that are not there yet will be made in this one.
    folder = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=path.parent if path.is_file() else folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written: {os.strerror(error.errno)}") from error


def read_lines(file: TextIO) -> Iterator[str]:
    """
    Yield the lines of a text file or pipe as they come, without their ends. File names in them need not be UTF-8.

    It is read without its buffer, on whose lock an exiting interpreter would end in a fatal error if a thread waits
    there for a line.
    """
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError, ValueError):  # not a file of the system
        yield from (line.rstrip("\r\n") for line in file)
        return
    rest = b""
    while content := os.read(descriptor, READ_BYTES):
        *lines, rest = (rest + content).split(b"\n")
        yield from (os.fsdecode(line).rstrip("\r") for line in lines)
    if rest:
        yield os.fsdecode(rest).rstrip("\r")


def to_text(name: str) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 become `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def atomic_directory(output_dir: str | Path) -> Iterator[Path]:
    """
    Give a temporary folder whose files are moved to `output_dir` at the end. If the work fails, they are deleted, and
    so is `output_dir` unless it existed before.
    """
    output_dir = Path(output_dir)
    is_new = not output_dir.exists()
    output_dir.mkdir(parents=True, exist_ok=True)
    # Inside: beside it may be another file system, or a folder that cannot be written to.
    folder = Path(tempfile.mkdtemp(prefix="unfinished-", dir=output_dir))
    try:
        yield folder
        for path in sorted(folder.iterdir()):
            path.replace(output_dir / path.name)
        folder.rmdir()
    except BaseException:
        shutil.rmtree(output_dir if is_new else folder, ignore_errors=True)
        raise
