# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of the processor, its instruction sets and the libraries."""

import platform
import re
from pathlib import Path

import torch


INSTRUCTION_SETS = (
    "avx2",
    "avx512_f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_fp16",
)


def processor_name() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def describe_processor() -> str:
    """Return the name of the processor and its instruction sets."""
    sets = instruction_sets()
    return f"{processor_name()} ({', '.join(sets)})" if sets else processor_name()


def instruction_sets() -> list[str]:
    """Return the instruction sets of the processor that determine the choice of kernels."""
    try:
        capabilities = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):
        # get_capabilities is new in PyTorch 2.11.
        return [torch.backends.cpu.get_cpu_capability()]
    return [name for name in INSTRUCTION_SETS if capabilities.get(name)]


def describe_training(dtype: torch.dtype, device: torch.device) -> str:
    """Return device, number format and libraries of a training, for a model card."""
    number_format = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {number_format}, PyTorch {torch.__version__}"
    if device.type != "cpu":
        return f"{device.type}, {number_format}, PyTorch {torch.__version__}"
    return f"{describe_processor()}, {number_format}, {describe_libraries()}"


def describe_libraries() -> str:
    """Return the versions of PyTorch and oneDNN."""
    onednn = onednn_version()
    return f"PyTorch {torch.__version__}" + (f", oneDNN {onednn}" if onednn else "")


def onednn_version() -> str | None:
    """Return the version of oneDNN in this PyTorch build, or `None`."""
    found = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", torch.__config__.show())
    return found and found[1]
