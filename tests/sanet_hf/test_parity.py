# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The outputs equal those of the original SqueezeAttendNet.

tests/data/parity.safetensors contains outputs of the original network (`in_channels=1, latent_dim=512,
class_count=10`), computed in float64 and stored as float32. Weights and clips come from formulas. For each name and
shape of the state dict, `RandomState(crc32(name)).standard_normal(shape)` is scaled depending on the kind of tensor
(`formula_tensor` in conftest.py). Clips are rising tones in noise (`make_waveforms` in conftest.py). `LENGTH.eval.*`
is inference. `LENGTH.train.*` is one forward and backward pass in training mode with cross-entropy.

A correct float32 implementation keeps the tolerances. The tolerance of the norm of a gradient is 0.1 %, unless the
gradient is a small difference of large sums. This is the case for the shortcut of stage 1, a 1x1 convolution of one
channel before a BatchNorm: the loss depends on its scale only through the epsilon of BatchNorm. Its tolerance follows
from its terms. A float32 sum of n terms has an error of up to sqrt(n) * 2^-24 times the sum of their magnitudes, if
the roundings are independent (Higham and Mary, 2019, https://doi.org/10.1137/18M1226312).
"""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks.original import OriginalSANet


BATCH_SIZE = 4
BLOCKS = ("stage1", "stage2", "stage3", "stage4", "dab1", "stage5", "dab2")
LENGTHS = pytest.mark.parametrize("length", [64000, 32000], scope="module")
ATTENTION = pytest.mark.parametrize("attention", ["eager", "sdpa"], scope="module")

# Parts of the original names, in the order of replacement.
RENAMES = {
    ".bn1.": ".norm1.",
    ".bn2.": ".norm2.",
    ".se.fc.0.": ".squeeze_excitation.reduce.",
    ".se.fc.2.": ".squeeze_excitation.expand.",
    ".down.0.": ".shortcut.",
    ".down.1.": ".shortcut_norm.",
    ".down_time.": ".downsample.",
    ".bn_down.": ".downsample_norm.",
    ".down_ch.": ".in_proj.",
    ".pos_embed": ".position_embedding.weight",
    ".mha.out_proj.": ".attention.o_proj.",
    ".ln_attn.": ".layer_norm.",
    ".up_time.": ".upsample.",
    ".bn_up.": ".upsample_norm.",
    ".up_ch.": ".out_proj.",
    "pool.score.0.": "sanet.pooling.hidden.",
    "pool.score.2.": "sanet.pooling.score.",
    # Here, dropout layers are between the layers of the classifier.
    "classifier.6.": "classifier.8.",
    "classifier.4.": "classifier.5.",
    "classifier.3.": "classifier.4.",
    **{f"{block}.": f"sanet.layers.{index}." for index, block in enumerate(BLOCKS)},
}


def names_here(name: str) -> list[str]:
    """Return the names of the parameters for one of the original. The original stacks query, key and value."""
    for old, new in RENAMES.items():
        name = name.replace(old, new)
    if ".mha.in_proj_" in name:
        return [name.replace(".mha.in_proj_", f".attention.{part}_proj.") for part in "qkv"]
    return [name]


@pytest.fixture(scope="module")
def evaluation(full_size_model, make_waveforms, length, attention):
    model = copy.deepcopy(full_size_model)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        base = model.sanet(make_waveforms(BATCH_SIZE, length), output_hidden_states=True)
        logits = model.classifier(base.pooler_output)
    return base, logits


@LENGTHS
@ATTENTION
def test_logits_and_embedding(parity, evaluation, length, attention):
    base, logits = evaluation
    torch.testing.assert_close(logits, parity[0][f"{length}.eval.logits"], atol=5e-5, rtol=0)
    torch.testing.assert_close(base.pooler_output, parity[0][f"{length}.eval.embedding"], atol=5e-5, rtol=0)


@LENGTHS
@ATTENTION
@pytest.mark.parametrize("index", range(len(BLOCKS)), ids=BLOCKS)
def test_activations(parity, evaluation, length, attention, index):
    hidden_states = evaluation[0].hidden_states[index]
    mean = parity[0][f"{length}.eval.{BLOCKS[index]}.channel_mean"]
    # First clip, (1, frames, channels) after the transposition.
    first_frames = parity[0][f"{length}.eval.{BLOCKS[index]}.first_frames"].transpose(1, 2)
    assert first_frames.shape == (1, 16, 8)
    assert first_frames.abs().max() > 0.1
    torch.testing.assert_close(hidden_states.mean((0, 1)), mean, atol=5e-5, rtol=0)
    torch.testing.assert_close(hidden_states[:1, :16, :8], first_frames, atol=5e-5, rtol=0)


def test_head_on_the_embedding_gives_the_logits(full_size_model, make_waveforms):
    """The fixture `evaluation` computes the logits in this way."""
    waveforms = make_waveforms(1, 4096)
    with torch.no_grad():
        logits = full_size_model.classifier(full_size_model.sanet(waveforms).pooler_output)
        assert torch.equal(full_size_model(waveforms).logits, logits)


class TrainingStep:
    """A training step of the full-size model. It keeps the terms that its gradients are sums of."""

    def __init__(self, model: nn.Module, waveforms: torch.Tensor, attention: str):
        self.model = copy.deepcopy(model).train()
        self.model.set_attn_implementation(attention)
        self.inputs, self.output_gradients = {}, {}
        for name, layer in self.model.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)):
                layer.register_forward_hook(self._keep(name))
        self.output = self.model(waveforms, labels=torch.arange(BATCH_SIZE))
        self.output.loss.backward()

    def _keep(self, name: str) -> Callable:
        def keep(layer, inputs, output) -> None:
            self.inputs[name] = inputs[0].detach()
            output.register_hook(lambda gradient: self.output_gradients.__setitem__(name, gradient.detach()))

        return keep

    def gradient(self, names: list[str]) -> torch.Tensor:
        return torch.cat([self.model.get_parameter(name).grad.flatten() for name in names])

    def tolerance(self, names: list[str]) -> float:
        """Return the relative tolerance of the norm of the gradient of these parameters."""
        bounds = [0.0]
        for name in names:
            layer_name, _, kind = name.rpartition(".")
            if kind == "weight" and layer_name in self.inputs:
                layer = copy.deepcopy(self.model.get_submodule(layer_name))
                layer.zero_grad()
                gradient = self.output_gradients[layer_name]
                layer(self.inputs[layer_name].abs()).backward(gradient.abs())
                num_terms = gradient[..., 0].numel()
                bounds.append(math.sqrt(num_terms) * 2**-24 * layer.weight.grad.norm().item())
        return max(1e-3, math.hypot(*bounds) / self.gradient(names).norm().item())

    def is_right(self, names: list[str], norm: float) -> bool:
        """Return whether the gradient of these parameters has this norm."""
        error = abs(self.gradient(names).norm().item() / norm - 1)
        return error < 1e-3 or error < self.tolerance(names)


# One length per attention implementation, because a backward pass at full size takes seconds.
@pytest.fixture(scope="module", params=[(64000, "sdpa"), (32000, "eager")], ids=lambda param: f"{param[0]}-{param[1]}")
def step(request, full_size_model, make_waveforms):
    length, attention = request.param
    return length, TrainingStep(full_size_model, make_waveforms(BATCH_SIZE, length), attention)


def test_training_step(parity, step):
    expected, order = parity
    length, step = step
    torch.testing.assert_close(step.output.logits, expected[f"{length}.train.logits"], atol=5e-4, rtol=0)
    torch.testing.assert_close(step.output.loss, expected[f"{length}.train.loss"], atol=5e-4, rtol=0)

    names = [here for name in order["grad_order"] for here in names_here(name)]
    assert sorted(names) == sorted(name for name, _ in step.model.named_parameters())
    compared = 0
    for name, norm in zip(order["grad_order"], expected[f"{length}.train.grad_norms"].tolist(), strict=True):
        names = names_here(name)
        if norm > 1e-6:
            compared += 1
            assert step.is_right(names, norm), name
    # The other 7 are biases before a BatchNorm or a softmax. Their gradient is zero.
    assert compared == 110

    buffers = dict(step.model.named_buffers())
    for kind in ("running_mean", "running_var"):
        names = [here for name in order["state_dict"] if name.endswith(kind) for here in names_here(name)]
        norms = torch.stack([buffers[name].norm() for name in names])
        torch.testing.assert_close(norms, expected[f"{length}.train.{kind}_norms"], atol=0, rtol=1e-4)
    assert all(value == 1 for name, value in buffers.items() if name.endswith("num_batches_tracked"))


def test_gradient_errors_of_one_percent_are_found(parity, step):
    """The exception is the gradient of the shortcut of stage 1, whose rounding errors are larger."""
    length, step = step
    missed = []
    for name, norm in zip(parity[1]["grad_order"], parity[0][f"{length}.train.grad_norms"].tolist(), strict=True):
        names = names_here(name)
        if norm > 1e-6:
            before = [step.model.get_parameter(here).grad for here in names]
            for here, gradient in zip(names, before, strict=True):
                step.model.get_parameter(here).grad = 1.01 * gradient
            if step.is_right(names, norm):
                missed.append(name)
            for here, gradient in zip(names, before, strict=True):
                step.model.get_parameter(here).grad = gradient
    assert missed == ["stage1.down.0.weight"]
    assert step.tolerance(names_here(*missed)) < 0.2


def test_number_of_parameters(full_size_model):
    assert sum(parameter.numel() for parameter in full_size_model.parameters()) == 5_797_703


@torch.no_grad()
def test_original_of_the_benchmarks(parity, original_state_dict, make_waveforms):
    """The baseline of the speed benchmarks equals the original network."""
    model = OriginalSANet(num_classes=10)
    model.load_state_dict(original_state_dict)
    logits = model.eval()(make_waveforms(BATCH_SIZE, 32000))
    torch.testing.assert_close(logits, parity[0]["32000.eval.logits"], atol=5e-5, rtol=0)
