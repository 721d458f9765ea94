# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of every architecture: from scratch, from checkpoints, for other labels and lengths, partly frozen."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    ASTModel,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WhisperForConditionalGeneration,
)

from sanet_hf import SANetConfig
from sanet_hf.architectures import (
    backbone,
    extract_features,
    find_window_seconds,
    head_parameter_names,
    interpolate_positions,
)
from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import ModelArguments
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import EvaluationClips, TrainingClips
from sanet_hf.training.models import make_model, read_sampling_rate

from .tiny_models import MODEL_TYPES, SIZES, TRANSFORMER, WAVEFORM, overrides, save_checkpoint


LABELS = ["a", "b", "c"]
RECORDINGS = Dataset.from_dict({"label": [0], "seconds": [1.0]}).cast_column("label", ClassLabel(names=["a"]))
CLASSIFIERS = {
    "sanet": "SANetForAudioClassification",
    "wav2vec2": "Wav2Vec2ForSequenceClassification",
    "hubert": "HubertForSequenceClassification",
    "ast": "ASTForAudioClassification",
    "whisper": "WhisperForAudioClassification",
}
PROJECTED_HEAD = {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"}
HEADS = {
    "sanet": {f"classifier.{layer}.{name}" for layer in (0, 1, 4) for name in ("weight", "bias")},
    "wav2vec2": PROJECTED_HEAD,
    "hubert": PROJECTED_HEAD,
    "whisper": PROJECTED_HEAD,
    "ast": {f"classifier.{layer}.{name}" for layer in ("layernorm", "dense") for name in ("weight", "bias")},
}


def scratch(model_type: str, labels=LABELS, seconds: float = 4.0, **options):
    options = {"config_overrides": overrides(model_type), **options}
    return make_model(ModelArguments(model_type=model_type, **options), labels, seconds)


def kept_positions(model_type: str) -> dict[str, str]:
    """Return options that keep the positions of a checkpoint instead of fitting them to the clips."""
    return {"position_embeddings": "keep"} if model_type.startswith(("ast", "whisper")) else {}


def load(folder, labels=LABELS, seconds: float = 4.0, **options):
    return make_model(ModelArguments(model_name_or_path=str(folder), **options), labels, seconds)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds)).astype(np.float32)


@torch.inference_mode()
def logits_of(model, feature_extractor, *waveforms) -> torch.Tensor:
    return model.eval()(**extract_features(feature_extractor, waveforms)).logits


