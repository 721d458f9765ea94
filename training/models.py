# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Make models to train: any audio classifier of transformers, from scratch or from a checkpoint."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
)
from transformers.utils import logging

from sanet_hf.architectures import (
    MODEL_TYPE_ALIASES,
    SAMPLING_RATES,
    Architecture,
    architecture_of,
    backbone,
    check_sampling_rate,
    extract_features,
    fitting_heads,
    remove_band_head,
)
from sanet_hf.errors import UsageError
from sanet_hf.inference.loading import LOADING_ERRORS, without_loading_report
from sanet_hf.pretrained import find_model, models_below
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from sanet_hf.training.config_files import parse_config_overrides
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

# transformers maps these models to a feature extractor that returns waveforms, but they need spectrograms.
FEATURE_EXTRACTORS = {"wav2vec2-bert": SeamlessM4TFeatureExtractor}
# Fields of configurations that do not describe the network.
NO_OVERRIDES = {
    *("architectures", "auto_map", "dtype", "id2label", "label2id", "model_type", "name_or_path", "num_labels"),
    *("output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype"),
    *("thresholds", "transformers_version", "use_band_statistics"),
}


def read_sampling_rate(arguments: ModelArguments) -> int:
    """
    Return the sampling rate in Hz of the model that the options describe. It is needed to read the recordings before
    the model is made, because their labels are not known yet.

    Raises:
        UsageError: As in [`make_model`].
    """
    wanted = arguments.sampling_rate
    if arguments.model_name_or_path:
        _read_config(arguments.model_name_or_path)
        rate = _read_feature_extractor(arguments.model_name_or_path).sampling_rate
        owner, why = arguments.model_name_or_path, "A checkpoint keeps the sampling rate of its training."
    else:
        config_class = _config_class(arguments.model_type)
        rate = _extractor_class(config_class)().sampling_rate
        owner, why = config_class.model_type, "Its features are made for this rate."
        if wanted is not None and architecture_of(config_class()).takes_any_sampling_rate:
            lowest, highest = SAMPLING_RATES
            if not lowest <= wanted <= highest:
                raise UsageError(f"--sampling_rate {wanted} must be from {lowest} to {highest} Hz.")
            return wanted
    if wanted not in (None, rate):
        raise UsageError(
            f"--sampling_rate {wanted}: {owner} needs {rate} Hz. {why} Leave the option out, or train a SANet from "
            "scratch, which supports any rate."
        )
    return rate


def read_model_type(arguments: ModelArguments) -> str:
    """
    Return the architecture of the model that the options describe, as `model_type` of its configuration.

    Raises:
        UsageError: As in [`make_model`].
    """
    if arguments.model_name_or_path:
        return _read_config(arguments.model_name_or_path).model_type
    return MODEL_TYPE_ALIASES.get(arguments.model_type, arguments.model_type)


def check_regression(model: ModelArguments, data: DataArguments, training: AudioTrainingArguments) -> None:
    """
    Check the options that do not work with `--head_only` or `--head_first`.

    Raises:
        UsageError: Such an option is given.
    """
    name = "--head_only" if training.head_only else "--head_first"
    others = {
        "--streaming": (data.streaming, "it needs all training recordings"),
        "--samples_per_class": (data.samples_per_class is not None, "it uses each recording once, without joining"),
        "--teacher": (training.head_only and bool(training.teacher), "it only uses the labels"),
        "--fsdp": (bool(training.fsdp), "it needs all weights in one process"),
        "--deepspeed": (bool(training.deepspeed), "it needs all weights in one process"),
    }
    for option, (is_given, reason) in others.items():
        if is_given:
            raise UsageError(f"{name} does not work with {option}: {reason}. Leave one out.")
    if not model.model_name_or_path:
        raise UsageError(f"{name} needs --model_name_or_path: a network from scratch is not trained yet.")
    if model.config_overrides:
        raise UsageError(f"{name} does not work with --config_overrides: it needs a trained network. Leave one out.")
    if model.model_type != ModelArguments.model_type:
        raise UsageError(f"{name} is for SANet. Leave out --model_type {model.model_type}.")
    if (model_type := read_model_type(model)) != ModelArguments.model_type:
        instead = " Use --freeze backbone to train only its head." if training.head_only else ""
        raise UsageError(f"{name} is for SANet, but {model.model_name_or_path} is of type {model_type}.{instead}")


def read_window_seconds(name: str) -> float | None:
    """
    Return the length in seconds of the clips that a SANet checkpoint was trained on; None if it is not known.

    Raises:
        UsageError: As in [`make_model`].
    """
    feature_extractor = _read_feature_extractor(name)
    samples = feature_extractor.max_length
    return None if samples is None else samples / feature_extractor.sampling_rate


