# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Calibrate a model for 8-bit integers (int8) on the validation split, and compare it with the original there."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.utils import logging

from sanet_hf.errors import UsageError
from sanet_hf.inference.calibration_clips import BATCH_SIZE, MAX_CALIBRATION_CLIPS
from sanet_hf.optimization.int8 import (
    CALIBRATION_FILE,
    Int8Calibration,
    check_int8,
    hash_weights,
    measure_ranges,
)
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import EvaluationClips
from sanet_hf.training.evaluation.results import Evaluation, accuracy_interval, average_windows
from sanet_hf.utils.files import write_atomically


logger = logging.get_logger(__name__)

# Largest number of windows in the evaluation of int8, which takes about a minute on one core.
MAX_EVALUATED = 1000


def calibrate_on_split(
    output_dir: Path,
    model: PreTrainedModel,
    optimized: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    recordings: Dataset,
    evaluation: Evaluation,
    max_length_seconds: float,
) -> Int8Calibration | None:
    """
    Calibrate a model for int8, and compare int8 with the original on random recordings of a split. Write calibration
    and results to the folder of the model, and print the results.

    Args:
        output_dir: Folder of the model.
        model: In float32 on the CPU.
        optimized: Result of [`optimize_for_inference`]. Its layers are replaced.
        feature_extractor: The model's own.
        recordings: The split, as [`load_recordings`] returns it.
        evaluation: The model's evaluation of the split.
        max_length_seconds: Length of a window.

    Returns:
        The results; `None`, with a warning, if int8 does not run or its error is too large.
    """
    seconds = np.array(recordings["seconds"])
    order = np.random.default_rng(0).permutation(len(seconds))
    num_windows = np.cumsum(np.ceil(seconds[order] / max_length_seconds))
    # Keep the order of the split, which is sorted by length, so that batches need little padding.
    chosen = np.sort(order[: max(1, int((num_windows <= MAX_EVALUATED).sum()))])
    data = (feature_extractor, model.config.label2id, max_length_seconds)
    middles = EvaluationClips(recordings.select(np.sort(order[:MAX_CALIBRATION_CLIPS])), *data)
    windows = EvaluationClips(recordings.select(chosen), *data, all_windows=True)
    make_loader = partial(
        DataLoader, batch_size=BATCH_SIZE, collate_fn=partial(collate, feature_extractor=feature_extractor)
    )
    try:
        check_int8(model)
        batches = [dict(batch, labels=None) for batch in make_loader(middles)]
        calibration = measure_ranges(optimized, batches, hash_weights(model))
    except UsageError as error:
        logger.warning(f"Skipped writing {CALIBRATION_FILE}. {error}")
        return None
    with torch.inference_mode():
        outputs = [(optimized(**dict(batch, labels=None)).logits, batch["labels"]) for batch in make_loader(windows)]
    logits, labels = (torch.cat(values).numpy() for values in zip(*outputs))
    files, silent = windows.recordings["file"][:], windows.silent
    after = average_windows(evaluation.split, files, windows.rows, silent, model.config, logits, labels)
    before = Evaluation(
        evaluation.split,
        after.files,
        evaluation.labels,
        evaluation.references[chosen],
        evaluation.probabilities[chosen],
        background=evaluation.background,
        thresholds=evaluation.thresholds,
    )
    same = (before.predicted_matrix == after.predicted_matrix).all(axis=1)
    results = {
        "num_clips": len(chosen),
        **{name: [before.metrics[name], after.metrics[name]] for name in ("accuracy", "macro_f1")},
        "agreement": float(same.mean()),
    }
    calibration = replace(calibration, evaluation=results)
    with write_atomically(output_dir / CALIBRATION_FILE) as file:
        file.write(calibration.to_json().encode())
    print(
        f"int8 (sanet predict --dtype int8): accuracy {after.metrics['accuracy']:.3f} instead of "
        f"{before.metrics['accuracy']:.3f} on {len(chosen)} {evaluation.split} clips (95 % intervals "
        "{:.3f}–{:.3f} and {:.3f}–{:.3f}), ".format(*accuracy_interval(after), *accuracy_interval(before))
        + f"with the same predictions for {same.mean():.1%} of them",
        file=sys.stderr,
    )
    return calibration
