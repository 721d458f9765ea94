# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Exported files: their contents, outputs equal to those of the model, and no file with wrong outputs."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoFeatureExtractor

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.architectures import expects_fixed_length, extract_features
from sanet_hf.errors import DataError, ExportError, UsageError
from sanet_hf.export import (
    command,
    export_onnx,
    export_program,
    exporters,
    load_onnx,
    quantize,
    quantize_onnx,
    run_onnx,
)
from sanet_hf.inference import calibration_clips
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.prediction import predict
from sanet_hf.utils import extras
from sanet_hf.utils.files import atomic_directory

from .padded_batches import SHAPES, assert_same_frames, make_batch


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=["masked", "expects_fixed_length"])
def exported(request, make_model, tmp_path_factory):
    """Return a checkpoint of three named classes and the folder with its export."""
    id2label = {0: "cat", 1: "dog", 2: "öwl"}
    model = make_model(id2label=id2label, label2id={label: index for index, label in id2label.items()})
    model.config.background_label = "noise"
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
        # The folder contains no code of the model, so `auto_map` is missing.
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
    assert metadata["background_label"] == "noise"
    assert metadata["sampling_rate"] == 16000 and metadata["max_length"] == 8000 and metadata["min_length"] == 1
    assert metadata["do_normalize"] is True and metadata["target_rms"] == 0.1
    assert metadata["return_attention_mask"] is masked
    assert [node.shape for node in session.get_inputs()] == [["batch", "samples"]] * (1 + masked)
    assert [node.name for node in session.get_outputs()] == ["logits", "pooling_weights"]
    # The exporter would store source paths in each node.
    assert b".py" not in (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (4, 16), *SHAPES], ids=str)
def test_exported_logits(exported, shape):
    checkpoint, folder = exported
    model, feature_extractor = load_classifier(checkpoint)
    clips, mask = make_batch(*shape, mask_dtype=torch.int32)
    features = {"input_values": clips}
    if not expects_fixed_length(feature_extractor):
        features["attention_mask"] = mask
    with torch.no_grad():
        expected = model(**features)
    session = load_onnx(folder / "model.onnx")
    np.testing.assert_allclose(run_onnx(session, features), expected.logits, atol=1e-5, rtol=0)
    (weights,) = session.run(["pooling_weights"], {name: value.numpy() for name, value in features.items()})
    assert_same_frames(torch.from_numpy(weights), expected.pooling_weights, atol=1e-4)


def test_batch_without_mask_gets_a_full_mask(exported):
    """`run_onnx` adds a full mask to a batch without one, and ignores labels."""
    checkpoint, folder = exported
    model, _ = load_classifier(checkpoint)
    clips, _ = make_batch(2, 1601)
    with torch.no_grad():
        expected = model(clips).logits
    logits = run_onnx(load_onnx(folder / "model.onnx"), {"input_values": clips, "labels": torch.zeros(2)})
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("num_channels", "length"), [(1, 3000), (2, 20001), (1, 16000), (1, 1)])
def test_example_gives_the_scores_of_predict(exported, tmp_path, num_channels, length):
    """Recordings longer than the model's maximum are cut into windows."""
    checkpoint, folder = exported
    path = write_wav(tmp_path / "clip.wav", num_channels, length)
    (expected,) = predict(*load_classifier(checkpoint), [path])
    lines = run_example(folder, path).stdout.splitlines()
    assert len(lines) == 3
    score, label = lines[0].split()
    assert label == expected.label and float(score) == pytest.approx(expected.score, abs=1e-4)
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(1, abs=1e-3)


