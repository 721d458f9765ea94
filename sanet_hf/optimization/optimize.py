# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained SANet made faster for inference."""

import copy
import itertools
import types
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from sanet_hf.errors import UsageError
from sanet_hf.layers_sanet import SANetBatchNorm, SANetConv1d, SANetDownsample, SANetUpsample
from sanet_hf.modeling_sanet import (
    SANetAttentionLayer,
    SANetForAudioClassification,
    SANetModel,
    SANetModelOutput,
    SANetPreTrainedModel,
    SANetResidualLayer,
)
from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.cpu_layers import optimized_conv, optimized_linear
from sanet_hf.optimization.int8 import Int8Calibration, check_int8, hash_weights, measure_ranges, replace_layers
from sanet_hf.optimization.int8_layers import is_quantized
from sanet_hf.optimization.self_check import replace_wrong_layers


# Values of the first layer that a part of a batch has at most.
PART_SIZE = 2**21

SANet = TypeVar("SANet", bound=SANetPreTrainedModel)


def optimize_for_inference(model: SANet) -> SANet:
    """
    Return a copy of a SANet with the same outputs (in float32 to 1e-4) that is faster: BatchNorm is folded into the
    convolutions and linear layers before it; on a CPU a large batch goes through the network in parts, and in float32
    long kernels are computed by FFT, short ones over many channels by Winograd's algorithm, linear layers by oneDNN.

    The copy has the model's inputs and outputs, hidden states included, its device and its number format. It has no
    gradients, and cannot be trained or saved: save the model itself. Move the model to its device and number format
    first. On a CPU each layer is compared with plain computation; one that is wrong on this processor is replaced,
    with a warning.

    Args:
        model: [`SANetModel`] or [`SANetForAudioClassification`]; it stays as it is.

    Raises:
        TypeError: The model is no SANet.
    """
    if not isinstance(model, SANetPreTrainedModel):
        raise TypeError(f"optimize_for_inference takes a SANet, not {type(model).__name__}.")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    is_cpu = model.device.type == "cpu"
    is_cpu_float32 = is_cpu and model.dtype == torch.float32
    if is_cpu:
        model.base_model.forward = types.MethodType(_forward_in_parts, model.base_model)
    for layer in model.base_model.layers:
        if isinstance(layer, SANetResidualLayer):
            _fold(layer, "conv1", "norm1")
            _fold(layer, "conv2", "norm2")
            if layer.shortcut is not None:
                _fold(layer, "shortcut", "shortcut_norm")
            if is_cpu_float32:
                layer.conv2 = optimized_conv(layer.conv2)
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
    for layer in model.modules():
        if isinstance(layer, SANetConv1d):
            # Channels-last in memory, as the convolution takes it: else it is copied for every batch.
            weight = layer.weight.transpose(1, 2).contiguous().transpose(1, 2)
            layer.weight = nn.Parameter(weight, requires_grad=False)
    if is_cpu_float32:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Linear:
                    setattr(parent, name, optimized_linear(child))
    replace_wrong_layers(model, model.dtype)
    return model


def calibrate_int8(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> Int8Calibration:
    """
    Measure the ranges of activations that [`quantize_for_inference`] needs.

    Args:
        model: In float32 on the CPU; it stays as it is.
        batches: Features as the model takes them, of some hundred clips of the kind that it is meant for.

    Raises:
        UsageError: There are no clips, int8 does not run here, or the logits are off by more than half.
    """
    check_int8(model)
    return measure_ranges(_optimized_copy(model), batches, hash_weights(model))


def quantize_for_inference(model: PreTrainedModel, calibration: Int8Calibration) -> PreTrainedModel:
    """
    Return a copy of a classifier that computes convolutions and linear layers on frames in 8-bit integers, on a CPU.

    The copy has the model's inputs and outputs, hidden states and embeddings included, in float32. It has no
    gradients, and cannot be trained or saved. The first convolution on the waveform, products of two activations, the
    pooling's statistics and the classifier stay in float32. Each layer is compared with exact sums; one that is wrong
    on this processor stays in float32, with a warning. Of architectures other than SANet, linear layers are replaced.

    Args:
        model: In float32 on the CPU; it stays as it is.
        calibration: Of [`calibrate_int8`], for these weights.

    Raises:
        UsageError: The calibration is of other weights, or int8 does not run here.
    """
    check_int8(model)
    if calibration.weights != hash_weights(model):
        raise UsageError("The calibration for int8 is of other weights than this model's: calibrate again.")
    return replace_layers(_optimized_copy(model), calibration)


def _optimized_copy(model: PreTrainedModel) -> PreTrainedModel:
    if isinstance(model, SANetPreTrainedModel):
        return optimize_for_inference(model)
    return copy.deepcopy(model).eval().requires_grad_(False)


def prepare_classifier(model: PreTrainedModel) -> PreTrainedModel:
    """
    Return what a program that only classifies should use: the result of [`optimize_for_inference`], or, of other
    architectures than SANet and of models in int8, the model itself. On a CPU, let the process keep the memory that it
    frees.
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    is_optimized = not isinstance(model, SANetPreTrainedModel) or is_quantized(model)
    return model if is_optimized else optimize_for_inference(model)


@can_return_tuple
def _forward_in_parts(
    model: SANetModel, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
) -> SANetModelOutput:
    """As many clips at once as caches and the memory allocator hold: four of 4 s by default."""
    clip_size = model.config.conv_dim[0] * input_values.shape[-1] // model.config.conv_stride[0]
    part_size = max(1, PART_SIZE // max(1, clip_size))
    # What has no shape of a batch is refused by the model.
    is_batch = input_values.dim() > 1 and (attention_mask is None or len(attention_mask) == len(input_values))
    if torch.compiler.is_compiling() or not is_batch or len(input_values) <= part_size:
        return SANetModel.forward(model, input_values, attention_mask, **kwargs, return_dict=True)
    masks = itertools.repeat(None) if attention_mask is None else attention_mask.split(part_size)
    batches = zip(input_values.split(part_size), masks)
    parts = [SANetModel.forward(model, *batch, **kwargs, return_dict=True) for batch in batches]
    return SANetModelOutput(**{name: _concatenate([part[name] for part in parts]) for name in parts[0]})


def _concatenate(
    parts: list[torch.Tensor] | list[tuple[torch.Tensor, ...]],
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
    return torch.cat(parts)


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
    device, dtype = linear.weight.device, linear.weight.dtype

    def exact(values: torch.Tensor) -> torch.Tensor:
        # On the CPU, since not every accelerator has float64.
        return values.detach().cpu().double()

    scale = exact(norm.weight) * torch.rsqrt(exact(norm.running_var) + norm.eps)
    shift = exact(norm.bias) - exact(norm.running_mean) * scale
    # Transposed convolutions have their outputs in the second axis.
    axis = 1 if isinstance(linear, nn.ConvTranspose1d) else 0
    shape = [1] * linear.weight.dim()
    shape[axis] = -1
    weight = exact(linear.weight) * scale.view(shape)
    bias = shift if linear.bias is None else shift + exact(linear.bias) * scale
    linear.weight = nn.Parameter(weight.to(dtype).to(device), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(dtype).to(device), requires_grad=False)
