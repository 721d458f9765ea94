# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The audio formats that every command reads."""

from pathlib import Path


# Suffixes of files that soundfile or FFmpeg read as audio; every command that looks for recordings uses this set. Not
# `.raw`, which tells nothing of the sampling rate, nor `.xi`, instruments without one.
SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".asf", ".au", ".avi", ".avr", ".caf"),
        *(".f4v", ".flac", ".flv", ".htk", ".ircam", ".m4a", ".m4b", ".m4v", ".mat4", ".mat5", ".mka", ".mkv", ".mov"),
        *(".mp2", ".mp3", ".mp4", ".mpc2k", ".mpg", ".mxf", ".nist", ".nut", ".oga", ".ogg", ".ogm", ".opus", ".paf"),
        *(".pvf", ".rf64", ".sd2", ".sds", ".svx", ".voc", ".w64", ".wav", ".wavex", ".webm", ".wma", ".wmv", ".wv"),
        ".wve",
    )
)
# Rates beyond these stand in damaged headers.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 1_000_000  # Hz


# Files and folders that systems leave beside recordings; so are all whose names begin with a dot.
SYSTEM_NAMES = frozenset(("__macosx", "$recycle.bin", "desktop.ini", "system volume information", "thumbs.db"))


def is_hidden(name: str) -> bool:
    """Return whether the name of a file or folder is one that every command skips silently."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_audio_file(path: str | Path) -> bool:
    """
    Return whether a path is that of a recording by its name: its suffix is one of [`SUFFIXES`], and neither the file
    nor a folder in the path is hidden. Give the path relative to the folder that is searched.
    """
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not any(is_hidden(part) for part in path.parts)
