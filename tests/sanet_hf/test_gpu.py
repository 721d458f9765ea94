# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The model on a GPU: outputs of the original, masks, attention kernels, number formats, compilation.

    SANET_TEST_DEVICE=cpu pytest tests/sanet_hf/test_gpu.py    # the same on the CPU

The expected values are those of the original network (see test_parity.py) or of float32 on the same device. The
tolerances for float32 assume products in full precision. TF32, PyTorch's default for convolutions on a GPU, has its
own tolerance.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification

from sanet_hf import SANetFeatureExtractor, SANetForAudioClassification, explain, load_classifier, predict
from sanet_hf.export import export_program
from sanet_hf.optimization import optimize_for_inference

from ..waits import Waits
from .test_parity import names_here


pytestmark = pytest.mark.gpu

LENGTH = 32_000
# Allowed errors of the logits, which are about 1.
TOLERANCES = {torch.float32: 2e-4, torch.bfloat16: 0.15, torch.float16: 0.02}
TF32_TOLERANCE = 0.02
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
GRADIENT_TOLERANCE = 0.01


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Disable TF32 in convolutions, because its values have only 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def model(full_size_model, gpu) -> SANetForAudioClassification:
    """Return the full-size network on the device. All tests share it, so copy it before changing it."""
    return copy.deepcopy(full_size_model).to(gpu)


@pytest.fixture(scope="module")
def batch(make_waveforms, gpu) -> dict[str, torch.Tensor]:
    """Return three clips. The second and third are padded."""
    mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [20_000], [300]])).long()
    return {"input_values": (make_waveforms(3, LENGTH) * mask).to(gpu), "attention_mask": mask.to(gpu)}


