# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classification of audio files with a trained model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

from .audio import AudioError, load_audio
from .feature_extraction_sanet import SANetFeatureExtractor


# What other architectures need of a clip: wav2vec2's masking in training covers 10 frames of 20 ms, AST's filter bank
# 25 ms. Shorter clips are padded with zeros.
MIN_SECONDS = 0.25


@dataclass
class Prediction:
    """
    The class of one file: `label`, its `score` and the file's `duration` in seconds, or the `error` that kept the file
    from being classified.
    """

    path: str
    label: str | None = None
    score: float | None = None
    duration: float | None = None
    error: str | None = None


def load_classifier(model_name_or_path: str | Path) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """
    Load an audio classifier of any architecture with its feature extractor, on the GPU where there is one.

    Raises:
        ValueError: It is no folder and no model on the Hub, or holds something other than an audio classifier.
    """
    name = str(model_name_or_path)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = "it is neither a folder here nor a model on the Hub that can be reached"
        if Path(name).is_dir():
            reason = f"the folder holds no model that transformers can load ({str(error).splitlines()[0]})"
        raise ValueError(f"{name}: {reason}.") from error
    if type(config) not in AutoModelForAudioClassification._model_mapping:
        raise ValueError(f"{name}: a model of type {config.model_type!r} is no audio classifier.")
    try:
        model = AutoModelForAudioClassification.from_pretrained(name)
        feature_extractor = AutoFeatureExtractor.from_pretrained(name)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{name}: the model cannot be loaded ({str(error).splitlines()[0]}).") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), feature_extractor


def predict(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    paths: Iterable[str | Path],
    batch_size: int = 8,
) -> Iterator[Prediction]:
    """
    Classify audio files, in order. A clip longer than the model takes is cropped as the feature extractor does.

    Args:
        model, feature_extractor: As [`load_classifier`] gives them.
        paths: Audio files; what cannot be read gives a prediction with an error.
        batch_size: Files that are classified at once.
    """
    paths = iter(paths)
    while predictions := [Prediction(str(path)) for path in islice(paths, batch_size)]:
        waveforms = []
        for prediction in predictions:
            try:
                waveform = load_audio(prediction.path, feature_extractor.sampling_rate)
                prediction.duration = len(waveform) / feature_extractor.sampling_rate
                waveforms.append(waveform)
            except AudioError as error:
                prediction.error = str(error).removeprefix(f"{prediction.path}: ")
        readable = [prediction for prediction in predictions if prediction.error is None]
        if waveforms:
            for prediction, (label, score) in zip(readable, _classify(model, feature_extractor, waveforms)):
                prediction.label, prediction.score = label, score
        yield from predictions


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


@torch.inference_mode()
def _classify(
    model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, waveforms: list
) -> list[tuple[str, float]]:
    features = extract_features(feature_extractor, waveforms).to(model.device)
    logits = model(**features).logits.float()
    if model.config.problem_type == "regression":
        scores = logits
    elif model.config.problem_type == "multi_label_classification":
        scores = logits.sigmoid()
    else:
        scores = logits.softmax(-1)
    best_scores, best = scores.max(-1)
    return [(model.config.id2label[index], score) for index, score in zip(best.tolist(), best_scores.tolist())]
