# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Explanations, compared with outputs of the model. tests/training/test_cli.py tests the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from sanet_hf import SANetFeatureExtractor
from sanet_hf.architectures import extract_features, find_window_seconds
from sanet_hf.inference.explanation import as_dict, explain
from sanet_hf.inference.plots import write_explanation
from sanet_hf.inference.prediction import predict


RATE = 16000
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}


@pytest.fixture
def extractor() -> SANetFeatureExtractor:
    return SANetFeatureExtractor(max_length=8000)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)


def probabilities(model, features) -> np.ndarray:
    with torch.no_grad():
        return model(**features).logits.softmax(-1)[0].numpy()


def test_occlusion_finds_the_only_sound(tiny_model, extractor):
    """
    The clip is silent except for one sound. Only occlusions that touch the sound change the score. Occlusions that
    cover all of it give the score of silence.
    """
    waveform = np.zeros(8000, np.float32)
    waveform[3300:4000] = noise(700)
    explanation = explain(tiny_model, extractor, waveform, occlusion_seconds=0.1, hop_seconds=0.05)
    starts, ends = explanation.occlusion_starts * RATE, explanation.occlusion_ends * RATE
    np.testing.assert_allclose(starts, np.arange(0, 6401, 800), atol=1e-6)
    np.testing.assert_allclose(ends - starts, 1600, atol=1e-6)
    touches, covers = (starts < 4000) & (ends > 3300), (starts <= 3300) & (ends >= 4000)
    drops = explanation.score_drops
    assert np.abs(drops[~touches]).max() < 1e-5 < 1e-3 < np.abs(drops[touches]).min()
    features = extractor(waveform, sampling_rate=RATE, return_tensors="pt")
    index = tiny_model.config.label2id[explanation.label]
    score = probabilities(tiny_model, features)[index]
    features["input_values"] = torch.zeros(1, 8000)
    assert covers.sum() == 2
    np.testing.assert_allclose(drops[covers], score - probabilities(tiny_model, features)[index], atol=1e-5)


def test_occlusion_does_not_change_the_loudness_of_the_rest(tiny_model, extractor):
    """Occlusion silences the features, so that the extractor does not normalise the rest to a higher level."""
    waveform = noise(4000) * np.repeat([1, 0.01], 2000).astype(np.float32)
    explanation = explain(tiny_model, extractor, waveform, label="LABEL_1", occlusion_seconds=0.125)
    features = extractor(waveform, sampling_rate=RATE, padding=False, return_tensors="pt")
    score = probabilities(tiny_model, features)[1]
    features["input_values"][0, :2000] = 0
    assert explanation.occlusion_ends[0] == 0.125 and explanation.label == "LABEL_1"
    assert explanation.scores["LABEL_1"] == pytest.approx(score, abs=1e-5)
    assert explanation.score_drops[0] == pytest.approx(score - probabilities(tiny_model, features)[1], abs=1e-5)


