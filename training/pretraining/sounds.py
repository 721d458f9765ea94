# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Types that the sources of the corpus yield."""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Sound(NamedTuple):
    """
    A recording or a synthetic sound.

    Attributes:
        audio: A file, or float32 of shape (samples,) at 16 kHz.
        origin: Description, unique in the source.
        tags: Tags that describe it.
    """

    audio: Path | np.ndarray
    origin: str
    tags: list[str]


class Licence(NamedTuple):
    """
    Origin and licence of a source.

    Attributes:
        work: Name and version.
        names: Names of its licences.
        text: The copyright file, if the source has one.
    """

    work: str
    names: str
    text: str = ""
