# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of recordings: class folders, split folders, audio files."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from sanet_hf.audio.formats import is_audio_file, is_hidden
from sanet_hf.errors import DataError


# Folders called so are splits, in any case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
SPLITS = ("train", "validation", "test")


def find_split_folders(data_dir: Path) -> dict[Path, str]:
    """
    The folders in `data_dir` that are called like a split, and their split.

    Raises:
        DataError: There are several for one split.
    """
    folders = visible_folders(data_dir)
    split_folders = {path: SPLIT_NAMES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_NAMES}
    for split, count in Counter(split_folders.values()).items():
        if count > 1:
            names = ", ".join(f"{path.name}/" for path in split_folders if split_folders[path] == split)
            raise DataError(f"{data_dir} holds several folders for the {split} split: {names}. Keep one.")
    return split_folders


def walk_files(folder: str | Path, is_deep: bool = True) -> Iterator[str]:
    """
    Yield the paths of the files in a folder, and with `is_deep` in the folders in it, in the order of their names.

    Every command that searches folders does it so: hidden files and folders are skipped, and links are followed, those
    to folders only where they lead out of `folder`, each once.
    """
    root, seen = os.path.realpath(folder), set()

    def is_new(path: str) -> bool:
        place = os.path.realpath(path)
        if not os.path.islink(path):
            return True
        is_found = place in seen or os.path.commonpath([root, place]) in (root, place)
        seen.add(place)
        return not is_found

    for parent, folders, names in os.walk(folder, followlinks=True):
        visible = sorted(name for name in folders if is_deep and not is_hidden(name))
        folders[:] = [name for name in visible if is_new(os.path.join(parent, name))]
        yield from (os.path.join(parent, name) for name in sorted(names) if not is_hidden(name))


def visible_entries(folder: Path) -> list[Path]:
    """Return what is in a folder and not hidden, in the order of the names."""
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, in the order of their names."""
    return [path for path in visible_entries(folder) if path.is_dir()]


def list_audio_files(folder: Path, is_deep: bool = False) -> list[Path]:
    """Recordings in a folder (or, with `is_deep`, in the folders in it too) by their names, in the order of these."""
    return sorted(Path(path) for path in walk_files(folder, is_deep) if is_audio_file(os.path.basename(path)))


def count_other_files(folders: Iterable[Path]) -> dict[str, int]:
    """Return how many files in folders are no recordings by their names, by suffix, the most frequent first."""
    names = (Path(path).name for folder in folders for path in walk_files(folder, is_deep=False))
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in names if not is_audio_file(name))
    return dict(counts.most_common())
