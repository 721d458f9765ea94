# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: no network, caches of their own, one thread a process."""

import atexit
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

import torch  # noqa: E402


torch.set_num_threads(1)
