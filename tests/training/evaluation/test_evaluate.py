# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation by windows gives the scores of `predict`."""

import numpy as np
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset, Features, Value

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification, predict
from sanet_hf.training.evaluation.evaluate import evaluate_splits
from sanet_hf.training.evaluation.saved_models import _make_trainer


RATE = 16000
# Seconds with and without sound, alternating.
SECONDS = [[3.5], [1.0, 2.5, 0.5], [0.2, 4.0], [0.0, 2.0, 1.0], [0.0, 2.2], [0.3], [0.0, 0.3]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_scores_with_silence_equal_those_of_predict(tmp_path, num_workers):
    config = SANetConfig(
        conv_dim=[4, 8],
        conv_kernel=[16, 8],
        conv_stride=[8, 8],
        attention_after=[],
        attention_dim=[],
        classifier_hidden_sizes=[],
        pool_hidden_size=8,
        se_reduction=4,
        num_labels=2,
        id2label={0: "a", 1: "b"},
        label2id={"a": 0, "b": 1},
    )
    torch.manual_seed(0)
    model = SANetForAudioClassification(config).eval()
    with torch.no_grad():  # makes the scores differ
        for parameter in model.classifier.parameters():
            parameter *= 100
    extractor = SANetFeatureExtractor(max_length=RATE)
    noise, rows = np.random.default_rng(0), []
    for index, seconds in enumerate(SECONDS):
        loudness = [0.1 * (place % 2 == 0) * (1 + place) for place in range(len(seconds))]
        waveform = noise.standard_normal(round(sum(seconds) * RATE))
        waveform *= np.repeat(loudness, [round(each * RATE) for each in seconds])
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, waveform, RATE, subtype="FLOAT")
        audio = {"bytes": None, "path": str(path)}
        rows.append({"audio": audio, "file": path.name, "label": "ab"[index % 2], "seconds": sum(seconds)})
    features = Features(
        audio={"bytes": Value("binary"), "path": Value("string")},
        file=Value("string"),
        label=ClassLabel(names=["a", "b"]),
        seconds=Value("float64"),
    )
    trainer = _make_trainer(model, extractor, batch_size=4)
    trainer.args.dataloader_num_workers = num_workers
    evaluation = evaluate_splits(trainer, {"test": Dataset.from_list(rows, features=features)}, 1)["test"]
    paths = [row["audio"]["path"] for row in rows]
    predictions = list(predict(model, extractor, paths, window_seconds=1))
    # predict gives no scores for silent recordings. The evaluation uses all their windows.
    every = list(predict(model, extractor, paths, window_seconds=1, min_level=None, aggregate="mean"))
    assert [prediction.is_silent for prediction in predictions] == [False] * 4 + [True, False, True]
    scores = [(one if one.scores is not None else other).scores for one, other in zip(predictions, every)]
    np.testing.assert_allclose(evaluation.probabilities, scores, atol=1e-5)
    assert abs(evaluation.probabilities[1] - every[1].scores).max() > 1e-3
