# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained SANet made faster for inference."""

import copy
from typing import TypeVar

import torch
from torch import nn

from .fft_convolution import FFT_MIN_FRAMES, FFT_SIZE, spectra_of, suits_fft
from .modeling_sanet import (
    SANetAttentionLayer,
    SANetBatchNorm,
    SANetConv1d,
    SANetDownsample,
    SANetForAudioClassification,
    SANetPreTrainedModel,
    SANetResidualLayer,
    SANetUpsample,
)


# Features from which on a linear layer goes through oneDNN.
ONEDNN_MIN_FEATURES = 64

SANet = TypeVar("SANet", bound=SANetPreTrainedModel)


def optimize_for_inference(model: SANet) -> SANet:
    """
    A copy of a SANet that gives the same outputs (in float32 to 1e-4) in less time: BatchNorm is folded into the
    convolutions and linear layers before it, and on a CPU in float32 long kernels are computed by FFT and linear
    layers by oneDNN.

    For any use of a trained model in PyTorch. It takes and gives what the model does, hidden states included, on its
    device and in its number format, but cannot be trained or saved: save the model itself. Move the model to its
    device and number format before.

    Args:
        model: [`SANetModel`] or [`SANetForAudioClassification`]; it stays as it is.

    Raises:
        TypeError: The model is no SANet.
    """
    if not isinstance(model, SANetPreTrainedModel):
        raise TypeError(f"optimize_for_inference takes a SANet, not {type(model).__name__}.")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    is_cpu_float32 = model.device.type == "cpu" and model.dtype == torch.float32
    for layer in model.base_model.layers:
        if isinstance(layer, SANetResidualLayer):
            _fold(layer, "conv1", "norm1")
            _fold(layer, "conv2", "norm2")
            if layer.shortcut is not None:
                _fold(layer, "shortcut", "shortcut_norm")
            if is_cpu_float32 and FFTConv1d.suits(layer.conv2):
                layer.conv2 = FFTConv1d(layer.conv2)
        elif isinstance(layer, SANetAttentionLayer):
            _fold(layer, "downsample", "downsample_norm")
            _fold(layer, "upsample", "upsample_norm")
            layer.downsample, layer.upsample = _FrameLinear(layer.downsample), _FrameLinear(layer.upsample)
    if isinstance(model, SANetForAudioClassification):
        layers = []
        for layer in model.classifier:
            if isinstance(layer, SANetBatchNorm):
                _scale_and_shift(layers[-1], layer)
            elif not isinstance(layer, nn.Dropout):
                layers.append(layer)
        model.classifier = nn.Sequential(*layers)
    if is_cpu_float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Linear and min(child.in_features, child.out_features) >= ONEDNN_MIN_FEATURES:
                    setattr(parent, name, OneDNNLinear(child))
    return model


class FFTConv1d(SANetConv1d):
    """
    [`SANetConv1d`] of stride 1 by overlap-save: blocks of `FFT_SIZE` frames, whose spectra are multiplied with the
    kernel's.
    """

    def __init__(self, conv: SANetConv1d):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.padding[0], device="meta"
        )
        self.weight, self.bias = conv.weight, conv.bias
        # Conjugate, since a convolution layer is a correlation: (frequencies, in, out), kept as real numbers because
        # Module.to(dtype) would make real ones of complex ones.
        spectrum = torch.fft.rfft(conv.weight, n=FFT_SIZE).conj().permute(2, 1, 0)
        self.register_buffer("spectrum", torch.view_as_real(spectrum.resolve_conj()).contiguous(), persistent=False)

    @staticmethod
    def suits(conv: SANetConv1d) -> bool:
        return suits_fft(conv.weight, conv.groups) and conv.stride[0] == 1

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch_size, num_frames, _ = hidden_states.shape
        kernel_size, padding = self.kernel_size[0], self.padding[0]
        num_frames += 2 * padding - kernel_size + 1
        # Autocast gives other formats, and compilers and exporters know convolutions better.
        if torch.compiler.is_compiling() or num_frames < FFT_MIN_FRAMES or hidden_states.dtype != torch.float32:
            return super().forward(hidden_states)
        step = FFT_SIZE - kernel_size + 1
        num_blocks = -(-num_frames // step)
        after = num_blocks * step + kernel_size - 1 - hidden_states.shape[1] - padding
        blocks = nn.functional.pad(hidden_states, (0, 0, padding, after)).unfold(1, FFT_SIZE, step)
        blocks = torch.fft.irfft(
            torch.bmm(spectra_of(blocks), torch.view_as_complex(self.spectrum)), n=FFT_SIZE, dim=0
        )[:step]
        blocks = blocks.view(step, batch_size, num_blocks, -1).permute(1, 2, 0, 3).flatten(1, 2)[:, :num_frames]
        return blocks if self.bias is None else blocks + self.bias


class OneDNNLinear(nn.Linear):
    """
    `nn.Linear` through oneDNN, as torch.compile has it on a CPU: PyTorch takes MKL in float32, which has half the
    speed on processors other than Intel's.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        is_plain = hidden_states.device.type == "cpu" and hidden_states.dtype == torch.float32
        if not is_plain or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(hidden_states)
        return torch.ops.mkldnn._linear_pointwise(hidden_states, self.weight, self.bias, "none", [], "")


class _FrameLinear(nn.Module):
    """[`SANetDownsample`] or [`SANetUpsample`] with the weight as the linear layer takes it."""

    def __init__(self, conv: SANetDownsample | SANetUpsample):
        super().__init__()
        weight, bias = conv.linear_parameters()
        self.out_channels = conv.out_channels
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.linear.weight, self.linear.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch_size = hidden_states.shape[0]
        merged = hidden_states.reshape(batch_size, -1, self.linear.in_features)
        return self.linear(merged).reshape(batch_size, -1, self.out_channels)


class _NoNorm(nn.Module):
    """In place of a BatchNorm that was folded."""

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden_states


def _fold(layer: nn.Module, name: str, norm: str) -> None:
    """Put the BatchNorm `norm` of a block into its linear operation `name`."""
    _scale_and_shift(getattr(layer, name), getattr(layer, norm))
    setattr(layer, norm, _NoNorm())


def _scale_and_shift(linear: nn.Linear | SANetConv1d | SANetDownsample | SANetUpsample, norm: SANetBatchNorm) -> None:
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight, bias = linear.weight, linear.bias
    # Transposed convolutions have their outputs in the second axis.
    axis = 1 if isinstance(linear, nn.ConvTranspose1d) else 0
    shape = [1] * weight.dim()
    shape[axis] = -1
    linear.weight = nn.Parameter((weight.double() * scale.view(shape)).to(weight.dtype), requires_grad=False)
    shift = shift if bias is None else shift + bias.double() * scale
    linear.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
