# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Exported files: what is in them, that they give what the model gives, that a wrong one is not written."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoFeatureExtractor

from sanet_hf import SANetFeatureExtractor
from sanet_hf.architectures import extract_features, hears_padding
from sanet_hf.export import EXAMPLE, export_onnx, export_program, load_onnx, quantize_onnx, run_onnx, staged
from sanet_hf.export import exporters as export
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.prediction import predict

from .padded_batches import SHAPES, make_batch


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=["masked", "hears_padding"])
def exported(request, make_model, tmp_path_factory):
    """A checkpoint of three named classes and the folder that it was exported to."""
    id2label = {0: "cat", 1: "dog", 2: "öwl"}
    model = make_model(id2label=id2label, label2id={label: index for index, label in id2label.items()})
    feature_extractor = SANetFeatureExtractor(max_length=8000, return_attention_mask=request.param == "masked")
    checkpoint, output_dir = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("exported") / "tiny"
    model.save_pretrained(checkpoint)
    feature_extractor.save_pretrained(checkpoint)
    difference = export_onnx(model, feature_extractor, output_dir)
    assert 0 < difference < 1e-5
    return checkpoint, output_dir


def run_example(folder, *argv, expect: int = 0) -> subprocess.CompletedProcess:
    result = subprocess.run([sys.executable, folder / "classify.py", *argv], capture_output=True, text=True)
    assert result.returncode == expect, result.stderr
    return result


def write_wav(path, num_channels: int = 1, length: int = 3000, sampling_rate: int = 16000):
    clip = 0.2 * np.random.default_rng(length).standard_normal((length, num_channels))
    soundfile.write(path, clip * np.linspace(0.1, 1, length)[:, None], sampling_rate, subtype="PCM_16")
    return path


def test_exported_files(exported):
    checkpoint, folder = exported
    assert sorted(path.name for path in folder.iterdir()) == [
        "classify.py",
        "config.json",
        "model.onnx",
        "preprocessor_config.json",
    ]
    for loader in (AutoConfig, AutoFeatureExtractor):
        settings, original = (loader.from_pretrained(path).to_dict() for path in (folder, checkpoint))
        # Without the code of a checkpoint, whose place it is not.
        assert "auto_map" in original and "auto_map" not in settings
        for differing in ("auto_map", "_name_or_path"):
            original.pop(differing, None), settings.pop(differing, None)
        assert settings == original


def test_metadata(exported):
    _, folder = exported
    session = load_onnx(folder / "model.onnx")
    metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    masked = "attention_mask" in [node.name for node in session.get_inputs()]
    assert metadata["labels"] == ["cat", "dog", "öwl"] and metadata["model_type"] == "sanet"
    assert metadata["sampling_rate"] == 16000 and metadata["max_length"] == 8000 and metadata["min_length"] == 1
    assert metadata["do_normalize"] is True and metadata["target_rms"] == 0.1
    assert metadata["return_attention_mask"] is masked
    assert [node.shape for node in session.get_inputs()] == [["batch", "samples"]] * (1 + masked)
    assert [node.name for node in session.get_outputs()] == ["logits", "pooling_weights"]
    # The exporter would note the source of each node.
    assert b".py" not in (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (4, 16), *SHAPES], ids=str)
def test_exported_logits(exported, shape):
    checkpoint, folder = exported
    model, feature_extractor = load_classifier(checkpoint)
    clips, mask = make_batch(*shape, mask_dtype=torch.int32)
    features = {"input_values": clips}
    if not hears_padding(feature_extractor):
        features["attention_mask"] = mask
    with torch.no_grad():
        expected = model(**features).logits
    np.testing.assert_allclose(run_onnx(load_onnx(folder / "model.onnx"), features), expected, atol=1e-5, rtol=0)


