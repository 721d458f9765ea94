# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress bars of the datasets library."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the bars of datasets while they do something quick, such as adding a column to a table of paths."""
    are_hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not are_hidden:
            datasets.enable_progress_bars()
