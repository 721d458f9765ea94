# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe that `sanet train` chooses without a configuration file."""

import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf import SANetConfig
from sanet_hf.cli.main import main
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.pretrained import DEFAULT, find_model
from sanet_hf.training import recipe
from sanet_hf.training.config_files import find_config
from sanet_hf.training.recipe import (
    FEW_RECORDINGS,
    FEWEST_STEPS,
    LONGEST_SECONDS,
    MAX_EPOCHS,
    MAX_EPOCHS_OF_FEW,
    MIN_EPOCHS,
    PRETRAINED_STEPS,
    RECIPE_FILE,
    Facts,
    choose_epochs,
    choose_recipe,
    find_recipe,
    write_recipe,
)
from sanet_hf.training.run_folder import OPTIONS_FILE, are_epochs_chosen, read_options

from .tiny_models import save_checkpoint


def facts(count: int = 240, seconds: float = 5.0, num_validation: int = 80, rate: int = 16000) -> Facts:
    return Facts(np.full(count, seconds), num_validation, 10, rate)


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 100_000),
    seconds=st.floats(0.01, 3600),
    rate=st.sampled_from([2000, 8000, 16000, 22050, 44100, 48000, 192000]),
    batch_size=st.integers(1, 64),
)
def test_recipes_are_valid(count, seconds, rate, batch_size):
    choices = choose_recipe(facts(count, seconds, rate=rate), batch_size)
    config = SANetConfig(**choices["config_overrides"].value)
    samples = choices["max_length_seconds"].value * rate
    assert round(samples) % config.inputs_to_logits_ratio == 0 and abs(samples - round(samples)) < 1e-3 * rate / 1000
    assert 2 * samples <= config.max_input_samples
    assert choices["max_length_seconds"].value <= LONGEST_SECONDS * 1.5
    is_few = -(-count // batch_size) * MAX_EPOCHS < FEWEST_STEPS
    assert MIN_EPOCHS <= choices["num_train_epochs"].value <= (MAX_EPOCHS_OF_FEW if is_few else MAX_EPOCHS)
    assert all(choice.reason for choice in choices.values())


def test_recipe_depends_on_the_number_of_recordings():
    few, many = choose_recipe(facts(240)), choose_recipe(facts(50_000))
    assert few["config_overrides"].value["spectrogram_dim"][0] < many["config_overrides"].value["spectrogram_dim"][0]
    assert few["num_train_epochs"].value > many["num_train_epochs"].value
    assert few["max_length_seconds"].value == LONGEST_SECONDS
    assert few["padding"].value == "longest"
    assert few["refit"].value == "auto"
    assert choose_recipe(facts(num_validation=0))["refit"].value == "false"


def test_fewer_recordings_get_more_epochs():
    epochs = {count: choose_recipe(facts(count))["num_train_epochs"].value for count in (10, 56, 100, 240, 600)}
    assert epochs[10] == epochs[56] == MAX_EPOCHS_OF_FEW > epochs[100] > epochs[240] == MAX_EPOCHS > epochs[600]


def test_short_sounds_are_padded_with_silence():
    choices = choose_recipe(facts(seconds=0.6))
    assert 0.6 <= choices["max_length_seconds"].value < 0.8
    assert choices["padding"].value == "max_length"


def test_given_options_change_the_recipe():
    choices = choose_recipe(facts(1000), batch_size=32, max_length_seconds=1.0)
    assert choices["max_length_seconds"].value == 1.0
    assert choices["num_train_epochs"].value > choose_recipe(facts(1000))["num_train_epochs"].value
    assert "num_train_epochs" not in choose_recipe(facts(), max_minutes=5)


def test_training_time_limits_the_epochs():
    enough, reason = choose_epochs(15, 0.1, is_refit=False)
    assert "100 ms per step here: at least 3.8 min for training, plus reading, augmentation" in reason
    assert "at least 7.5 min for both trainings" in choose_epochs(15, 0.1, is_refit=True)[1]
    assert enough == choose_epochs(15, None, is_refit=False)[0]
    fewer, reason = choose_epochs(15, 10.0, is_refit=False)
    assert fewer == 9 and "fit into 30 minutes" in reason
    assert choose_epochs(15, 10.0, is_refit=True)[0] == 4
    assert choose_epochs(15, 1e6, is_refit=True)[0] == 1
    assert FEW_RECORDINGS > 1000


def test_recipe_file_is_a_configuration(tmp_path):
    write_recipe(choose_recipe(facts()), {}, tmp_path / RECIPE_FILE)
    text = (tmp_path / RECIPE_FILE).read_text()
    values = yaml.safe_load(text)
    assert values["mixup_alpha"] == 1.0
    command = [str(tmp_path / RECIPE_FILE), "--data_dir", "x", "--output_dir", "y"]
    model, data, training = parse_train_arguments(command)
    assert "spectrogram_dim" in model.config_overrides
    assert (data.max_length_seconds, training.mixup_alpha) == (LONGEST_SECONDS, 1.0)
    assert "Resample" in data.augmentations


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_minutes", "2"],
        ["--max_steps", "7"],
        ["--num_train_epochs", "2", "--learning_rate", "3e-4", "--lr_scheduler_type", "linear", "--refit", "false"],
        ["--config_overrides={spectrogram_dim: [8], spectrogram_pool: [[4, 4]]}", "--padding", "max_length"],
        ["--model_name_or_path", "sanet-small", "--max_length_seconds", "1", "--head_first", "false"],
        ["--augmentations", "[{PolarityInversion: {p: 1}}]", "--mixup_alpha", "0", "--save_strategy", "epoch"],
        ["--from_scratch", "true", "--warmup_steps", "3", "--per_device_train_batch_size", "4"],
    ],
)
def test_recipe_contains_the_given_options(tones, tmp_path, flags):
    """The file alone, without the flags of the command that wrote it, gives the same options."""
    source = ["--data_dir", str(tones), "--output_dir"]
    expected = parse_train_arguments([*source, str(tmp_path / "run"), *flags], find_recipe)
    # After a short training of one's own choice, a longer one can be advised.
    assert are_epochs_chosen(tmp_path / "run") == (
        not {"--max_minutes", "--max_steps", "--num_train_epochs"} & {*flags}
    )
    recipe = tmp_path / "run" / RECIPE_FILE
    again = parse_train_arguments([str(recipe), *source, str(tmp_path / "run")])
    for one, other in zip(expected, again):
        # A file without a checkpoint is from scratch.
        names = [field.name for field in dataclasses.fields(one) if field.init and field.name != "from_scratch"]
        values = [{name: getattr(part, name) for name in names} for part in (one, other)]
        for part in values:
            part["config_overrides"] = yaml.safe_load(part.get("config_overrides") or "{}")
        assert values[0] == values[1]


