# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Work spread over processes that does not outlive the command that started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

import torch


Item = TypeVar("Item")
Result = TypeVar("Result")


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[tuple[Item, Result]]:
    """
    Items and what the function makes of them, in the order in which they are done.

    Each process uses one thread, as this one does with `num_workers=1`: results do not depend on the number of
    processes. Closing the iterator ends the processes.

    Args:
        function: A function of a module, which other processes can import.
        items: Its arguments.
        num_workers: Processes; with one, the work is done in this process.

    Raises:
        OSError: A process died.
    """
    if min(num_workers, len(items)) <= 1:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for item in items:
                yield item, function(item)
        finally:
            torch.set_num_threads(num_threads)
        return
    others = set(multiprocessing.active_children())
    # A forked process can hang in locks that threads of this one held.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(items)), context, _start_worker)
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(list(futures)):
            yield futures.pop(future), future.result()
    except BrokenProcessPool as error:
        raise OSError(
            f"A worker process died, perhaps for want of memory. What was finished is kept: run the same command "
            f"again, with fewer than {num_workers} for --num_workers."
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    # The parent ends its workers on Ctrl-C; where it was killed, they end themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
