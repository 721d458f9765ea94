# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Blocks of a SANet for inference on a CPU, for [`~sanet_hf.optimization.optimize_for_inference`]. Their outputs equal
those of modeling_sanet.py.

If all clips of a batch have the same length, frames after their end are not computed.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import can_return_tuple

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.layers_sanet import (
    SANetAttention,
    SANetDownsample,
    SANetSqueezeExcitation,
    SANetUpsample,
    downsample_mask,
    pad_to_multiple,
    zero_padded_frames,
)
from sanet_hf.modeling_sanet import (
    SANetAttentionLayer,
    SANetModel,
    SANetModelOutput,
    SANetResidualLayer,
)
from sanet_hf.optimization.activations import activate_
from sanet_hf.optimization.cpu_layers import is_plain


# Maximum number of output values of the first layer for a part of a batch.
PART_SIZE = 2**21


class FrameLinear(nn.Module):
    """[`SANetDownsample`] or [`SANetUpsample`] with its weight in the layout of a linear layer."""

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


def _attend_by_sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Compute attention of (batch, heads, frames, head dim)."""
    return nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)


def _attend_eagerly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    probabilities = torch.matmul(query * scaling, key.transpose(2, 3)).softmax(-1)
    return torch.matmul(probabilities, value)


ATTENTION: dict[str, Callable[..., torch.Tensor]] = {"SDPA": _attend_by_sdpa, "eager": _attend_eagerly}


@can_return_tuple
def forward_in_parts(
    model: SANetModel, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
) -> SANetModelOutput:
    """Compute a batch in parts that fit caches and the memory allocator: four clips of 4 s by default."""
    clip_size = int(_values_per_sample(model.config) * input_values.shape[-1])
    part_size = max(1, PART_SIZE // max(1, clip_size))
    # The model raises an error for inputs with wrong shapes.
    is_batch = input_values.dim() > 1 and (attention_mask is None or len(attention_mask) == len(input_values))
    if torch.compiler.is_compiling() or not is_batch or len(input_values) <= part_size:
        return _forward_part(model, input_values, attention_mask, **kwargs)
    masks = [None] * len(input_values) if attention_mask is None else attention_mask.split(part_size)
    batches = zip(input_values.split(part_size), masks)
    parts = [_forward_part(model, *batch, **kwargs) for batch in batches]
    return SANetModelOutput(**{name: _concatenate([part[name] for part in parts]) for name in parts[0]})


def _concatenate(
    parts: list[torch.Tensor] | list[tuple[torch.Tensor, ...]],
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
    return torch.cat(parts)


def _forward_part(
    model: SANetModel, input_values: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs
) -> SANetModelOutput:
    """
    Compute a part of a batch. If all clips have the same length, frames after their end are not computed and are zero
    in the outputs:

        input   a b c d e f g | padding
        blocks  A B C D       |
        output  A B C D       | 0 0 0
    """
    forward, num_frames = partial(SANetModel.forward, model, **kwargs, return_dict=True), input_values.shape[-1]
    attentions = kwargs.get("output_attentions")
    attentions = model.config.output_attentions if attentions is None else attentions
    if torch.compiler.is_compiling() or attentions or input_values.device.type != "cpu":
        return forward(input_values, attention_mask)
    length = _common_length(model.config, input_values, attention_mask)
    if length is None:
        return forward(input_values, attention_mask)
    outputs = forward(input_values[:, :length])
    all_hidden_states = ()
    for layer, hidden_states in itertools.zip_longest(model.layers, outputs.hidden_states or ()):
        num_frames = -(-num_frames // layer.stride)
        if hidden_states is not None:
            all_hidden_states += (_pad_to(hidden_states, num_frames),)
    return SANetModelOutput(
        last_hidden_state=_pad_to(outputs.last_hidden_state, num_frames),
        pooler_output=outputs.pooler_output,
        hidden_states=all_hidden_states or None,
        pooling_weights=_pad_to(outputs.pooling_weights.unsqueeze(2), num_frames).squeeze(2),
        band_statistics=outputs.band_statistics,
    )


def _values_per_sample(config: SANetConfig) -> float:
    """Return the output values of the first convolution per sample of the clip."""
    if not config.spectrogram_dim:
        return config.conv_dim[0] / config.conv_stride[0]
    frames, bins = config.spectrogram_pool[0]
    return config.spectrogram_dim[0] * config.num_mel_bins / (config.spectrogram_stride * frames * bins)


def _common_length(config: SANetConfig, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> int | None:
    """
    Return the length in samples that all clips of a batch of one channel have. Return `None` if lengths differ, if the
    mask is not ones followed by zeros, or if the model must raise an error.
    """
    limit = config.max_input_samples
    if config.num_channels > 1 or input_values.dim() != 2 or not 0 < input_values.shape[1] <= (limit or math.inf):
        return None
    if attention_mask is None:
        return input_values.shape[1]
    if attention_mask.shape != input_values.shape:
        return None
    is_valid = attention_mask != 0
    length = int(is_valid[0].sum())
    return length if length and is_valid[:, :length].all() and not is_valid[:, length:].any() else None


def _pad_to(hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Append zeros to (batch, frames, channels)."""
    missing = num_frames - hidden_states.shape[1]
    return nn.functional.pad(hidden_states, (0, 0, 0, missing)) if missing else hidden_states


