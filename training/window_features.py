# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a trained SANet makes of windows of recordings, for regressions that are fitted to it."""

from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer

from sanet_hf.errors import AudioError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.clips import EvaluationClips
from sanet_hf.training.data.folds import group_recordings
from sanet_hf.training.evaluation.calibration import WindowLogits


# Of a longer recording, so many windows are measured, evenly spread; of many recordings fewer, for the time.
MAX_WINDOWS, MAX_TOTAL_WINDOWS = 30, 10_000
BATCH_SIZE = 32


class WindowFeatures(NamedTuple):
    """
    Windows of recordings.

    Attributes:
        embeddings: What the classifier is given, of those that are not silent, (windows, features).
        statistics: Of their log-mel bands, (windows, features); of width 0 where the network has none.
        targets: Their classes, 0/1 of shape (windows, classes).
        groups: Of their recordings: a group stays in one fold.
        logits: Of all windows, of the classifier alone.
        all_statistics: Of all windows.
    """

    embeddings: np.ndarray
    statistics: np.ndarray
    targets: np.ndarray
    groups: list[str]
    logits: WindowLogits
    all_statistics: np.ndarray


@torch.no_grad()
def measure_windows(trainer: Trainer, recordings: Dataset, data: DataArguments) -> WindowFeatures:
    """
    Run the trainer's SANet over the windows of recordings. Each process does the same: what is measured is little.
    Windows that cannot be read are left out, so that no training is lost by them.

    Raises:
        AudioError: None can be read.
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
        raise AudioError("None of the recordings can be read any more.")
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