def test_example_with_several_classes_per_clip(exported, tmp_path):
    checkpoint, folder = exported
    model = onnx.load(folder / "model.onnx")
    thresholds = [0.4, 0.9, 0.4]
    values = {"problem_type": '"multi_label_classification"', "thresholds": json.dumps(thresholds)}
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | values)
    onnx.save(model, tmp_path / "several.onnx")
    path = write_wav(tmp_path / "clip.wav")
    classifier, feature_extractor = load_classifier(checkpoint)
    classifier.config.problem_type = "multi_label_classification"
    (expected,) = predict(classifier, feature_extractor, [path])
    for options, limits in (((), thresholds), (("--min_score", "0"), [0, 0, 0])):
        lines = [
            line.split() for line in run_example(folder, path, tmp_path / "several.onnx", *options).stdout.splitlines()
        ]
        assert {label: float(score) for score, label, *_ in lines} == pytest.approx(
            dict(zip(expected.labels, expected.scores.tolist())), abs=1e-4
        )
        is_predicted = dict(zip(expected.labels, expected.scores >= limits))
        assert {label: mark == ["*"] for _, label, *mark in lines} == is_predicted
    assert not all(expected.scores >= thresholds)
    assert run_example(folder, path, "--min_score", "1").stdout.splitlines()[0].endswith(" unknown")


def test_example_asks_for_denoised_clips(exported, tmp_path):
    path = write_wav(tmp_path / "clip.wav")
    assert "Denoise" not in run_example(exported[1], path).stderr
    model = onnx.load(exported[1] / "model.onnx")
    props = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, props | {"denoised_training": "true", "background_label": '"cat"'})
    onnx.save(model, tmp_path / "denoised.onnx")
    result = run_example(exported[1], path, tmp_path / "denoised.onnx")
    assert "Denoise clips with noisereduce first" in result.stderr
    # The background class is marked.
    assert re.findall(r"(\w+) \(no detection\)", result.stdout) == ["cat"]


def test_example_refuses_another_sampling_rate(exported, tmp_path):
    path = write_wav(tmp_path / "clip.wav", sampling_rate=8000)
    assert f"{path}: convert the file to 16-bit PCM at 16000 Hz" in run_example(exported[1], path, expect=1).stderr
    path.write_bytes(b"OggS, not a WAV file")
    assert f"{path}: not a readable WAV file" in run_example(exported[1], path, expect=1).stderr


def test_example_skips_silent_windows_like_predict(exported, tmp_path):
    path = write_wav(tmp_path / "clip.wav", length=30000)
    clip, _ = soundfile.read(path)
    clip[8000:16000] = 0  # one window
    soundfile.write(path, clip, 16000, subtype="PCM_16")
    (prediction,) = predict(*load_classifier(exported[0]), [path])
    lines = [line.split() for line in run_example(exported[1], path).stdout.splitlines()]
    expected = dict(zip(prediction.labels, prediction.scores.tolist()))
    assert {label: float(score) for score, label in lines} == pytest.approx(expected, abs=2e-4)
    soundfile.write(path, 0 * clip, 16000, subtype="PCM_16")
    assert "silent, no class" in run_example(exported[1], path, expect=1).stderr


