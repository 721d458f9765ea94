# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The baseline of a run: its recordings, and the comparison of a network with it."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import Wav2Vec2Config

from sanet_hf import SANetConfig
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.training import train as train_module
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.evaluation import run_baseline
from sanet_hf.training.evaluation.prediction_files import read_baseline
from sanet_hf.training.evaluation.results import Evaluation, write_predictions
from sanet_hf.training.evaluation.run_baseline import (
    advise,
    compare_run,
    describe_baseline,
    fit_to_recordings,
    prepare_baseline,
    refit_to_validation,
)
from sanet_hf.training.evaluation.statistics import compare_with_baseline, mcnemar, pair_up
from sanet_hf.training.reports.run import write_report
from sanet_hf.utils.formatting import format_p


LABELS = {"high": 0, "low": 1}


def make_evaluation(is_right: np.ndarray, split: str = "test", is_multi_label: bool = False) -> Evaluation:
    references = np.arange(len(is_right)) % 2
    probabilities = np.eye(2, dtype=np.float32)[np.where(is_right, references, 1 - references)]
    names = [f"{index}.wav" for index in range(len(is_right))]
    references = np.eye(2, dtype=int)[references] if is_multi_label else references
    return Evaluation(split, names, list(LABELS), references, probabilities)


def test_baseline_uses_the_recordings_of_the_run(tones, monkeypatch):
    arguments = DataArguments(data_dir=str(tones))
    recordings = load_recordings(arguments)
    run = fit_to_recordings(recordings, LABELS, 16000, arguments)
    assert [len(run.examples[split].features) for split in ("train", "validation", "test")] == [32, 8, 8]
    assert {split: own.metrics["accuracy"] for split, own in run.evaluations.items()} == {"validation": 1, "test": 1}
    line = "accuracy 1.00 (0.68-1.00) on validation, 1.00 (0.68-1.00) on test"
    assert describe_baseline(run) == f"Baseline (logistic regression on log-mel statistics, fitted to train): {line}"
    # The model may have another order of classes.
    other = fit_to_recordings(recordings, {"low": 0, "high": 1}, 16000, arguments)
    np.testing.assert_array_equal(run.examples["test"].targets, other.examples["test"].targets[:, ::-1])
    assert other.evaluations["test"].metrics["accuracy"] == 1
    # If there are many recordings, only a random part is used.
    monkeypatch.setattr(run_baseline, "MAX_TRAINING", 20)
    monkeypatch.setattr(run_baseline, "MAX_TESTED", 5)
    monkeypatch.setattr(run_baseline, "MAX_TOTAL_SECONDS", 10.0)
    monkeypatch.setattr(run_baseline, "MIN_SECONDS", 0.2)
    part = fit_to_recordings(recordings, LABELS, 16000, arguments)
    assert len(part.examples["train"].features) == 20 and len(part.evaluations["test"].files) == 5
    assert "5 random recordings of 8 in test were used; the first 0.2 s of each recording" in describe_baseline(part)
    places = part.examples["test"].rows
    assert part.evaluations["test"].files == [recordings["test"][int(place)]["file"] for place in places]
    # Without held-out recordings, there is no baseline.
    del recordings["validation"], recordings["test"]
    assert fit_to_recordings(recordings, LABELS, 16000, arguments) is None


def test_refit_of_the_baseline_is_stated(tones, tmp_path, capsys):
    arguments = DataArguments(data_dir=str(tones))
    run = fit_to_recordings(load_recordings(arguments), LABELS, 16000, arguments)
    options = SimpleNamespace(output_dir=str(tmp_path), mixup_alpha=1.0, head_only=False)
    model = SimpleNamespace(config=SANetConfig())
    for own, heading in (
        (run, "Network and baseline (95 % intervals):"),
        (refit_to_validation(run), "For test, both were trained again, with the validation recordings:"),
    ):
        comparison, _ = compare_run(own, run.evaluations, model, options)
        assert heading in capsys.readouterr().err
        assert ("also to the validation" in comparison["fitted_to"]) == own.is_refit
        write_report(tmp_path / "report.html", "title", {}, run.evaluations, {}, [], baseline=comparison)
        assert f"It was fitted to {comparison['fitted_to']}." in (tmp_path / "report.html").read_text("utf-8")


def test_unreadable_recordings_are_skipped(tones, tmp_path):
    shutil.copytree(tones, tmp_path / "data")
    arguments = DataArguments(data_dir=str(tmp_path / "data"), check_recordings=False)
    recordings = load_recordings(arguments)
    (tmp_path / "data/train/low/low_train_0.wav").unlink()
    (tmp_path / "data/test/low/low_test_0.wav").write_bytes(b"no audio")
    run = fit_to_recordings(recordings, LABELS, 16000, arguments)
    assert len(run.examples["train"].features) == 31 and len(run.evaluations["test"].files) == 7


