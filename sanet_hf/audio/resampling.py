# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Waveforms from one sampling rate to another: whole, or block by block."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


# Zero crossings of torchaudio's sinc on each side, and the part of the lower Nyquist frequency that it keeps.
LOWPASS_FILTER_WIDTH, ROLLOFF = 6, 0.99
# torchaudio's kernel has an entry for each pair of input and output phase: 70 thousand from 44,100 Hz to 16,000 Hz,
# but 700 million from 44,099 Hz.
MAX_RESAMPLING_KERNEL = 2_000_000
# Samples that are resampled at once: few enough that a stretch costs little more than itself, and more than the 20,480
# below which PyTorch convolves by another algorithm that rounds differently.
RESAMPLING_BLOCK = 2**16
# The same where the kernel would be huge. The samples before and after a block then take longer than the block.
RESAMPLING_BLOCK_WITHOUT_KERNEL = 2**20
# Weights that are computed at once where the kernel would be huge.
WEIGHTS_AT_ONCE = 2**20


class Grid(NamedTuple):
    """How a waveform is divided to be resampled, in samples before resampling; all are multiples of `old`."""

    old: int  # samples before resampling, in which there are
    new: int  # samples after it: the ratio of the rates in lowest terms
    context: int  # samples before and after a block that its result depends on
    step: int  # samples of a block
    has_kernel: bool


def make_grid(original_rate: int, sampling_rate: int, block_length: int | None = None) -> Grid:
    """
    Return the blocks in which [`resample_blocks`] resamples.

    Args:
        original_rate, sampling_rate: Sampling rates before and after in Hz.
        block_length: Samples of a block, about.
    """
    common = math.gcd(original_rate, sampling_rate)
    old, new = original_rate // common, sampling_rate // common
    width = math.ceil(LOWPASS_FILTER_WIDTH * old / (min(old, new) * ROLLOFF)) + old
    has_kernel = old * new <= MAX_RESAMPLING_KERNEL
    block_length = block_length or (RESAMPLING_BLOCK if has_kernel else RESAMPLING_BLOCK_WITHOUT_KERNEL)
    return Grid(old, new, old * math.ceil(width / old), old * math.ceil(block_length / old), has_kernel)


def blocks_around(grid: Grid, start: int, length: int | None) -> tuple[int, int | None]:
    """
    Return where the first block of a stretch of the resampled waveform begins, and where the last one ends. Blocks of
    a stretch are those of the whole, so that it is resampled to the same values.

    Args:
        grid: As [`make_grid`] returns it.
        start, length: First sample of the stretch after resampling, and its number of samples; `None` for all.
    """
    # Without a kernel, each sample is computed by itself.
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
    Yield the result of `torchaudio.functional.resample` for a waveform that comes in blocks of any length.

    ```
    waveform   |·······context|····block····|context·······|
    resampled                 |····kept·····|
    ```

    Args:
        blocks: float32 arrays of shape (samples,).
        original_rate, sampling_rate: Sampling rates of the waveform and of the result in Hz.
        block_length: Samples that are resampled at once, about; by default 65,536.
        origin, end: Of a stretch, as [`blocks_around`] returns them: `blocks` then begin a `context` before `origin`,
            or with the waveform, and go up to a `context` after `end`, or to the end of the waveform.
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
        # A waveform of one block is resampled as it is. The last of several blocks is filled up, to be long enough.
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
    """torchaudio's resampling with its kernel, which takes as long to compute as a clip to be resampled."""
    # Imported late: it takes a second that files at the right rate need not wait for.
    from torchaudio.transforms import Resample

    # The kernel of `torchaudio.functional.resample`.
    return Resample(old, new, lowpass_filter_width=LOWPASS_FILTER_WIDTH, rolloff=ROLLOFF, dtype=torch.float32)


def _resample_without_kernel(waveform: np.ndarray, old: int, new: int) -> np.ndarray:
    """
    The same interpolation, with the weights of each sample computed when it is.

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
