# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: no network, caches of their own, one thread a process; the device of tests for GPUs."""

import atexit
import gc
import json
import os
import shutil
import tempfile


# Before transformers and datasets are imported, which read them once. Commands run by tests inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
for cache in ("HF_DATASETS_CACHE", "HF_ASSETS_CACHE"):
    os.environ[cache] = tempfile.mkdtemp(prefix="sanet-tests-")
    atexit.register(shutil.rmtree, os.environ[cache], ignore_errors=True)
# Tiny networks gain nothing from threads, and processes that share cores lose much by them.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(1)


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The GPU of a test marked `gpu`, which is skipped without one; SANET_TEST_DEVICE=cpu tries it on the CPU."""
    if os.environ.get("SANET_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU; SANET_TEST_DEVICE=cpu tries it on the CPU")
    return torch.device("cuda")


def pytest_collection_finish() -> None:
    """What all imports made stays: each training collects garbage, which is a matter of half a second otherwise."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append each result to the JSON Lines file that SANET_TEST_RESULTS names, so that a run cut off keeps them."""
    path = os.environ.get("SANET_TEST_RESULTS")
    if path and (report.when == "call" or not report.passed):
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
        row = {"test": report.nodeid, "outcome": outcome, "seconds": report.duration, "reason": reason[-2000:]}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
