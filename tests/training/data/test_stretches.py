# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Random parts of recordings, without quiet ones."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sanet_hf.training.data.stretches import draw_start, find_loud_starts


RATE = 1000
STEP = 50


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(0, 3000),
    length=st.integers(1, 1500),
    burst=st.integers(0, 2999),
    quiet=st.sampled_from([0.0, 1e-3]),
)
@example(num_samples=2000, length=500, burst=1999, quiet=0.0)
def test_parts_contain_the_loud_burst(num_samples, length, burst, quiet):
    """Parts lie within the recording and contain the burst, to the precision of the search step."""
    waveform = np.full(num_samples, quiet, np.float32)
    waveform[burst : burst + 100] = 1
    starts = find_loud_starts(waveform, length, RATE)
    drawn = {draw_start(starts, num_samples, length, RATE, np.random.default_rng(seed)) for seed in range(100)}
    last = max(0, num_samples - length)
    assert min(drawn) >= 0 and max(drawn) <= last
    beginnings = range(0, last + 1, STEP)
    assert len(starts) == len(beginnings)
    is_heard = [bool((waveform[start : start + length] == 1).any()) for start in beginnings]
    if any(is_heard):
        loud = [start for start, is_loud in zip(beginnings, starts) if is_loud]
        assert loud and all(is_heard[start // STEP] for start in loud)
        assert all(any(start <= one < start + STEP for start in loud) for one in drawn)


def test_any_part_of_a_steady_sound():
    starts = find_loud_starts(np.ones(2000, np.float32), 500, RATE)
    assert starts.all() and len(starts) == 31
    generator = np.random.default_rng(0)
    for loud_starts in (starts, None, find_loud_starts(np.zeros(2000, np.float32), 500, RATE)):
        drawn = np.array([draw_start(loud_starts, 2000, 500, RATE, generator) for _ in range(2000)])
        assert 0 <= drawn.min() < 20 and 1480 < drawn.max() <= 1500
        assert abs(drawn.mean() - 750) < 60
