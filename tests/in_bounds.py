# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Read files or run a command in a process with a memory limit. The memory of imported modules does not count.

    python tests/in_bounds.py MEGABYTES read READER SECONDS < paths, separated by NUL
    python tests/in_bounds.py MEGABYTES sanet predict …

Reading prints one line of JSON per file: `path`, and either `seconds` of audio or the `error` and its `type`. A file
that takes longer than SECONDS also gives an error.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

# Imported before the limit is set, so that modules do not count.
import torchaudio.functional  # noqa: F401

from sanet_hf.audio.decode import load_audio, stream_audio
from sanet_hf.training.preparation.source_files import read_recording


RATE = 16000
READERS = {
    "load_audio": lambda path: [load_audio(path, RATE)],
    "load_audio of bytes": lambda path: [load_audio(Path(path).read_bytes(), RATE, path)],
    "load_audio of a stretch": lambda path: [load_audio(path, RATE, start=7, length=2000)],
    "stream_audio": lambda path: stream_audio(path, RATE),
    "read_recording": lambda path: [read_recording(Path(path)).waveform],
}


def limit_memory(num_bytes: int) -> None:
    """Limit the address space, which includes memory-mapped files."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + num_bytes, resource.RLIM_INFINITY))


class OutOfTime(BaseException):
    """Derives from BaseException, so that it is not caught as an error of a file."""


def stop(*_) -> None:
    raise OutOfTime


def count_samples(blocks: Iterable[np.ndarray]) -> int:
    count = 0
    for block in blocks:
        assert block.dtype == np.float32 and block.ndim == 1 and np.isfinite(block).all()
        count += len(block)
    return count


def read(reader: str, seconds: str) -> int:
    signal.signal(signal.SIGALRM, stop)
    for name in sys.stdin.buffer.read().split(b"\0"):
        path = os.fsdecode(name)
        result = {"path": path}
        signal.alarm(int(seconds))
        try:
            result["seconds"] = count_samples(READERS[reader](path)) / RATE
        except BaseException as error:
            result |= {"type": type(error).__name__, "error": str(error)}
        signal.alarm(0)
        print(json.dumps(result), flush=True)
    return 0


def main(megabytes: str, what: str, *arguments: str) -> int:
    torch.set_num_threads(1)
    if what == "sanet":
        from sanet_hf.cli.main import main as run
    limit_memory(int(megabytes) * 2**20)
    return read(*arguments) if what == "read" else run(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
