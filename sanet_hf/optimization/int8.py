# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classifiers in int8 on a CPU: measure ranges of activations on clips, and replace layers by int8 layers."""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from sanet_hf.errors import UsageError
from sanet_hf.layers_sanet import SANetAttention, SANetConv1d
from sanet_hf.modeling_sanet import SANetPreTrainedModel
from sanet_hf.optimization.int8_layers import has_int8_layers, int8_layer
from sanet_hf.optimization.processor import describe_libraries, describe_processor


# File with the calibration, in the folder of a model.
CALIBRATION_FILE = "int8_calibration.json"
# Target for the error of the logits: root mean square of the error relative to that of the logits. The layers that add
# the most error stay in float32, so that it is met. It is measured per layer, on this number of clips.
TARGET_ERROR = 0.05
NUM_SENSITIVITY_CLIPS = 16
# Projections with the same input: query, key and value, jointly or (in padded batches) separately.
JOINT = ("qkv_proj", "q_proj", "k_proj", "v_proj")
# Maximum error of the logits on the calibration clips, measured in the same way. A tiny SANet trained on tones has
# 0.003 to 0.006; a failed quantization has about 1 or more.
MAX_ERROR = 0.5
# Layers with fewer channels or fewer frames per clip cost little and stay in float32: the classifier, the gates of
# squeeze-and-excitation, and the scores of the pooling.
MIN_CHANNELS = MIN_FRAMES = 16


@dataclass(frozen=True)
class Int8Calibration:
    """
    Calibration of an int8 model.

    Attributes:
        weights: Hash of the weights for which it was measured, from [`hash_weights`].
        num_clips: Number of clips on which the ranges were measured.
        error: Root mean square of the error of the int8 logits on these clips, relative to that of the logits.
        ranges: Smallest and largest input of each layer, by its name in the optimised model.
        evaluation: Results on the validation split, or empty: `num_clips`, `accuracy`, `macro_f1` (each in float32 and
            in int8) and `agreement`, the share of clips with the same classes in both.
    """

    weights: str
    num_clips: int
    error: float
    ranges: Mapping[str, Sequence[float]]
    evaluation: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the content of a file for [`from_json`]."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Int8Calibration":
        """
        Return the calibration from the text of [`to_json`].

        Raises:
            ValueError: The text is not from [`to_json`].
        """
        try:
            calibration = cls(**json.loads(text))
            numbers = [calibration.error, *(value for pair in calibration.ranges.values() for value in pair)]
            if not all(math.isfinite(number) for number in numbers) or not isinstance(calibration.evaluation, dict):
                raise ValueError("a number is not finite")
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"it is not a calibration for int8 ({error})") from error
        return calibration


def measure_ranges(
    model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]], weights: str
) -> Int8Calibration:
    """
    Measure the ranges of activations, and the error of int8, on batches of features. The layers that lose the most
    precision in int8 are excluded, for example layers on quiet parts of otherwise loud clips.

    Args:
        model: Optimised model in float32 on the CPU. Its layers are replaced.
        batches: Inputs of the model.
        weights: Hash of the weights, stored in the calibration.

    Raises:
        UsageError: There are no clips, or the error of the logits is above `MAX_ERROR`.
    """
    if not batches:
        raise UsageError("There are no clips for the calibration of int8.")
    ranges: dict[str, tuple[float, float]] = {}
    with _recorded_ranges(model, ranges):
        expected = _logits(model, batches)
    if not ranges:
        raise UsageError(
            f"A model of type {model.config.model_type!r} has no layers that int8 supports. Use bfloat16 or float32."
        )
    for name in _sensitive_layers(model, ranges, batches, expected):
        del ranges[name]
    if not ranges:
        raise UsageError("All layers lose too much precision in int8. Use bfloat16 or float32.")
    calibration = Int8Calibration(weights, len(expected), 0.0, ranges)
    logits = _logits(replace_layers(model, calibration), batches)
    error = _relative_error(logits, expected)
    if not error <= MAX_ERROR:
        raise UsageError(
            f"The int8 logits differ from the float32 logits by {error:.0%} (root mean square), more than "
            f"{MAX_ERROR:.0%}. Use bfloat16 or float32, or calibrate with other recordings."
        )
    return replace(calibration, error=error)