def test_no_baseline(tones, tiny_options, tmp_path, monkeypatch, capsys):
    assert prepare_baseline({}, LABELS, 16000, DataArguments(streaming=True)) is None
    assert capsys.readouterr().err == ("No baseline: with --streaming, the training recordings are read only once.\n")

    class Reached(BaseException):
        pass

    def reach(name: str):
        def stop(*arguments, **options):
            raise Reached(name)

        return stop

    monkeypatch.setattr(train_module, "prepare_baseline", reach("baseline"))
    monkeypatch.setattr(train_module, "keep_decoded", reach("training"))
    for option, expected in (("true", "baseline"), ("false", "training")):
        command = ["sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / option), *tiny_options]
        with pytest.raises(Reached, match=expected):
            train_module.train(*parse_train_arguments([*command, "--baseline", option]))


@pytest.mark.parametrize(
    ("network", "baseline", "verdict", "text"),
    [
        (
            95,
            70,
            "better",
            "better than the baseline (logistic regression on log-mel statistics): accuracy 25.0 points",
        ),
        (74, 70, "equal", "on test: accuracy 4.0 points higher. With 100 clips, this could be chance (95 % interval"),
        (70, 70, "equal", "have the same accuracy on test (100 clips); 95 % interval −"),
        (69, 70, "worse", "accuracy 1.0 points lower on test (100 clips); 95 % interval −"),
        (50, 70, "worse", "Do not deploy it. Try harder."),
    ],
)
def test_verdict_on_network_and_baseline(network, baseline, verdict, text):
    rng = np.random.default_rng(0)
    right = [rng.permutation(100) < count for count in (network, baseline)]
    result = compare_with_baseline(
        {"test": make_evaluation(right[0])}, {"test": make_evaluation(right[1])}, "Try harder.", "Test on more."
    )
    assert result["verdict"] == verdict and text in result["text"]
    test = mcnemar(right[1], right[0])
    assert f"McNemar's test: {format_p(test['p'], 'p')}" in result["text"]
    assert ("Try harder." in result["text"]) == (network <= baseline)
    assert ("Test on more." in result["text"]) == (network in (74, 70, 69))
    row = result["rows"][0]
    assert row["network"]["value"] == network / 100 and row["baseline"]["value"] == baseline / 100
    # The interval is paired: its width depends on the clips that only one of the two predicts correctly.
    deviation = np.std(right[0].astype(float) - right[1])
    assert row["difference"]["high"] - row["difference"]["low"] == pytest.approx(2 * 1.96 * deviation / 10, rel=0.15)
    assert result["table"][0][:4] == [
        "test",
        "100",
        "Accuracy",
        "{value:.3f} ({low:.3f}–{high:.3f})".format(**row["network"]),
    ]


def test_equal_and_perfect_results_get_no_advice():
    perfect = {"test": make_evaluation(np.ones(80, bool))}
    text = compare_with_baseline(perfect, perfect, "Try harder.", "Test on more.")["text"]
    assert text.endswith("both reach accuracy 1.000 on test (80 clips).")


def test_multi_label_is_compared_by_map():
    network, baseline = (make_evaluation(np.arange(60) < count, is_multi_label=True) for count in (60, 30))
    result = compare_with_baseline({"test": network}, {"test": baseline})
    assert [row["metric"] for row in result["rows"]] == ["mAP", "macro_f1"] and result["verdict"] == "better"
    assert "mAP" in result["text"]


def test_clips_are_paired_by_name(tmp_path):
    right = np.arange(10) < 7
    network, baseline = make_evaluation(right), make_evaluation(~right)
    # The baseline was evaluated on some of the clips, and has another order of classes.
    part = Evaluation(
        "test",
        baseline.files[6:2:-1],
        ["low", "high"],
        1 - baseline.references[6:2:-1],
        baseline.probabilities[6:2:-1, ::-1],
    )
    pair = pair_up(network, part)
    assert pair[0].files == pair[1].files == part.files
    np.testing.assert_array_equal(pair[0].is_right, right[6:2:-1])
    np.testing.assert_array_equal(pair[1].is_right, ~right[6:2:-1])
    # Clips without a partner, duplicate names and other true classes cannot be paired.
    assert pair_up(part, network) is None
    assert (
        pair_up(Evaluation("test", ["0.wav"] * 10, list(LABELS), network.references, network.probabilities), part)
        is None
    )
    assert (
        pair_up(Evaluation("test", network.files, list(LABELS), 1 - network.references, network.probabilities), part)
        is None
    )
    # Prediction files give the same pairs.
    write_predictions(part, tmp_path / "predictions" / "baseline_test.csv")
    again = pair_up(network, read_baseline(tmp_path, "test", is_multi_label=False))
    assert sorted(zip(again[1].files, again[1].is_right)) == sorted(zip(part.files, pair[1].is_right))
    assert read_baseline(tmp_path, "validation", is_multi_label=False) is None


def test_pairs_keep_the_predicted_classes():
    """Multi-label pairs keep the predicted classes, because the thresholds are not known any more."""
    predicted = np.array([[0, 1], [1, 0], [1, 1]])
    probabilities = np.full((3, 2), 0.25, np.float32)
    network = Evaluation("test", ["a", "b", "c"], ["x", "y"], predicted, probabilities, predicted=predicted)
    own = predicted[[2, 0], ::-1]
    baseline = Evaluation("test", ["c", "a"], ["y", "x"], own, probabilities[:2], predicted=own)
    for part in pair_up(network, baseline):
        assert part.is_right.all() and part.metrics["macro_f1"] == 1.0


def test_advice_omits_options_already_used():
    assert advise(SANetConfig(), 0.0) == (
        "Try more recordings, longer training (--num_train_epochs or --max_minutes), the network for few recordings "
        "(sanet_spectrogram.yaml, or no configuration file) or --mixup_alpha 1."
    )
    config = SANetConfig(spectrogram_dim=[8], spectrogram_pool=[[1, 1]])
    assert "spectrogram" not in advise(config, 1.0) and "mixup" not in advise(config, 1.0)
    assert "pretrained" in advise(Wav2Vec2Config(), 0.0)
    assert advise(config, 1.0, is_long=True) == "Try more recordings."
    assert advise(config, 0.0, is_long=True) == "Try more recordings or --mixup_alpha 1."
    assert "leave out --head_only" in advise(SANetConfig(), 0.0, head_only=True)
