# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Choices by measurement: the fastest way is saved and reused, also after damage to the file."""

import itertools
import json
import os
import threading
import types
from pathlib import Path

import pytest
import torch

from sanet_hf.optimization import choices
from sanet_hf.optimization.choices import Choice, Choices, known_choices, measure


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(choices, "cached_assets_path", lambda *names: tmp_path)
    choices._choices_for.cache_clear()
    yield tmp_path
    choices._choices_for.cache_clear()


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Return the current time in seconds. Running a way advances it."""
    now = [0.0]
    monkeypatch.setattr(
        choices, "time", types.SimpleNamespace(perf_counter=lambda: now[0], thread_time=lambda: now[0])
    )
    return now


def make_ways(clock: list[float], **seconds) -> tuple[dict, list[str]]:
    """Return ways that take the given seconds per run (a list is repeated), and the names in the order of the runs."""
    calls = []

    def make(name: str, durations) -> callable:
        durations = itertools.cycle(durations if isinstance(durations, list) else [durations])

        def run() -> None:
            calls.append(name)
            clock[0] += next(durations)

        return run

    return {name: make(name, durations) for name, durations in seconds.items()}, calls


def test_best_time_counts(clock, monkeypatch):
    """The first run, and runs slowed down by another process, do not count."""
    monkeypatch.setattr(choices, "SECONDS", 1000)
    ways, calls = make_ways(clock, plain=[9, 5, 5], fast=[50, 30, 4, 30])
    choice = measure(ways)
    assert choice == Choice("fast", {"plain": 5000.0, "fast": 4000.0})
    assert calls[:6] == ["plain", "fast"] * 3


def test_slow_ways_are_abandoned_early(clock, monkeypatch):
    monkeypatch.setattr(choices, "SECONDS", 1000)
    ways, calls = make_ways(clock, plain=1, slow=100)
    assert measure(ways).fastest == "plain"
    assert calls.count("slow") == 5 < calls.count("plain")


def test_slow_layers_are_measured_in_few_rounds(clock):
    ways, calls = make_ways(clock, plain=10, fast=9)
    assert measure(ways).fastest == "fast" and calls == ["plain", "fast"] * 3


def test_small_gains_are_ignored(clock):
    ways, _ = make_ways(clock, plain=1, other=0.99)
    assert measure(ways).fastest == "plain"


def test_measured_once(clock):
    ways, calls = make_ways(clock, plain=2, fast=1)
    first = Choices()
    assert first.find("sum") is None and first.choose("sum", ways) == "fast" == first.find("sum")
    first.save()
    num_calls = len(calls)
    second = Choices()
    assert second.choose("sum", ways) == "fast" and len(calls) == num_calls
    # A different set of ways is measured again.
    ways.pop("fast")
    assert second.choose("sum", ways) == "plain" and len(calls) > num_calls


def test_concurrent_saves_keep_all_choices(clock, folder):
    ways, _ = make_ways(clock, plain=2, fast=1)
    several = [Choices() for _ in range(8)]

    def use(number: int) -> None:
        several[number].choose(f"sum {number}", ways)
        several[number].save()

    threads = [threading.Thread(target=use, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Choices().known.keys() == {f"sum {number}" for number in range(8)}
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".lock"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff{",
        b"[]",
        b"{}",
        b"[" * 10**5,
        {"choices": []},
        {"choices": {"sum": {"fastest": "fast"}}},
        {"choices": {"sum": {"fastest": "other", "milliseconds": {"plain": 1.0}}}},
        {"choices": {"sum": {"fastest": "plain", "milliseconds": {"plain": "1"}}}},
        {"choices": {"sum": {"fastest": ["plain"], "milliseconds": 1}}},
    ],
    ids=str,
)
def test_damaged_files_are_ignored_and_replaced(clock, folder, content):
    ways, _ = make_ways(clock, plain=2, fast=1)
    content = content if isinstance(content, bytes) else json.dumps(content | {"machine": Choices().machine}).encode()
    Choices()._path.write_bytes(content)
    damaged = Choices()
    assert damaged.known == {} and damaged.choose("sum", ways) == "fast"
    damaged.save()
    assert Choices().find("sum") == "fast"


@pytest.mark.parametrize("place", ["in a file", "of another user"])
def test_unwritable_folder_keeps_choices_in_memory(clock, monkeypatch, folder, place):
    if place == "in a file":
        (folder / "file").touch()
        monkeypatch.setattr(choices, "cached_assets_path", lambda *names: folder / "file" / "assets")
    else:
        # Tests may run as root, which can write everywhere.
        def refuse(*arguments, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(choices, "cached_assets_path", refuse)
    ways, _ = make_ways(clock, plain=2, fast=1)
    here = Choices()
    assert here.choose("sum", ways) == "fast"
    here.save()
    assert here.find("sum") == "fast" and Choices().find("sum") is None


@pytest.mark.parametrize("what", ["threads", "libraries", "processor"])
def test_choices_of_other_machines_are_not_used(clock, monkeypatch, what):
    ways, _ = make_ways(clock, plain=2, fast=1)
    first = known_choices()
    first.choose("sum", ways)
    first.save()
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
        assert known_choices().find("sum") is None
    else:
        monkeypatch.setattr(choices, f"describe_{what}", lambda: "another")
    assert Choices().find("sum") is None
    # Not even if the file of this machine has the content of another.
    os.replace(first._path, Choices()._path)
    assert Choices().find("sum") is None
