# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Outputs of torch.compile and torch.export equal those of the model. test_exported_files.py tests ONNX."""

import copy

import pytest
import torch
from packaging import version
from torch._dynamo.testing import CompileCounterWithBackend

from sanet_hf import modeling_sanet

from .padded_batches import SHAPES, assert_same_frames, make_batch


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# torch.compile.


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_compiled_inference(tiny_model, masked):
    """The model compiles to one graph. From the second shape on, one graph serves all batch sizes and lengths."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(tiny_model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for shapes, graphs in (
            ([(2, 1600), (3, 3200), (5, 4800), (4, 8000)], 2),
            # These lengths need padding to whole frames, which may need another graph.
            ([(2, 1601), (3, 3203), (5, 4809), (4, 7999)], 3),
        ):
            for shape in shapes:
                inputs = make_batch(*shape)[: 1 + masked]
                torch.testing.assert_close(compiled(*inputs).logits, tiny_model(*inputs).logits, atol=1e-5, rtol=0)
            assert counter.frame_count <= graphs


def test_compiled_inference_of_whole_frames_uses_no_mask(tiny_model, monkeypatch):
    masks = []
    original = modeling_sanet.zero_padded_frames
    monkeypatch.setattr(
        modeling_sanet,
        "zero_padded_frames",
        lambda states, mask: masks.append(mask is None) or original(states, mask),
    )
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    clips, mask = make_batch(2, 1600)
    compiled(clips)
    assert set(masks) == {True}
    compiled(clips, mask)
    assert set(masks) == {True, False}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_inference_at_any_length(tiny_model, shape):
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    clips, mask = make_batch(*shape)
    with torch.no_grad():
        for inputs in ((clips,), (clips, mask), (clips, torch.ones_like(mask))):
            expected = tiny_model(*inputs)
            output = compiled(*inputs)
            torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)
            assert_same_frames(output.pooling_weights, expected.pooling_weights)


def test_length_limit_holds_when_compiled(tiny_model):
    with pytest.raises(Exception, match="8001 samples"):
        torch.compile(tiny_model, backend="eager")(torch.zeros(1, 8001))


@pytest.mark.skipif(
    version.parse(torch.__version__).release < (2, 11),
    reason="PyTorch 2.8 computes wrong running statistics; sanet train refuses --torch_compile there",
)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_compiled_training(make_model, masked):
    """Loss, gradients and BatchNorm statistics of a step are the same. The second padded clip is a single sample."""
    clips, mask = make_batch(2, 1600)
    results = []
    for compiling in (False, True):
        # A linear head: BatchNorm over two clips amplifies rounding.
        model = make_model(classifier_hidden_sizes=()).double().train()
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiling else model
        loss = run(clips.double(), mask if masked else None, labels=torch.tensor([0, 1])).loss
        loss.backward()
        results.append({"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()})
        results[-1] |= dict(model.named_buffers())
    for name, expected in results[0].items():
        # The pooling and the momentum are always computed in float32.
        tolerance = 1e-7 if "running" in name else 1e-5
        torch.testing.assert_close(
            results[1][name], expected, atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_compiled_attention_probabilities(tiny_model):
    """The model is called once before compilation, because transformers installs its hooks on the first such call."""
    tiny_model.set_attn_implementation("eager")
    batch = make_batch(2, 320)
    with torch.no_grad():
        expected = tiny_model(*batch, output_attentions=True, output_hidden_states=True)
        compiled = torch.compile(tiny_model, fullgraph=True, backend="aot_eager")
        output = compiled(*batch, output_attentions=True, output_hidden_states=True)
    for name in ("attentions", "hidden_states"):
        for actual, tensor in zip(output[name], expected[name], strict=True):
            torch.testing.assert_close(actual, tensor, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_inductor(make_model):
    """PyTorch's default backend works in inference and training. Only two blocks: four take a minute."""
    model = make_model(conv_dim=(8,), conv_kernel=(8,), conv_stride=(4,), attention_after=(0,))
    batch = make_batch(2, 1600)
    trained = copy.deepcopy(model).train()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(*batch).logits, model(*batch).logits, atol=1e-4, rtol=0)
    expected = copy.deepcopy(trained)
    expected(*batch, labels=torch.tensor([0, 1])).loss.backward()
    torch.compile(trained, fullgraph=True)(*batch, labels=torch.tensor([0, 1])).loss.backward()
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(trained.get_buffer(name), buffer, atol=1e-4, rtol=1e-3)
    for parameter in trained.parameters():
        assert parameter.grad.isfinite().all()


# torch.export.

AUTO = torch.export.Dim.AUTO
DYNAMIC = {0: AUTO, 1: AUTO}


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_exported_program(tiny_model, masked):
    """Strict export. test_exported_files.py compares the files, which use the non-strict export."""
    names = ("input_values", "attention_mask")[: 1 + masked]
    example = make_batch(2, 1600)[: 1 + masked]
    program = torch.export.export(
        tiny_model,
        example,
        dynamic_shapes=dict.fromkeys(names, DYNAMIC),
        strict=True,
    ).module()
    with torch.no_grad():
        for shape in SHAPES:
            inputs = make_batch(*shape)[: 1 + masked]
            output, expected = program(*inputs), tiny_model(*inputs)
            torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)
            assert_same_frames(output.pooling_weights, expected.pooling_weights)


def test_exported_base_model(tiny_model):
    program = torch.export.export(
        tiny_model.sanet,
        make_batch(2, 1600),
        dynamic_shapes={"input_values": DYNAMIC, "attention_mask": DYNAMIC},
    ).module()
    batch = make_batch(3, 1000)
    with torch.no_grad():
        expected = tiny_model.sanet(*batch)
        for name, value in program(*batch).items():
            if name == "pooler_output":
                torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)
            else:
                assert_same_frames(value, expected[name])


def test_exported_at_full_size(full_size_model):
    program = torch.export.export(
        full_size_model,
        make_batch(2, 16_000),
        dynamic_shapes={"input_values": DYNAMIC, "attention_mask": DYNAMIC},
    ).module()
    batch = make_batch(3, 5001)
    with torch.no_grad():
        torch.testing.assert_close(program(*batch).logits, full_size_model(*batch).logits, atol=1e-4, rtol=0)
