# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Explanation of a score by parts of the clip: occlusion, pooling weights and attention over time."""

import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedModel

from sanet_hf.architectures import architecture_of, class_scores, extract_features, window_length
from sanet_hf.errors import UsageError
from sanet_hf.inference.loading import default_batch_size
from sanet_hf.utils.formatting import shorten


DECIMALS = 9


@dataclass
class Explanation:
    """
    Explanation of the score of a class by parts of a clip. Times are seconds since the beginning of the recording.

    Args:
        label: The explained class.
        scores: Score of every class: a probability, or the value of a regression.
        waveform: The explained part of the recording, before normalisation, of shape (samples,).
        sampling_rate: Sampling rate of the waveform in Hz.
        start: Start of the explained part.
        occlusion_starts, occlusion_ends: Start and end of each silenced part, of shape (parts,).
        score_drops: Score of the class minus its score without that part, of shape (parts,). Positive: the part counts
            for the class. Negative: it counts against the class.
        pooling_weights: Weight of each frame in SANet's pooling, of shape (frames,), sum 1; `None` for other
            architectures. For a model that [`expects_fixed_length`], these weights and the attentions include
            frames of the silence after the clip.
        pooling_edges: Start of each of these frames, and end of the last one, of shape (frames + 1,).
        attentions: Attention of each frame (rows) to each frame (columns) for every attention block of SANet, as the
            mean of the heads. The shape of each is (frames, frames); the number of frames differs between blocks. Rows
            sum to 1.
        attention_edges: Like `pooling_edges`, for every attention block.
    """

    label: str
    scores: dict[str, float]
    waveform: np.ndarray
    sampling_rate: int
    start: float
    occlusion_starts: np.ndarray
    occlusion_ends: np.ndarray
    score_drops: np.ndarray
    pooling_weights: np.ndarray | None = None
    pooling_edges: np.ndarray | None = None
    attentions: tuple[np.ndarray, ...] = ()
    attention_edges: tuple[np.ndarray, ...] = ()

    @property
    def end(self) -> float:
        """End of the explained part in seconds."""
        return self.start + len(self.waveform) / self.sampling_rate


