# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Load trained audio classifiers of any architecture from a folder or the Hub."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedModel,
)
from transformers.utils import logging

from sanet_hf.architectures import check_sampling_rate
from sanet_hf.errors import UsageError
from sanet_hf.pretrained import find_model, models_below
from sanet_hf.utils.files import OPTIONS_FILE
from sanet_hf.utils.formatting import shorten


# Errors that damaged model files cause.
LOADING_ERRORS = (AttributeError, OSError, RuntimeError, TypeError, ValueError, SafetensorError, StrictDataclassError)


def load_classifier(
    model_name_or_path: str | Path,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    needs_classes: bool = True,
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """
    Load an audio classifier of any architecture with its feature extractor.

    Args:
        model_name_or_path: Folder or Hub id of a model, or name of a model that is shipped with sanet-hf.
        device: Device in PyTorch's notation (default: [`default_device`]).
        dtype: Type of the weights, such as `bfloat16` (default: that of the checkpoint).
        needs_classes: Refuse a model that was only pretrained, such as `sanet-tiny`. Otherwise its head has random
            weights, and [`has_classes`] is False.

    Raises:
        UsageError: The device is not available, the model is not found, or it is not an audio classifier.
    """
    name = find_model(str(model_name_or_path))
    try:
        device = torch.device(device) if device else default_device()
        torch.empty(1, device=device).cpu()  # fails for "meta", which has no memory
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device}: {str(error).splitlines()[0]}") from error
    try:
        # Outputs need names, even if the checkpoint says otherwise.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, return_dict=True)
    except LOADING_ERRORS as error:
        reason = "model not found, neither as a folder nor on the Hub"
        if Path(name).is_dir():
            reason = f"the folder contains no model that transformers can load ({_first_lines(error)})"
            if (Path(name) / OPTIONS_FILE).is_file():
                reason = "the training in this folder has not finished. Run the same sanet train command again"
            elif below := models_below(name):
                reason = f"the folder is not a model, but contains models. Choose one: {shorten(below)}"
        raise UsageError(f"{name}: {reason}.") from error
    if type(config) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        raise UsageError(f"{name}: a model of type {config.model_type!r} is not an audio classifier.")
    try:
        # The errors below name the weights.
        with without_loading_report():
            model, info = AutoModelForAudioClassification.from_pretrained(
                name,
                config=config,
                dtype=dtype or "auto",
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        feature_extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    except UnpicklingError as error:
        raise UsageError(
            f"{name}: the weights are a pickle with objects other than tensors, which could run any code. "
            "Use a checkpoint in safetensors format."
        ) from error
    except LOADING_ERRORS as error:
        raise UsageError(f"{name}: the model cannot be loaded ({_first_lines(error)}).") from error
    if not needs_classes:
        backbone = f"{model.base_model_prefix}."
        head = {key for key in info["missing_keys"] if not key.startswith(backbone)}
        model.has_random_head = bool(head)
        info["missing_keys"] = set(info["missing_keys"]) - head
    _check_weights(str(model_name_or_path), info)
    check_sampling_rate(feature_extractor, name)
    return model.eval().to(device), feature_extractor


def has_classes(model: PreTrainedModel) -> bool:
    """Return whether the head of a model from [`load_classifier`] was trained on classes."""
    return not getattr(model, "has_random_head", False)


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Suppress transformers' table of weights that are missing in a checkpoint, such as those of a new head."""
    logger = logging.get_logger("transformers.modeling_utils")

    def is_other(record: LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def default_device() -> torch.device:
    """Return the accelerator that PyTorch finds (CUDA, MPS, XPU …), or else the CPU, as in training."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def default_batch_size(model: PreTrainedModel) -> int:
    """Return the default number of clips per batch: 8 on a CPU, 32 on a GPU."""
    return 8 if model.device.type == "cpu" else 32


def _check_weights(name: str, info: Mapping[str, Collection]) -> None:
    """Raise an error if the checkpoint lacks weights of the model, which would then be random."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise UsageError(
            f"{name}: the checkpoint has no weights for {shorten(missing, 3)}. If the model was only pretrained, "
            "train it on your classes first, or use it with sanet embed."
        )
    mismatched = sorted(f"{key}, {tuple(own)} not {tuple(saved)}" for key, saved, own in info["mismatched_keys"])
    if mismatched:
        raise UsageError(
            f"{name}: the sizes in config.json differ from those of the weights: {shorten(mismatched, 3, '; ')}."
        )


def _first_lines(error: Exception) -> str:
    """Return the first lines of a message, without the advice that follows."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
