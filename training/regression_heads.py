# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Logistic regressions that become linear layers of a SANet.

- `--band_head`: regression on log-mel band statistics, added to the scores of a trained network. With a few dozen or
  hundred recordings, the two make different mistakes, and their mean logit is right more often than either. The weight
  of the regression is chosen on validation.
- `--head_only`: regression on the pooled features, as the classifier. It takes seconds, and the rest of the network
  stays unchanged. With a few recordings per class, training the network gains little more.
- `--head_first`: the same before training, which then starts from this head. It keeps more of the pretrained features
  than a random head does (Kumar et al., 2022, https://arxiv.org/abs/2202.10054). If the head alone is clearly better
  on validation than the trained network, it is kept.
"""

import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, Trainer

from sanet_hf.architectures import remove_band_head
from sanet_hf.errors import AudioError, DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.baseline import Baseline, fit
from sanet_hf.training.data.clips import EvaluationClips
from sanet_hf.training.data.folds import group_recordings
from sanet_hf.training.evaluation.calibration import Calibration, WindowLogits, log_loss
from sanet_hf.training.evaluation.calibration import fit as fit_calibration
from sanet_hf.training.evaluation.scores import Score, score_windows
from sanet_hf.utils.formatting import format_duration, shorten


# With fewer validation recordings, nothing is chosen.
MIN_RECORDINGS = 10
# Candidate weights of the regression in the scores. Above 0.5, the network would have little influence.
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
# The regression must lower the validation log loss by this fraction. A smaller gain may be chance.
MIN_GAIN = 0.05
# Statistics with a smaller standard deviation are not used: a deviating value in use would get an arbitrary score.
SMALLEST_DEVIATION = 0.05
# With fewer validation recordings, the weight of a regression on the log-mel bands cannot be measured. It is 0.5 then.
MIN_FOR_SHARE = 50
# Largest number of evenly spread windows per recording, and of all recordings together, to limit the time.
MAX_WINDOWS, MAX_TOTAL_WINDOWS = 30, 10_000
BATCH_SIZE = 32


class BandHead(NamedTuple):
    """
    A fitted band head.

    Attributes:
        baseline: Logistic regression on [`band_statistics`](sanet_hf.pooling_sanet) of windows.
        factor: Factor of its logits before they are added to those of the network, shape (1,) or (classes,).
        share: Its weight in the scores.
        losses: Calibrated log loss on validation of the network alone, and with the regression.
    """

    baseline: Baseline
    factor: np.ndarray
    share: float
    losses: tuple[float, float]

    def __str__(self) -> str:
        alone, together = self.losses
        return (
            f"logistic regression on the log-mel bands has {self.share:.0%} of the scores, chosen on validation (log "
            f"loss {alone:.3f} without it, {together:.3f} with it)"
        )


class RegressionHead(NamedTuple):
    """
    A fitted classification head.

    Attributes:
        classifier: Logistic regression on the embeddings of windows.
        bands: Logistic regression on the log-mel band statistics of windows; only with few validation recordings.
        num_recordings: Number of recordings in the fit.
        seconds: Duration of the fit.
    """

    classifier: Baseline
    bands: Baseline | None
    num_recordings: int
    seconds: float

    @property
    def description(self) -> str:
        """Return a text about the regressions, the number of recordings and the duration."""
        with_bands = ", averaged with one on the log-mel bands" if self.bands else ""
        return (
            f"logistic regression on the embeddings of {self.num_recordings:,} recordings{with_bands} "
            f"({format_duration(self.seconds)})"
        )

    def __str__(self) -> str:
        return f"{self.description}; the rest of the network is unchanged"


class FirstHead(NamedTuple):
    """
    A head that was fitted before training.

    Attributes:
        head: The regressions.
        weights: Weights of the whole model with this head.
        score: Score on the validation split; None if it has fewer than ten recordings.
    """

    head: RegressionHead
    weights: dict[str, torch.Tensor]
    score: Score | None


class WindowFeatures(NamedTuple):
    """
    Features of the windows of recordings. The first four attributes leave silent windows out.

    Attributes:
        embeddings: Input of the classifier, shape (windows, features).
        statistics: Log-mel band statistics, shape (windows, features); of width 0 if the network has none.
        targets: Classes, 0/1 of shape (windows, classes).
        groups: Group of the recording of each window. A group stays in one fold.
        logits: Logits of the classifier without the band head, for all windows.
        all_statistics: Log-mel band statistics of all windows.
    """

    embeddings: np.ndarray
    statistics: np.ndarray
    targets: np.ndarray
    groups: list[str]
    logits: WindowLogits
    all_statistics: np.ndarray


def add_band_head(
    trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments
) -> BandHead | None:
    """
    Fit logistic regression on the log-mel bands to the training split. Add it to the trainer's model in place if this
    lowers the log loss on validation. Print the result.

    Args:
        trainer: Has the trained model and its feature extractor.
        train, validation: As [`load_recordings`] returns them.
        data: Data options. Recordings of a group stay in one fold.

    Returns:
        The band head; None if it was not added.
    """
    head, text = _fit_bands(trainer, train, validation, data)
    if head is None:
        remove_band_head(trainer.model)
    if trainer.is_world_process_zero():
        print(f"Band statistics: {text}.", file=sys.stderr)
    return head


def refit_band_head(trainer: Trainer, head: BandHead, joined: Dataset, data: DataArguments) -> None:
    """Fit the regression to the training and validation splits together, for a network that was trained on both."""
    attach_band_head(trainer.model)
    windows = measure_windows(trainer, joined, data)
    _write(trainer.model.band_head, head.baseline.refit(drop_flat(windows.statistics), windows.targets), head.factor)


def drop_flat(features: np.ndarray) -> np.ndarray:
    """Return features of shape (windows, features), with zeros for features that are nearly constant."""
    return features * (features.std(axis=0) >= SMALLEST_DEVIATION)


def _fit_bands(
    trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments
) -> tuple[BandHead | None, str]:
    num_recordings = 0 if validation is None else len(validation)
    if num_recordings < MIN_RECORDINGS:
        found = f"the validation split has {num_recordings} recordings" if num_recordings else "no validation split"
        return None, f"left out: {found}; at least {MIN_RECORDINGS} are needed"
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
        return None, "left out: a class has all training recordings or none"
    scores = baseline.logits(held_out.all_statistics)
    alone = fit_calibration(held_out.logits)
    candidates = []
    for share in SHARES:
        # The network's logits keep their scale. The later calibration sets the scale of the sum.
        factor = share / ((1 - share) * alone.scale)
        mixed = _add_scores(held_out.logits, factor * scores)
        candidates.append((_loss(mixed, fit_calibration(mixed)), share, factor))
    before = candidates[0][0]
    loss, share, factor = min(candidates, key=lambda candidate: candidate[0])
    # A loss of 0 cannot decrease.
    if share == 0 or loss > (1 - MIN_GAIN) * before:
        return None, f"left out: they change the log loss on validation only from {before:.3f} to {loss:.3f}"
    _write(model.band_head, baseline, factor)
    head = BandHead(baseline, factor, share, (before, loss))
    return head, str(head)


def _add_scores(windows: WindowLogits, scores: np.ndarray) -> WindowLogits:
    return windows._replace(logits=(windows.logits + scores).astype(np.float32))


def _loss(windows: WindowLogits, calibration: Calibration) -> float:
    return log_loss(windows.probabilities(calibration.apply(windows.logits)), windows.recording_references)


def attach_band_head(model: PreTrainedModel) -> None:
    """Add a band head whose scores are zero."""
    config = model.config
    config.use_band_statistics = True
    model.band_head = nn.Linear(4 * config.num_mel_bins + 1, config.num_labels, device=model.device, dtype=model.dtype)
    for parameter in model.band_head.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def _write(layer: nn.Linear, baseline: Baseline, factor: np.ndarray | float) -> None:
    """Write a regression on standardised features into a linear layer."""
    weights = (baseline.weights / baseline.scale[:, None] * factor).T
    layer.weight.copy_(torch.from_numpy(weights))
    layer.bias.copy_(torch.from_numpy(baseline.bias * factor - weights @ baseline.mean))


def fit_head(trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments) -> RegressionHead:
    """
    Fit a linear head to the training split, and replace the head of the trainer's model with it.

    The strength of the regression is chosen on validation, or by cross-validation. With few or no validation
    recordings, a regression on the log-mel bands has the weight 0.5. With more, [`add_band_head`] chooses its weight.

    Args:
        trainer: Has the model, a [`SANetForAudioClassification`], and its feature extractor.
        train, validation: As [`load_recordings`] returns them.
        data: Data options. Recordings of a group stay in one fold of the cross-validation.

    Returns:
        The fitted head.

    Raises:
        DataError: All training recordings of a class are silent, or all have the same class.
    """
    started, model = time.monotonic(), trainer.model
    num_validation = 0 if validation is None else len(validation)
    make_linear(model)
    with_bands = (
        bool(model.config.spectrogram_dim) and num_validation < MIN_FOR_SHARE and trainer.args.band_head != "false"
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
    write_heads(model, classifier, bands)
    return RegressionHead(classifier, bands, len(train), time.monotonic() - started)


def refit_head(trainer: Trainer, head: RegressionHead, joined: Dataset, data: DataArguments) -> RegressionHead:
    """Fit the head to the training and validation splits together, with the same strength. Return the new head."""
    started, model = time.monotonic(), trainer.model
    windows = measure_windows(trainer, joined, data)
    classifier = head.classifier.refit(windows.embeddings, windows.targets)
    bands = head.bands and head.bands.refit(drop_flat(windows.statistics), windows.targets)
    write_heads(model, classifier, bands)
    return RegressionHead(classifier, bands, len(joined), time.monotonic() - started)


def fit_first_head(
    trainer: Trainer, train: Dataset, validation: Dataset | None, data: DataArguments
) -> FirstHead | None:
    """
    Fit a head to the training split, and write its regression on embeddings into the trainer's model. Print its score.

    Args:
        trainer, train, validation, data: As in [`fit_head`].

    Returns:
        The head; None if a regression cannot be fitted, for example because all recordings of a class are silent.
    """
    model = trainer.model
    try:
        head = fit_head(trainer, train, validation, data)
    except DataError as error:
        remove_band_head(model)
        if trainer.is_world_process_zero():
            print(f"Head first: left out. {error}", file=sys.stderr)
        return None
    has_enough = validation is not None and len(validation) >= MIN_RECORDINGS
    score = _score(trainer, validation, data) if has_enough else None
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    remove_band_head(model)
    write_heads(model, head.classifier, None)
    if trainer.is_world_process_zero():
        print(f"Head: {head.description}.", file=sys.stderr)
        if score is not None:
            print(f"Before training: {score.value:.1%} on {len(validation):,} validation recordings.", file=sys.stderr)
    return FirstHead(head, weights, score)


def start_from_head(first: FirstHead, trainer: Trainer, joined: Dataset, data: DataArguments) -> None:
    """Fit the head to the recordings of the second phase, and write it into the model before its training."""
    make_linear(trainer.model)
    head = refit_head(trainer, first.head._replace(bands=None), joined, data)
    if trainer.is_world_process_zero():
        print(f"Head: {head.description}.", file=sys.stderr)


def choose_head(
    first: FirstHead, trainer: Trainer, validation: Dataset | None, data: DataArguments
) -> tuple[bool, str]:
    """
    Restore the first head and the original network if they are clearly better on validation than the trained network.
    If the two are close, a few validation recordings cannot decide. Then the trained network is kept, which was better
    on other recordings in our measurements (docs/pretraining.md).

    Returns:
        Whether they were restored, and a text about the comparison.
    """
    if first.score is None:
        return False, "training started from this head; there are too few validation recordings to compare them"
    after = _score(trainer, validation, data)
    is_kept = first.score.is_clearly_better_than(after)
    if is_kept:
        (attach_band_head if first.head.bands else remove_band_head)(trainer.model)
        trainer.model.load_state_dict(first.weights)
    text = f"{first.score.value:.1%} on validation before training, {after.value:.1%} after it"
    if is_kept:
        text += ": clearly worse, so the original network is restored"
    else:
        is_lower = first.score.value > after.value
        text += f": {'the difference may be chance' if is_lower else 'not worse'}, so the trained network is kept"
    if trainer.is_world_process_zero():
        print(f"Head first: {text}.", file=sys.stderr)
    return is_kept, text


def _score(trainer: Trainer, validation: Dataset, data: DataArguments) -> Score:
    measured = measure_windows(trainer, validation, data)
    windows, band_head = measured.logits, getattr(trainer.model, "band_head", None)
    if band_head is not None:
        weight, bias = (value.detach().double().cpu().numpy() for value in (band_head.weight, band_head.bias))
        windows = _add_scores(windows, measured.all_statistics @ weight.T + bias)
    return score_windows(windows)


def make_linear(model: nn.Module) -> None:
    """Replace the model's classifier with one linear layer."""
    config = model.config
    config.classifier_hidden_sizes = []
    layer = nn.Linear(2 * config.hidden_size, config.num_labels, device=model.device, dtype=model.dtype)
    model.classifier = nn.Sequential(layer)


def _check_classes(windows: WindowFeatures, id2label: dict[int, str]) -> None:
    counts = windows.targets.sum(axis=0)
    if missing := [repr(id2label[index]) for index, count in enumerate(counts) if count == 0]:
        raise DataError(f"All training recordings of {shorten(missing)} are silent. Add others, or remove the class.")
    if windows.logits.is_multi_label and (counts == len(windows.targets)).any():
        everywhere = [repr(id2label[index]) for index in np.flatnonzero(counts == len(windows.targets)).tolist()]
        raise DataError(f"All training recordings have the label {shorten(everywhere)}. Add recordings without it.")


def write_heads(model: nn.Module, classifier: Baseline, bands: Baseline | None) -> None:
    """Write a regression into the classifier, or two into both heads, so that the model averages their scores."""
    factor = 1.0 if bands is None else 0.5
    _write(model.classifier[-1], classifier, factor)
    if bands is not None:
        _write(model.band_head, bands, factor)


@torch.no_grad()
def measure_windows(trainer: Trainer, recordings: Dataset, data: DataArguments) -> WindowFeatures:
    """
    Return the features of windows of recordings from the trainer's SANet. Each process computes all of them.
    Unreadable windows are skipped, so that they do not stop the run.

    Raises:
        AudioError: No window can be read.
    """
    model, device = trainer.model, trainer.model.device
    clips = EvaluationClips(
        recordings, trainer.processing_class, model.config.label2id, data.max_length_seconds, all_windows=True
    )
    counts = np.bincount(clips.rows, minlength=len(recordings))
    firsts = np.cumsum(counts) - counts
    most = max(1, min(MAX_WINDOWS, MAX_TOTAL_WINDOWS // max(1, len(recordings))))
    chosen = np.concatenate(
        [
            first + np.linspace(0, count - 1, min(count, most)).round().astype(int)
            for first, count in zip(firsts, counts)
        ]
    )
    was_training = model.training
    model.eval()
    embeddings, statistics, logits, labels, is_read = [], [], [], [], np.ones(len(chosen), bool)
    for start in range(0, len(chosen), BATCH_SIZE):
        items = []
        for place, index in enumerate(chosen[start : start + BATCH_SIZE].tolist(), start):
            try:
                items.append(clips[index])
            except (AudioError, OSError):
                is_read[place] = False
        if not items:
            continue
        batch = trainer.data_collator(items)
        labels.append(batch.pop("labels").numpy())
        batch = {name: value.to(device) for name, value in batch.items()}
        outputs = model.base_model(**batch, return_dict=True)
        scores = model.classifier(outputs.pooler_output)
        embeddings.append(outputs.pooler_output.double().cpu().numpy())
        bands = outputs.pooler_output[:, :0] if outputs.band_statistics is None else outputs.band_statistics
        statistics.append(bands.double().cpu().numpy())
        logits.append(scores.float().cpu().numpy())
    model.train(was_training)
    if not is_read.any():
        raise AudioError("None of the recordings can be read any more. Check that their files still exist.")
    embeddings, statistics, labels = (np.concatenate(values) for values in (embeddings, statistics, labels))
    chosen = chosen[is_read]
    rows, silent = clips.rows[chosen], clips.silent[chosen]
    targets = labels.astype(int) if labels.ndim == 2 else np.eye(model.config.num_labels, dtype=int)[labels]
    groups = np.array(group_recordings(recordings, data))
    heard = ~silent
    read, numbers = np.unique(rows, return_inverse=True)
    files = [recordings["file"][int(row)] for row in read]
    found = WindowLogits(files, numbers, silent, np.concatenate(logits), labels)
    return WindowFeatures(
        embeddings[heard], statistics[heard], targets[heard], groups[rows[heard]].tolist(), found, statistics
    )
