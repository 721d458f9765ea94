# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The blocks of the network compared with PyTorch's own, and the network as a `PreTrainedModel`."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization

from sanet_hf import SANetConfig, SANetForAudioClassification, SANetModel
from sanet_hf.batchnorm_sanet import SANetBatchNorm
from sanet_hf.layers_sanet import (
    SANetAttention,
    SANetConv1d,
    SANetDownsample,
    SANetSqueezeExcitation,
    SANetUpsample,
)
from sanet_hf.modeling_sanet import SANetAttentivePooling, SANetPreTrainedModel
from sanet_hf.optimization import optimize_for_inference


@pytest.fixture
def clips() -> torch.Tensor:
    return 0.1 * torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask() -> torch.Tensor:
    """Return a mask in which the second clip has 300 samples."""
    mask = torch.ones(2, 1000, dtype=torch.long)
    mask[1, 300:] = 0
    return mask


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# Blocks compared with PyTorch's own.


@pytest.mark.parametrize(
    "in_channels, out_channels, kernel_size, stride, padding, groups, bias",
    [
        (1, 8, 64, 4, 33, 1, False),
        (1, 8, 1, 4, 0, 1, True),
        (8, 8, 64, 1, 31, 1, False),
        (8, 16, 4, 2, 2, 4, True),
        (2, 4, 5, 2, 2, 2, False),
    ],
    ids=str,
)
def test_conv_equals_conv1d(in_channels, out_channels, kernel_size, stride, padding, groups, bias):
    conv = SANetConv1d(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias
    )
    assert conv.weight.shape == (out_channels, in_channels // groups, kernel_size)
    states = random(2, 96, in_channels).requires_grad_()
    output = conv(states)
    reference = F.conv1d(states.transpose(1, 2), conv.weight, conv.bias, stride, padding, groups=groups)
    torch.testing.assert_close(output, reference.transpose(1, 2), atol=1e-5, rtol=1e-5)

    weights = random(*output.shape)
    inputs = (states, conv.weight)
    expected = torch.autograd.grad((reference.transpose(1, 2) * weights).sum(), inputs)
    for actual, gradient in zip(torch.autograd.grad((output * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(actual, gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_downsample_equals_conv1d(stride):
    layer = SANetDownsample(8, 6, stride)
    states = random(2, 4 * stride, 8)
    expected = F.conv1d(states.transpose(1, 2), layer.weight, layer.bias, stride=stride).transpose(1, 2)
    assert expected.shape == (2, 4, 6)
    torch.testing.assert_close(layer(states), expected)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_upsample_equals_conv_transpose1d(stride):
    layer = SANetUpsample(8, 6, stride)
    states = random(2, 4, 8)
    expected = F.conv_transpose1d(states.transpose(1, 2), layer.weight, layer.bias, stride=stride).transpose(1, 2)
    assert expected.shape == (2, 4 * stride, 6)
    torch.testing.assert_close(layer(states), expected)


@pytest.mark.parametrize("valid", [None, [7, 3], [7, 1]], ids=str)
def test_squeeze_excitation(valid):
    """The gate of each channel follows the formula of the paper, over the valid frames of each clip."""
    layer = SANetSqueezeExcitation(SANetConfig(se_reduction=4), 8)
    assert layer.reduce.weight.shape == (2, 8)
    states = random(2, 7, 8)
    mask = None if valid is None else (torch.arange(7) < torch.tensor(valid).unsqueeze(1)).float()
    output = layer(states, mask)
    for clip, scaled, frames in zip(states, output, valid or [7, 7], strict=True):
        mean = clip[:frames].mean(0)
        hidden = F.gelu(layer.reduce.weight @ mean + layer.reduce.bias)
        gate = torch.sigmoid(layer.expand.weight @ hidden + layer.expand.bias)
        torch.testing.assert_close(scaled, clip * gate)


def test_pooling_of_a_small_example():
    """Scores of log 1, log 1 and log 2 weigh the frames 1/4, 1/4 and 1/2."""
    pooling = SANetAttentivePooling(SANetConfig(conv_dim=(32, 64, 128, 256, 2), use_squeeze_excitation=False))
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.zero_()
        # The first hidden unit is tanh(x) of the first channel. Its values are 0, 0 and log(2) / 2.
        pooling.hidden.weight[0, 0] = 1.0
        pooling.score.weight[0, 0] = 2.0
    first = math.atanh(math.log(2) / 2)
    states = torch.tensor([[[0.0, 1.0], [0.0, 5.0], [first, 7.0]]])
    pooled, weights = pooling(states)
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.25, 0.5]]))
    # Weighted mean of 1, 5, 7: 5; variance (16 + 0) / 4 + 4 / 2 = 6. Of 0, 0, x: x / 2; variance x² / 4.
    torch.testing.assert_close(pooled, torch.tensor([[first / 2, 5.0, first / 2, math.sqrt(6)]]))


def test_pooling_ignores_padded_frames():
    pooling = SANetAttentivePooling(SANetConfig(conv_dim=(32, 64, 128, 256, 2), use_squeeze_excitation=False))
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.zero_()
    states = torch.tensor([[[1.0, -2.0], [3.0, -2.0], [100.0, 100.0]], [[4.0, 4.0], [50.0, 0.0], [9.0, 9.0]]])
    pooled, weights = pooling(states, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert weights.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    # The deviation of a constant is the square root of 1e-9. At 0, its gradient would be infinite.
    least = math.sqrt(1e-9)
    torch.testing.assert_close(pooled, torch.tensor([[2.0, -2.0, 1.0, least], [4.0, 4.0, least, least]]))


@pytest.mark.parametrize("valid", [None, [6, 2]], ids=str)
def test_attention_equals_multi_head_attention(valid):
    config = SANetConfig(num_attention_heads=4)
    config._attn_implementation = "eager"
    layer = SANetAttention(config, 16)
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(random(*parameter.shape))
        projections = [layer.q_proj, layer.k_proj, layer.v_proj]
        reference.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        reference.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
    reference.out_proj.load_state_dict(layer.o_proj.state_dict())
    states = random(2, 6, 16)
    padded = None if valid is None else torch.arange(6) >= torch.tensor(valid).unsqueeze(1)
    bias = None if padded is None else torch.zeros(2, 1, 1, 6).masked_fill(padded[:, None, None], -math.inf)
    output, probabilities = layer(states, bias)
    expected, expected_probabilities = reference(
        states, states, states, key_padding_mask=padded, average_attn_weights=False
    )
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(probabilities, expected_probabilities, atol=1e-5, rtol=1e-4)


def test_residual_block(make_model):
    """The first block equals the table of the architecture, written with PyTorch's functions."""
    model = make_model()
    layer = model.sanet.layers[0]
    states = random(2, 64, 1)

    def batch_norm(norm, values):
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    values = states.transpose(1, 2)
    hidden = F.conv1d(values, layer.conv1.weight, stride=4, padding=(3 + 7) // 2)
    hidden = F.gelu(batch_norm(layer.norm1, hidden))
    hidden = batch_norm(layer.norm2, F.conv1d(hidden, layer.conv2.weight, padding=7 // 2))
    excitation = layer.squeeze_excitation
    hidden = hidden * torch.sigmoid(excitation.expand(F.gelu(excitation.reduce(hidden.mean(-1))))).unsqueeze(-1)
    shortcut = batch_norm(layer.shortcut_norm, F.conv1d(values, layer.shortcut.weight.unsqueeze(-1), stride=4))
    expected = F.gelu(hidden + shortcut).transpose(1, 2)
    assert expected.shape == (2, 16, 8)
    torch.testing.assert_close(layer(states), expected, atol=1e-5, rtol=1e-4)


def test_shortcut_is_the_identity_for_equal_shapes(tiny_model):
    first, second, third = (tiny_model.sanet.layers[index] for index in (0, 1, 3))
    assert third.shortcut is None
    assert third.shortcut_norm is None
    assert first.shortcut.weight.shape == (8, 1)
    assert second.shortcut.weight.shape == (16, 8)


# Lengths, shapes and outputs.


@pytest.mark.parametrize("length", [1, 15, 16, 17, 999, 8000])
def test_any_length(tiny_model, length):
    assert tiny_model.config.total_stride == 16
    with torch.no_grad():
        base = tiny_model.sanet(torch.randn(2, length))
    # A frame has 8 samples. The last one may be incomplete.
    frames = math.ceil(length / 8)
    assert base.last_hidden_state.shape == (2, frames, 16)
    assert base.pooler_output.shape == (2, 32)
    assert base.pooling_weights.shape == (2, frames)
    assert base.pooler_output.isfinite().all()


def test_hidden_states(tiny_model, clips, mask):
    with torch.no_grad():
        output = tiny_model.sanet(clips, mask, output_hidden_states=True)
    assert len(output.hidden_states) == tiny_model.config.num_hidden_layers == 4
    # 1000 samples at strides of 4 and 8.
    shapes = [tuple(state.shape) for state in output.hidden_states]
    assert shapes == [(2, 250, 8), (2, 125, 16), (2, 125, 16), (2, 125, 16)]
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    for state in output.hidden_states:
        samples_a_frame = 1000 // state.shape[1]
        valid = math.ceil(300 / samples_a_frame)
        assert state[1, :valid].abs().amax(-1).all()
        assert not state[1, valid:].any()


def test_head_returns_the_outputs_of_the_base_model(tiny_model, clips, mask):
    tiny_model.set_attn_implementation("eager")
    names = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        head, base = tiny_model(clips, mask, **names), tiny_model.sanet(clips, mask, **names)
    assert list(head) == ["logits", "hidden_states", "attentions", "pooling_weights"]
    assert head.logits.shape == (2, 3)
    assert torch.equal(head.pooling_weights, base.pooling_weights)
    for actual, expected in zip(
        head.hidden_states + head.attentions, base.hidden_states + base.attentions, strict=True
    ):
        assert torch.equal(actual, expected)


def test_optional_outputs_are_left_out(tiny_model, clips):
    with torch.no_grad():
        assert list(tiny_model(clips)) == ["logits", "pooling_weights"]
        assert list(tiny_model.sanet(clips)) == ["last_hidden_state", "pooler_output", "pooling_weights"]
        logits, weights = tiny_model(clips, return_dict=False)
    assert logits.shape == (2, 3)
    assert weights.shape == (2, 125)


@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True, "output_attentions": True}], ids=["", "all"])
@pytest.mark.parametrize("optimized", [False, True])
def test_return_dict_of_the_configuration(tiny_model, clips, mask, options, optimized):
    """If `return_dict` is false, the outputs are a tuple of the same values. The argument overrides it."""
    model = optimize_for_inference(tiny_model) if optimized else tiny_model
    model.set_attn_implementation("eager")
    for network in (model, model.base_model):
        with torch.no_grad():
            expected = network(clips, mask, **options)
            network.config.return_dict = False
            values, named = network(clips, mask, **options), network(clips, mask, return_dict=True, **options)
            network.config.return_dict = True
        assert isinstance(values, tuple) and list(named) == list(expected)
        torch.testing.assert_close(values, expected.to_tuple(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("return_dict", [False, True])
def test_jit_trace(tiny_model, clips, return_dict):
    """Tracing works with tuples and, if it is not strict, with named outputs. Traces run with other batch sizes."""
    tiny_model.config.return_dict = return_dict
    traced = torch.jit.trace(tiny_model, (clips,), strict=not return_dict)
    with torch.no_grad():
        actual, expected = traced(clips.flip(0)[:1]), tiny_model(clips.flip(0)[:1])
    key = "logits" if return_dict else 0
    torch.testing.assert_close(actual[key], expected[key])


def test_pooling_weights(tiny_model, clips, mask):
    with torch.no_grad():
        weights = tiny_model(clips, mask).pooling_weights
    torch.testing.assert_close(weights.sum(-1), torch.ones(2))
    assert (weights[0, :125] > 0).all()
    # 300 samples are 38 frames of 8, and 1000 are 125 of the 126.
    assert (weights[1, :38] > 0).all()
    assert not weights[1, 38:].any()
    assert not weights[0, 125:].any()


# Attention implementations.


def logits_with(model, implementation: str, *inputs) -> torch.Tensor:
    model.set_attn_implementation(implementation)
    assert model.config._attn_implementation == implementation
    with torch.no_grad():
        return model(*inputs).logits


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_attention_implementations_agree(tiny_model, clips, mask, padded):
    inputs = (clips, mask) if padded else (clips,)
    expected = logits_with(tiny_model, "eager", *inputs)
    torch.testing.assert_close(logits_with(tiny_model, "sdpa", *inputs), expected, atol=1e-5, rtol=0)
    # The first call would compile flex attention, which takes half a minute.
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(logits_with(tiny_model, "flex_attention", *inputs), expected, atol=1e-5, rtol=0)


def test_attention_implementations_differ(tiny_model, clips, monkeypatch):
    """Otherwise the test above could compare an implementation with itself."""
    called = []
    for name in ("scaled_dot_product_attention", "softmax"):
        original = getattr(F, name)
        monkeypatch.setattr(
            F,
            name,
            lambda *args, _name=name, _original=original, **kwargs: called.append(_name) or _original(*args, **kwargs),
        )
    logits_with(tiny_model, "eager", clips)
    assert called == ["softmax"]
    called.clear()
    logits_with(tiny_model, "sdpa", clips)
    assert called == ["scaled_dot_product_attention"]


@pytest.mark.slow
def test_compiled_flex_attention(tiny_model, clips, mask):
    expected = logits_with(tiny_model, "eager", clips, mask)
    torch.testing.assert_close(logits_with(tiny_model, "flex_attention", clips, mask), expected, atol=1e-5, rtol=0)


def test_unknown_attention_implementation_is_refused(tiny_model):
    with pytest.raises(ValueError, match="nonsense"):
        tiny_model.set_attn_implementation("nonsense")


def test_attention_probabilities(make_model, clips, mask):
    model = make_model(attention_after=(0, 1), attention_dim=(8, 16))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(clips, mask, output_attentions=True).attentions
    # Merged frames of 8 and of 16 samples.
    assert [tuple(probabilities.shape) for probabilities in attentions] == [(2, 2, 125, 125), (2, 2, 63, 63)]
    for probabilities, valid in zip(attentions, ([125, 38], [63, 19]), strict=True):
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
        for clip, frames in zip(probabilities, valid, strict=True):
            assert (clip[:, :, :frames] > 0).all()
            assert not clip[:, :, frames:].any()


# Training.


def finite_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    return gradients


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_full_size_training_step(full_size_model, make_waveforms, masked):
    """A tiny model is not enough: PyTorch's convolution over one channel once corrupted memory only at full size."""
    model = copy.deepcopy(full_size_model).train()
    waveforms = make_waveforms(2, 16_000)
    mask = None
    if masked:
        mask = torch.ones(2, 16_000, dtype=torch.long)
        mask[1, 5000:] = 0
    loss = model(waveforms, mask, labels=torch.tensor([3, 7])).loss
    loss.backward()
    assert loss.isfinite()
    without = [name for name, gradient in finite_gradients(model).items() if not gradient.any()]
    # Biases before a BatchNorm or a softmax can only have a gradient of zero.
    zero = ("downsample.bias", "upsample.bias", "pooling.score.bias", "classifier.0.bias", "classifier.4.bias")
    assert [name for name in without if not name.endswith(zero)] == []
    before = model.sanet.layers[0].conv1.weight.clone()
    torch.optim.AdamW(model.parameters()).step()
    assert not torch.equal(model.sanet.layers[0].conv1.weight, before)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("length", [1, 1000])
def test_training_batch_of_one(tiny_model, length, masked):
    tiny_model.train()
    clip = 0.1 * random(1, length)
    mask = torch.ones(1, length, dtype=torch.long)
    if masked:
        clip, mask = F.pad(clip, (0, 100), value=math.nan), F.pad(mask, (0, 100))
    output = tiny_model(clip, mask, labels=torch.tensor([1]))
    output.loss.backward()
    assert output.logits.isfinite().all()
    finite_gradients(tiny_model)
    assert all(buffer.isfinite().all() for buffer in tiny_model.buffers())


def test_training_reduces_the_loss(tiny_model):
    """After a few steps, the model separates tones from noise. This also holds in evaluation mode."""
    time = torch.arange(2000) / 16_000
    noise = 0.1 * random(8, 2000)
    clips = torch.where(torch.arange(8).unsqueeze(1) < 4, 0.14 * torch.sin(2 * math.pi * 440 * time), noise)
    labels = torch.arange(8) // 4
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=3e-3)
    tiny_model.train()
    losses = []
    for _ in range(60):
        loss = tiny_model(clips, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        assert tiny_model.eval()(clips).logits.argmax(-1).tolist() == labels.tolist()


LOSSES = {
    "single_label_classification": (F.cross_entropy, torch.tensor([2, 0])),
    "multi_label_classification": (F.binary_cross_entropy_with_logits, torch.tensor([[1.0, 0, 1], [0, 0, 1]])),
    "regression": (F.mse_loss, torch.tensor([[0.5, -2, 1], [0, 3, 0.1]])),
}


@pytest.mark.parametrize(
    "problem_type, given",
    [
        ("single_label_classification", True),
        ("single_label_classification", False),
        ("multi_label_classification", True),
        # Float labels of several classes mean multi-label. Regression must be set explicitly.
        ("multi_label_classification", False),
        ("regression", True),
    ],
)
def test_losses(make_model, clips, problem_type, given):
    loss_function, labels = LOSSES[problem_type]
    model = make_model(problem_type=problem_type if given else None)
    with torch.no_grad():
        output = model(clips, labels=labels)
    torch.testing.assert_close(output.loss, loss_function(output.logits, labels))
    assert output.loss.shape == ()
    assert next(iter(output)) == "loss"
    assert model.config.problem_type == problem_type


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float64, torch.bfloat16])
def test_multi_label_labels_of_any_type(make_model, clips, dtype):
    loss_function, labels = LOSSES["multi_label_classification"]
    model = make_model(problem_type="multi_label_classification")
    output = model(clips, labels=labels.to(dtype))
    torch.testing.assert_close(output.loss, loss_function(output.logits, labels))
    output.loss.backward()


@pytest.mark.parametrize("given", [True, False], ids=["given", "inferred"])
def test_regression_of_one_value(make_model, clips, given):
    model = make_model(num_labels=1, problem_type="regression" if given else None)
    labels = torch.tensor([0.5, -2.0])
    with torch.no_grad():
        output = model(clips, labels=labels)
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits.squeeze(-1), labels))


