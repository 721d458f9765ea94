# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""int8 layers and models: exact sums, all outputs, and clips that do not depend on each other."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

from sanet_hf.errors import UsageError
from sanet_hf.layers_sanet import SANetConv1d
from sanet_hf.optimization import (
    Int8Calibration,
    calibrate_int8,
    int8,
    int8_layers,
    optimize_for_inference,
    quantize_for_inference,
)
from sanet_hf.optimization.int8_layers import (
    Int8Conv1d,
    Int8Linear,
    has_int8_layers,
    int8_layer,
    is_quantized,
    quantize,
)
from sanet_hf.optimization.optimize import prepare_classifier


pytestmark = pytest.mark.skipif(not has_int8_layers(), reason="needs PyTorch's int8 layers through oneDNN")


@pytest.fixture(scope="module")
def batches(make_waveforms):
    return [{"input_values": make_waveforms(2, 16384)}]


@pytest.fixture(scope="module")
def calibration(full_size_model, batches):
    return calibrate_int8(full_size_model, batches)


@pytest.fixture(scope="module")
def quantized(full_size_model, calibration):
    return quantize_for_inference(full_size_model, calibration)


@pytest.fixture(scope="module")
def tiny_quantized(make_model, make_waveforms):
    model = make_model()
    return quantize_for_inference(model, calibrate_int8(model, [{"input_values": make_waveforms(3, 8000)}]))


@pytest.mark.parametrize(
    ("in_channels", "kernel_size", "stride", "groups"),
    [(32, 64, 1, 1), (32, 32, 2, 1), (16, 8, 1, 1), (64, 6, 2, 1), (32, 5, 1, 4), (24, 1, 2, 1)],
)
def test_convolution(in_channels, kernel_size, stride, groups):
    """The output is the exact result of rounded inputs and weights, with and without merged frames."""
    torch.manual_seed(0)
    padding = (stride + kernel_size - 2) // 2
    conv = SANetConv1d(in_channels, 32, kernel_size, stride=stride, padding=padding, groups=groups)
    inputs = torch.nn.functional.gelu(torch.randn(2, 201, in_channels))
    layer = int8_layer(conv, (inputs.min().item(), inputs.max().item()))
    assert isinstance(layer, Int8Conv1d) and (layer.num_merged > 0) == (in_channels * stride <= 64 and kernel_size > 6)
    with torch.no_grad():
        expected, output = conv(inputs), layer(inputs)
        integers = quantize(inputs, layer.input_scale, layer.input_zero_point)
        torch.testing.assert_close(output, layer.compute_exactly(integers).float(), atol=1e-5, rtol=1e-4)
    assert output.shape == expected.shape
    assert torch.linalg.vector_norm(output - expected) < 0.02 * torch.linalg.vector_norm(expected)


def test_linear_layer_and_its_copies():
    torch.manual_seed(0)
    linear, inputs = nn.Linear(64, 32), torch.randn(2, 50, 64)
    layer = int8_layer(linear, (inputs.min().item(), inputs.max().item()))
    expected, output = linear(inputs), layer(inputs)
    assert torch.linalg.vector_norm(output - expected) < 0.02 * torch.linalg.vector_norm(expected)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(inputs), output)


def test_inputs_beyond_the_range_are_clipped():
    integers = quantize(torch.tensor([-9.0, -0.17, 0.0, 1.0, 9.0]), 0.01, 17)
    assert integers.dtype == torch.uint8 and integers.tolist() == [0, 0, 17, 117, 255]


def test_output(full_size_model, quantized, make_waveforms):
    """All outputs of the model are close to float32."""
    waveforms = make_waveforms(2, 16384)
    mask = (torch.arange(16384) < torch.tensor([[16384], [9000]])).int()
    with torch.no_grad():
        expected = full_size_model(waveforms * mask, mask, output_hidden_states=True)
        outputs = quantized(waveforms * mask, mask, output_hidden_states=True)
        embeddings = full_size_model.sanet(waveforms).pooler_output, quantized.sanet(waveforms).pooler_output
    assert outputs.keys() == expected.keys()
    pairs = [*zip(outputs.hidden_states, expected.hidden_states, strict=True), embeddings[::-1]]
    pairs += [(outputs.pooling_weights, expected.pooling_weights)]
    for value, right in [*pairs, (outputs.logits, expected.logits)]:
        assert value.dtype == torch.float32 and value.shape == right.shape
        assert torch.linalg.vector_norm(value - right) < 0.1 * torch.linalg.vector_norm(right)
    assert not (outputs.hidden_states[0][1] * (1 - mask[1, ::4, None])).any()


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 8000), min_size=2, max_size=3))
def test_logits_do_not_depend_on_other_clips(tiny_quantized, make_waveforms, lengths):
    waveforms = make_waveforms(len(lengths), max(lengths))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).int()
    with torch.no_grad():
        together = tiny_quantized(waveforms * mask, mask).logits
        alone = torch.cat([tiny_quantized(clip[None, :length]).logits for clip, length in zip(waveforms, lengths)])
    # A float32 rounding error can change how a value is rounded to int8.
    torch.testing.assert_close(together, alone, atol=0.02, rtol=0)


def test_layers_of_the_model(calibration, quantized):
    """All layers on frames are int8, except those on the waveform and the scores of the pooling."""
    layers = {name for name, layer in quantized.named_modules() if isinstance(layer, Int8Linear)}
    assert layers == set(calibration.ranges) and len(layers) == 32
    assert not layers & {"sanet.layers.0.conv1", "sanet.layers.0.shortcut", "sanet.pooling.score", "classifier.0"}
    # Layers are left out until the errors of the others, each measured alone, add up to the target. The error of all
    # together differs slightly, depending on the algorithms chosen on this machine.
    assert calibration.num_clips == 2 and 0 < calibration.error < 1.5 * int8.TARGET_ERROR
    assert is_quantized(quantized) and prepare_classifier(quantized) is quantized


