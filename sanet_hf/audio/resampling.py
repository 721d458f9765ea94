# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Waveforms from one sampling rate to another: whole, or block by block."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch


# Zero crossings of torchaudio's sinc on each side, and the part of the lower Nyquist frequency that it keeps.
LOWPASS_FILTER_WIDTH, ROLLOFF = 6, 0.99
# torchaudio's kernel has an entry for each pair of input and output phase: 70 thousand from 44,100 Hz to 16,000 Hz,
# but 700 million from 44,099 Hz.
MAX_RESAMPLING_KERNEL = 2_000_000
# Samples that are resampled at once.
RESAMPLING_BLOCK = 2**20
# Weights that are computed at once where the kernel would be huge.
WEIGHTS_AT_ONCE = 2**20


def resample_blocks(
    blocks: Iterable[np.ndarray], original_rate: int, sampling_rate: int, block_length: int | None = None
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
        block_length: Samples that are resampled at once, about; by default a million.
    """
    common = math.gcd(original_rate, sampling_rate)
    old, new = original_rate // common, sampling_rate // common
    width = math.ceil(LOWPASS_FILTER_WIDTH * old / (min(old, new) * ROLLOFF)) + old
    # Whole multiples of `old`, where samples before and after resampling fall together.
    context, step = old * math.ceil(width / old), old * math.ceil((block_length or RESAMPLING_BLOCK) / old)
    buffer = np.zeros(context, np.float32)
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= step + 2 * context:
            kept = slice(context // old * new, (context + step) // old * new)
            yield _resample(buffer[: step + 2 * context], old, new)[kept]
            buffer = buffer[step:]
    if len(buffer) > context:
        yield _resample(buffer, old, new)[context // old * new :]


def _resample(waveform: np.ndarray, old: int, new: int) -> np.ndarray:
    """A waveform at `new / old` times its rate, where the ratio is in lowest terms."""
    if old * new > MAX_RESAMPLING_KERNEL:
        return _resample_without_kernel(waveform, old, new)
    # Imported late: it takes a second that files at the right rate need not wait for.
    from torchaudio.functional import resample

    waveform = torch.from_numpy(waveform)
    return resample(waveform, old, new, lowpass_filter_width=LOWPASS_FILTER_WIDTH, rolloff=ROLLOFF).numpy()


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
