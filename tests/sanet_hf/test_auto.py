# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Auto classes, pipelines, and checkpoints that contain their code."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import sanet_hf


def run_python(code: str, *argv, cwd: Path, **environment: str) -> str:
    """Run code in a new process and return its standard output."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_no_unneeded_packages(tmp_path):
    code = """
import sys
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedModel
before = set(sys.modules)
import sanet_hf
print(*{name.split(".")[0] for name in set(sys.modules) - before})
print(*[name for name in sys.modules if name.startswith("sanet_hf.")])
"""
    loaded, own = map(str.split, run_python(code, cwd=tmp_path).splitlines())
    assert "sanet_hf" in loaded and "sanet_hf.modeling_sanet" in own
    # Only new modules count, because some versions of transformers themselves load pandas and scikit-learn.
    assert not {"datasets", "evaluate", "matplotlib", "pandas", "sklearn", "training"} & set(loaded)
    assert not [name for name in own if name.startswith("sanet_hf.training")]


def test_auto_classes(tiny_checkpoint):
    assert type(AutoConfig.from_pretrained(tiny_checkpoint)) is sanet_hf.SANetConfig
    assert type(AutoFeatureExtractor.from_pretrained(tiny_checkpoint)) is sanet_hf.SANetFeatureExtractor
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is sanet_hf.SANetModel
    model = AutoModelForAudioClassification.from_pretrained(tiny_checkpoint)
    assert type(model) is sanet_hf.SANetForAudioClassification
    assert type(AutoModelForAudioClassification.from_config(model.config)) is type(model)


def test_registration_replaces_a_sanet_of_transformers(monkeypatch):
    """Registering a name that transformers already has is an error without `exist_ok`."""
    monkeypatch.setitem(CONFIG_MAPPING._mapping, "sanet", "SANetConfig")
    importlib.reload(sanet_hf)
    assert CONFIG_MAPPING["sanet"] is sanet_hf.SANetConfig


@pytest.mark.parametrize("part", ["base", "head"])
def test_checkpoints_name_their_code(tiny_model, tmp_path, part):
    (tiny_model.sanet if part == "base" else tiny_model).save_pretrained(tmp_path / part)
    auto_map = {"AutoConfig": "configuration_sanet.SANetConfig", "AutoModel": "modeling_sanet.SANetModel"}
    if part == "head":
        auto_map["AutoModelForAudioClassification"] = "modeling_sanet.SANetForAudioClassification"
    assert json.loads((tmp_path / part / "config.json").read_text())["auto_map"] == auto_map


def test_feature_extractors_name_their_code(tiny_checkpoint):
    saved = json.loads((tiny_checkpoint / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_sanet.SANetFeatureExtractor"}
    assert (tiny_checkpoint / "feature_extraction_sanet.py").is_file()


def test_code_of_a_checkpoint_imports_only_its_own_files(tiny_checkpoint):
    """transformers copies and loads these files one by one. Only `from .module import name` works there."""
    imports = {
        line.strip()
        for path in tiny_checkpoint.glob("*.py")
        for line in path.read_text().splitlines()
        if line.lstrip().startswith(("from .", "from sanet_hf", "import sanet_hf", "from training", "import training"))
    }
    modules = [line.split()[1] for line in imports if re.fullmatch(r"from \.\w+ import .+", line)]
    assert len(modules) == len(imports)
    others = {".batchnorm_sanet", ".configuration_sanet", ".layers_sanet", ".pooling_sanet", ".spectrogram_sanet"}
    assert set(modules) == others
    assert all((tiny_checkpoint / f"{name[1:]}.py").is_file() for name in modules)


@pytest.fixture
def clip(tmp_path) -> tuple[str, np.ndarray]:
    """Return the path of a WAV file and its samples."""
    samples = (0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    return str(path), samples


def test_pipeline_knows_the_model(tiny_checkpoint, caplog, monkeypatch):
    classifier = pipeline("audio-classification", model=str(tiny_checkpoint))
    assert "not supported" not in caplog.text
    # The log of an unregistered model is captured, so the check above can fail.
    monkeypatch.delitem(AutoModelForAudioClassification._model_mapping._extra_content, sanet_hf.SANetConfig)
    type(classifier)(model=classifier.model, feature_extractor=classifier.feature_extractor)
    assert "'SANetForAudioClassification' is not supported" in caplog.text


def test_pipeline_accepts_every_form_of_a_clip(tiny_checkpoint, clip):
    path, samples = clip
    classifier = pipeline("audio-classification", model=str(tiny_checkpoint))
    expected = classifier(samples)
    assert {score["label"] for score in expected} == {"cat", "dog", "owl"}
    assert sum(score["score"] for score in expected) == pytest.approx(1)
    forms = [path, Path(path).read_bytes(), torch.from_numpy(samples), {"array": samples, "sampling_rate": 16000}]
    forms += [{"raw": samples, "sampling_rate": 16000}]
    for form in forms:
        for score, other in zip(expected, classifier(form)):
            assert (other["label"], other["score"]) == (score["label"], pytest.approx(score["score"], abs=1e-4))


def test_pipeline_resamples(tiny_checkpoint, clip):
    classifier = pipeline("audio-classification", model=str(tiny_checkpoint))
    at_8000 = resample(torch.from_numpy(clip[1]), 16000, 8000)
    expected = classifier(resample(at_8000, 8000, 16000).numpy())
    scores = classifier({"array": at_8000.numpy(), "sampling_rate": 8000})
    assert [score["score"] for score in scores] == pytest.approx([score["score"] for score in expected], abs=1e-5)


def test_pipeline_batches(tiny_checkpoint):
    classifier = pipeline("audio-classification", model=str(tiny_checkpoint))
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(length).astype(np.float32) for length in (500, 4000, 1, 9000, 2000)]
    alone = [classifier(clip)[0] for clip in clips]
    for one, (batched, *_) in zip(alone, classifier(clips, batch_size=3)):
        assert (batched["label"], batched["score"]) == (one["label"], pytest.approx(one["score"], abs=1e-5))


# Runs without access to the package: the checkpoint contains the code.
REMOTE_CODE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sanet_hf", "training"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Block())
import json
import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

folder, resaved = sys.argv[1:]
clip = np.load("clip.npy")
for path in (folder, resaved):
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    feature_extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=True)
    model = AutoModelForAudioClassification.from_pretrained(path, trust_remote_code=True)
    base_model = AutoModel.from_pretrained(path, trust_remote_code=True)
    classifier = pipeline("audio-classification", model=path, trust_remote_code=True)
    inputs = feature_extractor(clip, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        print(json.dumps({
            "classes": [type(thing).__name__ for thing in (config, feature_extractor, model, base_model)],
            "logits": model(**inputs).logits[0].tolist(),
            "embedding": base_model(**inputs).pooler_output[0].tolist(),
            "scores": classifier(clip),
        }))
    model.save_pretrained(resaved)
    feature_extractor.save_pretrained(resaved)
assert "sanet_hf" not in sys.modules
"""


