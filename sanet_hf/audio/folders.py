# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of recordings: class folders, split folders, audio files."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from sanet_hf.audio.formats import is_audio_file, is_hidden
from sanet_hf.errors import DataError


# Names of split folders, in upper or lower case.
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
    Return the split folders in `data_dir` and their splits. The result is empty if the folders are classes, such as
    `airplane`, `car` and `train`.

    Folders with names of splits are splits if one of them contains class folders, or if there are no other folders.
    Other folders next to them, such as `notes`, must not contain recordings.

    Raises:
        DataError: There are several folders for one split, or class folders next to split folders.
    """
    folders = visible_folders(data_dir)
    split_folders = {path: SPLIT_NAMES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_NAMES}
    others = [path for path in folders if path not in split_folders]
    of_classes = [path for path in split_folders if _holds_class_folders(path)]
    if others and not of_classes:
        return {}
    for path in others:
        if list_audio_files(path):
            raise DataError(
                f"{data_dir}: {of_classes[0].name}/ has the name of a split and contains class folders, but "
                f"{path.name}/ next to it contains recordings. If {path.name}/ is not a class, move it away. If both "
                f"are classes, rename {of_classes[0].name}/ and move its recordings out of their subfolders."
            )
    for split, count in Counter(split_folders.values()).items():
        if count > 1:
            names = ", ".join(f"{path.name}/" for path in split_folders if split_folders[path] == split)
            raise DataError(f"{data_dir} contains several folders for the {split} split: {names}. Keep one.")
    return split_folders


def _holds_class_folders(folder: Path) -> bool:
    folders = visible_folders(folder)
    return any(map(list_audio_files, folders)) or (bool(folders) and not list_audio_files(folder))


def walk_files(folder: str | Path, is_deep: bool = True) -> Iterator[str]:
    """
    Yield the paths of the files in a folder, sorted by name, with `is_deep` also those in its subfolders.

    Every command searches folders in this way. Hidden files and folders are skipped. Links to files are followed.
    Links to folders are followed once each, and only if they lead out of `folder`.
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
    """Return the files and folders in a folder that are not hidden, sorted by name."""
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted by name."""
    return [path for path in visible_entries(folder) if path.is_dir()]


def list_audio_files(folder: Path, is_deep: bool = False) -> list[Path]:
    """Return the audio files in a folder, sorted by name, with `is_deep` also those in its subfolders."""
    return sorted(Path(path) for path in walk_files(folder, is_deep) if is_audio_file(os.path.basename(path)))


def count_other_files(folders: Iterable[Path]) -> dict[str, int]:
    """
    Count the files in folders that do not have names of audio files. Return counts by suffix, most frequent first.
    """
    names = (Path(path).name for folder in folders for path in walk_files(folder, is_deep=False))
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in names if not is_audio_file(name))
    return dict(counts.most_common())
