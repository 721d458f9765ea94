# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks of a few thousand parameters for each architecture, from scratch and as checkpoints on disk."""

from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

import sanet_hf  # noqa: F401 (registers SANet)


TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# Frames of 320 samples, as in full size.
WAVEFORM = {
    **TRANSFORMER,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
SIZES = {
    "sanet": {
        "conv_dim": [8, 16, 16],
        "conv_kernel": [16, 8, 4],
        "conv_stride": [4, 4, 4],
        "attention_after": [2],
        "attention_dim": [16],
        "num_attention_heads": 2,
        "classifier_hidden_sizes": [16],
        "pool_hidden_size": 16,
        "se_reduction": 4,
    },
    "wav2vec2": WAVEFORM,
    "hubert": WAVEFORM,
    "audio-spectrogram-transformer": TRANSFORMER,
    "whisper": {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 32,
        "classifier_proj_size": 16,
        "vocab_size": 16,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "decoder_start_token_id": 0,
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
    },
}
SIZES["ast"] = SIZES["audio-spectrogram-transformer"]
MODEL_TYPES = ("sanet", "wav2vec2", "hubert", "ast", "whisper")


def overrides(model_type: str) -> str:
    """Return the value of `--config_overrides` for the tiny network."""
    return ",".join(f"{name}={value}" for name, value in SIZES[model_type].items()).replace(" ", "")


def make_config(model_type: str, labels=("x", "y", "z"), **sizes) -> PreTrainedConfig:
    model_type = "audio-spectrogram-transformer" if model_type == "ast" else model_type
    label_maps = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return CONFIG_MAPPING[model_type](**{**SIZES[model_type], **label_maps, **sizes})


def save_checkpoint(
    folder: Path,
    model_type: str,
    labels=("x", "y", "z"),
    model_class: type | None = None,
    extractor_options: dict | None = None,
    **sizes,
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """Save and return a classifier (or another class) with random weights, and its feature extractor."""
    config = make_config(model_type, labels, **sizes)
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_config(config) if model_class is None else model_class(config)
    feature_extractor = FEATURE_EXTRACTOR_MAPPING[type(config)](**(extractor_options or {}))
    model.save_pretrained(folder)
    feature_extractor.save_pretrained(folder)
    return model.eval(), feature_extractor