@pytest.mark.parametrize("length", [8000, 3001, 2995, 100, 1])
def test_weights_equal_those_of_the_model(tiny_model, extractor, length):
    """
    The tiny model pads clips to a multiple of 16 samples. With 2995 samples, the last frame of 8 is padding. With 3001
    samples, the last frame of the clip has one sample.
    """
    waveform = noise(length)
    explanation = explain(tiny_model, extractor, waveform)
    assert tiny_model.config._attn_implementation == "sdpa"
    tiny_model.set_attn_implementation("eager")
    features = extractor(waveform, sampling_rate=RATE, padding=False, return_tensors="pt")
    with torch.no_grad():
        outputs = tiny_model(**features, output_attentions=True)
    for weights, edges, expected, stride in (
        (explanation.pooling_weights, explanation.pooling_edges, outputs.pooling_weights[0], 8),
        (explanation.attentions[0], explanation.attention_edges[0], outputs.attentions[0][0].mean(0), 16),
    ):
        frames = -(-length // stride)
        assert weights.shape == (frames,) * weights.ndim
        np.testing.assert_allclose(weights, expected[tuple(slice(frames) for _ in weights.shape)], atol=1e-7)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(edges, [*np.arange(frames) * stride / RATE, length / RATE], atol=1e-9)
    assert (explanation.start, explanation.end) == (0, length / RATE)
    assert explanation.occlusion_starts[0] == 0 and explanation.occlusion_ends[-1] == pytest.approx(length / RATE)


def test_frame_times_match_their_samples(make_model, extractor):
    """Without squeeze-and-excitation and attention, a click changes only the frames around it."""
    model = make_model(use_squeeze_excitation=False, attention_after=(), attention_dim=())
    silence = torch.zeros(1, 8000)
    for sample in (100, 1234, 4003, 7700):
        click = silence.clone()
        click[0, sample] = 1
        with torch.no_grad():
            states = [model.sanet(clip).last_hidden_state[0] for clip in (click, silence)]
        changed = (states[0] - states[1]).abs().sum(-1).numpy()
        edges = explain(model, extractor, click[0].numpy()).pooling_edges
        center = np.average((edges[1:] + edges[:-1]) / 2, weights=changed)
        assert abs(center - sample / RATE) < 8 / RATE


def test_model_without_attention_blocks(make_model, extractor):
    explanation = explain(make_model(attention_after=(), attention_dim=()), extractor, noise(2000))
    assert explanation.attentions == () and explanation.pooling_weights.sum() == pytest.approx(1)


def test_explanation_of_the_middle_agrees_with_predict(tiny_model, extractor):
    waveform = noise(20000)
    waveform[:6000] *= 5
    explanation = explain(tiny_model, extractor, waveform, offset=10.0)
    assert (explanation.start, explanation.end) == (10.375, 10.875)
    np.testing.assert_array_equal(explanation.waveform, waveform[6000:14000])
    for times in (explanation.pooling_edges, explanation.attention_edges[0]):
        assert (times[0], times[-1]) == (10.375, 10.875)
    assert (explanation.occlusion_starts[0], explanation.occlusion_ends[-1]) == (10.375, 10.875)
    (prediction,) = predict(tiny_model, extractor, [waveform[6000:]], window_seconds=0.5)
    np.testing.assert_allclose(list(explanation.scores.values()), prediction.windows[0].scores, atol=1e-5)


def test_model_without_mask_weighs_the_padding(tiny_model):
    """Pooling and attention weights include the silence after the clip. Occlusion ends with the clip."""
    extractor = SANetFeatureExtractor(max_length=8000, return_attention_mask=False)
    explanation = explain(tiny_model, extractor, noise(3000))
    assert explanation.end == explanation.occlusion_ends[-1] == 3000 / RATE
    assert explanation.pooling_edges[-1] == explanation.attention_edges[0][-1] == 0.5
    assert explanation.pooling_weights.shape == (1000,) and explanation.attentions[0].shape == (500, 500)
    features = extractor(noise(3000), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        outputs = tiny_model(**features)
    np.testing.assert_allclose(explanation.pooling_weights, outputs.pooling_weights[0], atol=1e-7)


def test_occlusion_and_hop_follow_the_options(tiny_model, extractor):
    def seconds(length, **options):
        explanation = explain(tiny_model, extractor, noise(length), **options)
        starts, ends = explanation.occlusion_starts, explanation.occlusion_ends
        assert starts[0] == 0 and ends[-1] == pytest.approx(length / RATE) and len(starts) == len(ends)
        return ends[0], np.diff(starts).max(initial=0)

    assert seconds(8000) == pytest.approx((0.5 / 8, 0.5 / 16))
    assert seconds(8000, occlusion_seconds=0.2) == pytest.approx((0.2, 0.1))
    assert seconds(8000, occlusion_seconds=0.2, hop_seconds=0.06) == pytest.approx((0.2, 0.06))
    assert seconds(8000, occlusion_seconds=3.0) == (0.5, 0)
    assert explain(*make_other("wav2vec2"), noise(20 * RATE), hop_seconds=10).occlusion_ends[0] == 20 / 64


def test_batch_size_does_not_matter(tiny_model, extractor):
    drops = [explain(tiny_model, extractor, noise(5000), batch_size=size).score_drops for size in (1, 4, 100)]
    np.testing.assert_allclose(drops[1:], [drops[0]] * 2, atol=1e-5)


def test_several_classes_per_clip(make_model, extractor):
    model = make_model(problem_type="multi_label_classification")
    explanation = explain(model, extractor, noise(4000), label="LABEL_2", occlusion_seconds=1)
    features = extractor(noise(4000), sampling_rate=RATE, padding=False, return_tensors="pt")
    with torch.no_grad():
        scores = model(**features).logits.sigmoid()[0].numpy()
        features["input_values"][:] = 0
        silent = model(**features).logits.sigmoid()[0].numpy()
    np.testing.assert_allclose(list(explanation.scores.values()), scores, atol=1e-5)
    np.testing.assert_allclose(explanation.score_drops, scores[2] - silent[2], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label": "LABEL_11"},
            r"label='LABEL_11' is not a class.*Did you mean 'LABEL_1'\? Its classes are LABEL_0, LABEL_1",
        ),
        ({"label": "xyz"}, "'xyz' is not a class of the model. Its classes are"),
        ({"occlusion_seconds": 0.0}, "occlusion_seconds=0 must be positive"),
        ({"hop_seconds": float("inf")}, "hop_seconds=inf must be positive and finite"),
    ],
)
def test_wrong_options_are_refused(tiny_model, extractor, options, message):
    with pytest.raises(ValueError, match=message):
        explain(tiny_model, extractor, noise(100), **options)


