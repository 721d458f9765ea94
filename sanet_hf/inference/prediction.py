# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classification of audio files of any length with a trained model."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Full, Queue
from threading import Event

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.architectures import (
    backbone_outputs,
    class_scores,
    extract_features,
    find_window_seconds,
    is_padding_invariant,
    pool,
)
from sanet_hf.audio.denoise import check_denoising
from sanet_hf.audio.denoise import denoise as reduce_noise
from sanet_hf.audio.stream import resample_blocks, stream_audio
from sanet_hf.errors import AudioError, UsageError
from sanet_hf.inference.loading import default_batch_size
from sanet_hf.inference.windows import Prediction, Window, cut_windows


# Windows are sorted by length among so many batches, so that batches need little padding.
BATCHES_SORTED = 4
# Windows of a file that are decoded before they are asked for.
WINDOWS_AHEAD = 4

Source = str | Path | np.ndarray | Mapping


def predict(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    sources: Iterable[Source],
    *,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    aggregate: str = "mean",
    batch_size: int | None = None,
    num_threads: int = 2,
    return_embeddings: bool = False,
    denoise: bool | None = False,
) -> Iterator[Prediction]:
    """
    Classify audio of any length, in order. What is longer than a window is classified window by window:

        file     |--------------------------|
        windows  |--------|
                     |--------|       hop_seconds apart
                         ...
                                   |--------|  the last ends with the file

    Files are decoded in threads, in pieces, while the model works: memory does not grow with their duration. Where the
    device's memory does not suffice for a batch, smaller ones follow.

    Args:
        model, feature_extractor: As [`~sanet_hf.inference.load_classifier`] gives them.
        sources: Audio files; arrays of shape (samples,) at the feature extractor's sampling rate; or mappings with
            `array` and `sampling_rate`. What cannot be read gives a prediction with an error.
        window_seconds: Length of a window; by default what [`find_window_seconds`] says.
        hop_seconds: From the start of a window to that of the next; by default `window_seconds`.
        aggregate: What the windows' scores become the file's by: `mean`, or `max` for rare events.
        batch_size: Windows that are classified at once; by default [`default_batch_size`].
        num_threads: Files that are decoded at once.
        return_embeddings: Whether to keep embeddings; see [`classify_waveforms`].
        denoise: Whether to reduce noise first, as `sanet prepare --denoise` does. There is a warning where the model
            was trained on the other kind of clips; with None, for sources that are as in training, there is not.

    Raises:
        UsageError: The model does not take windows so long, a hop would leave gaps, or `aggregate` is neither.
    """
    if denoise is not None:
        check_denoising(feature_extractor, denoise)
    rate = feature_extractor.sampling_rate
    window, hop = _check_windows(model, feature_extractor, window_seconds, hop_seconds)
    if aggregate not in ("mean", "max"):
        raise UsageError(f"aggregate={aggregate!r} must be 'mean' or 'max'.")
    if batch_size is None:
        batch_size = default_batch_size(model)
    labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    classify = partial(classify_waveforms, model, feature_extractor, return_embeddings=return_embeddings)
    needs_one_length = not is_padding_invariant(feature_extractor)
    return _predict(
        classify,
        sources,
        labels,
        (rate, window, hop),
        aggregate,
        batch_size,
        needs_one_length,
        max(1, num_threads),
        bool(denoise),
    )


def _predict(
    classify: Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray | None]],
    sources: Iterable[Source],
    labels: Sequence[str],
    window_options: tuple[int, int, int],
    aggregate: str,
    batch_size: int,
    needs_one_length: bool,
    num_threads: int,
    denoise: bool,
) -> Iterator[Prediction]:
    rate = window_options[0]
    waiting: list[tuple[Window, np.ndarray]] = []
    done: list[Prediction] = []

    def classify_waiting() -> None:
        nonlocal batch_size
        waiting.sort(key=lambda item: len(item[1]))
        while waiting:
            batch = waiting[-batch_size:]
            if needs_one_length:
                batch = [item for item in batch if len(item[1]) == len(batch[-1][1])]
            try:
                scores, embeddings = classify([waveform for _, waveform in batch])
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                batch_size = len(batch) // 2
                continue
            for index, (window, _) in enumerate(batch):
                window.scores = scores[index]
                window.embedding = None if embeddings is None else embeddings[index]
            del waiting[-len(batch) :]

    def finish() -> Iterator[Prediction]:
        for prediction in done:
            if prediction.error is None:
                scores = np.stack([window.scores for window in prediction.windows])
                prediction.scores = scores.max(axis=0) if aggregate == "max" else scores.mean(axis=0)
                embeddings = [window.embedding for window in prediction.windows]
                prediction.embedding = None if embeddings[0] is None else np.mean(embeddings, axis=0)
            yield prediction
        done.clear()

    def read(source: Source) -> Iterator[tuple[int, np.ndarray]]:
        blocks = _read_blocks(source, rate)
        return cut_windows(reduce_noise(blocks, rate) if denoise else blocks, *window_options[1:])

    ahead = BATCHES_SORTED * batch_size
    with closing(_read_ahead(read, sources, num_threads, ahead, WINDOWS_AHEAD)) as files:
        for number, (source, windows) in enumerate(files, start=1):
            prediction = Prediction(_name(source, number), labels)
            try:
                for start, waveform in windows:
                    prediction.duration = (start + len(waveform)) / rate
                    prediction.windows.append(Window(start / rate, prediction.duration))
                    waiting.append((prediction.windows[-1], waveform))
                    if len(waiting) == ahead:
                        classify_waiting()
                        yield from finish()
            except AudioError as error:
                message = str(error).removeprefix(f"{prediction.path}: ")
                prediction = Prediction(prediction.path, labels, error=message)
            done.append(prediction)
    classify_waiting()
    yield from finish()


