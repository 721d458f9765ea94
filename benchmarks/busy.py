# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Time a training step, and a prediction of eight clips by the optimised network, on free cores and with one core used by
another process, for several settings of how OpenMP's threads wait for each other:

    python -m benchmarks.busy [--environments GOMP_SPINCOUNT=1000 OMP_WAIT_POLICY=passive] [--network tiny]

Each environment has its own process, because OpenMP reads its variables when PyTorch loads it. The processes run
interleaved. "as it is" are the defaults of the libraries, and "sanet" are the settings of the `sanet` command.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sanet_hf import SANetForAudioClassification
from sanet_hf.optimization import keep_freed_memory
from sanet_hf.utils.openmp import SHORT_WAIT

from . import timing, variants
from .inference import make_clips
from .training import make_batch


# The defaults of libgomp (turns of a loop) and of LLVM's and Intel's OpenMP (ms).
AS_IT_IS = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
WAIT_VARIABLES = ("OMP_WAIT_POLICY", *AS_IT_IS)
ENVIRONMENTS = {"as it is": AS_IT_IS, "sanet": SHORT_WAIT}
NETWORKS = {"sanet": "optimized", "small": "small", "tiny": "tiny"}  # with their optimised variants
TASKS = ("training_bfloat16", "training_float32", "prediction_float32")
# States of the cores, with the signal to the other process that causes each.
STATES = {"free": signal.SIGSTOP, "one core taken": signal.SIGCONT}
CPU = torch.device("cpu")


def make_task(task: str, network: str, batch_size: int, seconds: float) -> Callable[[], object]:
    """Return a function that makes a training step or a prediction on clips of noise."""
    name, dtype = task.split("_")
    if name == "prediction":
        classify = variants.make_variant(NETWORKS[network], torch.float32, CPU)
        return partial(classify, make_clips(batch_size, seconds, CPU))
    model = SANetForAudioClassification(variants.make_config(network)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    waveforms, labels = make_batch(batch_size, seconds, CPU)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(input_values=waveforms, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def other_process(niceness: int, new_session: bool) -> Iterator[subprocess.Popen]:
    """Start a process that keeps a core busy, until a signal stops it."""
    command = [sys.executable, "-S", "-c", "while True: pass"]
    process = subprocess.Popen(command, start_new_session=new_session)
    try:
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        yield process
    finally:
        process.kill()
        process.wait()


def measure(run: Callable[[], object], min_seconds: float) -> float:
    """Return the seconds per call, over enough calls to fill `min_seconds`."""
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < min_seconds:
        run()
        count += 1
    return (time.perf_counter() - start) / count


def serve(run: Callable[[], object], min_seconds: float) -> None:
    """Run in a child: answer each line of the parent with a measurement. The first answer means "ready"."""
    keep_freed_memory()
    run()
    print(flush=True)
    for _ in sys.stdin:
        print(measure(run, min_seconds), flush=True)


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with these variables, and without others about waiting."""
    return {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES} | settings


@contextmanager
def child(task: str, settings: Mapping[str, str], arguments: argparse.Namespace) -> Iterator[Callable[[], float]]:
    """Yield a function that measures a task in a separate process with these environment variables."""
    command = [sys.executable, "-m", "benchmarks.busy", *sys.argv[1:], "--child", task]
    options = {"env": child_environment(settings), "cwd": Path(__file__).parents[1], "text": True}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:

        def ask() -> float:
            print(file=process.stdin, flush=True)
            return float(process.stdout.readline())

        process.stdout.readline()
        yield ask


def measure_task(
    task: str, environments: Mapping[str, Mapping[str, str]], arguments: argparse.Namespace
) -> dict[tuple[str, str], list[float]]:
    """Return the seconds per call, for each environment and each of `STATES`."""
    times = {(name, state): [] for name in environments for state in STATES}
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        children = {name: stack.enter_context(child(task, environments[name], arguments)) for name in environments}
        process = stack.enter_context(other_process(arguments.niceness, arguments.new_session))
        for _ in range(arguments.num_rounds):
            for name in rng.permutation(list(children)):
                for state, signal_number in STATES.items():
                    process.send_signal(signal_number)
                    times[name, state].append(children[name]())
    return times


def parse_environment(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and variables of an environment such as GOMP_SPINCOUNT=1000,KMP_BLOCKTIME=0."""
    settings = dict(setting.split("=", 1) for setting in text.split(","))
    return text, settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="*", type=parse_environment, default=[], metavar="NAME=VALUE,…")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--network", choices=NETWORKS, default="sanet")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of clips (default: %(default)g)")
    parser.add_argument("--num_rounds", type=int, default=15, help="rounds per environment (default: %(default)s)")
    parser.add_argument("--min_seconds", type=float, default=2.0, help="duration of a round (default: %(default)g)")
    parser.add_argument(
        "--num_cores", type=int, default=2, help="cores for all processes together (default: %(default)s)"
    )
    parser.add_argument("--niceness", type=int, default=0, help="niceness of the other process (default: %(default)s)")
    session = "start the other process in a separate session, as from another terminal (Linux may group processes)"
    parser.add_argument("--new_session", action="store_true", help=session)
    parser.add_argument("--quick", action="store_true", help="try the benchmark: tiny network, short clips, one round")
    parser.add_argument("--child", choices=TASKS, help=argparse.SUPPRESS)
    timing.add_output_options(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"network": "tiny", "batch_size": 2, "seconds": 0.25, "num_rounds": 1, "min_seconds": 0.0}
        vars(arguments).update(quick)
    if arguments.child:
        run = make_task(arguments.child, arguments.network, arguments.batch_size, arguments.seconds)
        serve(run, arguments.min_seconds)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.num_cores])
    environments = {**ENVIRONMENTS, **dict(arguments.environments)}
    rows = []
    print('Medians in ms. The loss on free cores is relative to the environment "as it is".')
    print(f"{'':56}{'free':>10}{'taken':>10}{'ratio':>8}{'loss':>9}")
    for task in arguments.tasks:
        times = measure_task(task, environments, arguments)
        ms = {key: 1000 * float(np.median(seconds)) for key, seconds in times.items()}
        for name in environments:
            free, taken = (ms[name, state] for state in STATES)
            loss = free / ms["as it is", "free"] - 1
            print(f"{task:20}{name:36}{free:10.1f}{taken:10.1f}{taken / free:8.2f}{loss:9.1%}", flush=True)
        benchmark, dtype = task.split("_")
        for (name, state), value in ms.items():
            what = (f"{benchmark}, {state}", name, arguments.batch_size, arguments.seconds, dtype, "cpu")
            rows.append({**dict(zip(timing.KEYS, what)), "network": arguments.network, "ms": value})
    timing.finish(rows, arguments, CPU)


if __name__ == "__main__":
    main()
