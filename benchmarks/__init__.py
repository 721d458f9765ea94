# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each module prints a table and asserts nothing."""

import runpy
from pathlib import Path


# As in the `sanet` command. Run by its path, because importing its package would import PyTorch too early.
runpy.run_path(str(Path(__file__).parents[1] / "sanet_hf" / "utils" / "openmp.py"))["shorten_wait"]()
