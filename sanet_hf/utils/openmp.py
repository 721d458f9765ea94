# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
How long OpenMP's threads spin while they wait for each other, before they leave their core to other processes.

By default they spin for milliseconds. If another process takes a core, the threads on the free cores spin while the
thread that they wait for is not running. OpenMP reads these variables when PyTorch, which loads it, is imported.
"""

import os
import platform
import sys
from pathlib import Path


# Of Intel's and LLVM's OpenMP (macOS, Windows), in ms, instead of 200. Not all versions support fractions.
SHORT_WAIT = {"KMP_BLOCKTIME": "1"}
if platform.machine() in ("x86_64", "AMD64"):
    # Of libgomp (Linux), in turns of a loop, instead of 300,000. A turn takes 20 to 70 ns on x86 (its instruction
    # `pause`). Without that instruction, on ARM, the default is short.
    SHORT_WAIT["GOMP_SPINCOUNT"] = "3000"


def find_short_wait() -> dict[str, str]:
    """Return the part of `SHORT_WAIT` that the environment leaves open; nothing if it has OMP_WAIT_POLICY."""
    if "OMP_WAIT_POLICY" in os.environ:
        return {}
    # `accelerate launch --cpu` sets KMP_BLOCKTIME and leaves libgomp as it is.
    return {name: value for name, value in SHORT_WAIT.items() if name not in os.environ}


def shorten_wait() -> None:
    """Set the variables of `find_short_wait` for this process and its children, unless PyTorch is already imported."""
    if "torch" not in sys.modules:
        os.environ.update(find_short_wait())


def is_sanet() -> bool:
    """Return whether this process is `sanet` or `python -m sanet_hf…`; call it when the package is imported."""
    # While Python looks for the module of -m, and imports its package, this stands for the program's name.
    if sys.argv[:1] == ["-m"]:
        return any(argument.removeprefix("-m").split(".")[0] == "sanet_hf" for argument in sys.orig_argv)
    return Path(sys.argv[0]).stem == "sanet" if sys.argv else False
