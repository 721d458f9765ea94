# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Faster inference and training on a CPU, with checks of the results."""

from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.int8 import Int8Calibration
from sanet_hf.optimization.optimize import calibrate_int8, optimize_for_inference, quantize_for_inference
from sanet_hf.optimization.processor import describe_processor, describe_training
from sanet_hf.optimization.processor_report import format_machine_report, machine_report
from sanet_hf.optimization.self_check import replace_wrong_layers


__all__ = [
    "Int8Calibration",
    "calibrate_int8",
    "describe_processor",
    "describe_training",
    "format_machine_report",
    "keep_freed_memory",
    "machine_report",
    "optimize_for_inference",
    "quantize_for_inference",
    "replace_wrong_layers",
]
