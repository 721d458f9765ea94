# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Models to train, of any architecture with an audio classifier in transformers, from scratch or from a checkpoint."""

from collections.abc import Collection, Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    ASTForAudioClassification,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedModel,
    WhisperForAudioClassification,
)
from transformers.utils import logging

from sanet_hf import SANetConfig, SANetFeatureExtractor
from sanet_hf.architectures import MODEL_TYPE_ALIASES, _fit_length, _fitting_heads, backbone
from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import ModelArguments
from sanet_hf.training.config_files import parse_config_overrides


logger = logging.get_logger(__name__)


def make_model(
    arguments: ModelArguments,
    labels: Sequence[str],
    max_length_seconds: float,
    problem_type: str = "single_label_classification",
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """
    The model that the options ask for, with a head for `labels`, and its feature extractor, for clips of up to
    `max_length_seconds`.

    A checkpoint keeps its head where it was trained on the same labels; otherwise it gets a new one, and a warning
    says so.

    Raises:
        UsageError: The checkpoint cannot be loaded or is no audio model, or options contradict each other.
    """
    label_maps = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": problem_type,
    }
    if arguments.model_name_or_path:
        if arguments.config_overrides:
            raise UsageError("--config_overrides is for a model from scratch: a checkpoint brings its own sizes.")
        model, feature_extractor = _load_checkpoint(arguments.model_name_or_path, label_maps)
    else:
        model, feature_extractor = _from_scratch(arguments, label_maps)
        if isinstance(feature_extractor, SANetFeatureExtractor):
            feature_extractor.return_attention_mask = arguments.padding == "longest"
        elif arguments.padding != "longest":
            raise UsageError(f"--padding {arguments.padding} is for SANet; {arguments.model_type} pads as it must.")
    if arguments.position_embeddings == "interpolate":
        _fit_length(model, feature_extractor, max_length_seconds)
    if isinstance(model.config, SANetConfig):
        feature_extractor.max_length = round(max_length_seconds * feature_extractor.sampling_rate)
    else:
        # Not transformers' own: `find_window_seconds` looks for it.
        feature_extractor.max_length_seconds = max_length_seconds
    _check_length(model, feature_extractor, max_length_seconds)
    _freeze(model, arguments.freeze)
    return model, feature_extractor


def _from_scratch(arguments: ModelArguments, label_maps: dict) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    model_type = MODEL_TYPE_ALIASES.get(arguments.model_type, arguments.model_type)
    if (
        model_type not in CONFIG_MAPPING
        or CONFIG_MAPPING[model_type] not in AutoModelForAudioClassification._model_mapping
    ):
        known = sorted(config.model_type for config in AutoModelForAudioClassification._model_mapping)
        raise UsageError(f"--model_type {model_type}: no audio classifier; there are {', '.join(known)}.")
    config_class = CONFIG_MAPPING[model_type]
    overrides = parse_config_overrides(arguments.config_overrides)
    known = config_class()
    for name in overrides:
        if not hasattr(known, name):
            raise UsageError(f"--config_overrides: {config_class.__name__} has no {name!r}.")
    overrides.update(_fitting_heads(known, overrides))
    try:
        config = config_class(**overrides, **label_maps)
        model = AutoModelForAudioClassification.from_config(config)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UsageError(f"--config_overrides: {error}") from error
    extractor_class = FEATURE_EXTRACTOR_MAPPING[config_class]
    sizes = {}
    if isinstance(model, WhisperForAudioClassification):
        sizes = {"feature_size": config.num_mel_bins}
    elif isinstance(model, ASTForAudioClassification):
        sizes = {"num_mel_bins": config.num_mel_bins, "max_length": config.max_length}
    return model, extractor_class(**sizes)


def _load_checkpoint(name: str, label_maps: dict) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    option = f"--model_name_or_path {name}"
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: neither a folder with a model nor one on the Hub that can be reached.") from error
    if type(config) not in AutoModelForAudioClassification._model_mapping:
        raise UsageError(f"{option}: a model of type {config.model_type!r} is no audio classifier.")
    # wav2vec2 and its kin call it ...ForSequenceClassification.
    classifier = AutoModelForAudioClassification._model_mapping[type(config)].__name__
    has_head = classifier in (config.architectures or [])
    keeps_head = has_head and set(config.label2id) == set(label_maps["label2id"])
    if keeps_head:
        config.problem_type = label_maps["problem_type"]
    else:
        old = f" ({_shorten(config.label2id)})" if has_head else ""
        logger.warning(
            f"{name} was {'trained on other labels' if has_head else 'pretrained without labels'}{old}: it gets a new "
            f"classification head for {_shorten(label_maps['label2id'])}."
        )
        config.update(label_maps)
    try:
        feature_extractor = AutoFeatureExtractor.from_pretrained(name)
        model = AutoModelForAudioClassification.from_pretrained(
            name, config=config, dtype=torch.float32, ignore_mismatched_sizes=not keeps_head
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UsageError(f"{option}: the model cannot be loaded ({str(error).splitlines()[0]}).") from error
    if not keeps_head:
        # Layers of the old head whose shapes fit were loaded too.
        fresh = AutoModelForAudioClassification.from_config(config)
        for child, module in fresh.named_children():
            if module is not backbone(fresh):
                setattr(model, child, module)
        for weights, parameter in fresh.named_parameters(recurse=False):
            setattr(model, weights, parameter)
    return model, feature_extractor


def _check_length(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, seconds: float) -> None:
    config = model.config
    if isinstance(config, SANetConfig):
        limit = config.max_input_samples
        samples = feature_extractor.max_length
        if samples < 1 or (limit is not None and samples > limit):
            positions = -(-samples * config.max_position_embeddings // limit)
            raise UsageError(
                f"--max_length_seconds {seconds:g}: the model takes clips of 1 to {limit} samples "
                f"({limit / feature_extractor.sampling_rate:g} s). From scratch it takes longer ones with "
                f'--config_overrides "max_position_embeddings={positions}".'
            )
    elif seconds <= 0:
        raise UsageError(f"--max_length_seconds {seconds:g} must be positive.")


def _freeze(model: PreTrainedModel, part: str) -> None:
    if part == "feature_encoder":
        if not hasattr(model, "freeze_feature_encoder"):
            raise UsageError(
                f"--freeze feature_encoder: {model.config.model_type} has no convolutions that read the waveform. "
                "Choose none or backbone."
            )
        model.freeze_feature_encoder()
    elif part == "backbone" and isinstance(model.config, SANetConfig):
        model.freeze_base_model()  # with its batch statistics
    elif part == "backbone":
        backbone(model).requires_grad_(False)


def _shorten(labels: Collection[str], limit: int = 5) -> str:
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return ", ".join(list(labels)[:limit]) + more
