# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Check fast layers on this processor.

Kernels of a library may be wrong on some processors. For example, oneDNN has wrong convolutions in bfloat16 for Intel
processors with AMX (see docs/benchmarks.md). Each layer of a network is therefore compared with plain computation on a
small random input, once per process, shape and number format. If the error is larger than rounding explains, the layer
is replaced.
"""

import functools
import math
import time
import types
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from sanet_hf.layers_sanet import (
    FFT_MIN_FRAMES,
    SANetConv1d,
    SANetDownsample,
    SANetUpsample,
    has_fast_gradients,
    suits_fft,
)
from sanet_hf.modeling_sanet import SANetPreTrainedModel
from sanet_hf.optimization.activations import ACTIVATIONS
from sanet_hf.optimization.cpu_layers import DFTConv1d, MergedConv1d, OneDNNConv1d, OneDNNLinear, WinogradConv1d
from sanet_hf.optimization.processor import describe_libraries, describe_processor
from sanet_hf.spectrogram_sanet import SANetConv2d


Layer = nn.Linear | SANetConv1d | SANetConv2d | SANetDownsample | SANetUpsample

# Names of layers in reports, by class. The first match counts.
PATHS = {
    DFTConv1d: "convolution by DFT",
    (OneDNNConv1d, MergedConv1d): "convolution by oneDNN",
    WinogradConv1d: "convolution by Winograd's algorithm",
    (SANetConv1d, SANetConv2d): "convolution",
    OneDNNLinear: "linear layer by oneDNN",
    (nn.Linear, SANetDownsample, SANetUpsample): "linear layer",
}
NUM_FRAMES = 16
# Successive roundings: inputs, weights, result, and one intermediate result.
NUM_ROUNDINGS = 4
# Factor by which the transforms of DFT and Winograd's algorithm increase rounding errors of float32, since they
# subtract large numbers. The largest factor in them is 2^7, from the points 1, -1, 2, -2, 1/2 and -1/2.
TRANSFORM_GAIN = 2**7


@dataclass(frozen=True)
class Check:
    """
    The error of a layer, relative to the norm of the correct result; infinite if the layer raises an error. Results
    are the output and, for training, the gradients.
    """

    path: str
    shape: str
    number_format: str
    error: float
    tolerance: float
    seconds: float

    @property
    def is_right(self) -> bool:
        return self.error <= self.tolerance


def replace_wrong_layers(model: nn.Module, dtype: torch.dtype, training: bool = False) -> list[Check]:
    """
    Compare the layers of a SANet on the CPU with plain computation. Replace layers whose results are wrong on this
    processor, with a warning.

    Args:
        model: Models of other architectures or on other devices are not changed.
        dtype: Number format of the computation, which is that of autocast if it differs from that of the weights.
        training: Whether to compare the gradients as well.

    Returns:
        One check per distinct layer.
    """
    if not isinstance(model, SANetPreTrainedModel) or model.device.type != "cpu":
        return []
    checks = []
    for layer in model.modules():
        if not isinstance(layer, Layer):
            continue
        check = check_layer(layer, dtype, training)
        if not check.is_right:
            layer.forward = types.MethodType(_plain_forward(layer, dtype, training), layer)
        if check not in checks:
            checks.append(check)
    warn_of_wrong_layers(checks)
    return checks


def warn_of_wrong_layers(checks: Iterable[Check]) -> None:
    """Warn if any checks failed."""
    wrong = [check for check in checks if not check.is_right]
    if wrong:
        found = "; ".join(f"{check.path} {check.shape}: {format_error(check)}" for check in wrong)
        warnings.warn(
            f"Wrong results in {wrong[0].number_format} on {describe_processor()} with {describe_libraries()}: "
            f"{found}. These layers use a plain implementation instead, which is slower.",
            RuntimeWarning,
            stacklevel=3,
        )


_known_checks: dict[tuple, Check] = {}


def check_layer(layer: Layer, dtype: torch.dtype, training: bool) -> Check:
    """Compare a layer with plain computation and return the result, which is cached per shape."""
    training = training and layer.weight.requires_grad
    path = next(path for kind, path in PATHS.items() if isinstance(layer, kind))
    has_fft = (
        isinstance(layer, SANetConv1d) and suits_fft(layer.weight, layer.groups) and not has_fast_gradients(dtype)
    )
    if training and has_fft:
        path = "convolution, its weight gradient by FFT"
    number_format = str(dtype).removeprefix("torch.")
    is_autocast = layer.weight.dtype != dtype
    key = (type(layer), path, training, is_autocast, number_format, tuple(layer.weight.shape), _options(layer))
    if key not in _known_checks:
        start = time.perf_counter()
        inputs = _random_inputs(layer)
        exact = torch.float64 if dtype == torch.float32 else torch.float32
        expected = _results(functools.partial(_reference, layer), layer, inputs.to(exact), training)
        error = 0.0
        limit = torch.finfo(dtype).max
        # Weights that are not finite or too large for the number format are not a fault of the processor.
        if all(bool((value.abs() < limit).all()) for value in expected):
            error = _error(layer.forward, layer, inputs, dtype, expected, training)
        _known_checks[key] = Check(
            path, describe_shape(layer), number_format, error, _tolerance(layer, dtype), time.perf_counter() - start
        )
    return _known_checks[key]


def plain_layer(layer: Layer, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute a layer by PyTorch's `conv1d`, `conv2d` or `linear`, in the number format of the input."""
    return _activation(layer)(_plain_product(layer, hidden_states))


