# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Classifiers in 8-bit integers, from a folder or the Hub, with the ranges of activations that lie beside the weights.

`sanet train` measures them on the validation split. For other models they are measured on recordings, once.
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
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """
    Load an audio classifier of any architecture with its feature extractor.

    Args:
        model_name_or_path: Folder, or name of a model on the Hub.
        device: As PyTorch names it; by default [`default_device`].
        dtype: Of the weights, such as `bfloat16`; by default the checkpoint's. `int8`, for CPUs, gives a
            model that is optimised already; see [`quantize_for_inference`].
        calibration_inputs: For `int8`, where the model has no `int8_calibration.json`: recordings of all classes to
            measure the ranges of activations on, as [`find_audio_files`] takes them.
        denoise: Whether to reduce noise in these recordings.

    Raises:
        UsageError: There is no such device, or the model is no folder and no model on the Hub, or something other than
            an audio classifier. In int8, the device is no CPU, or there is no calibration.
        DataError: None of the recordings can be read.
    """
    name = str(model_name_or_path)
    if dtype != INT8:
        return loading.load_classifier(name, device, dtype)
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
    Return a classifier in 8-bit integers, by the calibration beside the model or, where there is none, by one that is
    measured on recordings. Those of 32 windows or more are kept: beside the model or, if it is on the Hub or cannot be
    written there, in the cache of huggingface_hub.

    Args:
        name: Folder or Hub id of the model.
        model, feature_extractor: In float32 on the CPU.
        calibration_inputs: Recordings, at best of all classes, as [`find_audio_files`] takes them.
        denoise: Whether to reduce noise in them.

    Raises:
        UsageError: There is no calibration and there are no recordings, or int8 does not run here.
        DataError: None of the recordings can be read.
    """
    check_int8(model)
    weights = hash_weights(model)
    calibration = find_calibration(name, weights)
    if calibration is None:
        # Not standard input, which can be read only once.
        recordings = list(find_audio_files(calibration_inputs))
        if not recordings:
            raise UsageError(
                f"{name} has no {CALIBRATION_FILE}, the ranges of its activations. Measure them once on recordings of "
                f"all classes: sanet predict {name} RECORDINGS --dtype int8."
            )
        clips = load_calibration_clips(recordings, model, feature_extractor, denoise)
        calibration = calibrate_int8(model, list(make_batches(clips, feature_extractor)))
        # Later files may be louder than a few.
        kept = "They are used this once, since so few may not represent others."
        if len(clips) >= FEW_CALIBRATION_CLIPS:
            path = write_calibration(name, calibration)
            kept = f"They are kept in {path}; delete it to measure them on others."
        logger.warning(
            f"{name} had no {CALIBRATION_FILE}. The ranges of activations were measured on {len(clips)} windows of "
            f"the given files, where int8's logits are off by {calibration.error:.1%}. {kept}"
        )
    return quantize_for_inference(model, calibration)


def find_calibration(name: str, weights: str) -> Int8Calibration | None:
    """
    Return the calibration of a model, beside it or in the cache.

    Args:
        name: Folder or Hub id of the model.
        weights: Hash of its weights; a file for others is passed over, with a warning.
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
            logger.warning(f"{path} cannot be used: {error}.")
            continue
        if calibration.weights == weights:
            return calibration
        logger.warning(f"{path} is for other weights than those of {name}, which were changed since. It is not used.")
    return None


def write_calibration(name: str, calibration: Int8Calibration) -> Path:
    """Write a calibration beside a model or, where that is not possible, to the cache; return its path."""
    paths = [Path(name) / CALIBRATION_FILE] if Path(name).is_dir() else []
    for path in (*paths, _cached_path(calibration.weights)):
        try:
            # Several processes may do the same.
            with write_atomically(path, path.with_name(f"{path.name}.{os.getpid()}.tmp")) as file:
                file.write(calibration.to_json().encode())
        except OSError:
            continue
        return path
    raise DataError(f"{path} cannot be written, nor a file beside {name}.")


def _cached_path(weights: str) -> Path:
    return cached_assets_path("sanet_hf", "int8", weights) / CALIBRATION_FILE