def test_recipe_agrees_with_the_shipped_configuration(tmp_path):
    write_recipe(choose_recipe(facts()), {}, tmp_path / RECIPE_FILE)
    chosen = yaml.safe_load((tmp_path / RECIPE_FILE).read_text())
    shipped = yaml.safe_load(find_config("sanet_spectrogram.yaml").read_text())
    defaults = {"num_mel_bins", "spectrogram_window", "spectrogram_stride", "spectrogram_sampling_rate"}
    network = {name: value for name, value in chosen["config_overrides"].items() if name not in defaults}
    assert shipped.pop("seed") == 0
    assert shipped == {**chosen, "config_overrides": network}
    assert SANetConfig(**network) == SANetConfig(**chosen["config_overrides"])


def test_training_without_a_configuration_writes_a_recipe(tones, tmp_path, capsys):
    output_dir = tmp_path / "run"
    network = "--config_overrides={spectrogram_dim: [8], spectrogram_pool: [[4, 4]], conv_dim: [], conv_kernel: [], "
    network += "conv_stride: [], attention_after: [], attention_dim: [], classifier_hidden_sizes: []}"
    command = ["train", "--data_dir", str(tones), "--output_dir", str(output_dir), network, "--max_steps", "2"]
    command += ["--refit", "false", "--precision", "fp32"]
    assert main(command) == 0
    assert "Chosen for 32 training recordings" in capsys.readouterr().err
    recipe, options = yaml.safe_load((output_dir / RECIPE_FILE).read_text()), read_options(output_dir)
    assert "num_train_epochs" in recipe
    assert options["mixup_alpha"] == recipe["mixup_alpha"] == 1.0
    # The same command again changes neither recipe nor run.
    before = (output_dir / RECIPE_FILE).stat().st_mtime_ns
    assert main(command) == 0
    assert "already contains a finished run" in capsys.readouterr().out
    assert (output_dir / RECIPE_FILE).stat().st_mtime_ns == before


def test_run_without_a_recipe_resumes_without_one(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / OPTIONS_FILE).write_text("seed: 3\n")
    parse_train_arguments(["--data_dir", "nowhere", "--output_dir", str(tmp_path / "run")], find_recipe)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [OPTIONS_FILE]


