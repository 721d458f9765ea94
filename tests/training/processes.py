# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Run a program as several processes that train together."""

import os
import signal
import subprocess
import sys


def start_processes(
    arguments: list[str], num_processes: int = 2, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a script, or `-m` and a module, with these arguments, with `accelerate launch`."""
    # Also on a CPU, because with --cpu, accelerate starts only one process.
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
    """Wait for the processes and return their stdout and stderr. Kill all of them if one hangs."""
    try:
        return process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def run_in_processes(arguments: list[str], timeout: float, num_processes: int = 2) -> str:
    """Run a program that must end without an error. Return its stdout."""
    process = start_processes(arguments, num_processes)
    output, errors = wait_for(process, timeout)
    assert process.returncode == 0, output + errors
    return output
