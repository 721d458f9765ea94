# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""SANet on a log-mel spectrogram: bands equal to torchaudio's, masks, number formats, fast layers, compilers."""

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForAudioClassification

from sanet_hf import SANetConfig, SANetForAudioClassification
from sanet_hf.errors import UsageError
from sanet_hf.optimization.optimize import calibrate_int8, optimize_for_inference
from sanet_hf.optimization.self_check import check_layer
from sanet_hf.spectrogram_sanet import FLOOR, LOWEST_FREQUENCY, SANetConv2d, _power_spectrum


SIZES = {
    "spectrogram_dim": [8, 16],
    "spectrogram_pool": [[1, 2], [2, 2]],
    "num_mel_bins": 16,
    "spectrogram_window": 256,
    "spectrogram_stride": 64,
    "use_band_statistics": True,
    "conv_dim": [],
    "conv_kernel": [],
    "conv_stride": [],
    "attention_after": [-1],
    "attention_dim": [16],
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pool_hidden_size": 8,
    "classifier_hidden_sizes": [12],
    "num_labels": 3,
}


WAVEFORM = {
    "spectrogram_dim": [],
    "spectrogram_pool": [],
    "conv_dim": [8],
    "conv_kernel": [16],
    "conv_stride": [4],
    "attention_after": [0],
}


