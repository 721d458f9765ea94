# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Faster replacements for standard layers on a CPU, for [`~sanet_hf.optimization.optimize_for_inference`].

A layer has several implementations with the same results. [`~sanet_hf.optimization.choices`] measures which one is
fastest. Each includes the next activation. docs/benchmarks.md has measurements.
"""

import math
from functools import cache

import torch
from torch import nn

from sanet_hf.layers_sanet import HALF_MIN_CHANNELS, SANetConv1d, merge_frames
from sanet_hf.optimization.activations import ACTIVATIONS, activate_


WINOGRAD_MIN_CHANNELS = 128
WINOGRAD_KERNEL_SIZES = range(2, 6)
# Finite points at which polynomials are evaluated. Infinity is the last point, so that a tile has eight frames.
WINOGRAD_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)
WINOGRAD_TILE = len(WINOGRAD_POINTS) + 1
DFT_MIN_KERNEL = 6
# Output values that a transformed convolution computes at once.
PART_SIZE = 2**19


def conv_candidates(conv: SANetConv1d) -> dict[str, type["CPUConv1d"]]:
    """Return the classes that can compute a convolution, by name. The first one supports all inputs."""
    ways: dict[str, type[CPUConv1d]] = {"plain": CPUConv1d}
    if conv.groups > 1 or conv.weight.dtype == torch.float64 or not has_onednn():
        return ways
    stride = conv.stride[0]
    channels, num_taps = conv.in_channels * stride, -(-conv.kernel_size[0] // stride)
    is_float32 = conv.weight.dtype == torch.float32
    if conv.in_channels >= (2 if is_float32 else HALF_MIN_CHANNELS):
        ways["oneDNN"] = OneDNNConv1d
    if stride > 1 or conv.in_channels < HALF_MIN_CHANNELS:
        ways["oneDNN, frames merged"] = MergedConv1d
    if is_float32:
        if num_taps >= DFT_MIN_KERNEL and conv.in_channels > 1:
            ways |= {"DFT": DFTConv1d, "DFT, long blocks": LongDFTConv1d}
        if num_taps in WINOGRAD_KERNEL_SIZES and min(channels, conv.out_channels) >= WINOGRAD_MIN_CHANNELS:
            ways["Winograd"] = WinogradConv1d
    return ways


class Packed:
    """
    A weight in the format of oneDNN, which saves a conversion per batch. Such tensors can be neither copied nor moved,
    so that a copy of the layer creates its own.
    """

    def __init__(self):
        self.weight: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict) -> "Packed":
        return Packed()

    def __reduce__(self) -> tuple:
        return Packed, ()


class _FastLayer(nn.Module):
    """Common part of fast layers: the fused activation, and the conditions for the fast path."""

    activation: str
    dtype: torch.dtype

    def _apply(self, *arguments, **options):
        # The layer is moved or converted, which makes the packed weight invalid.
        self.packed = Packed()
        return super()._apply(*arguments, **options)

    def can_be_fast(self, hidden_states: torch.Tensor) -> bool:
        """Return whether the fast path supports the input. Compilers and exporters get the plain layer."""
        return hidden_states.dtype == self.dtype and is_plain(hidden_states)


def is_plain(hidden_states: torch.Tensor) -> bool:
    """Return whether values are on the CPU, without autocast, compiler, exporter or gradients."""
    return (
        hidden_states.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not (hidden_states.requires_grad and torch.is_grad_enabled())
    )


class CPUConv1d(_FastLayer, SANetConv1d):
    """[`SANetConv1d`] followed by an activation."""

    min_frames = 1

    def __init__(self, conv: SANetConv1d, activation: str = "none"):
        options = {"stride": conv.stride[0], "padding": conv.padding[0], "groups": conv.groups}
        super().__init__(conv.in_channels, conv.out_channels, conv.kernel_size[0], **options, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.activation, self.dtype, self.packed = activation, conv.weight.dtype, Packed()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        num_frames = (hidden_states.shape[1] + 2 * self.padding[0] - self.kernel_size[0]) // self.stride[0] + 1
        is_short = hidden_states.shape[1] < self.kernel_size[0] or num_frames < self.min_frames
        if is_short or not self.can_be_fast(hidden_states):
            return ACTIVATIONS[self.activation](super().forward(hidden_states))
        return self.convolve(hidden_states, num_frames)

    def convolve(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Convolve (batch, frames, in) and apply the activation. Return (batch, `num_frames`, out)."""
        return activate_(super().forward(hidden_states), self.activation)

    def onednn_convolve(
        self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
    ) -> torch.Tensor:
        """Convolve (batch, frames, in) with a weight (out, in, kernel) by oneDNN. Its packed weight is kept."""
        # Channels-last in memory: (batch, in, 1, frames).
        inputs = inputs.contiguous().transpose(1, 2).unsqueeze(2)
        options = [0, padding], [1, stride], [1, 1], 1
        if self.packed.weight is None:
            weight = weight.unsqueeze(2)
            self.packed.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *options, list(inputs.shape))
        output = torch.ops.mkldnn._convolution_pointwise(
            inputs, self.packed.weight, bias, *options, self.activation, [], "none"
        )
        return output.squeeze(2).transpose(1, 2).contiguous()


