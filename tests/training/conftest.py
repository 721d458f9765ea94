# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of this folder: small recordings, and a model trained on them with the `sanet` command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sanet_hf.cli.main import main
from sanet_hf.training.demo.speech import make_speech_dataset
from sanet_hf.training.reports.run import write_report


TINY_NETWORK = (
    "conv_dim=[8,16,16],conv_kernel=[16,8,4],conv_stride=[4,4,4],attention_after=[2],attention_dim=[16],"
    "num_attention_heads=2,classifier_hidden_sizes=[16],pool_hidden_size=16,se_reduction=4"
)


def write_tone(path: Path, frequency: float, seconds: float = 0.5, sampling_rate: int = 16000, seed: int = 0) -> None:
    """Write a tone with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * noise, sampling_rate)


@pytest.fixture
def make_tone():
    return write_tone


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """Return a folder of splits and classes, with `high` and `low` tones of different lengths."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 4), ("test", 4)):
        for label, low, high in (("high", 1000, 2000), ("low", 200, 400)):
            for index in range(count):
                path = folder / split / label / f"{label}_{split}_{index}.wav"
                write_tone(path, rng.uniform(low, high), seconds=rng.uniform(0.3, 0.8), seed=index)
    return folder


@pytest.fixture(scope="session")
def few_tones(tmp_path_factory) -> Path:
    """Return a folder of splits and classes, with 12 short tones for training, 4 for validation and 2 for testing."""
    folder = tmp_path_factory.mktemp("few_tones")
    for split, count in (("train", 6), ("validation", 2), ("test", 1)):
        for label, frequency in (("a", 300), ("b", 900)):
            for index in range(count):
                path = folder / split / label / f"{label}_{split}_{index}.wav"
                write_tone(path, frequency, 0.2, seed=1000 * len(split) + index)
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """Return a folder with two synthetic voices in class folders, with four sentences each."""
    folder = tmp_path_factory.mktemp("speech")
    make_speech_dataset(folder / "clips", num_train=4, num_validation=1, num_test=1)
    for voice in ("annie", "max"):
        shutil.copytree(folder / "clips" / "train" / voice, folder / "recordings" / voice)
    pause = np.zeros(16000)
    sentences = [soundfile.read(path)[0] for path in sorted((folder / "recordings" / "max").iterdir())]
    soundfile.write(
        folder / "recordings" / "max" / "long.flac",
        np.concatenate([part for s in sentences for part in (s, pause)]),
        16000,
    )
    return folder / "recordings"


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """Return options of `sanet train` for a network of a few thousand parameters, which takes a few seconds."""
    options = ["--config_overrides", TINY_NETWORK, "--max_length_seconds", "1", "--precision", "fp32"]
    # To save time; `trained` has a baseline.
    options += ["--baseline", "false"]
    return [*options, "--num_train_epochs", "12", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2"]


@pytest.fixture(scope="module")
def without_report():
    """Do not write report.html, whose plots take as long as a tiny training. For modules with many trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sanet_hf.training.train.write_report", lambda *arguments, **options: None)
        yield


@pytest.fixture(scope="session")
def trained(tones, tiny_options, tmp_path_factory) -> Path:
    """Return a model that `sanet train` trained on `tones`."""
    output_dir = tmp_path_factory.mktemp("runs") / "tones"
    command = ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(output_dir), *tiny_options]
    with pytest.MonkeyPatch.context() as patch:
        # Write the report even if a module with `without_report` uses this fixture first.
        patch.setattr("sanet_hf.training.train.write_report", write_report)
        assert main([*command, "--baseline", "true"]) == 0
    return output_dir
