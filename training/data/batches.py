# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of clips: collation and mixup."""

from collections.abc import Mapping

import numpy as np
import torch
from transformers import FeatureExtractionMixin

from sanet_hf.architectures import expects_fixed_length, takes_waveforms


def collate(
    items: list[Mapping], feature_extractor: FeatureExtractionMixin, length: int | None = None
) -> dict[str, torch.Tensor]:
    """
    Pad items to the longest item of the batch, or to the feature extractor's length if padding is part of the input. A
    mask without padding is dropped to save time.

    Args:
        items: Features, `labels` and, optionally, the `index`, as in [`TrainingClips`].
        feature_extractor: The feature extractor of these features.
        length: Pad waveforms to this number of samples instead, and keep the mask, so that all batches have one shape.

    Returns:
        The batch.
    """
    others = {
        name: torch.tensor(np.array([item[name] for item in items]))
        for name in ("labels", "index")
        if name in items[0]
    }
    features = [{name: value for name, value in item.items() if name not in others} for item in items]
    padding = {"padding": "longest"}
    if expects_fixed_length(feature_extractor):
        padding = {"padding": "max_length", "max_length": feature_extractor.max_length}
    elif length is not None and takes_waveforms(feature_extractor):
        padding = {"padding": "max_length", "max_length": length}
    batch = dict(feature_extractor.pad(features, **padding, return_tensors="pt"))
    if length is None and "attention_mask" in batch and bool(batch["attention_mask"].all()):
        del batch["attention_mask"]
    return {**batch, **others}


def mixup(inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, alpha: float) -> tuple[dict, torch.Tensor]:
    """
    Mix each clip of a batch with another one, `part * clip + (1 - part) * other`, and the labels in the same way. The
    whole batch has one `part` of at least 0.5 from Beta(alpha, alpha). A frame is valid if it is valid in either clip.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Args:
        inputs: Features of shape (batch, ...), and optionally `attention_mask` of shape (batch, samples).
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
