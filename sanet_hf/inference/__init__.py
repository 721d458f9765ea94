# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classify, embed and explain recordings of any length with a trained model."""

from sanet_hf.architectures import find_window_seconds
from sanet_hf.inference.explanation import Explanation, explain
from sanet_hf.inference.int8 import load_classifier
from sanet_hf.inference.prediction import classify_waveforms, predict
from sanet_hf.inference.windows import Prediction, Segment, Window, merge_windows


__all__ = [
    "Explanation",
    "Prediction",
    "Segment",
    "Window",
    "classify_waveforms",
    "explain",
    "find_window_seconds",
    "load_classifier",
    "merge_windows",
    "predict",
]
