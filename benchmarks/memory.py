# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure the peak memory of classifying a batch and of a training step, each in a separate process, including libraries:

    python -m benchmarks.memory

On a GPU, this is the memory that PyTorch uses there, including weights.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from sanet_hf.training.evaluation.costs import peak_memory

from . import inference, timing, training, variants


NUM_CALLS = 3  # the first call allocates memory that is kept


def measure(benchmark: str, variant: str, dtype: torch.dtype, device: str, batch_size: int, seconds: float) -> int:
    """Return the peak in bytes, of this process or of the GPU."""
    device = torch.device(device)
    if benchmark == "training":
        run = training.make_step(variant, dtype, device)
        inputs = training.make_batch(batch_size, seconds, device)
    else:
        run = variants.make_variant(variant, dtype, device)
        inputs = inference.make_clips(batch_size, seconds, device)
    # Do not include the peak of the export to ONNX.
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    for _ in range(NUM_CALLS):
        run(inputs)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing.add_model_options(parser, variants.ALL, batch_sizes=[1, 8, 64], durations=[4.0])
    timing.add_options(parser)
    arguments = timing.parse(parser)
    rows = []
    print(f"{'':10}{'':16}{'':10}{'batch':>6}{'s':>5}{'MB':>8}")
    for benchmark in ("inference", "training"):
        names = [name for name in arguments.variants if benchmark == "inference" or name in training.VARIANTS]
        for dtype in arguments.dtypes:
            for seconds in arguments.seconds:
                for batch_size in arguments.batch_sizes:
                    for name in names:
                        what = (benchmark, name, getattr(torch, dtype), arguments.device, batch_size, seconds)
                        with ProcessPoolExecutor(
                            1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),)
                        ) as executor:
                            try:
                                peak = executor.submit(measure, *what).result()
                            except (ValueError, ModuleNotFoundError) as error:
                                print(f"Skipped {name}: {error}")
                                continue
                        row = dict(zip(timing.KEYS, (benchmark, name, batch_size, seconds, dtype, arguments.device)))
                        row["megabytes"] = peak / 1e6
                        rows.append(row)
                        print(
                            f"{benchmark:10}{name:16}{dtype:10}{batch_size:6}{seconds:5.3g}{row['megabytes']:8.0f}",
                            flush=True,
                        )
    timing.finish(rows, arguments, torch.device(arguments.device))


if __name__ == "__main__":
    main()