def same(first: dict, second: dict, names) -> list[bool]:
    return [torch.equal(first[name], second[name]) for name in sorted(names)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the folder and the model of a classifier of `x`, `y` and `z` for each architecture."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: (folder / name, save_checkpoint(folder / name, name)[0]) for name in MODEL_TYPES}


# From scratch


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_from_scratch(model_type):
    torch.manual_seed(0)
    model, feature_extractor = scratch(model_type)
    assert type(model).__name__ == CLASSIFIERS[model_type]
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert feature_extractor.sampling_rate == 16000 and model.num_parameters() < 100_000
    first, second = logits_of(model, feature_extractor, noise(4), noise(4, seed=1))
    assert first.shape == (3,) and not torch.equal(first, second)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_problem_type_replaces_that_of_a_checkpoint(problem_type, tmp_path):
    arguments = ModelArguments(model_type="wav2vec2", config_overrides=overrides("wav2vec2"))
    model, feature_extractor = make_model(arguments, LABELS, 4.0, problem_type)
    assert model.config.problem_type == problem_type
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    other = "multi_label_classification"
    again, _ = make_model(ModelArguments(model_name_or_path=str(tmp_path)), LABELS, 4.0, other)
    assert again.config.problem_type == other


def test_feature_extractor_has_the_sizes_of_the_network():
    model, feature_extractor = scratch("whisper", config_overrides=overrides("whisper") + ",num_mel_bins=40")
    assert feature_extractor.feature_size == 40
    assert logits_of(model, feature_extractor, noise(1)).shape == (1, 3)
    sizes = overrides("ast") + ",num_mel_bins=64,max_length=200"
    model, feature_extractor = scratch("ast", config_overrides=sizes, seconds=2.02)
    assert (feature_extractor.num_mel_bins, feature_extractor.max_length) == (64, 200)
    assert logits_of(model, feature_extractor, noise(1)).shape == (1, 3)


@pytest.mark.parametrize(
    ("model_type", "text", "name", "heads"),
    [
        ("wav2vec2", "num_hidden_layers=2,hidden_size=64", "num_attention_heads", 8),
        ("ast", "num_hidden_layers=1,hidden_size=40", "num_attention_heads", 10),
        ("whisper", "encoder_layers=1,d_model=40", "encoder_attention_heads", 5),
    ],
)
def test_attention_heads_fit_the_size(model_type, text, name, heads, caplog):
    """If the default number of heads does not divide a given width, another number is used, with a warning."""
    small = {"whisper": ",vocab_size=8,pad_token_id=0,decoder_layers=1", "wav2vec2": ",intermediate_size=64"}
    model, _ = scratch(model_type, config_overrides=text + small.get(model_type, ""))
    assert getattr(model.config, name) == heads
    assert f"Using {name}={heads}, since" in caplog.text and "does not divide" in caplog.text


def test_given_or_fitting_attention_heads_stay(caplog):
    small = "num_hidden_layers=1,intermediate_size=64"
    model, _ = scratch("wav2vec2", config_overrides=f"{small},hidden_size=64,num_attention_heads=2")
    assert model.config.num_attention_heads == 2
    model, _ = scratch("wav2vec2", config_overrides=f"{small},hidden_size=96")
    assert model.config.num_attention_heads == 12
    assert "does not divide" not in caplog.text


# From a checkpoint


@pytest.mark.parametrize("labels", [["x", "y", "z"], ["z", "x", "y"]], ids=["same_order", "other_order"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_same_labels_keep_the_head(checkpoints, model_type, labels, caplog):
    folder, saved = checkpoints[model_type]
    model, _ = load(folder, labels, seconds=2.0)
    assert model.config.label2id == {"x": 0, "y": 1, "z": 2}
    head = head_parameter_names(model)
    assert head == HEADS[model_type] and all(same(saved.state_dict(), model.state_dict(), head))
    assert "classification head" not in caplog.text


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["w", "x", "y", "z"]], ids=["as_many", "more"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_other_labels_get_a_new_head(checkpoints, model_type, labels, caplog):
    """The whole head is new, even layers whose shapes would fit. The rest of the network stays."""
    folder, saved = checkpoints[model_type]
    model, feature_extractor = load(folder, labels, **kept_positions(model_type))
    assert model.config.label2id == {label: index for index, label in enumerate(labels)}
    assert "trained on other labels (x, y, z). It gets a new classification head" in caplog.text
    old, new, head = saved.state_dict(), model.state_dict(), head_parameter_names(model)
    assert head == HEADS[model_type]
    # Biases and the weights of norms start from constants.
    weights = [name for name in head if new[name].dim() == 2 and new[name].shape == old[name].shape]
    assert weights or (model_type, len(labels)) == ("ast", 4)
    assert not any(same(old, new, weights))
    assert all(same(old, new, set(new) - head))
    assert logits_of(model, feature_extractor, noise(1)).shape == (1, len(labels))
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name in head)


@pytest.mark.parametrize("model_type", ["wav2vec2", "whisper"])
def test_new_head_has_new_layer_weights(tmp_path, model_type):
    """The weights of the sum over layers are a parameter of the classifier itself."""
    saved, _ = save_checkpoint(tmp_path, model_type, use_weighted_layer_sum=True)
    with torch.no_grad():
        saved.layer_weights.copy_(torch.tensor([0.0, 0.0, 1.0]))
    saved.save_pretrained(tmp_path)
    same_labels, _ = load(tmp_path, ["x", "y", "z"])
    assert same_labels.layer_weights.tolist() == [0, 0, 1]
    other_labels, _ = load(tmp_path, LABELS)
    assert head_parameter_names(other_labels) == {*PROJECTED_HEAD, "layer_weights"}
    assert torch.allclose(other_labels.layer_weights, torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    ("model_type", "model_class", "prefix", "part"),
    [
        ("wav2vec2", Wav2Vec2Model, "", "wav2vec2"),
        ("wav2vec2", Wav2Vec2ForCTC, "wav2vec2.", "wav2vec2"),
        ("hubert", HubertModel, "", "hubert"),
        ("ast", ASTModel, "", "audio_spectrogram_transformer"),
        ("whisper", WhisperForConditionalGeneration, "model.encoder.", "encoder"),
    ],
    ids=["wav2vec2", "wav2vec2_for_ctc", "hubert", "ast", "whisper_for_speech_recognition"],
)
def test_pretrained_encoder_gets_a_head(tmp_path, model_type, model_class, prefix, part, caplog):
    saved = save_checkpoint(tmp_path, model_type, model_class=model_class)[0].state_dict()
    model, feature_extractor = load(tmp_path, LABELS, **kept_positions(model_type))
    assert type(model).__name__ == CLASSIFIERS[model_type] and model.config.id2label == {0: "a", 1: "b", 2: "c"}
    # An encoder without labels must not be treated as a classifier of LABEL_0 and LABEL_1.
    assert "pretrained without labels. It gets a new classification head for a, b, c" in caplog.text
    names = set(dict(backbone(model).named_parameters()))
    loaded = model.state_dict()
    assert names and all(torch.equal(saved[prefix + name], loaded[f"{part}.{name}"]) for name in names)
    assert logits_of(model, feature_extractor, noise(1)).isfinite().all()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_saved_model_gives_the_same_logits(tmp_path, model_type):
    """Clips can be shorter than the fitted length and, for AST and Whisper, longer."""
    model, feature_extractor = scratch(model_type, seconds=2.0)
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    loaded_extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert loaded_extractor.to_dict() == feature_extractor.to_dict()
    for clip in (noise(0.3), noise(2), noise(4 if model_type in ("ast", "whisper") else 2)):
        assert torch.equal(logits_of(model, feature_extractor, clip), logits_of(loaded, loaded_extractor, clip))


# Positions


def test_ast_positions_fit_the_longest_clip(checkpoints, tmp_path):
    folder, saved = checkpoints["ast"]
    model, feature_extractor = load(folder, ["x", "y", "z"])
    assert model.config.max_length == feature_extractor.max_length == 398
    # With a stride of 10: 12 patches of 16 bins in 128, 39 patches of 16 frames in 398.
    assert model.audio_spectrogram_transformer.embeddings.position_embeddings.shape == (1, 2 + 12 * 39, 32)
    clip = noise(4)
    assert extract_features(feature_extractor, [clip])["input_values"].shape == (1, 398, 128)
    # The clip has exactly 398 frames: the last one is not padding.
    longer = AutoFeatureExtractor.from_pretrained(folder)([clip], sampling_rate=16000, return_tensors="pt")
    padding = longer["input_values"][0, -1, 0]
    assert (longer["input_values"][0, 398:] == padding).all() and (longer["input_values"][0, 397] != padding).all()
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    loaded, loaded_extractor = load(tmp_path, ["x", "y", "z"])
    assert torch.equal(logits_of(model, feature_extractor, clip), logits_of(loaded, loaded_extractor, clip))
    assert saved.config.max_length == 1024


def test_ast_can_keep_its_positions(checkpoints):
    folder, saved = checkpoints["ast"]
    model, feature_extractor = load(folder, ["x", "y", "z"], position_embeddings="keep")
    assert model.config.max_length == feature_extractor.max_length == 1024
    clip = noise(1)
    assert torch.equal(logits_of(model, feature_extractor, clip), logits_of(saved, feature_extractor, clip))


def test_ast_frames_follow_from_the_clip_length(checkpoints):
    """Frames of 25 ms every 10 ms: 10.24 s have 1022 frames."""
    model, feature_extractor = load(checkpoints["ast"][0], LABELS, seconds=10.24)
    assert model.config.max_length == feature_extractor.max_length == 1022


# Length and sampling rate


@settings(max_examples=25, deadline=None)
@given(rate=st.integers(8000, 96_000), seconds=st.floats(0.1, 60))
@example(rate=16000, seconds=4.0)
@example(rate=96_000, seconds=60.0)
@example(rate=8000, seconds=0.1)
def test_sanet_from_scratch_fits_length_and_rate(rate, seconds):
    model, feature_extractor = scratch("sanet", seconds=seconds, sampling_rate=rate)
    samples = round(seconds * rate)
    assert (feature_extractor.sampling_rate, feature_extractor.max_length) == (rate, samples)
    assert round(find_window_seconds(model, feature_extractor) * rate) == samples
    # As many positions as the length needs, but not fewer than the default.
    frame = model.config.max_input_samples // model.config.max_position_embeddings
    default = SANetConfig().max_position_embeddings
    assert model.config.max_position_embeddings == max(default, -(-samples // frame))
    clips = TrainingClips(RECORDINGS, feature_extractor, {"a": 0}, seconds)
    assert clips.max_length == samples
    starts = EvaluationClips(
        RECORDINGS.map(lambda row: {"seconds": 2.5 * samples / rate}), feature_extractor, {"a": 0}, seconds, True
    ).starts
    assert starts == [0, samples, round(2.5 * samples / rate * rate) - samples]


def test_longest_clip_fits_the_positions():
    """A clip of the maximum length gets finite scores."""
    model, feature_extractor = scratch("sanet", seconds=10, sampling_rate=8000)
    waveform = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    features = feature_extractor(waveform, sampling_rate=8000, return_tensors="pt")
    assert features["input_values"].shape == (1, 80_000)
    assert logits_of(model, feature_extractor, waveform).isfinite().all()


@pytest.mark.parametrize("positions", [100, 5000])
def test_given_number_of_positions_is_used(positions):
    given_ones = {"config_overrides": overrides("sanet") + f",max_position_embeddings={positions}"}
    assert scratch("sanet", seconds=0.1, **given_ones)[0].config.max_position_embeddings == positions
    if positions == 100:
        with pytest.raises(
            UsageError, match=r"--max_length_seconds 60: .* without max_position_embeddings in --config_overrides"
        ):
            scratch("sanet", seconds=60, **given_ones)


@pytest.mark.parametrize(("model_type", "seconds"), [("sanet", 40), ("ast", 30), ("whisper", 40)])
def test_only_networks_from_scratch_support_longer_clips(checkpoints, model_type, seconds):
    message = rf"--max_length_seconds {seconds}: this (model|{checkpoints[model_type][1].config.model_type}) .*scratch"
    with pytest.raises(UsageError, match=message):
        load(checkpoints[model_type][0], LABELS, seconds=seconds)
    model, feature_extractor = scratch(model_type, seconds=seconds)
    assert find_window_seconds(model, feature_extractor) == seconds
    longest = noise(seconds)
    features = extract_features(feature_extractor, [longest])
    # The end of the clip changes the features, so it is used.
    changed = longest.copy()
    changed[-8000:] = 0
    other = extract_features(feature_extractor, [changed])
    name = feature_extractor.model_input_names[0]
    assert features[name].shape == other[name].shape and not torch.equal(features[name], other[name])
    assert logits_of(model, feature_extractor, longest).isfinite().all()


@pytest.mark.parametrize("rate", [7999, 96_001, 0, -1])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(UsageError, match=f"--sampling_rate {rate} must be from 8000 to 96000 Hz"):
        scratch("sanet", sampling_rate=rate)


@pytest.mark.parametrize("source", ["scratch", "checkpoint"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_only_sanet_from_scratch_has_a_free_rate(checkpoints, model_type, source):
    folder = checkpoints[model_type][0]
    options = {"model_name_or_path": str(folder)} if source == "checkpoint" else {"model_type": model_type}
    assert read_sampling_rate(ModelArguments(**options, sampling_rate=16000)) == 16000
    if (model_type, source) == ("sanet", "scratch"):
        assert read_sampling_rate(ModelArguments(**options, sampling_rate=48000)) == 48000
        return
    for make in (read_sampling_rate, lambda arguments: make_model(arguments, LABELS, 1.0)):
        with pytest.raises(UsageError, match=r"--sampling_rate 48000: .* needs 16000 Hz\."):
            make(ModelArguments(**options, sampling_rate=48000))


def test_ast_has_at_least_one_patch(checkpoints):
    model, feature_extractor = load(checkpoints["ast"][0], LABELS, seconds=0.05)
    assert model.config.max_length == feature_extractor.max_length == 16
    assert logits_of(model, feature_extractor, noise(0.05)).shape == (1, 3)


def patches(grid: torch.Tensor) -> torch.Tensor:
    """Return positions of two tokens and of a grid of shape (frequency, time)."""
    return torch.cat([torch.tensor([7.0, 8.0]), grid.flatten()])[None, :, None]


def test_constant_positions_stay_constant():
    positions = interpolate_positions(patches(torch.full((12, 101), 3.0)), (12, 101), (12, 39))
    assert positions.shape == (1, 2 + 12 * 39, 1)
    assert positions[0, :2, 0].tolist() == [7, 8] and torch.allclose(positions[0, 2:], torch.tensor(3.0))


def test_positions_of_the_same_shape_do_not_change():
    positions = torch.randn(1, 2 + 12 * 101, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolate_positions(positions, (12, 101), (12, 101)), positions)


def test_positions_of_a_ramp_in_time_stay_a_ramp():
    grid = torch.arange(101.0).expand(12, 101)
    ramp = interpolate_positions(patches(grid), (12, 101), (12, 39))[0, 2:, 0].reshape(12, 39)
    assert (ramp.diff(dim=1) > 0).all()
    assert torch.equal(ramp, ramp[:1].expand(12, 39))
    assert 0 <= ramp[0, 0] < 101 / 39 and 100 - 101 / 39 < ramp[0, -1] <= 100


def test_positions_between_two_are_their_mean():
    """The rows of the grid are frequencies, the columns are times."""
    grid = torch.tensor([[0.0, 2.0, 10.0, 20.0], [1.0, 3.0, 30.0, 50.0]])
    positions = interpolate_positions(patches(grid), (2, 4), (2, 2))
    assert positions[0, 2:, 0].tolist() == [1, 15, 2, 40]


def test_whisper_positions_fit_the_longest_clip(checkpoints, tmp_path):
    folder, saved = checkpoints["whisper"]
    model, feature_extractor = load(folder, ["x", "y", "z"])
    assert feature_extractor.nb_max_frames == 400 and feature_extractor.n_samples == 64000
    assert extract_features(feature_extractor, [noise(1)])["input_features"].shape == (1, 80, 400)
    assert model.config.max_source_positions == 200
    positions = model.encoder.embed_positions.weight
    assert torch.equal(positions, saved.encoder.embed_positions.weight[:200]) and not positions.requires_grad
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    loaded_extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert torch.equal(loaded.encoder.embed_positions.weight, positions)
    expected = logits_of(model, feature_extractor, noise(3))
    assert torch.equal(logits_of(loaded, loaded_extractor, noise(3)), expected)
    # With padding to 30 s, the mean over frames differs.
    whole, whole_extractor = load(folder, ["x", "y", "z"], position_embeddings="keep")
    assert whole_extractor.nb_max_frames == 3000
    assert not torch.allclose(logits_of(whole, whole_extractor, noise(3)), expected, atol=1e-5)


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 100), (3.2, 400), (30.0, 3000)])
def test_whisper_length_is_whole_seconds_up_to_30(checkpoints, seconds, frames):
    model, feature_extractor = load(checkpoints["whisper"][0], LABELS, seconds=seconds)
    assert feature_extractor.nb_max_frames == frames and model.config.max_source_positions == frames // 2


@pytest.mark.parametrize("source", ["scratch", "checkpoint"])
def test_sanet_crops_to_the_longest_clip(checkpoints, source):
    make = scratch if source == "scratch" else lambda name, **options: load(checkpoints[name][0], **options)
    _, feature_extractor = make("sanet", seconds=1.5)
    assert feature_extractor.max_length == 24000


# Mistakes


@pytest.mark.parametrize(
    ("options", "seconds", "message"),
    [
        ({"model_type": "wav2vec"}, 4, "--model_type wav2vec is not an audio classifier. Choose one of: .*wav2vec2"),
        ({"model_type": "bert"}, 4, "--model_type bert is not an audio classifier"),
        ({"config_overrides": "conv_dims=[8]"}, 4, "SANetConfig has no 'conv_dims'"),
        ({"model_type": "ast", "config_overrides": "d_model=8"}, 4, "ASTConfig has no 'd_model'"),
        (
            {"model_type": "wav2vec2", "config_overrides": "conv_dim=[8]"},
            4,
            r"--config_overrides: [^|]*len\(config.conv_dim\)",
        ),
        ({"model_type": "ast", "config_overrides": "hidden_size=wide"}, 4, "--config_overrides: "),
        (
            {"model_type": "wav2vec2", "config_overrides": "hidden_size=64,num_attention_heads=7"},
            4,
            "--config_overrides: .*num_heads",
        ),
        (
            {"model_name_or_path": "CHECKPOINT", "config_overrides": "hidden_size=64"},
            4,
            "a checkpoint has its own configuration",
        ),
        (
            {"model_name_or_path": "none/such"},
            4,
            "--model_name_or_path none/such: model not found. It is neither a folder",
        ),
        ({"model_type": "ast", "freeze": "feature_encoder"}, 4, "--freeze feature_encoder: .* no convolutions"),
        ({"model_type": "whisper", "freeze": "feature_encoder"}, 4, "--freeze feature_encoder: .* no convolutions"),
        ({"model_type": "wav2vec2"}, 0, "--max_length_seconds 0 must be positive"),
        ({"model_type": "ast"}, -1, "--max_length_seconds -1 must be positive"),
        ({"model_type": "whisper"}, -1, "--max_length_seconds -1 must be positive"),
        ({}, 0, "--max_length_seconds 0"),
    ],
)
def test_invalid_options_are_refused(checkpoints, options, seconds, message):
    if options.get("model_name_or_path") == "CHECKPOINT":
        options = {**options, "model_name_or_path": str(checkpoints["wav2vec2"][0])}
    elif "model_name_or_path" not in options and "config_overrides" not in options:
        model_type = options.get("model_type", "sanet")
        options = {**options, "config_overrides": overrides(model_type)} if model_type in MODEL_TYPES else options
    with pytest.raises(UsageError, match=message):
        make_model(ModelArguments(**options), LABELS, seconds)


def test_text_model_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="a model of type 'bert' is not an audio classifier"):
        load(tmp_path)


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_incomplete_model_folder_is_refused(tmp_path, missing):
    save_checkpoint(tmp_path, "wav2vec2")
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match="the model cannot be loaded"):
        load(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    save_checkpoint(tmp_path, "wav2vec2")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match="the model cannot be loaded"):
        load(tmp_path)


def test_weights_of_other_sizes_are_refused(tmp_path):
    """The labels are the same, so the sizes of the head must fit."""
    save_checkpoint(tmp_path, "wav2vec2")
    config = Wav2Vec2Config.from_pretrained(tmp_path)
    config.classifier_proj_size = 8
    config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="the model cannot be loaded"):
        load(tmp_path, ["x", "y", "z"])


