# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Which of several ways to compute the same is fastest on the processor at hand.

It is measured once for each shape and kept in the Hub's folder for assets (`HF_ASSETS_CACHE`,
`~/.cache/huggingface/assets` by default), in a file for each processor, PyTorch and number of threads. The folder may
be deleted at any time.
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


# Another number where other ways are compared: nothing older is believed.
VERSION = 1
ROUNDS = 10
# Seconds that all rounds but the first two take on a free machine, at most.
SECONDS = 0.03
# After four rounds, a way that took so many times as long as the best one is not measured again.
HOPELESS, PATIENT_ROUNDS = 1.5, 4
# The first way is kept unless another takes less than this part of its time.
WORTHWHILE = 0.97
# Seconds that another process may take to write.
WRITING_SECONDS = 5


@dataclass(frozen=True)
class Choice:
    """The fastest way, and the best time of each in milliseconds."""

    fastest: str
    milliseconds: dict[str, float]


class Choices:
    """Choices for this machine by the name of what is computed. Several processes can use and extend one file."""

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
        """Return the way that an earlier measurement found fastest."""
        choice = self.known.get(what)
        return choice and choice.fastest

    def choose(self, what: str, ways: Mapping[str, Callable[[], object]]) -> str:
        """
        Return the name of the fastest of the ways, from an earlier measurement if one compared the same.

        Args:
            what: Names what is computed, with all that its time depends on.
            ways: Functions that compute it, by name. The first is preferred where the difference is small.
        """
        choice = self.known.get(what)
        if choice is None or choice.milliseconds.keys() != ways.keys():
            self._new[what] = self.known[what] = measure(ways)
        return self.known[what].fastest

    def save(self) -> None:
        """Keep new choices for other processes; where the folder cannot be written, for this one alone."""
        new, self._new = self._new, {}
        if not new or self._path is None:
            return
        with suppress(OSError, NotImplementedError, Timeout):
            with FileLock(self._path.with_suffix(".lock"), timeout=WRITING_SECONDS):
                choices = {what: asdict(choice) for what, choice in (self._load() | new).items()}
                text = json.dumps({"machine": self.machine, "choices": choices}, indent=1)
                with write_atomically(self._path, self._path.with_suffix(f".{os.getpid()}.tmp")) as file:
                    file.write(text.encode())

    def _load(self) -> dict[str, Choice]:
        """What the file holds; nothing of one that is damaged or of another machine."""
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
    Run the ways by turns and return their best times, so that other processes on the machine disturb all alike.
    """
    # One thread's own time leaves out that of other processes; of several threads there is none.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = {}
    for name, run in ways.items():
        # The first run allocates memory and brings weights into the format of a library.
        run()
        best[name] = float("inf")
    for number in range(ROUNDS):
        # Not by the clock: on a busy machine more rounds are needed, not fewer.
        if number > 1 and number * sum(best.values()) > SECONDS:
            break
        limit = HOPELESS * min(best.values()) if number >= PATIENT_ROUNDS else float("inf")
        for name, run in ways.items():
            if best[name] <= limit:
                start = clock()
                run()
                best[name] = min(best[name], clock() - start)
    first, fastest = next(iter(best)), min(best, key=best.get)
    if best[fastest] > WORTHWHILE * best[first]:
        fastest = first
    return Choice(fastest, {name: round(1000 * seconds, 4) for name, seconds in best.items()})


@cache
def _choices_for(num_threads: int) -> Choices:
    return Choices()


def known_choices() -> Choices:
    """Return the choices for the present number of threads, whose file a process reads once."""
    return _choices_for(torch.get_num_threads())