def test_example_is_short_and_needs_only_numpy_and_onnxruntime():
    source = exporters.CLASSIFY_SCRIPT.read_text()
    assert len(source.splitlines()) <= 50
    imports = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imports - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_int8(exported, tmp_path):
    """
    The int8 file has the same metadata and logits close to the model's. Weights are int8, except in the first
    convolution and its shortcut.
    """
    checkpoint, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    model, feature_extractor = load_classifier(checkpoint)
    rng = np.random.default_rng(0)
    batches = [extract_features(feature_extractor, [0.1 * rng.standard_normal(4000)]) for _ in range(8)]
    error = quantize_onnx(folder, batches)
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
    assert error == pytest.approx(np.linalg.norm(logits - expected) / np.linalg.norm(expected), rel=1e-3)
    graph = onnx.load(folder / "model_int8.onnx").graph
    weights = {initializer.name: initializer.data_type for initializer in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {"float": [], "int8": []}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            maker = makers.get(node.input[1])
            is_int8 = maker is not None and weights.get(maker.input[0]) == onnx.TensorProto.INT8
            kinds["int8" if is_int8 else "float"].append(node.op_type)
    # Float: the first convolution and its shortcut, and the products in the attention and pooling.
    assert sorted(kinds["float"]) == ["Conv"] + 5 * ["MatMul"]
    assert kinds["int8"].count("Conv") == 5 and kinds["int8"].count("Gemm") >= 6
    assert run_example(folder, write_wav(tmp_path / "clip.wav"), folder / "model_int8.onnx").stdout


def test_int8_on_a_spectrogram(tmp_path):
    """The power spectrum stays in float32. In int8, quiet bands next to loud ones would be zero."""
    sizes = {"spectrogram_dim": [8, 16], "spectrogram_pool": [[1, 2], [2, 2]], "num_mel_bins": 16}
    sizes |= {"spectrogram_window": 256, "spectrogram_stride": 64, "spectrogram_sampling_rate": 16000}
    sizes |= {"conv_dim": [], "conv_kernel": [], "conv_stride": [], "attention_after": [], "attention_dim": []}
    torch.manual_seed(0)
    model = SANetForAudioClassification(SANetConfig(**sizes, num_labels=3, initializer_range=0.3)).eval()
    feature_extractor = SANetFeatureExtractor(max_length=8000)
    export_onnx(model, feature_extractor, tmp_path / "out")
    times, rng = np.arange(8000) / 16000, np.random.default_rng(0)
    clips = [np.sin(2000 * 2**n * times) + 1e-3 * rng.standard_normal(8000) for n in range(6)]
    batches = [extract_features(feature_extractor, [clip.astype(np.float32)]) for clip in clips]
    error = quantize_onnx(tmp_path / "out", batches)
    assert 0 < error < 0.1
    graph = onnx.load(tmp_path / "out/model_int8.onnx").graph
    assert any(name.endswith("filters") for node in graph.node if node.op_type == "MatMul" for name in node.input)
    int8 = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8}
    assert len([name for name in int8 if re.search(r"layers\.[12]\.conv[12]\.weight_quantized$", name)]) == 4


def test_int8_needs_an_exported_model(tmp_path):
    with pytest.raises(UsageError, match=r"model\.onnx: file not found\. Export the model first"):
        quantize_onnx(tmp_path, [])


def test_wrong_int8_is_not_written(exported, tmp_path, monkeypatch):
    """Nothing is written without clips, with an error above the limit, or with a NaN error."""
    checkpoint, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    files = sorted(folder.iterdir())
    _, feature_extractor = load_classifier(checkpoint)
    with pytest.raises(UsageError, match="There are no clips"):
        quantize_onnx(folder, [])
    batch = extract_features(feature_extractor, [0.1 * np.random.default_rng(0).standard_normal(4000)])
    for factor, message in (
        (-1, r"differ from the float32 logits by \d+%"),
        (np.nan, "differ from the float32 logits by nan%"),
    ):
        factors = iter((1, factor))  # for the logits of float32 and of int8
        monkeypatch.setattr(quantize, "run_onnx", lambda *arguments, f=factors: run_onnx(*arguments) * next(f))
        with pytest.raises(ExportError, match=message):
            quantize_onnx(folder, [batch])
        assert sorted(folder.iterdir()) == files


# Recordings for int8.


@pytest.fixture
def recordings(tmp_path):
    """Return split folders with recordings of three classes: 12 for training, 6 each for validation and test."""
    folder = tmp_path / "recordings"
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for number, label in enumerate(("cat", "dog", "öwl")):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                length = 3000 + 1000 * number + 20000 * index + len(split)
                write_wav(folder / split / label / f"{index}.wav", length=length)
    return folder


