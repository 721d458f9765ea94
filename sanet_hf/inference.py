# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classification of audio files of any length with a trained model."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from queue import Full, Queue
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import (
    ASTFeatureExtractor,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)
from transformers.utils import ModelOutput

from .audio import AudioError
from .audio_blocks import resample_blocks, stream_audio
from .configuration_sanet import SANetConfig
from .feature_extraction_sanet import SANetFeatureExtractor


# What other architectures need of a clip: wav2vec2's masking in training covers 10 frames of 20 ms, AST's filter bank
# 25 ms. Shorter clips are padded with zeros.
MIN_SECONDS = 0.25
AST_FRAME, AST_HOP = 0.025, 0.010  # seconds, of AST's filter bank
# Windows of models that take clips of any length, whose memory grows with the square of it.
MAX_WINDOW_SECONDS = 30.0
# Windows are sorted by length among so many batches, so that batches need little padding.
BATCHES_SORTED = 4
# Windows of a file that are decoded before they are asked for.
WINDOWS_AHEAD = 4

Source = str | Path | np.ndarray | Mapping


@dataclass
class Window:
    """
    A stretch of a file, in seconds; its score of each class, float32 of shape (classes,); and, if asked for, its
    embedding, float32 of shape (features,).
    """

    start: float
    end: float
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None


class Segment(NamedTuple):
    """Neighbouring windows with one label: its first and last second, and their mean score."""

    start: float
    end: float
    label: str
    score: float


@dataclass
class Prediction:
    """
    What a model says of one file, or the `error` that kept the file from being classified.

    Attributes:
        path: The file; what is given as an array is called by its place, such as `#3`.
        labels: The classes, in the model's order.
        scores: float32 of shape (classes,): probabilities, or, of a regression, the model's outputs.
        windows: The stretches that were classified; a short file is one.
        duration: In seconds.
        embedding: If asked for, the mean of the windows', float32 of shape (features,).
    """

    path: str
    labels: Sequence[str] = ()
    scores: np.ndarray | None = None
    windows: list[Window] = field(default_factory=list)
    duration: float | None = None
    error: str | None = None
    embedding: np.ndarray | None = None

    @property
    def label(self) -> str | None:
        """The class with the highest score."""
        return None if self.scores is None else self.labels[int(self.scores.argmax())]

    @property
    def score(self) -> float | None:
        """The highest score."""
        return None if self.scores is None else float(self.scores.max())


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
        model, feature_extractor: As [`~sanet_hf.loading.load_classifier`] gives them.
        sources: Audio files; arrays of shape (samples,) at the feature extractor's sampling rate; or mappings with
            `array` and `sampling_rate`. What cannot be read gives a prediction with an error.
        window_seconds: Length of a window; by default what [`find_window_seconds`] says.
        hop_seconds: From the start of a window to that of the next; by default `window_seconds`.
        aggregate: What the windows' scores become the file's by: `mean`, or `max` for rare events.
        batch_size: Windows that are classified at once; by default 32 on a GPU and else 8.
        num_threads: Files that are decoded at once.
        return_embeddings: Whether to keep embeddings; see [`classify_waveforms`].

    Raises:
        ValueError: The model does not take windows so long, a hop would leave gaps, or `aggregate` is neither.
    """
    rate = feature_extractor.sampling_rate
    window, hop = _check_windows(model, feature_extractor, window_seconds, hop_seconds)
    if aggregate not in ("mean", "max"):
        raise ValueError(f"aggregate={aggregate!r} must be 'mean' or 'max'.")
    if batch_size is None:
        batch_size = 32 if model.device.type == "cuda" else 8
    labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    classify = partial(classify_waveforms, model, feature_extractor, return_embeddings=return_embeddings)
    needs_one_length = not is_padding_neutral(feature_extractor)
    return _predict(
        classify, sources, labels, (rate, window, hop), aggregate, batch_size, needs_one_length, max(1, num_threads)
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
        return cut_windows(_read_blocks(source, rate), *window_options[1:])

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


def find_window_seconds(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> float:
    """
    The longest clip that a model takes, in seconds; 30 s where it takes any. What `sanet train` trained is given clips
    no longer than in training, of which the feature extractor keeps note as `max_length_seconds`.
    """
    rate = feature_extractor.sampling_rate
    limits = [getattr(feature_extractor, "max_length_seconds", None)]
    if isinstance(feature_extractor, SANetFeatureExtractor):
        samples = feature_extractor.max_length, model.config.max_input_samples
        limits += [limit / rate for limit in samples if limit is not None]
    elif isinstance(feature_extractor, WhisperFeatureExtractor):
        limits.append(feature_extractor.n_samples / rate)
    elif isinstance(feature_extractor, ASTFeatureExtractor):
        # A sample more would be another frame.
        limits.append(feature_extractor.max_length * AST_HOP + AST_FRAME - 1 / rate)
    return min((limit for limit in limits if limit is not None), default=MAX_WINDOW_SECONDS)


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
        raise ValueError(f"A window of {window_seconds:g} s: this model takes up to {longest:g} s; choose less.")
    if not 1 / rate <= hop_seconds <= window_seconds:
        raise ValueError(
            f"A hop of {hop_seconds:g} s: it must be above 0 and, so that nothing is left out, at most the window of "
            f"{window_seconds:g} s."
        )
    return round(window_seconds * rate), round(hop_seconds * rate)


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """
    Windows of a waveform that comes in blocks, each with the index of its first sample: a window every `hop` samples,
    and a last one that ends with the waveform. What is shorter than a window is one.

    Args:
        blocks: float32 arrays of shape (samples,).
        window, hop: In samples.
    """
    buffer, start, is_first = np.zeros(0, np.float32), 0, True
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= (window if is_first else hop + window):
            # What came before the last window given is no longer needed.
            skipped = 0 if is_first else hop
            buffer, start, is_first = buffer[skipped:], start + skipped, False
            yield start, buffer[:window].copy()
    excess = len(buffer) if is_first else len(buffer) - window
    if excess:
        rest = buffer[-window:].copy()
        yield start + len(buffer) - len(rest), rest


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """First samples of the windows that [`cut_windows`] makes of `length` samples."""
    if length <= window:
        return [0]
    starts = list(range(0, length - window + 1, hop))
    return starts if starts[-1] + window == length else [*starts, length - window]


def merge_windows(prediction: Prediction) -> list[Segment]:
    """
    The windows of a file, neighbours with one label as one segment. Where windows overlap, each counts up to the
    middle of the overlap.
    """
    windows = prediction.windows
    edges = [
        windows[0].start,
        *((first.end + second.start) / 2 for first, second in pairwise(windows)),
        windows[-1].end,
    ]
    best = [int(window.scores.argmax()) for window in windows]
    segments, first = [], 0
    for index in range(1, len(windows) + 1):
        if index == len(windows) or best[index] != best[first]:
            score = float(np.mean([window.scores[best[first]] for window in windows[first:index]]))
            segments.append(Segment(edges[first], edges[index], prediction.labels[best[first]], score))
            first = index
    return segments


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


def extract_features(
    feature_extractor: FeatureExtractionMixin,
    waveforms: Sequence[np.ndarray],
    padding: bool = True,
    return_tensors: str | None = "pt",
) -> BatchFeature:
    """
    Features of clips for a model of any architecture.

    Args:
        feature_extractor: The model's own.
        waveforms: Clips of shape (samples,) at the feature extractor's sampling rate.
        padding: Whether to pad them to one length: the longest clip's, or, where the model [`hears_padding`], the
            feature extractor's. Those of Whisper and AST always pad to the one length that their models take.
        return_tensors: As feature extractors have it.
    """
    if not isinstance(feature_extractor, SANetFeatureExtractor):
        min_length = round(MIN_SECONDS * feature_extractor.sampling_rate)
        waveforms = [np.pad(waveform, (0, max(0, min_length - len(waveform)))) for waveform in waveforms]
    strategy = "longest" if padding else False
    if isinstance(feature_extractor, WhisperFeatureExtractor) or (padding and hears_padding(feature_extractor)):
        strategy = "max_length"
    return feature_extractor(
        waveforms, sampling_rate=feature_extractor.sampling_rate, padding=strategy, return_tensors=return_tensors
    )


def hears_padding(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether a SANet was trained on clips padded to one length without a mask, and must be given such clips."""
    return isinstance(feature_extractor, SANetFeatureExtractor) and not feature_extractor.return_attention_mask


