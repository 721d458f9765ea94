# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet export`: files, output and errors, also for other architectures."""

import json
import logging
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from sanet_hf.architectures import extract_features
from sanet_hf.cli.main import main
from sanet_hf.export import export_onnx, export_program, load_onnx, quantize_onnx, run_onnx
from sanet_hf.export.command import macro_f1, predicted_classes
from sanet_hf.training.evaluation.metrics import compute_metrics

from .tiny_models import save_checkpoint


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


# As in an installation with only the dependencies of inference.
WITHOUT_TRAINING = """
import sys
for name in ("sanet_hf.training", "training", "datasets", "evaluate", "sklearn", "scipy", "matplotlib"):
    sys.modules[name] = None
from sanet_hf.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return the folder that `sanet export --quantize int8` wrote for a trained model, and the finished process."""
    output_dir = tmp_path_factory.mktemp("exports") / "exported"
    command = [sys.executable, "-c", WITHOUT_TRAINING, "export", trained, output_dir, "--quantize", "int8"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output_dir, result


def test_export_writes_and_measures_both_models(exported, trained):
    output_dir, result = exported
    assert sorted(path.name for path in output_dir.iterdir()) == [
        "classify.py",
        "config.json",
        "model.onnx",
        "model_int8.onnx",
        "preprocessor_config.json",
    ]
    first, _, header, *rows, metrics, ranges, _, last = result.stdout.splitlines()
    assert re.fullmatch(r"model\.onnx: 0\.\d MB, largest difference of a logit from PyTorch \d\.\de-0[5-9]", first)
    assert header.split()[:7] == ["size", "accuracy", "macro", "F1", "agreement", "1", "s,"]
    assert [row.split()[0] for row in rows] == ["model.onnx", "model_int8.onnx"]
    # High and low tones are easy to separate.
    assert [row.split()[3:6] for row in rows] == [["1.000", "1.000", "1.000"]] * 2
    assert all(float(row.split()[6]) > 0 for row in rows)
    assert metrics == f"Metrics on 8 recordings from {trained / 'predictions' / 'test.csv'}."
    error = re.fullmatch(r"Calibrated on 8 clips, on which the int8 logits differ by (\d+\.\d)%\.", ranges)
    assert 0 < float(error[1]) < 20
    assert last == f"The files are in {output_dir}."
    assert "measured on only 8 clips" in result.stderr and "predicts other classes" not in result.stderr
    # Warnings of the exporters address developers, so users do not see them.
    assert "Warning" not in result.stderr and "onnxscript" not in result.stderr


def test_example_script_agrees_with_predict(exported, trained, tones, capsys):
    output_dir, _ = exported
    for clip in sorted((tones / "test").rglob("*_0.wav")):
        assert main(["predict", str(trained), str(clip)]) == 0
        score, label, _ = capsys.readouterr().out.splitlines()[1].split()
        for model, tolerance in (("model.onnx", 2e-4), ("model_int8.onnx", 0.1)):
            command = [sys.executable, output_dir / "classify.py", clip, output_dir / model]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            best = result.stdout.splitlines()[0].split()
            assert best[1] == label and float(best[0]) == pytest.approx(float(score), abs=tolerance)


def test_calibration_on_another_folder(exported, trained, tones, tmp_path, monkeypatch, capsys, caplog):
    """Without splits, all readable recordings are used for calibration and metrics."""
    folder = tmp_path / "recordings"
    shutil.copytree(tones / "test", folder)
    for index in range(25):
        shutil.copy(folder / "low/low_test_0.wav", folder / f"low/{index}.wav")
    (folder / "high/damaged.wav").write_text("this is no audio")
    # Copy an earlier export, because only the recordings are tested here.
    used = []

    def fake_export(model, feature_extractor, output_dir):
        shutil.copytree(exported[0], output_dir, dirs_exist_ok=True)
        return 1e-6

    monkeypatch.setattr("sanet_hf.export.command.export_onnx", fake_export)
    monkeypatch.setattr("sanet_hf.export.command.quantize_onnx", lambda folder, batches: used.extend(batches) or 0.01)
    command = ["export", str(trained), str(tmp_path / "out"), "--quantize", "int8", "--calibration_dir", str(folder)]
    with caplog.at_level(logging.WARNING):
        assert main(command) == 0
    output = capsys.readouterr().out
    assert f"Metrics on 33 recordings from {folder}; 1 cannot be read." in output
    assert "if the model was trained on these recordings, which is not checked" in output
    assert "Calibrated on 33 clips, on which the int8 logits differ by 1.0%." in output
    assert len(used) == 33 and all(batch["input_values"].shape[0] == 1 for batch in used)
    assert "damaged.wav" in caplog.text and "on only" not in caplog.text


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_macro_f1_agrees_with_training(problem_type):
    """Some classes are never true, never predicted, or both."""
    several = problem_type.startswith("multi")
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(40, 6)).astype(np.float32)
    scores[:, 3] = scores[:, 5] = 0.01
    truth = rng.integers(0, 5, size=40)
    matrix = np.eye(6, dtype=bool)[truth] | (several & (rng.uniform(size=(40, 6)) < 0.2))
    matrix[:, 4:] &= False
    if not several:
        matrix[:, 0] |= ~matrix.any(axis=1)
        truth = matrix.argmax(axis=1)
    expected = compute_metrics(scores, matrix.astype(int) if several else truth)
    predicted = predicted_classes(scores, several)
    assert macro_f1(predicted, matrix, several) == pytest.approx(expected["macro_f1"])
    assert (predicted == matrix).all(axis=1).mean() == pytest.approx(expected["accuracy"])


