# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Compare every layer, forward and backward, in every number format with float64 on the current processor.

The bound follows from the number format and the condition of the computation. A format with unit roundoff u rounds
inputs, weights and intermediate results, each by a factor within 1 ± u. So the float64 computation is repeated with
inputs and weights that are randomly rounded in this way. The resulting change is the allowed effect of one rounding. A
layer has about eight roundings in sequence, and each may have this effect: ROUNDINGS. Convolutions have three (input,
weight, result). Attention has product, scaling, softmax and product, with their inputs. Sums are accumulated in
float32, which adds sqrt(n) * 2^-24 for n terms with independent errors (Higham and Mary, 2019,
https://doi.org/10.1137/18M1226312). Measured errors are at most a third of the bound. The error of a wrong kernel is
about 1.
"""

import copy
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from sanet_hf import SANetConfig, layers_sanet
from sanet_hf.batchnorm_sanet import SANetBatchNorm
from sanet_hf.layers_sanet import (
    SANetAttention,
    SANetConv1d,
    SANetDownsample,
    SANetSqueezeExcitation,
    SANetUpsample,
)


ROUNDINGS = 8
MAX_TERMS = 2**14
FORMATS = ("float32", "bfloat16", "float16", "autocast to bfloat16", "autocast to float16")


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def results_of(layer: nn.Module, inputs: torch.Tensor, weighting: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    Return the output and the gradients of its weighted sum with respect to the input and the parameters, converted to
    float64.
    """
    inputs = inputs.detach().requires_grad_()
    output = layer(inputs)
    output = output[0] if isinstance(output, tuple) else output
    names, parameters = zip(*layer.named_parameters(), strict=True)
    gradients = torch.autograd.grad(output, (inputs, *parameters), weighting.to(output.dtype))
    results = {"output": output, "input": gradients[0], **dict(zip(names, gradients[1:], strict=True))}
    return {name: value.detach().double() for name, value in results.items()}


def rounded(values: torch.Tensor, roundoff: float) -> torch.Tensor:
    return values * (1 + roundoff * (2 * torch.rand_like(values) - 1))


def check(layer: nn.Module, inputs: torch.Tensor, number_format: str) -> None:
    """Compare the layer in this number format with float64."""
    is_autocast = number_format.startswith("autocast")
    dtype = getattr(torch, number_format.split()[-1])
    layer = layer if is_autocast else layer.to(dtype)
    inputs = inputs if is_autocast else inputs.to(dtype)
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        output = copy.deepcopy(exact)(inputs.double())
    weighting = torch.randn_like(output[0] if isinstance(output, tuple) else output).to(dtype)
    expected = results_of(copy.deepcopy(exact), inputs.double(), weighting)
    roundoff = unit_roundoff(dtype) + math.sqrt(MAX_TERMS) * unit_roundoff(torch.float32)
    spread = {name: roundoff * value.norm() for name, value in expected.items()}
    for _ in range(2):
        other = copy.deepcopy(exact)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(rounded(parameter, roundoff))
        results = results_of(other, rounded(inputs.double(), roundoff), rounded(weighting.double(), roundoff))
        for name, value in results.items():
            spread[name] = torch.maximum(spread[name], (value - expected[name]).norm())
    if "k_proj.bias" in spread:
        # This gradient is zero, because the softmax does not depend on the bias. Its terms are of the same size as
        # those of the gradient of k_proj.weight.
        spread["k_proj.bias"] = spread["k_proj.weight"]
    with torch.autocast("cpu", dtype, enabled=is_autocast):
        results = results_of(layer, inputs, weighting)
    for name, value in results.items():
        error = (value - expected[name]).norm()
        assert error <= ROUNDINGS * spread[name], f"{name}: off by {error:.3g}, allowed {ROUNDINGS * spread[name]:.3g}"


@st.composite
def convolutions(draw) -> SANetConv1d:
    """Draw convolutions with the kernels and strides of valid configurations, including those that use FFT."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    in_channels = groups * draw(st.integers(1, 17))
    out_channels = groups * draw(st.integers(1, 17))
    kernel_size = draw(st.integers(1, 64))
    stride = draw(st.sampled_from([1, 2] if kernel_size % 2 else [2, 4, 16]))
    padding = (stride + kernel_size - 2) // 2
    options = {"stride": stride, "padding": padding, "groups": groups, "bias": draw(st.booleans())}
    return SANetConv1d(in_channels, out_channels, kernel_size, **options)


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> SANetConv1d:
    padding = (stride + kernel_size - 2) // 2
    options = {"stride": stride, "padding": padding, "groups": groups, "bias": False}
    return SANetConv1d(in_channels, out_channels, kernel_size, **options)


@pytest.mark.parametrize("number_format", FORMATS)
@settings(max_examples=12)
@given(layer=convolutions(), num_frames=st.integers(1, 200))
# A short input, the first stages of the networks in configs/, one channel per group, and the gradient by FFT.
@example(layer=conv(16, 1, 3, 2), num_frames=1)
@example(layer=conv(1, 32, 64, 4), num_frames=4000)
@example(layer=conv(1, 16, 64, 16), num_frames=4000)
@example(layer=conv(2, 32, 64, 4), num_frames=4000)
@example(layer=conv(4, 4, 64, groups=4), num_frames=200)
@example(layer=conv(16, 16, 32), num_frames=1100)
def test_convolutions(number_format, layer, num_frames):
    torch.manual_seed(num_frames)
    check(copy.deepcopy(layer), torch.randn(2, num_frames, layer.in_channels), number_format)


def make_layer(kind: str, channels: int) -> nn.Module:
    config = SANetConfig(num_attention_heads=2, attn_implementation=kind)
    if kind in ("eager", "sdpa"):
        return SANetAttention(config, channels)
    return {
        "linear": lambda: nn.Linear(channels, channels + 3),
        "downsample": lambda: SANetDownsample(channels, channels + 3, 4),
        "upsample": lambda: SANetUpsample(channels, channels + 3, 4),
        "batch norm": lambda: SANetBatchNorm(channels),
        "squeeze-and-excitation": lambda: SANetSqueezeExcitation(config, channels),
    }[kind]()


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize(
    "kind", ["linear", "downsample", "upsample", "batch norm", "squeeze-and-excitation", "eager", "sdpa"]
)
@settings(max_examples=3)
@given(channels=st.sampled_from([8, 16, 24, 40, 128]), num_frames=st.integers(1, 40))
def test_other_layers(number_format, kind, channels, num_frames):
    torch.manual_seed(num_frames)
    check(make_layer(kind, channels), torch.randn(3, 4 * num_frames, channels), number_format)


def test_wrong_kernel_is_found(monkeypatch):
    """The kernel has an error of 10 % in bfloat16 in half of the output channels."""
    original = nn.functional.conv2d

    def wrong(*arguments, **options):
        output = original(*arguments, **options)
        scale = torch.ones(output.shape[1]).to(output.dtype)
        scale[::2] = 1 if output.dtype == torch.float64 else 1.1
        return output * scale.view(-1, 1, 1)

    layer, inputs = conv(32, 32, 5), torch.randn(2, 100, 32)
    check(copy.deepcopy(layer), inputs, "bfloat16")
    monkeypatch.setattr(nn.functional, "conv2d", wrong)
    with pytest.raises(AssertionError, match="output: off by"):
        check(copy.deepcopy(layer), inputs, "bfloat16")


def test_first_hidden_state_in_bfloat16(full_size_model, make_waveforms):
    """
    The first convolution of the full network has a shape that is wrong on processors with AMX, by 87 %.

    A stage has about 20 roundings in sequence, each with an RMS error of 2^-9. Its error is below sqrt(20) * 2^-9.
    """
    waveforms = make_waveforms(1, 16000).unsqueeze(2)
    stage = full_size_model.sanet.layers[0]
    with torch.no_grad():
        expected = stage(waveforms)
        for hidden_states in (
            copy.deepcopy(stage).bfloat16()(waveforms.bfloat16()),
            torch.autocast("cpu", torch.bfloat16)(stage)(waveforms),
        ):
            assert (hidden_states - expected).norm() < math.sqrt(20) * 2**-9 * expected.norm()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_trains_in_float32_on_a_cpu(monkeypatch, masked, autocast):
    """In half precision, training and evaluation give the same output and gradients."""
    seen = []
    original = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional,
        "scaled_dot_product_attention",
        lambda query, *args, **kwargs: (
            seen.append((query.dtype, torch.is_autocast_enabled("cpu"))) or original(query, *args, **kwargs)
        ),
    )
    config = SANetConfig(attn_implementation="sdpa", num_attention_heads=2)
    attention = layers_sanet.SANetAttention(config, 16).to(torch.float32 if autocast else torch.bfloat16)
    hidden_states = torch.randn(2, 40, 16).to(attention.q_proj.weight.dtype)
    mask = torch.zeros(2, 1, 40, 40, dtype=torch.bfloat16) if masked else None
    if masked:
        mask[1, :, :, 30:] = torch.finfo(torch.bfloat16).min
    results = []
    for training in (True, False):
        inputs = hidden_states.clone().requires_grad_(True)
        attention.train(training).zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output, _ = attention(inputs, mask)
        output.float().square().sum().backward()
        results.append((output, inputs.grad, attention.q_proj.weight.grad.clone()))
    assert seen[0] == (torch.float32, False) and seen[1] == (torch.bfloat16, autocast)
    for value, other in zip(*results, strict=True):
        assert value.dtype == other.dtype and (value - other).float().norm() <= 0.03 * other.float().norm()
