# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet train`, `evaluate` and `predict` with every architecture, and with several labels per clip."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
import safetensors.torch
import soundfile
import torch
import yaml
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    HubertModel,
    Wav2Vec2Model,
    WhisperForConditionalGeneration,
    pipeline,
)

from sanet_hf.cli.main import main
from sanet_hf.training.checkpoints import load_renamed_weights

from .tiny_models import SIZES, overrides, save_checkpoint


# A dozen steps. They change the tiny networks enough to give clips different scores.
OPTIONS = ["--max_length_seconds", "1", "--precision", "fp32", "--num_train_epochs", "3", "--warmup_steps", "0"]
OPTIONS += ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
LEARNING_RATE = ["--learning_rate", "1e-2"]
# wav2vec2 with layer normalization uses a mask, so the scores of a clip do not depend on its batch.
MASKED = {"feat_extract_norm": "layer", "extractor_options": {"return_attention_mask": True}}
CHECKPOINTS = {
    "wav2vec2": ("wav2vec2.yaml", {"model_type": "wav2vec2", "model_class": Wav2Vec2Model, **MASKED}),
    "hubert": ("wav2vec2.yaml", {"model_type": "hubert", "model_class": HubertModel}),
    "ast": ("ast.yaml", {"model_type": "ast"}),
    "whisper": ("ast.yaml", {"model_type": "whisper", "model_class": WhisperForConditionalGeneration}),
}
SCRATCH = {"sanet": "sanet.yaml", "wav2vec2": "wav2vec2.yaml", "ast": "ast.yaml"}
RUNS = [*CHECKPOINTS, *(f"{name}_from_scratch" for name in SCRATCH)]


def model_options(name: str, folder: Path) -> list[str]:
    """Return the configuration file and options of a run. A local checkpoint replaces the one on the Hub."""
    if name in CHECKPOINTS:
        config, checkpoint = CHECKPOINTS[name]
        save_checkpoint(folder, **checkpoint)
        return [config, "--model_name_or_path", str(folder)]
    model_type = name.removesuffix("_from_scratch")
    options = ["--model_name_or_path", "", "--config_overrides", overrides(model_type)]
    return [SCRATCH[model_type], *options]


def cut(waveform: np.ndarray, split: str) -> list[np.ndarray]:
    """Return the middle second for training, otherwise all seconds. Pad each to at least a quarter of a second."""
    start = max(0, len(waveform) - 16000) // 2
    stop = start + 16000 if split == "train" else len(waveform)
    windows = [waveform[at : at + 16000] for at in range(start if split == "train" else 0, stop, 16000)]
    return [np.pad(window, (0, max(0, 4000 - len(window)))) for window in windows]


@torch.inference_mode()
def logits_of(folder: Path, files: Iterable[str], split: str) -> Iterator[torch.Tensor]:
    """Yield the logits of each file, window by window and with transformers only. Shape: (windows, classes)."""
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
    for file in files:
        waveform, rate = soundfile.read(file, dtype="float32")
        assert rate == 16000
        short = model.config.model_type == "sanet" and len(waveform) < 16000
        windows = [waveform] if short else cut(waveform, split)
        features = [feature_extractor(window, sampling_rate=rate, return_tensors="pt") for window in windows]
        yield torch.cat([model(**window).logits for window in features])


