# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Faster inference and training on a CPU, and the check that it is right."""

from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.optimize import optimize_for_inference
from sanet_hf.optimization.self_check import describe_processor, machine_report, replace_wrong_layers


__all__ = [
    "describe_processor",
    "keep_freed_memory",
    "machine_report",
    "optimize_for_inference",
    "replace_wrong_layers",
]
