# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Run commands in processes that are killed during a write, at another change of a file, or after a time."""

import builtins
import hashlib
import io
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas
import torch

from sanet_hf.cli.main import main


# Loads the modules that every process needs only once.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "sanet_hf.inference.bulk",
        "sanet_hf.training.preparation.prepare",
        "sanet_hf.cli.main",
        "sanet_hf.inference.loading",
    ]
)


@dataclass
class Kill:
    """
    SIGKILL at the `number`-th change of a file by a process. A write is truncated at a random byte.

    `in_worker`: whether the change is by a worker. `whole`: whether all processes are killed, or only that one.
    """

    number: int
    seed: int = 0
    in_worker: bool = False
    whole: bool = True


class _Changes:
    """Count the changes of a process in the file system, and kill it at the given one."""

    def __init__(self, kill: Kill | None):
        self.kill, self.count, self.main = kill, 0, os.getpid()
        self.random = random.Random(None if kill is None else kill.seed)

    def is_last(self) -> bool:
        self.count += 1
        kill = self.kill
        return kill is not None and self.count == kill.number and (os.getpid() != self.main) == kill.in_worker

    def end(self) -> None:
        if self.kill.whole:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, module, name: str) -> None:
        original = getattr(module, name)

        def change(*args, **kwargs):
            is_last = self.is_last()
            if is_last and self.random.random() < 0.5:
                self.end()
            result = original(*args, **kwargs)
            if is_last:
                self.end()
            return result

        setattr(module, name, change)

    def install(self) -> None:
        for name in ("replace", "unlink", "mkdir", "rmdir"):
            self.wrap(os, name)
        changes, open_file, to_parquet = self, io.open, pandas.DataFrame.to_parquet

        class File(io.FileIO):
            def write(self, data):
                if changes.is_last():
                    super().write(memoryview(data)[: changes.random.randint(0, len(data))])
                    changes.end()
                return super().write(data)

        def open_to_write(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **others):
            # Files with an opener are unnamed temporary files.
            if others or isinstance(file, int) or not set(mode) & set("wxa"):
                return open_file(file, mode, buffering, encoding, errors, newline, **others)
            buffered = io.BufferedWriter(File(file, mode.replace("b", "").replace("t", "")))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        def write_parquet(table, path, *args, **kwargs):
            # Arrow writes files without Python's open.
            is_last = isinstance(path, (str, Path)) and self.is_last()
            to_parquet(table, path, *args, **kwargs)
            if is_last:
                os.truncate(path, self.random.randint(0, os.path.getsize(path)))
                self.end()

        builtins.open = io.open = open_to_write
        pandas.DataFrame.to_parquet = write_parquet


def start(log: str) -> None:
    """Set up a process of [`PROCESSES`]: a separate process group, output to a file, one thread."""
    os.setpgid(0, 0)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)


def _run(command: list[str], log: str, kill: Kill | None, connection) -> None:
    start(log)
    # Fork workers, so that they do not load everything again. There are no threads here that could hold a lock.
    multiprocessing.get_context = lambda method: get_context("fork")
    changes = _Changes(kill)
    changes.install()
    code = main(command)
    connection.send(changes.count)
    # With sys.exit, a process of a pool would report a failure.
    os._exit(code)


def run(command: list[str], log: Path, kill: Kill | None = None, seconds: float | None = None) -> tuple[int, int]:
    """
    Run a command. Return its exit code (negative for a signal) and the number of changes by its main process.

    Args:
        command: Arguments of `sanet`.
        log: File for its output.
        kill: When to kill it.
        seconds: Time after which to kill it.
    """
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_run, args=(command, str(log), kill, sender))
    process.start()
    sender.close()
    if seconds is not None:
        process.join(seconds)
        process.kill()
    process.join()
    try:
        count = receiver.recv()
    except EOFError:
        count = 0
    # Workers end themselves.
    deadline = time.monotonic() + 60
    while _is_alive(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.01)
    return process.exitcode, count


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file, except for the lock and the file that filled the disk."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".prepare.lock", "filler")
    }