def make_other(model_type: str):
    """Return a tiny model and its feature extractor, for up to 0.655 s (AST) or 1 s (Whisper)."""
    torch.manual_seed(0)
    if model_type == "wav2vec2":
        sizes = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
        sizes["initializer_range"] = 0.3
        return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SMALL, **sizes)).eval(), Wav2Vec2FeatureExtractor()
    if model_type == "ast":
        config = ASTConfig(**SMALL, max_length=64, initializer_range=0.3)
        return ASTForAudioClassification(config).eval(), ASTFeatureExtractor(max_length=64)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        max_source_positions=50,
        vocab_size=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        num_labels=3,
        init_std=0.3,
    )
    return WhisperForAudioClassification(config).eval(), WhisperFeatureExtractor(chunk_length=1)


@pytest.mark.parametrize("model_type", ["wav2vec2", "ast", "whisper"])
def test_other_architectures(model_type):
    """Other models only have an occlusion curve. For spectrogram models, it silences the raw waveform."""
    model, extractor = make_other(model_type)
    waveform = noise(8000) + np.float32(0.1)
    explanation = explain(model, extractor, waveform, occlusion_seconds=0.1, hop_seconds=0.1)
    index = model.config.label2id[explanation.label]
    features = extract_features(extractor, [waveform])
    score = probabilities(model, features)[index]
    if model_type == "wav2vec2":
        features["input_values"][0, 1600:3200] = 0
    else:
        waveform[1600:3200] = 0
        features = extract_features(extractor, [waveform])
    assert explanation.scores[explanation.label] == pytest.approx(score, abs=1e-5)
    assert explanation.score_drops[1] == pytest.approx(score - probabilities(model, features)[index], abs=1e-6)
    assert np.abs(explanation.score_drops[1]) > 1e-4
    assert explanation.pooling_weights is None and explanation.attentions == ()


@pytest.mark.parametrize("model_type", ["ast", "whisper"])
def test_which_parts_of_a_window_affect_spectrogram_models(model_type):
    model, extractor = make_other(model_type)
    seconds = find_window_seconds(model, extractor)
    explanation = explain(model, extractor, noise(20000))
    assert explanation.end - explanation.start == pytest.approx(seconds)
    assert explanation.occlusion_ends[-1] == pytest.approx(explanation.end)
    heard = seconds
    if model_type == "ast":
        # Patches of 16 frames start every 10 frames. The last 8 of 64 frames are in no patch. A frame has 400 samples
        # and starts every 160 samples.
        config = model.config
        num_frames = (config.max_length - config.patch_size) // config.time_stride * config.time_stride
        heard = ((num_frames + config.patch_size - 1) * 160 + 400) / RATE
    is_heard = explanation.occlusion_starts - explanation.start < heard
    assert is_heard[:-1].all() and is_heard[-1] == (model_type == "whisper")
    # Rounding error of two scores of at most 1, each after about 100 independent roundings in float32.
    margin = 2 * 100**0.5 * 2**-24
    assert ((np.abs(explanation.score_drops) > margin) == is_heard).all()