@pytest.mark.parametrize(
    "flags",
    [
        ["--model_type", "ast"],
        ["--streaming", "true", "--max_steps", "5", "--dataset_name", "x"],
    ],
)
def test_other_models_and_streams_get_no_recipe(flags, tmp_path):
    source = [] if "--dataset_name" in flags else ["--data_dir", "x"]
    _, _, training = parse_train_arguments([*flags, *source, "--output_dir", str(tmp_path / "run")], find_recipe)
    assert training.mixup_alpha == 0
    assert not (tmp_path / "run").exists()
    assert dataclasses.is_dataclass(training)


def test_checkpoints_of_other_architectures_get_no_recipe(tmp_path):
    save_checkpoint(tmp_path / "ast", "audio-spectrogram-transformer", ["x", "y"])
    command = ["--model_name_or_path", str(tmp_path / "ast"), "--data_dir", "x", "--output_dir", str(tmp_path / "run")]
    parse_train_arguments(command, find_recipe)
    assert not (tmp_path / "run").exists()


def test_missing_checkpoint_is_refused(tmp_path, capsys):
    command = ["train", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    assert main([*command, "--model_name_or_path", "some/where"]) == 2
    assert "neither a folder with a model nor a reachable model on the Hub" in capsys.readouterr().err


def test_recipe_fits_the_checkpoint_of_the_user(tones, tmp_path):
    """Without a configuration file, training uses the clip length and the padding of the checkpoint."""
    model, extractor = save_checkpoint(tmp_path / "checkpoint", "sanet", ["x", "y"])
    extractor.max_length = 4096
    extractor.save_pretrained(tmp_path / "checkpoint")
    output_dir = tmp_path / "run"
    command = ["train", "--data_dir", str(tones), "--output_dir", str(output_dir), "--refit", "false"]
    command += ["--model_name_or_path", str(tmp_path / "checkpoint"), "--max_steps", "2", "--precision", "fp32"]
    assert main([*command, "--false_alarm_minutes", "0"]) == 0
    recipe, options = yaml.safe_load((output_dir / RECIPE_FILE).read_text()), read_options(output_dir)
    assert not {"config_overrides", "model_type", "padding"} & recipe.keys()
    assert options["mixup_alpha"] == 1.0 and options["max_length_seconds"] == 4096 / 16000
    trained = SANetConfig.from_pretrained(output_dir)
    assert trained.conv_dim == model.config.conv_dim and set(trained.label2id) == {"high", "low"}


def test_recipe_fits_the_shipped_network():
    choices = choose_recipe(facts(seconds=0.6), start=DEFAULT)
    assert choices["model_name_or_path"].value == DEFAULT and "config_overrides" not in choices
    assert choices["padding"].value == "max_length" and choices["max_length_seconds"].value == pytest.approx(0.64)
    assert choices["head_first"].value and not choose_recipe(facts(), start="runs/x").get("head_first")
    assert "head_first" not in choose_recipe(facts(), start=DEFAULT, fits_head=False)
    # A pretrained network needs fewer steps than one from scratch.
    assert choices["num_train_epochs"].value * 15 == pytest.approx(PRETRAINED_STEPS, abs=15)
    shipped = SANetConfig.from_pretrained(find_model(DEFAULT))
    assert list(shipped.spectrogram_dim) == choose_recipe(facts())["config_overrides"].value["spectrogram_dim"]


@pytest.mark.parametrize(
    ("flags", "is_pretrained"),
    [
        ([], True),
        (["--padding", "longest", "--sampling_rate", "16000"], True),
        (["--max_length_seconds", "8"], True),
        (["--max_length_seconds", "9"], False),
        (["--from_scratch", "true"], False),
        (["--model_type", "sanet"], False),
        (["--sampling_rate", "32000"], False),
        (["--config_overrides", "pool_hidden_size=32"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_start_from_the_shipped_network(tones, tmp_path, flags, is_pretrained):
    command = ["--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1", *flags]
    model, _, training = parse_train_arguments(command, find_recipe)
    assert model.model_name_or_path == (DEFAULT if is_pretrained else None)
    assert training.head_first == is_pretrained
    assert bool(model.config_overrides) != is_pretrained


def test_many_recordings_start_from_scratch(tones, tmp_path, monkeypatch):
    monkeypatch.setitem(recipe.WIDTHS, "wide", ([32, 64], 32))
    command = ["--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    assert parse_train_arguments(command, find_recipe)[0].model_name_or_path is None


def test_from_scratch_with_a_checkpoint_is_refused(tones, tmp_path, capsys):
    command = ["train", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), "--from_scratch", "true"]
    assert main([*command, "--model_name_or_path", DEFAULT]) == 2
    assert "--from_scratch" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
