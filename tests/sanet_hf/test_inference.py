# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Prediction over files; the errors of `load_classifier` that a user meets are in tests/training/test_cli.py."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

from sanet_hf import SANetForAudioClassification
from sanet_hf.inference import Prediction, load_classifier, predict


@pytest.fixture
def clips(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for index, length in enumerate((3000, 16000, 1, 8000, 5000)):
        paths.append(str(tmp_path / f"{index}.wav"))
        soundfile.write(paths[-1], 0.1 * rng.standard_normal(length), 16000)
    return paths


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_same_scores_as_the_pipeline_in_any_batch(tiny_checkpoint, clips, batch_size):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    predictions = list(predict(model, feature_extractor, clips, batch_size))
    assert [prediction.path for prediction in predictions] == clips
    classifier = pipeline("audio-classification", model=str(tiny_checkpoint))
    for prediction, (best, *_) in zip(predictions, classifier(clips)):
        assert (prediction.label, prediction.error) == (best["label"], None)
        assert prediction.score == pytest.approx(best["score"], abs=1e-5)


def test_errors_stand_in_their_place(tiny_checkpoint, clips):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    paths = ["missing.wav", clips[0], "also_missing.wav", "gone.wav", clips[1]]
    predictions = list(predict(model, feature_extractor, paths, batch_size=2))
    assert [prediction.path for prediction in predictions] == paths
    missing = [prediction for prediction in predictions if prediction.error is not None]
    assert missing == [Prediction(paths[index], error="there is no such file.") for index in (0, 2, 3)]


def test_results_come_as_they_are_made(tiny_checkpoint, clips):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    asked = []

    def ask():
        for path in clips:
            asked.append(path)
            yield path

    results = predict(model, feature_extractor, ask(), batch_size=2)
    next(results)
    assert asked == clips[:2]


@pytest.mark.parametrize(
    ("problem_type", "score"),
    [
        ("single_label_classification", lambda logits: logits.softmax(-1).max()),
        ("multi_label_classification", lambda logits: logits.sigmoid().max()),
        ("regression", lambda logits: logits.max()),
    ],
)
def test_scores_by_problem_type(tiny_checkpoint, clips, problem_type, score):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    model.config.problem_type = problem_type
    (prediction,) = predict(model, feature_extractor, clips[:1])
    with torch.no_grad():
        waveform, _ = soundfile.read(clips[0], dtype="float32")
        logits = model(**feature_extractor(waveform, sampling_rate=16000, return_tensors="pt")).logits
    assert prediction.score == pytest.approx(score(logits).item(), abs=1e-5)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}


@pytest.mark.parametrize(
    ("model", "feature_extractor"),
    [
        (
            lambda: Wav2Vec2ForSequenceClassification(
                Wav2Vec2Config(**SMALL, conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
            ),
            Wav2Vec2FeatureExtractor,
        ),
        (lambda: ASTForAudioClassification(ASTConfig(**SMALL)), ASTFeatureExtractor),
    ],
    ids=["wav2vec2", "ast"],
)
def test_other_architectures(tmp_path, clips, model, feature_extractor):
    folder = tmp_path / "model"
    model().save_pretrained(folder)
    feature_extractor().save_pretrained(folder)
    predictions = list(predict(*load_classifier(folder), [clips[1], "missing.wav", clips[3]]))
    assert [prediction.error is None for prediction in predictions] == [True, False, True]


def test_model_is_ready_for_use(tiny_checkpoint):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    assert isinstance(model, SANetForAudioClassification) and not model.training
    assert feature_extractor.sampling_rate == 16000