def read_csv(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def probabilities_of(row: dict) -> list[float]:
    return [float(value) for name, value in row.items() if name.startswith("probability_")]


@pytest.fixture(scope="module")
def clips(tones, tmp_path_factory) -> Path:
    """Return a folder with some of `tones`. Train and test also have a clip of 100 samples and one of 8 s."""
    folder = tmp_path_factory.mktemp("clips") / "data"
    for split, count in (("train", 5), ("validation", 2), ("test", 2)):
        for label in ("high", "low"):
            (folder / split / label).mkdir(parents=True)
            for path in sorted((tones / split / label).iterdir())[:count]:
                shutil.copy(path, folder / split / label)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        soundfile.write(folder / split / "high/short.wav", 0.1 * rng.standard_normal(100), 16000)
        soundfile.write(folder / split / "low/long.wav", 0.1 * rng.standard_normal(8 * 16000), 16000)
    return folder


@pytest.fixture(scope="module", params=RUNS)
def run(request, clips, tmp_path_factory) -> tuple[str, Path, list[str]]:
    """Return the name, the folder and the model options of a finished run."""
    folder = tmp_path_factory.mktemp(request.param)
    options = model_options(request.param, folder / "checkpoint")
    command = ["train", *options, "--data_dir", str(clips), "--output_dir", str(folder / "run")]
    command += [*OPTIONS, *LEARNING_RATE]
    # SANet gives all clips similar scores until its BatchNorm statistics have settled.
    settled = ["--num_train_epochs", "12", "--load_best_model_at_end", "false"]
    command += settled if request.param.startswith("sanet") else []
    assert main(command) == 0
    return request.param, folder / "run", options


def test_training_writes_consistent_results(run, clips):
    name, folder, _ = run
    results = json.loads((folder / "all_results.json").read_text())
    for split in ("train", "eval", "test"):
        assert np.isfinite(results[f"{split}_loss"]) and 0 <= results[f"{split}_accuracy"] <= 1
    assert results["epoch"] == (12 if name.startswith("sanet") else 3)
    for split, count in (("train", 12), ("validation", 4), ("test", 6)):
        rows = read_csv(folder / "predictions" / f"{split}.csv")
        assert sorted(row["file"] for row in rows) == sorted(map(str, (clips / split).rglob("*.wav")))
        assert len(rows) == count and all(row["label"] == Path(row["file"]).parent.name for row in rows)
        assert np.mean([row["label"] == row["prediction"] for row in rows]) == pytest.approx(
            results[f"{'eval' if split == 'validation' else split}_accuracy"]
        )
    assert (folder / "report.html").is_file() and (folder / "README.md").is_file()


def test_run_folder_loads_with_auto_classes(run):
    name, folder, _ = run
    model = AutoModelForAudioClassification.from_pretrained(folder)
    assert type(model).__name__.lower().startswith(name.split("_")[0])
    assert model.config.id2label == {0: "high", 1: "low"} and model.num_parameters() < 100_000
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
    if name.startswith("ast"):
        assert feature_extractor.max_length == model.config.max_length == 98
    if name == "whisper":
        assert feature_extractor.nb_max_frames == 2 * model.config.max_source_positions == 100


@pytest.mark.parametrize("run", CHECKPOINTS, indirect=True)
def test_training_starts_from_the_checkpoint(run):
    """Frozen weights are those of the checkpoint. The other weights have changed, but only a little."""
    name, folder, options = run
    base_class = {"ast": AutoModelForAudioClassification}.get(name) or CHECKPOINTS[name][1]["model_class"]
    before = base_class.from_pretrained(options[-1]).state_dict()
    prefix = {"wav2vec2": "wav2vec2.", "hubert": "hubert.", "ast": "", "whisper": ""}[name]
    after = {
        key.removeprefix(prefix): value
        for key, value in AutoModelForAudioClassification.from_pretrained(folder).state_dict().items()
    }
    before = {key.removeprefix("model."): value for key, value in before.items()}
    frozen = [key for key in before if key.startswith("feature_extractor.")]
    assert bool(frozen) == (name in ("wav2vec2", "hubert"))
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    layers = [
        key for key in before if "layer" in key and key in after and key.endswith("weight") and key not in frozen
    ]
    layers = [key for key in layers if before[key].dim() == 2 and "classifier" not in key]
    changes = [float((after[key] - before[key]).abs().max()) for key in layers]
    # At most a dozen Adam steps at a learning rate of 0.01. Other initial weights would differ more.
    assert len(layers) >= 12 and 0 < min(changes) and max(changes) < 0.12


def test_pipeline_agrees_with_predict(run, clips, capsys):
    """Only clips that need neither cropping nor padding are compared."""
    _, folder, _ = run
    files = sorted(str(path) for path in (clips / "test").rglob("*_test_*.wav"))
    classifier = pipeline("audio-classification", model=str(folder), device="cpu")
    expected = [classifier(file)[0] for file in files]
    capsys.readouterr()
    assert main(["predict", str(folder), *files, "--batch_size", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[2] for row in rows] == files
    assert [row[1] for row in rows] == [scores["label"] for scores in expected]
    assert [float(row[0]) for row in rows] == pytest.approx([scores["score"] for scores in expected], abs=2e-4)


def test_predict_agrees_with_training_for_any_length(run, clips, tmp_path):
    name, folder, _ = run
    expected = {row["file"]: probabilities_of(row) for row in read_csv(folder / "predictions/test.csv")}
    output = tmp_path / "predictions.csv"
    assert main(["predict", str(folder), str(clips / "test"), "--output", str(output)]) == 0
    rows = read_csv(output)
    files = [row for row in rows if not row["start"]]
    assert {row["path"] for row in files} == expected.keys()
    assert {row["path"] for row in rows if row["start"]} == {str(clips / "test/low/long.wav")}
    assert len(rows) == len(files) + 8
    # Without a mask, the padding of training batches changes the scores of these models.
    hears = name.startswith(("hubert", "wav2vec2"))
    hears = hears and not AutoFeatureExtractor.from_pretrained(folder).return_attention_mask
    tolerance = 0.02 if hears else 2e-4
    for row in files:
        assert float(row["score"]) == pytest.approx(max(expected[row["path"]]), abs=tolerance)


def test_embed_writes_normalized_embeddings_and_a_map(run, clips, tmp_path, capsys):
    _, folder, _ = run
    output, plot = tmp_path / "embeddings.parquet", tmp_path / "map.png"
    command = ["embed", str(folder), str(clips / "test"), "missing.wav", "--output", str(output), "--normalize"]
    assert main([*command, "--plot", str(plot)]) == 1
    assert "1 of 7 files could not be read" in capsys.readouterr().err
    table = pandas.read_parquet(output)
    assert sorted(table["label"]) == ["high"] * 3 + ["low"] * 3 and len(set(table["path"])) == 6
    assert set(table["prediction"]) <= {"high", "low"} and table["score"].between(0.5, 1).all()
    embeddings = np.stack(table["embedding"])
    assert embeddings.dtype == np.float32 and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert plt.imread(plot).std() > 0
    assert main([*command[:-2], str(tmp_path / "embeddings.npz"), "--strict"]) == 2
    assert "missing.wav" in capsys.readouterr().err


def test_evaluate_agrees_with_training(run, tmp_path, capsys):
    _, folder, _ = run
    assert main(["evaluate", str(folder), "--split", "test", "--output", str(tmp_path / "evaluation")]) == 0
    assert "test" in capsys.readouterr().out
    results = json.loads((folder / "all_results.json").read_text())
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert {"accuracy", "macro_f1", "auroc", "ece"} <= set(metrics)
    for name in ("accuracy", "macro_f1", "auroc", "ece"):
        assert metrics[name] == pytest.approx(results[f"test_{name}"], abs=1e-5)
    first, second = (read_csv(path / "predictions/test.csv") for path in (folder, tmp_path / "evaluation"))
    assert [row["file"] for row in first] == [row["file"] for row in second]
    for one, other in zip(first, second):
        assert probabilities_of(one) == pytest.approx(probabilities_of(other), abs=1e-5)


@pytest.mark.parametrize(
    "run", ["sanet_from_scratch", "wav2vec2", "ast", "ast_from_scratch", "whisper"], indirect=True
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_probabilities_do_not_depend_on_the_batch(run, split):
    """Training scores clips of 100 samples to 8 s in batches. Each clip alone gets the same probabilities."""
    _, folder, _ = run
    rows = read_csv(folder / "predictions" / f"{split}.csv")
    assert {Path(row["file"]).name for row in rows} >= {"short.wav", "long.wav"}
    for row, logits in zip(rows, logits_of(folder, [row["file"] for row in rows], split)):
        assert len(logits) == (8 if split == "test" and "long" in row["file"] else 1)
        expected = logits.softmax(-1).mean(0).tolist()
        assert probabilities_of(row) == pytest.approx(expected, abs=1e-4), row["file"]
        assert row["prediction"] == ("high" if expected[0] > expected[1] else "low")
    # A model with the same scores for all clips must not pass.
    assert np.ptp([probabilities_of(row)[0] for row in rows]) > 1e-3


def test_run_options_are_stored(run):
    name, folder, options = run
    kept = yaml.safe_load((folder / "train_options.yaml").read_text())
    if name in CHECKPOINTS:
        assert kept["model_name_or_path"] == options[-1]
    else:
        assert not kept.get("model_name_or_path") and kept["config_overrides"] == options[-1]


# Several labels per clip


@pytest.fixture(scope="module", params=["sanet_from_scratch", "whisper"])
def multi_label_run(request, tones, tmp_path_factory) -> tuple[Path, Path]:
    """Return a run and its manifest, whose clips have a high tone, a low tone, both or neither."""
    folder = tmp_path_factory.mktemp(f"multi_label_{request.param}")
    rng = np.random.default_rng(0)
    lines = ["file,label,split"]
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for label in ("high", "low", "low; high", ""):
            for index in range(count):
                waveform = 0.02 * rng.standard_normal(int(rng.integers(5000, 9000)))
                for name in filter(None, label.split("; ")):
                    path = tones / split / name / f"{name}_{split}_{index}.wav"
                    tone, _ = soundfile.read(path)
                    length = min(len(tone), len(waveform))
                    waveform[:length] += tone[:length]
                file = f"audio/{split}_{label.replace('; ', '_') or 'none'}_{index}.wav"
                (folder / "audio").mkdir(exist_ok=True)
                soundfile.write(folder / file, waveform, 16000)
                lines.append(f"{file},{label},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    options = model_options(request.param, folder / "checkpoint")
    command = ["train", *options, "--manifest", str(folder / "manifest.csv"), "--output_dir", str(folder / "run")]
    assert main([*command, *OPTIONS, *LEARNING_RATE, "--problem_type", "multi_label_classification"]) == 0
    return folder / "run", folder / "manifest.csv"


def test_multi_label_metrics(multi_label_run):
    folder, _ = multi_label_run
    results = json.loads((folder / "all_results.json").read_text())
    for split in ("train", "eval", "test"):
        assert {f"{split}_{name}" for name in ("mAP", "auroc", "macro_f1", "accuracy", "ece")} <= set(results)
        assert 0 <= results[f"{split}_mAP"] <= 1 and np.isfinite(results[f"{split}_loss"])
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and config["id2label"] == {"0": "high", "1": "low"}
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["best_metric"] == pytest.approx(results["eval_mAP"], abs=1e-6)


def test_multi_label_predictions(multi_label_run):
    folder, _ = multi_label_run
    rows = read_csv(folder / "predictions/test.csv")
    labels = [row["label"] for row in rows]
    assert sorted(labels) == sorted(["high", "low", "high;low", ""] * 2)
    probabilities = np.array([probabilities_of(row) for row in rows])
    for row, values, logits in zip(rows, probabilities, logits_of(folder, [row["file"] for row in rows], "test")):
        name = Path(row["file"]).stem
        assert row["label"] == ";".join(label for label in ("high", "low") if label in name)
        assert row["prediction"] == ";".join(label for label, p in zip(("high", "low"), values) if p >= 0.5)
        assert values == pytest.approx(logits.sigmoid()[0].tolist(), abs=1e-4)
    assert not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)


def test_multi_label_commands_agree_with_training(multi_label_run, tmp_path, capsys):
    folder, _ = multi_label_run
    row = read_csv(folder / "predictions/test.csv")[0]
    scores = pipeline("audio-classification", model=str(folder), device="cpu")(row["file"])
    found = {score["label"]: score["score"] for score in scores}
    assert [found["high"], found["low"]] == pytest.approx(probabilities_of(row), abs=1e-4)
    assert main(["evaluate", str(folder), "--output", str(tmp_path / "evaluation")]) == 0
    assert "mAP" in capsys.readouterr().out
    results = json.loads((folder / "all_results.json").read_text())
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert metrics["mAP"] == pytest.approx(results["test_mAP"], abs=1e-6)
    assert main(["predict", str(folder), row["file"]]) == 0
    *best, file = capsys.readouterr().out.splitlines()[-1].split()
    predicted = sorted((label for label in found if found[label] >= 0.5), key=found.get, reverse=True)
    assert file == row["file"] and best[1::2] == (predicted or ["-"])
    assert [float(score) for score in best[::2] if predicted] == pytest.approx(
        [found[label] for label in predicted], abs=2e-4
    )


def test_multi_label_checkpoint_becomes_single_label(multi_label_run, clips, tmp_path):
    """The head stays, because the labels are the same. The scores of a clip now add up to 1."""
    folder, _ = multi_label_run
    config = "sanet.yaml" if "sanet" in str(folder) else "ast.yaml"
    command = ["train", config, "--model_name_or_path", str(folder), "--data_dir", str(clips), *OPTIONS]
    command += ["--num_train_epochs", "1", "--freeze", "backbone"]
    # ast.yaml sets a separate learning rate for the head.
    command += ["--learning_rate" if config == "sanet.yaml" else "--head_learning_rate", "0"]
    assert main([*command, "--output_dir", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["problem_type"] == "single_label_classification"
    for row in read_csv(tmp_path / "run/predictions/test.csv"):
        assert sum(probabilities_of(row)) == pytest.approx(1, abs=1e-5)
    before, after = (
        AutoModelForAudioClassification.from_pretrained(path).state_dict() for path in (folder, tmp_path / "run")
    )
    head = [name for name in before if name.startswith("classifier.") and name.endswith("weight")]
    assert head and all(torch.equal(before[name], after[name]) for name in head)


@pytest.mark.parametrize("name", SIZES)
def test_weights_load_under_their_saved_names(name, tmp_path):
    """transformers 5 saves some models with the weight names of earlier versions. `Trainer` does not convert them."""
    save_checkpoint(tmp_path / "a", name, labels=("a", "b"))
    save_checkpoint(tmp_path / "b", name, labels=("a", "b"))
    model, other = (AutoModelForAudioClassification.from_pretrained(tmp_path / folder) for folder in ("a", "b"))
    for weight in other.state_dict().values():
        weight.add_(1)
    other.save_pretrained(tmp_path / "b")
    load_renamed_weights(model)
    saved = safetensors.torch.load_file(tmp_path / "b/model.safetensors")
    model.load_state_dict(saved, strict=False)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in model.state_dict().items())
    del saved[next(name for name in saved if name.endswith(".weight"))]
    with pytest.raises(RuntimeError, match=r"size mismatch: .*weight missing"):
        model.load_state_dict(saved, strict=False)


def test_best_and_last_ast_checkpoints_load_completely(clips, tmp_path):
    options = ["ast.yaml", *model_options("ast_from_scratch", tmp_path)[1:], "--data_dir", str(clips), *OPTIONS]
    # At this rate, the network assigns all clips to one class. Of equal epochs, the first is the best.
    options += ["--metric_for_best_model", "accuracy", "--learning_rate", "1", "--max_grad_norm", "9"]
    options += ["--save_total_limit", "3", "--output_dir", str(tmp_path / "run")]
    assert main(["train", *options]) == 0
    best, *_, last = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    weights = [safetensors.torch.load_file(path / "model.safetensors") for path in (tmp_path / "run", best, last)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0] if "query" in name)
    (tmp_path / "run/all_results.json").unlink()
    shutil.rmtree(last)
    assert main(["train", *options]) == 0
    resumed = safetensors.torch.load_file(last / "model.safetensors")
    assert all(torch.equal(resumed[name], weights[2][name]) for name in resumed)
