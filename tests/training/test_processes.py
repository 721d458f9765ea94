# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Two processes give the weights, metrics and predictions of one."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sanet_hf.cli.main import main

from .processes import run_in_processes, start_processes, wait_for


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tones, tiny_options) -> list[str]:
    options = ["--train_sampling_strategy", "random", "--num_train_epochs", "3", "--use_cpu", "true"]
    # Not Adam: where a gradient is zero, such as that of a bias before BatchNorm, it turns rounding errors into steps.
    return ["train", "sanet.yaml", "--data_dir", str(tones), *tiny_options, *options, "--optim", "sgd"]


@pytest.fixture(scope="module")
def runs(command, tmp_path_factory) -> tuple[Path, Path, str]:
    """Return the folders of a training by one process and by two, and the output of the latter."""
    one, two = (tmp_path_factory.mktemp("processes") / name for name in ("one", "two"))
    assert main([*command, "--output_dir", str(one), "--per_device_train_batch_size", "8"]) == 0
    return one, two, run_in_processes(["-m", "sanet_hf", *command, "--output_dir", str(two)], timeout=300)


def test_weights_and_losses_agree_with_one_process(runs):
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


def test_cross_validation_predicts_each_clip_once(command, tmp_path):
    options = ["--folds", "2", "--final_model", "true", "--num_train_epochs", "1", "--output_dir", str(tmp_path)]
    output = run_in_processes(["-m", "sanet_hf", *command, *options], timeout=300)
    assert output.count("all folds pooled              40") == 1
    table = pd.read_csv(tmp_path / "predictions/out_of_fold.csv")
    assert len(table) == 40 and table["file"].is_unique and (tmp_path / "final/all_results.json").exists()


def test_only_one_process_prints(runs):
    """The table of the epochs and that of the splits appear once."""
    assert runs[2].count("The model is in") == 1 and runs[2].count("Macro F1") == 2


def test_predictions_agree_with_one_process(runs, tones, tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    command = [str(runs[0]), str(tones / "test"), str(tmp_path / "bad.wav"), "--output"]
    assert main(["predict", *command, str(tmp_path / "one.csv")]) == 1
    process = start_processes(["-m", "sanet_hf", "predict", *command, str(tmp_path / "two.csv"), "--device", "cpu"])
    output, errors = wait_for(process, timeout=300)
    assert process.returncode == 1 and output.count("Classified 8 of 9 files") == 1
    assert errors.count("bad.wav: neither soundfile nor FFmpeg can read the file") == 1
    one, two = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, atol=1e-5)

    # Resuming classifies only the missing files.
    rows = (tmp_path / "two.csv").read_text().splitlines(keepends=True)
    (tmp_path / "two.csv").write_text("".join(rows[:5]))
    process = start_processes(["-m", "sanet_hf", "predict", *command, str(tmp_path / "two.csv"), "--resume"])
    output, errors = wait_for(process, timeout=300)
    assert "Classified 4 of 5 files" in output, output + errors
    pd.testing.assert_frame_equal(one, pd.read_csv(tmp_path / "two.csv"), atol=1e-5)