def test_checkpoint_loads_without_the_package(tiny_checkpoint, clip, tmp_path):
    """A checkpoint that is saved again without the package loads as well."""
    np.save(tmp_path / "clip.npy", clip[1])
    output = run_python(
        REMOTE_CODE, tiny_checkpoint, tmp_path / "resaved", cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules")
    )
    results = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(results) == 2

    feature_extractor = AutoFeatureExtractor.from_pretrained(tiny_checkpoint)
    inputs = feature_extractor(clip[1], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForAudioClassification.from_pretrained(tiny_checkpoint)(**inputs).logits[0]
        embedding = AutoModel.from_pretrained(tiny_checkpoint)(**inputs).pooler_output[0]
    for result in results:
        names = ["SANetConfig", "SANetFeatureExtractor", "SANetForAudioClassification", "SANetModel"]
        assert result["classes"] == names
        assert result["logits"] == pytest.approx(logits.tolist(), abs=1e-5)
        assert result["embedding"] == pytest.approx(embedding.tolist(), abs=1e-5)
        assert {score["label"] for score in result["scores"]} == {"cat", "dog", "owl"}


def test_code_runs_only_with_trust_remote_code(tiny_checkpoint, tmp_path):
    code = REMOTE_CODE.split("folder, resaved")[0] + (
        "try:\n    AutoConfig.from_pretrained(sys.argv[1])\nexcept ValueError as error:\n    print(error)\n"
    )
    output = run_python(code, tiny_checkpoint, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert "trust_remote_code" in output
    assert not list((tmp_path / "modules").rglob("modeling_sanet.py"))
