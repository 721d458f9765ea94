# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the sources of the corpus give."""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Sound(NamedTuple):
    """
    A recording or a synthetic sound.

    Attributes:
        audio: A file, or float32 of shape (samples,) at 16 kHz.
        origin: What it is, unique in the source.
        tags: What is known of it.
    """

    audio: Path | np.ndarray
    origin: str
    tags: list[str]


class Licence(NamedTuple):
    """
    Where a source comes from.

    Attributes:
        work: Name and version.
        names: Names of its licences.
        text: The copyright file, where the source has one.
    """

    work: str
    names: str
    text: str = ""