@pytest.mark.parametrize("method", ["freeze_feature_encoder", "freeze_base_model"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_freezing(tiny_model, clips, mask, method, masked):
    getattr(tiny_model, method)()
    tiny_model.train()
    before = copy.deepcopy(tiny_model.state_dict())
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    tiny_model(clips, mask if masked else None, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()

    after = tiny_model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    convolutions = tuple(f"sanet.layers.{index}." for index in (0, 1, 3))
    kept = convolutions if method == "freeze_feature_encoder" else ("sanet.",)
    assert {name for name in changed if name.startswith(kept)} == set()
    # Biases that a BatchNorm or a softmax cancels may change only by rounding.
    expected = {name for name in after if not name.startswith(kept)}
    assert {name for name in expected - changed if not name.endswith(".bias")} == set()
    assert any("running_mean" in name for name in changed)


def test_frozen_stages_run_as_in_evaluation(tiny_model, clips, mask):
    tiny_model.freeze_base_model()
    with torch.no_grad():
        expected = tiny_model.sanet(clips, mask).pooler_output
        assert torch.equal(tiny_model.train().sanet(clips, mask).pooler_output, expected)


def enable_checkpointing(model, use_reentrant):
    """Enable gradient checkpointing. The name of the method changed within transformers 5."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


@pytest.mark.parametrize("frozen", [False, True], ids=["all", "frozen_encoder"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not_reentrant", "reentrant"])
def test_gradient_checkpointing(make_model, clips, mask, masked, use_reentrant, frozen, monkeypatch):
    calls = []
    original = SANetConv1d.forward
    monkeypatch.setattr(SANetConv1d, "forward", lambda self, states: calls.append(self) or original(self, states))
    results = []
    for checkpointing in (False, True):
        model = make_model().train()
        if frozen:
            model.freeze_feature_encoder()
        if checkpointing:
            enable_checkpointing(model, use_reentrant)
        calls.clear()
        loss = model(clips, mask if masked else None, labels=torch.tensor([0, 1])).loss
        loss.backward()
        # There are six convolutions. Checkpointing runs some of them twice.
        assert (len(calls) > 6) == checkpointing
        results.append((loss, dict(model.named_parameters()), dict(model.named_buffers())))
    (loss, parameters, buffers), (loss_again, parameters_again, buffers_again) = results
    torch.testing.assert_close(loss_again, loss)
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            assert parameters_again[name].grad is None
            continue
        torch.testing.assert_close(
            parameters_again[name].grad,
            parameter.grad,
            atol=1e-6,
            rtol=1e-5,
            msg=lambda text, name=name: f"{name} {text}",
        )
    for name, buffer in buffers.items():
        assert torch.equal(buffers_again[name], buffer), name


def test_checkpointing_does_not_change_the_input(tiny_model, clips):
    enable_checkpointing(tiny_model.train(), use_reentrant=True)
    tiny_model(clips).logits.sum().backward()
    assert not clips.requires_grad


@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 4)], ids=str)
def test_batch_norm_of_a_single_value(shape):
    """PyTorch's BatchNorm raises an error. Here the running statistics normalise the value and do not change."""
    norm = SANetBatchNorm(4)
    norm.running_mean.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    norm.running_var.fill_(4.0)
    before = copy.deepcopy(norm.state_dict())
    output = norm(torch.full(shape, 5.0))
    expected = (5.0 - torch.arange(4.0)) / math.sqrt(4.0 + norm.eps)
    torch.testing.assert_close(output, expected.view(shape))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 4)], ids=str)
