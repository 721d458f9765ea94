# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Read sources in threads before they are needed, in order, without threads that outlive the interpreter."""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar
from weakref import WeakSet


# Seconds after which blocked threads look whether they are still needed, and that the end of the process waits for.
POLL, FAREWELL = 0.1, 2.0

Source, Item = TypeVar("Source"), TypeVar("Item")
_END = StopIteration()


def default_num_workers() -> int:
    """Return the number of recordings to decode at once: half of the processor's cores, at least 2 and at most 8."""
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
    Yield the sources in order, each with the items that `read` yields of it. Sources are taken and read in threads.

        sources --feeder--> num_sources at most --workers--> num_items of each at most --> caller

    Yield None where nothing is left to read and the iterable of sources is slow: time to use what has come so far.
    The threads do not keep the interpreter from exiting, even if the generator is neither exhausted nor closed.

    Args:
        read: Called in a worker. Its exceptions are raised by the iterator of the source's items.
        sources: Iterated in a thread. Its exceptions are raised in their place.
        num_workers: Sources that are read at once.
        num_sources: Sources that are taken from the iterable before they are asked for.
        num_items: Items of a source that are kept.
        patience: Seconds without another source before None; by default there is none.
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
    Threads that take and read sources. They are daemons: `concurrent.futures` joins its threads when the interpreter
    exits, which never ends if one waits for a caller that is gone.
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
        """Tell the threads to end. One that waits for the iterable of sources ends when that gives another."""
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
                return queue.put(item, timeout=POLL)
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
    """A thread that runs compiled code while the interpreter is taken down can abort the process: end them before."""
    deadline = time.monotonic() + FAREWELL
    for reader in list(_readers):
        reader.stop()
        for worker in reader.workers:
            worker.join(max(0.0, deadline - time.monotonic()))