def test_the_mask_of_a_batch_without_one(exported):
    """A batch without padding may come without a mask."""
    checkpoint, folder = exported
    model, _ = load_classifier(checkpoint)
    clips, _ = make_batch(2, 1601)
    with torch.no_grad():
        expected = model(clips).logits
    logits = run_onnx(load_onnx(folder / "model.onnx"), {"input_values": clips, "labels": torch.zeros(2)})
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("num_channels", "length"), [(1, 3000), (2, 20001), (1, 16000), (1, 1)])
def test_example_gives_the_scores_of_predict(exported, tmp_path, num_channels, length):
    """In windows, where the recording is longer than the model takes."""
    checkpoint, folder = exported
    path = write_wav(tmp_path / "clip.wav", num_channels, length)
    (expected,) = predict(*load_classifier(checkpoint), [path])
    lines = run_example(folder, path).stdout.splitlines()
    assert len(lines) == 3
    score, label = lines[0].split()
    assert label == expected.label and float(score) == pytest.approx(expected.score, abs=1e-4)
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(1, abs=1e-3)


def test_example_with_several_classes_a_clip(exported, tmp_path):
    checkpoint, folder = exported
    model = onnx.load(folder / "model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "problem_type"]
    entry.value = '"multi_label_classification"'
    onnx.save(model, tmp_path / "several.onnx")
    path = write_wav(tmp_path / "clip.wav")
    classifier, feature_extractor = load_classifier(checkpoint)
    classifier.config.problem_type = "multi_label_classification"
    (expected,) = predict(classifier, feature_extractor, [path])
    score, label = run_example(folder, path, tmp_path / "several.onnx").stdout.splitlines()[0].split()
    assert label == expected.label and float(score) == pytest.approx(expected.score, abs=1e-4)


def test_example_refuses_another_sampling_rate(exported, tmp_path):
    path = write_wav(tmp_path / "clip.wav", sampling_rate=8000)
    assert f"{path}: convert it to 16-bit PCM at 16000 Hz" in run_example(exported[1], path, expect=1).stderr


def test_example_is_short_and_needs_numpy_and_onnxruntime_alone():
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) <= 30
    imports = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imports - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_int8(exported, tmp_path):
    """Weights in 8 bits, but for the first convolution and shortcut; close to the model; the same metadata."""
    checkpoint, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    model, feature_extractor = load_classifier(checkpoint)
    rng = np.random.default_rng(0)
    batches = [extract_features(feature_extractor, [0.1 * rng.standard_normal(4000)]) for _ in range(8)]
    quantize_onnx(folder, batches)
    assert {path.name for path in folder.iterdir()} == {path.name for path in exported[1].iterdir()} | {
        "model_int8.onnx"
    }
    session = load_onnx(folder / "model_int8.onnx")
    assert (
        session.get_modelmeta().custom_metadata_map
        == load_onnx(folder / "model.onnx").get_modelmeta().custom_metadata_map
    )
    with torch.no_grad():
        expected = torch.cat([model(**batch).logits for batch in batches]).numpy()
    logits = np.concatenate([run_onnx(session, batch) for batch in batches])
    assert 0 < abs(logits - expected).max() < 0.1 * np.ptp(expected)
    graph = onnx.load(folder / "model_int8.onnx").graph
    weights = {initializer.name: initializer.data_type for initializer in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {"float": [], "int8": []}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            maker = makers.get(node.input[1])
            is_int8 = maker is not None and weights.get(maker.input[0]) == onnx.TensorProto.INT8
            kinds["int8" if is_int8 else "float"].append(node.op_type)
    # In float: the first convolution and its shortcut, two products of attention and two of the pooling.
    assert sorted(kinds["float"]) == ["Conv"] + 5 * ["MatMul"]
    assert kinds["int8"].count("Conv") == 5 and kinds["int8"].count("Gemm") >= 6
    assert run_example(folder, write_wav(tmp_path / "clip.wav"), folder / "model_int8.onnx").stdout


def test_int8_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"model\.onnx: there is no such file\. Export the model first"):
        quantize_onnx(tmp_path, [])


