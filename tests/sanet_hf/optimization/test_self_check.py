# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The self-check of fast algorithms: a wrong one is found, named and replaced."""

import copy
import warnings

import pytest
import torch
from torch import nn

from sanet_hf import SANetConfig, SANetForAudioClassification, layers_sanet
from sanet_hf.layers_sanet import SANetConv1d
from sanet_hf.optimization import (
    choices,
    cpu_layers,
    optimize_for_inference,
    processor_report,
    replace_wrong_layers,
    self_check,
)
from sanet_hf.optimization.processor import describe_processor, describe_training
from sanet_hf.optimization.processor_report import format_machine_report, machine_report
from sanet_hf.optimization.self_check import plain_layer


@pytest.fixture(autouse=True)
def forget_checks(monkeypatch, tmp_path):
    """Forget checks and measured choices."""
    monkeypatch.setattr(choices, "cached_assets_path", lambda *names: tmp_path)
    choices._choices_for.cache_clear()
    self_check._known_checks.clear()
    yield
    choices._choices_for.cache_clear()
    self_check._known_checks.clear()


@pytest.fixture
def model() -> SANetForAudioClassification:
    """Return a model with a convolution for each fast algorithm and few other weights."""
    torch.manual_seed(0)
    sizes = {"conv_dim": (16, 32, 512), "conv_kernel": (64, 32, 4), "conv_stride": (4, 2, 2), "attention_after": (1,)}
    return SANetForAudioClassification(SANetConfig(**sizes, attention_dim=(64,), num_labels=3)).eval()


def make_conv2d_wrong(monkeypatch, is_wrong) -> None:
    original = nn.functional.conv2d

    def wrong(inputs, weight, *arguments, **options):
        output = original(inputs, weight, *arguments, **options)
        return output.roll(1, 1) if is_wrong(inputs, output) else output

    monkeypatch.setattr(nn.functional, "conv2d", wrong)


def make_wrong(monkeypatch, where, name: str) -> None:
    original = getattr(where, name)
    monkeypatch.setattr(where, name, lambda *arguments: 1.001 * original(*arguments))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_wrong_convolutions_in_half_precision(model, monkeypatch, dtype):
    clips = torch.randn(2, 16000)
    model = model.to(dtype)
    with torch.no_grad():
        expected = model(clips).logits.float()
        monkeypatch.setattr(cpu_layers, "has_onednn", lambda: False)
        make_conv2d_wrong(monkeypatch, lambda inputs, output: output.dtype == dtype)
        assert (model(clips).logits - expected).abs().max() > 0.1 * expected.abs().max()
        with pytest.warns(
            RuntimeWarning, match=r"Wrong results in .*float16 on .*oneDNN .*convolution 1 to 16"
        ) as found:
            optimized = optimize_for_inference(model)
        logits = optimized(clips).logits
    assert len(found) == 1 and logits.dtype == dtype
    # The network has about 60 roundings in sequence.
    tolerance = 60**0.5 * torch.finfo(dtype).eps
    torch.testing.assert_close(logits.float(), expected, atol=tolerance * expected.abs().max().item(), rtol=0)
    # A copy gives the same result.
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(optimized)(clips).logits, logits)


@pytest.mark.parametrize(
    "where, name, path",
    [
        (cpu_layers.DFTConv1d, "convolve", "convolution by DFT"),
        (cpu_layers.WinogradConv1d, "convolve", "convolution by Winograd's algorithm"),
        (cpu_layers.OneDNNConv1d, "convolve", "convolution by oneDNN"),
        (cpu_layers, "onednn_linear", "linear layer by oneDNN"),
    ],
    ids=["dft", "winograd", "onednn-conv", "onednn-linear"],
)
def test_wrong_fast_layers(model, monkeypatch, where, name, path):
    """An error of 0.1 % in float32 is found."""
    clips = torch.randn(2, 16000)
    with torch.no_grad():
        expected = model(clips).logits
        make_wrong(monkeypatch, where, name)
        with pytest.warns(RuntimeWarning, match=path):
            logits = optimize_for_inference(model)(clips).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_wrong_weight_gradients(model, monkeypatch, dtype):
    layer, states, weighting = model.sanet.layers[1].conv2, torch.randn(2, 1100, 32), torch.randn(2, 1099, 32)

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            (layer(states) * weighting).sum().backward()
        return layer.weight.grad

    for module in (layers_sanet, self_check):
        monkeypatch.setattr(module, "has_fast_gradients", lambda dtype: False)
    exact = gradient(torch.float32)
    original = layers_sanet._weight_gradient
    monkeypatch.setattr(layers_sanet, "_weight_gradient", lambda *arguments: original(*arguments).roll(1, 0))
    assert (gradient(dtype) - exact).norm() > 0.5 * exact.norm()
    with pytest.warns(RuntimeWarning, match="its weight gradient by FFT 32 to 32, kernel 32"):
        replace_wrong_layers(model, dtype, training=True)
    # Inputs and results are rounded to the number format, and sums of 2200 terms to float32.
    tolerance = 4 * torch.finfo(dtype).eps / 2 + 2200**0.5 * 2**-24
    assert (gradient(dtype) - exact).norm() < tolerance * exact.norm()