def test_torch_export(trained, tmp_path, capsys):
    assert main(["export", str(trained), str(tmp_path / "out"), "--format", "torch_export"]) == 0
    output = capsys.readouterr().out
    assert re.match(r"model\.pt2: \d\.\d MB, largest difference of a logit from PyTorch \d\.\de[+-]\d\d\n", output)
    assert "Clips of less than 257 samples must be padded" in output
    files = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "out/model.pt2", extra_files=files).module()
    assert json.loads(files["metadata.json"])["labels"] == ["high", "low"]
    features = {"input_values": torch.zeros(3, 500), "attention_mask": torch.ones(3, 500, dtype=torch.int32)}
    assert program(**features).logits.shape == (3, 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "OUT"], "nowhere: model not found, neither as a folder nor on the Hub"),
        (["MODEL", "MODEL"], "is not empty. Choose a new folder"),
        (["MODEL", "OUT", "--format", "torch_export", "--quantize", "int8"], "--quantize int8 needs --format onnx"),
        (["MODEL", "OUT", "--calibration_dir", "TONES"], "--calibration_dir needs --quantize int8"),
        (["MODEL", "OUT", "--quantize", "int8", "--calibration_dir", "nowhere"], "nowhere: folder not found"),
        (
            ["MODEL", "OUT", "--quantize", "int8", "--calibration_dir", "OTHER"],
            "does not have these classes of the recordings: bass, treble",
        ),
        (["MODEL", "OUT", "--quantize", "int8", "--calibration_dir", "PART"], "The recordings have no test split"),
        (
            ["BARE", "OUT", "--quantize", "int8"],
            "does not list its training recordings. Give recordings with --calibration_dir",
        ),
        (["MODEL", "OUT", "--quantize", "int8", "--split", "all"], "The recordings have no all split"),
        (["MOVED", "OUT", "--quantize", "int8"], "1 of 8 recordings in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_export_with_a_mistake(trained, tones, make_tone, tmp_path, capsys, argv, message):
    for label in ("bass", "treble"):
        for index in range(5):
            make_tone(tmp_path / "other" / label / f"{index}.wav", 440 + index)
    shutil.copytree(tones / "validation", tmp_path / "part/validation")
    save_checkpoint(tmp_path / "bare", "sanet")
    moved = shutil.copytree(trained, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoint-*"))
    predictions = (moved / "predictions/test.csv").read_text()
    (moved / "predictions/test.csv").write_text(predictions.replace("high_test_0.wav", "lost.wav"))
    replacements = {
        "MODEL": trained,
        "OUT": tmp_path / "out",
        "TONES": tones,
        "OTHER": tmp_path / "other",
        "PART": tmp_path / "part",
        "BARE": tmp_path / "bare",
        "MOVED": moved,
    }
    assert main(["export", *(str(replacements.get(argument, argument)) for argument in argv)]) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_export_without_onnx(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sanet_hf.utils.extras.find_spec", lambda name: None if name == "onnx" else name)
    assert main(["export", str(trained), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == 'sanet: error: onnx is not installed. Run: pip install "sanet-hf[onnx]"\n'


# Other architectures


@pytest.mark.parametrize("model_type", ["wav2vec2", "masked hubert", "ast", "whisper"])
def test_onnx_of_other_architectures(tmp_path, model_type):
    """The ONNX models agree with PyTorch in float32 and int8. The batch size is free. There is no example script."""
    options = {"return_attention_mask": True} if model_type.startswith("masked") else {}
    model, feature_extractor = save_checkpoint(
        tmp_path / "model", model_type.split()[-1], extractor_options=options, initializer_range=0.2
    )
    assert 0 < export_onnx(model, feature_extractor, tmp_path / "out") < 1e-4
    assert not (tmp_path / "out/classify.py").exists()
    rng = np.random.default_rng(0)
    # Without a mask, all clips have the same length.
    lengths = (7000, 7000) if model_type == "wav2vec2" else (9999, 4000, 4321)
    clips = [0.1 * rng.standard_normal(length, dtype=np.float32) for length in lengths]
    features = extract_features(feature_extractor, clips)
    session = load_onnx(tmp_path / "out/model.onnx")
    assert [node.name for node in session.get_inputs()] == list(features)
    assert [node.name for node in session.get_outputs()] == ["logits"]
    assert all(node.shape[0] == "batch" for node in session.get_inputs())
    if model_type in ("ast", "whisper"):
        assert session.get_inputs()[0].shape[1:] == list(features[feature_extractor.model_input_names[0]].shape[1:])
    with torch.no_grad():
        expected = model(**features).logits.numpy()
    np.testing.assert_allclose(run_onnx(session, features), expected, atol=1e-4, rtol=0)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ["x", "y", "z"] and metadata["sampling_rate"] == "16000"
    assert metadata["min_length"] == "4000"
    error = quantize_onnx(tmp_path / "out", [features])
    logits = run_onnx(load_onnx(tmp_path / "out/model_int8.onnx"), features)
    assert 0 < abs(logits - expected).max() < 0.25 * np.abs(expected).max()
    assert error == pytest.approx(np.linalg.norm(logits - expected) / np.linalg.norm(expected), rel=0.01)


@pytest.mark.parametrize("model_type", ["wav2vec2", "ast"])
def test_torch_export_of_other_architectures(tmp_path, model_type):
    model, feature_extractor = save_checkpoint(tmp_path / "model", model_type)
    assert export_program(model, feature_extractor, tmp_path / "out") < 1e-4
