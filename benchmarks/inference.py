# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Clips a second and latency of SANet, as the original computes it, as it comes and optimised, beside AST and
wav2vec2-base, each from waveforms to logits with its feature extractor:

    python -m benchmarks.inference [--batch_sizes 1 8 64] [--seconds 1 4] [--dtypes float32 bfloat16] [--device cuda]
"""

import argparse
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from . import timing, variants
from .original import OriginalSANet


def count_flops(seconds: float) -> int:
    """Operations of SANet's convolutions, matrix products and attention for a clip; a multiply-add is two."""
    model = OriginalSANet().eval().to("meta")
    # In training mode, in which the attention is not fused to an operation that the counter does not know.
    model.dab1.mha.train()
    model.dab2.mha.train()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, round(seconds * variants.SAMPLING_RATE), device="meta"))
    return counter.get_total_flops()


def measure(
    names: list[str],
    dtype: torch.dtype,
    device: torch.device,
    batch_sizes: list[int],
    durations: list[float],
    num_rounds: int,
    max_seconds: float,
) -> list[dict]:
    """A row for each variant, duration and batch size; those that cannot run are said aloud and left out."""
    classifiers = {}
    for name in names:
        try:
            classifiers[name] = variants.make_variant(name, dtype, device)
        except (ValueError, ModuleNotFoundError) as error:
            print(f"{name} is left out: {error}")
    peak = timing.matrix_product_rate(dtype, device)
    label = str(dtype).removeprefix("torch.")
    print(f"\n{label}, products of matrices at {peak / 1e9:,.0f} GFLOP/s")
    print(f"{'':16}{'batch':>6}{'s':>4}{'ms':>10}{'p95':>10}{'clips/s':>10}{'of the rate':>12}{'speed-up':>10}")
    rows = []
    for seconds in durations:
        flops = count_flops(seconds)
        for batch_size in batch_sizes:
            rng = np.random.default_rng(0)
            shape = (batch_size, round(seconds * variants.SAMPLING_RATE))
            clips = list(0.1 * rng.standard_normal(shape, dtype=np.float32))
            functions = {name: partial(classify, clips) for name, classify in classifiers.items()}
            times = timing.take_turns(functions, num_rounds, max_seconds, device)
            group = []
            for name in classifiers:
                row = {"benchmark": "inference", "variant": name, "batch_size": batch_size, "seconds": seconds}
                row |= {"dtype": label, "device": device.type}
                is_sanet = name not in ("ast", "wav2vec2")
                row |= timing.summarize(times[name], batch_size, flops if is_sanet else None, peak)
                group.append(row)
            reference = group[0]["ms"]
            for row in group:
                fraction = row.get("fraction_of_matrix_product_rate")
                print(
                    f"{row['variant']:16}{batch_size:6}{seconds:4g}{row['ms']:10.1f}{row['ms_p95']:10.1f}"
                    f"{row['clips_per_second']:10.1f}{'' if fraction is None else f'{fraction:.2f}':>12}"
                    f"{reference / row['ms']:10.2f}",
                    flush=True,
                )
            rows += group
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(variants.ALL), choices=variants.ALL)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 4.0], help="durations of clips")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    timing.add_options(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print("Speed-ups are over the first variant; it, too, is computed in the number format above the table.")
    rows = []
    for name in arguments.dtypes:
        rows += measure(
            arguments.variants,
            getattr(torch, name),
            device,
            arguments.batch_sizes,
            arguments.seconds,
            arguments.num_rounds,
            arguments.max_seconds,
        )
    timing.finish(rows, arguments, device)


if __name__ == "__main__":
    main()