def make_model(**sizes) -> SANetForAudioClassification:
    """Return a network with weights and statistics that are large enough to reveal errors."""
    torch.manual_seed(0)
    model = SANetForAudioClassification(SANetConfig(**{**SIZES, **sizes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def clips():
    return 0.1 * torch.randn(3, 5000, generator=torch.Generator().manual_seed(2))


def test_bands_equal_torchaudio():
    model = SANetForAudioClassification(SANetConfig(**{**SIZES, "num_mel_bins": 64, "spectrogram_window": 1024}))
    layer = model.sanet.layers[0].eval()
    waveform = 0.1 * torch.randn(1, 6400, generator=torch.Generator().manual_seed(0))
    mel = torchaudio.transforms.MelSpectrogram(
        16000, 1024, hop_length=64, f_min=LOWEST_FREQUENCY, n_mels=64, center=False
    )
    expected = torch.log(mel(torch.nn.functional.pad(waveform, (480, 480))) + FLOOR).mT
    # The running statistics of a new BatchNorm change nothing except for epsilon.
    torch.testing.assert_close(layer(waveform.unsqueeze(-1)), expected / (1 + 1e-5) ** 0.5, atol=1e-3, rtol=1e-4)
    assert expected.shape == (1, 100, 64)


def test_compilers_compute_the_same_spectrum(monkeypatch):
    frames = torch.randn(2, 3, 1024, generator=torch.Generator().manual_seed(0))
    expected = _power_spectrum(frames)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(_power_spectrum(frames), expected, atol=2e-3, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 5000), min_size=2, max_size=3))
def test_logits_do_not_depend_on_other_clips(model, clips, lengths):
    mask = (torch.arange(5000) < torch.tensor(lengths).unsqueeze(1)).int()
    with torch.no_grad():
        together = model(clips[: len(lengths)], mask).logits
        alone = torch.cat([model(clips[row : row + 1, :length]).logits for row, length in enumerate(lengths)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_padding_does_not_count_in_training(model, clips):
    trained = make_model().train()
    mask = (torch.arange(5000) < torch.tensor([[5000], [3000], [700]])).int()
    clips = torch.where(mask.bool(), clips, torch.tensor(7.0))
    longer = torch.nn.functional.pad(clips, (0, 1000)), torch.nn.functional.pad(mask, (0, 1000))
    torch.testing.assert_close(trained(clips, mask).logits, trained(*longer).logits, atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient(clips):
    trained = make_model().train()
    trained(clips, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert [name for name, value in trained.named_parameters() if value.grad is None] == []


def test_frozen_encoder_excludes_the_attention():
    trained = make_model()
    trained.freeze_feature_encoder()
    frozen = {name for name, value in trained.named_parameters() if not value.requires_grad}
    layers = ("sanet.layers.0.", "sanet.layers.1.", "sanet.layers.2.")
    assert frozen == {name for name, _ in trained.named_parameters() if name.startswith(layers)} != set()


def test_round_trip_and_half_precision(model, clips, tmp_path):
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(clips).logits
        loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
        assert torch.equal(loaded(clips).logits, expected)
        half = AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
        # Loud clips work, because the spectrogram is computed in float32.
        for gain in (1.0, 100.0):
            torch.testing.assert_close(
                half(gain * clips).logits.float(), model(gain * clips).logits, atol=0.1, rtol=0.05
            )


def test_optimized(model, clips):
    mask = (torch.arange(5000) < torch.tensor([[5000], [3000], [700]])).int()
    optimized = optimize_for_inference(model)
    with torch.no_grad():
        for inputs in ((clips,), (clips, mask), (clips[:1, :777],)):
            expected = model(*inputs, output_hidden_states=True)
            output = optimized(*inputs, output_hidden_states=True)
            torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=1e-4)
            for hidden, other in zip(output.hidden_states, expected.hidden_states, strict=True):
                torch.testing.assert_close(hidden, other, atol=1e-4, rtol=1e-4)
    parts = optimize_for_inference(model)
    with torch.no_grad():
        torch.testing.assert_close(parts(clips.repeat(8, 1)).logits, model(clips).logits.repeat(8, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [(1, 8), (8, 16), (16, 32)], ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_convolutions_are_right_on_this_processor(channels, dtype):
    torch.manual_seed(0)
    check = check_layer(SANetConv2d(*channels, 3, padding=1, bias=False), dtype, training=True)
    assert check.is_right, check


def test_wrong_convolutions_are_found(monkeypatch):
    layer = SANetConv2d(3, 5, 3, padding=1)
    monkeypatch.setattr(layer, "forward", lambda hidden_states: 2 * SANetConv2d.forward(layer, hidden_states))
    assert not check_layer(layer, torch.float32, training=False).is_right


def test_int8_is_refused(model):
    with pytest.raises(UsageError, match="int8 does not support SANets with a spectrogram"):
        calibrate_int8(model, [{"input_values": torch.zeros(1, 1000)}])


def test_sizes():
    config = SANetConfig(**SIZES)
    assert (config.hidden_size, config.num_hidden_layers, config.inputs_to_logits_ratio) == (16, 3, 128)
    assert (config.total_stride, config.max_input_samples) == (512, 512 * 64)
    config = SANetConfig(**{**SIZES, "conv_dim": [24], "conv_kernel": [3], "conv_stride": [2], "attention_after": [0]})
    assert (config.hidden_size, config.inputs_to_logits_ratio) == (24, 256)
    model = SANetForAudioClassification(config)
    assert model.sanet.layers[3].conv1.weight.shape == (24, 16, 3)
    assert model(torch.zeros(1, 1000)).logits.shape == (1, 3)


def test_shapes_of_hidden_states(model):
    with torch.no_grad():
        output = model(torch.from_numpy(np.ones((1, 1000), np.float32)), output_hidden_states=True)
    shapes = [tuple(hidden.shape) for hidden in output.hidden_states]
    assert shapes == [(1, 16, 16), (1, 16, 8 * 8), (1, 8, 16), (1, 8, 16)]


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"spectrogram_dim": []}, "at least one stage"),
        ({"spectrogram_pool": [[1, 2]]}, "the same length"),
        ({"spectrogram_pool": [[1, 2], [2]]}, "pairs"),
        ({"spectrogram_pool": [[1, 2], [2, 3]]}, "must divide num_mel_bins"),
        ({"spectrogram_window": 250}, "multiple"),
        ({"num_mel_bins": 80}, "too large"),
        ({"num_channels": 2}, "needs num_channels=1"),
        ({"spectrogram_dim": [4, 16]}, "se_reduction"),
        ({"spectrogram_stride": 0}, "must be positive"),
        ({"attention_after": [-2]}, "ascending order"),
        (WAVEFORM, "use_band_statistics needs spectrogram_dim"),
    ],
)
def test_contradicting_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        SANetConfig(**{**SIZES, **sizes})


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"attention_after": [], "attention_dim": []},
        {**WAVEFORM, "use_band_statistics": False},
    ],
    ids=["spectrogram", "no_attention", "waveform"],
)
def test_layers_that_are_not_split_exist(sizes):
    """Sharding fails for a name that the model does not have. Modules outside of layers are sharded with the rest."""
    model = SANetForAudioClassification(SANetConfig(**{**SIZES, **sizes}))
    layers = {type(layer).__name__ for layer in model.sanet.layers}
    assert set(model._no_split_modules) == set(model.sanet._no_split_modules) == layers


def test_exported_program_supports_any_batch(model):
    def batch(count: int, length: int) -> dict[str, torch.Tensor]:
        waveforms = 0.1 * torch.randn(count, length, generator=torch.Generator().manual_seed(count))
        # Silence within a clip and padding do not count in the statistics of the bands.
        waveforms[0, 2000:2500] = 0
        mask = torch.ones(count, length, dtype=torch.int32)
        mask[-1, 3000:] = 0
        return {"input_values": waveforms, "attention_mask": mask}

    example = batch(2, 6000)
    shapes = {name: dict.fromkeys((0, 1), torch.export.Dim.AUTO) for name in example}
    program = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
    for inputs in (batch(1, 9000), batch(3, 5000)):
        with torch.no_grad():
            torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
