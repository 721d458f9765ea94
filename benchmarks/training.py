# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Time a training step (forward, backward and AdamW) of SANet, of the original code, and of the smaller networks:

    python -m benchmarks.training [--batch_sizes 16] [--seconds 4] [--dtypes float32 bfloat16] [--device cuda]
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sanet_hf import SANetForAudioClassification, convert_original_checkpoint
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE

from . import timing
from .original import OriginalSANet
from .variants import NUM_CLASSES, ORIGINAL, SMALLER, compile_model, count_sanet_flops, make_config


VARIANTS = (ORIGINAL, "sanet", "compiled", *SMALLER)


def make_step(
    name: str, dtype: torch.dtype, device: torch.device, quick: bool = False
) -> Callable[[tuple[torch.Tensor, torch.Tensor]], None]:
    """
    Return a function for a training step on waveforms of shape (batch, samples) with labels of shape (batch,). It uses
    autocast if `dtype` is bfloat16, like `Trainer`. The original has a plain AdamW; SANet has the fused AdamW of
    `TrainingArguments`. With `quick`, SANet is a small network.
    """
    torch.manual_seed(0)
    original = OriginalSANet(NUM_CLASSES)
    if name == ORIGINAL:
        model, forward = original.train().to(device), None
    else:
        model = (
            SANetForAudioClassification(make_config(name, quick))
            if quick or name in SMALLER
            else convert_original_checkpoint(original.state_dict())
        )
        model = model.train().to(device)
        forward = compile_model(model, device, quick) if name == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=name != ORIGINAL)

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        waveforms, labels = batch
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if forward is None:
                loss = nn.functional.cross_entropy(model(waveforms), labels)
            else:
                loss = forward(input_values=waveforms, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_batch(batch_size: int, seconds: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of shape (batch, samples), and labels."""
    waveforms = 0.1 * torch.randn(batch_size, round(seconds * DEFAULT_SAMPLING_RATE), device=device)
    return waveforms, torch.arange(batch_size, device=device) % NUM_CLASSES


def count_flops(name: str, seconds: float) -> int:
    """Return the operations of a step. A backward pass has twice the operations of a forward pass."""
    return 3 * count_sanet_flops(name, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing.add_model_options(parser, VARIANTS, [256] if torch.cuda.is_available() else [16], durations=[4.0])
    timing.add_options(parser)
    arguments = timing.parse(parser)
    timing.run({"training": partial}, arguments, partial(make_step, quick=arguments.quick), make_batch, count_flops)


if __name__ == "__main__":
    main()
