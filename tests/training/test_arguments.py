# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training options from YAML files and flags: precedence, defaults and errors."""

from pathlib import Path

import pytest

from sanet_hf.cli.train_options import make_data_parser, make_train_parser, parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.training.config_files import find_config, parse_augmentations, parse_config_overrides
from sanet_hf.training.option_checks import check_metric
from sanet_hf.training.options import changed_options, override_data_arguments


REQUIRED = ["--data_dir", "data", "--output_dir", "out"]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_found_by_path_name_and_stem(path):
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
def test_empty_values_mean_no_augmentations(text):
    assert parse_augmentations(text) == []


@pytest.mark.parametrize(("problem_type", "metric"), [("single", "macro_f1"), ("multi", "mAP")])
def test_default_metric_depends_on_problem_type(problem_type, metric):
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
def test_config_overrides_are_parsed(text, values):
    assert parse_config_overrides(text) == values


def test_config_overrides_are_merged(tmp_path):
    """Overrides of YAML files and of the flag are combined. Later values win, and an empty flag removes all."""
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
def test_metric_determines_greater_is_better(metric):
    for config in ("sanet", "wav2vec2", "ast"):
        argv = [config, *REQUIRED, "--metric_for_best_model", metric]
        assert parse_train_arguments(argv)[2].greater_is_better == (not metric.endswith(("loss", "ece")))
        for value in (True, False):
            flags = ["--greater_is_better", str(value).lower()]
            if value == (not metric.endswith(("loss", "ece"))):
                assert parse_train_arguments([*argv, *flags])[2].greater_is_better == value
            else:
                with pytest.raises(UsageError, match="would keep the worst epoch"):
                    parse_train_arguments([*argv, *flags])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision_sets_bf16(precision):
    assert parse_train_arguments([*REQUIRED, "--precision", precision])[2].bf16 == (precision == "bf16")


def test_options_accept_dashes():
    _, data, training = parse_train_arguments(["--data-dir", "data", "--output-dir", "out", "--learning-rate=3e-4"])
    assert (data.data_dir, training.output_dir, training.learning_rate) == ("data", "out", 3e-4)
    assert "-dir" not in make_train_parser(all_options=True).format_help()


def test_debug_is_the_option_of_transformers():
    assert parse_train_arguments([*REQUIRED, "--debug", "underflow_overflow"])[2].debug == ["underflow_overflow"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output_dir", "out"], "No recordings are given. Add --data_dir"),
        (["--data_dir", "data"], "--output_dir is missing"),
        ([*REQUIRED, "--learningrate", "1"], r"--learningrate is not an option.*Did you mean --learning_rate\?"),
        ([*REQUIRED, "--learning_rate", "fast"], "invalid float value: 'fast'"),
        ([*REQUIRED, "--freeze", "everything"], "invalid choice: 'everything'"),
        ([*REQUIRED, "--load_best_model_at_end", "true"], "--load_best_model_at_end true needs evaluations"),
        (["missing.yaml", *REQUIRED], r"missing.yaml: configuration file not found.*sanet.yaml"),
        ([*REQUIRED, "sanet.yaml"], "sanet.yaml is not an option"),
        (["sanet.yaml", "missing.yaml", *REQUIRED], "missing.yaml: configuration file not found"),
        ([*REQUIRED, "--manifest", "list.csv"], "--data_dir and --manifest both name recordings"),
    ],
)
def test_mistakes_on_the_command_line(argv, message):
    with pytest.raises(UsageError, match=message):
        parse_train_arguments(argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"mine.yaml: 'learning_rat' is not an option. Did you mean learning_rate\?"),
        ("num_train_epochs: many", "invalid float value: 'many'"),
        ("- a\n- b", "must contain options as"),
        ("a: [", "cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
    ],
)
def test_mistakes_in_yaml(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse_train_arguments([str(path), *REQUIRED])


def test_find_config_prefers_a_local_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("sanet.yaml").parent.name == "configs"
    Path("sanet.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert find_config("sanet.yaml") == Path("sanet.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("eval_strategy: no\nload_best_model_at_end: no", "no"),
        ("eval_strategy: 'no'\nload_best_model_at_end: off", "no"),
        ("eval_strategy: epoch\nload_best_model_at_end: yes", "epoch"),
    ],
)
def test_yaml_booleans_become_text_for_text_options(tmp_path, text, value):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    training = parse_train_arguments(["sanet.yaml", str(path), *REQUIRED])[2]
    assert training.eval_strategy == value and training.load_best_model_at_end == (value == "epoch")