def test_batch_norm_equals_pytorch(shape):
    norm, reference = SANetBatchNorm(4), nn.BatchNorm1d(4)
    states = 3 * random(*shape) + 1
    expected = reference(states if len(shape) == 2 else states.transpose(1, 2))
    torch.testing.assert_close(norm(states), expected if len(shape) == 2 else expected.transpose(1, 2))
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout(make_model, clips, attention):
    model = make_model(classifier_dropout=0.5, attention_dropout=0.5)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        assert torch.equal(model(clips).logits, model(clips).logits)
        torch.testing.assert_close(model(clips).logits, make_model()(clips).logits, atol=1e-5, rtol=0)
        model.train().freeze_base_model()
        # The base is frozen and the head is in evaluation mode, so that only the dropout of the attention is random.
        model.classifier.eval()
        assert not torch.equal(model(clips).logits, model(clips).logits)
        model.sanet.eval()
        assert torch.equal(model(clips).logits, model(clips).logits)
        model.classifier.train()
        assert not torch.equal(model(clips).logits, model(clips).logits)


# Number formats.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["cast", "autocast"])
def test_half_precision(tiny_model, clips, mask, dtype, how):
    with torch.no_grad():
        expected = tiny_model(clips, mask).logits
        if how == "cast":
            # The waveform stays float32, as from feature extractors.
            output = tiny_model.to(dtype)(clips, mask, output_hidden_states=True)
        else:
            with torch.autocast("cpu", dtype):
                output = tiny_model(clips, mask, output_hidden_states=True)
    assert output.logits.dtype == dtype
    if how == "cast":
        assert output.pooling_weights.dtype == dtype
        assert {state.dtype for state in output.hidden_states} == {dtype}
    assert output.logits.isfinite().all()
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.06}[dtype]
    torch.testing.assert_close(output.logits.float(), expected, atol=tolerance, rtol=0)
    assert (output.logits[0] - output.logits[1]).abs().max() > 2 * tolerance


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_training_in_bfloat16(tiny_model, clips, mask, masked):
    tiny_model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = tiny_model(clips, mask if masked else None, labels=torch.tensor([0, 1])).loss
    loss.backward()
    finite_gradients(tiny_model)
    assert {buffer.dtype for buffer in tiny_model.buffers()} == {torch.float32, torch.int64}
    assert tiny_model.sanet.layers[0].norm1.num_batches_tracked == 1