def test_reduced_float32_precision_is_recognised():
    assert not self_check.is_float32_reduced()
    try:
        for name in ("high", "medium"):
            torch.set_float32_matmul_precision(name)
            assert self_check.is_float32_reduced()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not self_check.is_float32_reduced()


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch 2.8 has one setting")
def test_different_precisions_per_device_raise_no_error():
    """--tf32 and --torch_compile set such precisions on a GPU. Then PyTorch has no single precision to return."""
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        with pytest.raises(RuntimeError, match="precision"):
            torch.get_float32_matmul_precision()
        assert self_check.is_float32_reduced()
    finally:
        backend.fp32_precision = before
    assert not self_check.is_float32_reduced()


def test_convolution_wrong_in_float32_uses_float64(monkeypatch):
    conv, states = SANetConv1d(16, 16, 5, padding=2).requires_grad_(False), torch.randn(1, 20, 16)
    expected = conv(states)
    original = nn.functional.conv1d
    monkeypatch.setattr(
        nn.functional,
        "conv1d",
        lambda inputs, *others, **options: (
            original(inputs, *others, **options) * (1 + (inputs.dtype == torch.float32))
        ),
    )
    forward = self_check._plain_forward(conv, torch.bfloat16, training=False)
    torch.testing.assert_close(forward(conv, states), expected)


def test_failing_layer_is_replaced(model, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(cpu_layers.DFTConv1d, "convolve", fail)
    with pytest.warns(RuntimeWarning, match="convolution by DFT .*: fails"):
        model = optimize_for_inference(model)
    assert model(torch.randn(1, 16000)).logits.isfinite().all()


def test_missing_operator_is_not_a_candidate(monkeypatch):
    cpu_layers.has_onednn.cache_clear()
    monkeypatch.setattr(cpu_layers, "onednn_linear", lambda: None)
    assert list(cpu_layers.linear_candidates(nn.Linear(64, 64))) == ["plain"]
    assert list(cpu_layers.conv_candidates(SANetConv1d(16, 16, 3))) == ["plain"]
    monkeypatch.undo()
    cpu_layers.has_onednn.cache_clear()
    assert list(cpu_layers.linear_candidates(nn.Linear(64, 64))) == ["plain", "oneDNN"]


@pytest.mark.parametrize("value", [0.0, float("nan"), 6e4], ids=str)
def test_extreme_weights_do_not_fail_the_check(model, value):
    model = model.to(torch.float16)
    with torch.no_grad():
        model.sanet.layers[0].conv1.weight.fill_(value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(check.is_right for check in replace_wrong_layers(model, torch.float16))


def test_large_weights_do_not_fail_the_check(model):
    """Their squares are infinite in float32, the format of the comparison for bfloat16."""
    model = model.to(torch.bfloat16)
    with torch.no_grad():
        model.sanet.layers[0].conv1.weight.mul_(1e25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(check.is_right for check in replace_wrong_layers(model, torch.bfloat16))


def test_check_runs_once_per_process_and_shape(model, monkeypatch):
    checks = replace_wrong_layers(model, torch.float32, training=True)
    # Query, key and value have one shape.
    assert len(checks) == len(self_check._known_checks) < sum(isinstance(m, self_check.Layer) for m in model.modules())
    state = torch.get_rng_state()
    monkeypatch.setattr(self_check, "_results", pytest.fail)
    assert replace_wrong_layers(copy.deepcopy(model), torch.float32, training=True) == checks
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_models_are_not_checked():
    assert replace_wrong_layers(nn.Linear(2, 2), torch.bfloat16) == []


def test_plain_layers_equal_the_layers(model):
    for layer in model.modules():
        if isinstance(layer, self_check.Layer):
            states = self_check._random_inputs(layer)
            torch.testing.assert_close(plain_layer(layer, states), layer(states), atol=1e-5, rtol=1e-4)


def test_machine_report(monkeypatch):
    monkeypatch.setattr(
        processor_report, "SANetConfig", lambda: SANetConfig(conv_dim=(16, 32, 32, 32, 64), se_reduction=4)
    )
    make_conv2d_wrong(monkeypatch, lambda inputs, output: output.dtype == torch.bfloat16)
    report = machine_report()
    assert (
        report["processor"] and report["threads"] == torch.get_num_threads() and report["torch"] == torch.__version__
    )
    text = format_machine_report(report)
    lines = text.splitlines()
    for path in ("convolution by oneDNN ", "linear layer by oneDNN ", "linear layer "):
        assert any(line.startswith(path) and " ok " in line for line in lines)
    assert any(line.startswith("convolution  ") and "bfloat16" in line and "off by" in line for line in lines)
    found = next(
        line for line in lines if line.startswith("32 to 32, kernel 32, stride 1, none, float32, 4096 frames")
    )
    assert "oneDNN " in found and "DFT " in found
    # A wrong algorithm is not compared.
    assert not any("plain" in line for line in lines if "kernel 32" in line and ", bfloat16, " in line)


def test_description_for_the_model_card():
    text = describe_training(torch.bfloat16, torch.device("cpu"))
    assert text.startswith(describe_processor()) and ", bfloat16, PyTorch 2" in text
