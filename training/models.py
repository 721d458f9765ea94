# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Models to train, from scratch or from a checkpoint."""

from collections.abc import Collection, Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.utils import logging

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification

from .arguments import ModelArguments, UsageError, parse_config_overrides


logger = logging.get_logger(__name__)


def make_model(
    arguments: ModelArguments, labels: Sequence[str], max_length_seconds: float
) -> tuple[SANetForAudioClassification, SANetFeatureExtractor]:
    """
    The model that the options ask for, with a head for `labels`, and its feature extractor, which crops clips to
    `max_length_seconds`.

    A checkpoint keeps its head where it was trained on the same labels; otherwise it gets a new one, and a warning
    says so.

    Raises:
        UsageError: The checkpoint cannot be loaded or is not of SANet, or options contradict each other.
    """
    if arguments.model_name_or_path:
        if arguments.config_overrides:
            raise UsageError("--config_overrides is for a model from scratch: a checkpoint brings its own sizes.")
        model, feature_extractor = _load_checkpoint(arguments.model_name_or_path, labels)
    else:
        model, feature_extractor = _from_scratch(arguments.config_overrides, labels), SANetFeatureExtractor()
    feature_extractor.max_length = round(max_length_seconds * feature_extractor.sampling_rate)
    config = model.config
    limit = config.max_input_samples
    if feature_extractor.max_length < 1 or (limit is not None and feature_extractor.max_length > limit):
        positions = -(-feature_extractor.max_length * config.max_position_embeddings // limit)
        raise UsageError(
            f"--max_length_seconds {max_length_seconds:g}: the model takes clips of 1 to {limit} samples "
            f"({limit / feature_extractor.sampling_rate:g} s). From scratch it takes longer ones with "
            f'--config_overrides "max_position_embeddings={positions}".'
        )
    if arguments.freeze == "feature_encoder":
        model.freeze_feature_encoder()
    elif arguments.freeze == "base_model":
        model.freeze_base_model()
    return model, feature_extractor


def _from_scratch(config_overrides: str | None, labels: Sequence[str]) -> SANetForAudioClassification:
    overrides = parse_config_overrides(config_overrides)
    unknown = sorted(name for name in overrides if name not in SANetConfig.__dataclass_fields__)
    if unknown:
        raise UsageError(f"--config_overrides: SANetConfig has no {unknown[0]!r}.")
    try:
        config = SANetConfig(**overrides, **_label_maps(labels))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UsageError(f"--config_overrides: {error}") from error
    return SANetForAudioClassification(config)


def _load_checkpoint(name: str, labels: Sequence[str]) -> tuple[SANetForAudioClassification, SANetFeatureExtractor]:
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--model_name_or_path {name}: neither a folder with a model nor one on the Hub that can be reached."
        ) from error
    if not isinstance(config, SANetConfig):
        raise UsageError(f"--model_name_or_path {name}: a model of type {config.model_type!r}, not 'sanet'.")
    feature_extractor = AutoFeatureExtractor.from_pretrained(name)
    if set(config.label2id) == set(labels):
        return AutoModelForAudioClassification.from_pretrained(name, dtype=torch.float32), feature_extractor
    logger.warning(
        f"{name} was trained on other labels ({_shorten(config.label2id)}): its classifier is replaced by a new one "
        f"for {_shorten(labels)}."
    )
    config.update(_label_maps(labels))
    model = SANetForAudioClassification(config)
    model.sanet = AutoModel.from_pretrained(name, dtype=torch.float32)
    return model, feature_extractor


def _label_maps(labels: Sequence[str]) -> dict[str, dict]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


def _shorten(labels: Collection[str], limit: int = 5) -> str:
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return ", ".join(list(labels)[:limit]) + more
