# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of recordings: class folders, split folders, audio files."""

from collections import Counter
from pathlib import Path

from sanet_hf.audio.formats import is_audio_file
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
    The split folders in `data_dir`, and their split; none where its folders are classes, as `airplane`, `car` and
    `train` are.

    Folders that are called like splits are splits if one of them holds class folders, or if there are no others. Other
    folders beside them, such as `notes`, must hold no recordings.

    Raises:
        DataError: There are several folders for one split, or folders of classes beside those of splits.
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
                f"{data_dir}: {of_classes[0].name}/ is called like a split and holds class folders, but {path.name}/ "
                f"beside it holds recordings, as a class folder does. Move {path.name}/ away, or, if both are "
                f"classes, put the recordings of {of_classes[0].name}/ right into it and rename it."
            )
    for split, count in Counter(split_folders.values()).items():
        if count > 1:
            names = ", ".join(f"{path.name}/" for path in split_folders if split_folders[path] == split)
            raise DataError(f"{data_dir} holds several folders for the {split} split: {names}. Keep one.")
    return split_folders


def _holds_class_folders(folder: Path) -> bool:
    folders = visible_folders(folder)
    return any(map(list_audio_files, folders)) or (bool(folders) and not list_audio_files(folder))


def visible_folders(folder: Path) -> list[Path]:
    """Folders in a folder, in the order of their names, without hidden ones."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def list_audio_files(folder: Path, is_deep: bool = False) -> list[Path]:
    """Recordings in a folder (or, with `is_deep`, in the folders in it too) by their names, in the order of these."""
    paths = folder.rglob("*") if is_deep else folder.iterdir()
    return sorted(path for path in paths if is_audio_file(path.relative_to(folder)) and not path.is_dir())
