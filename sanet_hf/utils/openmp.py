# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Shorten the time for which waiting OpenMP threads spin before they release their core.

By default they spin for milliseconds. If another process occupies a core, threads on other cores spin while the thread
that they wait for does not run. OpenMP reads these variables when PyTorch, which loads it, is imported.
"""

import os
import platform
import sys
from pathlib import Path


# Intel's and LLVM's OpenMP (macOS, Windows): ms, default 200. Some versions do not support fractions.
SHORT_WAIT = {"KMP_BLOCKTIME": "1"}
if platform.machine() in ("x86_64", "AMD64"):
    # libgomp (Linux): iterations of a loop, default 300,000. An iteration takes 20 to 70 ns on x86 (instruction
    # `pause`). On ARM, without that instruction, the default is short.
    SHORT_WAIT["GOMP_SPINCOUNT"] = "3000"


def find_short_wait() -> dict[str, str]:
    """Return the variables of `SHORT_WAIT` that are not set in the environment; none if OMP_WAIT_POLICY is set."""
    if "OMP_WAIT_POLICY" in os.environ:
        return {}
    # `accelerate launch --cpu` sets KMP_BLOCKTIME but not GOMP_SPINCOUNT.
    return {name: value for name, value in SHORT_WAIT.items() if name not in os.environ}


def shorten_wait() -> None:
    """Set the variables of `find_short_wait` for this process and its children, unless PyTorch is already imported."""
    if "torch" not in sys.modules:
        os.environ.update(find_short_wait())


def is_sanet() -> bool:
    """Return whether this process is `sanet` or `python -m sanet_hf…`. Call it when the package is imported."""
    # While Python imports the package of a module that is run with -m, sys.argv[0] is "-m".
    if sys.argv[:1] == ["-m"]:
        return any(argument.removeprefix("-m").split(".")[0] == "sanet_hf" for argument in sys.orig_argv)
    return Path(sys.argv[0]).stem == "sanet" if sys.argv else False