def test_embeddings_agree_with_one_process(runs, tones, tmp_path):
    command = ["embed", str(runs[0]), str(tones / "test"), "--output"]
    assert main([*command, str(tmp_path / "one.parquet")]) == 0
    output = run_in_processes(["-m", "sanet_hf", *command, str(tmp_path / "two.parquet")], timeout=300)
    assert output.count("contains the embeddings of 8 files") == 1
    tables = [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two")]
    for column in tables[0]:
        if column == "embedding":
            np.testing.assert_allclose(*(np.stack(table[column]) for table in tables), atol=1e-5)
        else:
            assert list(tables[0][column]) == list(tables[1][column])


def test_evaluation_agrees_with_one_process(runs, tones, tmp_path):
    command = ["evaluate", str(runs[0]), "--data_dir", str(tones), "--batch_size", "3", "--output"]
    assert main([*command, str(tmp_path / "one")]) == 0
    output = run_in_processes(["-m", "sanet_hf", *command, str(tmp_path / "two")], timeout=300)
    assert output.count("Macro F1") == 1 and output.count("The report is") == 1
    tables = [pd.read_csv(tmp_path / name / "predictions/test.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5)


def test_compare_needs_one_process(runs, tones, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = [
        "compare",
        str(runs[0]),
        str(runs[1]),
        "--data_dir",
        str(tones),
        "--output",
        str(tmp_path / "comparison"),
    ]
    assert main(command) == 2 and not (tmp_path / "comparison").exists()
    assert "Start it as one process" in capsys.readouterr().err


def check_same_weights(run: Path, other: Path, tolerance: float) -> None:
    weights, others = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize(
    "options",
    [["--gradient_checkpointing", "true"], ["--torch_compile", "true", "--torch_compile_backend", "aot_eager"]],
    ids=["gradient_checkpointing", "torch_compile"],
)
def test_options_that_change_no_weights(runs, command, tmp_path, options):
    run_in_processes(["-m", "sanet_hf", *command, "--output_dir", str(tmp_path / "run"), *options], timeout=300)
    check_same_weights(tmp_path / "run", runs[1], tolerance=1e-5)


# accelerate shards only on GPUs, although PyTorch can also shard on CPUs.
SHARD_ON_CPUS = """
import sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType

set_device = PartialState.set_device

def set_device_of_cpus(state):
    set_device(state)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU

PartialState.set_device = set_device_of_cpus

from torch.distributed.fsdp import FSDPModule
from sanet_hf.cli.main import main
from sanet_hf.training.trainer import AudioClassificationTrainer

training_step = AudioClassificationTrainer.training_step

def check_training_step(self, model, *args, **kwargs):
    assert isinstance(model, FSDPModule)
    assert all(isinstance(layer, FSDPModule) for layer in model.sanet.layers)
    return training_step(self, model, *args, **kwargs)

AudioClassificationTrainer.training_step = check_training_step
sys.exit(main(sys.argv[1:]))
"""


def test_sharded_training(runs, command, tmp_path):
    """FSDP2 gives the same weights, resumes from its checkpoints, and saves the usual files."""
    (tmp_path / "script.py").write_text(SHARD_ON_CPUS)
    sharded = [str(tmp_path / "script.py"), *command, "--fsdp", "true", "--output_dir"]
    run_in_processes([*sharded, str(tmp_path / "run")], timeout=300)
    check_same_weights(tmp_path / "run", runs[1], tolerance=1e-5)
    assert json.loads((tmp_path / "run/config.json").read_text()) == json.loads((runs[1] / "config.json").read_text())
    assert {path.name for path in (tmp_path / "run").glob("*.py")} == {path.name for path in runs[1].glob("*.py")}

    # PyTorch cannot load the state of an optimizer without one, such as plain SGD.
    sharded += [str(tmp_path / "adam"), "--optim", "adamw_torch"]
    run_in_processes(sharded, timeout=300)
    expected = load_file(tmp_path / "adam/model.safetensors")
    shutil.rmtree(tmp_path / "adam/checkpoint-12")
    (tmp_path / "adam/all_results.json").unlink()
    run_in_processes(sharded, timeout=300)
    weights = load_file(tmp_path / "adam/model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_sharding_supports_spectrogram_networks(command, tmp_path):
    """A spectrogram network lacks the layers of the default network."""
    (tmp_path / "script.py").write_text(SHARD_ON_CPUS)
    sizes = {"spectrogram_dim": [8, 16], "spectrogram_pool": [[1, 2], [2, 2]], "num_mel_bins": 16}
    sizes |= {"spectrogram_window": 256, "spectrogram_stride": 64, "conv_dim": [], "conv_kernel": []}
    sizes |= {"conv_stride": [], "attention_after": [-1], "attention_dim": [16]}
    options = [*command, "--config_overrides", json.dumps(sizes), "--max_steps", "2", "--baseline", "false"]
    run_in_processes(
        [str(tmp_path / "script.py"), *options, "--fsdp", "true", "--output_dir", str(tmp_path / "run")], 300
    )
    run_in_processes(["-m", "sanet_hf", *options, "--output_dir", str(tmp_path / "other")], 300)
    check_same_weights(tmp_path / "run", tmp_path / "other", tolerance=1e-5)


def test_sharding_needs_gpus(command, tmp_path):
    process = start_processes(["-m", "sanet_hf", *command, "--fsdp", "true", "--output_dir", str(tmp_path / "run")])
    _, errors = wait_for(process, timeout=300)
    assert process.returncode != 0 and "--fsdp needs several GPUs, one process each" in errors


KILL_ONE = """
import os, signal, sys
from pathlib import Path
from sanet_hf.cli.main import main
from sanet_hf.training.trainer import AudioClassificationTrainer

training_step = AudioClassificationTrainer.training_step

def kill_at_step(self, *args, **kwargs):
    if self.state.global_step == 6 and self.args.process_index == 1:
        Path(sys.argv[0]).with_name("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return training_step(self, *args, **kwargs)

AudioClassificationTrainer.training_step = kill_at_step
sys.exit(main(sys.argv[1:]))
"""


def test_killed_process_ends_the_run_and_it_can_resume(runs, command, tmp_path):
    (tmp_path / "script.py").write_text(KILL_ONE)
    process = start_processes([str(tmp_path / "script.py"), *command, "--output_dir", str(tmp_path / "run")])
    while not (tmp_path / "killed").exists():
        assert process.poll() is None
        time.sleep(0.1)
    # All processes must end within a minute.
    _, errors = wait_for(process, timeout=60)
    assert process.returncode != 0 and "Signal 9 (SIGKILL)" in errors
    assert (tmp_path / "run/checkpoint-4").is_dir() and not (tmp_path / "run/all_results.json").exists()
    run_in_processes(["-m", "sanet_hf", *command, "--output_dir", str(tmp_path / "run")], timeout=300)
    check_same_weights(tmp_path / "run", runs[1], tolerance=1e-6)


def test_training_with_teachers_agrees_with_one_process(command, trained, make_tone, tmp_path):
    """Some clips are scored once, others in each step."""
    for index in range(16):
        make_tone(tmp_path / "unlabeled" / f"{index}.wav", 200 + 100 * index, 0.5 if index % 2 else 1.5, seed=index)
    options = ["--teacher", str(trained), "--unlabeled_dir", str(tmp_path / "unlabeled"), "--output_dir"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*command, "--per_device_train_batch_size", "8", *options, str(one)]) == 0
    run_in_processes(["-m", "sanet_hf", *command, *options, str(two)], timeout=300)
    weights, others = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=1e-5, rtol=1e-4)
