# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
A classification head in seconds, `--head_only`: logistic regression on what a SANet pools, written into its
classifier. The network stays as it is: from a few recordings of each class, little more can be learnt.
"""

import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer

from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from sanet_hf.training.band_head import attach_band_head, drop_flat, write_band_head
from sanet_hf.training.baseline import Baseline, fit
from sanet_hf.training.refit import Refit
from sanet_hf.training.window_features import WindowFeatures, measure_windows
from sanet_hf.utils.formatting import format_duration, shorten


# Validation recordings below which a regression on the log-mel bands has half of the scores: so few do not tell which
# part is best.
FEW_RECORDINGS = 50


class RegressionHead(NamedTuple):
    """
    What was fitted.

    Attributes:
        classifier: Logistic regression on the embeddings of windows.
        bands: One on the statistics of their log-mel bands, where too few validation recordings say what it is worth.
        num_recordings: Recordings that it was fitted to.
        seconds: How long that took.
    """

    classifier: Baseline
    bands: Baseline | None
    num_recordings: int
    seconds: float

    def __str__(self) -> str:
        with_bands = ", and half of the scores from one on the log-mel bands" if self.bands else ""
        return (
            f"logistic regression on the embeddings of {self.num_recordings:,} recordings{with_bands} "
            f"({format_duration(self.seconds)}); the network stays as it was"
        )


def check_head_only(model: ModelArguments, data: DataArguments, training: AudioTrainingArguments) -> None:
    """
    Raises:
        UsageError: `--head_only` does not go with another option.
    """
    others = {
        "--streaming": (data.streaming, "needs all training recordings at hand"),
        "--samples_per_class": (data.samples_per_class is not None, "hears each recording once, and joins none"),
        "--teacher": (bool(training.teacher), "learns from the labels alone"),
        "--fsdp": (bool(training.fsdp), "needs all weights in one place"),
        "--deepspeed": (bool(training.deepspeed), "needs all weights in one place"),
    }
    for option, (is_given, reason) in others.items():
        if is_given:
            raise UsageError(f"--head_only {reason}, so that {option} does not go with it. Leave one of them out.")
    if not model.model_name_or_path:
        raise UsageError("--head_only needs --model_name_or_path: a network from scratch has learnt nothing yet.")


def fit_head(trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments) -> RegressionHead:
    """
    Fit a linear head to the training split and put it into the trainer's model, in the place of its own.

    The strength of the regression is chosen on validation, or by cross-validation. With few validation recordings or
    none, a regression on the log-mel bands has half of the scores; with more, [`add_band_head`] chooses its part.

    Args:
        trainer: With the model, a [`SANetForAudioClassification`], and its feature extractor.
        train, validation: As [`load_recordings`] gives them.
        data: Options; recordings of a group are in one fold of the cross-validation.

    Raises:
        DataError: A class has no recording that is not silent.
        UsageError: The model is no SANet.
    """
    started, model = time.monotonic(), trainer.model
    if model.config.model_type != "sanet":
        raise UsageError(
            f"--head_only is for SANet, not {model.config.model_type}. --freeze backbone trains its head."
        )
    num_validation = 0 if validation is None else len(validation)
    _make_linear(model)
    with_bands = (
        bool(model.config.spectrogram_dim) and num_validation < FEW_RECORDINGS and trainer.args.band_head != "false"
    )
    if with_bands:
        attach_band_head(model)
    learnt = measure_windows(trainer, train, data)
    held_out = measure_windows(trainer, validation, data) if num_validation else None
    _check_classes(learnt, model.config.id2label)
    several, is_balanced = learnt.logits.is_multi_label, trainer.args.class_weights == "balanced"
    given = None if held_out is None else (held_out.embeddings, held_out.targets)
    classifier = fit(learnt.embeddings, learnt.targets, learnt.groups, given, several, is_balanced)
    bands = None
    if with_bands:
        given = None if held_out is None else (held_out.statistics, held_out.targets)
        bands = fit(drop_flat(learnt.statistics), learnt.targets, learnt.groups, given, several, is_balanced)
    _write(model, classifier, bands)
    head = RegressionHead(classifier, bands, len(train), time.monotonic() - started)
    if trainer.is_world_process_zero():
        print(f"Head: {head}.", file=sys.stderr)
    return head


def refit_head(trainer: Trainer, head: RegressionHead, joined: Dataset, data: DataArguments) -> Refit:
    """Fit the head to the training and validation split together, with the strength that was chosen before."""
    started, model = time.monotonic(), trainer.model
    windows = measure_windows(trainer, joined, data)
    bands = head.bands and head.bands.refit(drop_flat(windows.statistics), windows.targets)
    _write(model, head.classifier.refit(windows.embeddings, windows.targets), bands)
    return Refit(len(joined), 0.0, time.monotonic() - started, starts_from="head")


def _make_linear(model: nn.Module) -> None:
    """Give the model a classifier of one layer."""
    config = model.config
    config.classifier_hidden_sizes = []
    layer = nn.Linear(2 * config.hidden_size, config.num_labels, device=model.device, dtype=model.dtype)
    model.classifier = nn.Sequential(layer)


def _check_classes(windows: WindowFeatures, id2label: dict[int, str]) -> None:
    counts = windows.targets.sum(axis=0)
    if missing := [id2label[index] for index, count in enumerate(counts) if count == 0]:
        raise DataError(f"No training recording of {shorten(missing)} has a sound. Add some, or remove the class.")
    if windows.logits.is_multi_label and (counts == len(windows.targets)).any():
        everywhere = [id2label[index] for index in np.flatnonzero(counts == len(windows.targets)).tolist()]
        raise DataError(f"All training recordings have {shorten(everywhere)}: add some without.")


@torch.no_grad()
def _write(model: nn.Module, classifier: Baseline, bands: Baseline | None) -> None:
    """Weights of regressions on standardised features; of two, the mean of their scores."""
    factor = 1.0 if bands is None else 0.5
    weights = (classifier.weights / classifier.scale[:, None] * factor).T
    layer = model.classifier[-1]
    layer.weight.copy_(torch.from_numpy(weights))
    layer.bias.copy_(torch.from_numpy(classifier.bias * factor - weights @ classifier.mean))
    if bands is not None:
        write_band_head(model, bands, np.full(1, factor))
