# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
A training step, forward, backward and AdamW, of SANet as it comes and as the original computes it:

    python -m benchmarks.training [--batch_sizes 16] [--seconds 4] [--dtypes float32 bfloat16] [--device cuda]
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sanet_hf import convert_original_checkpoint

from . import timing
from .inference import count_flops
from .original import OriginalSANet
from .variants import NUM_CLASSES, ORIGINAL, SAMPLING_RATE


VARIANTS = (ORIGINAL, "sanet", "compiled")


def make_step(name: str, dtype: torch.dtype, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """
    A training step on waveforms of shape (batch, samples) and labels of shape (batch,), by autocast where `dtype` is
    bfloat16, as `Trainer` has it. The original's is that of a plain loop; SANet's has the fused AdamW of
    `TrainingArguments`.
    """
    torch.manual_seed(0)
    original = OriginalSANet(NUM_CLASSES)
    if name == ORIGINAL:
        model, forward = original.train().to(device), None
    else:
        model = convert_original_checkpoint(original.state_dict()).train().to(device)
        forward = torch.compile(model) if name == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=name != ORIGINAL)

    def step(waveforms: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if forward is None:
                loss = nn.functional.cross_entropy(model(waveforms), labels)
            else:
                loss = forward(input_values=waveforms, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    is_cuda = torch.cuda.is_available()
    parser.add_argument("--variants", nargs="+", default=[ORIGINAL, "sanet"], choices=VARIANTS)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[256] if is_cuda else [16])
    parser.add_argument("--seconds", type=float, nargs="+", default=[4.0], help="durations of clips")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if is_cuda else "cpu")
    timing.add_options(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rows = []
    print("Speed-ups are over the first variant in the number format of the row.")
    print(f"{'':12}{'':10}{'batch':>6}{'s':>4}{'ms':>10}{'p95':>10}{'clips/s':>10}{'of the rate':>12}{'speed-up':>10}")
    for label in arguments.dtypes:
        dtype = getattr(torch, label)
        peak = timing.matrix_product_rate(dtype, device)
        steps = {name: make_step(name, dtype, device) for name in arguments.variants}
        for seconds in arguments.seconds:
            # A backward pass has twice the operations of a forward pass.
            flops = 3 * count_flops(seconds)
            for batch_size in arguments.batch_sizes:
                waveforms = 0.1 * torch.randn(batch_size, round(seconds * SAMPLING_RATE), device=device)
                labels = torch.arange(batch_size, device=device) % NUM_CLASSES
                functions = {name: partial(step, waveforms, labels) for name, step in steps.items()}
                times = timing.take_turns(functions, arguments.num_rounds, arguments.max_seconds, device)
                for name in steps:
                    row = {"benchmark": "training", "variant": name, "batch_size": batch_size, "seconds": seconds}
                    row |= {"dtype": label, "device": device.type}
                    rows.append(row | timing.summarize(times[name], batch_size, flops, peak))
                    row = rows[-1]
                    reference = rows[-1 - list(steps).index(name)]["ms"]
                    print(
                        f"{name:12}{label:10}{batch_size:6}{seconds:4g}{row['ms']:10.1f}{row['ms_p95']:10.1f}"
                        f"{row['clips_per_second']:10.1f}{row['fraction_of_matrix_product_rate']:12.2f}"
                        f"{reference / row['ms']:10.2f}",
                        flush=True,
                    )
    timing.finish(rows, arguments, device)


if __name__ == "__main__":
    main()