def _activation(layer: Layer) -> Callable[[torch.Tensor], torch.Tensor]:
    return ACTIVATIONS[getattr(layer, "activation", "none")]


def _plain_product(layer: Layer, hidden_states: torch.Tensor) -> torch.Tensor:
    dtype = hidden_states.dtype
    if isinstance(layer, SANetConv2d):
        bias = None if layer.bias is None else layer.bias.to(dtype)
        images = hidden_states.permute(0, 3, 1, 2).contiguous()
        images = nn.functional.conv2d(images, layer.weight.to(dtype), bias, padding=layer.padding)
        return images.permute(0, 2, 3, 1).contiguous()
    if not isinstance(layer, SANetConv1d):
        is_linear = isinstance(layer, nn.Linear)
        weight, bias = (layer.weight, layer.bias) if is_linear else layer.linear_parameters()
        merged = hidden_states.reshape(*hidden_states.shape[:-1], -1)
        if isinstance(layer, SANetDownsample):
            merged = hidden_states.reshape(len(hidden_states), -1, weight.shape[1])
        output = nn.functional.linear(merged, weight.to(dtype), None if bias is None else bias.to(dtype))
        return output.reshape(len(output), -1, layer.out_channels) if isinstance(layer, SANetUpsample) else output
    batch_size, num_frames, channels = hidden_states.shape
    # No transpose for one channel; see SANetConv1d.
    is_mono = channels == 1
    values = hidden_states.reshape(batch_size, 1, num_frames) if is_mono else hidden_states.transpose(1, 2)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    options = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    return nn.functional.conv1d(values, layer.weight.to(dtype), bias, **options).transpose(1, 2).contiguous()


