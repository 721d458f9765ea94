# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Measurements: each module prints a table and asserts nothing."""

import runpy
from pathlib import Path


# As in the `sanet` command. By its path, since importing its package imports PyTorch, which must not be loaded yet.
runpy.run_path(str(Path(__file__).parents[1] / "sanet_hf" / "utils" / "openmp.py"))["shorten_wait"]()