def find(model_name, folder, split, problem_type=None):
    labels = ("cat", "dog", "öwl")
    config = SANetConfig(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    config.problem_type = problem_type
    return quantize.find_recordings(model_name, config, folder, split)


def test_recordings_in_folders(recordings, tmp_path):
    calibration, measured, source = find("model", recordings, "test")
    assert source == recordings / "test"
    expected = {str(path): [path.parent.name] for path in source.rglob("*.wav")}
    assert measured == expected and len(expected) == 6
    assert set(calibration) == {str(path) for path in (recordings / "validation").rglob("*.wav")}
    for folder, split, count in ((recordings, "all", 24), (recordings / "train", "test", 12)):
        calibration, measured, source = find("model", folder, split)
        assert calibration == measured and len(measured) == count and source == folder
    (recordings / "validation").rename(recordings / "Dev")
    assert set(find("model", recordings, "test")[0]) == {str(path) for path in (recordings / "Dev").rglob("*.wav")}
    shutil.rmtree(recordings / "Dev")
    calibration, measured, _ = find("model", recordings, "train")
    assert calibration == measured and len(measured) == 12
    with pytest.raises(DataError, match=r"no validation split, only: train, test\. Choose another --split"):
        find("model", recordings, "validation")
    (recordings / "test/cat").rename(recordings / "test/lion")
    with pytest.raises(DataError, match="model does not have these classes of the recordings: lion"):
        find("model", recordings, "test")
    for folder, message in ((tmp_path / "nowhere", "folder not found"), (tmp_path / "empty", "no audio files")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=message):
            find("model", folder, "test")


def test_recordings_of_a_training_run(recordings, tmp_path):
    """The recordings come from the prediction tables that `sanet train` writes."""
    files = sorted(map(str, recordings.rglob("*.wav")))
    (tmp_path / "predictions").mkdir()
    for split in ("validation", "test"):
        rows = [f"{file},{Path(file).parent.name},cat,0.5" for file in files if f"/{split}/" in file]
        table = "\n".join(["file,label,prediction,probability_cat", *rows, ""])
        (tmp_path / "predictions" / f"{split}.csv").write_text(table, encoding="utf-8")
    calibration, measured, source = find(tmp_path, None, "test")
    assert (calibration, measured) == find(tmp_path, recordings, "test")[:2]
    assert source == tmp_path / "predictions/test.csv"
    source.write_text(f"file,label,prediction\n{files[0]},cat;öwl,\n{files[1]},,dog\n", encoding="utf-8")
    several = "multi_label_classification"
    assert find(tmp_path, None, "test", several)[1] == {files[0]: ["cat", "öwl"], files[1]: []}
    with pytest.raises(DataError, match="does not have these classes of the recordings: , cat;öwl"):
        find(tmp_path, None, "test")
    Path(files[1]).unlink()
    with pytest.raises(DataError, match=r"1 of 2 recordings in .*test\.csv are not found.*--calibration_dir"):
        find(tmp_path, None, "test", several)
    with pytest.raises(
        UsageError, match=r"nobody/model does not list its training recordings. Give recordings with --calibration_dir"
    ):
        find("nobody/model", None, "test")


def test_calibration_clips(recordings, make_model, monkeypatch, caplog):
    """Clips are windows of at most the model's length, from all recordings. Damaged files are skipped."""
    model, feature_extractor = make_model(), SANetFeatureExtractor(max_length=8000)
    (recordings / "test/cat/damaged.wav").write_text("this is no audio")
    _, files, _ = find("model", recordings / "test", "all")
    clips = calibration_clips.load_calibration_clips(files, model, feature_extractor)
    # 3004, 4004 and 5004 samples give one window each, 23004 three, 24004 and 25004 four each.
    assert sorted(map(len, clips)) == [3004, 4004, 5004, *[8000] * (3 + 4 + 4)]
    expected = {file: soundfile.read(file, dtype="float32")[0] for file in files if "damaged" not in file}
    assert sum(np.array_equal(clip, waveform[:8000]) for clip in clips for waveform in expected.values()) == 6
    assert "damaged.wav" in caplog.text and "measured on only 14 clips" in caplog.text
    monkeypatch.setattr(calibration_clips, "MAX_CALIBRATION_CLIPS", 5)
    assert len(calibration_clips.load_calibration_clips(files, model, feature_extractor)) == 5
    with pytest.raises(DataError, match="No calibration recording can be read"):
        bad = {str(recordings / "test/cat/damaged.wav"): ["cat"]}
        calibration_clips.load_calibration_clips(bad, model, feature_extractor)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_comparison_of_int8(exported, recordings, tmp_path, caplog, problem_type):
    """The metrics equal those of `predict`. A warning says that int8 predicts other classes."""
    checkpoint, folder = exported
    folder = shutil.copytree(folder, tmp_path / "copy")
    wrong = onnx.load(folder / "model.onnx")
    # Use a file with negated logits as the int8 file.
    for node in wrong.graph.node:
        for index, name in enumerate(node.output):
            if name == "logits":
                node.output[index] = "other"
    wrong.graph.node.append(onnx.helper.make_node("Neg", ["other"], ["logits"]))
    onnx.save(wrong, folder / "model_int8.onnx")
    model, feature_extractor = load_classifier(checkpoint)
    model.config.problem_type = problem_type
    (recordings / "train/cat/damaged.wav").write_text("this is no audio")
    _, files, _ = find("model", recordings, "all")
    if problem_type:
        files = {file: ["cat", "dog"] if "dog" in labels else labels for file, labels in files.items()}
    table, count = command.compare_files(folder, model, feature_extractor, files, batch_size=3)
    assert count == 24
    header, *rows = (line.split() for line in table.splitlines())
    assert header[:5] == ["size", "accuracy", "macro", "F1", "agreement"]
    assert [row[0] for row in rows] == ["model.onnx", "model_int8.onnx"]
    for row in rows:
        predictions = [found for found in predict(model, feature_extractor, list(files)) if found.error is None]
        chosen = [found.scores >= (0.5 if problem_type else found.scores.max()) for found in predictions]
        names = [{found.labels[index] for index in np.flatnonzero(best)} for found, best in zip(predictions, chosen)]
        right = [best == set(files[found.path]) for found, best in zip(predictions, names)]
        assert len(right) == 24 and float(row[3]) == pytest.approx(np.mean(right), abs=6e-4)
        *_, last = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.neg_()
    assert [float(row[5]) for row in rows] == [1, 0]
    assert "model_int8.onnx predicts other classes than model.onnx for 100.0% of the recordings" in caplog.text


def test_missing_onnx_package_is_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxscript" else name)
    for export in (
        lambda: export_onnx(tiny_model, SANetFeatureExtractor(max_length=8000), tmp_path / "out"),
        lambda: quantize_onnx(tmp_path / "out", []),
    ):
        with pytest.raises(extras.MissingPackageError, match=r'onnxscript is not installed.*"sanet-hf\[onnx\]"'):
            export()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("masked", [True, False])
def test_exported_program_file(tiny_model, tmp_path, masked):
    feature_extractor = SANetFeatureExtractor(max_length=8000, return_attention_mask=masked)
    assert export_program(tiny_model, feature_extractor, tmp_path / "out") < 1e-5
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.pt2", "preprocessor_config.json"]
    with zipfile.ZipFile(tmp_path / "out/model.pt2") as archive:
        # The exporter would store source paths in each node.
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
            output, expected = program(**features), tiny_model(**features)
            torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)
            assert_same_frames(output.pooling_weights, expected.pooling_weights)


