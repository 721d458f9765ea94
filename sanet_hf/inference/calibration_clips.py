# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips for the calibration of int8: ranges of activations are measured on them."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedModel
from transformers.utils import logging

from sanet_hf.architectures import extract_features, is_padding_invariant, window_length
from sanet_hf.audio.decode import stream_audio
from sanet_hf.audio.denoise import denoise as reduce_noise
from sanet_hf.audio.levels import is_silent
from sanet_hf.errors import AudioError, DataError
from sanet_hf.inference.windows import cut_windows


logger = logging.get_logger(__name__)

MAX_CALIBRATION_CLIPS = 128
FEW_CALIBRATION_CLIPS = 32
BATCH_SIZE = 8


def load_calibration_clips(
    recordings: Sequence[str | Path],
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    denoise: bool = False,
) -> list[np.ndarray]:
    """
    Return up to `MAX_CALIBRATION_CLIPS` windows, the same number from each recording, in random order, without
    silence.

    Raises:
        DataError: None of the recordings can be read, or all are silent.
    """
    rate = feature_extractor.sampling_rate
    length = window_length(model, feature_extractor)
    clips: list[np.ndarray] = []
    for path in random.Random(0).sample(list(recordings), len(recordings)):
        blocks = stream_audio(path, rate)
        windows = cut_windows(reduce_noise(blocks, rate) if denoise else blocks, length, length)
        with_sound = (clip for _, clip in windows if not is_silent(clip))
        try:
            clips += islice(with_sound, math.ceil(MAX_CALIBRATION_CLIPS / len(recordings)))
        except AudioError as error:
            logger.warning(f"Skipping {error}")
        if len(clips) >= MAX_CALIBRATION_CLIPS:
            break
    if not clips:
        raise DataError("No calibration recording can be read, or all are silent. Use other recordings.")
    if len(clips) < FEW_CALIBRATION_CLIPS:
        logger.warning(
            f"The ranges of activations are measured on only {len(clips)} clips. Use some hundred recordings of all "
            "classes for a more accurate int8 model."
        )
    return clips[:MAX_CALIBRATION_CLIPS]


def make_batches(clips: Sequence[np.ndarray], feature_extractor: FeatureExtractionMixin) -> Iterator[BatchFeature]:
    """Yield features of clips, in batches."""
    # Batches of clips with similar lengths need little padding.
    clips = sorted(clips, key=len)
    size = BATCH_SIZE if is_padding_invariant(feature_extractor) else 1
    for start in range(0, len(clips), size):
        yield extract_features(feature_extractor, clips[start : start + size])
