# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training by two processes: the weights and metrics of one with the same batches."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from training.cli import main

from .two_processes import run_in_two_processes


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tones, tiny_options, tmp_path_factory) -> tuple[Path, Path, str]:
    """Folders of a training by one process and by two, and what the latter printed."""
    folder = tmp_path_factory.mktemp("processes")
    command = ["train", "sanet.yaml", "--data_dir", str(tones), *tiny_options]
    # Not Adam, which makes steps of rounding errors where a gradient is zero, as of a bias before BatchNorm.
    command += ["--train_sampling_strategy", "random", "--num_train_epochs", "3", "--optim", "sgd"]
    assert main([*command, "--output_dir", str(folder / "one"), "--per_device_train_batch_size", "8"]) == 0
    options = ["--output_dir", str(folder / "two"), "--per_device_train_batch_size", "4", "--use_cpu", "true"]
    output = run_in_two_processes(["-m", "training", *command, *options], timeout=300, env={"OMP_NUM_THREADS": "1"})
    return folder / "one", folder / "two", output


def test_weights_and_metrics_are_those_of_one_process(runs):
    one, two, _ = runs
    weights, others = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=1e-5, rtol=1e-4)
    histories = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (one, two)]
    losses = [[entry["eval_loss"] for entry in history if "eval_loss" in entry] for history in histories]
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], abs=1e-5)
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_every_clip_counts_once(runs):
    for split, count in (("train", 32), ("validation", 8), ("test", 8)):
        tables = [pd.read_csv(run / f"predictions/{split}.csv") for run in runs[:2]]
        assert len(tables[1]) == count and tables[1]["file"].is_unique
        pd.testing.assert_frame_equal(*tables, atol=1e-4)


def test_one_process_prints(runs):
    """The table of each epoch, and that of the splits."""
    assert runs[2].count("The model is in") == 1 and runs[2].count("macro F1") == 2