class OneDNNConv1d(CPUConv1d):
    """[`CPUConv1d`] with the weight in the format of oneDNN and the activation fused into the convolution."""

    def convolve(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        return self.onednn_convolve(hidden_states, self.weight, self.bias, self.stride[0], self.padding[0])


class MergedConv1d(CPUConv1d):
    """[`OneDNNConv1d`] with frames merged into channels: those of a stride, in half precision at least 16 channels."""

    def __init__(self, conv: SANetConv1d, activation: str = "none"):
        super().__init__(conv, activation)
        channels = self.in_channels * self.stride[0]
        self.num_merged = 1 if self.dtype == torch.float32 else -(-HALF_MIN_CHANNELS // channels)
        weight = merge_frames(self.weight, self.stride[0], self.num_merged)
        bias = None if self.bias is None else self.bias.repeat(self.num_merged)
        # Channels-last in memory, the layout of oneDNN.
        weight = weight.transpose(1, 2).contiguous().transpose(1, 2)
        self.register_buffer("wide_weight", weight, persistent=False)
        self.register_buffer("wide_bias", bias, persistent=False)

    def convolve(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        batch_size, num_inputs, channels = hidden_states.shape
        width = self.num_merged * self.stride[0]
        num_blocks = -(-num_frames // self.num_merged) + self.wide_weight.shape[2] - 1
        after = num_blocks * width - num_inputs - self.padding[0]
        blocks = nn.functional.pad(hidden_states, (0, 0, self.padding[0], after))
        blocks = blocks.view(batch_size, num_blocks, width * channels)
        frames = self.onednn_convolve(blocks, self.wide_weight, self.wide_bias, 1, 0)
        return frames.reshape(batch_size, -1, self.out_channels)[:, :num_frames].contiguous()


class _TransformConv1d(CPUConv1d):
    """
    A convolution as products of transformed values. Overlapping tiles of frames are multiplied by one matrix, the
    channels of each transformed value by its own matrix, and the results by a third matrix:

        (tiles, frames, in) -> (tiles, values, in) -> (tiles, values, out) -> (tiles, frames, out)

    A value is a real number, or a pair of real and imaginary part. The frames of a stride are channels.
    """

    def set_transforms(
        self, inputs: torch.Tensor, products: torch.Tensor, outputs: torch.Tensor, constant: int
    ) -> None:
        """
        Set the three matrices, in float64.

        Args:
            inputs: (values, frames of a tile).
            products: (values, in, out), or for complex numbers (values / 2, 2 * in, 2 * out).
            outputs: (output frames of a tile, values).
            constant: Index of the value that contributes equally to all output frames.
        """
        self.constant, self.bias_gain = constant, 1 / outputs[0, constant].item()
        self.step, self.tile = len(outputs), inputs.shape[1]
        for name, value in {"inputs": inputs, "products": products, "outputs": outputs}.items():
            self.register_buffer(f"{name}_transform", value.to(self.weight.dtype).contiguous(), persistent=False)

    def convolve(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        # Parts fit into the cache of a processor.
        part_size = max(1, PART_SIZE // (num_frames * self.out_channels))
        parts = [self._convolve_part(part, num_frames) for part in hidden_states.split(part_size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _convolve_part(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        batch_size, num_inputs, _ = hidden_states.shape
        step, stride, padding = self.step, self.stride[0], self.padding[0]
        channels = stride * self.in_channels
        num_tiles = -(-num_frames // step)
        # The last tile of a clip must end before the next clip. Results of tiles between clips are not used.
        tiles_per_clip = num_tiles + -(-(self.tile - step) // step)
        after = tiles_per_clip * step * stride - num_inputs - padding
        padded = nn.functional.pad(hidden_states, (0, 0, padding, after))
        all_tiles = (batch_size - 1) * tiles_per_clip + num_tiles
        tiles = padded.as_strided((all_tiles, self.tile, channels), (step * channels, channels, 1))
        values = torch.bmm(self.inputs_transform.expand(all_tiles, -1, -1), tiles)
        num_products = len(self.products_transform)
        # One matrix per product, with one row per tile: (products, tiles, parts * in).
        values = values.view(all_tiles, num_products, -1).transpose(0, 1)
        values = torch.bmm(values, self.products_transform)
        if self.bias is not None:
            values[self.constant, :, : self.out_channels] += self.bias_gain * self.bias
        values = values.transpose(0, 1).reshape(all_tiles, -1, self.out_channels)
        frames = activate_(torch.bmm(self.outputs_transform.expand(all_tiles, -1, -1), values), self.activation)
        clip_size = tiles_per_clip * step * self.out_channels
        frames = frames.as_strided((batch_size, num_frames, self.out_channels), (clip_size, self.out_channels, 1))
        return frames.contiguous()


class DFTConv1d(_TransformConv1d):
    """
    [`CPUConv1d`] by overlap-save with discrete Fourier transforms as matrices. For blocks of some hundred frames they
    are faster than FFT, whose results have another memory layout.
    """

    frames_per_tap = 2

    def __init__(self, conv: SANetConv1d, activation: str = "none"):
        super().__init__(conv, activation)
        weight = merge_frames(self.weight, self.stride[0], 1)
        num_taps = weight.shape[2]
        self.min_frames = num_taps
        size = 16 * math.ceil(self.frames_per_tap * num_taps / 16)
        angles = 2 * math.pi / size * torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(size)
        waves = torch.stack([angles.cos(), -angles.sin()], dim=1)
        # Frequencies between the first and the last also represent negative frequencies.
        counts = torch.full((len(waves), 1, 1), 2 / size, dtype=torch.float64)
        counts[0] = counts[-1] = 1 / size
        outputs = (counts * waves).flatten(0, 1).T[: size - num_taps + 1]
        self.set_transforms(waves.flatten(0, 1), _real_spectrum(weight.double(), size), outputs, 0)


class LongDFTConv1d(DFTConv1d):
    """[`DFTConv1d`] with blocks of twice the length."""

    frames_per_tap = 4


class WinogradConv1d(_TransformConv1d):
    """
    [`CPUConv1d`] by Winograd's algorithm: with a kernel of r taps, a frame costs 8 / (9 - r) matrix products instead
    of r.

    Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, here in one dimension.
    """

    def __init__(self, conv: SANetConv1d, activation: str = "none"):
        super().__init__(conv, activation)
        weight = merge_frames(self.weight, self.stride[0], 1)
        num_taps = weight.shape[2]
        self.min_frames = WINOGRAD_TILE
        # The product of polynomials is computed from their values; the inverse matrix turns values into coefficients.
        # A convolution layer is a correlation, which needs the transpose.
        inputs = torch.linalg.inv(_values_of_polynomials(WINOGRAD_TILE)).T
        # Scale all values to a similar size, for precision.
        scale = inputs.abs().amax(dim=1, keepdim=True)
        products = torch.einsum("pk,oik->pio", _values_of_polynomials(num_taps), weight.double())
        outputs = _values_of_polynomials(WINOGRAD_TILE - num_taps + 1).T
        self.set_transforms(inputs / scale, products * scale.unsqueeze(2), outputs, WINOGRAD_POINTS.index(1))


class CPULinear(_FastLayer, nn.Linear):
    """`nn.Linear` followed by an activation."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.activation, self.dtype, self.packed = activation, linear.weight.dtype, Packed()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.can_be_fast(hidden_states):
            return ACTIVATIONS[self.activation](super().forward(hidden_states))
        return self.multiply(hidden_states)

    def multiply(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute the layer and its activation."""
        return activate_(super().forward(hidden_states), self.activation)


class OneDNNLinear(CPULinear):
    """
    [`CPULinear`] through oneDNN, like torch.compile on a CPU. PyTorch uses MKL in float32, which has half the speed on
    processors other than Intel's.
    """

    def multiply(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.packed.weight is None:
            num_rows = hidden_states[..., 0].numel()
            self.packed.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, num_rows)
        return onednn_linear(hidden_states, self.packed.weight, self.bias, self.activation)


def linear_candidates(linear: nn.Linear) -> dict[str, type[CPULinear]]:
    """Return the classes that can compute a linear layer, by name. The first one supports all inputs."""
    is_fast = linear.weight.dtype != torch.float64 and has_onednn()
    return {"plain": CPULinear, "oneDNN": OneDNNLinear} if is_fast else {"plain": CPULinear}


@cache
def has_onednn() -> bool:
    """Return whether this PyTorch version supports the operators of oneDNN."""
    conv = SANetConv1d(16, 16, 2, stride=2).requires_grad_(False)
    try:
        OneDNNConv1d(conv)(torch.zeros(1, 4, 16))
        OneDNNLinear(nn.Linear(2, 2).requires_grad_(False))(torch.zeros(1, 2))
    except Exception:
        # The operators are private: other PyTorch versions may lack them or have other arguments.
        return False
    return True


def onednn_linear(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = "none"
) -> torch.Tensor:
    """Compute `nn.functional.linear` and an activation by oneDNN, on a CPU."""
    return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, activation, [], "none")


def _real_spectrum(weight: torch.Tensor, size: int) -> torch.Tensor:
    """
    Return matrices (frequencies, 2 * in, 2 * out) for a weight (out, in, kernel). They multiply spectra as real
    numbers: real parts first, then imaginary parts.
    """
    # Conjugate, since a convolution layer is a correlation: (frequencies, in, out).
    spectrum = torch.fft.rfft(weight, n=size).conj().permute(2, 1, 0)
    # A real part is multiplied by the spectrum, an imaginary part by i * spectrum: (frequencies, in, 2, out, 2).
    spectrum = torch.view_as_real(torch.stack([spectrum, 1j * spectrum], dim=2).resolve_conj())
    return spectrum.permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)


def _values_of_polynomials(num_coefficients: int) -> torch.Tensor:
    """Return the matrix (points, coefficients) that evaluates polynomials, in float64. The last point is infinity."""
    points = torch.tensor(WINOGRAD_POINTS, dtype=torch.float64)
    finite = points[:, None] ** torch.arange(num_coefficients)
    return torch.cat([finite, torch.eye(num_coefficients, dtype=torch.float64)[-1:]])
