# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Statistics of log-mel bands over time."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.pooling_sanet import band_statistics


def expected_statistics(bands: np.ndarray) -> np.ndarray:
    """Return the statistics of one clip of shape (frames, bands)."""
    changes = np.diff(bands, axis=0) if len(bands) > 1 else np.zeros_like(bands)
    parts = [bands.mean(0), bands.std(0), bands.max(0), changes.std(0)]
    return np.concatenate([*parts, [np.log(1 + len(bands))]])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(0, 5), st.integers(0, 2**16))
def test_statistics_use_only_valid_frames(lengths, padding, seed):
    clips = [np.random.default_rng([seed, row]).normal(-3, 2, (length, 5)) for row, length in enumerate(lengths)]
    size = max(lengths) + padding
    batch = torch.full((len(clips), size, 5), 9.0)
    mask = torch.zeros(len(clips), size)
    for row, clip in enumerate(clips):
        batch[row, : len(clip)], mask[row, : len(clip)] = torch.from_numpy(clip), 1
    found = band_statistics(batch, mask).numpy()
    for row, clip in zip(found, clips):
        np.testing.assert_allclose(row, expected_statistics(clip), atol=1e-4, rtol=1e-4)


def test_changes_are_not_computed_across_silence():
    bands = torch.tensor([[1.0], [2.0], [-50.0], [9.0], [10.0]]).unsqueeze(0)
    mask = torch.tensor([[1.0, 1, 0, 1, 1]])
    mean, std, highest, change, count = band_statistics(bands, mask)[0].tolist()
    assert (mean, highest) == (5.5, 10.0)
    np.testing.assert_allclose([std, change, count], [np.std([1, 2, 9, 10]), 3e-5, np.log(5)], atol=1e-4)


def test_silence_has_finite_statistics():
    found = band_statistics(torch.randn(2, 4, 3), torch.zeros(2, 4))
    assert found.isfinite().all() and found.abs().max() < 1e-4
