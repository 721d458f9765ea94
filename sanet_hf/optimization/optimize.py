# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimise a trained SANet for inference."""

import copy
import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN, GELUActivation

from sanet_hf.batchnorm_sanet import SANetBatchNorm
from sanet_hf.errors import UsageError
from sanet_hf.layers_sanet import SANetAttention, SANetConv1d, SANetDownsample, SANetUpsample
from sanet_hf.modeling_sanet import (
    SANetAttentionLayer,
    SANetForAudioClassification,
    SANetPreTrainedModel,
    SANetResidualLayer,
)
from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.choices import Choices, known_choices
from sanet_hf.optimization.cpu_blocks import (
    ATTENTION,
    FrameLinear,
    forward_attention,
    forward_in_parts,
    forward_residual,
)
from sanet_hf.optimization.cpu_layers import CPUConv1d, CPULinear, conv_candidates, linear_candidates
from sanet_hf.optimization.int8 import Int8Calibration, check_int8, hash_weights, measure_ranges, replace_layers
from sanet_hf.optimization.int8_layers import is_quantized
from sanet_hf.optimization.self_check import check_layer, describe_shape, replace_wrong_layers, warn_of_wrong_layers
from sanet_hf.spectrogram_sanet import SANetConv2d, SANetSpectrogramLayer


# Samples of the clip for which implementations are timed, and maximum number of frames.
TYPICAL_SAMPLES, MAX_FRAMES = 64000, 4096

SANet = TypeVar("SANet", bound=SANetPreTrainedModel)


def optimize_for_inference(model: SANet) -> SANet:
    """
    Return a faster copy of a SANet with the same outputs (in float32 to 1e-4). BatchNorm is folded into the
    convolutions and linear layers before it. On a CPU, large batches are split, and each layer uses the fastest
    implementation on this processor: PyTorch, oneDNN, Fourier transforms or Winograd's algorithm. Implementations are
    timed once, in about a second. The results are saved in `HF_ASSETS_CACHE`.

    Inputs, outputs (including hidden states), device and number format are those of the model. The copy has no
    gradients and cannot be trained or saved; save the model instead. Move the model to its device and number format
    first. On a CPU each layer is compared with plain computation. If its results are wrong on this processor, it is
    replaced, with a warning.

    Args:
        model: [`SANetModel`] or [`SANetForAudioClassification`]. It is not changed.

    Raises:
        TypeError: The model is not a SANet.
    """
    if not isinstance(model, SANetPreTrainedModel):
        raise TypeError(f"optimize_for_inference supports only SANet models, not {type(model).__name__}.")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for layer in model.base_model.layers:
        if isinstance(layer, (SANetResidualLayer, SANetSpectrogramLayer)):
            _fold(layer, "conv1", "norm1")
            _fold(layer, "conv2", "norm2")
            if layer.shortcut is not None:
                _fold(layer, "shortcut", "shortcut_norm")
        elif isinstance(layer, SANetAttentionLayer):
            _fold(layer, "downsample", "downsample_norm")
            _fold(layer, "upsample", "upsample_norm")
            layer.downsample, layer.upsample = FrameLinear(layer.downsample), FrameLinear(layer.upsample)
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
            # Channels-last in memory, the layout of the convolution. Otherwise it is copied for every batch.
            weight = layer.weight.transpose(1, 2).contiguous().transpose(1, 2)
            layer.weight = nn.Parameter(weight, requires_grad=False)
        elif isinstance(layer, SANetConv2d):
            weight = layer.weight.contiguous(memory_format=torch.channels_last)
            layer.weight = nn.Parameter(weight, requires_grad=False)
    if model.device.type == "cpu":
        _make_fast_on_cpu(model)
    replace_wrong_layers(model, model.dtype)
    return model


