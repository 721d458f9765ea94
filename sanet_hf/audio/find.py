# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Find audio files by name, folder, pattern or list."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sanet_hf.audio.folders import walk_files
from sanet_hf.audio.formats import is_audio_file, is_hidden
from sanet_hf.errors import UsageError


def find_audio_files(inputs: Sequence[str | Path], stdin: Iterable[str] = ()) -> Iterator[str]:
    """
    Yield the paths of the audio files that `inputs` name, in order, each once.

    Args:
        inputs: Files; folders (all audio files in them and their subfolders, sorted by name); patterns such as
            `calls/**/*.mp3`; `@list.txt` (a file with one of these per line); `-` for `stdin`.
        stdin: Lines with one file, folder or pattern each.

    Yields:
        Paths. They include names in lists and `stdin` that match no file, and folders without audio files that are
        named like an audio file. Reading these raises an error.

    Raises:
        UsageError: A folder contains no audio files, no file matches a pattern, or a list cannot be read.
    """
    seen = set()
    for path in _find_audio_files(inputs, stdin):
        if path not in seen:
            seen.add(path)
            yield path


def _find_audio_files(inputs: Iterable[str | Path], stdin: Iterable[str] = ()) -> Iterator[str]:
    for name in map(str, inputs):
        if name == "-":
            yield from _find_each(line.rstrip("\r\n") for line in stdin if line.strip())
        elif name.startswith("@") and not os.path.exists(name):
            try:
                lines = Path(name[1:]).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
            except OSError as error:
                raise UsageError(f"{name}: the list cannot be read ({error.strerror}).") from error
            yield from _find_each(line for line in lines if line.strip())
        elif os.path.isdir(name):
            yield from _files_in(name)
        elif glob.has_magic(name) and not os.path.exists(name):
            paths = [path for path in sorted(_find(name)) if not os.path.isdir(path)]
            if not paths:
                raise UsageError(f"{name}: no file matches.")
            yield from paths
        else:
            yield name


def _find_each(names: Iterable[str]) -> Iterator[str]:
    """Yield the files of each name, or the name itself if none is found, so that the other names are still used."""
    for name in names:
        try:
            yield from _find_audio_files([name])
        except UsageError:
            yield name


def _find(pattern: str) -> set[str]:
    """
    Return the result of `glob.glob`, but without following links to folders for `**`. With two links to their own
    folder, the number of paths would grow exponentially.

    `pathlib` does not follow such links either. But it matches hidden files, drops `./` from paths (which `--resume`
    compares), and its `**` at the end of a pattern depends on the version of Python.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        return set(glob.glob(pattern, recursive=True))
    place = parts.index("**")
    found = set()
    for start in glob.glob("/".join([*parts[:place], ""])) if place else [""]:
        for parent, folders, _ in os.walk(start or "."):
            folders[:] = [name for name in folders if not is_hidden(name)]
            parent = os.path.join(parent, "").removeprefix("" if start else "./")
            found |= _find(glob.escape(parent) + ("/".join(parts[place + 1 :]) or "*"))
    return found


def _files_in(folder: str) -> Iterator[str]:
    is_empty = True
    for path in walk_files(folder):
        if is_audio_file(os.path.basename(path)):
            is_empty = False
            yield path
    if is_empty and is_audio_file(os.path.basename(os.path.normpath(folder))):
        yield folder  # the shell may have expanded a pattern to it
    elif is_empty:
        raise UsageError(f"{folder} contains no audio files such as .wav, .flac or .mp3.")