# Trained parameters


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_head_parameters(model_type):
    model, _ = scratch(model_type)
    assert head_parameter_names(model) == HEADS[model_type]


@pytest.mark.parametrize(
    ("model_type", "freeze"),
    [
        *((model_type, freeze) for model_type in MODEL_TYPES for freeze in ("none", "backbone")),
        *((model_type, "feature_encoder") for model_type in ("sanet", "wav2vec2", "hubert")),
    ],
)
@pytest.mark.parametrize("source", ["scratch", "checkpoint"])
def test_freeze(checkpoints, model_type, freeze, source):
    if source == "scratch":
        model, _ = scratch(model_type, freeze=freeze)
    else:
        model, _ = load(checkpoints[model_type][0], LABELS, freeze=freeze)
    names = {name for name, _ in model.named_parameters()}
    frozen = {
        "none": set(),
        "backbone": names - HEADS[model_type],
        # SANet: three convolution stages, then attention.
        "feature_encoder": {
            name
            for name in names
            if ".feature_extractor." in name or name.startswith(tuple(f"sanet.layers.{layer}." for layer in range(3)))
        },
    }[freeze]
    # Whisper's sinusoids are never trained.
    frozen |= {"encoder.embed_positions.weight"} & names
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    assert freeze == "none" or frozen


