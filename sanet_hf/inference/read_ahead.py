# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Read sources in advance in threads, in order. The threads do not keep the interpreter from exiting."""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar
from weakref import WeakSet


# Seconds after which blocked threads check whether to stop, and for which the exit of the process waits for them.
POLL_SECONDS, EXIT_SECONDS = 0.1, 2.0

Source, Item = TypeVar("Source"), TypeVar("Item")
_END = StopIteration()


def default_num_workers() -> int:
    """Return the number of recordings to decode in parallel: half of the cores, at least 2 and at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(2, cores // 2), 8)


def read_ahead(
    read: Callable[[Source], Iterable[Item]],
    sources: Iterable[Source],
    num_workers: int,
    num_sources: int,
    num_items: int,
    patience: float | None = None,
) -> Iterator[tuple[Source, Iterator[Item]] | None]:
    """
    Yield the sources in order, each with an iterator over the items that `read` yields for it. Threads read them.

        sources --feeder--> num_sources at most --workers--> num_items of each at most --> caller

    Yield None if all sources so far are read and the next one is slow, so that the caller can process the items so
    far. The threads do not keep the interpreter from exiting, even if the generator is neither exhausted nor closed.

    Args:
        read: Called in a worker. Its exceptions are raised by the iterator over the items.
        sources: Iterated in a thread. Its exceptions are raised in order.
        num_workers: Number of sources that are read in parallel.
        num_sources: Maximum number of sources that are taken from the iterable in advance.
        num_items: Maximum number of items per source that are read in advance.
        patience: Seconds without another source before None is yielded (default: never).
    """
    reader = _Reader(read, sources, num_workers, num_sources, num_items)
    try:
        while True:
            try:
                entry = reader.begun.get(timeout=patience)
            except Empty:
                yield None
                entry = reader.begun.get()
            if entry is _END:
                return
            if isinstance(entry, BaseException):
                raise entry
            reader.places.release()
            source, queue = entry
            yield source, _items(queue)
    finally:
        reader.stop()


class _Reader:
    """
    Threads that read sources. They are daemon threads: `concurrent.futures` joins its threads when the interpreter
    exits, which would block forever if a thread waits for a caller that has stopped.
    """

    def __init__(self, read: Callable, sources: Iterable, num_workers: int, num_sources: int, num_items: int):
        self._read, self._sources, self._num_items = read, sources, num_items
        self._stopped, self._work = Event(), SimpleQueue()
        self.begun: Queue = Queue()
        self.places = Semaphore(num_sources)
        self.workers = [Thread(target=self._run_worker, daemon=True) for _ in range(num_workers)]
        for thread in (*self.workers, Thread(target=self._feed, daemon=True)):
            thread.start()
        _readers.add(self)

    def stop(self) -> None:
        """Stop the threads. A thread that waits for the iterable of sources stops after the next source."""
        self._stopped.set()
        self.places.release()
        for _ in self.workers:
            self._work.put(None)

    def _feed(self) -> None:
        try:
            sources = iter(self._sources)
            while True:
                self.places.acquire()
                source = _END if self._stopped.is_set() else next(sources, _END)
                if source is _END:
                    break
                queue = Queue(self._num_items)
                self._work.put((source, queue))
                self.begun.put((source, queue))
            self.begun.put(_END)
        except BaseException as error:
            self.begun.put(error)

    def _run_worker(self) -> None:
        while (work := self._work.get()) is not None and not self._stopped.is_set():
            source, queue = work
            try:
                for item in self._read(source):
                    self._put(queue, (item, None))
                    if self._stopped.is_set():
                        return
                self._put(queue, (None, _END))
            except BaseException as error:
                self._put(queue, (None, error))

    def _put(self, queue: Queue, item: tuple) -> None:
        while not self._stopped.is_set():
            try:
                return queue.put(item, timeout=POLL_SECONDS)
            except Full:
                continue


def _items(queue: Queue) -> Iterator:
    while True:
        item, error = queue.get()
        if error is _END:
            return
        if error is not None:
            raise error
        yield item


_readers: WeakSet[_Reader] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop all threads. A thread that runs compiled code while the interpreter exits can abort the process."""
    deadline = time.monotonic() + EXIT_SECONDS
    for reader in list(_readers):
        reader.stop()
        for worker in reader.workers:
            worker.join(max(0.0, deadline - time.monotonic()))
