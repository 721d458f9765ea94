# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings to batches: crops, augmentation, features, padding, mixup."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from datasets import Dataset, DatasetDict, List
from transformers import FeatureExtractionMixin

from sanet_hf import SANetFeatureExtractor
from sanet_hf.inference import extract_features, hears_padding

from .data import load_recording
from .sources import DataError


def make_features(
    recordings: DatasetDict,
    feature_extractor: FeatureExtractionMixin,
    label2id: Mapping[str, int],
    max_length_seconds: float,
    augment: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Dataset]:
    """
    Splits whose items are what the model takes and `labels` in the numbering of `label2id`, computed when they are
    asked for: in training a random stretch of at most `max_length_seconds`, augmented, elsewhere the middle.

    Args:
        recordings: As [`load_recordings`] gives them.
        feature_extractor: The model's own.
        label2id: Classes of the model.
        max_length_seconds: Longest stretch of a recording.
        augment: Changes a training waveform of shape (samples,).

    Raises:
        DataError: A recording has a label that the model does not know.
    """
    unknown = {name for dataset in recordings.values() for name in label_names(dataset)} - set(label2id)
    if unknown:
        raise DataError(
            f"The model does not know {', '.join(sorted(unknown))}; its classes are {', '.join(sorted(label2id))}."
        )
    return {
        split: dataset.with_transform(
            partial(
                _to_features,
                feature_extractor=feature_extractor,
                label_ids=[label2id[label] for label in label_names(dataset)],
                num_classes=len(label2id) if isinstance(dataset.features["label"], List) else None,
                max_length=round(max_length_seconds * feature_extractor.sampling_rate),
                is_training=split == "train",
                augment=augment,
            )
        )
        for split, dataset in recordings.items()
    }


def label_names(dataset: Dataset) -> list[str]:
    """Names of the classes in the numbering of the `label` column."""
    feature = dataset.features["label"]
    return feature.feature.names if isinstance(feature, List) else feature.names


def make_augmentation(transforms: list[Mapping], sampling_rate: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """
    A chain of audiomentations transforms.

    Args:
        transforms: Mappings of one transform's name to its parameters, in the order in which they are applied.
        sampling_rate: In Hz.

    Raises:
        ValueError: A transform does not exist or does not take the parameters.
    """
    if not transforms:
        return None
    # Imported late: it loads librosa, which runs without augmentation need not wait for.
    import audiomentations

    chain = []
    for entry in transforms:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ValueError(f"augmentations: {entry!r} is not of the form Name: {{parameter: value}}.")
        ((name, parameters),) = entry.items()
        transform = getattr(audiomentations, str(name), None)
        if not isinstance(transform, type):
            raise ValueError(f"augmentations: audiomentations has no transform {name!r}.")
        try:
            chain.append(transform(**(parameters or {})))
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"augmentations: {name}: {error}") from error
    compose = audiomentations.Compose(chain)
    return lambda waveform: compose(samples=waveform, sample_rate=sampling_rate)


def collate(items: list[Mapping], feature_extractor: FeatureExtractionMixin) -> dict[str, torch.Tensor]:
    """
    Pad items to the longest of the batch, or to the feature extractor's length where the model hears padding; a mask
    that leaves nothing out is dropped, since it only costs time.
    """
    labels = torch.tensor(np.array([item["labels"] for item in items]))
    features = [{name: value for name, value in item.items() if name != "labels"} for item in items]
    padding = {"padding": "longest"}
    if hears_padding(feature_extractor):
        padding = {"padding": "max_length", "max_length": feature_extractor.max_length}
    batch = dict(feature_extractor.pad(features, **padding, return_tensors="pt"))
    if "attention_mask" in batch and bool(batch["attention_mask"].all()):
        del batch["attention_mask"]
    return {**batch, "labels": labels}


def mixup(inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, alpha: float) -> tuple[dict, torch.Tensor]:
    """
    Mix each clip of a batch with another one: `part * clip + (1 - part) * other`, one Beta(alpha, alpha) part of at
    least a half for the batch, and the labels alike. A frame is valid where it is in either clip.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Args:
        inputs: Features of shape (batch, ...), and `attention_mask` of shape (batch, samples) if there is one.
        labels: Float, shape (batch, classes).
        alpha: Parameter of the Beta distribution.
    """
    part = float(torch.distributions.Beta(alpha, alpha).sample())
    part = max(part, 1 - part)
    others = torch.randperm(len(labels), device=labels.device)
    mixed = {
        name: torch.maximum(value, value[others])
        if name == "attention_mask"
        else torch.lerp(value[others], value, part)
        for name, value in inputs.items()
    }
    return mixed, torch.lerp(labels[others], labels, part)


def _to_features(
    rows: Mapping[str, list],
    feature_extractor: FeatureExtractionMixin,
    label_ids: list[int],
    num_classes: int | None,
    max_length: int,
    is_training: bool,
    augment: Callable[[np.ndarray], np.ndarray] | None,
) -> dict[str, list]:
    sampling_rate = feature_extractor.sampling_rate
    waveforms = []
    for audio, name, seconds in zip(rows["audio"], rows["file"], rows["seconds"]):
        excess = max(0, round(seconds * sampling_rate) - max_length)
        if is_training:
            # PyTorch's generator: DataLoader gives each worker its own, and Trainer restores it on resuming.
            stretch = {"start": int(torch.randint(excess + 1, ())) if excess else 0, "length": max_length}
        elif isinstance(feature_extractor, SANetFeatureExtractor):
            # It takes the middle itself, after it has set the loudness of the whole.
            stretch = {}
        else:
            stretch = {"start": excess // 2, "length": max_length}
        waveform = load_recording({"audio": audio, "file": name}, sampling_rate, **stretch)
        if is_training and augment is not None:
            # A slower clip is a longer one.
            waveform = augment(waveform)[:max_length]
        waveforms.append(waveform)
    features = extract_features(feature_extractor, waveforms, padding=False, return_tensors=None)
    labels = rows["label"]
    if num_classes is None:
        labels = [label_ids[label] for label in labels]
    else:
        identity = np.eye(num_classes, dtype=np.float32)
        labels = [identity[[label_ids[label] for label in several]].sum(axis=0) for several in labels]
    return {**features, "labels": labels}
