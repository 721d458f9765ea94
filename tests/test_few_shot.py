# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Test `benchmarks.few_shot` on tones."""

import json

import numpy as np
import pytest
import soundfile

from benchmarks import few_shot
from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetModel


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """
    Make two classes of tones in three folds (`folds/low/1-0.wav`) and in splits (`splits/train/low/0.wav`). Return
    their folder.
    """
    root, generator = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for label, frequency in (("low", 300), ("high", 3000)):
        names = [f"folds/{label}/{fold}-{take}.wav" for fold in (1, 2, 3) for take in range(4)]
        names += [f"splits/{split}/{label}/{index}.wav" for split in ("train", "validation") for index in range(4)]
        for name in names:
            waveform = np.sin(2 * np.pi * frequency * generator.uniform(0.8, 1.2) * np.arange(8000) / 16000)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(root / name, 0.3 * waveform + 0.01 * generator.standard_normal(8000), 16000)
    return root


def test_table(tones, tmp_path, capsys):
    sizes = {
        "conv_dim": [8, 16],
        "conv_kernel": [16, 8],
        "conv_stride": [8, 4],
        "attention_after": [],
        "attention_dim": [],
    }
    model, output = tmp_path / "model", tmp_path / "few.json"
    # Without a head, like pretrained networks.
    SANetModel(SANetConfig(**sizes)).save_pretrained(model)
    SANetFeatureExtractor().save_pretrained(model)
    command = ["--data", f"folds={tones / 'folds'}", f"splits={tones / 'splits'}", "--fold_pattern", r"folds=(\d)-"]
    command += ["--models", str(model), "--clips", "1", "all", "--draws", "2", "--output", str(output)]
    assert few_shot.main(command) == 0
    table = capsys.readouterr().out
    assert "| folds" in table and "| splits" in table and "1 clips" in table
    results = json.loads(output.read_text())
    assert len(results) == 2 * 2 * 3
    # Each fold is tested with each draw. With all clips, there is only one draw.
    sizes = {(one["data"], one["clips"]): len(one["accuracy"]) for one in results}
    assert sizes == {("folds", "1"): 6, ("folds", "all"): 3, ("splits", "1"): 2, ("splits", "all"): 1}
    of_all = [one["accuracy"] for one in results if one["clips"] == "all" and few_shot.LOG_MEL in one["features"]]
    assert of_all == [[1.0] * 3, [1.0] * 3, [1.0], [1.0]]


def test_clips_are_drawn_only_from_the_training_part():
    labels = np.array(["a", "b"] * 10)
    learnt = np.arange(20) < 12
    for seed in range(5):
        rows = few_shot.draw(labels, learnt, 3, seed)
        assert learnt[rows].all() and len(set(rows)) == 6 and sorted(labels[rows]) == ["a"] * 3 + ["b"] * 3
    assert sorted(few_shot.draw(labels, learnt, None, 0)) == list(range(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "0"], "--clips 0"),
        (["--clips", "some"], "--clips some"),
        (["--fold_pattern", r"tones=(\d)-", "--folds", "7"], "fold not found. tones has 1, 2, 3"),
        ([], "has no train and no validation folder"),
    ],
)
def test_wrong_options_are_refused(tones, capsys, options, message):
    assert few_shot.main(["--data", f"tones={tones / 'folds'}", *options]) == 2
    assert message in capsys.readouterr().err
