# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Noise reduction: the same in `sanet prepare` and wherever a model hears files."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from transformers import FeatureExtractionMixin
from transformers.utils import logging

from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.utils.extras import require


logger = logging.get_logger(__name__)

# noisereduce's own at 16 kHz: samples that are denoised at once, those on each side of them that it takes into
# account, and those of a frame. At other rates context and frames last as long.
BLOCK, CONTEXT, FRAME = 600_000, 30_000, 1024
# Attribute of the feature extractor of a model that was trained on what `sanet prepare` cut: whether it denoised it.
DENOISED = "denoised_training"


def denoise(blocks: Iterable[np.ndarray], sampling_rate: int) -> Iterator[np.ndarray]:
    """
    Reduce non-stationary noise in a waveform that comes in blocks of any length. The result does not depend on them:
    it is what noisereduce gives for the whole, without its copies of the whole.

    ```
    waveform   |·······context|····block····|context·······|
    denoised                  |····kept·····|
    ```

    Args:
        blocks: float32 arrays of shape (samples,).
        sampling_rate: In Hz.

    Yields:
        float32 arrays of shape (samples,), as many samples as came in.
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
        # noisereduce fills the last of several blocks up with zeros.
        block = np.zeros((kept if is_first else BLOCK) + 2 * context, np.float32)
        part = buffer[: len(block)]
        block[: len(part)] = part
        with np.errstate(divide="ignore", invalid="ignore"):
            reduced = reduce_noise(block, sampling_rate, chunk_size=None, padding=0, n_fft=frame)
        # Without any noise, as in digital silence, it divides by zero.
        block = reduced if np.isfinite(reduced).all() else block
        yield block[context : context + kept].astype(np.float32, copy=False)
        buffer, is_first = buffer[kept:], False


def check_denoising(feature_extractor: FeatureExtractionMixin, is_denoised: bool) -> None:
    """
    Warn, once, where a model is about to hear files in another way than the clips that it was trained on.

    Args:
        feature_extractor: The model's own.
        is_denoised: Whether noise in the files is reduced.

    Raises:
        MissingPackageError: It is to be reduced, and noisereduce is not installed.
    """
    if is_denoised:
        require("noisereduce", "prepare")
    was_denoised = bool(getattr(feature_extractor, DENOISED, False))
    if was_denoised and not is_denoised:
        logger.warning_once(
            "This model was trained on denoised clips (sanet prepare --denoise). Recordings with their noise sound "
            "different: --denoise (in Python, denoise=True) reduces it in the same way."
        )
    elif is_denoised and not was_denoised:
        logger.warning_once(
            "--denoise: this model does not say that it was trained on denoised clips (sanet prepare --denoise), and "
            "may hear other sounds than in training."
        )
