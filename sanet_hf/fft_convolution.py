# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Long convolutions by FFT, on a CPU; benchmarks/NOTES.md has the measurements behind the limits."""

import torch
from torch import nn


FFT_SIZE = 512
FFT_MIN_KERNEL = 32
FFT_MIN_FRAMES = 1024


def suits_fft(weight: torch.Tensor, groups: int) -> bool:
    """Whether a convolution with a weight of shape (out, in, kernel) is long enough, and over several channels."""
    return FFT_MIN_KERNEL <= weight.shape[2] <= FFT_SIZE // 2 and groups == 1 and weight.shape[1] > 1


class Conv2dWithFFTWeightGradient(torch.autograd.Function):
    """
    `conv2d` of (batch, in, 1, frames) with a weight of shape (out, in, 1, kernel), strided and padded along frames.

    The weight's gradient goes by FFT, in float32: oneDNN computes it at a fifth of the forward pass's rate. The kernel
    is a multiple of the stride.
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
            # Of the inputs only format and layout in memory count, which `nn.grad.conv2d_input` does not keep.
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
    (batch, frames, in) and (batch, frames / stride, out) to (out, in, kernel): the correlation of the two by
    overlap-save, `FFT_SIZE` strides a block.
    """
    batch_size, num_frames, in_channels = inputs.shape
    num_lags = kernel_size // stride
    step = FFT_SIZE - num_lags + 1
    num_blocks = -(-gradient.shape[1] // step)
    end = (num_blocks * step + num_lags - 1) * stride - num_frames - padding
    # A stride's frames become channels.
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
    (batch, blocks, channels, frames) to (frequencies, batch * blocks, 2 * channels): real and imaginary parts by
    turns, since PyTorch computes products of complex matrices one by one.
    """
    spectra = torch.fft.rfft(blocks.float(), n=FFT_SIZE).permute(3, 0, 1, 2).flatten(1, 2)
    return torch.view_as_real(spectra.contiguous()).flatten(2)