def test_replicas_without_parameters(tiny_model, clips):
    """The weights of `nn.DataParallel` replicas are plain tensors. There, `model.dtype` raises StopIteration."""
    with torch.no_grad():
        expected = tiny_model(clips).logits
        replica = tiny_model
        for module in replica.modules():
            weights, module._parameters = module._parameters, {}
            module.__dict__.update(weights)
        assert next(replica.parameters(), None) is None
        assert torch.equal(replica(clips).logits, expected)


def test_float64(tiny_model, clips):
    with torch.no_grad():
        expected = tiny_model(clips).logits
        logits = tiny_model.double()(clips.double()).logits
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), expected, atol=1e-5, rtol=0)


# Initial weights, saving and loading.


def test_initial_weights():
    torch.manual_seed(0)
    model = SANetForAudioClassification(SANetConfig(initializer_range=0.03, num_labels=10))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            expected = 0.03
            assert not module.bias.any() if module.bias is not None else "shortcut" in name
        elif isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # He et al.: the variance is 2 / fan-in, as PyTorch computes the fan-in from the shape.
            expected = math.sqrt(2 / (module.weight.shape[1] * module.weight.shape[2]))
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, (nn.BatchNorm1d, nn.LayerNorm)):
            assert (module.weight == 1).all() and not module.bias.any()
            if isinstance(module, nn.BatchNorm1d):
                assert not module.running_mean.any() and (module.running_var == 1).all()
                assert module.num_batches_tracked == 0
            continue
        elif name.endswith("position_embedding"):
            expected = 0.03
            # `trunc_normal_` truncates at 2. No value reaches this.
            assert module.weight.abs().max() < 2
        else:
            continue
        # Five standard errors of an estimate from this many values.
        tolerance = 5 / math.sqrt(2 * module.weight.numel())
        assert module.weight.std().item() == pytest.approx(expected, rel=tolerance), name
        assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(module.weight.numel()), name


