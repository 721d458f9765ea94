# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reads files with little memory and time for each, in a process of its own.

    python tests/read_in_bounds.py READER SECONDS MEGABYTES < paths, separated by NUL

Prints a line of JSON a file: `path`, and `seconds` of audio, or `error`, its `type` and message.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional  # noqa: F401 (not to count against the files)

from sanet_hf.audio import load_audio
from sanet_hf.audio_blocks import stream_audio
from training.recordings import read_recording


RATE = 16000
READERS = {
    "load_audio": lambda path: [load_audio(path, RATE)],
    "load_audio of bytes": lambda path: [load_audio(Path(path).read_bytes(), RATE, path)],
    "load_audio of a stretch": lambda path: [load_audio(path, RATE, start=3, length=2000)],
    "stream_audio": lambda path: stream_audio(path, RATE),
    "read_recording": lambda path: [read_recording(Path(path)).waveform],
}


def limit_memory(num_bytes: int) -> None:
    """What this process may take beyond what it has: memory, and files mapped into it."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + num_bytes, resource.RLIM_INFINITY))


class OutOfTime(BaseException):
    """Not to be caught as an error of the file's."""


def stop(*_) -> None:
    raise OutOfTime


def main(reader: str, seconds: str, megabytes: str) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    paths = [os.fsdecode(path) for path in sys.stdin.buffer.read().split(b"\0")]
    limit_memory(int(megabytes) * 2**20)
    for path in paths:
        result = {"path": path}
        signal.alarm(int(seconds))
        try:
            count = 0
            for block in READERS[reader](path):
                if not (block.dtype == np.float32 and block.ndim == 1 and np.isfinite(block).all()):
                    raise AssertionError(f"{block.dtype} of shape {block.shape}")
                count += len(block)
            result["seconds"] = count / RATE
        except BaseException as error:
            result |= {"type": type(error).__name__, "error": str(error)}
        signal.alarm(0)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
