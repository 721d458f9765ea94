# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""File names as text, atomic writes, and checks that outputs can be written."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from safetensors import SafetensorError


# Options of a training, in its output folder from the start.
OPTIONS_FILE = "train_options.yaml"
PROBE_BYTES = READ_BYTES = 2**16


@contextmanager
def writing_to(path: str | Path, is_folder: bool = True) -> Iterator[None]:
    """
    Check that a folder or file can be written before the work in this context begins. The check leaves no files.

    Raises:
        OSError: The path cannot be written, or the disk is full during the work. The message names the path, which
            errors of a full disk do not.
    """
    path = Path(path)
    if is_folder and path.is_file():
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is a file. Choose a folder.")
    _probe(path)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if any(f"{path}{end}" in str(error) for end in (" ", os.sep)):
            raise
        if is_full(error) or "No space left on device" in str(error):
            raise OSError(errno.ENOSPC, f"{path} cannot be written: {os.strerror(errno.ENOSPC)}") from error
        # Some libraries do not report the cause.
        _probe(path)
        raise


@contextmanager
def write_atomically(path: str | Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """
    Yield a temporary file that replaces `path` when it is complete. If writing fails, an existing file is kept. Parent
    folders are created.

    This is safe if the process is killed, which can leave the temporary file. It is not safe against a power failure,
    since the file is not synchronised to the disk.

    Args:
        path: The file.
        temporary: Path of the temporary file, on the same file system (default: `path` with `.tmp` appended). The next
            run overwrites it. Processes that write the same file at the same time need different ones.
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
    """Return whether an error means that the disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _probe(path: Path) -> None:
    # The first existing folder. Missing folders will be created in it.
    folder = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=path.parent if path.is_file() else folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written: {os.strerror(error.errno)}") from error


def read_lines(file: TextIO) -> Iterator[str]:
    """
    Yield the lines of a text file or pipe when they arrive, without line ends. File names in them need not be UTF-8.

    The buffer of the file is not used: if a thread waits for a line and holds its lock, the interpreter would exit
    with a fatal error.
    """
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError, ValueError):  # not a file of the operating system
        yield from (line.rstrip("\r\n") for line in file)
        return
    rest = b""
    while content := os.read(descriptor, READ_BYTES):
        *lines, rest = (rest + content).split(b"\n")
        yield from (os.fsdecode(line).rstrip("\r") for line in lines)
    if rest:
        yield os.fsdecode(rest).rstrip("\r")


def to_text(name: str) -> str:
    """Return a file name as text that can be written. Bytes that are not UTF-8 become escapes such as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def atomic_directory(output_dir: str | Path) -> Iterator[Path]:
    """
    Yield a temporary folder whose files are moved to `output_dir` at the end. If the work fails, the files are
    deleted, and also `output_dir` if it is new.
    """
    output_dir = Path(output_dir)
    is_new = not output_dir.exists()
    output_dir.mkdir(parents=True, exist_ok=True)
    # Inside `output_dir`, since its parent may be on another file system or not writable.
    folder = Path(tempfile.mkdtemp(prefix="unfinished-", dir=output_dir))
    try:
        yield folder
        for path in sorted(folder.iterdir()):
            path.replace(output_dir / path.name)
        folder.rmdir()
    except BaseException:
        shutil.rmtree(output_dir if is_new else folder, ignore_errors=True)
        raise
