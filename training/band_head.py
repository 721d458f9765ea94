# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Logistic regression on the log-mel bands of a trained network, as a linear layer whose scores are added to its own.

On some dozen or hundred recordings the two make different mistakes: their mean in logits is right more often than
either. How much the regression counts is chosen on validation.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, Trainer

from sanet_hf.architectures import remove_band_head
from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import FEW_RECORDINGS, DataArguments
from sanet_hf.training.baseline import Baseline, fit
from sanet_hf.training.evaluation.calibration import Calibration, WindowLogits, log_loss
from sanet_hf.training.evaluation.calibration import fit as fit_calibration
from sanet_hf.training.window_features import measure_windows


# Validation recordings below which nothing is chosen.
MIN_RECORDINGS = 10
# Parts of the scores that the regression can have. Above a half, the network would hardly count.
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
# Part of the log loss on validation that it has to save: less is chance.
MIN_GAIN = 0.05
# Standard deviation below which a statistic is not used: one that differs in use would get any score.
SMALLEST_DEVIATION = 0.05


class BandHead(NamedTuple):
    """
    What was fitted.

    Attributes:
        baseline: Logistic regression on [`band_statistics`](sanet_hf.pooling_sanet) of windows.
        factor: What its logits are multiplied by before they are added to the network's, shape (1,) or (classes,).
        share: Its part of the scores.
        losses: Log loss on validation of the network alone, and with the regression; both calibrated.
    """

    baseline: Baseline
    factor: np.ndarray
    share: float
    losses: tuple[float, float]

    def __str__(self) -> str:
        alone, together = self.losses
        return (
            f"logistic regression on the log-mel bands has {self.share:.0%} of the scores, chosen on validation (log "
            f"loss {alone:.3f} without, {together:.3f} with it)"
        )


def is_band_head_wanted(trainer: Trainer, train: Dataset | None) -> bool:
    """
    Return whether options and recordings ask for a band head.

    Args:
        trainer: `args.band_head` is `auto`, `true` or `false`.
        train: The training split, or None where it is streamed.

    Raises:
        UsageError: It is asked for, but the network has no spectrogram, or the recordings are streamed.
    """
    wanted, reason = trainer.args.band_head, None
    if not getattr(trainer.model.config, "spectrogram_dim", ()):
        reason = "needs a network on a spectrogram, such as that of sanet_spectrogram.yaml"
    elif train is None:
        reason = "needs all training recordings at hand, which --streaming does not have"
    elif trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        reason = "needs all weights in one place, which --fsdp and --deepspeed divide"
    if wanted == "true" and reason:
        raise UsageError(f"--band_head true {reason}. Leave one of them out.")
    return wanted == "true" or (wanted == "auto" and reason is None and len(train) < FEW_RECORDINGS)


def add_band_head(
    trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments
) -> BandHead | None:
    """
    Fit logistic regression to the training split, and add it to the trainer's model in place if that lowers the log
    loss on validation. Print what was done.

    Args:
        trainer: With the trained model and its feature extractor.
        train, validation: As [`load_recordings`] gives them.
        data: Options; recordings of a group are in one fold.

    Returns:
        What was fitted; None where nothing was added.
    """
    head, text = _fit(trainer, train, validation, data)
    if head is None:
        remove_band_head(trainer.model)
    if trainer.is_world_process_zero():
        print(f"Band statistics: {text}.", file=sys.stderr)
    return head


def refit_band_head(trainer: Trainer, head: BandHead, joined: Dataset, data: DataArguments) -> None:
    """Fit the regression to the training and validation split together, for a network that was trained on both."""
    attach_band_head(trainer.model)
    windows = measure_windows(trainer, joined, data)
    write_band_head(trainer.model, head.baseline.refit(drop_flat(windows.statistics), windows.targets), head.factor)


def drop_flat(features: np.ndarray) -> np.ndarray:
    """Return features of shape (windows, features) with zeros for those that are nearly the same in all windows."""
    return features * (features.std(axis=0) >= SMALLEST_DEVIATION)


def _fit(
    trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments
) -> tuple[BandHead | None, str]:
    num_recordings = 0 if validation is None else len(validation)
    if num_recordings < MIN_RECORDINGS:
        found = f"the validation split has {num_recordings} recordings" if num_recordings else "no validation split"
        return None, f"left out: {found}; it takes {MIN_RECORDINGS}"
    model = trainer.model
    attach_band_head(model)
    learnt, held_out = measure_windows(trainer, train, data), measure_windows(trainer, validation, data)
    if not len(learnt.targets) or not len(held_out.targets):
        return None, "left out: all recordings of a split are silent"
    several = held_out.logits.is_multi_label
    is_balanced = trainer.args.class_weights == "balanced"
    given = held_out.statistics, held_out.targets
    baseline = fit(drop_flat(learnt.statistics), learnt.targets, learnt.groups, given, several, is_balanced)
    if not np.isfinite(baseline.bias).all():
        return None, "left out: all training recordings, or none, have a class"
    scores = baseline.logits(held_out.all_statistics)
    alone = fit_calibration(held_out.logits)
    candidates = []
    for share in SHARES:
        # The network's logits keep their scale: that of the calibration, which comes next, is theirs.
        factor = share / ((1 - share) * alone.scale)
        mixed = held_out.logits._replace(logits=(held_out.logits.logits + factor * scores).astype(np.float32))
        candidates.append((_loss(mixed, fit_calibration(mixed)), share, factor))
    before = candidates[0][0]
    loss, share, factor = min(candidates, key=lambda candidate: candidate[0])
    # A loss of 0 cannot become lower.
    if share == 0 or loss > (1 - MIN_GAIN) * before:
        reason = f"logistic regression on them brings the log loss on validation from {before:.3f} to {loss:.3f} alone"
        return None, f"left out: {reason}"
    write_band_head(model, baseline, factor)
    head = BandHead(baseline, factor, share, (before, loss))
    return head, str(head)


def _loss(windows: WindowLogits, calibration: Calibration) -> float:
    return log_loss(windows.probabilities(calibration.apply(windows.logits)), windows.recording_references)


def attach_band_head(model: PreTrainedModel) -> None:
    """Add a head that gives zeros."""
    config = model.config
    config.use_band_statistics = True
    model.band_head = nn.Linear(4 * config.num_mel_bins + 1, config.num_labels, device=model.device, dtype=model.dtype)
    for parameter in model.band_head.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def write_band_head(model: PreTrainedModel, baseline: Baseline, factor: np.ndarray) -> None:
    """Give the head the weights of a regression on standardised features."""
    weights = (baseline.weights / baseline.scale[:, None] * factor).T
    bias = baseline.bias * factor - weights @ baseline.mean
    model.band_head.weight.copy_(torch.from_numpy(weights))
    model.band_head.bias.copy_(torch.from_numpy(bias))
