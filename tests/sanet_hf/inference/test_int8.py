# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""int8 classifiers from a folder: calibration files next to the weights or in the cache, and calibration on files."""

import json

import numpy as np
import pytest
import soundfile
import torch

from sanet_hf import SANetFeatureExtractor, load_classifier, predict
from sanet_hf.cli.main import main
from sanet_hf.errors import UsageError
from sanet_hf.inference import int8 as loading
from sanet_hf.optimization.int8 import CALIBRATION_FILE
from sanet_hf.optimization.int8_layers import has_int8_layers, is_quantized


pytestmark = pytest.mark.skipif(not has_int8_layers(), reason="needs PyTorch's int8 layers through oneDNN")


@pytest.fixture
def folder(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_cached_path", lambda weights: tmp_path / "cache" / weights / CALIBRATION_FILE)
    monkeypatch.setattr(loading, "FEW_CALIBRATION_CLIPS", 5)
    make_model().save_pretrained(tmp_path / "model")
    SANetFeatureExtractor(max_length=8000).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        path = tmp_path / "clips" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(6000 + 4000 * index), 16000)
    return path.parent


def test_calibration_is_saved_next_to_the_model(folder, clips, caplog):
    """The calibration uses the given recordings and is saved. The next call needs no recordings."""
    with pytest.raises(UsageError, match=rf"has no {CALIBRATION_FILE}.*sanet predict .* --dtype int8"):
        load_classifier(folder, dtype="int8")
    model, feature_extractor = load_classifier(folder, dtype="int8", calibration_inputs=[clips])
    assert is_quantized(model) and "on 5 windows of the given files" in caplog.text
    assert json.loads((folder / CALIBRATION_FILE).read_text())["num_clips"] == 5
    again, _ = load_classifier(folder, device="cpu", dtype="int8")
    paths = sorted(clips.iterdir())
    scores = [[p.scores for p in predict(one, feature_extractor, paths)] for one in (model, again)]
    np.testing.assert_array_equal(*scores)
    floats = [p.scores for p in predict(*load_classifier(folder), paths)]
    assert 0 < np.abs(np.subtract(scores[0], floats)).max() < 0.05


def test_ranges_of_few_clips_are_not_saved(folder, clips, monkeypatch, caplog):
    """Later files may be of other classes."""
    monkeypatch.setattr(loading, "FEW_CALIBRATION_CLIPS", 6)
    model, _ = load_classifier(folder, dtype="int8", calibration_inputs=[clips])
    assert is_quantized(model) and "The ranges are not saved" in caplog.text
    assert not (folder / CALIBRATION_FILE).exists()


def test_changed_model_does_not_use_old_ranges(folder, clips, make_model, caplog):
    load_classifier(folder, dtype="int8", calibration_inputs=[clips])
    model = make_model()
    torch.nn.init.normal_(model.classifier[0].weight)
    model.save_pretrained(folder)
    with pytest.raises(UsageError, match=f"has no {CALIBRATION_FILE}"):
        load_classifier(folder, dtype="int8")
    assert "have changed since it was measured" in caplog.text
    (folder / CALIBRATION_FILE).write_text("{")
    with pytest.raises(UsageError, match=f"has no {CALIBRATION_FILE}"):
        load_classifier(folder, dtype="int8")
    assert "Skipping " in caplog.text and "it is not a calibration" in caplog.text


def test_read_only_folder_uses_the_cache(folder, clips, monkeypatch):
    write = loading.write_atomically

    def refuse(path, *args):
        if path.parent == folder:
            raise PermissionError(path)
        return write(path, *args)

    monkeypatch.setattr(loading, "write_atomically", refuse)
    load_classifier(folder, dtype="int8", calibration_inputs=[clips])
    assert not (folder / CALIBRATION_FILE).exists()
    assert is_quantized(load_classifier(folder, dtype="int8")[0])


def test_int8_on_a_gpu_is_refused(folder):
    with pytest.raises(UsageError, match="int8 runs on the CPU, not on cuda"):
        load_classifier(folder, device="cuda", dtype="int8")


def test_commands_with_int8(folder, clips, tmp_path, capsys):
    assert main(["predict", str(folder), str(clips), "--dtype", "int8", "--output", str(tmp_path / "rows.csv")]) == 0
    assert (folder / CALIBRATION_FILE).is_file()
    assert main(["embed", str(folder), str(clips), "--dtype", "int8", "--output", str(tmp_path / "e.npz")]) == 0
    embeddings = np.load(tmp_path / "e.npz")["embedding"]
    assert embeddings.shape == (3, 32) and np.isfinite(embeddings).all()
    capsys.readouterr()
    explain = ["explain", str(folder), str(clips / "0.wav"), "--output", str(tmp_path / "e.json"), "--dtype", "int8"]
    assert main(explain) == 2
    assert "sanet explain does not support --dtype int8" in capsys.readouterr().err
