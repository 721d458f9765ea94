# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training items: features of augmented waveforms."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import FeatureExtractionMixin, TrainingArguments

from sanet_hf.architectures import extract_features, takes_waveforms
from sanet_hf.audio.levels import mean_power
from sanet_hf.training.data.augmentation import Augmentation, seeded
from sanet_hf.training.data.labels import as_target


# Key of the teachers' inputs in items and batches.
TEACHER_INPUTS = "teacher_inputs"


class Clips(Protocol):
    """The attributes that [`make_item`] needs of a dataset; see [`TrainingClips`]."""

    feature_extractor: FeatureExtractionMixin
    augment: Augmentation | None
    augment_normalized: Augmentation | None
    max_length: int
    is_multi_label: bool


class Teaching(Protocol):
    """The interface of teachers for the trainer; see [`Teachers`]."""

    inputs: Any

    def make_targets(
        self, labels: torch.Tensor, inputs: Sequence | None, indices: torch.Tensor | None
    ) -> torch.Tensor: ...

    def remember(
        self, clips: Dataset, make_loader: Callable[..., DataLoader], arguments: TrainingArguments, accelerator: Any
    ) -> None: ...


def make_item(
    waveform: np.ndarray,
    labels: np.ndarray,
    generator: np.random.Generator,
    clips: Clips,
    teacher_inputs: Callable[[np.ndarray], list] | None = None,
) -> dict[str, np.ndarray]:
    """
    Return a training item: features of an augmented waveform, its classes as a target (`labels`), and the teachers'
    inputs (`teacher_inputs`).

    Args:
        waveform: Shape (samples,). If it is longer than a clip, a random part is used.
        labels: Classes, 0/1 of shape (classes,).
        generator: Seeds the augmentation.
        clips: The dataset of the item.
        teacher_inputs: Makes the teachers' inputs, if there are teachers; see [`TeacherInputs`].
    """
    with seeded(int(generator.integers(2**32))):
        if clips.augment is not None:
            waveform = clips.augment(waveform)
        if len(waveform) > clips.max_length:
            start = int(generator.integers(len(waveform) - clips.max_length, endpoint=True))
            waveform = waveform[start : start + clips.max_length]
        after = clips.augment_normalized is not None and takes_waveforms(clips.feature_extractor)
        if clips.augment_normalized is not None and not after:
            waveform = clips.augment_normalized(waveform)
        item = extract(clips.feature_extractor, waveform)
        if after:
            normalized = item["input_values"]
            item["input_values"] = clips.augment_normalized(normalized)
    if teacher_inputs is not None:
        # Teachers normalise the loudness themselves.
        scale = np.sqrt(mean_power(waveform) / max(mean_power(normalized), 1e-12)) if after else 1.0
        item[TEACHER_INPUTS] = teacher_inputs(item["input_values"] * np.float32(scale) if after else waveform)
    return {**item, "labels": as_target(labels, clips.is_multi_label)}


def extract(feature_extractor: FeatureExtractionMixin, waveform: np.ndarray) -> dict[str, np.ndarray]:
    """Return features of a waveform of shape (samples,), without padding."""
    features = extract_features(feature_extractor, [waveform], padding=False, return_tensors=None)
    return {name: np.asarray(value[0]) for name, value in features.items()}