def _activate(layer: nn.Module, hidden_states: torch.Tensor, act: nn.Module) -> torch.Tensor:
    """Apply the activation, unless it is fused into the layer that computed these values."""
    return hidden_states if layer.activation != "none" else act(hidden_states)


def forward_residual(
    layer: SANetResidualLayer, hidden_states: torch.Tensor, mask: torch.Tensor | None = None, **kwargs
) -> torch.Tensor:
    residual = hidden_states
    if layer.shortcut is not None:
        residual = layer.shortcut(hidden_states[:, :: layer.stride])
    inner_mask = mask
    if mask is not None and layer.even_kernel:
        inner_mask = torch.cat([mask[:, :1], mask], dim=1)
    values = layer.conv1(pad_to_multiple(hidden_states, layer.stride))
    values = layer.conv2(zero_padded_frames(_activate(layer.conv1, values, layer.act), inner_mask))
    gate = None
    if layer.squeeze_excitation is not None:
        gate = _gate(layer.squeeze_excitation, values, mask)
    if not is_plain(values) or layer.conv1.activation != "gelu" or residual is hidden_states:
        values = residual + (values if gate is None else values * gate)
        return zero_padded_frames(layer.act(values), mask)
    # In place, to avoid further passes over memory.
    residual = residual.add_(values) if gate is None else residual.addcmul_(values, gate)
    return zero_padded_frames(activate_(residual, "gelu"), mask)


def _gate(layer: SANetSqueezeExcitation, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the gate of squeeze-and-excitation, (batch, 1, channels)."""
    # `sum` is faster than `mean` in half precision.
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    total = zero_padded_frames(hidden_states, mask).sum(1, keepdim=True, dtype=dtype)
    num_frames = hidden_states.shape[1] if mask is None else mask.sum(1)[:, None, None]
    mean = (total / num_frames).to(hidden_states.dtype)
    return torch.sigmoid(layer.expand(_activate(layer.reduce, layer.reduce(mean), layer.act)))


def forward_attention(
    layer: SANetAttentionLayer,
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    output_attentions: bool = False,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    merged_mask = downsample_mask(mask, layer.attention_stride)
    merged = layer.downsample(pad_to_multiple(hidden_states, layer.attention_stride))
    merged = layer.position_embedding(layer.in_proj(_activate(layer.downsample.linear, merged, layer.act)))
    has_fast_way = layer.config._attn_implementation in ("eager", "sdpa") and not (output_attentions or kwargs)
    if mask is None and has_fast_way and is_plain(merged):
        attended, probabilities = _attend(layer.attention, merged), None
    else:
        attention_mask = create_bidirectional_mask(layer.config, merged, merged_mask)
        attended, probabilities = layer.attention(
            merged, attention_mask, output_attentions=output_attentions, **kwargs
        )
    merged = layer.layer_norm(merged + attended)
    output = layer.out_proj(_activate(layer.upsample.linear, layer.upsample(merged), layer.act))
    return zero_padded_frames(hidden_states + output[:, : hidden_states.shape[1]], mask), probabilities


def _attend(attention: SANetAttention, hidden_states: torch.Tensor) -> torch.Tensor:
    joined = attention.qkv_proj(hidden_states).unflatten(2, (3, -1, attention.head_dim))
    attended = ATTENTION[attention.fastest](*joined.permute(2, 0, 3, 1, 4), attention.scaling)
    return attention.o_proj(attended.transpose(1, 2).flatten(2))
