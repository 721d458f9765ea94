# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Time of SANet's feature extractor beside wav2vec2's on clips of one length and of mixed lengths, taking turns:

    python -m benchmarks.features
"""

import argparse
from functools import partial

import numpy as np
import torch
from transformers import FeatureExtractionMixin, Wav2Vec2FeatureExtractor

from sanet_hf import SANetFeatureExtractor
from sanet_hf.inference import extract_features

from . import timing


SAMPLING_RATE = 16000  # Hz
BATCH_SIZE = 64


def make_extractors() -> dict[str, FeatureExtractionMixin]:
    return {"wav2vec2": Wav2Vec2FeatureExtractor(return_attention_mask=True), "sanet": SANetFeatureExtractor()}


def make_clips(lengths: np.ndarray) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(length, dtype=np.float32) for length in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing.add_options(parser)
    arguments = timing.parse(parser)
    rows = []
    batches = {
        "features of clips of 4 s": np.full(BATCH_SIZE, 4 * SAMPLING_RATE),
        "features of clips of 0.5 to 4 s": np.random.default_rng(0).integers(8000, 64001, BATCH_SIZE),
    }
    for benchmark, lengths in batches.items():
        print(f"\n{benchmark}; speed-ups are over wav2vec2's")
        timing.print_header()
        clips = make_clips(lengths)
        functions = {
            name: partial(extract_features, extractor, clips) for name, extractor in make_extractors().items()
        }
        seconds = float(lengths.mean() / SAMPLING_RATE)
        what = {"benchmark": benchmark, "batch_size": BATCH_SIZE, "seconds": seconds}
        group = timing.time_group(functions, what, arguments, torch.device("cpu"))
        for row in group:
            timing.print_row(row, group[0])
        rows += group
    timing.finish(rows, arguments, torch.device("cpu"))


if __name__ == "__main__":
    main()
