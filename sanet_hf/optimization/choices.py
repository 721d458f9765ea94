# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Choose the fastest of several implementations on this processor.

Implementations are timed once per shape. The results are saved in the assets folder of the Hub (`HF_ASSETS_CACHE`,
default `~/.cache/huggingface/assets`), in one file per processor, PyTorch version and number of threads. The folder
can be deleted at any time.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from huggingface_hub import cached_assets_path

from sanet_hf.optimization.processor import describe_libraries, describe_processor
from sanet_hf.utils.files import write_atomically


# Increase this number if other implementations are compared. Older results are then ignored.
VERSION = 1
ROUNDS = 10
# Maximum seconds for all rounds except the first two, on a machine without other load.
SECONDS = 0.03
# After this many rounds, implementations that are slower than the fastest by this factor are not timed again.
SLOW_FACTOR, MIN_ROUNDS = 1.5, 4
# Another implementation replaces the first only if it takes less than this fraction of its time.
MAX_TIME_RATIO = 0.97
# Maximum seconds to wait for another process that writes.
LOCK_SECONDS = 5


@dataclass(frozen=True)
class Choice:
    """Name of the fastest implementation, and the best time of each in milliseconds."""

    fastest: str
    milliseconds: dict[str, float]


class Choices:
    """Fastest implementations on this machine, by name of the computation. Several processes can share one file."""

    def __init__(self):
        self.machine = {
            "version": VERSION,
            "processor": describe_processor(),
            "libraries": describe_libraries(),
            "threads": torch.get_num_threads(),
        }
        self._path: Path | None = None
        with suppress(OSError, ValueError):
            name = sha256(json.dumps(self.machine).encode()).hexdigest()[:16]
            self._path = cached_assets_path("sanet_hf", "choices") / f"{name}.json"
        self.known = self._load()
        self._new: dict[str, Choice] = {}

    def find(self, what: str) -> str | None:
        """Return the fastest implementation of an earlier measurement, or None."""
        choice = self.known.get(what)
        return choice and choice.fastest

    def choose(self, what: str, ways: Mapping[str, Callable[[], object]]) -> str:
        """
        Return the name of the fastest implementation. It is not timed again if an earlier measurement compared the
        same implementations.

        Args:
            what: Name of the computation, including shapes and number formats.
            ways: Implementations by name. The first is preferred if the difference is small.
        """
        choice = self.known.get(what)
        if choice is None or choice.milliseconds.keys() != ways.keys():
            self._new[what] = self.known[what] = measure(ways)
        return self.known[what].fastest

    def save(self) -> None:
        """Save new choices for other processes. If the folder cannot be written, only this process uses them."""
        new, self._new = self._new, {}
        if not new or self._path is None:
            return
        with suppress(OSError, NotImplementedError, Timeout):
            with FileLock(self._path.with_suffix(".lock"), timeout=LOCK_SECONDS):
                choices = {what: asdict(choice) for what, choice in (self._load() | new).items()}
                text = json.dumps({"machine": self.machine, "choices": choices}, indent=1)
                with write_atomically(self._path, self._path.with_suffix(f".{os.getpid()}.tmp")) as file:
                    file.write(text.encode())

    def _load(self) -> dict[str, Choice]:
        """Return the choices in the file. A file that is damaged or of another machine is ignored."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["machine"] != self.machine:
                return {}
            choices = {what: Choice(**choice) for what, choice in content["choices"].items()}
            is_right = all(
                choice.fastest in choice.milliseconds
                and all(isinstance(value, float) for value in choice.milliseconds.values())
                for choice in choices.values()
            )
        except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError):
            return {}
        return choices if is_right else {}


def measure(ways: Mapping[str, Callable[[], object]]) -> Choice:
    """
    Time implementations and return their best times. They are interleaved, so that other load affects all equally.
    """
    # The time of one thread excludes other processes. There is no such clock for several threads.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = {}
    for name, run in ways.items():
        # The first run allocates memory and converts weights to the format of a library.
        run()
        best[name] = float("inf")
    for number in range(ROUNDS):
        # Best times instead of elapsed time: a busy machine needs more rounds, not fewer.
        if number > 1 and number * sum(best.values()) > SECONDS:
            break
        limit = SLOW_FACTOR * min(best.values()) if number >= MIN_ROUNDS else float("inf")
        for name, run in ways.items():
            if best[name] <= limit:
                start = clock()
                run()
                best[name] = min(best[name], clock() - start)
    first, fastest = next(iter(best)), min(best, key=best.get)
    if best[fastest] > MAX_TIME_RATIO * best[first]:
        fastest = first
    return Choice(fastest, {name: round(1000 * seconds, 4) for name, seconds in best.items()})


@cache
def _choices_for(num_threads: int) -> Choices:
    return Choices()


def known_choices() -> Choices:
    """Return the choices for the current number of threads. A process reads their file once."""
    return _choices_for(torch.get_num_threads())