def test_padding_option_needs_sanet(tmp_path):
    with pytest.raises(UsageError, match="--padding max_length needs SANet"):
        make_model(ModelArguments(model_type="wav2vec2", padding="max_length"), ["a", "b"], 1.0)


@pytest.mark.parametrize("override", ["model_type=ast", "num_labels=7", "problem_type=regression", "id2label={0: a}"])
def test_overrides_outside_the_network_are_refused(override):
    arguments = ModelArguments(config_overrides=override)
    with pytest.raises(UsageError, match=f"cannot set {override.split('=')[0]}"):
        make_model(arguments, ["a", "b"], 1.0)


ALL_TYPES = sorted(config.model_type for config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING)


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_every_architecture_trains_from_scratch(model_type):
    """Each value of --model_type trains one step on two clips of different lengths."""
    sizes = SIZES.get(model_type) or (TRANSFORMER if model_type == "wav2vec2-bert" else WAVEFORM)
    text = ",".join(f"{name}={value}" for name, value in sizes.items())
    model, feature_extractor = make_model(
        ModelArguments(model_type=model_type, config_overrides=text), ["a", "b"], 1.0
    )
    clips = [np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32) for length in (16000, 9000)]
    items = []
    for label, clip in enumerate(clips):
        features = extract_features(feature_extractor, [clip], padding=False, return_tensors=None)
        items.append({**{name: np.asarray(value[0]) for name, value in features.items()}, "labels": label})
    torch.manual_seed(0)
    loss = model.train()(**collate(items, feature_extractor)).loss
    loss.backward()
    assert torch.isfinite(loss) and any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("overrides", ["num_channels=2", "se_reduction=0"])