def test_weights_are_initialised_once(tiny_config_kwargs, monkeypatch):
    """The base model and the head do not both initialise them."""
    seen = []
    original = SANetPreTrainedModel._init_weights
    monkeypatch.setattr(
        SANetPreTrainedModel, "_init_weights", lambda self, module: seen.append(module) or original(self, module)
    )
    model = SANetForAudioClassification(SANetConfig(**tiny_config_kwargs))
    with_own_weights = [module for module in model.modules() if list(module.parameters(recurse=False))]
    for module in with_own_weights:
        assert sum(module is other for other in seen) == 1


def fill_with_sentinels(model: nn.Module) -> None:
    """Fill each parameter and buffer with a different value that no initialisation gives."""
    with torch.no_grad():
        for index, tensor in enumerate(model.state_dict().values()):
            tensor.fill_(index + 1000)


@pytest.mark.parametrize("model_class", [SANetModel, SANetForAudioClassification], ids=lambda value: value.__name__)
def test_save_and_load(make_model, clips, mask, tmp_path, model_class):
    model = make_model()
    model = model if model_class is SANetForAudioClassification else model.sanet
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "batchnorm_sanet.py",
        "config.json",
        "configuration_sanet.py",
        "layers_sanet.py",
        "model.safetensors",
        "modeling_sanet.py",
        "pooling_sanet.py",
        "spectrogram_sanet.py",
    ]
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not loaded.training
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    with torch.no_grad():
        assert torch.equal(loaded(clips, mask)[0], model(clips, mask)[0])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_loading_keeps_all_values(make_model, tmp_path):
    model = make_model()
    fill_with_sentinels(model)
    model.save_pretrained(tmp_path)
    loaded = SANetForAudioClassification.from_pretrained(tmp_path)
    assert len(loaded.state_dict()) == len(model.state_dict()) > 50
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_new_head_on_a_base_checkpoint(make_model, tmp_path):
    base = make_model().sanet
    fill_with_sentinels(base)
    base.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model, info = SANetForAudioClassification.from_pretrained(
        tmp_path, num_labels=7, classifier_hidden_sizes=(64,), output_loading_info=True
    )
    for name, value in base.state_dict().items():
        assert torch.equal(model.sanet.state_dict()[name], value), name
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier"}
    assert not info["unexpected_keys"]
    head = model.classifier
    assert head[-1].out_features == 7
    for linear in (head[0], head[-1]):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert not linear.bias.any()
    assert (head[1].weight == 1).all() and (head[1].running_var == 1).all() and not head[1].running_mean.any()


