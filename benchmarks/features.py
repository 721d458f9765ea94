# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Time of SANet's feature extractor beside wav2vec2's, taking turns on the same batch:

    python -m benchmarks.features
"""

import statistics
import time

import numpy as np
from transformers import Wav2Vec2FeatureExtractor

from sanet_hf import SANetFeatureExtractor


def measure(clips: list[np.ndarray], repeats: int = 21) -> dict[str, list[float]]:
    """Seconds a batch, for each extractor and repeat."""
    extractors = {
        "sanet": SANetFeatureExtractor(),
        "wav2vec2": Wav2Vec2FeatureExtractor(return_attention_mask=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in extractors}
    for _ in range(repeats):
        for name, extractor in extractors.items():
            start = time.perf_counter()
            extractor(clips, sampling_rate=16000, padding="longest", return_tensors="pt")
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    rng = np.random.default_rng(0)
    lengths = {"64 clips of 4 s": [64000] * 64, "64 clips of 0.5 to 4 s": rng.integers(8000, 64001, 64)}
    print(f"{'batch':26}{'sanet ms':>10}{'wav2vec2 ms':>14}{'ratio':>8}   median of 21")
    for name, batch in lengths.items():
        seconds = measure([0.1 * rng.standard_normal(length).astype(np.float32) for length in batch])
        sanet, wav2vec2 = (1000 * statistics.median(values) for values in seconds.values())
        print(f"{name:26}{sanet:10.1f}{wav2vec2:14.1f}{wav2vec2 / sanet:8.1f}")


if __name__ == "__main__":
    main()
