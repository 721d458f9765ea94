# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a program as two processes that train together."""

import os
import signal
import subprocess
import sys


def run_in_two_processes(arguments: list[str], timeout: float, env: dict[str, str] | None = None) -> str:
    """
    What a script, or `-m` and a module, with these arguments prints to stdout.

    On a CPU `accelerate launch` would start one process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        # Also what was launched, should it hang.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output + errors
    return output
