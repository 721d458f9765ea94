# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Resample waveforms, whole or block by block."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


# Zero crossings of torchaudio's sinc on each side, and its cutoff as a fraction of the lower Nyquist frequency.
LOWPASS_FILTER_WIDTH, ROLLOFF = 6, 0.99
# torchaudio's kernel has an entry for each pair of input and output phase: 70 thousand from 44,100 Hz to 16,000 Hz,
# but 700 million from 44,099 Hz.
MAX_RESAMPLING_KERNEL = 2_000_000
# Samples that are resampled at once. Short blocks make short parts cheap. Below 20,480 samples PyTorch convolves with
# another algorithm, which rounds differently.
RESAMPLING_BLOCK = 2**16
# The same for conversions whose kernel would be huge. There the context of a shorter block costs more than the block.
RESAMPLING_BLOCK_WITHOUT_KERNEL = 2**20
# Weights that are computed at once if the kernel would be huge.
WEIGHTS_AT_ONCE = 2**20


class Grid(NamedTuple):
    """
    Division of a waveform into blocks for resampling. `context` and `step` are in samples before resampling and are
    multiples of `old`.
    """

    old: int  # `old` samples before resampling become
    new: int  # `new` samples after it: the ratio of the rates in lowest terms
    context: int  # samples before and after a block that its result depends on
    step: int  # samples of a block
    has_kernel: bool


def make_grid(original_rate: int, sampling_rate: int, block_length: int | None = None) -> Grid:
    """
    Return the division into blocks for [`resample_blocks`].

    Args:
        original_rate, sampling_rate: Sampling rates before and after in Hz.
        block_length: Approximate samples per block.
    """
    common = math.gcd(original_rate, sampling_rate)
    old, new = original_rate // common, sampling_rate // common
    width = math.ceil(LOWPASS_FILTER_WIDTH * old / (min(old, new) * ROLLOFF)) + old
    has_kernel = old * new <= MAX_RESAMPLING_KERNEL
    block_length = block_length or (RESAMPLING_BLOCK if has_kernel else RESAMPLING_BLOCK_WITHOUT_KERNEL)
    return Grid(old, new, old * math.ceil(width / old), old * math.ceil(block_length / old), has_kernel)


def blocks_around(grid: Grid, start: int, length: int | None) -> tuple[int, int | None]:
    """
    Return the start of the first block and the end of the last block that cover a part of the resampled waveform. The
    blocks are those of the whole waveform, so that a part is resampled to the same values.

    Args:
        grid: Result of [`make_grid`].
        start, length: First sample of the part after resampling, and its number of samples; `None`: up to the end.
    """
    # Without a kernel, samples are computed independently.
    step = grid.step if grid.has_kernel else grid.old
    origin = start // grid.new * grid.old // step * step
    if length is None:
        return origin, None
    return origin, -(-(start + length) // grid.new) * grid.old // -step * -step


def resample_blocks(
    blocks: Iterable[np.ndarray],
    original_rate: int,
    sampling_rate: int,
    block_length: int | None = None,
    origin: int = 0,
    end: int | None = None,
) -> Iterator[np.ndarray]:
    """
    Yield the result of `torchaudio.functional.resample` for a waveform that is given in blocks of any length.

    ```
    waveform   |·······context|····block····|context·······|
    resampled                 |····kept·····|
    ```

    Args:
        blocks: float32 arrays of shape (samples,).
        original_rate, sampling_rate: Sampling rates of the waveform and of the result in Hz.
        block_length: Approximate number of samples that are resampled at once (default: 65,536).
        origin, end: Result of [`blocks_around`] for a part. `blocks` must then begin `context` samples before `origin`
            (or with the waveform) and end `context` samples after `end` (or with the waveform).
    """
    grid = make_grid(original_rate, sampling_rate, block_length)
    old, new, context, step, has_kernel = grid
    kept = slice(context // old * new, (context + step) // old * new)
    buffer = np.zeros(max(0, context - origin), np.float32)
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= step + 2 * context and (end is None or origin < end):
            yield _resample(buffer[: step + 2 * context], grid)[kept]
            buffer, origin = buffer[step:], origin + step
    while len(buffer) > context and (end is None or origin < end):
        part = buffer[: step + 2 * context]
        # The last of several blocks is padded to the length of the others. A single block is not padded.
        if has_kernel and (origin or len(buffer) > context + step):
            part = np.pad(part, (0, step + 2 * context - len(part)))
        count = -(-min(step, len(buffer) - context) * new // old)
        yield _resample(part, grid)[kept][:count]
        buffer, origin = buffer[step:], origin + step


def _resample(waveform: np.ndarray, grid: Grid) -> np.ndarray:
    if not grid.has_kernel:
        return _resample_without_kernel(waveform, grid.old, grid.new)
    return _make_resampler(grid.old, grid.new)(torch.from_numpy(waveform)).numpy()


@lru_cache(maxsize=16)
def _make_resampler(old: int, new: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return torchaudio's resampler. It is cached, since computing its kernel takes as long as resampling a clip."""
    # Imported late: the import takes a second, which files at the right rate do not need.
    from torchaudio.transforms import Resample

    # The kernel of `torchaudio.functional.resample`.
    return Resample(old, new, lowpass_filter_width=LOWPASS_FILTER_WIDTH, rolloff=ROLLOFF, dtype=torch.float32)


def _resample_without_kernel(waveform: np.ndarray, old: int, new: int) -> np.ndarray:
    """
    Resample with the same interpolation, but compute the weights for each sample instead of a kernel.

    Source: torchaudio 2.8, `functional._get_sinc_resample_kernel`, sinc_interp_hann.
    """
    cutoff = min(old, new) * ROLLOFF / old  # in half cycles per sample of the waveform
    reach = math.ceil(LOWPASS_FILTER_WIDTH / cutoff)
    taps = np.arange(-reach, reach + 2)
    padded = np.pad(waveform, (reach, reach + 2))
    resampled = np.empty(-(-len(waveform) * new // old), np.float32)
    step = max(1, WEIGHTS_AT_ONCE // len(taps))
    for start in range(0, len(resampled), step):
        numbers = np.arange(start, min(start + step, len(resampled)), dtype=np.int64)
        places, phases = np.divmod(numbers * old, new)
        times = ((taps - (phases / new)[:, None]) * cutoff).astype(np.float32)
        np.clip(times, -LOWPASS_FILTER_WIDTH, LOWPASS_FILTER_WIDTH, out=times)
        weights = np.sinc(times) * np.square(np.cos(times * np.float32(np.pi / 2 / LOWPASS_FILTER_WIDTH)))
        samples = padded[places[:, None] + (taps + reach)]
        resampled[numbers] = np.einsum("nt,nt->n", samples, weights) * np.float32(cutoff)
    return resampled
