# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
SANet in transformers. Importing this package registers its classes with transformers' Auto classes.

Functions for inference, such as [`predict`], are imported on first use.
"""

import importlib

from sanet_hf.utils import openmp


# This must run before PyTorch is imported, which loads OpenMP. Other programs keep their own OpenMP settings.
if openmp.is_sanet():
    openmp.shorten_wait()

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.convert import convert_original_checkpoint
from sanet_hf.feature_extraction_sanet import SANetFeatureExtractor
from sanet_hf.modeling_sanet import SANetForAudioClassification, SANetModel, SANetPreTrainedModel


AutoConfig.register(SANetConfig.model_type, SANetConfig, exist_ok=True)
AutoFeatureExtractor.register(SANetConfig, SANetFeatureExtractor, exist_ok=True)
AutoModel.register(SANetConfig, SANetModel, exist_ok=True)
AutoModelForAudioClassification.register(SANetConfig, SANetForAudioClassification, exist_ok=True)

# Checkpoints include the code, so that they load with trust_remote_code=True if this package is not installed.
SANetConfig.register_for_auto_class()
SANetFeatureExtractor.register_for_auto_class()
SANetModel.register_for_auto_class("AutoModel")
SANetForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

_INFERENCE = (
    "Prediction",
    "Segment",
    "Window",
    "explain",
    "find_window_seconds",
    "load_classifier",
    "merge_windows",
    "predict",
)
_OPTIMIZATION = ("calibrate_int8", "keep_freed_memory", "optimize_for_inference", "quantize_for_inference")


def __getattr__(name: str) -> object:
    if name in _INFERENCE:
        return getattr(importlib.import_module("sanet_hf.inference"), name)
    if name in _OPTIMIZATION:
        return getattr(importlib.import_module("sanet_hf.optimization"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    *_INFERENCE,
    *_OPTIMIZATION,
    "SANetConfig",
    "SANetFeatureExtractor",
    "SANetForAudioClassification",
    "SANetModel",
    "SANetPreTrainedModel",
    "convert_original_checkpoint",
]
