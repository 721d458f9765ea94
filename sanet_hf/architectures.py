# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What SANet, wav2vec2, AST, Whisper and similar models need of length, padding, features and heads."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from transformers import (
    ASTFeatureExtractor,
    ASTForAudioClassification,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)
from transformers.utils import ModelOutput, logging

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.feature_extraction_sanet import SANetFeatureExtractor


logger = logging.get_logger(__name__)


# What other architectures need of a clip: wav2vec2's masking in training covers 10 frames of 20 ms, AST's filter bank
# 25 ms. Shorter clips are padded with zeros.
MIN_SECONDS = 0.25
AST_FRAME, AST_HOP = 0.025, 0.010  # seconds, of AST's filter bank
# Windows of models that take clips of any length, whose memory grows with the square of it.
MAX_WINDOW_SECONDS = 30.0


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


def _takes_waveforms(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether features are a waveform, not a spectrogram; AST's are called input_values all the same."""
    return feature_extractor.model_input_names[0] == "input_values" and not hasattr(feature_extractor, "num_mel_bins")


MODEL_TYPE_ALIASES = {"ast": "audio-spectrogram-transformer"}
WHISPER_SIZES = ("feature_size", "sampling_rate", "hop_length", "n_fft", "padding_value", "return_attention_mask")
# Names in configurations: size of the hidden states, and the attention heads that must divide it.
HEADS_OF_SIZE = {"hidden_size": "num_attention_heads", "d_model": "encoder_attention_heads"}


def head_parameter_names(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that are not the backbone's."""
    inner = {id(parameter) for parameter in backbone(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in inner}


def _fitting_heads(default: PreTrainedConfig, overrides: dict) -> dict[str, int]:
    """The most attention heads, up to the default, that divide a size that was given without them."""
    fitting = {}
    for size, name in HEADS_OF_SIZE.items():
        heads = getattr(default, name, None)
        if isinstance(overrides.get(size), int) and name not in overrides and isinstance(heads, int):
            fitting[name] = max(n for n in range(1, heads + 1) if overrides[size] % n == 0)
            if fitting[name] != heads:
                logger.warning(f"{name}={fitting[name]} instead of {heads}, which does not divide {size}.")
    return fitting


def _fit_length(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, seconds: float) -> None:
    """Fit the positions of architectures that take one length only to clips of `seconds`."""
    if isinstance(model, ASTForAudioClassification):
        frames = 1 + math.floor((seconds - AST_FRAME) / AST_HOP)
        embeddings = model.audio_spectrogram_transformer.embeddings
        config = model.config
        frames = max(frames, config.patch_size)
        if frames >= config.max_length:
            return
        old_shape = embeddings.get_shape(config)
        config.max_length = feature_extractor.max_length = frames
        embeddings.position_embeddings = nn.Parameter(
            interpolate_positions(embeddings.position_embeddings.detach(), old_shape, embeddings.get_shape(config))
        )
    elif isinstance(model, WhisperForAudioClassification):
        # Its sinusoidal positions do not depend on how many there are.
        chunk_length = math.ceil(seconds)
        if chunk_length >= feature_extractor.chunk_length:
            return
        sizes = {name: value for name, value in feature_extractor.to_dict().items() if name in WHISPER_SIZES}
        feature_extractor.__init__(**{**sizes, "chunk_length": chunk_length})
        positions = feature_extractor.nb_max_frames // (model.encoder.conv1.stride[0] * model.encoder.conv2.stride[0])
        table = model.encoder.embed_positions
        model.encoder.embed_positions = nn.Embedding.from_pretrained(table.weight[:positions].detach().clone())
        model.config.max_source_positions = model.encoder.max_source_positions = positions


def interpolate_positions(positions: torch.Tensor, old_shape: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    """
    Position embeddings of AST for another number of patches, interpolated bilinearly as in Gong et al., AST: Audio
    Spectrogram Transformer, Interspeech 2021.

    Args:
        positions: Shape (1, 2 + patches, channels): those of two extra tokens, then of the patches, time innermost.
        old_shape, shape: Patches along frequency and time.

    Returns:
        Shape (1, 2 + new patches, channels).
    """
    tokens, patches = positions[:, :2], positions[:, 2:]
    grid = patches.reshape(1, *old_shape, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=tuple(shape), mode="bilinear", align_corners=False)
    return torch.cat([tokens, grid.flatten(2).transpose(1, 2)], dim=1)