def test_base_model_of_a_head_checkpoint(make_model, tmp_path):
    model = make_model()
    fill_with_sentinels(model)
    model.save_pretrained(tmp_path)
    base, info = SANetModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for name, value in model.sanet.state_dict().items():
        assert torch.equal(base.state_dict()[name], value), name


def test_loading_with_another_number_of_classes(make_model, tmp_path):
    model = make_model(num_labels=3)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SANetForAudioClassification.from_pretrained(tmp_path, num_labels=5)
    torch.manual_seed(0)
    loaded, info = SANetForAudioClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {key[0] for key in info["mismatched_keys"]} == {"classifier.4.weight", "classifier.4.bias"}
    assert loaded.classifier[-1].weight.std().item() == pytest.approx(0.02, rel=0.3)
    for name, value in model.state_dict().items():
        if not name.startswith("classifier.4"):
            assert torch.equal(loaded.state_dict()[name], value), name


def test_loading_does_not_run_initialisation(make_model, tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path)
    drawn = []
    for name in ("kaiming_normal_", "trunc_normal_", "normal_"):
        original = getattr(initialization, name)

        def record(tensor, *args, _original=original, **kwargs):
            if not getattr(tensor, "_is_hf_initialized", False):
                drawn.append(tensor.shape)
            return _original(tensor, *args, **kwargs)

        monkeypatch.setattr(initialization, name, record)
    SANetForAudioClassification.from_pretrained(tmp_path)
    assert drawn == []
    # A new head is recorded, so the check above can fail.
    SANetForAudioClassification.from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True)
    assert drawn == [torch.Size([4, 16])]