def load_denoised(path: str | Path, sampling_rate: int, start: int = 0, length: int | None = None) -> np.ndarray:
    """Read a stretch of a file as [`load_audio`] does, after noise is reduced in the whole recording."""
    waveform = np.concatenate(list(reduce_noise(stream_audio(path, sampling_rate), sampling_rate)))
    waveform = waveform[start : None if length is None else start + length]
    if not len(waveform):
        raise AudioError(f"{path}: the file holds no samples from {start / sampling_rate:g} s on.")
    return waveform


def _check_windows(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    window_seconds: float | None,
    hop_seconds: float | None,
) -> tuple[int, int]:
    """Window and hop in samples."""
    longest, rate = find_window_seconds(model, feature_extractor), feature_extractor.sampling_rate
    window_seconds = longest if window_seconds is None else window_seconds
    hop_seconds = window_seconds if hop_seconds is None else hop_seconds
    if not 1 / rate <= window_seconds <= longest:
        raise UsageError(f"A window of {window_seconds:g} s: this model takes up to {longest:g} s; choose less.")
    if not 1 / rate <= hop_seconds <= window_seconds:
        raise UsageError(
            f"A hop of {hop_seconds:g} s: it must be above 0 and, so that nothing is left out, at most the window of "
            f"{window_seconds:g} s."
        )
    return round(window_seconds * rate), round(hop_seconds * rate)


def _name(source: Source, number: int) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"#{number}"


def _read_blocks(source: Source, sampling_rate: int) -> Iterator[np.ndarray]:
    if isinstance(source, (str, Path)):
        yield from stream_audio(source, sampling_rate)
        return
    array, rate = (
        (source["array"], source["sampling_rate"]) if isinstance(source, Mapping) else (source, sampling_rate)
    )
    array = np.asarray(array, dtype=np.float32)
    if array.ndim != 1 or not len(array):
        raise AudioError(f"an array of shape {array.shape}, not of (samples,)")
    if not np.isfinite(array).all():
        raise AudioError("the array holds NaN or Inf.")
    yield from [array] if rate == sampling_rate else resample_blocks([array], rate, sampling_rate)


def _read_ahead(
    read: Callable[[Source], Iterator], sources: Iterable[Source], num_threads: int, num_sources: int, num_items: int
) -> Iterator[tuple[Source, Iterator]]:
    """
    Sources in order, each with the items that `read` gives of it, read in threads before they are asked for.

    Args:
        read: Gives items of a source, or raises.
        sources: Taken from as needed.
        num_threads: Sources that are read at once.
        num_sources: Sources that are begun ahead.
        num_items: Items of a source that are kept.
    """
    stopped = Event()

    def put(queue: Queue, item: tuple) -> None:
        while not stopped.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    def work(source: Source, queue: Queue) -> None:
        try:
            for item in read(source):
                put(queue, (item, None))
                if stopped.is_set():
                    return
            put(queue, (None, StopIteration()))
        except BaseException as error:
            put(queue, (None, error))

    def items(queue: Queue) -> Iterator:
        while True:
            item, error = queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    sources = iter(sources)
    begun: deque[tuple[Source, Queue]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            while True:
                for source in islice(sources, num_sources - len(begun)):
                    queue = Queue(num_items)
                    pool.submit(work, source, queue)
                    begun.append((source, queue))
                if not begun:
                    return
                source, queue = begun.popleft()
                yield source, items(queue)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


@torch.inference_mode()
def classify_waveforms(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    waveforms: Sequence[np.ndarray],
    return_embeddings: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Scores of clips, as one batch, and their embeddings: what SANet pools, or, of other architectures, the mean over
    time of the last hidden states.

    Args:
        model, feature_extractor: As [`~sanet_hf.inference.load_classifier`] gives them.
        waveforms: Clips of shape (samples,) at the feature extractor's sampling rate.
        return_embeddings: Whether to return embeddings.

    Returns:
        float32 of shape (clips, classes), and None or float32 of shape (clips, features).
    """
    features = extract_features(feature_extractor, waveforms).to(model.device, model.dtype)
    with backbone_outputs(model) if return_embeddings else nullcontext() as outputs:
        scores = class_scores(model, model(**features).logits)
    embeddings = None
    if return_embeddings:
        embeddings = pool(model, outputs[0], features.get("attention_mask")).float().cpu().numpy()
    return scores, embeddings
