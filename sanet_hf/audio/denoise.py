# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Noise reduction, the same in `sanet prepare` and in inference."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from transformers import FeatureExtractionMixin
from transformers.utils import logging

from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.utils.extras import require


logger = logging.get_logger(__name__)

# Defaults of noisereduce in samples at 16 kHz: block, context on each side of it, and frame. At other sampling rates,
# context and frame have the same duration.
BLOCK, CONTEXT, FRAME = 600_000, 30_000, 1024
# Attribute of the feature extractor: whether the model was trained on clips of `sanet prepare --denoise`.
DENOISED = "denoised_training"


def denoise(blocks: Iterable[np.ndarray], sampling_rate: int) -> Iterator[np.ndarray]:
    """
    Reduce non-stationary noise in a waveform that is given in blocks of any length. The result equals that of
    noisereduce for the whole waveform, but needs less memory.

    ```
    waveform   |·······context|····block····|context·······|
    denoised                  |····kept·····|
    ```

    Args:
        blocks: float32 arrays of shape (samples,).
        sampling_rate: In Hz.

    Yields:
        float32 arrays of shape (samples,), with the same total number of samples.
    """
    from noisereduce import reduce_noise

    times = sampling_rate / DEFAULT_SAMPLING_RATE
    context, frame = round(CONTEXT * times), 2 ** round(math.log2(FRAME * times))
    blocks, is_first, is_whole = iter(blocks), True, False
    buffer = np.zeros(context, np.float32)
    while not is_whole or len(buffer) > context:
        parts, count = [buffer], len(buffer)
        while not is_whole and count < BLOCK + 2 * context:
            part = next(blocks, None)
            is_whole = part is None
            if part is not None:
                parts.append(part)
                count += len(part)
        buffer = np.concatenate(parts)
        kept = min(BLOCK, len(buffer) - context)
        if not kept:
            return
        # noisereduce pads the last of several blocks with zeros.
        block = np.zeros((kept if is_first else BLOCK) + 2 * context, np.float32)
        part = buffer[: len(block)]
        block[: len(part)] = part
        with np.errstate(divide="ignore", invalid="ignore"):
            reduced = reduce_noise(block, sampling_rate, chunk_size=None, padding=0, n_fft=frame)
        # noisereduce divides by zero if there is no noise, as in digital silence.
        block = reduced if np.isfinite(reduced).all() else block
        yield block[context : context + kept].astype(np.float32, copy=False)
        buffer, is_first = buffer[kept:], False


def check_denoising(feature_extractor: FeatureExtractionMixin, is_denoised: bool) -> None:
    """
    Warn once if a model was trained with noise reduction and is used without it, or the reverse.

    Args:
        feature_extractor: Feature extractor of the model.
        is_denoised: Whether noise in the files is reduced.

    Raises:
        MissingPackageError: `is_denoised` is set and noisereduce is not installed.
    """
    if is_denoised:
        require("noisereduce", "prepare")
    was_denoised = bool(getattr(feature_extractor, DENOISED, False))
    if was_denoised and not is_denoised:
        logger.warning_once(
            "This model was trained on denoised clips (sanet prepare --denoise), but these recordings are not "
            "denoised. Use --denoise (in Python, denoise=True)."
        )
    elif is_denoised and not was_denoised:
        logger.warning_once(
            "--denoise: this model does not state that it was trained on denoised clips (sanet prepare --denoise). "
            "If it was trained on other clips, omit --denoise."
        )
