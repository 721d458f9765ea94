# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Weight gradients of long convolutions by FFT, compared with those of `conv2d`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sanet_hf import layers_sanet
from sanet_hf.layers_sanet import FFT_MIN_FRAMES, FFT_SIZE, HALF_MIN_CHANNELS, Conv2dWithFFTWeightGradient, SANetConv1d


def make_inputs(num_frames: int, in_channels: int, out_channels: int, kernel_size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    # Channels last, as in the model.
    values = torch.randn(2, 1, num_frames, in_channels, generator=generator).permute(0, 3, 1, 2)
    weight = torch.randn(out_channels, in_channels, 1, kernel_size, generator=generator)
    return [values.requires_grad_(), weight.requires_grad_()]


@given(
    num_frames=st.integers(1, 3 * FFT_SIZE),
    stride=st.integers(1, 4),
    num_lags=st.integers(1, 64),
    padding=st.integers(0, 40),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_gradients(num_frames, stride, num_lags, padding, channels):
    kernel_size = stride * num_lags
    if num_frames + 2 * padding < kernel_size:
        num_frames = kernel_size
    inputs = make_inputs(num_frames, *channels, kernel_size)
    expected = nn.functional.conv2d(*inputs, stride=(1, stride), padding=(0, padding))
    output = Conv2dWithFFTWeightGradient.apply(*inputs, stride, padding)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    gradients = torch.autograd.grad(output, inputs, weights)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, inputs, weights), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-3, rtol=1e-4)


def test_gradients_of_gradients():
    inputs = make_inputs(700, 2, 3, 32)
    results = []
    for convolve in (
        lambda: Conv2dWithFFTWeightGradient.apply(*inputs, 2, 15),
        lambda: nn.functional.conv2d(*inputs, stride=(1, 2), padding=(0, 15)),
    ):
        gradients = torch.autograd.grad(convolve().square().sum(), inputs, create_graph=True)
        penalty = sum(gradient.square().mean() for gradient in gradients)
        results.append(torch.autograd.grad(penalty, inputs))
    for gradient, other in zip(*results, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5 * other.abs().max().item(), rtol=0)


@pytest.fixture
def calls(monkeypatch) -> list[torch.Size]:
    """Return a list of the input shapes of weight gradients that were computed by FFT."""
    shapes = []
    original = layers_sanet._weight_gradient

    def record(inputs, *others):
        shapes.append(inputs.shape)
        return original(inputs, *others)

    monkeypatch.setattr(layers_sanet, "_weight_gradient", record)
    return shapes


def make_conv(in_channels=4, kernel_size=32, stride=1, groups=1, bias=False) -> SANetConv1d:
    return SANetConv1d(in_channels, 4, kernel_size, stride=stride, padding=15, groups=groups, bias=bias)


@pytest.mark.parametrize("stride", [1, 2])
def test_long_convolutions_use_fft(calls, stride):
    hidden_states = torch.randn(2, FFT_MIN_FRAMES, 4)
    make_conv(stride=stride)(hidden_states).sum().backward()
    assert calls == [(2, FFT_MIN_FRAMES, 4)]


@pytest.mark.parametrize(
    "conv, num_frames",
    [
        (make_conv(), FFT_MIN_FRAMES - 1),
        (make_conv(kernel_size=31), FFT_MIN_FRAMES),
        (make_conv(stride=3), FFT_MIN_FRAMES),
        (make_conv(groups=2), FFT_MIN_FRAMES),
        (make_conv(in_channels=1), FFT_MIN_FRAMES),
        (make_conv(bias=True), FFT_MIN_FRAMES),
        (make_conv().double(), FFT_MIN_FRAMES),
    ],
    ids=["short input", "short kernel", "odd stride", "groups", "one channel", "bias", "float64"],
)
def test_other_convolutions_do_not_use_fft(calls, conv, num_frames):
    conv(torch.randn(2, num_frames, conv.in_channels, dtype=conv.weight.dtype)).sum().backward()
    assert conv.weight.grad is not None and not calls


def test_frozen_weights_need_no_fft(calls):
    """Only the layers before them get gradients."""
    hidden_states = torch.randn(1, FFT_MIN_FRAMES, 4, requires_grad=True)
    make_conv().requires_grad_(False)(hidden_states).sum().backward()
    assert hidden_states.grad is not None and not calls


def test_processors_with_fast_bfloat16_gradients(monkeypatch, calls):
    """With AMX, bfloat16 uses PyTorch's gradients and float32 the FFT."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    layers_sanet.has_fast_gradients.cache_clear()
    conv, hidden_states = make_conv(in_channels=16), torch.randn(1, 1100, 16)
    for dtype, num_calls in ((torch.bfloat16, 0), (torch.float32, 1)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            conv(hidden_states).sum().backward()
        assert len(calls) == num_calls
    layers_sanet.has_fast_gradients.cache_clear()


def test_autocast(monkeypatch, calls):
    """With autocast to bfloat16, the float32 weight gradient is about as exact as PyTorch's."""
    monkeypatch.setattr(layers_sanet, "has_fast_gradients", lambda dtype: False)
    # With fewer channels, several frames are merged, and the gradient is PyTorch's.
    conv = make_conv(HALF_MIN_CHANNELS, kernel_size=64)
    hidden_states = torch.randn(2, 2000, HALF_MIN_CHANNELS)
    weights = torch.randn(2, 1967, 4)

    def gradient_of(convolve) -> torch.Tensor:
        conv.zero_grad()
        (convolve(hidden_states) * weights).sum().backward()
        return conv.weight.grad

    def plain(states: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv1d(states.transpose(1, 2), conv.weight, padding=15).transpose(1, 2)

    exact = gradient_of(plain)
    with torch.autocast("cpu", torch.bfloat16):
        error = (gradient_of(plain) - exact).abs().max()
        gradient = gradient_of(conv)
    assert len(calls) == 1 and gradient.dtype == torch.float32
    assert (gradient - exact).abs().max() < 2 * error