def is_padding_neutral(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether a clip's scores are the same in a batch with longer ones: all are padded to one length, or masked."""
    pads_always = isinstance(feature_extractor, (SANetFeatureExtractor, ASTFeatureExtractor, WhisperFeatureExtractor))
    return pads_always or feature_extractor.return_attention_mask


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part of a classifier that makes features."""
    # transformers has no name for that of Whisper.
    return model.encoder if isinstance(model, WhisperForAudioClassification) else model.base_model


def class_scores(model: PreTrainedModel, logits: torch.Tensor) -> np.ndarray:
    """Scores of a model's logits (clips, classes), float32: probabilities, or of a regression the logits."""
    logits = logits.float()
    if model.config.problem_type == "multi_label_classification":
        logits = logits.sigmoid()
    elif model.config.problem_type != "regression":
        logits = logits.softmax(-1)
    return logits.cpu().numpy()


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
        model, feature_extractor: As [`~sanet_hf.loading.load_classifier`] gives them.
        waveforms: Clips of shape (samples,) at the feature extractor's sampling rate.
        return_embeddings: Whether to return embeddings.

    Returns:
        float32 of shape (clips, classes), and None or float32 of shape (clips, features).
    """
    features = extract_features(feature_extractor, waveforms).to(model.device, model.dtype)
    captured: list[ModelOutput] = []
    with _captured(model, captured) if return_embeddings else nullcontext():
        scores = class_scores(model, model(**features).logits)
    embeddings = None
    if return_embeddings:
        embeddings = _pool(model, captured[0], features.get("attention_mask")).float().cpu().numpy()
    return scores, embeddings


@contextmanager
def _captured(model: PreTrainedModel, outputs: list[ModelOutput]) -> Iterator[None]:
    """What the backbone gives is added to `outputs`; not all classifiers return it."""
    hook = backbone(model).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield
    finally:
        hook.remove()


def _pool(model: PreTrainedModel, output: ModelOutput, attention_mask: torch.Tensor | None) -> torch.Tensor:
    if isinstance(model.config, SANetConfig):
        return output.pooler_output
    hidden_states = output[0]
    if attention_mask is None or not hasattr(model, "_get_feature_vector_attention_mask"):
        return hidden_states.mean(dim=1)
    mask = model._get_feature_vector_attention_mask(hidden_states.shape[1], attention_mask).to(hidden_states.dtype)
    return torch.einsum("btc,bt->bc", hidden_states, mask) / mask.sum(dim=1, keepdim=True)