def test_only_missing_tensors_are_initialised(make_model, tmp_path):
    """Other tensors of the same module are loaded, including running statistics."""
    model = make_model()
    fill_with_sentinels(model)
    missing = {
        "sanet.layers.0.norm1.bias": 0,
        "sanet.layers.2.downsample.bias": 0,
        "sanet.layers.2.layer_norm.weight": 1,
        "sanet.layers.2.upsample_norm.running_var": 1,
        "classifier.0.bias": 0,
    }
    state_dict = model.state_dict()
    assert missing.keys() <= state_dict.keys()
    model.save_pretrained(tmp_path, state_dict={name: state_dict[name] for name in state_dict.keys() - missing.keys()})
    loaded = SANetForAudioClassification.from_pretrained(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, torch.full_like(value, missing[name]) if name in missing else state_dict[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_loading_in_half_precision(make_model, tmp_path, dtype):
    make_model().save_pretrained(tmp_path)
    model = SANetForAudioClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_push_to_hub(tiny_model, tmp_path, monkeypatch):
    """The uploaded files are a checkpoint that loads. The test needs no network."""
    from huggingface_hub import HfApi, ModelCard
    from transformers.utils import hub

    uploaded = tmp_path / "uploaded"
    uploaded.mkdir()

    class OfflineApi(HfApi):
        def create_repo(self, repo_id, **kwargs):
            return type("RepoUrl", (), {"repo_id": repo_id})()

        def create_commit(self, repo_id, operations, **kwargs):
            assert repo_id == "someone/sanet-tiny"
            for operation in operations:
                (uploaded / operation.path_in_repo).write_bytes(open(operation.path_or_fileobj, "rb").read())
            return "a commit"

    if hasattr(hub, "hf_api"):
        monkeypatch.setattr(hub, "hf_api", OfflineApi)
    else:
        # transformers 5.0 imports the functions instead of `hf_api`.
        for name in ("create_repo", "create_commit"):
            monkeypatch.setattr(hub, name, getattr(OfflineApi(), name))
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *args, **kwargs: ModelCard("A model."))
    assert tiny_model.push_to_hub("someone/sanet-tiny") == "a commit"
    assert {path.name for path in uploaded.iterdir()} == {
        "README.md",
        "batchnorm_sanet.py",
        "config.json",
        "configuration_sanet.py",
        "layers_sanet.py",
        "model.safetensors",
        "modeling_sanet.py",
        "pooling_sanet.py",
        "spectrogram_sanet.py",
    }
    loaded = SANetForAudioClassification.from_pretrained(uploaded)
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_number_of_parameters_by_part(full_size_model):
    """The number of parameters of each block follows from the table of the architecture."""

    def residual(in_channels, channels, kernel):
        convolutions = kernel * channels * (in_channels + channels)
        excitation = channels // 8 * (2 * channels + 1) + channels
        return convolutions + 4 * channels + excitation + in_channels * channels + 2 * channels

    def attention(channels, dim, stride=4, positions=500):
        downsample = stride * channels * channels + channels + 2 * channels + channels * dim + dim
        upsample = stride * dim * dim + dim + 2 * dim + dim * channels + channels
        return downsample + positions * dim + 4 * (dim * dim + dim) + 2 * dim + upsample

    expected = [
        residual(1, 32, 64),
        residual(32, 64, 32),
        residual(64, 128, 6),
        residual(128, 256, 4),
        attention(256, 128),
        residual(256, 512, 4),
        attention(512, 256),
    ]
    layers = full_size_model.sanet.layers
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == expected
    assert np.sum(expected) < 5_797_703
