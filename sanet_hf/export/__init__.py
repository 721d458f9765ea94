# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Trained classifiers as files that run without this package."""

from .exporters import (
    EXAMPLE,
    INT8_FILE,
    ONNX_FILE,
    PROGRAM_FILE,
    export_onnx,
    export_program,
    load_onnx,
    onnx_inputs,
    quantize_onnx,
    require_onnx,
    run_onnx,
    shortest_clip,
    staged,
)


__all__ = [
    "EXAMPLE",
    "INT8_FILE",
    "ONNX_FILE",
    "PROGRAM_FILE",
    "export_onnx",
    "export_program",
    "load_onnx",
    "onnx_inputs",
    "quantize_onnx",
    "require_onnx",
    "run_onnx",
    "shortest_clip",
    "staged",
]