def test_yaml_null_is_the_default(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("num_train_epochs: null\nconfig_overrides:\nlabel_smoothing_factor: ~\nrun_name: 010\n")
    model, _, training = parse_train_arguments(["sanet", "sanet_small", str(path), *REQUIRED])
    assert (training.num_train_epochs, training.label_smoothing_factor, model.config_overrides) == (3, 0, None)
    assert training.run_name == "010"


def test_yaml_lists_need_options_with_several_values(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("report_to: [none]\ndebug: [underflow_overflow]\n")
    training = parse_train_arguments([str(path), *REQUIRED])[2]
    assert training.report_to == [] and training.debug == ["underflow_overflow"]
    path.write_text("learning_rate: [1e-3, 1e-4]\n")
    with pytest.raises(UsageError, match="learning_rate needs one value, not a list: 1e-3, 1e-4"):
        parse_train_arguments([str(path), *REQUIRED])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--bf16", "true"], ("bf16", True, False)),
        (["--bf16", "false"], ("fp32", False, False)),
        (["--fp16", "true"], ("auto", False, True)),
        (["--precision", "bf16", "--bf16", "true"], ("bf16", True, False)),
        (["--precision", "fp32", "--fp16", "false"], ("fp32", False, False)),
        (["--precision", "fp32", "--fp16", "true"], "--precision fp32 and --fp16 true contradict"),
        (["--precision", "bf16", "--fp16", "true"], "--precision bf16 and --fp16 true contradict"),
        (["--precision", "fp32", "--bf16", "true"], "--precision fp32 and --bf16 true contradict"),
        (["--precision", "bf16", "--bf16", "false"], "--precision bf16 and --bf16 false contradict"),
        (["--bf16", "true", "--fp16", "true"], "--bf16 true and --fp16 true contradict"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_precision_options_must_agree(flags, expected):
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            parse_train_arguments([*REQUIRED, *flags])
    else:
        training = parse_train_arguments([*REQUIRED, *flags])[2]
        assert (training.precision, training.bf16, training.fp16) == expected


CHECKPOINT = ["--model_name_or_path", "x"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler", "balanced", "--class_weights", "balanced"], "--sampler balanced and --class_weights balanced"),
        (["--sampler", "balanced", "--train_sampling_strategy", "sequential"], "--train_sampling_strategy sequential"),
        (["--model_type", "ast", *CHECKPOINT], "--model_type has no effect: the checkpoint of --model_name_or_path"),
        (["--max_segments", "2"], "--max_segments has no effect: it needs --samples_per_class"),
        (["--audio_column_name", "x"], "--audio_column_name has no effect: it needs --dataset_name"),
        (["--shuffle_buffer_size", "9"], "--shuffle_buffer_size has no effect: it needs --streaming true"),
        (
            ["--freeze", "backbone", "--head_learning_rate", "1", "--learning_rate", "1"],
            "--learning_rate has no effect",
        ),
        (["--greater_is_better", "false"], "the highest --metric_for_best_model macro_f1 is the best"),
        (
            ["--overwrite_output_dir", "--resume_from_checkpoint", "x"],
            "--overwrite_output_dir true deletes the run that",
        ),
        (
            ["--overwrite_output_dir", "--resume_from_checkpoint", "True"],
            "--overwrite_output_dir true deletes the run that",
        ),
        (["--neftune_noise_alpha", "1"], "--neftune_noise_alpha is not supported"),
        (["--prediction_loss_only", "true"], "--prediction_loss_only is not supported"),
        (["--label_names", "x"], "--label_names is not supported"),
        (["--max_steps", "0"], "--max_steps 0 must be at least 1"),
        (["--save_total_limit", "0"], "--save_total_limit 0 must be at least 1"),
        (["--early_stopping_patience", "0"], "--early_stopping_patience 0 must be at least 1"),
        (["--max_bad_fraction", "2"], "--max_bad_fraction 2 must be at most 1"),
        (["--dataloader_prefetch_factor", "0"], "--dataloader_prefetch_factor 0 must be at least 1"),
        (["--cache_audio", "-1"], "--cache_audio -1 must be at least 0"),
        (["--cache_audio", "nan"], "--cache_audio nan must be at least 0"),
        (["--accelerator_config", "none.json"], "none.json"),
        (["--metric_for_best_model", "f1"], "f1 is not a known metric. Choose one of: loss, mAP, accuracy, macro_f1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradicting_or_ineffective_options_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse_train_arguments([*REQUIRED, *flags])


def test_ineffective_option_in_yaml_is_a_warning(tmp_path, caplog):
    """One file can serve several runs, as the shipped files do. Default values give no warning."""
    path = tmp_path / "mine.yaml"
    path.write_text("max_segments: 2\nshuffle_buffer_size: 1000\n")
    parse_train_arguments(["sanet", str(path), *REQUIRED])
    assert "max_segments has no effect: it needs --samples_per_class." in caplog.text
    assert "shuffle_buffer_size" not in caplog.text
    caplog.clear()
    parse_train_arguments(["wav2vec2", *REQUIRED, "--freeze", "backbone"])
    assert not caplog.text


def test_evaluation_overrides_data_options():
    given = {"data_dir": "other", "audio_column_name": "sound"}
    with pytest.raises(UsageError, match="--audio_column_name has no effect: it needs --dataset_name"):
        override_data_arguments({"dataset_name": "set"}, given)
    # Stored options of the run itself are accepted.
    options = {"dataset_name": "set", "audio_column_name": "sound"}
    assert override_data_arguments(options, {"data_dir": "other"}).data_dir == "other"
    names = vars(make_data_parser().parse_known_args(["--data_dir", "x"])[0])
    assert names == {"data_dir": "x"}
    text = make_data_parser().format_help()
    assert "--group_pattern" in text and "--augmentations" not in text and "--samples_per_class" not in text


def test_auroc_cannot_select_the_epoch_by_clips_of_one_class():
    check_metric("auroc", False, 2, [0, 1])
    check_metric("accuracy", False, 2, [0, 0])
    with pytest.raises(UsageError, match="needs several classes in validation"):
        check_metric("eval_auroc", False, 2, [0, 0])
