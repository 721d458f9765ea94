# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Faster float32 replacements for standard layers on a CPU, for [`~sanet_hf.optimization.optimize_for_inference`].

benchmarks/NOTES.md has the measurements behind their limits.
"""

from functools import cache

import torch
from torch import nn

from sanet_hf.layers_sanet import FFT_MIN_FRAMES, FFT_SIZE, SANetConv1d, spectra_of, suits_fft


# Features from which on a linear layer goes through oneDNN.
ONEDNN_MIN_FEATURES = 64

WINOGRAD_MIN_CHANNELS = 512
WINOGRAD_KERNEL_SIZES = range(3, 6)
# Where polynomials are evaluated, and at infinity: a tile has eight frames.
WINOGRAD_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)
WINOGRAD_TILE = len(WINOGRAD_POINTS) + 1


def optimized_conv(conv: SANetConv1d) -> SANetConv1d:
    """The convolution itself, or a faster one with its weights."""
    if conv.stride[0] > 1 or conv.groups > 1:
        return conv
    if suits_fft(conv.weight, conv.groups):
        return FFTConv1d(conv)
    is_wide = min(conv.in_channels, conv.out_channels) >= WINOGRAD_MIN_CHANNELS
    is_winograd = is_wide and conv.kernel_size[0] in WINOGRAD_KERNEL_SIZES and has_onednn_linear()
    return WinogradConv1d(conv) if is_winograd else conv


def optimized_linear(linear: nn.Linear) -> nn.Linear:
    """The linear layer itself, or a faster one with its weights."""
    is_large = min(linear.in_features, linear.out_features) >= ONEDNN_MIN_FEATURES
    return OneDNNLinear(linear) if is_large and has_onednn_linear() else linear


class _OptimizedConv1d(SANetConv1d):
    """Has the weights of the convolution of stride 1 and, where it is no faster, computes as it does."""

    def __init__(self, conv: SANetConv1d):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.padding[0], device="meta"
        )
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        num_frames = hidden_states.shape[1] + 2 * self.padding[0] - self.kernel_size[0] + 1
        if not _is_plain_float32(hidden_states) or num_frames < self.min_frames:
            return super().forward(hidden_states)
        return self.convolve(hidden_states, num_frames)

    def blocks_of(self, hidden_states: torch.Tensor, size: int, num_frames: int) -> torch.Tensor:
        """(batch, frames, channels) to (batch, blocks, channels, size), as many as `num_frames` results need."""
        step = size - self.kernel_size[0] + 1
        padding = self.padding[0]
        after = -(-num_frames // step) * step + self.kernel_size[0] - 1 - hidden_states.shape[1] - padding
        return nn.functional.pad(hidden_states, (0, 0, padding, after)).unfold(1, size, step)


class FFTConv1d(_OptimizedConv1d):
    """
    [`SANetConv1d`] of stride 1 by overlap-save: blocks of `FFT_SIZE` frames, whose spectra are multiplied with the
    kernel's.
    """

    min_frames = FFT_MIN_FRAMES

    def __init__(self, conv: SANetConv1d):
        super().__init__(conv)
        # Conjugate, since a convolution layer is a correlation: (frequencies, in, out).
        spectrum = torch.fft.rfft(conv.weight, n=FFT_SIZE).conj().permute(2, 1, 0)
        # A real part is multiplied by the spectrum, an imaginary one by i times it: (frequencies, 2 * in, 2 * out).
        spectrum = torch.view_as_real(torch.stack([spectrum, 1j * spectrum], dim=2).resolve_conj())
        self.register_buffer("spectrum", spectrum.flatten(3).flatten(1, 2).contiguous(), persistent=False)

    def convolve(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        blocks = self.blocks_of(hidden_states, FFT_SIZE, num_frames)
        spectra = torch.bmm(spectra_of(blocks), self.spectrum).unflatten(2, (-1, 2))
        if self.bias is not None:
            spectra[0, :, :, 0] += FFT_SIZE * self.bias
        frames = torch.fft.irfft(torch.view_as_complex(spectra), n=FFT_SIZE, dim=0)
        return _joined(frames[: FFT_SIZE - self.kernel_size[0] + 1], blocks, num_frames)


class WinogradConv1d(_OptimizedConv1d):
    """
    [`SANetConv1d`] of stride 1 by Winograd's algorithm: a frame costs 8 / (9 - r) products of matrices where the r
    taps of the kernel would take r.

    Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, here in one dimension.
    """

    min_frames = WINOGRAD_TILE

    def __init__(self, conv: SANetConv1d):
        super().__init__(conv)
        kernel_size = conv.kernel_size[0]
        # Polynomials are multiplied by their values, of which the inverse matrix makes coefficients; a convolution
        # layer, being a correlation, has the transpose of that.
        input_transform = torch.linalg.inv(_values_of_polynomials(WINOGRAD_TILE)).T
        # Values of one size, for the sake of precision.
        scale = input_transform.abs().amax(dim=1, keepdim=True)
        weight = torch.einsum("pk,oik->poi", _values_of_polynomials(kernel_size), conv.weight.double())
        buffers = {
            "input_transform": input_transform / scale,
            "transformed_weight": weight * scale.unsqueeze(2),
            "output_transform": _values_of_polynomials(WINOGRAD_TILE - kernel_size + 1).T,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.to(conv.weight.dtype), persistent=False)

    def convolve(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        tiles = self.blocks_of(hidden_states, WINOGRAD_TILE, num_frames)
        values = self.input_transform @ tiles.permute(3, 0, 1, 2).reshape(WINOGRAD_TILE, -1)
        values = values.view(WINOGRAD_TILE, -1, self.in_channels)
        # What the values at the point 1 have in addition, every frame has.
        biases = [self.bias if point == 1 else None for point in (*WINOGRAD_POINTS, torch.inf)]
        values = torch.stack(
            [onednn_linear(*inputs) for inputs in zip(values, self.transformed_weight, biases, strict=True)]
        )
        frames = (self.output_transform @ values.flatten(1)).unflatten(1, (-1, self.out_channels))
        return _joined(frames, tiles, num_frames)


class OneDNNLinear(nn.Linear):
    """
    `nn.Linear` through oneDNN, as torch.compile has it on a CPU: PyTorch takes MKL in float32, which has half the
    speed on processors other than Intel's.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _is_plain_float32(hidden_states):
            return super().forward(hidden_states)
        return onednn_linear(hidden_states, self.weight, self.bias)


