# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Each model, data and training option changes the training or is refused. None is silently ignored."""

import dataclasses
import hashlib
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Audio, ClassLabel, Dataset
from transformers import TrainingArguments

from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import SanetError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from sanet_hf.training.data.items import TEACHER_INPUTS
from sanet_hf.training.options import DATASET_OPTIONS
from sanet_hf.training.teacher_arguments import TeacherArguments
from sanet_hf.training.train import train
from sanet_hf.training.trainer import AudioClassificationTrainer

from .conftest import TINY_NETWORK, write_tone
from .tiny_models import overrides, save_checkpoint


SPLITS = {"train": 5, "validation": 2, "test": 1}
OWN_OPTIONS = [
    field.name
    for kind in (ModelArguments, DataArguments, AudioTrainingArguments)
    for field in dataclasses.fields(kind)
    if kind is not AudioTrainingArguments
    or field.name in AudioTrainingArguments.__annotations__ | TeacherArguments.__annotations__
]
SMALLER = TINY_NETWORK.replace("se_reduction=4", "se_reduction=2")
# Another value of each option, and options to combine it with. {} stands for the folder of test inputs.
OTHERS: dict[str, tuple[list[str], list[str]]] = {
    "model_name_or_path": (["{}/other_checkpoint"], []),
    "model_type": (["wav2vec2"], ["--config_overrides", overrides("wav2vec2")]),
    "config_overrides": ([SMALLER], []),
    "sampling_rate": (["8000"], []),
    "freeze": (["backbone"], []),
    "padding": (["max_length"], []),
    "position_embeddings": (["keep"], []),
    "data_dir": (["{}/other"], []),
    "manifest": (["{}/list.csv"], []),
    "dataset_name": (["{}/dataset"], []),
    "dataset_config_name": (["other"], []),
    "audio_column_name": (["other"], []),
    "label_column_name": (["other"], []),
    "train_split_name": (["other"], []),
    "validation_split_name": (["other"], []),
    "test_split_name": (["other"], []),
    "streaming": (["true"], []),
    "shuffle_buffer_size": (["2"], []),
    "folds": (["3"], ["--data_dir", "{}/unsplit", "--folds", "2", "--fold", "1"]),
    "fold": (["2"], ["--data_dir", "{}/unsplit", "--folds", "2", "--fold", "1"]),
    "fold_pattern": ([r"_(\d)\."], ["--data_dir", "{}/unsplit", "--fold_pattern", r"(\d)_", "--fold", "1"]),
    # The labels are names already. Other names are refused.
    "class_names": (["a,x"], []),
    "check_recordings": (["false"], []),
    "group_pattern": ([r"_(\d)\."], ["--data_dir", "{}/unsplit"]),
    "problem_type": (["multi_label_classification"], []),
    "max_length_seconds": (["0.1"], []),
    "max_bad_fraction": (["0.9"], ["--data_dir", "{}/bad"]),
    "augmentations": (['[{"PolarityInversion": {"p": 1}}]'], []),
    "augmentations_after_normalization": (['[{"Gain": {"p": 1}}]'], []),
    "samples_per_class": (["3"], []),
    "max_segments": (["1"], ["--samples_per_class", "9"]),
    "background": (["auto"], []),
    "background_dir": (["{}/unsplit"], []),
    "train_sampling_strategy": (["sequential"], []),
    "precision": (["bf16"], []),
    "head_learning_rate": (["0.1"], []),
    "class_weights": (["balanced"], ["--data_dir", "{}/uneven"]),
    "sampler": (["balanced"], []),
    "mixup_alpha": (["0.5"], []),
    "averaged_epochs": (["2"], []),
    "averaged_fraction": (["0.3"], []),
    "max_minutes": (["5"], []),
    "max_evaluations": (["5"], ["--max_minutes", "5"]),
    # With refit, the first training gets only part of the time.
    "refit": (["true"], ["--max_minutes", "5"]),
    "refit_from": (["trained"], ["--max_minutes", "5", "--refit", "true"]),
    "early_stopping_patience": (["2"], []),
    "teacher": (["{}/checkpoint"], []),
    "teacher_weight": (["0.2"], ["--teacher", "{}/checkpoint"]),
    "teacher_temperature": (["0.05"], ["--teacher", "{}/checkpoint"]),
    "unlabeled_dir": (["{}/unsplit"], ["--teacher", "{}/checkpoint"]),
}
# Options with an effect after a training is built, and the test of that effect.
LATER = {
    "band_head": "test_band_head.py: test_runs_without_a_band_head",
    "baseline": "evaluation/test_run_baseline.py: test_no_baseline",
    "cache_audio": "test_train.py: test_kept_recordings_change_nothing",
    "calibrate": "test_calibrate.py: test_runs_without_calibration",
    "false_alarm_minutes": "evaluation/test_false_alarms.py: test_minutes_depend_on_the_training",
    "from_scratch": "test_recipe.py: test_options_that_start_from_the_shipped_network",
    "head_first": "test_regression_head.py: test_head_first",
    "head_only": "test_regression_head.py: test_head_only_run",
    "final_model": "test_cross_validation.py: test_final_model",
    "save_total_limit": "test_trainer.py: test_number_of_kept_checkpoints",
    "metric_for_best_model": "test_trainer.py: test_best_epoch_is_kept",
    "greater_is_better": "test_trainer.py: test_best_epoch_is_kept",
    "restore_callback_states_from_checkpoint": "test_resumption.py: test_resumed_run_uses_the_new_patience",
    "overwrite_output_dir": "test_train.py: test_overwrite_output_dir_starts_again",
}


