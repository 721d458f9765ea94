# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training and the commands on a GPU, end to end.

    SANET_TEST_DEVICE=cpu pytest tests/training/test_gpu.py    # the same on the CPU
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from sanet_hf import SANetConfig, SANetForAudioClassification
from sanet_hf.cli.main import main
from sanet_hf.training.config_files import find_config, parse_config_overrides


pytestmark = pytest.mark.gpu

NUM_CLIPS = 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tiny_network_overfits_eight_clips(gpu, dtype):
    """The network of sanet_tiny.yaml reaches 100 %. Clips of different lengths are padded."""
    if dtype == "float16" and gpu.type == "cpu":
        pytest.skip("float16 is trained on GPUs alone")
    torch.manual_seed(0)
    options = yaml.safe_load(find_config("sanet_tiny.yaml").read_text(encoding="utf-8"))
    config = SANetConfig(num_labels=NUM_CLIPS, **parse_config_overrides(options["config_overrides"]))
    model = SANetForAudioClassification(config).train().to(gpu)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    scaler = torch.amp.GradScaler(gpu.type, init_scale=1024.0, enabled=dtype == "float16")
    lengths = torch.linspace(8192, 16_384, NUM_CLIPS).long().unsqueeze(1)
    mask = torch.arange(16_384) < lengths
    inputs = {"input_values": torch.randn(NUM_CLIPS, 16_384) * mask, "attention_mask": mask.long()}
    inputs = {name: value.to(gpu) for name, value in inputs.items()}
    labels = torch.arange(NUM_CLIPS, device=gpu)
    for _ in range(40):
        with torch.autocast(gpu.type, getattr(torch, dtype), enabled=dtype != "float32"):
            loss = model(**inputs, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits.argmax(-1), labels)
    assert loss < 0.5


@pytest.fixture(scope="module")
def on_gpu(tones, tiny_options, gpu, tmp_path_factory) -> Path:
    """Return a model trained on the GPU with worker processes, in bfloat16 if the GPU supports it."""
    run = tmp_path_factory.mktemp("gpu") / "run"
    options = [*tiny_options, "--precision", "auto", "--dataloader_num_workers", "2", "--averaged_epochs", "2"]
    assert main(["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(run), *options]) == 0
    return run


def read_scores(path: Path) -> dict[str, tuple[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"]: (row["label"], float(row["score"])) for row in csv.DictReader(file)}


def test_train(on_gpu, gpu):
    results = json.loads((on_gpu / "all_results.json").read_text(encoding="utf-8"))
    assert results["test_accuracy"] == 1
    assert f"{gpu.type}" in (on_gpu / "report.html").read_text(encoding="utf-8")


def test_number_formats_of_predict_agree_with_the_cpu(on_gpu, tones, gpu, tmp_path):
    files = str(tones / "test")
    scores = {}
    for name, options in {
        "cpu": ["--device", "cpu"],
        "float32": ["--dtype", "float32"],
        "bfloat16": ["--dtype", "bfloat16"],
        "float16": ["--dtype", "float16", "--batch_size", "3"],
    }.items():
        assert main(["predict", str(on_gpu), files, "--output", str(tmp_path / f"{name}.csv"), *options]) == 0
        scores[name] = read_scores(tmp_path / f"{name}.csv")
    assert len(scores["cpu"]) == 8
    for name, found in scores.items():
        for path, (label, score) in scores["cpu"].items():
            assert found[path][0] == label == Path(path).parent.name
            assert found[path][1] == pytest.approx(score, abs=2e-3 if name == "float32" else 0.05)


def test_evaluate_embed_and_explain(on_gpu, tones, gpu, tmp_path, capsys):
    assert main(["evaluate", str(on_gpu), "--data_dir", str(tones), "--output", str(tmp_path / "evaluation")]) == 0
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["accuracy"] == 1
    assert main(["embed", str(on_gpu), str(tones / "test"), "--output", str(tmp_path / "embeddings.npz")]) == 0
    with np.load(tmp_path / "embeddings.npz") as arrays:
        assert arrays["embedding"].shape[0] == 8 and np.isfinite(arrays["embedding"]).all()
    clip = next((tones / "test" / "high").iterdir())
    assert main(["explain", str(on_gpu), str(clip), "--output", str(tmp_path / "explanation.json")]) == 0
    assert json.loads((tmp_path / "explanation.json").read_text(encoding="utf-8"))["label"] == "high"


@pytest.mark.parametrize(
    "options",
    [
        ["--gradient_checkpointing", "true"],
        ["--mixup_alpha", "0.4", "--sampler", "balanced"],
        ["--gradient_accumulation_steps", "2", "--auto_find_batch_size", "true"],
        ["--torch_compile", "true"],
        ["--precision", "auto", "--fp16", "true"],
    ],
    ids=lambda options: options[-2].strip("-"),
)
def test_options_of_training(tones, tiny_options, gpu, tmp_path, options, monkeypatch):
    """One epoch with each option runs on one GPU and leaves finite weights."""
    if gpu.type == "cpu" and "--fp16" in options:
        pytest.skip("float16 is trained on GPUs alone")
    if gpu.type == "cpu" and "--torch_compile" in options:
        options = [*options, "--torch_compile_backend", "eager"]

    def refuse(*arguments, **options):
        raise AssertionError("the model was copied to several GPUs")

    monkeypatch.setattr(nn.DataParallel, "__init__", refuse)
    run = tmp_path / "run"
    command = ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(run), *tiny_options]
    assert main([*command, "--num_train_epochs", "1", *options]) == 0
    model = SANetForAudioClassification.from_pretrained(run)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