def _sensitive_layers(
    model: PreTrainedModel,
    ranges: Mapping[str, tuple[float, float]],
    batches: Sequence[Mapping[str, torch.Tensor]],
    expected: torch.Tensor,
) -> list[str]:
    """Return the names of the layers that must stay in float32 to keep the error of the logits near `TARGET_ERROR`."""
    few, num_left = [], NUM_SENSITIVITY_CLIPS
    for batch in batches:
        if num_left > 0:
            part = {name: None if value is None else value[:num_left] for name, value in batch.items()}
            few.append(part)
            num_left -= len(next(value for value in part.values() if value is not None))
    expected = expected[: NUM_SENSITIVITY_CLIPS - num_left]
    groups: dict[str, list[str]] = {}
    for name in ranges:
        prefix, _, last = name.rpartition(".")
        groups.setdefault(prefix if last in JOINT else name, []).append(name)
    errors = {}
    for group, names in groups.items():
        originals = {name: model.get_submodule(name) for name in names}
        for name, layer in originals.items():
            _set_layer(model, name, int8_layer(layer, ranges[name]) or layer)
        errors[group] = _relative_error(_logits(model, few), expected)
        for name, layer in originals.items():
            _set_layer(model, name, layer)
    # Errors of layers add up like independent rounding errors.
    order = sorted(groups, key=errors.get)
    total = np.sqrt(np.cumsum([errors[group] ** 2 for group in order]))
    return [name for group, error in zip(order, total) if not error <= TARGET_ERROR for name in groups[group]]


def _relative_error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(logits - expected) / torch.linalg.vector_norm(expected))


def _set_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def check_int8(model: PreTrainedModel) -> None:
    """
    Check that int8 supports a model on this machine.

    Raises:
        UsageError: It does not.
    """
    if getattr(model.config, "spectrogram_dim", ()):
        raise UsageError("int8 does not support SANets with a spectrogram. Use bfloat16 or float32.")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        dtype = str(model.dtype).removeprefix("torch.")
        raise UsageError(
            f"int8 needs a model in float32 on the CPU, but this model is in {dtype} on {model.device}. "
            "Load it with dtype='float32' and device='cpu'."
        )
    if not has_int8_layers():
        raise UsageError(
            f"int8 is not supported on {describe_processor()} with {describe_libraries()}. Use bfloat16 or float32."
        )


def hash_weights(model: nn.Module) -> str:
    """Return a hash of the weights of a model, as text."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def replace_layers(model: PreTrainedModel, calibration: Int8Calibration) -> PreTrainedModel:
    """
    Replace the layers of an optimised model by int8 layers, in place, and return it. If a layer computes wrong results
    on this processor, it stays in float32, with a warning.

    Raises:
        UsageError: The calibration is for another architecture.
    """
    wrong, layers = [], _layers(model)
    for name, (low, high) in calibration.ranges.items():
        if name not in layers:
            raise UsageError(
                f"The int8 calibration has a layer {name}, which this model does not have. Calibrate again."
            )
        layer = int8_layer(layers[name], (low, high))
        if layer is None:
            wrong.append(name)
            continue
        _set_layer(model, name, layer)
    if wrong:
        warnings.warn(
            f"Wrong results in int8 on {describe_processor()} with {describe_libraries()}: {', '.join(wrong)}. These "
            "layers stay in float32, which is slower.",
            RuntimeWarning,
            stacklevel=2,
        )
    return model


def _layers(model: nn.Module) -> dict[str, nn.Linear | SANetConv1d]:
    """Return the layers for int8, by name. Layers on the waveform are excluded: they lose the most and cost little."""
    kept = set()
    if isinstance(model, SANetPreTrainedModel):
        first = model.base_model.layers[0]
        kept = {first.conv1, first.shortcut}
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, SANetConv1d))
        and layer not in kept
        and min(layer.weight.shape[0], layer.weight.shape[1]) >= MIN_CHANNELS
    }


@contextmanager
def _recorded_ranges(model: nn.Module, ranges: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Record the smallest and largest input of each layer that is applied to (batch, frames, channels)."""

    def record(name: str, values: torch.Tensor) -> None:
        if values.dim() == 3 and values.shape[1] >= MIN_FRAMES:
            low, high = torch.aminmax(values)
            known = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(known[0], low.item()), max(known[1], high.item()))

    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: record(name, inputs[0]))
        for name, layer in _layers(model).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    _share_ranges(model, ranges)


def _share_ranges(model: nn.Module, ranges: dict[str, tuple[float, float]]) -> None:
    """
    Set the same range for query, key and value, since they have the same input. They are computed as one layer or, in
    padded batches, separately.
    """
    for prefix, attention in model.named_modules():
        if not isinstance(attention, SANetAttention):
            continue
        names = [f"{prefix}.{name}" for name in JOINT]
        known = [ranges[name] for name in names if name in ranges]
        if known:
            shared = min(low for low, _ in known), max(high for _, high in known)
            ranges.update({name: shared for name in names if name in dict(model.named_modules())})


@torch.inference_mode()
def _logits(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Return the logits of clips, (clips, classes)."""
    return torch.cat([model(**batch, return_dict=True).logits for batch in batches])