@torch.inference_mode()
def explain(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    waveform: np.ndarray,
    label: str | None = None,
    occlusion_seconds: float | None = None,
    hop_seconds: float | None = None,
    offset: float = 0.0,
    batch_size: int | None = None,
) -> Explanation:
    """
    Explain the score of a clip and return an [`Explanation`]: the drop of the score if a part is silenced
    (occlusion: Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901), and for SANet also the weights of pooling
    and attention.

    Parts are silenced after loudness normalisation, so that the rest of the clip stays the same. For a model with
    spectrogram input, the spectrogram is computed from the waveform with the silenced part.

    Args:
        model, feature_extractor: Result of [`~sanet_hf.inference.load_classifier`], of any architecture.
        waveform: Clip of shape (samples,) at the feature extractor's sampling rate. If it is longer than
            [`find_window_seconds`], only its middle is explained.
        label: Class to explain; by default the class with the highest score.
        occlusion_seconds: Duration of each silenced part; by default 0.25 s, but at least 1/64 and at most 1/8 of the
            clip.
        hop_seconds: Maximum time from one silenced part to the next; by default half of their duration.
        offset: Start of the waveform in its recording in seconds, added to all times.
        batch_size: Number of clips per batch; by default [`default_batch_size`].

    Raises:
        UsageError: The model has no such class, or a duration is not positive.
    """
    for name, seconds in (("occlusion_seconds", occlusion_seconds), ("hop_seconds", hop_seconds)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise UsageError(f"{name}={seconds:g} must be positive and finite.")
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if label is not None and label not in labels:
        raise UsageError(_unknown_label(label, labels))
    rate = feature_extractor.sampling_rate
    window = window_length(model, feature_extractor)
    first = max(0, (len(waveform) - window) // 2)
    waveform, start = waveform[first : first + window], first / rate + offset
    if batch_size is None:
        batch_size = default_batch_size(model)

    def extract(waveforms: list[np.ndarray]) -> BatchFeature:
        return extract_features(feature_extractor, waveforms).to(model.device, model.dtype)

    features = extract([waveform])
    weights = {}
    if architecture_of(model).has_pooling_weights:
        with _eager_attention(model):
            outputs = model(**features, output_attentions=True, return_dict=True)
        num_samples = features["input_values"].shape[-1]
        weights = _weights_over_time(model, outputs, num_samples, start, rate)
    else:
        outputs = model(**features, return_dict=True)
    scores = class_scores(model, outputs.logits)[0]
    index = int(scores.argmax()) if label is None else labels.index(label)

    starts, ends = _parts(len(waveform), rate, occlusion_seconds, hop_seconds)
    occluded_scores = []
    for batch in range(0, len(starts), batch_size):
        parts = list(zip(starts[batch : batch + batch_size], ends[batch : batch + batch_size]))
        if features[model.main_input_name].ndim == 2:  # a waveform
            occluded = {name: value.repeat(len(parts), 1) for name, value in features.items()}
            for row, (begin, end) in zip(occluded[model.main_input_name], parts):
                row[begin:end] = 0
        else:
            clips = [waveform.copy() for _ in parts]
            for clip, (begin, end) in zip(clips, parts):
                clip[begin:end] = 0
            occluded = extract(clips)
        occluded_scores.append(class_scores(model, model(**occluded, return_dict=True).logits)[:, index])
    return Explanation(
        label=labels[index],
        scores=dict(zip(labels, scores.tolist())),
        waveform=waveform,
        sampling_rate=rate,
        start=start,
        occlusion_starts=start + starts / rate,
        occlusion_ends=start + ends / rate,
        score_drops=scores[index] - np.concatenate(occluded_scores),
        **weights,
    )


@torch.inference_mode()
def weigh_frames(
    model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, waveform: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """
    Return only the pooling weights and edges of an [`Explanation`], from a single forward pass; `None` for
    architectures other than SANet.

    Args:
        model, feature_extractor: Result of [`~sanet_hf.inference.load_classifier`].
        waveform: Clip of shape (samples,) at the feature extractor's sampling rate, no longer than
            [`find_window_seconds`].
    """
    if not architecture_of(model).has_pooling_weights:
        return None
    features = extract_features(feature_extractor, [waveform]).to(model.device, model.dtype)
    outputs, num_samples = model(**features, return_dict=True), features["input_values"].shape[-1]
    weights = _weights_over_time(model, outputs, num_samples, 0.0, feature_extractor.sampling_rate)
    return weights["pooling_weights"], weights["pooling_edges"]


def _unknown_label(label: str, labels: list[str]) -> str:
    nearest = difflib.get_close_matches(label, labels, n=1)
    guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"label={label!r} is not a class of the model.{guess} Its classes are {shorten(labels)}."


@contextmanager
def _eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use eager attention, the only implementation that returns its probabilities."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _weights_over_time(model: PreTrainedModel, outputs, num_samples: int, start: float, rate: int) -> dict:
    """
    Return the fields of the explanation that only a SANet has, without frames that contain only padding.

    A frame covers the samples of its stride, in the middle of the receptive field of its convolutions:

        samples        |. . . .|. . . .|. . . .|. .     the last frame ends with the clip
        frames             0       1       2     3
    """
    config = model.config

    def edges(samples: int) -> np.ndarray:
        return start + np.minimum(np.arange(0, num_samples + samples, samples), num_samples) / rate

    attentions, attention_edges = [], []
    for attention, num_samples_merged in zip(outputs.attentions or (), config.attention_frame_samples):
        attention_edges.append(edges(num_samples_merged))
        valid = len(attention_edges[-1]) - 1
        attentions.append(attention[0, :, :valid, :valid].float().mean(0).cpu().numpy())
    pooling_edges = edges(config.inputs_to_logits_ratio)
    return {
        "pooling_weights": outputs.pooling_weights[0, : len(pooling_edges) - 1].float().cpu().numpy(),
        "pooling_edges": pooling_edges,
        "attentions": tuple(attentions),
        "attention_edges": tuple(attention_edges),
    }


def _parts(
    num_samples: int, rate: int, occlusion_seconds: float | None, hop_seconds: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first sample of each part to silence, and the sample after its last, over the whole clip."""
    if occlusion_seconds is None:
        occlusion_seconds = np.clip(0.25, num_samples / rate / 64, num_samples / rate / 8)
    part = min(max(1, round(occlusion_seconds * rate)), num_samples)
    hop = max(1, part // 2 if hop_seconds is None else round(hop_seconds * rate))
    last = num_samples - part
    starts = np.linspace(0, last, 1 + -(-last // hop)).astype(int)
    return starts, starts + part


def as_dict(explanation: Explanation) -> dict:
    """
    Return an explanation as it is written to JSON, without the waveform. Times are in seconds. Frame i of `pooling`
    and `attention` is from `edges[i]` to `edges[i + 1]`:

        {"label": ..., "scores": {label: score}, "start": ..., "end": ...,
         "occlusion": {"start": [...], "end": [...], "score_drop": [...]},
         "pooling": {"edges": [...], "weights": [...]},                     (SANet)
         "attention": [{"edges": [...], "weights": [[...], ...]}, ...]}     (SANet, one entry per block)
    """
    result = {
        "label": explanation.label,
        "scores": {label: round(score, DECIMALS) for label, score in explanation.scores.items()},
        "start": round(explanation.start, DECIMALS),
        "end": round(explanation.end, DECIMALS),
        "occlusion": {
            "start": _to_list(explanation.occlusion_starts),
            "end": _to_list(explanation.occlusion_ends),
            "score_drop": _to_list(explanation.score_drops),
        },
    }
    if explanation.pooling_weights is not None:
        result["pooling"] = {
            "edges": _to_list(explanation.pooling_edges),
            "weights": _to_list(explanation.pooling_weights),
        }
        result["attention"] = [
            {"edges": _to_list(edges), "weights": _to_list(attention)}
            for attention, edges in zip(explanation.attentions, explanation.attention_edges)
        ]
    return result


def _to_list(values: np.ndarray) -> list:
    return values.astype(np.float64).round(DECIMALS).tolist()