def test_unusable_network_sizes_are_refused(overrides):
    with pytest.raises(UsageError, match="--config_overrides: "):
        make_model(ModelArguments(config_overrides=overrides), ["a", "b"], 1.0)


def test_keeping_positions_of_sanet_is_refused():
    with pytest.raises(UsageError, match="--position_embeddings keep has no effect on sanet"):
        make_model(ModelArguments(position_embeddings="keep"), ["a", "b"], 1.0)


def test_model_type_of_another_checkpoint_is_a_warning(checkpoints, caplog):
    load(checkpoints["wav2vec2"][0], model_type="ast")
    assert "model_type ast has no effect" in caplog.text


def test_new_head_is_not_reported_as_missing_weights(tmp_path, caplog):
    save_checkpoint(tmp_path / "checkpoint", "sanet", ["x", "y", "z"])
    make_model(ModelArguments(model_name_or_path=str(tmp_path / "checkpoint")), ["a", "b"], 0.3)
    assert "It gets a new classification head for a, b" in caplog.text
    assert "LOAD REPORT" not in caplog.text and "start from random values" not in caplog.text


def test_missing_weights_of_the_network_are_named(tmp_path, caplog):
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, "sanet", ["x", "y", "z"])
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.startswith("sanet.") and name.endswith("conv1.weight"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    make_model(ModelArguments(model_name_or_path=str(folder)), ["a", "b"], 0.3)
    assert f"has no fitting weights for {lost}. These start from random values" in caplog.text