def calibrate_int8(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> Int8Calibration:
    """
    Measure the ranges of activations that [`quantize_for_inference`] needs.

    Args:
        model: Model in float32 on the CPU. It is not changed.
        batches: Inputs of the model for some hundred representative clips.

    Raises:
        UsageError: There are no clips, int8 is not supported, or the logits differ by more than half.
    """
    check_int8(model)
    return measure_ranges(_optimized_copy(model), batches, hash_weights(model))


def quantize_for_inference(model: PreTrainedModel, calibration: Int8Calibration) -> PreTrainedModel:
    """
    Return a copy of a classifier that computes convolutions and linear layers on frames in int8, on a CPU.

    Inputs and outputs, including hidden states and embeddings, are those of the model, in float32. The copy has no
    gradients and cannot be trained or saved. The first convolution on the waveform, products of two activations, the
    statistics of the pooling and the classifier stay in float32. Each layer is compared with exact sums. If its
    results are wrong on this processor, it stays in float32, with a warning. In architectures other than SANet, only
    linear layers are replaced.

    Args:
        model: Model in float32 on the CPU. It is not changed.
        calibration: Result of [`calibrate_int8`] for these weights.

    Raises:
        UsageError: The calibration is for other weights, or int8 is not supported.
    """
    check_int8(model)
    if calibration.weights != hash_weights(model):
        raise UsageError(
            "The int8 calibration was measured for other weights than those of this model. Calibrate again."
        )
    return replace_layers(_optimized_copy(model), calibration)


def _optimized_copy(model: PreTrainedModel) -> PreTrainedModel:
    if isinstance(model, SANetPreTrainedModel):
        return optimize_for_inference(model)
    return copy.deepcopy(model).eval().requires_grad_(False)


def prepare_classifier(model: PreTrainedModel) -> PreTrainedModel:
    """
    Prepare a model for a program that only classifies. Return the result of [`optimize_for_inference`] or, for int8
    models and architectures other than SANet, the model itself. On a CPU, also call [`keep_freed_memory`].
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    is_optimized = not isinstance(model, SANetPreTrainedModel) or is_quantized(model)
    return model if is_optimized else optimize_for_inference(model)


def _make_fast_on_cpu(model: SANetPreTrainedModel) -> None:
    """Replace the blocks of a SANet with folded BatchNorm by their fastest implementations, in place."""
    base, choices = model.base_model, known_choices()
    config = base.config
    activation = "gelu" if isinstance(ACT2FN[config.hidden_act], GELUActivation) else "none"
    num_frames = min(TYPICAL_SAMPLES, config.max_input_samples or TYPICAL_SAMPLES)

    def replace(parent: nn.Module, name: str, num_frames: int, activation: str = "none") -> None:
        setattr(parent, name, _fastest_layer(getattr(parent, name), num_frames, activation, choices))

    for layer in base.layers:
        if isinstance(layer, SANetResidualLayer):
            replace(layer, "conv1", num_frames, activation)
            num_frames = -(-num_frames // layer.stride)
            replace(layer, "conv2", num_frames)
            if layer.shortcut is not None:
                replace(layer, "shortcut", num_frames)
            if layer.squeeze_excitation is not None:
                replace(layer.squeeze_excitation, "reduce", 1, activation)
                replace(layer.squeeze_excitation, "expand", 1)
            layer.forward = types.MethodType(forward_residual, layer)
        elif isinstance(layer, SANetAttentionLayer):
            num_merged = -(-num_frames // layer.attention_stride)
            replace(layer.downsample, "linear", num_merged, activation)
            replace(layer, "in_proj", num_merged)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                replace(layer.attention, name, num_merged)
            layer.attention.qkv_proj = _fastest_layer(_join_projections(layer.attention), num_merged, "none", choices)
            layer.attention.fastest = _fastest_attention(layer.attention, num_merged, choices)
            replace(layer.upsample, "linear", num_merged, activation)
            replace(layer, "out_proj", num_frames)
            layer.forward = types.MethodType(forward_attention, layer)
        else:
            num_frames = -(-num_frames // layer.stride)
    replace(base.pooling, "hidden", num_frames, "tanh")
    replace(base.pooling, "score", num_frames)
    base.pooling.act = nn.Identity()  # included in the layer before it
    if isinstance(model, SANetForAudioClassification):
        # The last layer has no activation.
        linears = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
        layers = [_fastest_layer(layer, 1, "none" if layer is linears[-1] else "relu", choices) for layer in linears]
        model.classifier = nn.Sequential(*layers)
    base.forward = types.MethodType(forward_in_parts, base)
    choices.save()


def _fastest_layer(
    layer: SANetConv1d | nn.Linear, num_frames: int, activation: str, choices: Choices
) -> CPUConv1d | CPULinear:
    """Return the fastest implementation of a layer and its activation, for one clip, with correct results."""
    is_conv = isinstance(layer, SANetConv1d)
    kinds = conv_candidates(layer) if is_conv else linear_candidates(layer)
    dtype, num_frames = layer.weight.dtype, min(num_frames, MAX_FRAMES)
    what = f"{describe_shape(layer)}, {activation}, {dtype}, {num_frames} frames"
    known = choices.find(what)
    if known in kinds:
        candidate = kinds[known](layer, activation)
        if check_layer(candidate, dtype, training=False).is_right:
            return candidate
    candidates = {name: kind(layer, activation) for name, kind in kinds.items()}
    checks = {name: check_layer(candidate, dtype, training=False) for name, candidate in candidates.items()}
    # No warning for plain layers: wrong ones that are chosen are replaced later, with a warning.
    warn_of_wrong_layers(check for name, check in checks.items() if name != "plain")
    candidates = {name: candidate for name, candidate in candidates.items() if checks[name].is_right} or {
        "plain": candidates["plain"]
    }
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    channels = layer.in_channels if is_conv else layer.in_features
    inputs = torch.randn(1, num_frames, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        fastest = choices.choose(what, {name: partial(way, inputs) for name, way in candidates.items()})
    return candidates[fastest]


def _fastest_attention(attention: SANetAttention, num_frames: int, choices: Choices) -> str:
    dtype, head_dim = attention.q_proj.weight.dtype, attention.head_dim
    num_heads = attention.q_proj.out_features // head_dim
    what = f"attention, {num_heads} heads of {head_dim}, {dtype}, {num_frames} frames"
    known = choices.find(what)
    if known in ATTENTION:
        return known
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 1, num_frames, num_heads, head_dim, generator=generator).to(dtype).transpose(2, 3)
    with torch.inference_mode():
        results = [attend(*inputs, attention.scaling).float() for attend in ATTENTION.values()]
        if (results[0] - results[1]).abs().max() > 8 * torch.finfo(dtype).eps * results[0].abs().max():
            return "SDPA"
        ways = {name: partial(attend, *inputs, attention.scaling) for name, attend in ATTENTION.items()}
        return choices.choose(what, ways)


def _join_projections(attention: SANetAttention) -> nn.Linear:
    """Return query, key and value projections as one layer."""
    layers = attention.q_proj, attention.k_proj, attention.v_proj
    joined = nn.Linear(layers[0].in_features, 3 * layers[0].out_features, device="meta")
    for name in ("weight", "bias"):
        values = torch.cat([getattr(layer, name) for layer in layers])
        setattr(joined, name, nn.Parameter(values, requires_grad=False))
    return joined


class _NoNorm(nn.Module):
    """Replacement for a folded BatchNorm."""

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden_states


def _fold(layer: nn.Module, name: str, norm: str) -> None:
    """Fold the BatchNorm `norm` of a block into its linear operation `name`."""
    _scale_and_shift(getattr(layer, name), getattr(layer, norm))
    setattr(layer, norm, _NoNorm())


def _scale_and_shift(
    linear: nn.Linear | SANetConv1d | SANetConv2d | SANetDownsample | SANetUpsample, norm: SANetBatchNorm
) -> None:
    device, dtype = linear.weight.device, linear.weight.dtype

    def exact(values: torch.Tensor) -> torch.Tensor:
        # On the CPU, since some accelerators lack float64.
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
