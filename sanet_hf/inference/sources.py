# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings in the forms of files, datasets and pipelines."""

import os
from collections.abc import Iterable, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from sanet_hf.audio.decode import choose_channel, mean_of_channels
from sanet_hf.errors import AudioError, UsageError


logger = logging.get_logger(__name__)

# A path, the content of a file, an array, tensor or list of samples, a mapping, or a decoder of torchcodec.
Source = Any

# Full scale of integer samples by type. Other integer types have no common full scale.
FULL_SCALES = {"int16": 2.0**15, "int32": 2.0**31}
# A 2-D array has channels if one side is at most MAX_CHANNELS and the other at least this many times longer.
MAX_CHANNELS, MIN_SAMPLES_PER_CHANNEL = 8, 100
EXPECTED = (
    "a path, the content of a file as bytes, an array of samples, a decoder of torchcodec, or a mapping with array "
    "and sampling_rate, or bytes, or path, or audio"
)


def check_sources(sources: Iterable[Source]) -> None:
    """Raise a UsageError if `sources` is a single recording instead of an iterable of recordings."""
    is_one = isinstance(sources, (str, bytes, bytearray, os.PathLike, Mapping)) or _is_decoder(sources)
    if isinstance(sources, (np.ndarray, torch.Tensor)):
        is_one = not isinstance(sources, np.ndarray) or sources.dtype.kind not in "OUS"
    if isinstance(sources, (list, tuple)) and sources:
        is_one = isinstance(sources[0], Number)
    if is_one:
        kind = type(sources).__name__
        raise UsageError(f"sources is one recording ({kind}), but must be an iterable of recordings. Pass [source].")
    if not isinstance(sources, Iterable):
        raise UsageError(f"sources must be an iterable of recordings, not {type(sources).__name__}.")


def name_source(source: Source, number: int) -> str:
    """Return the path of a source or, if it has none, its number, such as `#3`."""
    while isinstance(source, Mapping) and source.get("audio") is not None:
        source = source["audio"]
    encoded = getattr(source, "_hf_encoded", source)
    path = encoded.get("path") if isinstance(encoded, Mapping) else encoded
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else f"#{number}"


def resolve_source(source: Source) -> Path | bytes | tuple[np.ndarray, float | None]:
    """
    Return the path or content of the audio file of a source, or a mono waveform and its sampling rate in Hz. The
    waveform is float32 of shape (samples,), full scale at 1. The rate is None if the source does not state it.

    Args:
        source: One of these:
            - the path of an audio file, or its content as bytes
            - an array, tensor or list of floats, 16-bit or 32-bit integers, whose full scale is 1, 2^15 or 2^31. Its
              shape is (samples,), or (channels, samples) or (samples, channels) if the sides can be distinguished.
            - a mapping with `array` (or `raw`, from pipelines) and `sampling_rate`; with `bytes` or `path`, from
              datasets without decoding; or with one of these as `audio`
            - a decoder of torchcodec, from datasets with decoding. Its file is used if it is known, as in training.

    Raises:
        AudioError: The source has none of these forms, or cannot be decoded.
    """
    if isinstance(source, (str, os.PathLike)):
        return Path(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, Mapping):
        return _resolve_mapping(source)
    if _is_decoder(source):
        return _resolve_decoder(source)
    return _to_waveform(source), None


def _resolve_mapping(source: Mapping) -> Path | bytes | tuple[np.ndarray, float | None]:
    if source.get("audio") is not None:
        return resolve_source(source["audio"])
    for key in ("array", "raw"):
        if source.get(key) is not None:
            if source.get("sampling_rate") is None:
                raise AudioError(f"the mapping has {key}, but no sampling_rate.")
            return _to_waveform(source[key]), _to_rate(source["sampling_rate"])
    content = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if content is None:
        keys = ", ".join(map(str, source)) or "no keys"
        raise AudioError(f"a mapping with {keys} is not a recording: expected {EXPECTED}.")
    return resolve_source(content)


def _is_decoder(source: Source) -> bool:
    return hasattr(source, "get_all_samples")


def _resolve_decoder(decoder: Source) -> Path | bytes | tuple[np.ndarray, float | None]:
    encoded = getattr(decoder, "_hf_encoded", None) or {}
    if encoded.get("bytes") is not None or os.path.isfile(encoded.get("path") or ""):
        return _resolve_mapping(encoded)
    try:
        samples = decoder.get_all_samples()
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise AudioError(f"torchcodec cannot decode the recording ({reason}).") from error
    return _to_waveform(samples.data), _to_rate(samples.sample_rate)


def _to_waveform(samples: Source) -> np.ndarray:
    """Return samples as float32 of shape (samples,)."""
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    kind = type(samples).__name__
    try:
        samples = np.asarray(samples)
    except (TypeError, ValueError) as error:
        raise AudioError(f"a {kind} is not a recording ({error}): expected {EXPECTED}.") from error
    if samples.dtype.kind not in "fiub" or samples.ndim == 0:
        raise AudioError(f"a {kind} is not a recording: expected {EXPECTED}.")
    if samples.dtype.kind != "f" and samples.dtype.name not in FULL_SCALES:
        raise AudioError(
            f"the full scale of samples of type {samples.dtype} is unknown. Use floats from -1 to 1, int16 or int32."
        )
    scale = FULL_SCALES.get(samples.dtype.name, 1.0)
    # Values that are too large for float32 become infinite, which is checked below.
    with np.errstate(over="ignore"):
        samples = np.atleast_1d(samples.astype(np.float32, copy=False))
    if samples.ndim == 2:
        few, many = sorted(samples.shape)
        if few > 1 and (few > MAX_CHANNELS or many < MIN_SAMPLES_PER_CHANNEL * few):
            raise _unknown_shape(samples)
        samples = samples if samples.shape[1] == few else samples.T
        samples = _mix_channels(samples) if few else samples[:0].ravel()
    if samples.ndim != 1 or not len(samples):
        raise _unknown_shape(samples)
    if not np.isfinite(samples).all():
        raise AudioError("the array contains NaN or Inf.")
    samples = np.ascontiguousarray(samples)
    return samples if scale == 1 else samples / np.float32(scale)


def _mix_channels(samples: np.ndarray) -> np.ndarray:
    """Return the mean over channels of (samples, channels), or one channel if they cancel each other, as for files."""
    mean = mean_of_channels(samples)
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.square(samples, dtype=np.float64).sum(axis=0)
        channel = choose_channel(powers, np.square(mean, dtype=np.float64).sum())
    if channel is None:
        return mean
    logger.warning_once(
        "The channels of an array cancel each other in their mean. The channel with the most energy is used."
    )
    return samples[:, channel]


def _unknown_shape(samples: np.ndarray) -> AudioError:
    return AudioError(
        f"an array of shape {samples.shape} is not a recording: expected (samples,), (channels, samples) or (samples, "
        f"channels) with up to {MAX_CHANNELS} channels and at least {MIN_SAMPLES_PER_CHANNEL} samples per channel."
    )


def _to_rate(rate: object) -> float:
    """Return a sampling rate in Hz as a number. It may be given as text."""
    try:
        return rate if isinstance(rate, bool) else float(rate)
    except (TypeError, ValueError) as error:
        raise AudioError(f"the sampling rate must be a whole number of Hz, not {rate!r}.") from error
