# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Calibration of a trained classifier on its validation split, folded into its last linear layer.

This way every use of the saved model (pipelines, ONNX, int8) gives calibrated scores. Checkpoints keep uncalibrated
weights, so that a resumed run is calibrated only once.
"""

import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, Trainer

from sanet_hf.architectures import extract_features, head_parameter_names
from sanet_hf.training.evaluation.calibration import (
    MIN_PER_CLASS,
    MIN_RECORDINGS,
    Calibration,
    WindowLogits,
    best_thresholds,
    fit,
)
from sanet_hf.training.evaluation.results import Evaluation, summarize_calibration
from sanet_hf.utils.formatting import format_count


# Head on statistics of a SANet's log-mel bands; see [`training.regression_heads`].
BAND_HEAD = "band_head"


def calibrate(
    trainer: Trainer, validation: Dataset | None, predict: Callable[[Dataset], WindowLogits]
) -> tuple[Calibration | None, str]:
    """
    Calibrate the trainer's model on the validation split, if its options ask for it. For a multi-label model, store
    the thresholds with the best F1 in `config.thresholds`.

    Args:
        trainer: Has the trained model and the option `args.calibrate`.
        validation: The validation split as [`load_recordings`] returns it, if there is one.
        predict: Returns the logits of the trainer's model for that split, as [`predict_windows`] does.

    Returns:
        The calibration (None if there is none), and a text that describes it or the reason for its absence.
    """
    model = trainer.model
    num_recordings = 0 if validation is None else len(validation)
    is_multi_label = model.config.problem_type == "multi_label_classification"
    if not trainer.args.calibrate and not is_multi_label:
        return None, "none (--calibrate false)"
    if num_recordings < MIN_RECORDINGS:
        found = (
            f"the validation split has {format_count(num_recordings, 'recording')}"
            if num_recordings
            else "no validation split"
        )
        return None, _say(trainer, f"none: {found}; at least {MIN_RECORDINGS} are needed")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return None, _say(trainer, "none: --fsdp and --deepspeed divide the weights between processes")
    windows = predict(validation)
    calibration, text = None, "none (--calibrate false)"
    if trainer.args.calibrate:
        calibration, text = _calibrate_on(trainer, windows)
    if is_multi_label:
        logits = windows.logits if calibration is None else calibration.apply(windows.logits)
        references = windows.recording_references
        model.config.thresholds = best_thresholds(windows.probabilities(logits), references)
        num_present = references.sum(axis=0)
        few = int((np.minimum(num_present, num_recordings - num_present) < MIN_PER_CLASS).sum())
        text += f"; a threshold per class for the best F1 on {format_count(num_recordings, 'validation recording')}"
        text += f" (0.5 for {format_count(few, 'class')} with fewer than {MIN_PER_CLASS} of them)" if few else ""
    return calibration, _say(trainer, text)


def print_calibration(
    trainer: Trainer, calibration: Calibration | None, evaluations: Mapping[str, Evaluation]
) -> dict[str, float]:
    """Print calibration errors before and after. Return the `temperature` for `all_results.json`, if there is one."""
    rows = summarize_calibration(evaluations)
    if rows and trainer.is_world_process_zero():
        titles = ("", "", "ECE before", "after", "log loss before", "after")
        lines = [[*row[:2], *(f"{value:.3f}" for value in row[2:])] for row in rows]
        for split, worth, *values in (titles, *lines):
            print(f"{split:12}{worth:18}" + "".join(f"{value:>16}" for value in values), file=sys.stderr)
    if calibration is None or calibration.temperature is None:
        return {}
    return {"temperature": calibration.temperature}


def _say(trainer: Trainer, text: str) -> str:
    if trainer.is_world_process_zero():
        print(f"Calibration of the scores: {text}.", file=sys.stderr)
    return text


def _calibrate_on(trainer: Trainer, windows: WindowLogits) -> tuple[Calibration | None, str]:
    model = trainer.model
    layer = find_logits_layer(model)
    if layer is None or (windows.is_multi_label and layer.bias is None):
        return None, f"none: the scores of {model.config.model_type} do not come from a linear layer"
    calibration = fit(windows)
    extractor = trainer.processing_class
    noise = 0.1 * np.random.default_rng(0).standard_normal(extractor.sampling_rate // 2, dtype=np.float32)
    inputs = extract_features(extractor, [noise])
    parameters = [parameter for layer in _logits_layers(model) for parameter in layer.parameters()]
    weights = [parameter.detach().clone() for parameter in parameters]
    before = _compute_logits(model, inputs)
    fold(model, calibration)
    after, expected = _compute_logits(model, inputs), before * calibration.scale + calibration.offset
    # In half precision, the trainer's logits have only 8 significant bits.
    is_exact = layer.weight.dtype == torch.float32 and not (trainer.args.bf16 or trainer.args.fp16)
    tolerance = (1e-3 if is_exact else 0.05) * max(1.0, np.abs(expected).max())
    if not np.allclose(after, expected, rtol=0, atol=tolerance):
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights):
                parameter.copy_(weight)
        return None, f"none: the scores of {model.config.model_type} depend on more than its last linear layer"
    if windows.is_multi_label:
        kind = "a scale and an offset per class"
    else:
        kind = f"temperature {calibration.temperature:.3g}"
        kind += " (scores unchanged)" if calibration.temperature == 1 else ""
    return calibration, f"{kind}, fitted on {calibration.num_recordings} validation recordings, in the saved model"


@torch.no_grad()
def _compute_logits(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
    was_training = model.training
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    logits = model.eval()(**inputs).logits.double().cpu().numpy()
    model.train(was_training)
    return logits


def find_logits_layer(model: PreTrainedModel) -> nn.Linear | None:
    """Return the last linear layer outside the backbone and the band head, if it has one output per class."""
    names = head_parameter_names(model)
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in names and name != BAND_HEAD
    ]
    return layers[-1] if layers and layers[-1].out_features == model.config.num_labels else None


@torch.no_grad()
def fold(model: PreTrainedModel, calibration: Calibration) -> None:
    """Change the layers that compute the logits in place, so that the model gives calibrated logits."""
    # In float64, so that half-precision weights are rounded only once.
    scale, offset = torch.from_numpy(calibration.scale), torch.from_numpy(calibration.offset)
    for layer in _logits_layers(model):
        layer.weight.copy_(layer.weight.cpu().double() * scale[:, None])
        if layer.bias is not None:
            layer.bias.copy_(layer.bias.cpu().double() * scale + offset)
        offset = torch.zeros_like(offset)


def _logits_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """Return the layers whose outputs are the logits or are added to the logits."""
    layers = [find_logits_layer(model), getattr(model, BAND_HEAD, None)]
    return [layer for layer in layers if layer is not None]
