# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Load classifiers in int8, with the ranges of activations that are stored next to the weights.

`sanet train` measures these ranges on the validation split. For other models they are measured once on recordings.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.utils import cached_file, logging

from sanet_hf.audio.find import find_audio_files
from sanet_hf.errors import DataError, UsageError
from sanet_hf.inference import loading
from sanet_hf.inference.calibration_clips import FEW_CALIBRATION_CLIPS, load_calibration_clips, make_batches
from sanet_hf.optimization.int8 import CALIBRATION_FILE, Int8Calibration, check_int8, hash_weights
from sanet_hf.optimization.optimize import calibrate_int8, quantize_for_inference
from sanet_hf.utils.files import write_atomically


logger = logging.get_logger(__name__)

INT8 = "int8"


def load_classifier(
    model_name_or_path: str | Path,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    calibration_inputs: Sequence[str | Path] = (),
    denoise: bool = False,
    needs_classes: bool = True,
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """
    Load an audio classifier of any architecture with its feature extractor.

    Args:
        model_name_or_path: Folder or Hub id of a model.
        device: Device in PyTorch's notation (default: [`default_device`]).
        dtype: Type of the weights, such as `bfloat16` (default: that of the checkpoint). `int8`, for CPUs, returns a
            model that is already optimised; see [`quantize_for_inference`].
        calibration_inputs: For `int8` models without `int8_calibration.json`: recordings of all classes on which the
            ranges of activations are measured, as in [`find_audio_files`].
        denoise: Whether to reduce noise in these recordings.
        needs_classes: As in [`loading.load_classifier`]; `int8` always needs them.

    Raises:
        UsageError: The device is not available, the model is not found, or it is not an audio classifier. With int8:
            the device is not a CPU, or there is no calibration.
        DataError: None of the recordings can be read.
    """
    name = str(model_name_or_path)
    if dtype != INT8:
        return loading.load_classifier(name, device, dtype, needs_classes)
    if device is None and loading.default_device().type != "cpu":
        logger.warning(f"int8 runs on the CPU. On {loading.default_device()} use bfloat16 or float16.")
    if not str(device or "cpu").startswith("cpu"):
        raise UsageError(f"int8 runs on the CPU, not on {device}. Use bfloat16 or float16 there.")
    model, feature_extractor = loading.load_classifier(name, "cpu", torch.float32)
    return load_int8(name, model, feature_extractor, calibration_inputs, denoise), feature_extractor


def load_int8(
    name: str,
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    calibration_inputs: Sequence[str | Path] = (),
    denoise: bool = False,
) -> PreTrainedModel:
    """
    Return a classifier in int8. Its calibration is read from the folder of the model, or measured on recordings. A
    calibration from 32 windows or more is saved next to the model. If that is not possible, for example for models on
    the Hub, it is saved in the cache of huggingface_hub.

    Args:
        name: Folder or Hub id of the model.
        model, feature_extractor: In float32 on the CPU.
        calibration_inputs: Recordings, preferably of all classes, as in [`find_audio_files`].
        denoise: Whether to reduce noise in them.

    Raises:
        UsageError: There are neither a calibration nor recordings, or this machine does not support int8.
        DataError: None of the recordings can be read.
    """
    check_int8(model)
    weights = hash_weights(model)
    calibration = find_calibration(name, weights)
    if calibration is None:
        # Standard input is not used for calibration, since it can be read only once.
        recordings = list(find_audio_files(calibration_inputs))
        if not recordings:
            raise UsageError(
                f"{name} has no {CALIBRATION_FILE} with ranges of activations. Measure them once on recordings of all "
                f"classes: sanet predict {name} RECORDINGS --dtype int8."
            )
        clips = load_calibration_clips(recordings, model, feature_extractor, denoise)
        calibration = calibrate_int8(model, list(make_batches(clips, feature_extractor)))
        # A few clips do not represent other files, which may be louder.
        kept = "The ranges are not saved, since these windows are too few to represent other recordings."
        if len(clips) >= FEW_CALIBRATION_CLIPS:
            path = write_calibration(name, calibration)
            kept = f"The ranges are saved in {path}. Delete this file to measure them on other recordings."
        logger.warning(
            f"{name} had no {CALIBRATION_FILE}. The ranges of activations were measured on {len(clips)} windows of "
            f"the given files, on which the int8 logits differ by {calibration.error:.1%}. {kept}"
        )
    return quantize_for_inference(model, calibration)


def find_calibration(name: str, weights: str) -> Int8Calibration | None:
    """
    Return the calibration of a model from its folder or the cache, or None.

    Args:
        name: Folder or Hub id of the model.
        weights: Hash of its weights. A calibration for other weights is skipped with a warning.
    """
    beside = Path(name) / CALIBRATION_FILE
    if not Path(name).is_dir():
        beside = cached_file(
            name,
            CALIBRATION_FILE,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    for path in (beside, _cached_path(weights)):
        if path is None or not Path(path).is_file():
            continue
        try:
            calibration = Int8Calibration.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            logger.warning(f"Skipping {path}: {error}.")
            continue
        if calibration.weights == weights:
            return calibration
        logger.warning(f"Skipping {path}: the weights of {name} have changed since it was measured.")
    return None


def write_calibration(name: str, calibration: Int8Calibration) -> Path:
    """Write a calibration to the folder of a model or, if that fails, to the cache. Return its path."""
    paths = [Path(name) / CALIBRATION_FILE] if Path(name).is_dir() else []
    for path in (*paths, _cached_path(calibration.weights)):
        try:
            # Several processes may write at the same time.
            with write_atomically(path, path.with_name(f"{path.name}.{os.getpid()}.tmp")) as file:
                file.write(calibration.to_json().encode())
        except OSError:
            continue
        return path
    raise DataError(f"The calibration cannot be written, neither to {name} nor to {path}.")


def _cached_path(weights: str) -> Path:
    return cached_assets_path("sanet_hf", "int8", weights) / CALIBRATION_FILE