def test_layers_that_lose_the_most_stay_in_float32(full_size_model, calibration, make_waveforms, monkeypatch):
    """Here these are the layers after the first block: one channel of its output is a thousand times as large."""
    model = copy.deepcopy(full_size_model)
    with torch.no_grad():
        model.sanet.layers[0].shortcut_norm.weight[0] *= 1000
    batches = [{"input_values": make_waveforms(2, 16384)}]
    found = calibrate_int8(model, batches)
    left_out = calibration.ranges.keys() - found.ranges.keys()
    assert "sanet.layers.1.conv1" in left_out and "sanet.layers.0.conv2" in found.ranges
    assert found.error < 0.1
    monkeypatch.setattr(int8, "TARGET_ERROR", 1.0)
    assert calibrate_int8(model, batches).error > 2 * found.error
    monkeypatch.setattr(int8, "TARGET_ERROR", 0.0)
    with pytest.raises(UsageError, match="All layers lose too much precision"):
        calibrate_int8(model, batches)


def test_query_key_and_value_are_left_out_together(full_size_model, make_waveforms, monkeypatch):
    for target in (0.01, 0.05):
        errors = iter(np.linspace(0.001, 0.1, 100))
        monkeypatch.setattr(int8, "_relative_error", lambda logits, expected, errors=errors: next(errors))
        monkeypatch.setattr(int8, "TARGET_ERROR", target)
        ranges = calibrate_int8(full_size_model, [{"input_values": make_waveforms(1, 16384)}]).ranges
        for prefix in ("sanet.layers.4.attention", "sanet.layers.6.attention"):
            assert len({f"{prefix}.{name}" in ranges for name in int8.JOINT}) == 1


def test_calibration_file(calibration):
    assert Int8Calibration.from_json(calibration.to_json()) == replace(
        calibration, ranges={name: list(pair) for name, pair in calibration.ranges.items()}
    )
    damaged = ["", "[]", "{}", calibration.to_json().replace('"error": ', '"error": 1e999, "x": ')]
    for text in [*damaged, calibration.to_json().replace('"error": 0', '"error": 1e999')]:
        with pytest.raises(ValueError, match="it is not a calibration"):
            Int8Calibration.from_json(text)


def test_unsupported_cases_are_refused(full_size_model, calibration, batches, make_model, monkeypatch):
    with pytest.raises(UsageError, match="other weights"):
        quantize_for_inference(make_model(), calibration)
    with pytest.raises(UsageError, match="in bfloat16 on cpu"):
        calibrate_int8(make_model().bfloat16(), batches)
    with pytest.raises(UsageError, match="no clips"):
        calibrate_int8(make_model(), [])
    with pytest.raises(UsageError, match="has a layer sanet_x, which this model does not have"):
        quantize_for_inference(full_size_model, replace(calibration, ranges={"sanet_x": [0.0, 1.0]}))
    monkeypatch.setattr(int8, "MAX_ERROR", 0.0)
    with pytest.raises(UsageError, match=r"differ from the float32 logits by \d+%"):
        calibrate_int8(make_model(), [{"input_values": torch.randn(2, 8000)}])
    monkeypatch.setattr(int8, "has_int8_layers", lambda: False)
    with pytest.raises(UsageError, match="int8 is not supported on"):
        quantize_for_inference(full_size_model, calibration)


def test_wrong_layers_stay_in_float(make_model, monkeypatch):
    """On a processor that computes layers wrongly, 7 bits are tried first, and then float32 is used."""
    model, batch = make_model(), {"input_values": torch.randn(2, 8000)}
    calibration = calibrate_int8(model, [batch])
    tried = []

    def is_right(layer: Int8Linear) -> bool:
        tried.append(int(layer.integer_weight.abs().max()))
        return False

    monkeypatch.setattr(int8_layers, "is_right", is_right)
    with pytest.warns(RuntimeWarning, match=r"Wrong results in int8 on .*sanet\.layers\.1\.conv2"):
        plain = quantize_for_inference(model, calibration)
    assert set(tried) == {127, 63} and not is_quantized(plain)
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, optimize_for_inference(model)(**batch).logits)


def test_overflow_is_detected():
    """Without VNNI, sums in 16 bits differ from exact sums for the largest inputs and weights."""
    linear = nn.Linear(64, 16)
    nn.init.constant_(linear.weight, 1.0)

    class Overflowing(Int8Linear):
        def compute(self, integers):
            products = integers.int().unsqueeze(-2) * self.integer_weight.int()
            sums = products.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1)
            return (sums * self.weight_scale * self.input_scale + self.bias).float()

    assert not int8_layers.is_right(Overflowing(linear, (0.0, 1.0), 8))
    assert int8_layers.is_right(Overflowing(linear, (0.0, 1.0), 7))


def test_other_architectures():
    """Linear layers of transformers' models are quantized, and the logits stay close."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "conv_dim": (32, 32), "conv_stride": (5, 4)}
    config = Wav2Vec2Config(
        **sizes, conv_kernel=(10, 4), num_hidden_layers=1, num_attention_heads=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, classifier_proj_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model, batch = Wav2Vec2ForSequenceClassification(config).eval(), {"input_values": torch.randn(2, 4000)}
    calibration = calibrate_int8(model, [batch])
    assert "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense" in calibration.ranges
    with torch.no_grad():
        expected, logits = model(**batch).logits, quantize_for_inference(model, calibration)(**batch).logits
    assert 0 < (logits - expected).abs().max() < 0.1 * expected.abs().max()
