# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Export of classifiers to files that run without this package."""

from sanet_hf.export.exporters import export_onnx, export_program, load_onnx, onnx_inputs, run_onnx
from sanet_hf.export.quantize import quantize_onnx


__all__ = ["export_onnx", "export_program", "load_onnx", "onnx_inputs", "quantize_onnx", "run_onnx"]
