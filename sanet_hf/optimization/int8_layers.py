# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Layers in int8 on a CPU, through oneDNN, for [`~sanet_hf.optimization.quantize_for_inference`].

Inputs and outputs are float32. Weights have one scale per output channel. Inputs have one scale and one zero point
from a measured range, so that the result of a clip does not depend on other clips of the batch.

Source: B. Jacob et al., 2018, https://arxiv.org/abs/1712.05877. docs/benchmarks.md has the measurements.
"""

from functools import cache

import torch
from torch import nn

from sanet_hf.layers_sanet import SANetConv1d, merge_frames
from sanet_hf.optimization.activations import activate_


# Largest integer of an input.
MAX_INPUT = 255
# Processors without VNNI add two products in 16 bits. 8-bit weights can overflow there; 7-bit weights cannot.
WEIGHT_BITS = (8, 7)
# Input channels that fill the registers of matrix units (AMX has 64 bytes per row).
MERGED_CHANNELS = 64
# Rows on which a new layer is compared with plain computation, and the maximum relative error. Sums of integers are
# exact; only the result is rounded to float32.
NUM_CHECKED = 48
TOLERANCE = 1e-5


class Int8Linear(nn.Module):
    """
    `nn.Linear` in int8, and the next activation.

    Args:
        linear: The layer in float32. It may have an `activation`, as in [`CPULinear`].
        input_range: Smallest and largest input.
        weight_bits: 8, or 7 for processors on which 8 bits overflow.
    """

    def __init__(self, linear: nn.Linear, input_range: tuple[float, float], weight_bits: int = 8):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation = getattr(linear, "activation", "none")
        self._set_input_range(input_range)
        self._set_weight(linear.weight, linear.bias, weight_bits)
        self.packed_weight = self._pack_weight()

    def _pack_weight(self) -> torch.Tensor:
        return torch.ops.onednn.qlinear_prepack(self.integer_weight, None)

    # Packed weights can be neither copied nor pickled.
    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "packed_weight"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.packed_weight = self._pack_weight()

    def _set_input_range(self, input_range: tuple[float, float]) -> None:
        low, high = min(input_range[0], 0.0), max(input_range[1], 0.0)
        self.input_scale = max(high - low, torch.finfo(torch.float32).tiny * MAX_INPUT) / MAX_INPUT
        self.input_zero_point = round(-low / self.input_scale)

    def _set_weight(self, weight: torch.Tensor, bias: torch.Tensor | None, bits: int) -> None:
        weight = weight.detach().float()
        largest = weight.flatten(1).abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        self.weight_scale = largest / (2 ** (bits - 1) - 1)
        shape = (-1, *[1] * (weight.dim() - 1))
        self.integer_weight = (weight / self.weight_scale.view(shape)).round().to(torch.int8)
        self.weight_zero_point = torch.zeros(len(weight), dtype=torch.int64)
        # The zero point adds the same value to all frames. As part of the bias it costs nothing, while oneDNN with a
        # zero point takes several times as long.
        sums = self.integer_weight.flatten(1).sum(1).double() * self.weight_scale.double() * self.input_scale
        exact_bias = -self.input_zero_point * sums
        self.bias = (exact_bias if bias is None else exact_bias + bias.detach().double()).float()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        integers = quantize(hidden_states, self.input_scale, self.input_zero_point)
        return activate_(self.compute(integers), self.activation)

    def compute(self, integers: torch.Tensor) -> torch.Tensor:
        """Return the output before the activation, float32, for uint8 inputs."""
        return torch.ops.onednn.qlinear_pointwise(
            integers,
            self.input_scale,
            0,
            self.packed_weight,
            self.weight_scale,
            self.weight_zero_point,
            self.bias,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )

    def compute_exactly(self, integers: torch.Tensor) -> torch.Tensor:
        """Return the correct result of [`compute`], computed by PyTorch in float64."""
        scale = self.weight_scale.double() * self.input_scale
        return integers.double() @ self.integer_weight.double().T * scale + self.bias.double()


class Int8Conv1d(Int8Linear):
    """
    [`SANetConv1d`] in int8, (batch, frames, channels) -> (batch, frames / stride, channels).

    If there are few channels, several frames are computed at once, with the frames of their strides as channels; see
    [`merge_frames`].
    """

    def __init__(self, conv: SANetConv1d, input_range: tuple[float, float], weight_bits: int = 8):
        nn.Module.__init__(self)
        self.out_channels, self.groups = conv.out_channels, conv.groups
        self.activation = getattr(conv, "activation", "none")
        self.kernel_size, self.stride, self.padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        self._set_input_range(input_range)
        self._set_weight(conv.weight, conv.bias, weight_bits)
        num_merged = MERGED_CHANNELS // (conv.in_channels * self.stride)
        is_merged = self.groups == 1 and num_merged and self.kernel_size >= 2 * num_merged * self.stride
        self.num_merged = num_merged if is_merged else 0
        self.width = num_merged * self.stride if is_merged else 1
        self.num_taps = -(-(self.kernel_size + self.width - self.stride) // self.width)
        self.strides = [1, 1 if is_merged else self.stride]
        repeats = max(1, self.num_merged)
        self.packed_scale, self.packed_bias = self.weight_scale.repeat(repeats), self.bias.repeat(repeats)
        self.packed_zero_point = self.weight_zero_point.repeat(repeats)
        self.packed_weight = self._pack_weight()

    def _pack_weight(self) -> torch.Tensor:
        weight = self.integer_weight
        if self.num_merged:
            weight = merge_frames(weight, self.stride, self.num_merged).contiguous()
        return torch.ops.onednn.qconv_prepack(
            weight.unsqueeze(2),
            self.packed_scale,
            self.input_scale,
            0,
            self.strides,
            [0, 0],
            [1, 1],
            self.groups,
            [1, weight.shape[1] * self.groups, 1, 1024],
        )

    def compute(self, integers: torch.Tensor) -> torch.Tensor:
        batch_size, num_inputs, _ = integers.shape
        num_frames = (num_inputs + 2 * self.padding - self.kernel_size) // self.stride + 1
        after = self.padding
        if self.num_merged:
            num_blocks = -(-num_frames // self.num_merged)
            after = (num_blocks - 1 + self.num_taps) * self.width - num_inputs - self.padding
        # The operator pads with zeros, but the padding must be the zero point.
        padded = nn.functional.pad(integers, (0, 0, self.padding, after), value=self.input_zero_point)
        blocks = padded.reshape(batch_size, padded.shape[1] // self.width, -1)
        frames = torch.ops.onednn.qconv2d_pointwise(
            blocks.transpose(1, 2).unsqueeze(2),
            self.input_scale,
            0,
            self.packed_weight,
            self.packed_scale,
            self.packed_zero_point,
            self.packed_bias,
            self.strides,
            [0, 0],
            [1, 1],
            self.groups,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        frames = frames.squeeze(2).transpose(1, 2).reshape(batch_size, -1, self.out_channels)
        return frames[:, :num_frames].contiguous()

    def compute_exactly(self, integers: torch.Tensor) -> torch.Tensor:
        padding = (0, 0, self.padding, self.padding)
        padded = nn.functional.pad(integers, padding, value=self.input_zero_point).double()
        windows = padded.unfold(1, self.kernel_size, self.stride).unflatten(2, (self.groups, -1)).flatten(3)
        weight = self.integer_weight.double().flatten(1).unflatten(0, (self.groups, -1))
        sums = torch.einsum("btgk,gok->btgo", windows, weight).flatten(2)
        return sums * (self.weight_scale.double() * self.input_scale) + self.bias.double()


def quantize(values: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    """Return `values / scale + zero_point` as uint8, rounded to even and limited to 0 and 255."""
    quantized = torch.quantize_per_tensor(values.float(), scale, zero_point, torch.quint8)
    # int_repr() would copy the values, which takes as long as the quantization.
    integers = torch.empty(0, dtype=torch.uint8)
    return integers.set_(quantized.untyped_storage(), 0, quantized.shape, quantized.stride())


def int8_layer(layer: nn.Linear | SANetConv1d, input_range: tuple[float, float]) -> Int8Linear | None:
    """Return the layer in int8, or `None` if its results are wrong on this processor, even with 7-bit weights."""
    kind = Int8Conv1d if isinstance(layer, SANetConv1d) else Int8Linear
    for bits in WEIGHT_BITS:
        try:
            quantized = kind(layer, input_range, bits)
            if is_right(quantized):
                return quantized
        except (AttributeError, RuntimeError, TypeError):
            # The operators are private: other PyTorch versions may have other arguments.
            return None
    return None


def is_right(layer: Int8Linear) -> bool:
    """Return whether a layer computes sums of products exactly, on random inputs and on the largest inputs."""
    is_conv = isinstance(layer, Int8Conv1d)
    num_inputs = layer.integer_weight.shape[1] * (layer.groups if is_conv else 1)
    num_rows = NUM_CHECKED + (layer.kernel_size if is_conv else 0)
    random = torch.randint(0, 256, (1, num_rows, num_inputs), generator=torch.Generator().manual_seed(0))
    for integers in (random.to(torch.uint8), torch.full_like(random, MAX_INPUT, dtype=torch.uint8)):
        expected = layer.compute_exactly(integers)
        error = torch.linalg.vector_norm(layer.compute(integers) - expected) / torch.linalg.vector_norm(expected)
        # NaN fails this comparison.
        if not error <= TOLERANCE:
            return False
    return True


@cache
def has_int8_layers() -> bool:
    """Return whether PyTorch and oneDNN compute int8 layers correctly on this machine."""
    if not torch.backends.mkldnn.is_available():
        return False
    linear, conv = nn.Linear(64, 64), SANetConv1d(64, 64, 4)
    return all(int8_layer(layer, (-1.0, 1.0)) is not None for layer in (linear, conv))


def is_quantized(model: nn.Module) -> bool:
    """Return whether a model has int8 layers."""
    return any(isinstance(module, Int8Linear) for module in model.modules())
