# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests: no network, separate caches, one thread per process, and the device of GPU tests."""

import atexit
import gc
import json
import os
import shutil
import tempfile


# Set before transformers and datasets are imported: they read these only once. Subprocesses of tests inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
for cache in ("HF_DATASETS_CACHE", "HF_ASSETS_CACHE"):
    os.environ[cache] = tempfile.mkdtemp(prefix="sanet-tests-")
    atexit.register(shutil.rmtree, os.environ[cache], ignore_errors=True)
# More threads do not speed up tiny networks, and slow down processes that share cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(1)


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """Return the GPU for a test marked `gpu`. Skip the test without a GPU, unless SANET_TEST_DEVICE=cpu is set."""
    if os.environ.get("SANET_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU; set SANET_TEST_DEVICE=cpu to try it on the CPU")
    return torch.device("cuda")


def pytest_collection_finish() -> None:
    """Freeze imported objects. Each training collects garbage, which takes 0.5 s otherwise."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append each result to the JSON Lines file in SANET_TEST_RESULTS, so that an interrupted run keeps them."""
    path = os.environ.get("SANET_TEST_RESULTS")
    if path and (report.when == "call" or not report.passed):
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
        row = {"test": report.nodeid, "outcome": outcome, "seconds": report.duration, "reason": reason[-2000:]}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
