# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure clips per second and latency of SANet (original code, default and optimised), AST and wav2vec2-base, each from
waveforms to logits with its feature extractor:

    python -m benchmarks.inference [--batch_sizes 1 8 64] [--seconds 1 4] [--dtypes float32 bfloat16] [--device cuda]

With `--inputs features`, the features are already on the device, so that only the model is measured.
"""

import argparse
from functools import partial

import numpy as np
import torch

from sanet_hf import SANetFeatureExtractor
from sanet_hf.optimization import keep_freed_memory
from sanet_hf.training.evaluation.costs import make_noise

from . import timing, variants


def make_clips(batch_size: int, seconds: float, device: torch.device) -> list[np.ndarray]:
    """Return noise on the CPU, like recordings."""
    return make_noise(SANetFeatureExtractor(), batch_size, seconds, seed=0)


def count_flops(name: str, seconds: float) -> int | None:
    return None if name in ("ast", "wav2vec2") else variants.count_sanet_flops(name, seconds)


# Kinds of inputs, with the name of the benchmark in the results.
BENCHMARKS = {"waveforms": "inference", "features": "model"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing.add_model_options(parser, variants.ALL, batch_sizes=[1, 8, 64], durations=[1.0, 4.0])
    parser.add_argument("--inputs", nargs="+", default=["waveforms"], choices=BENCHMARKS, help="(default: waveforms)")
    timing.add_options(parser)
    arguments = timing.parse(parser)
    # As in `sanet predict`, for all variants: otherwise, memory freed by one would change the speed of the next.
    keep_freed_memory()
    bindings = {
        BENCHMARKS[name]: partial if name == "waveforms" else variants.bind_features for name in arguments.inputs
    }
    make_variant = partial(variants.make_variant, quick=arguments.quick)
    timing.run(bindings, arguments, make_variant, make_clips, count_flops)


if __name__ == "__main__":
    main()