class Built(BaseException):
    """Raised to end a training as soon as it is built."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for label, frequency in (("a", 300), ("b", 900)):
            for index in range(count):
                seconds = rng.uniform(0.2, 0.4)
                write_tone(folder / "data" / split / label / f"{label}_{index}.wav", frequency, seconds, seed=index)
    shutil.copytree(folder / "data", folder / "other")
    (folder / "other/train/a/a_0.wav").unlink()
    shutil.copytree(folder / "data", folder / "uneven")
    for index in (0, 1, 2):
        (folder / f"uneven/train/b/b_{index}.wav").unlink()
    shutil.copytree(folder / "data", folder / "bad")
    (folder / "bad/train/a/a_0.wav").write_bytes(b"no audio")
    for label in "ab":
        for index in range(30):
            path = folder / "unsplit" / label / f"{label}{index}_{index % 5}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tone(path, 300 if label == "a" else 900, 0.1, seed=index)
    lines = [
        f"data/{path.relative_to(folder / 'data')},{path.parent.name},{path.parts[-3]}"
        for path in sorted((folder / "data").rglob("*.wav"))
    ]
    (folder / "list.csv").write_text("\n".join(["file,label,split", *lines]), encoding="utf-8")
    (folder / "dataset/data").mkdir(parents=True)
    for split in SPLITS:
        paths = sorted((folder / "data" / split).rglob("*.wav"))
        rows = Dataset.from_dict({"audio": [str(p) for p in paths], "label": [p.parent.name for p in paths]})
        rows = rows.cast_column("label", ClassLabel(names=["a", "b"])).cast_column("audio", Audio(decode=False))
        rows.to_parquet(folder / "dataset/data" / f"{split}-00000-of-00001.parquet")
    for name in ("checkpoint", "other_checkpoint"):
        # The second has other labels, so it gets a new head.
        save_checkpoint(folder / name, "sanet", labels=("a", "b") if name == "checkpoint" else ("x", "y"))
    return folder


@pytest.fixture(scope="module")
def build(inputs, tmp_path_factory):
    """Return a function that builds a training and describes it as text, or returns the error that refuses it."""
    results: dict[tuple[str, ...], str] = {}

    def run(*options: str) -> str:
        if options not in results:
            output_dir = tmp_path_factory.mktemp("runs") / "run"
            command = ["--output_dir", str(output_dir), "--eval_strategy", "epoch", "--save_strategy", "epoch"]
            command += ["--load_best_model_at_end", "true", "--precision", "fp32", "--learning_rate", "1e-3"]
            command += [option.replace("{}", str(inputs)) for option in options]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(AudioClassificationTrainer, "train", _stop)
                try:
                    train(*parse_train_arguments(command))
                except SanetError as error:
                    results[options] = f"error: {error}".replace(str(output_dir), "")
                except Built as built:
                    results[options] = json.dumps(describe(built.args[0]), indent=1, default=str)
        return results[options]

    return run


def _stop(trainer, *args, **kwargs):
    raise Built(trainer)


def describe(trainer: AudioClassificationTrainer) -> dict[str, object]:
    model, arguments = trainer.model, trainer.args
    clips, validation = trainer.train_dataset, trainer.eval_dataset
    loader = trainer.get_train_dataloader()
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in model.named_parameters()}
    is_stream = isinstance(clips, torch.utils.data.IterableDataset)
    items = [*islice(clips, 3)] if is_stream else [clips[index] for index in range(3)]
    batch = trainer.data_collator(items)
    torch.manual_seed(0)
    loss = trainer.compute_loss(model.train(), {**batch, "labels": batch["labels"]})
    hears = trainer.processing_class.to_dict()
    heard = [window for item in items for windows in item.pop(TEACHER_INPUTS, []) for window in windows]
    return {
        "config": model.config.to_dict(),
        "weights": _hash(*model.state_dict().values()),
        "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "feature extractor": hears,
        "clips": [_hash(*item.values()) for item in items],
        "teacher inputs": [_hash(*window.values()) for window in heard],
        "validation": [len(validation), *(_hash(*validation[i].values()) for i in range(len(validation)))],
        "hashes": None if is_stream else getattr(clips, "labeled", clips).recordings["digest"][:],
        "order": None if is_stream else [*loader.batch_sampler.sampler],
        "loss": round(float(loss), 6),
        "optimizer": [
            [sorted(names[p] for p in g["params"]), g["lr"], g["weight_decay"]] for g in optimizer.param_groups
        ],
        "callbacks": [type(callback).__name__ for callback in trainer.callback_handler.callbacks],
        "averaged": [trainer.weight_average.num_epochs, trainer.weight_average.fraction],
        "time": trainer.time_limit and [trainer.time_limit.seconds, trainer.time_limit.num_evaluations],
        "precision": [arguments.bf16, arguments.fp16],
    }


def _hash(*values) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in values)).hexdigest()[:8]


BASES = {
    "scratch": ["--data_dir", "{}/data", "--config_overrides", TINY_NETWORK],
    "checkpoint": ["--data_dir", "{}/uneven", "--model_name_or_path", "{}/checkpoint"],
    "dataset": ["--dataset_name", "{}/dataset", "--config_overrides", TINY_NETWORK],
    "stream": ["--dataset_name", "{}/dataset", "--streaming", "true", "--max_steps", "5", "--config_overrides"],
}
BASES["stream"] += [TINY_NETWORK]


def test_every_option_is_tried():
    assert set(OWN_OPTIONS) - OTHERS.keys() == set(LATER) and len(OWN_OPTIONS) > 30
    # All other options are those of transformers.
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(AudioTrainingArguments.__annotations__) <= names | set(OWN_OPTIONS)


@pytest.mark.parametrize("base", BASES)
def test_same_options_build_the_same_training(build, base):
    first = build(*BASES[base])
    assert not first.startswith("error"), first
    # A stream takes seconds to open.
    if base != "stream":
        assert first == build(*BASES[base], "--logging_steps", "7")


def list_trials() -> list[tuple[str, str]]:
    """Return bases and options to try: each option from scratch, and on other bases that may change its effect."""
    data = {field.name for field in dataclasses.fields(DataArguments)}
    with_checkpoint = [name for name in OTHERS if name not in data or name in ("max_length_seconds", "problem_type")]
    # Options of the stream itself, and some that need all recordings at once.
    of_streams = ["shuffle_buffer_size", "train_sampling_strategy", "group_pattern", "samples_per_class", "sampler"]
    of_streams += ["max_minutes", "averaged_fraction", "refit"]
    of_streams += ["background", "teacher", "unlabeled_dir"]
    trials = {
        "scratch": OTHERS,
        "checkpoint": with_checkpoint,
        "dataset": [*DATASET_OPTIONS, "shuffle_buffer_size"],
        "stream": of_streams,
    }
    return [(base, name) for base, names in trials.items() for name in names if name in OWN_OPTIONS]


@pytest.mark.parametrize(("base", "name"), list_trials())
def test_option_has_an_effect_or_is_refused(build, base, name):
    (value,), beside = OTHERS[name]
    if base != "scratch":
        # This base has its own recordings or network.
        beside = [] if beside[:1] in (["--config_overrides"], ["--data_dir"]) else beside
    options = [*BASES[base], *beside]
    assert build(*options, f"--{name}", value) != build(*options), f"--{name} has no effect"


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_padding_replaces_that_of_a_checkpoint(build, inputs, tmp_path, padding):
    """Without the option, the padding of the checkpoint is used."""
    model, feature_extractor = load_classifier(inputs / "checkpoint")
    feature_extractor.return_attention_mask = padding == "max_length"
    for part in (model, feature_extractor):
        part.save_pretrained(tmp_path / "checkpoint")
    base = ["--data_dir", "{}/data", "--model_name_or_path", str(tmp_path / "checkpoint")]
    kept, given = (json.loads(build(*base, *options)) for options in ([], ["--padding", padding]))
    assert kept["feature extractor"]["return_attention_mask"] == (padding == "max_length")
    assert given["feature extractor"]["return_attention_mask"] == (padding == "longest")
    assert kept["loss"] != given["loss"]


def test_a_balanced_epoch_is_grouped_by_length(build):
    base = ["--data_dir", "{}/uneven", "--config_overrides", TINY_NETWORK, "--per_device_train_batch_size", "2"]
    base += ["--sampler", "balanced"]
    plain, grouped = (
        json.loads(build(*base, *options))["order"]
        for options in ([], ["--train_sampling_strategy", "group_by_length"])
    )
    assert plain != grouped and sorted(plain) == sorted(grouped)


def test_data_seed_changes_only_the_order(build):
    base = json.loads(build(*BASES["scratch"]))
    other = json.loads(build(*BASES["scratch"], "--data_seed", "5"))
    assert {name for name in base if base[name] != other[name]} == {"order"}
