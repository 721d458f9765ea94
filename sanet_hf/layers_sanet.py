# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Layers of SANet: masks, convolutions, attention, and the weight gradient of long convolutions by FFT.

Hidden states are (batch, frames, channels). The limits are based on the measurements in docs/benchmarks.md.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs


FFT_SIZE = 512
FFT_MIN_KERNEL = 32
FFT_MIN_FRAMES = 1024

# Minimum number of input channels of a convolution in bfloat16 or float16 on a CPU.
HALF_MIN_CHANNELS = 16


def zero_padded_frames(hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Set the frames of (batch, frames, channels) to zero for which the (batch, frames) mask is zero."""
    return hidden_states if mask is None else hidden_states * mask.unsqueeze(-1).to(hidden_states.dtype)


def downsample_mask(mask: torch.Tensor | None, stride: int) -> torch.Tensor | None:
    """
    Merge every `stride` frames of a (batch, frames) mask into one that is 1 if any of them is 1:

        1 1 1 1 1 0  with stride 4  ->  1 1
    """
    if mask is None or stride == 1:
        return mask
    return pad_to_multiple(mask, stride).view(mask.shape[0], -1, stride).amax(-1)


def pad_to_multiple(values: torch.Tensor, stride: int) -> torch.Tensor:
    """Append zeros to the frames of (batch, frames) or (batch, frames, channels) up to a multiple of `stride`."""
    missing = -values.shape[1] % stride
    # For compilers and exporters the input is already padded to whole frames, so that one graph supports all lengths.
    if torch.compiler.is_compiling() or not missing:
        return values
    return nn.functional.pad(values, (0, missing) if values.dim() == 2 else (0, 0, 0, missing))


def complete_frames(
    input_values: torch.Tensor, mask: torch.Tensor | None, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Append zeros to (batch, channels, samples) and its (batch, samples) mask up to a multiple of `stride`, so that one
    graph supports all lengths.
    """
    batch_size, _, num_samples = input_values.shape
    mask = input_values.new_ones(batch_size, num_samples) if mask is None else mask
    # ONNX rounds quotients towards zero, so that negative quotients must not occur.
    padding = (0, (num_samples + stride - 1) // stride * stride - num_samples)
    return nn.functional.pad(input_values, padding), nn.functional.pad(mask, padding)


def is_exporting() -> bool:
    """Return whether `torch.export` (not `torch.compile`) traces this code."""
    # Before PyTorch 2.14, is_exporting() is also true inside torch.compile.
    exporting = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if exporting is None else exporting


def computing_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """Return the number format of convolutions and matrix products of these values: that of autocast, if enabled."""
    device = hidden_states.device.type
    if hidden_states.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden_states.dtype


def is_half_on_cpu(hidden_states: torch.Tensor) -> bool:
    """Return whether these values are computed in bfloat16 or float16 on a CPU."""
    return hidden_states.device.type == "cpu" and computing_dtype(hidden_states) in (torch.bfloat16, torch.float16)


def convolve_in_float32(layer: "SANetConv1d", hidden_states: torch.Tensor) -> torch.Tensor:
    """Apply a convolution (a layer with a method `_convolve`) in float32 instead of half precision."""
    with torch.autocast("cpu", enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        output = layer._convolve(hidden_states.float(), layer.weight.float(), bias)
    return output.to(computing_dtype(hidden_states))


def merge_frames(weight: torch.Tensor, stride: int, num_merged: int) -> torch.Tensor:
    """
    Return the weight of a convolution of stride 1 that computes `num_merged` frames at once: (out, in, kernel) ->
    (num_merged * out, num_merged * stride * in, taps). The kernel is shifted by one stride per frame. The input frames
    of these strides become channels:

        input frames of 2 strides  a b c d | e f g h | i j k l    (stride 2, kernel 4)
        kernel of the first frame  w x y z   0 0 0 0
        kernel of the second       0 0 w x   y z 0 0
    """
    width = num_merged * stride
    num_taps = -(-(weight.shape[2] + width - stride) // width)
    taps, unused = weight.transpose(1, 2), num_taps * width - weight.shape[2]
    taps = torch.cat([nn.functional.pad(taps, (0, 0, shift, unused - shift)) for shift in range(0, width, stride)])
    return taps.reshape(len(taps), num_taps, -1).transpose(1, 2)


class SANetLayer(GradientCheckpointingLayer):
    """A block whose output is a hidden state of the model. `stride` is its number of input frames per output frame."""

    stride: int = 1


class SANetConv1d(nn.Conv1d):
    """
    `nn.Conv1d` over (batch, frames, channels).

    It runs as a 2-D convolution of height 1, which PyTorch computes channels-last. This needs no transposition in
    memory and has faster kernels than `conv1d` at these sizes. In training on a CPU, the weight gradient of long
    kernels is computed by FFT.

    In bfloat16 and float16 on a CPU, some kernels of oneDNN are wrong on Intel processors with AMX. To avoid them,
    frames are merged if there are few channels. Convolutions with groups, or with fewer frames than the kernel size,
    are computed in float32. docs/benchmarks.md lists the shapes.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        is_half = is_half_on_cpu(hidden_states)
        is_short = not torch.compiler.is_compiling() and hidden_states.shape[1] < self.kernel_size[0]
        if is_half and (self.groups > 1 or is_short):
            return convolve_in_float32(self, hidden_states)
        stride_channels = self.in_channels * self.stride[0]
        if is_half and self.in_channels < HALF_MIN_CHANNELS:
            return self._convolve_merged(hidden_states, -(-HALF_MIN_CHANNELS // stride_channels))
        if self.in_channels == 1 and self.stride[0] > 1 and self.kernel_size[0] % self.stride[0] == 0:
            return self._convolve_merged(hidden_states, 1)
        return self._convolve(hidden_states, self.weight, self.bias)

    def _convolve(self, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        batch_size, num_frames, channels = hidden_states.shape
        if channels == 1:
            # reshape instead of transpose: the gradient of a convolution over one channel with memory strides
            # (frames, 1, 1) corrupts memory on the CPU (PyTorch 2.11 and 2.13).
            hidden_states = hidden_states.reshape(batch_size, 1, 1, num_frames)
        else:
            hidden_states = hidden_states.transpose(1, 2).unsqueeze(2)
        weight = weight.unsqueeze(2)
        if self._has_fft_gradient(hidden_states):
            hidden_states = Conv2dWithFFTWeightGradient.apply(hidden_states, weight, self.stride[0], self.padding[0])
        else:
            hidden_states = nn.functional.conv2d(
                hidden_states,
                weight,
                bias,
                stride=(1, self.stride[0]),
                padding=(0, self.padding[0]),
                groups=self.groups,
            )
        # With one input channel the result is (batch, channels, frames) in memory, which slows down the next layers.
        return hidden_states.squeeze(2).transpose(1, 2).contiguous()

    def _convolve_merged(self, hidden_states: torch.Tensor, num_merged: int) -> torch.Tensor:
        """Compute `num_merged` frames at once. The input frames of their strides become channels."""
        kernel_size, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        batch_size, num_inputs, _ = hidden_states.shape
        num_frames = (num_inputs + 2 * padding - kernel_size) // stride + 1
        num_blocks = (num_frames + num_merged - 1) // num_merged
        weight, width = merge_frames(self.weight, stride, num_merged), num_merged * stride
        after = (num_blocks - 1 + weight.shape[2]) * width - num_inputs - padding
        blocks = nn.functional.pad(hidden_states, (0, 0, padding, after))
        blocks = blocks.reshape(batch_size, -1, width * self.in_channels)
        bias = None if self.bias is None else self.bias.repeat(num_merged)
        frames = nn.functional.conv2d(blocks.transpose(1, 2).unsqueeze(2), weight.unsqueeze(2), bias)
        frames = frames.squeeze(2).transpose(1, 2)
        if num_merged == 1:
            return frames
        return frames.reshape(batch_size, -1, self.out_channels)[:, :num_frames].contiguous()

    def _has_fft_gradient(self, hidden_states: torch.Tensor) -> bool:
        # Compilers and exporters optimise plain convolutions better, and would make the limit on frames permanent.
        return (
            not torch.compiler.is_compiling()
            and suits_fft(self.weight, self.groups)
            and not has_fast_gradients(computing_dtype(hidden_states))
            and self.kernel_size[0] % self.stride[0] == 0
            and hidden_states.shape[-1] >= FFT_MIN_FRAMES
            and hidden_states.device.type == "cpu"
            and hidden_states.dtype != torch.float64
            and self.bias is None
            and self.weight.requires_grad
            and torch.is_grad_enabled()
        )


class SANetDownsample(nn.Conv1d):
    """`nn.Conv1d` whose kernel size is its stride, as a matrix product: (batch, n * stride, in) -> (batch, n, out)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(in_channels, out_channels, kernel_size=stride, stride=stride)

    def linear_parameters(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias of the matrix product."""
        return self.weight.transpose(1, 2).flatten(1), self.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, bias = self.linear_parameters()
        merged = hidden_states.reshape(hidden_states.shape[0], -1, weight.shape[1])
        return nn.functional.linear(merged, weight, bias)


class SANetUpsample(nn.ConvTranspose1d):
    """
    `nn.ConvTranspose1d` whose kernel size is its stride, as a matrix product: (batch, n, in) -> (batch, n * stride,
    out).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(in_channels, out_channels, kernel_size=stride, stride=stride)

    def linear_parameters(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias of the matrix product."""
        return self.weight.permute(2, 1, 0).flatten(0, 1), self.bias.repeat(self.stride[0])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        spread = nn.functional.linear(hidden_states, *self.linear_parameters())
        return spread.reshape(hidden_states.shape[0], -1, self.out_channels)


class SANetSqueezeExcitation(nn.Module):
    """Scale channels by a gate that is computed from their mean over time (Hu et al., 2018)."""

    def __init__(self, config: PreTrainedConfig, channels: int):
        super().__init__()
        self.reduce = nn.Linear(channels, channels // config.se_reduction)
        self.act = ACT2FN[config.hidden_act]
        self.expand = nn.Linear(channels // config.se_reduction, channels)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        mean = zero_padded_frames(hidden_states, mask).mean(1)
        if mask is not None:
            mean = mean * (1 / mask.mean(1, keepdim=True)).to(mean.dtype)
        gate = torch.sigmoid(self.expand(self.act(self.reduce(mean))))
        return hidden_states * gate.unsqueeze(1)


class SANetPositionEmbedding(nn.Module):
    """Add learned position embeddings to (batch, frames, dim)."""

    def __init__(self, num_positions: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.weight[: hidden_states.shape[1]]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scaled dot-product attention of (batch, heads, frames, head dim); return output and probabilities."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    output = torch.matmul(probabilities, value)
    return output.transpose(1, 2).contiguous(), probabilities


class SANetAttention(nn.Module):
    """Multi-head self-attention through transformers' attention interface."""

    def __init__(self, config: PreTrainedConfig, dim: int):
        super().__init__()
        self.config = config
        self.head_dim = dim // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_and_frames = hidden_states.shape[:-1]
        heads = (*batch_and_frames, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        # get_interface() is missing in transformers 5.0.
        implementation = self.config._attn_implementation
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get(implementation, eager_attention_forward)
        dtype, device = query.dtype, query.device.type
        is_half_on_cpu = device == "cpu" and dtype in (torch.bfloat16, torch.float16)
        is_wide = implementation == "sdpa" and is_half_on_cpu and self.training and not torch.compiler.is_compiling()
        if is_wide:
            # In half precision the gradients of the fused function take two to five times as long.
            query, key, value = query.float(), key.float(), value.float()
            if attention_mask is not None and attention_mask.is_floating_point():
                attention_mask = attention_mask.float()
        with torch.autocast(device, enabled=False) if is_wide else nullcontext():
            output, probabilities = attention(
                self,
                query,
                key,
                value,
                attention_mask,
                dropout=self.attention_dropout if self.training else 0.0,
                scaling=self.scaling,
                **kwargs,
            )
        return self.o_proj(output.to(dtype).reshape(*batch_and_frames, -1)), probabilities


# The weight gradient of long convolutions by FFT.


@cache
def has_fast_gradients(dtype: torch.dtype) -> bool:
    """Return whether direct weight gradients are faster than FFT: in bfloat16 with Intel's AMX."""
    return dtype == torch.bfloat16 and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def suits_fft(weight: torch.Tensor, groups: int) -> bool:
    """Return whether a weight of shape (out, in, kernel) is long enough for FFT and has several input channels."""
    return FFT_MIN_KERNEL <= weight.shape[2] <= FFT_SIZE // 2 and groups == 1 and weight.shape[1] > 1


class Conv2dWithFFTWeightGradient(torch.autograd.Function):
    """
    `conv2d` of (batch, in, 1, frames) with a weight of shape (out, in, 1, kernel), strided and padded along frames.

    The weight gradient is computed by FFT in float32, since oneDNN computes it at a fifth of the rate of the forward
    pass. The kernel size must be a multiple of the stride.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        return nn.functional.conv2d(inputs, weight, stride=(1, stride), padding=(0, padding))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        values, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(values, weight)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        inputs, weight = ctx.saved_tensors
        input_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            # Only number format and memory layout of the inputs matter. `nn.grad.conv2d_input` does not keep them.
            like = inputs.to(gradient.dtype)
            options = ([1, ctx.stride], [0, ctx.padding], [1, 1], False, [0, 0], 1, [True, False, False])
            input_gradient, _, _ = torch.ops.aten.convolution_backward(
                gradient, like, weight.to(gradient.dtype), None, *options
            )
            input_gradient = input_gradient.to(inputs.dtype)
        if ctx.needs_input_grad[1]:
            weight_gradient = _weight_gradient(
                inputs.squeeze(2).transpose(1, 2),
                gradient.squeeze(2).transpose(1, 2),
                weight.shape[3],
                ctx.stride,
                ctx.padding,
            )
            weight_gradient = weight_gradient.unsqueeze(2).to(weight.dtype)
        return input_gradient, weight_gradient, None, None


def _weight_gradient(
    inputs: torch.Tensor, gradient: torch.Tensor, kernel_size: int, stride: int, padding: int
) -> torch.Tensor:
    """
    Correlate (batch, frames, in) with (batch, frames / stride, out) by overlap-save, in blocks of `FFT_SIZE` strides.
    Return (out, in, kernel).
    """
    batch_size, num_frames, in_channels = inputs.shape
    num_lags = kernel_size // stride
    step = FFT_SIZE - num_lags + 1
    num_blocks = -(-gradient.shape[1] // step)
    end = (num_blocks * step + num_lags - 1) * stride - num_frames - padding
    # The frames of a stride become channels.
    inputs = nn.functional.pad(inputs, (0, 0, padding, end)).reshape(batch_size, -1, stride * in_channels)
    inputs = spectra_of(inputs.unfold(1, FFT_SIZE, step))
    gradient = nn.functional.pad(gradient, (0, 0, 0, num_blocks * step - gradient.shape[1]))
    gradient = spectra_of(gradient.unfold(1, step, step))
    with torch.autocast("cpu", enabled=False):
        products = torch.bmm(gradient.mT, inputs).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    real = products[:, :, 0, :, 0] + products[:, :, 1, :, 1]
    imaginary = products[:, :, 0, :, 1] - products[:, :, 1, :, 0]
    lags = torch.fft.irfft(torch.complex(real, imaginary), n=FFT_SIZE, dim=0)[:num_lags]
    return lags.view(num_lags, -1, stride, in_channels).permute(1, 3, 0, 2).flatten(2)


def spectra_of(blocks: torch.Tensor) -> torch.Tensor:
    """
    Return the spectra of (batch, blocks, channels, frames) as (frequencies, batch * blocks, 2 * channels). Real and
    imaginary parts are interleaved, since PyTorch computes products of complex matrices one by one.
    """
    spectra = torch.fft.rfft(blocks.float(), n=FFT_SIZE).permute(3, 0, 1, 2).flatten(1, 2)
    return torch.view_as_real(spectra.contiguous()).flatten(2)
