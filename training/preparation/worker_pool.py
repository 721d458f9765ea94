# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
A pool of processes that end with the command that started them.

joblib is not suitable. If the command is killed, its workers finish their queue and then wait for minutes. They would
write into the folder of the next run. On Ctrl-C, one of its threads can print a traceback.
"""

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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[tuple[Item, Result]]:
    """
    Yield each item with the function's result, as soon as it is finished.

    Each process uses one thread, including this one with `num_workers=1`. The results therefore do not depend on the
    number of processes. Closing the iterator ends the processes.

    Args:
        function: A function that other processes can import.
        items: Its arguments.
        num_workers: Number of processes. With one, the work is done in this process.

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
    # A forked process can hang in a lock that another thread of this process held.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(items)), context, _start_worker)
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(list(futures)):
            yield futures.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"A worker process died, possibly because memory ran out. Finished recordings are kept. Run the same "
            f"command again with --num_workers below {num_workers} to resume."
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    # The parent ends its workers on Ctrl-C. If the parent is killed, they end themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
