# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Compare the time of the feature extractors of SANet and wav2vec2 on clips of one length and of mixed lengths,
interleaved:

    python -m benchmarks.features
"""

import argparse
from functools import partial

import numpy as np
import torch
from transformers import Wav2Vec2FeatureExtractor

from sanet_hf import SANetFeatureExtractor
from sanet_hf.architectures import extract_features
from sanet_hf.training.evaluation.costs import make_noise

from . import timing


BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing.add_options(parser)
    arguments = timing.parse(parser)
    extractors = {"wav2vec2": Wav2Vec2FeatureExtractor(return_attention_mask=True), "sanet": SANetFeatureExtractor()}
    whole = make_noise(extractors["sanet"], BATCH_SIZE, seconds=4.0, seed=0)
    lengths = np.random.default_rng(0).integers(8000, 64001, BATCH_SIZE)
    batches = {
        "features of clips of 4 s": whole,
        "features of clips of 0.5 to 4 s": [clip[:length] for clip, length in zip(whole, lengths)],
    }
    rows = []
    for benchmark, clips in batches.items():
        print(f"\n{benchmark}; speed-ups are relative to wav2vec2")
        timing.print_header()
        functions = {name: partial(extract_features, extractor, clips) for name, extractor in extractors.items()}
        seconds = float(np.mean([len(clip) for clip in clips]) / extractors["sanet"].sampling_rate)
        what = {"benchmark": benchmark, "batch_size": BATCH_SIZE, "seconds": seconds}
        group = timing.time_group(functions, what, arguments, torch.device("cpu"))
        for row in group:
            timing.print_row(row, group[0])
        rows += group
    timing.finish(rows, arguments, torch.device("cpu"))


if __name__ == "__main__":
    main()
