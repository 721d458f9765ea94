# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Profile SANet on a device, in inference and in a training step: its kernels, the slowest first, and the fraction of the
time in which the device computes.

    python -m benchmarks.kernels [--batch_sizes 256] [--dtypes bfloat16] [--device cuda]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from sanet_hf.training.evaluation.costs import synchronize

from . import inference, timing, training, variants


VARIANTS = ("sanet", "optimized")
NUM_CALLS = 5
NUM_ROWS = 25


def print_kernels(title: str, function: Callable[[], object], device: torch.device) -> None:
    """Profile some calls and print a table."""
    for _ in range(3):
        function()
    synchronize(device)
    is_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as profiler:
        start = time.perf_counter()
        for _ in range(NUM_CALLS):
            function()
        synchronize(device)
        seconds = time.perf_counter() - start
    events = profiler.key_averages()
    print(f"\n{title}: {1000 * seconds / NUM_CALLS:.1f} ms per call, with the profiler", flush=True)
    if is_gpu:
        busy = sum(event.self_device_time_total for event in events if event.device_type == DeviceType.CUDA)
        print(f"the device computes in {busy / 1e6 / seconds:.0%} of the time")
    order = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    print(events.table(sort_by=order, row_limit=NUM_ROWS, max_name_column_width=70), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing.add_model_options(parser, VARIANTS, batch_sizes=[256], durations=[4.0])
    timing.add_options(parser)
    arguments = timing.parse(parser)
    device = torch.device(arguments.device)
    for name in arguments.dtypes:
        dtype = getattr(torch, name)
        for seconds in arguments.seconds:
            for batch_size in arguments.batch_sizes:
                what = f"{name}, batch {batch_size}, {seconds:g} s"
                clips = inference.make_clips(batch_size, seconds, device)
                for variant in arguments.variants:
                    classifier = variants.make_variant(variant, dtype, device, arguments.quick)
                    print_kernels(f"{variant}, {what}", variants.bind_features(classifier, clips), device)
                step = training.make_step("sanet", dtype, device, arguments.quick)
                batch = training.make_batch(batch_size, seconds, device)
                print_kernels(f"training step, {what}", partial(step, batch), device)


if __name__ == "__main__":
    main()