def _reference(layer: Layer, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute [`plain_layer`] as one matrix product, whose gradients are much faster than those of a convolution."""
    if not isinstance(layer, SANetConv1d) or layer.groups > 1:
        return plain_layer(layer, hidden_states)
    padded = nn.functional.pad(hidden_states, (0, 0, layer.padding[0], layer.padding[0]))
    windows = padded.unfold(1, layer.kernel_size[0], layer.stride[0]).flatten(2)
    bias = None if layer.bias is None else layer.bias.to(hidden_states.dtype)
    return _activation(layer)(nn.functional.linear(windows, layer.weight.flatten(1).to(hidden_states.dtype), bias))


def _plain_forward(layer: Layer, dtype: torch.dtype, training: bool):
    """Return a plain implementation in float32 if its results are correct, else in float64."""
    inputs = _random_inputs(layer)
    expected = _results(functools.partial(plain_layer, layer), layer, inputs.double(), training)
    plain = functools.partial(_forward_in_float32, layer)
    is_right = _error(plain, layer, inputs, torch.float32, expected, training) <= _tolerance(layer, torch.float32)
    return _forward_in_float32 if is_right else _forward_in_float64


def _forward_in_float32(layer: Layer, hidden_states: torch.Tensor) -> torch.Tensor:
    return _forward_in(layer, hidden_states, torch.float32)


def _forward_in_float64(layer: Layer, hidden_states: torch.Tensor) -> torch.Tensor:
    return _forward_in(layer, hidden_states, torch.float64)


def _forward_in(layer: Layer, hidden_states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    is_autocast = torch.is_autocast_enabled("cpu")
    output_dtype = torch.get_autocast_dtype("cpu") if is_autocast else hidden_states.dtype
    with torch.autocast("cpu", enabled=False):
        return plain_layer(layer, hidden_states.to(dtype)).to(output_dtype)


def _random_inputs(layer: Layer) -> torch.Tensor:
    """Return random inputs, (1, frames, channels), with enough frames for the fast path of the layer."""
    num_frames, channels = NUM_FRAMES, layer.weight.shape[1]
    if isinstance(layer, SANetConv1d):
        channels = layer.in_channels
        num_frames = layer.kernel_size[0] + (FFT_MIN_FRAMES if suits_fft(layer.weight, layer.groups) else NUM_FRAMES)
    elif isinstance(layer, (SANetDownsample, SANetUpsample)):
        channels = layer.in_channels
    elif isinstance(layer, SANetConv2d):
        return torch.randn(1, num_frames, NUM_FRAMES, layer.in_channels, generator=torch.Generator().manual_seed(0))
    return torch.randn(1, num_frames, channels, generator=torch.Generator().manual_seed(0))


def _results(compute, layer: Layer, inputs: torch.Tensor, training: bool) -> list[torch.Tensor]:
    """Return the output and, for training, gradients of its weighted sum with respect to input and weight."""
    with torch.set_grad_enabled(training):
        output = compute(inputs.requires_grad_(training))
        if not training:
            return [output]
        generator = torch.Generator().manual_seed(1)
        weighting = torch.randn(output.shape, generator=generator).to(output.dtype)
        return [output.detach(), *torch.autograd.grad(output, (inputs, layer.weight), weighting)]


def _error(compute, layer: Layer, inputs: torch.Tensor, dtype: torch.dtype, expected, training: bool) -> float:
    """Return the largest relative error of the results."""
    weight_dtype = layer.weight.dtype
    is_autocast = weight_dtype != dtype and dtype.itemsize == 2
    try:
        with torch.autocast("cpu", dtype if is_autocast else torch.bfloat16, enabled=is_autocast):
            results = _results(compute, layer, inputs.to(weight_dtype).clone(), training)
    except Exception:
        return math.inf
    errors = []
    for value, right in zip(results, expected, strict=True):
        # In float64, since squares of large weights overflow float32.
        norm, difference = (torch.linalg.vector_norm(x, dtype=torch.float64) for x in (right, value.to(right) - right))
        errors.append((difference / norm.clamp(min=torch.finfo(torch.float32).tiny)).item())
    # NaN counts as infinite.
    return max(math.inf if math.isnan(error) else error for error in errors)


def _tolerance(layer: Layer, dtype: torch.dtype) -> float:
    """
    Return the largest relative error of a correct result.

    Each rounding multiplies by a factor within 1 ± u, where u is the unit roundoff of the format. There are
    `NUM_ROUNDINGS` of them in sequence. Sums of n terms are accumulated in float32 with independent rounding errors,
    which add up to sqrt(n) of them (Higham and Mary, 2019, https://doi.org/10.1137/18M1226312).
    """
    # If the user allows it, float32 is computed in bfloat16.
    is_reduced = dtype == torch.float32 and is_float32_reduced()
    roundoff = torch.finfo(torch.bfloat16 if is_reduced else dtype).eps / 2
    num_terms = max(layer.weight[0].numel(), layer.weight.shape[0] * layer.weight[0, 0].numel(), FFT_MIN_FRAMES)
    gain = TRANSFORM_GAIN if isinstance(layer, (DFTConv1d, WinogradConv1d)) else 1
    return NUM_ROUNDINGS * roundoff + (math.sqrt(num_terms) + gain) * torch.finfo(torch.float32).eps / 2


def is_float32_reduced() -> bool:
    """
    Return whether the user allows products of float32 in a shorter format.

    `torch.get_float32_matmul_precision` is not used: it raises an error if `torch.backends.fp32_precision` was set for
    one device only, as by `--tf32` and `--torch_compile` on a GPU.
    """
    if not hasattr(torch.backends, "fp32_precision"):  # PyTorch 2.8
        return torch.get_float32_matmul_precision() != "highest"
    backends = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    return any(backend.fp32_precision in ("tf32", "bf16") for backend in backends)


def _options(layer: Layer) -> tuple:
    activation = getattr(layer, "activation", "none")
    return (activation,) if isinstance(layer, nn.Linear) else (activation, layer.stride, layer.padding, layer.groups)


def describe_shape(layer: Layer) -> str:
    """Return features, or channels, kernel size and stride, as text."""
    if isinstance(layer, nn.Linear):
        return f"{layer.in_features} to {layer.out_features}"
    text = f"{layer.in_channels} to {layer.out_channels}, kernel {layer.kernel_size[0]}, stride {layer.stride[0]}"
    return text if layer.groups == 1 else f"{text}, {layer.groups} groups"


def format_error(check: Check) -> str:
    """Return the error of a check as text."""
    return f"off by {check.error:.1%}" if math.isfinite(check.error) else "fails or is not finite"
