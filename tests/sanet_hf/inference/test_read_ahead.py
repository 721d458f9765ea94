# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading ahead in threads: the order of items and errors, and an interpreter that can exit at any time."""

import subprocess
import sys
from itertools import count
from queue import Queue
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.inference import read_ahead as module
from sanet_hf.inference.read_ahead import default_num_workers, read_ahead


class Broken(Exception):
    pass


def read(source: list) -> list:
    for item in source:
        if item is None:
            raise Broken
        yield item


@settings(max_examples=30)
@given(
    sources=st.lists(st.lists(st.none() | st.integers(), max_size=6), max_size=12),
    num_workers=st.integers(1, 4),
    num_sources=st.integers(1, 5),
    num_items=st.integers(1, 3),
    patience=st.none() | st.just(0.0),
)
def test_order_and_errors(sources, num_workers, num_sources, num_items, patience):
    """
    Items and errors are the same as without threads, for any number of them. With a patience of 0, None can occur
    anywhere.
    """
    found = []
    for entry in read_ahead(read, iter(sources), num_workers, num_sources, num_items, patience):
        if entry is None:
            continue
        source, items = entry
        found.append((source, []))
        try:
            for item in items:
                found[-1][1].append(item)
        except Broken:
            found[-1][1].append(None)
    expected = [(source, source[: source.index(None) + 1] if None in source else source) for source in sources]
    assert found == expected


def test_error_of_the_sources_comes_after_earlier_items():
    def sources():
        yield [1]
        yield [2]
        raise Broken

    found = []
    with pytest.raises(Broken):
        for _, items in read_ahead(read, sources(), 2, 4, 4):
            found += items
    assert found == [1, 2]


def test_only_a_limited_number_of_sources_is_read_ahead():
    taken = []

    def sources():
        for number in count():
            taken.append(number)
            yield [number]

    entries = read_ahead(read, sources(), 2, 3, 1)
    for _ in range(5):
        next(entries)
    entries.close()
    assert len(taken) <= 5 + 3


def test_none_is_yielded_only_before_a_slow_source():
    given_on: Queue = Queue()
    entries = read_ahead(read, iter(given_on.get, None), 2, 8, 4, patience=0.01)
    for number in range(3):
        given_on.put([number])
        entry = next(entries)
        # There may be one more None, before the thread gets the source.
        entry = next(entries) if entry is None else entry
        assert list(entry[1]) == [number]
        # The next source is added only after this.
        assert next(entries) is None
    given_on.put(None)
    assert list(entries) == []


def test_threads_end_when_the_generator_is_closed():
    reading = Event()

    def endless(source):
        reading.set()
        yield from count()

    entries = read_ahead(endless, [1, 2, 3], 2, 8, 4)
    next(entries)
    assert reading.wait(60)
    workers = [worker for reader in list(module._readers) for worker in reader.workers if worker.is_alive()]
    assert workers
    entries.close()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()


ENDS = {
    "kept in a variable": "entries = make(); next(entries)",
    "never started": "entries = make()",
    "break": "for entry in make(): break",
    "items left": "entries = make(); source, items = next(entries); next(items)",
    "waits for sources": "e = make(block()); Thread(target=next, args=[e], daemon=True).start(); blocked.wait()",
    "an exception": "entries = make(); next(entries); raise SystemExit(3)",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=list(ENDS))
def test_interpreter_exits_while_threads_wait(code):
    """Workers wait for a caller that has stopped, or the feeder waits for sources that never come."""
    script = (
        f"import runpy; from itertools import count; from threading import Event, Thread\n"
        f"read_ahead = runpy.run_path({module.__file__!r})['read_ahead']\n"
        "def make(sources=range(100)): return read_ahead(lambda source: count(), sources, 2, 8, 4)\n"
        "blocked = Event()\n"
        "def block(): blocked.set(); yield Event().wait()\n"
        f"{code}\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == (3 if "SystemExit" in code else 0) and not result.stderr


def test_default_number_of_workers(monkeypatch):
    for cores, expected in ((1, 2), (4, 2), (10, 5), (64, 8)):
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_num_workers() == expected
