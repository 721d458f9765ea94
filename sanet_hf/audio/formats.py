# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The audio formats that every command reads, and files that are refused."""

import re


# What files are called that soundfile or FFmpeg read as audio.
SUFFIXES = frozenset(
    (
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".aac", ".mp4", ".aif", ".aiff", ".aifc"),
        *(".au", ".caf", ".w64", ".rf64", ".webm", ".mka", ".mkv", ".wma", ".amr", ".mp2", ".ac3", ".wv"),
    )
)
# Rates beyond these stand in damaged headers.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 1_000_000  # Hz

# What FFmpeg takes for a recording but is none: lists of files and streams, of which it reads whatever they name,
# waits for pipes or opens ports; and programs of game consoles, a hundred bytes of which play for ever.
LIST_MARKS = re.compile(
    rb"ffconcat version|#EXTM3U|dash:profile|<CompositionPlaylist|# VobSub index|(^|\n)\r?c=IN IP", re.IGNORECASE
)
GAME_MUSIC = (b"ZXAY", b"GBS\x01", b"GYMX", b"HESM", b"KSCC", b"KSSX", b"NESM", b"NSFE", b"SAP\r", b"SNES", b"Vgm ")
# Bytes by which FFmpeg tells a format.
PROBED_BYTES = 2**20
