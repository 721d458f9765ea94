# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classify audio files of any length with a trained model."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.architectures import (
    backbone_outputs,
    class_scores,
    drop_full_mask,
    extract_features,
    find_window_seconds,
    is_padding_invariant,
    pool,
)
from sanet_hf.audio.decode import resample_waveform, stream_audio
from sanet_hf.audio.denoise import check_denoising
from sanet_hf.audio.denoise import denoise as reduce_noise
from sanet_hf.audio.levels import SILENCE, is_loud, largest_amplitude, mean_power
from sanet_hf.errors import AudioError, UsageError
from sanet_hf.inference.loading import default_batch_size
from sanet_hf.inference.read_ahead import default_num_workers, read_ahead
from sanet_hf.inference.sources import Source, check_sources, name_source, resolve_source
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.inference.windows import AGGREGATES, Prediction, Window, cut_windows, default_aggregate
from sanet_hf.modeling_sanet import SANetPreTrainedModel


# Number of batches whose windows are sorted by length, so that they need little padding.
BATCHES_SORTED = 4
# If no other source arrives for this many seconds, waiting windows are classified.
PATIENCE = 0.2
# Windows of a file that are decoded in advance.
WINDOWS_AHEAD = 4
# dBFS. Lower levels are digital silence, at most with the rounding of 16 bits.
MIN_LEVEL = 20 * math.log10(SILENCE)


def predict(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    sources: Iterable[Source],
    *,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    aggregate: str | None = None,
    min_level: float | None = MIN_LEVEL,
    min_score: float | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    return_embeddings: bool = False,
    denoise: bool | None = False,
) -> Iterator[Prediction]:
    """
    Classify audio of any length, in order. Audio that is longer than a window is classified in windows:

        file     |--------------------------|
        windows  |--------|
                     |--------|       hop_seconds apart
                         ...
                                   |--------|  the last ends with the file

    Files are decoded block by block in threads while the model runs, so that memory does not grow with their duration.
    If memory is too small for a batch, the batch size is reduced. If the next source is slow, for example from a pipe,
    an incomplete batch is classified.

    Args:
        model, feature_extractor: Results of [`~sanet_hf.inference.load_classifier`].
        sources: Recordings in any form that [`resolve_source`] supports, such as paths, arrays at the sampling rate of
            the feature extractor, or rows of datasets. A recording that cannot be read yields a prediction with an
            error. The iterable is read in a thread.
        window_seconds: Length of a window (default: [`find_window_seconds`]).
        hop_seconds: Time between window starts (default: `window_seconds`).
        aggregate: How to combine window scores into a file score. `loud`: mean over the windows that are at most 20 dB
            quieter than the loudest (single-label default). `mean`: mean over all windows (multi-label default).
            `max`: for rare events; the score of the background is then the minimum over the windows.
        min_level: Level in dBFS. Windows whose peak is below it are silent: they get no scores and do not count in the
            file score. Only digital silence is below the default of -80. None: classify all windows.
        min_score: Minimum score of a predicted class (default: [`decision_threshold`], which is none, or the
            thresholds of a multi-label model). Below it, the label of a single-label model is `unknown`.
        batch_size: Windows per batch (default: [`default_batch_size`]).
        num_workers: Files that are decoded in parallel (default: [`default_num_workers`]).
        return_embeddings: Whether to keep embeddings; see [`classify_waveforms`].
        denoise: Whether to reduce noise first, like `sanet prepare --denoise`. A warning is given if this differs from
            training. None: no noise reduction and no warning, for recordings that are prepared as in training.

    Raises:
        UsageError: `sources` is one recording, the windows are too long for the model, the hop leaves gaps, or another
            option is invalid.
    """
    check_sources(sources)
    if denoise is not None:
        check_denoising(feature_extractor, denoise)
    rate = feature_extractor.sampling_rate
    window, hop = _check_windows(model, feature_extractor, window_seconds, hop_seconds)
    if aggregate is None:
        aggregate = default_aggregate(model.config)
    if aggregate not in AGGREGATES:
        raise UsageError(f"aggregate={aggregate!r} must be 'loud', 'mean' or 'max'.")
    if min_level is not None and not min_level <= 0:
        raise UsageError(f"min_level={min_level:g} must be at most 0 (dBFS).")
    options = _Options(
        rate,
        window,
        hop,
        aggregate,
        0.0 if min_level is None else 10 ** (min_level / 20),
        default_batch_size(model) if batch_size is None else batch_size,
        max(1, default_num_workers() if num_workers is None else num_workers),
        needs_one_length=not is_padding_invariant(feature_extractor),
        denoise=bool(denoise),
    )
    classify = partial(classify_waveforms, model, feature_extractor, return_embeddings=return_embeddings)
    return _predict(classify, sources, _make_prediction_of(model, min_score), options)


