# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Find kinds of generated noise that sound like a class of the recordings, such as rain and the class rain."""

import numpy as np
from datasets import Dataset, DatasetDict

from sanet_hf.errors import AudioError
from sanet_hf.training.baseline import predict_out_of_fold
from sanet_hf.training.data.labels import label_names
from sanet_hf.training.data.log_mel import FLOOR, log_mel_statistics
from sanet_hf.training.data.noises import TRAINED_KINDS, make_noise
from sanet_hf.training.data.rows import load_recording


# Largest number of recordings of a class, and in total, that are compared with the same number of noises of each kind.
MAX_OF_CLASS, MAX_RECORDINGS = 30, 600
NUM_NOISES = 20
# A kind sounds like a class if this number and this fraction of the class's recordings are classified as that noise.
LEAST_ALIKE, PART_ALIKE = 2, 0.15
NUM_FOLDS, STRENGTH = 3, 0.1


def find_alike(recordings: DatasetDict, sampling_rate: int, length: int, seed: int) -> dict[str, str]:
    """
    Return the kinds of noise that are easily confused with a class, each with that class.

    Logistic regression on log-mel statistics is fitted to the classes and, as additional classes, the kinds of noise.
    A kind is confused if recordings of a class are classified as this kind in cross-validation over the training and
    validation recordings.

    Args:
        recordings: As [`load_recordings`] returns them. The test split is not read.
        sampling_rate: In Hz.
        length: Samples of a clip. The middle of longer recordings is compared.
        seed: Seed of the noise and of the choice among many recordings.
    """
    generator = np.random.default_rng([seed, len(recordings)])
    features, labels = [], []
    names = label_names(recordings["train"])
    for split in ("train", "validation"):
        for waveform, label in _draw(recordings.get(split), generator, sampling_rate, length):
            features.append(log_mel_statistics(waveform, sampling_rate, FLOOR))
            labels.append(label)
    for kind in TRAINED_KINDS:
        for _ in range(NUM_NOISES):
            noise = make_noise(kind, generator, length, sampling_rate)
            features.append(log_mel_statistics(noise, sampling_rate, FLOOR))
            labels.append(len(names) + TRAINED_KINDS.index(kind))
    labels = np.array(labels)
    targets = np.eye(len(names) + len(TRAINED_KINDS), dtype=int)[labels]
    (probabilities,) = predict_out_of_fold(
        np.stack(features), targets, range(len(labels)), [STRENGTH], num_folds=NUM_FOLDS
    )
    predicted = probabilities.argmax(axis=1)
    alike = {}
    for number, kind in enumerate(TRAINED_KINDS, start=len(names)):
        taken = {
            name: np.mean(predicted[labels == index] == number)
            for index, name in enumerate(names)
            if np.sum(predicted[labels == index] == number) >= LEAST_ALIKE
        }
        if taken and max(taken.values()) >= PART_ALIKE:
            alike[kind] = max(taken, key=taken.get)
    return alike


def _draw(dataset: Dataset | None, generator: np.random.Generator, sampling_rate: int, length: int):
    """Yield the middle of recordings of each class, and the (first) class."""
    if dataset is None:
        return
    first = np.array([label if isinstance(label, int) else (label or [-1])[0] for label in dataset["label"]])
    classes = np.unique(first[first >= 0])
    most = min(MAX_OF_CLASS, max(LEAST_ALIKE, MAX_RECORDINGS // max(1, len(classes))))
    for label in classes:
        for index in generator.permutation(np.flatnonzero(first == label))[:most]:
            row = dataset[int(index)]
            start = max(0, round(row["seconds"] * sampling_rate) - length) // 2
            try:
                yield load_recording(row, sampling_rate, start, length), int(label)
            except AudioError:
                # With unchecked recordings, training reports the unreadable ones.
                continue