def make_model(
    arguments: ModelArguments,
    labels: Sequence[str],
    max_length_seconds: float,
    problem_type: str = "single_label_classification",
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """
    Make the model that the options describe, with a head for `labels`, and its feature extractor, for clips of up to
    `max_length_seconds`.

    A model from scratch is made for this length and, if it is a SANet, for the sampling rate of the options. A
    checkpoint keeps its head if it was trained on the same labels. Otherwise it gets a new head, with a warning.

    Returns:
        The model and its feature extractor.

    Raises:
        UsageError: The checkpoint cannot be loaded, is not an audio classifier, or options contradict each other.
    """
    label_maps = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": problem_type,
    }
    if not 0 < max_length_seconds < math.inf:
        raise UsageError(f"--max_length_seconds {max_length_seconds:g} must be positive and finite.")
    if arguments.model_name_or_path:
        if arguments.sampling_rate is not None:
            read_sampling_rate(arguments)
        if arguments.config_overrides:
            raise UsageError(
                "--config_overrides does not work with --model_name_or_path: a checkpoint has its own configuration. "
                "Leave one out."
            )
        model, feature_extractor = _load_checkpoint(arguments.model_name_or_path, label_maps)
        model_type = MODEL_TYPE_ALIASES.get(arguments.model_type, arguments.model_type)
        if model_type not in (ModelArguments.model_type, model.config.model_type):
            logger.warning(
                f"model_type {arguments.model_type} has no effect: {arguments.model_name_or_path} is of type "
                f"{model.config.model_type}."
            )
    else:
        model, feature_extractor = _from_scratch(arguments, label_maps, max_length_seconds)
    architecture = architecture_of(model)
    # Without the option, a checkpoint keeps the padding of its training.
    if arguments.padding is not None:
        architecture.set_padding(feature_extractor, arguments.padding)
    if arguments.position_embeddings == "keep" and type(architecture).fit_positions is Architecture.fit_positions:
        raise UsageError(
            f"--position_embeddings keep has no effect on {model.config.model_type}, whose position embeddings are "
            "never interpolated. Leave it out."
        )
    if arguments.position_embeddings == "interpolate":
        architecture.fit_positions(model, feature_extractor, max_length_seconds)
    architecture.set_max_length(model, feature_extractor, max_length_seconds)
    _freeze(model, arguments.freeze)
    return model, feature_extractor


def _config_class(model_type: str) -> type[PreTrainedConfig]:
    model_type = MODEL_TYPE_ALIASES.get(model_type, model_type)
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        known = sorted(config.model_type for config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING)
        raise UsageError(f"--model_type {model_type} is not an audio classifier. Choose one of: {', '.join(known)}.")
    return CONFIG_MAPPING[model_type]