@dataclass
class _Options:
    """Options of [`predict`], in samples and amplitudes."""

    sampling_rate: int
    window: int
    hop: int
    aggregate: str
    min_amplitude: float
    batch_size: int
    num_workers: int
    needs_one_length: bool
    denoise: bool


def _make_prediction_of(model: PreTrainedModel, min_score: float | None) -> Callable[..., Prediction]:
    """Return [`Prediction`] with the fields that are the same for all files."""
    config = model.config
    labels = tuple(config.id2label[index] for index in range(config.num_labels))
    several = config.problem_type == "multi_label_classification"
    min_score = decision_threshold(config, min_score)
    # `sanet train` stores the name of the background class in the configuration.
    background = getattr(config, "background_label", None)
    return partial(Prediction, labels=labels, min_score=min_score, several=several, background=background)


def _predict(
    classify: Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray | None]],
    sources: Iterable[Source],
    prediction_of: Callable[..., Prediction],
    options: _Options,
) -> Iterator[Prediction]:
    waiting: list[tuple[Window, np.ndarray]] = []
    done: list[Prediction] = []
    batch_size, rate = options.batch_size, options.sampling_rate

    def classify_waiting() -> None:
        nonlocal batch_size
        waiting.sort(key=lambda item: len(item[1]))
        while waiting:
            batch = waiting[-batch_size:]
            if options.needs_one_length:
                batch = [item for item in batch if len(item[1]) == len(batch[-1][1])]
            try:
                scores, embeddings = classify([waveform for _, waveform in batch])
            except (MemoryError, RuntimeError) as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                batch_size = len(batch) // 2
                continue
            for index, (window, _) in enumerate(batch):
                window.scores = scores[index]
                window.embedding = None if embeddings is None else embeddings[index]
            del waiting[-len(batch) :]

    def finish() -> Iterator[Prediction]:
        classify_waiting()
        for prediction in done:
            counted = [window for window in prediction.windows if window.scores is not None]
            if counted and options.aggregate == "loud":
                loud = is_loud(np.array([window.power for window in counted]))
                counted = [window for window, counts in zip(counted, loud) if counts]
            if counted:
                scores = np.stack([window.scores for window in counted])
                prediction.scores = scores.max(axis=0) if options.aggregate == "max" else scores.mean(axis=0)
                if options.aggregate == "max" and prediction.background in prediction.labels:
                    # In a file with a rare event, all windows but one may be background.
                    index = prediction.labels.index(prediction.background)
                    prediction.scores[index] = scores[:, index].min()
                if counted[0].embedding is not None:
                    prediction.embedding = np.mean([window.embedding for window in counted], axis=0)
            yield prediction
        done.clear()

    def read(numbered: tuple[int, Source]) -> Iterator[tuple[int, np.ndarray]]:
        number, source = numbered
        blocks = _read_blocks(source, rate, name_source(source, number))
        return cut_windows(reduce_noise(blocks, rate) if options.denoise else blocks, options.window, options.hop)

    ahead = BATCHES_SORTED * batch_size
    # A sequence is never slow. Without a timeout, its batches do not depend on timing.
    patience = None if isinstance(sources, Sequence) else PATIENCE
    numbered = enumerate(sources, start=1)
    with closing(read_ahead(read, numbered, options.num_workers, ahead, WINDOWS_AHEAD, patience)) as files:
        for file in files:
            if file is None:
                yield from finish()
                continue
            (number, source), windows = file
            prediction = prediction_of(name_source(source, number))
            try:
                for start, waveform in windows:
                    prediction.duration = (start + len(waveform)) / rate
                    prediction.windows.append(Window(start / rate, prediction.duration))
                    if largest_amplitude(waveform) < options.min_amplitude:
                        continue
                    prediction.windows[-1].power = mean_power(waveform)
                    waiting.append((prediction.windows[-1], waveform))
                    if len(waiting) == ahead:
                        yield from finish()
            except (AudioError, OSError) as error:
                message = str(error).removeprefix(f"{prediction.path}: ")
                prediction = prediction_of(prediction.path, error=message)
            done.append(prediction)
            if not waiting:
                yield from finish()
    yield from finish()