@cache
def has_onednn_linear() -> bool:
    """Return whether [`onednn_linear`] runs with this PyTorch."""
    try:
        onednn_linear(torch.zeros(1, 64), torch.zeros(64, 64), None)
    except Exception:
        # The operator is private: another PyTorch may lack it or have other arguments.
        return False
    return True


def onednn_linear(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`nn.functional.linear` by oneDNN, on a CPU."""
    return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, "none", [], "")


def _is_plain_float32(hidden_states: torch.Tensor) -> bool:
    """Whether neither autocast wants another format nor a compiler or exporter, to which usual layers are better."""
    return (
        hidden_states.device.type == "cpu"
        and hidden_states.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _joined(frames: torch.Tensor, blocks: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(step, batch * blocks, channels) to (batch, frames, channels)."""
    frames = frames.unflatten(1, blocks.shape[:2])
    return frames.permute(1, 2, 0, 3).flatten(1, 2)[:, :num_frames]


def _values_of_polynomials(num_coefficients: int) -> torch.Tensor:
    """(points, coefficients), in float64; at infinity the value is the last coefficient."""
    points = torch.tensor(WINOGRAD_POINTS, dtype=torch.float64)
    finite = points[:, None] ** torch.arange(num_coefficients)
    return torch.cat([finite, torch.eye(num_coefficients, dtype=torch.float64)[-1:]])