def _from_scratch(
    arguments: ModelArguments, label_maps: dict, max_length_seconds: float
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    sampling_rate = read_sampling_rate(arguments)
    config_class = _config_class(arguments.model_type)
    overrides = parse_config_overrides(arguments.config_overrides)
    known = config_class()
    for name in overrides:
        if name in NO_OVERRIDES:
            raise UsageError(
                f"--config_overrides cannot set {name}: it follows from the recordings and other options."
            )
        if not hasattr(known, name):
            raise UsageError(f"--config_overrides: {config_class.__name__} has no {name!r}.")
    overrides.update(fitting_heads(known, overrides))
    sizes = {}
    try:
        config = config_class(**overrides, **label_maps)
        # Given values have priority, even if they do not fit the length.
        sizes = architecture_of(config).sizes_for_length(config, max_length_seconds, sampling_rate)
        if not sizes.keys() <= overrides.keys():
            config = config_class(**{**sizes, **overrides}, **label_maps)
        model = AutoModelForAudioClassification.from_config(config)
    except Exception as error:
        # Architectures raise many kinds of errors for unexpected values.
        if not overrides and not sizes:
            raise
        reason = f"{type(error).__name__}: {error}" if isinstance(error, (LookupError, ArithmeticError)) else error
        option = "--config_overrides" if overrides else f"--max_length_seconds {max_length_seconds:g}"
        raise UsageError(f"{option}: {reason}") from error
    options = architecture_of(config).feature_extractor_options(config)
    extractor = _extractor_class(config_class)(sampling_rate=sampling_rate, **options)
    if overrides:
        _try(model, extractor)
    return model, extractor


def _extractor_class(config_class: type[PreTrainedConfig]) -> type[FeatureExtractionMixin]:
    return FEATURE_EXTRACTORS.get(config_class.model_type) or FEATURE_EXTRACTOR_MAPPING[config_class]


@torch.no_grad()
def _try(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> None:
    """Raise a [`UsageError`] if a network from `config_overrides` fails on a clip of the feature extractor."""
    was_training = model.training
    try:
        # 0.5 s of a tone.
        clip = np.sin(0.1 * np.arange(feature_extractor.sampling_rate // 2, dtype=np.float32))
        model.eval()(**extract_features(feature_extractor, [clip]))
    except Exception as error:
        raise UsageError(f"--config_overrides: the network fails on a clip: {error}") from error
    finally:
        model.train(was_training)


def _read_config(name: str) -> PreTrainedConfig:
    option = f"--model_name_or_path {name}"
    try:
        config = AutoConfig.from_pretrained(find_model(name))
    except LOADING_ERRORS as error:
        if Path(name).is_dir():
            raise _loading_error(name, error) from error
        raise UsageError(
            f"{option}: model not found. It is neither a folder with a model nor a reachable model on the Hub."
        ) from error
    if type(config) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        raise UsageError(f"{option}: a model of type {config.model_type!r} is not an audio classifier.")
    return config


def _read_feature_extractor(name: str) -> FeatureExtractionMixin:
    try:
        feature_extractor = AutoFeatureExtractor.from_pretrained(find_model(name))
    except LOADING_ERRORS as error:
        raise _loading_error(name, error) from error
    check_sampling_rate(feature_extractor, name)
    return feature_extractor


def _loading_error(name: str, error: Exception) -> UsageError:
    if below := models_below(name):
        return UsageError(
            f"--model_name_or_path {name}: the folder is not a model, but contains models. Choose one: "
            f"{shorten(below)}."
        )
    reason = str(error).splitlines()[0]
    return UsageError(f"--model_name_or_path {name}: the model cannot be loaded ({reason}).")


def _load_checkpoint(name: str, label_maps: dict) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    config = _read_config(name)
    # wav2vec2 and similar models call it ...ForSequenceClassification.
    classifier = MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING[type(config)].__name__
    has_head = classifier in (config.architectures or [])
    keeps_head = has_head and set(config.label2id) == set(label_maps["label2id"])
    if keeps_head:
        config.problem_type = label_maps["problem_type"]
    else:
        old = f" ({shorten(config.label2id, 5)})" if has_head else ""
        logger.warning(
            f"{name} was {'trained on other labels' if has_head else 'pretrained without labels'}{old}. It gets a new "
            f"classification head for {shorten(label_maps['label2id'], 5)}."
        )
        config.update(label_maps)
    # Remove the thresholds of the earlier training. New ones are computed after this training.
    if getattr(config, "thresholds", None) is not None:
        config.thresholds = None
    feature_extractor = _read_feature_extractor(name)
    options = {"config": config, "dtype": torch.float32, "ignore_mismatched_sizes": not keeps_head}
    try:
        with nullcontext() if keeps_head else without_loading_report():
            model, found = AutoModelForAudioClassification.from_pretrained(
                find_model(name), **options, output_loading_info=True
            )
    except (*LOADING_ERRORS, UnpicklingError) as error:
        raise _loading_error(name, error) from error
    if not keeps_head:
        # A mismatched key comes with two shapes.
        unknown = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
        if own := sorted(key for key in unknown if key.startswith(f"{model.base_model_prefix}.")):
            logger.warning(f"{name} has no fitting weights for {shorten(own, 5)}. These start from random values.")
    # The old band head was loaded because transformers warns of unused weights. A new one is fitted after training.
    remove_band_head(model)
    if not keeps_head:
        # Layers of the old head with matching shapes were also loaded. Replace them.
        fresh = AutoModelForAudioClassification.from_config(model.config)
        for child, module in fresh.named_children():
            if module is not backbone(fresh):
                setattr(model, child, module)
        for weights, parameter in fresh.named_parameters(recurse=False):
            setattr(model, weights, parameter)
    return model, feature_extractor


def _freeze(model: PreTrainedModel, part: str) -> None:
    if part == "feature_encoder":
        if not hasattr(model, "freeze_feature_encoder"):
            raise UsageError(
                f"--freeze feature_encoder: {model.config.model_type} has no convolutions on the waveform. Choose "
                "none or backbone."
            )
        model.freeze_feature_encoder()
    elif part == "backbone":
        architecture_of(model).freeze_backbone(model)
