# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The audio formats that every command reads."""

from pathlib import Path


# Suffixes of files that soundfile or FFmpeg read as audio. Every command that searches for recordings uses this set.
# `.raw` and `.xi` are not in it, since these files have no sampling rate.
SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".asf", ".au", ".avi", ".avr", ".caf"),
        *(".f4v", ".flac", ".flv", ".htk", ".ircam", ".m4a", ".m4b", ".m4v", ".mat4", ".mat5", ".mka", ".mkv", ".mov"),
        *(".mp2", ".mp3", ".mp4", ".mpc2k", ".mpg", ".mxf", ".nist", ".nut", ".oga", ".ogg", ".ogm", ".opus", ".paf"),
        *(".pvf", ".rf64", ".sd2", ".sds", ".svx", ".voc", ".w64", ".wav", ".wavex", ".webm", ".wma", ".wmv", ".wv"),
        ".wve",
    )
)
# Rates outside this range are signs of damaged headers.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 1_000_000  # Hz


# Files and folders that operating systems create. Names that begin with a dot are hidden as well.
SYSTEM_NAMES = frozenset(("__macosx", "$recycle.bin", "desktop.ini", "system volume information", "thumbs.db"))


def is_hidden(name: str) -> bool:
    """Return whether every command skips files or folders of this name silently."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_audio_file(path: str | Path) -> bool:
    """
    Return whether the name of a path is that of an audio file: its suffix is one of [`SUFFIXES`], and neither the file
    nor a folder in the path is hidden. The path must be relative to the folder that is searched.
    """
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not any(is_hidden(part) for part in path.parts)
