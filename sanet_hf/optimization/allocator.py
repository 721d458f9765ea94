# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of the memory allocator."""

import ctypes
import sys


# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """
    Make glibc keep up to 1 GiB of freed memory (blocks of up to 32 MiB) instead of returning it to the system, which
    avoids page faults on every batch.

    This speeds up classification and training on a CPU. Without the GNU C library it does nothing. `sanet predict` and
    `sanet train` call it.

    Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**30)
