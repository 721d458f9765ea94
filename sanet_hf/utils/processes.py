# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a launcher such as `accelerate launch` or `torchrun` says of the processes that it started."""

import os


def num_processes() -> int:
    """Processes that a launcher started together; its environment tells, so that accelerate need not be imported."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this is the only process, or the one that prints and writes."""
    return int(os.environ.get("RANK", 0)) == 0