def _read_blocks(source: Source, sampling_rate: int, name: str) -> Iterator[np.ndarray]:
    """Yield the waveform of a source in blocks of shape (samples,), at `sampling_rate` in Hz."""
    audio = resolve_source(source)
    if isinstance(audio, (Path, bytes)):
        yield from stream_audio(audio, sampling_rate, name)
    else:
        waveform, rate = audio
        yield waveform if rate is None else resample_waveform(waveform, rate, sampling_rate, name)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the device or of the machine is full."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # PyTorch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def load_denoised(path: str | Path, sampling_rate: int, start: int = 0, length: int | None = None) -> np.ndarray:
    """Reduce noise in a whole recording, and return a part of it as in [`load_audio`]."""
    waveform = np.concatenate(list(reduce_noise(stream_audio(path, sampling_rate), sampling_rate)))
    waveform = waveform[start : None if length is None else start + length]
    if not len(waveform):
        raise AudioError(f"{path}: the file contains no samples after {start / sampling_rate:g} s.")
    return waveform


def _check_windows(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    window_seconds: float | None,
    hop_seconds: float | None,
) -> tuple[int, int]:
    """Check window and hop, and return them in samples."""
    longest, rate = find_window_seconds(model, feature_extractor), feature_extractor.sampling_rate
    window_seconds = longest if window_seconds is None else window_seconds
    hop_seconds = window_seconds if hop_seconds is None else hop_seconds
    if not 1 / rate <= window_seconds <= longest:
        raise UsageError(
            f"The window of {window_seconds:g} s must be above 0 and at most {longest:g} s, the maximum of this model."
        )
    if not 1 / rate <= hop_seconds <= window_seconds:
        raise UsageError(
            f"The hop of {hop_seconds:g} s must be above 0 and at most {window_seconds:g} s, the length of the window."
        )
    return round(window_seconds * rate), round(hop_seconds * rate)


@torch.inference_mode()
def classify_waveforms(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    waveforms: Sequence[np.ndarray],
    return_embeddings: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Classify clips as one batch. Return their scores and embeddings: the pooled output of SANet, or the mean of the
    last hidden states of other architectures.

    Args:
        model, feature_extractor: Results of [`~sanet_hf.inference.load_classifier`].
        waveforms: Clips of shape (samples,) at the sampling rate of the feature extractor.
        return_embeddings: Whether to return embeddings.

    Returns:
        float32 of shape (clips, classes), and None or float32 of shape (clips, features).
    """
    features = extract_features(feature_extractor, waveforms)
    # Only for SANet: exported models of other architectures may require the mask.
    if isinstance(model, SANetPreTrainedModel):
        drop_full_mask(features, waveforms)
    features = features.to(model.device, model.dtype)
    with backbone_outputs(model) if return_embeddings else nullcontext() as outputs:
        scores = class_scores(model, model(**features, return_dict=True).logits)
    embeddings = None
    if return_embeddings:
        embeddings = pool(model, outputs[0], features.get("attention_mask")).float().cpu().numpy()
    return scores, embeddings