def logits_of(model: SANetForAudioClassification, **inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits in float32 on the CPU."""
    with torch.no_grad():
        return model(**inputs).logits.float().cpu()


# --- outputs of the original


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("optimized", [False, True], ids=["as_it_comes", "optimized"])
def test_logits_equal_the_original(model, parity, make_waveforms, gpu, attention, optimized):
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    model = optimize_for_inference(model) if optimized else model
    logits = logits_of(model, input_values=make_waveforms(4, LENGTH).to(gpu))
    torch.testing.assert_close(logits, parity[0][f"{LENGTH}.eval.logits"], atol=TOLERANCES[torch.float32], rtol=0)


def test_logits_with_tf32(model, parity, make_waveforms, gpu):
    torch.backends.cudnn.allow_tf32 = True
    logits = logits_of(model, input_values=make_waveforms(4, LENGTH).to(gpu))
    torch.testing.assert_close(logits, parity[0][f"{LENGTH}.eval.logits"], atol=TF32_TOLERANCE, rtol=0)


def test_training_step_equals_the_original(model, parity, make_waveforms, gpu):
    model = copy.deepcopy(model).train()
    output = model(make_waveforms(4, LENGTH).to(gpu), labels=torch.arange(4, device=gpu))
    output.loss.backward()
    expected, order = parity
    torch.testing.assert_close(output.loss.cpu(), expected[f"{LENGTH}.train.loss"], atol=1e-3, rtol=0)
    norms = expected[f"{LENGTH}.train.grad_norms"].tolist()
    for name, norm in zip(order["grad_order"], norms, strict=True):
        # Biases before a BatchNorm have no gradient. That of stage 1's shortcut is a small difference of large sums.
        if norm > 1e-6 and name != "stage1.down.0.weight":
            gradients = [model.get_parameter(here).grad.flatten() for here in names_here(name)]
            assert torch.cat(gradients).norm().item() == pytest.approx(norm, rel=GRADIENT_TOLERANCE), name


# --- masks, number formats, attention kernels


def attention_kernels() -> list:
    flash = pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash-attn is not installed")
    return ["eager", "sdpa", pytest.param("flash_attention_2", marks=flash), "flex_attention"]


@DTYPES
@pytest.mark.parametrize("attention", attention_kernels())
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_padding_changes_nothing(model, batch, gpu, dtype, attention):
    """The logits of each clip in a padded batch equal those of the clip alone, with eager attention in float32."""
    if attention == "flash_attention_2" and (dtype == torch.float32 or gpu.type == "cpu"):
        pytest.skip("flash-attention 2 computes in half precision on GPUs alone")
    lengths = batch["attention_mask"].sum(1).tolist()
    alone = torch.cat(
        [
            logits_of(model, input_values=clip[:length].unsqueeze(0))
            for clip, length in zip(batch["input_values"], lengths)
        ]
    )
    other = copy.deepcopy(model).to(dtype)
    other.set_attn_implementation(attention)
    # Compilation of flex attention takes half a minute on the CPU.
    with torch.compiler.set_stance("force_eager" if gpu.type == "cpu" else "default"):
        logits = logits_of(other, **batch)
    torch.testing.assert_close(logits, alone, atol=TOLERANCES[dtype], rtol=0)
    with torch.compiler.set_stance("force_eager" if gpu.type == "cpu" else "default"):
        whole = logits_of(other, input_values=batch["input_values"][:1])
    torch.testing.assert_close(whole, alone[:1], atol=TOLERANCES[dtype], rtol=0)


@DTYPES
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_optimized(model, batch, dtype, padded):
    inputs = batch if padded else {"input_values": batch["input_values"]}
    logits = logits_of(optimize_for_inference(copy.deepcopy(model).to(dtype)), **inputs)
    torch.testing.assert_close(logits, logits_of(model, **inputs), atol=TOLERANCES[dtype], rtol=0)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_autocast(model, batch, gpu, padded):
    """The loss and the gradient of the last layer in a bfloat16 training step are close to those of float32."""
    inputs = batch if padded else {"input_values": batch["input_values"]}
    results = []
    for enabled in (False, True):
        trained = copy.deepcopy(model).train()
        trained.classifier.eval()  # BatchNorm over three clips would amplify rounding errors of bfloat16
        with torch.autocast(gpu.type, torch.bfloat16, enabled=enabled):
            loss = trained(**inputs, labels=torch.tensor([1, 2, 3], device=gpu)).loss
        loss.backward()
        results.append((loss.item(), trained.classifier[-1].weight.grad.norm().item()))
        assert all(parameter.grad.isfinite().all() for parameter in trained.parameters())
    assert results[1] == pytest.approx(results[0], rel=0.15)


# --- waiting for the GPU

KNOWN_WAITS = pytest.mark.xfail(reason="transformers looks at masks; on a CPU, SANet does too", strict=True)


@contextmanager
def refuse_waits(gpu: torch.device) -> Iterator[None]:
    """Raise an error if the CPU waits for the GPU."""
    if gpu.type == "cpu":
        with Waits() as waits:
            yield
        assert not waits.found
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("padded", [False, pytest.param(True, marks=KNOWN_WAITS)], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", ["training", "optimized"])
def test_cpu_does_not_wait_for_the_gpu(model, batch, gpu, kind, padded):
    """The CPU can launch the kernels of the next layers while the GPU computes."""
    inputs = batch if padded else {"input_values": batch["input_values"]}
    labels = torch.tensor([1, 2, 3], device=gpu)
    other = copy.deepcopy(model).train() if kind == "training" else optimize_for_inference(model)
    optimizer = torch.optim.AdamW(other.parameters(), fused=True) if kind == "training" else None
    for index in range(2):
        # The first call may wait: it loads libraries and searches for algorithms.
        with refuse_waits(gpu) if index else torch.autograd.set_grad_enabled(True):
            output = other(**inputs, labels=labels)
            if optimizer is not None:
                output.loss.backward()
                torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()


# --- compilation, checkpointing


def compile_model(model: SANetForAudioClassification, gpu: torch.device) -> torch.nn.Module:
    """Compile with CUDA graphs. On the CPU, skip the code generator, which takes a minute."""
    return torch.compile(model, **({"mode": "reduce-overhead"} if gpu.type == "cuda" else {"backend": "aot_eager"}))


def small_batch(gpu: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(4000) < torch.tensor([[4000], [2500]])).long()
    values = torch.randn(2, 4000, generator=generator) * mask
    return {"input_values": values.to(gpu), "attention_mask": mask.to(gpu), "labels": torch.tensor([0, 1]).to(gpu)}


def test_compiled_inference(tiny_model, gpu):
    """Repeated calls with other values give the outputs of the model."""
    model = optimize_for_inference(tiny_model.to(gpu))
    compiled, inputs = compile_model(model, gpu), small_batch(gpu)
    for scale in (1.0, 0.5, 2.0):
        scaled = {**inputs, "input_values": scale * inputs["input_values"]}
        torch.testing.assert_close(logits_of(compiled, **scaled), logits_of(model, **scaled), atol=1e-4, rtol=0)


def test_compiled_training(tiny_model, gpu):
    """Weights and statistics after three steps equal those without compilation."""
    inputs, states = small_batch(gpu), []
    for compiled in (False, True):
        model = copy.deepcopy(tiny_model).train().to(gpu)
        forward = compile_model(model, gpu) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(3):
            forward(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append({name: value.float().cpu() for name, value in model.state_dict().items()})
    torch.testing.assert_close(states[1], states[0], atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing(tiny_model, gpu):
    inputs, results = small_batch(gpu), []
    for checkpointing in (False, True):
        model = copy.deepcopy(tiny_model).train().to(gpu)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs).loss.backward()
        results.append(
            [parameter.grad.cpu() for parameter in model.parameters()]
            + [buffer.float().cpu() for buffer in model.buffers()]
        )
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)


# --- use


def test_loads_to_the_gpu_by_default(tiny_checkpoint, gpu):
    model, _ = load_classifier(tiny_checkpoint)
    assert model.device.type == gpu.type


@DTYPES
def test_predictions_and_embeddings(tiny_checkpoint, gpu, dtype):
    """Results for batches of clips of different lengths are close to those of float32 on the CPU."""
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(length, dtype=np.float32) for length in rng.integers(100, 20_000, 9)]
    expected, found = (
        list(predict(*load_classifier(tiny_checkpoint, *options), clips, batch_size=4, return_embeddings=True))
        for options in (("cpu",), (gpu.type, dtype))
    )
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    for prediction, other in zip(expected, found, strict=True):
        assert np.allclose(other.scores, prediction.scores, atol=tolerance)
        assert np.allclose(other.embedding, prediction.embedding, atol=10 * tolerance)
        assert len(other.windows) == len(prediction.windows)


def test_explanation(tiny_checkpoint, gpu):
    clip = 0.1 * np.random.default_rng(0).standard_normal(8000, dtype=np.float32)
    expected, found = (explain(*load_classifier(tiny_checkpoint, device), clip) for device in ("cpu", gpu.type))
    assert found.label == expected.label
    assert np.allclose(found.pooling_weights, expected.pooling_weights, atol=1e-3)


def test_batches_shrink_when_gpu_memory_runs_out(model, gpu, monkeypatch):
    """On a GPU, the error comes from the allocator."""
    extractor = SANetFeatureExtractor()
    clips = [0.1 * np.random.default_rng(seed).standard_normal(16_000, dtype=np.float32) for seed in range(8)]
    expected = [prediction.scores for prediction in predict(model, extractor, clips, batch_size=1)]
    forward, sizes = SANetForAudioClassification.forward, []

    def watched(self, input_values, *args, **kwargs):
        sizes.append(len(input_values))
        if gpu.type == "cpu" and len(input_values) > 2:
            raise torch.OutOfMemoryError("out of memory")
        if gpu.type == "cuda" and len(input_values) > 2:
            torch.empty(2 * torch.cuda.get_device_properties(gpu).total_memory, dtype=torch.uint8, device=gpu)
        return forward(self, input_values, *args, **kwargs)

    monkeypatch.setattr(SANetForAudioClassification, "forward", watched)
    scores = [prediction.scores for prediction in predict(model, extractor, clips, batch_size=8)]
    assert np.allclose(scores, expected, atol=1e-3)
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_export_of_a_model_on_the_gpu(tiny_model, gpu, tmp_path):
    assert export_program(tiny_model.to(gpu), SANetFeatureExtractor(max_length=8000), tmp_path / "exported") < 1e-4
    assert tiny_model.device.type == gpu.type


def test_model_saved_on_the_gpu_loads_on_the_cpu(tiny_model, gpu, tmp_path):
    tiny_model.to(gpu).save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, tiny_model.state_dict()[name].cpu()), name
