# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`optimize_for_inference` does not change the outputs."""

import copy
import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sanet_hf import SANetFeatureExtractor
from sanet_hf.export import export_onnx
from sanet_hf.layers_sanet import SANetConv1d
from sanet_hf.optimization import cpu_blocks, cpu_layers, optimize_for_inference
from sanet_hf.optimization.activations import ACTIVATIONS
from sanet_hf.optimization.choices import Choices
from sanet_hf.optimization.cpu_layers import (
    CPUConv1d,
    DFTConv1d,
    LongDFTConv1d,
    MergedConv1d,
    OneDNNConv1d,
    OneDNNLinear,
    WinogradConv1d,
)


@pytest.fixture(scope="module")
def optimized(full_size_model):
    return optimize_for_inference(full_size_model)


@pytest.mark.parametrize("length", [64000, 32000])
def test_parity(parity, optimized, make_waveforms, length):
    """The logits equal those of the original, with the same tolerance as for the model itself."""
    with torch.no_grad():
        outputs = optimized(make_waveforms(4, length), output_hidden_states=True)
    torch.testing.assert_close(outputs.logits, parity[0][f"{length}.eval.logits"], atol=5e-5, rtol=0)
    names = {type(module).__name__ for module in optimized.modules()}
    assert not {"SANetBatchNorm", "SANetConv1d", "Linear"} & names


@pytest.mark.slow
@given(lengths=st.lists(st.integers(1, 64000), min_size=1, max_size=3))
def test_padded_batches(full_size_model, optimized, make_waveforms, lengths):
    waveforms = make_waveforms(len(lengths), max(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        expected = full_size_model(waveforms * mask, mask.int(), output_hidden_states=True)
        outputs = optimized(waveforms * mask, mask.int(), output_hidden_states=True)
    assert outputs.keys() == expected.keys()
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.pooling_weights, expected.pooling_weights, atol=1e-4, rtol=0)
    for hidden_states, others in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(hidden_states, others, atol=1e-4, rtol=0)


def test_half_precision(full_size_model, make_waveforms):
    """In bfloat16, also with autocast, the error is similar to that of the model itself."""
    waveforms = make_waveforms(2, 64000)
    half = copy.deepcopy(full_size_model).bfloat16()
    with torch.no_grad():
        expected = full_size_model(waveforms).logits
        error = (half(waveforms).logits - expected).abs().max()
        assert (optimize_for_inference(half)(waveforms).logits - expected).abs().max() < 2 * error
        with torch.autocast("cpu", torch.bfloat16):
            assert (optimize_for_inference(full_size_model)(waveforms).logits - expected).abs().max() < 2 * error
    # After a later conversion, the weights prepared for float32 are not used.
    late = optimize_for_inference(full_size_model).bfloat16()
    assert late(waveforms).logits.dtype == torch.bfloat16


def test_base_model_is_optimized_and_original_unchanged(full_size_model, make_waveforms):
    before = {name: value.clone() for name, value in full_size_model.state_dict().items()}
    base = optimize_for_inference(full_size_model.sanet)
    assert type(base) is type(full_size_model.sanet)
    with torch.no_grad():
        waveforms = make_waveforms(1, 20000)
        expected = full_size_model.sanet(waveforms).pooler_output
        torch.testing.assert_close(base(waveforms).pooler_output, expected, atol=1e-4, rtol=0)
    after = full_size_model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in full_size_model.parameters())


@pytest.mark.parametrize("with_mask", [False, True])
def test_batches_in_parts(make_model, monkeypatch, with_mask):
    """Three clips give the same outputs in parts of two clips as at once."""
    model = copy.deepcopy(optimize_for_inference(make_model(attn_implementation="eager")))
    waveforms = torch.randn(3, 4000)
    mask = (torch.arange(4000) < torch.tensor([[4000], [3000], [10]])).int() if with_mask else None
    options = {"output_hidden_states": True, "output_attentions": True}
    sizes = []
    model.sanet.layers[0].register_forward_pre_hook(lambda layer, inputs: sizes.append(len(inputs[0])))
    for one in (model, model.sanet):
        sizes.clear()
        with torch.no_grad():
            expected = one(waveforms, mask, **options)
            with monkeypatch.context() as context:
                clip_size = model.config.conv_dim[0] * 4000 // model.config.conv_stride[0]
                context.setattr(cpu_blocks, "PART_SIZE", 2 * clip_size)
                outputs = one(waveforms, mask, **options)
                as_tuple = one(waveforms, mask, return_dict=False, **options)
        assert sizes == [3, 2, 1, 2, 1] and outputs.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], atol=1e-4, rtol=0)
        assert isinstance(as_tuple, tuple) and len(as_tuple) == len(outputs)


@pytest.mark.parametrize(
    "options",
    [{"use_squeeze_excitation": False}, {"conv_groups": 2, "num_channels": 2}, {"classifier_hidden_sizes": ()}],
    ids=str,
)
def test_other_configurations(make_model, options):
    model = make_model(**options)
    shape = (2, 4000) if model.config.num_channels == 1 else (2, model.config.num_channels, 4000)
    with torch.no_grad():
        waveforms = torch.randn(shape)
        torch.testing.assert_close(optimize_for_inference(model)(waveforms).logits, model(waveforms).logits)


