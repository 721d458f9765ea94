# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Information on processes from a launcher such as `accelerate launch` or `torchrun`."""

import os


def num_processes() -> int:
    """Return the number of processes of the launcher, from its environment, without importing accelerate."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Return whether this is the only process, or the one that prints and writes."""
    return int(os.environ.get("RANK", 0)) == 0
