# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a program as several processes that train together."""

import os
import signal
import subprocess
import sys


def start_processes(
    arguments: list[str], num_processes: int = 2, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """A script, or `-m` and a module, with these arguments as `accelerate launch` starts it."""
    # On a CPU too: with --cpu it starts one process.
    launch = ["--multi_gpu", "--num_processes", str(num_processes), "--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *launch, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def wait_for(process: subprocess.Popen[str], timeout: float) -> tuple[str, str]:
    """What the processes print to stdout and stderr. None of them is left, should one hang."""
    try:
        return process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def run_in_processes(arguments: list[str], timeout: float, num_processes: int = 2) -> str:
    """What a program prints to stdout that ends without an error."""
    process = start_processes(arguments, num_processes)
    output, errors = wait_for(process, timeout)
    assert process.returncode == 0, output + errors
    return output