def test_without_onnx(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r'ONNX needs onnxscript: pip install "sanet-hf\[onnx\]"'):
        export_onnx(tiny_model, SANetFeatureExtractor(max_length=8000), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("masked", [True, False])
def test_exported_program_file(tiny_model, tmp_path, masked):
    feature_extractor = SANetFeatureExtractor(max_length=8000, return_attention_mask=masked)
    assert export_program(tiny_model, feature_extractor, tmp_path / "out") < 1e-5
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.pt2", "preprocessor_config.json"]
    with zipfile.ZipFile(tmp_path / "out/model.pt2") as archive:
        # The exporter would note the source of each node.
        assert not any(b"modeling_sanet.py" in archive.read(name) for name in archive.namelist())
    files = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "out/model.pt2", extra_files=files).module()
    metadata = json.loads(files["metadata.json"])
    assert metadata["sampling_rate"] == 16000 and metadata["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert metadata["min_length"] == 17
    names = ("input_values", "attention_mask")[: 1 + masked]
    with torch.no_grad():
        for shape in SHAPES:
            features = dict(zip(names, make_batch(*shape, mask_dtype=torch.int32)))
            torch.testing.assert_close(program(**features).logits, tiny_model(**features).logits, atol=1e-5, rtol=0)


def test_a_file_that_differs_is_not_written(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "run_onnx", lambda *arguments: run_onnx(*arguments) + 2e-4)
    with pytest.raises(ValueError, match=r"differs from PyTorch's by 2\.0e-04 in a logit, more than 0\.0001"):
        export_onnx(tiny_model, SANetFeatureExtractor(max_length=8000), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_comparison(tiny_model):
    """Of short, long and padded clips in batches of different sizes."""
    feature_extractor = SANetFeatureExtractor(max_length=8000)
    shapes, lengths = [], set()

    def run(features, error=0.0):
        shapes.append(tuple(features["input_values"].shape))
        lengths.update(features["attention_mask"].sum(1).tolist())
        logits = tiny_model(**features).logits
        logits[-1, 1] += error * len(shapes)
        return logits

    assert export._compare(tiny_model, feature_extractor, run, 1) == 0
    assert {1, 8000} <= lengths and len(lengths) > 12
    assert {size for size, _ in shapes} == {1, 2, 3, 4} and len({length for _, length in shapes}) == len(shapes)
    shapes.clear()
    largest = export._compare(tiny_model, feature_extractor, partial(run, error=1e-5), 1)
    assert largest == pytest.approx(8e-5, rel=0.05)
    for error in (2e-4, float("nan")):
        with pytest.raises(ValueError, match=f"by {error:.1e} in a logit, more than 0.0001, on clips of 1 samples"):
            shapes.clear()
            export._compare(tiny_model, feature_extractor, partial(run, error=error), 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_is_unfinished_goes_and_what_was_there_stays(tmp_path, error):
    for folder in (tmp_path / "new", tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(error), staged(folder) as unfinished:
            (unfinished / "model.onnx").write_text("half")
            raise error
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with staged(tmp_path / "new") as unfinished, staged(unfinished) as inner:
        (inner / "model.onnx").write_text("whole")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_an_architecture_that_cannot_be_exported(make_model, tmp_path, monkeypatch):
    """The model is left as it is: number format and training mode are the caller's."""

    def fail(model, **options):
        assert model.dtype == torch.float32 and not model.training
        raise RuntimeError("\n  no such operator\nmore")

    monkeypatch.setattr(torch.onnx, "export", fail)
    model = make_model().bfloat16().train()
    with pytest.raises(ValueError, match=r"torch\.onnx cannot export a model of type 'sanet': no such operator$"):
        export_onnx(model, SANetFeatureExtractor(max_length=8000), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert model.dtype == torch.bfloat16 and model.training
