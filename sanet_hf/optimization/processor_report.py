# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of `sanet check --machine`: the processor, and whether fast layers compute correct results on it."""

import re
import warnings

import torch

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.modeling_sanet import SANetForAudioClassification
from sanet_hf.optimization.choices import known_choices
from sanet_hf.optimization.optimize import optimize_for_inference
from sanet_hf.optimization.processor import describe_processor, instruction_sets, onednn_version
from sanet_hf.optimization.self_check import Check, format_error, replace_wrong_layers


def machine_report() -> dict[str, object]:
    """
    Describe the processor and compare each fast layer of the default network with plain computation.

    Returns:
        `processor`, `instruction_sets`, `threads`, `torch`, `onednn`, `openmp`; `checks`: a [`Check`] per layer and
        number format, for inference and training; `choices`: the fastest implementation of each layer in inference,
        with times, for all networks that ran here with this number of threads.
    """
    checks: list[Check] = []
    model = SANetForAudioClassification(SANetConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            optimized = optimize_for_inference(model.to(dtype))
            checks += replace_wrong_layers(optimized, dtype)
            model.float()
        for dtype in (torch.float32, torch.bfloat16):
            checks += replace_wrong_layers(model, dtype, training=True)
    openmp = re.search(r"OpenMP (\d+)", torch.__config__.show())
    return {
        "processor": describe_processor(),
        "instruction_sets": instruction_sets(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "onednn": onednn_version(),
        "openmp": openmp and openmp[1],
        "checks": checks,
        "choices": known_choices().known,
    }


def format_machine_report(report: dict[str, object]) -> str:
    """
    Return the report of [`machine_report`] as text: one line per implementation and number format, and one line per
    choice.
    """
    lines = [f"{name:20}{value}" for name, value in report.items() if name not in ("checks", "choices")]
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in report["checks"]:
        groups.setdefault((check.path, check.number_format), []).append(check)
    for (path, number_format), checks in groups.items():
        worst = max(checks, key=lambda check: check.error / check.tolerance)
        verdict = "ok" if worst.is_right else f"{format_error(worst)} ({worst.shape})"
        milliseconds = 1000 * sum(check.seconds for check in checks)
        lines.append(f"{path:42}{number_format:12}{verdict:24}{milliseconds:6.1f} ms")
    lines += ["", "Fastest implementation in inference for one clip, and times of all compared (ms):"]
    for what, choice in sorted(report["choices"].items()):
        times = ", ".join(f"{name} {milliseconds:.3g}" for name, milliseconds in choice.milliseconds.items())
        lines.append(f"{what.replace('torch.', ''):72}{choice.fastest:22}{times}")
    return "\n".join(lines)