def test_json(tiny_model, extractor, tmp_path):
    explanation = explain(tiny_model, extractor, noise(3001))
    write_explanation(explanation, tmp_path / "new/out.JSON")
    result = json.loads((tmp_path / "new/out.JSON").read_text(), parse_constant=pytest.fail)
    assert result == as_dict(explanation)
    assert sorted(result) == ["attention", "end", "label", "occlusion", "pooling", "scores", "start"]
    assert sum(result["scores"].values()) == pytest.approx(1) and result["end"] == 3001 / RATE
    assert result["label"] == max(result["scores"], key=result["scores"].get)
    np.testing.assert_allclose(result["occlusion"]["score_drop"], explanation.score_drops, atol=1e-8)
    assert {len(values) for values in result["occlusion"].values()} == {len(explanation.score_drops)}
    assert len(result["pooling"]["edges"]) == len(result["pooling"]["weights"]) + 1 == 377
    (block,) = result["attention"]
    np.testing.assert_allclose(block["weights"], explanation.attentions[0], atol=1e-8)
    other = as_dict(explain(*make_other("wav2vec2"), noise(8000)))
    assert sorted(other) == ["end", "label", "occlusion", "scores", "start"]


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_pictures(tiny_model, extractor, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("an earlier one")
    explanation = explain(tiny_model, extractor, noise(3000), label="LABEL_1")
    write_explanation(explanation, path, "$a$ clip.wav")
    content = path.read_bytes()
    if suffix == ".svg":
        best = max(explanation.scores, key=explanation.scores.get)
        title = f"LABEL_1: {explanation.scores['LABEL_1']:.2f} ({best}: {explanation.scores[best]:.2f})"
        texts = ["$a$ clip.wav   0.00–0.19 s", title, "occlusion: drop of the score of LABEL_1", "pooling", "block 1"]
        assert all(text in content.decode() for text in texts) and "block 2" not in content.decode()
    elif suffix == ".pdf":
        assert content.startswith(b"%PDF")
    else:
        with Image.open(path) as image:
            assert image.width == 1080 and image.height > 600 and len(set(image.convert("L").tobytes())) > 100


def test_pictures_without_pooling_and_with_padding(tiny_model, tmp_path):
    path = tmp_path / "out.svg"
    write_explanation(explain(*make_other("ast"), noise(8000)), path, "clip.wav")
    texts = path.read_text()
    assert "spectrogram" in texts and "occlusion" in texts and "pooling" not in texts and "attention" not in texts
    extractor = SANetFeatureExtractor(max_length=8000, return_attention_mask=False)
    explanation = explain(tiny_model, extractor, noise(3000))
    write_explanation(explanation, path, "clip.wav")
    share = 100 * explanation.pooling_weights[375:].sum()
    assert f"{share:.0f} % of the weight is on the silence after the recording" in path.read_text()
    assert "0.00–0.19 s, padded with silence to 0.50 s" in path.read_text()


@pytest.mark.parametrize("waveform", [noise(1), np.zeros(4000, np.float32)], ids=["one sample", "silence"])
@pytest.mark.filterwarnings("error")
def test_extreme_clips_are_drawn(tiny_model, extractor, tmp_path, waveform):
    explanation = explain(tiny_model, extractor, waveform)
    for suffix in (".png", ".json"):
        write_explanation(explanation, tmp_path / f"out{suffix}")
    assert np.isfinite(explanation.score_drops).all()


def test_other_suffixes_are_refused(tiny_model, extractor, tmp_path):
    explanation = explain(tiny_model, extractor, noise(100))
    with pytest.raises(ValueError, match=r"out\.gif: an explanation must end in \.png, .* or \.json"):
        write_explanation(explanation, tmp_path / "out.gif")
