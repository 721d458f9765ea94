# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Rounds of predictions by several processes. Here threads replace the processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sanet_hf.inference import distributed


@pytest.mark.parametrize("num_files", [0, 1, 5, 6, 7, 13])
def test_rounds_keep_the_order_of_files(monkeypatch, num_files):
    """There are three processes with two files each per round. Each calls the model once for all its files."""
    barrier, index, parts, calls = threading.Barrier(3, timeout=60), threading.local(), {}, []

    def gather_object(values: list) -> list:
        parts[index.value] = values[0]
        barrier.wait()
        gathered = [parts[number] for number in range(3)]
        # Wait until all have read this round before the next is written.
        barrier.wait()
        return gathered

    def predict(paths):
        calls.append(paths)
        return (path.upper() for path in paths)

    def run(number: int) -> list[str]:
        index.value = number
        state = distributed.Processes(num_processes=3, process_index=number)
        return list(distributed.predict_in_processes(predict, files, state))

    monkeypatch.setattr(distributed, "FILES_PER_ROUND", 2)
    monkeypatch.setattr("accelerate.utils.gather_object", gather_object)
    files = [f"{number}.wav" for number in range(num_files)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(run, range(3)))
    assert results == [[name.upper() for name in files]] * 3
    assert sorted(path for paths in calls for path in paths) == sorted(files) and len(calls) == 3