@pytest.mark.slow
def test_export(full_size_model, optimized, tmp_path):
    """Exporters get plain convolutions and linear layers."""
    pytest.importorskip("onnx")
    assert export_onnx(optimized, SANetFeatureExtractor(), tmp_path) < 1e-4


def test_compile_in_one_graph(optimized, make_waveforms):
    waveforms = make_waveforms(2, 16000)
    compiled = torch.compile(optimized, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(waveforms).logits, optimized(waveforms).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape, mask_shape", [((200000,), None), ((9, 64000), (1, 64000))])
def test_wrong_inputs_give_the_errors_of_the_model(full_size_model, optimized, shape, mask_shape):
    """The error names the whole input, not a part of it."""
    arguments = torch.zeros(shape), None if mask_shape is None else torch.ones(mask_shape)
    with pytest.raises(ValueError) as expected:
        full_size_model(*arguments)
    with pytest.raises(ValueError) as raised:
        optimized(*arguments)
    assert str(raised.value) == str(expected.value)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="supports only SANet models, not Linear"):
        optimize_for_inference(nn.Linear(1, 1))


CONV_KINDS = [CPUConv1d, OneDNNConv1d, MergedConv1d, DFTConv1d, LongDFTConv1d, WinogradConv1d]


@given(
    num_frames=st.integers(1, 300),
    kernel_size=st.integers(1, 40),
    stride=st.integers(1, 5),
    padding=st.integers(0, 20),
    kind=st.sampled_from(CONV_KINDS),
    activation=st.sampled_from(list(ACTIVATIONS)),
)
def test_ways_to_convolve(num_frames, kernel_size, stride, padding, kind, activation):
    """All algorithms give the same result, also in parts and for a second length."""
    kernel_size = min(kernel_size, 5 * stride) if kind is WinogradConv1d else kernel_size
    conv = SANetConv1d(3, 5, kernel_size, stride=stride, padding=padding).requires_grad_(False)
    layer = kind(conv, activation)
    for length in (num_frames, 2 * num_frames):
        hidden_states = torch.randn(3, max(length, kernel_size - 2 * padding), 3)
        expected = ACTIVATIONS[activation](conv(hidden_states))
        torch.testing.assert_close(layer(hidden_states), expected, atol=2e-5, rtol=0)
        with pytest.MonkeyPatch.context() as context:
            context.setattr(cpu_layers, "PART_SIZE", 1)
            torch.testing.assert_close(copy.deepcopy(layer)(hidden_states), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ways_to_multiply(activation, dtype):
    linear = nn.Linear(70, 90).requires_grad_(False).to(dtype)
    layer = OneDNNLinear(linear, activation)
    for shape in ((2, 5, 70), (1, 70), (3, 200, 70)):
        hidden_states = torch.randn(shape).to(dtype)
        expected = ACTIVATIONS[activation](linear(hidden_states).float()).to(dtype)
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(layer(hidden_states), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("way", ["plain", "oneDNN", "oneDNN, frames merged", "DFT", "DFT, long blocks", "Winograd"])
def test_each_way_in_the_network(make_model, monkeypatch, make_waveforms, way):
    """The algorithm is used in all layers that support it. Outputs are the same, with and without padding."""
    sizes = {"conv_kernel": (24, 5, 3), "conv_dim": (16, 128, 128), "attention_dim": (128,), "se_reduction": 8}
    model = make_model(**sizes)
    monkeypatch.setattr(Choices, "choose", lambda self, what, ways: way if way in ways else list(ways)[-1])
    monkeypatch.setattr(Choices, "find", lambda self, what: None)
    optimized = optimize_for_inference(model)
    kind = {"plain": CPUConv1d, "oneDNN": OneDNNConv1d, "Winograd": WinogradConv1d, "DFT": DFTConv1d}.get(
        way, LongDFTConv1d if "DFT" in way else MergedConv1d
    )
    assert kind in map(type, optimized.modules())
    for lengths in ([4001], [3000, 3000], [4001, 10, 700], [1]):
        waveforms = make_waveforms(len(lengths), 4001)
        mask = (torch.arange(4001) < torch.tensor(lengths)[:, None]).int()
        with torch.no_grad():
            expected = model(waveforms * mask, mask, output_hidden_states=True)
            outputs = optimized(waveforms * mask, mask, output_hidden_states=True)
        assert outputs.keys() == expected.keys()
        for name in ("logits", "pooling_weights"):
            torch.testing.assert_close(outputs[name], expected[name], atol=1e-4, rtol=0)
        for hidden_states, others in zip(outputs.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(hidden_states, others, atol=1e-4, rtol=1e-4)


def test_gradients_with_respect_to_the_input(make_model):
    """If gradients are needed, the optimised model uses an algorithm that has them."""
    model = make_model()
    gradients = []
    for one in (model, optimize_for_inference(model)):
        waveforms = torch.ones(1, 3001, requires_grad=True)
        one(waveforms).logits[0, 0].backward()
        gradients.append(waveforms.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


PAGE_FAULTS = """
import resource, torch
from sanet_hf.optimization import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**22) + torch.ones(2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
page_faults()
print(page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is for the GNU C library")
def test_keep_freed_memory():
    """
    Blocks of 16 MiB, each of 4,096 pages, reuse memory that was freed before.

    The test needs its own process. After a failed allocation, as in tests of wrong lengths, glibc gives the main
    thread another arena. There, a completely free heap is returned regardless of the threshold.
    """
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4096