def test_export_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    checkpoint, folder = exported
    # Use the file of the earlier export instead of exporting again.
    model = SimpleNamespace(graph=SimpleNamespace(all_nodes=list), metadata_props={})
    program = SimpleNamespace(model=model, save=lambda path: shutil.copy(folder / "model.onnx", path))
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: program)
    assert export_onnx(*load_classifier(checkpoint), tmp_path / "same") < 1e-5
    monkeypatch.setattr(exporters, "run_onnx", lambda *arguments: run_onnx(*arguments) + 2e-4)
    with pytest.raises(ExportError, match=r"differs from PyTorch by 2\.0e-04, more than 0\.0001"):
        export_onnx(*load_classifier(checkpoint), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_comparison(tiny_model):
    """The comparison uses short, long and padded clips, in batches of different sizes."""
    feature_extractor = SANetFeatureExtractor(max_length=8000)
    shapes, lengths = [], set()

    def run(features, error=0.0):
        shapes.append(tuple(features["input_values"].shape))
        lengths.update(features["attention_mask"].sum(1).tolist())
        logits = tiny_model(**features).logits
        logits[-1, 1] += error * len(shapes)
        return logits

    assert exporters._compare(tiny_model, feature_extractor, run, 1) == 0
    assert {1, 8000} <= lengths and len(lengths) > 12
    assert {size for size, _ in shapes} == {1, 2, 3, 4} and len({length for _, length in shapes}) == len(shapes)
    shapes.clear()
    largest = exporters._compare(tiny_model, feature_extractor, partial(run, error=1e-5), 1)
    assert largest == pytest.approx(8e-5, rel=0.05)
    for error in (2e-4, float("nan")):
        with pytest.raises(ExportError, match=f"by {error:.1e}, more than 0.0001, on clips of 1 samples"):
            shapes.clear()
            exporters._compare(tiny_model, feature_extractor, partial(run, error=error), 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_export_leaves_the_folder_as_it_was(tmp_path, error):
    for folder in (tmp_path / "new", tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(error), atomic_directory(folder) as unfinished:
            (unfinished / "model.onnx").write_text("half")
            raise error
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with atomic_directory(tmp_path / "new") as unfinished, atomic_directory(unfinished) as inner:
        (inner / "model.onnx").write_text("whole")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_failed_export_does_not_change_the_model(make_model, tmp_path, monkeypatch):
    """The export uses float32 and evaluation mode. The model keeps its dtype and training mode."""

    def fail(model, **options):
        assert model.dtype == torch.float32 and not model.training
        raise RuntimeError("\n  no such operator\nmore")

    monkeypatch.setattr(torch.onnx, "export", fail)
    model = make_model().bfloat16().train()
    with pytest.raises(
        ExportError, match=r"torch\.onnx cannot export a model of type 'sanet' \(no such operator\)\. "
    ):
        export_onnx(model, SANetFeatureExtractor(max_length=8000), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert model.dtype == torch.bfloat16 and model.training


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_export_error_is_one_sentence(tiny_model, tmp_path, monkeypatch, export):
    """PyTorch's errors contain escape codes and advice. The message has only the reason of the first error."""

    def fail(*arguments, **options):
        try:
            raise TypeError("\x1b[96mCould not\x1b[0m guard on u0 > 1.\nCaused by: (sdpa_attention.py:159)")
        except TypeError as error:
            raise RuntimeError("Failed. \x1b[96mThis is step 1/3\x1b[0m of exporting. Next steps:\n- Debug") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportError) as info:
        export(tiny_model, SANetFeatureExtractor(max_length=8000), tmp_path / "out")
    name = "torch.onnx" if export is export_onnx else "torch.export"
    assert str(info.value) == (
        f"{name} cannot export a model of type 'sanet' (Could not guard on u0 > 1). Try the other --format, or use "
        "the checkpoint."
    )


def test_failure_on_other_lengths_is_an_error(tiny_model, tmp_path):
    """SEW, for example, merges frames in pairs, so its export fails on odd lengths."""

    def run(features):
        raise AssertionError("Guard failed: input_values.size()[1] % 2 == 0")

    message = r"The exported sanet model fails on clips of 17 samples: Guard failed: input_values.*Nothing was written"
    with pytest.raises(ExportError, match=message):
        exporters._compare(tiny_model, SANetFeatureExtractor(max_length=8000), run, 17)
