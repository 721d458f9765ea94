# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options: YAML, flags, precedence, mistakes."""

from pathlib import Path

import pytest

from sanet_hf.cli.train_options import make_train_parser, parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.training.arguments import changed_options
from sanet_hf.training.config_files import find_config, parse_augmentations, parse_config_overrides


REQUIRED = ["--data_dir", "data", "--output_dir", "out"]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs(path):
    by_path, by_name, by_stem = (
        parse_train_arguments([name, *REQUIRED])[:2] for name in (str(path), path.name, path.stem)
    )
    assert by_path == by_name == by_stem


def test_flags_override_yaml_and_yaml_overrides_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "learning_rate: 1e-3\nnum_train_epochs: 7\nload_best_model_at_end: false\nfreeze: backbone\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1.0e-6}\n"
        "config_overrides: {conv_dim: [8, 16], hidden_act: relu}\nreport_to: [none]\nmax_steps: -1\n"
    )
    model, data, training = parse_train_arguments(
        [str(path), *REQUIRED, "--num_train_epochs", "9", "--data_dir", "other"]
    )
    assert (training.learning_rate, training.num_train_epochs, training.load_best_model_at_end) == (1e-3, 9, False)
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert (model.freeze, data.data_dir) == ("backbone", "other")
    assert parse_config_overrides(model.config_overrides) == {"conv_dim": [8, 16], "hidden_act": "relu"}


def test_later_yaml_overrides_earlier(tmp_path):
    path = tmp_path / "override.yaml"
    path.write_text("num_train_epochs: 3\naugmentations:\n- PolarityInversion: {p: 0.5}\n")
    _, data, training = parse_train_arguments(["sanet.yaml", str(path), *REQUIRED, "--learning_rate", "7e-4"])
    assert (training.num_train_epochs, training.learning_rate) == (3, 7e-4)
    assert training.label_smoothing_factor == parse_train_arguments(["sanet", *REQUIRED])[2].label_smoothing_factor > 0
    assert parse_augmentations(data.augmentations) == [{"PolarityInversion": {"p": 0.5}}]


@pytest.mark.parametrize("text", [None, "", "none", "[]"])
def test_no_augmentations(text):
    assert parse_augmentations(text) == []


@pytest.mark.parametrize(("problem_type", "metric"), [("single", "macro_f1"), ("multi", "mAP")])
def test_metric_for_best_model(problem_type, metric):
    options = ["sanet", *REQUIRED, "--problem_type", f"{problem_type}_label_classification"]
    assert parse_train_arguments(options)[2].metric_for_best_model == metric
    assert parse_train_arguments([*options, "--metric_for_best_model", "ece"])[2].metric_for_best_model == "ece"


def test_changed_options_describe_a_run():
    argv = ["sanet.yaml", "short_sounds.yaml", *REQUIRED, "--mixup_alpha", "0.2", "--freeze", "backbone"]
    arguments = parse_train_arguments(argv)
    options = {name: value for group in arguments for name, value in changed_options(group).items()}
    assert options["mixup_alpha"] == 0.2 and options["freeze"] == "backbone" and options["data_dir"] == "data"
    assert not {"output_dir", "use_cpu", "bf16", "manifest"} & set(options)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, {}),
        ("se_reduction=4", {"se_reduction": 4}),
        ("conv_dim=[8,16],classifier_dropout=0.5", {"conv_dim": [8, 16], "classifier_dropout": 0.5}),
        ("use_squeeze_excitation=false, hidden_act=relu", {"use_squeeze_excitation": False, "hidden_act": "relu"}),
        ('{"conv_dim": [8, 16]}', {"conv_dim": [8, 16]}),
    ],
)
def test_config_overrides(text, values):
    assert parse_config_overrides(text) == values


def test_config_overrides_are_merged(tmp_path):
    """Those of a YAML file with those of a later one and of the flag, which names other values."""
    path = tmp_path / "mine.yaml"
    path.write_text("config_overrides: {attention_dim: [8, 8], hidden_act: relu}\n", encoding="utf-8")
    argv = ["sanet", "sanet_small", str(path), *REQUIRED]
    merged = {"conv_dim": [16, 32, 64, 128, 256], "attention_dim": [8, 8], "hidden_act": "relu"}
    for flags, values in (
        ([], merged),
        (["--config_overrides", "classifier_dropout=0.2"], {**merged, "classifier_dropout": 0.2}),
        (["--config_overrides", '{"hidden_act": "gelu"}'], {**merged, "hidden_act": "gelu"}),
        (["--config_overrides="], {}),
    ):
        assert parse_config_overrides(parse_train_arguments([*argv, *flags])[0].config_overrides) == values


@pytest.mark.parametrize("metric", ["macro_f1", "mAP", "accuracy", "loss", "eval_loss", "ece", "eval_ece"])
def test_whether_greater_is_better_follows_from_the_metric(metric):
    for config in ("sanet", "wav2vec2", "ast"):
        argv = [config, *REQUIRED, "--metric_for_best_model", metric]
        assert parse_train_arguments(argv)[2].greater_is_better == (not metric.endswith(("loss", "ece")))
        assert parse_train_arguments([*argv, "--greater_is_better", "true"])[2].greater_is_better


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision(precision):
    assert parse_train_arguments([*REQUIRED, "--precision", precision])[2].bf16 == (precision == "bf16")


def test_an_option_can_have_dashes():
    _, data, training = parse_train_arguments(["--data-dir", "data", "--output-dir", "out", "--learning-rate=3e-4"])
    assert (data.data_dir, training.output_dir, training.learning_rate) == ("data", "out", 3e-4)
    assert "-dir" not in make_train_parser(all_options=True).format_help()


def test_debug_is_the_option_of_transformers():
    assert parse_train_arguments([*REQUIRED, "--debug", "underflow_overflow"])[2].debug == ["underflow_overflow"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output_dir", "out"], "--data_dir is missing"),
        (["--data_dir", "data"], "--output_dir is missing"),
        ([*REQUIRED, "--learningrate", "1"], r"--learningrate is no option.*Did you mean --learning_rate\?"),
        ([*REQUIRED, "--learning_rate", "fast"], "invalid float value: 'fast'"),
        ([*REQUIRED, "--freeze", "everything"], "invalid choice: 'everything'"),
        ([*REQUIRED, "--load_best_model_at_end", "true"], "--load_best_model_at_end true needs evaluations"),
        (["missing.yaml", *REQUIRED], r"missing.yaml: there is no such configuration file.*sanet.yaml"),
        ([*REQUIRED, "sanet.yaml"], "sanet.yaml is no option"),
        (["sanet.yaml", "missing.yaml", *REQUIRED], "missing.yaml: there is no such configuration file"),
        ([*REQUIRED, "--manifest", "list.csv"], "--data_dir and --manifest both name recordings"),
    ],
)
def test_mistakes_on_the_command_line(argv, message):
    with pytest.raises(UsageError, match=message):
        parse_train_arguments(argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"mine.yaml: 'learning_rat' is no option. Did you mean learning_rate\?"),
        ("num_train_epochs: many", "invalid float value: 'many'"),
        ("- a\n- b", "must hold options as"),
        ("a: [", "cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
    ],
)
def test_mistakes_in_yaml(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse_train_arguments([str(path), *REQUIRED])


def test_find_config_prefers_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("sanet.yaml").parent.name == "configs"
    Path("sanet.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert find_config("sanet.yaml") == Path("sanet.yaml")
