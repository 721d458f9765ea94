# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Comparison of models: statistics against plain computations, measurements, and files."""

import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    AutoModelForAudioClassification,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.training.evaluation import compare as compare_module
from sanet_hf.training.evaluation.compare import Candidate, compare, unique_names
from sanet_hf.training.evaluation.costs import (
    count_flops,
    make_inputs,
    make_noise,
    measure_memory,
    measure_speed,
    model_bytes,
)
from sanet_hf.training.evaluation.results import Evaluation
from sanet_hf.training.evaluation.statistics import (
    bootstrap,
    difference,
    interval,
    mcnemar,
    resample,
    resampled_f1,
    resampled_map,
)
from sanet_hf.training.reports.comparison import describe_difference, recommend, to_markdown


LABELS = ["a", "b", "c"]
SANET = {
    "conv_dim": (8, 16, 16),
    "conv_kernel": (16, 8, 4),
    "conv_stride": (4, 4, 4),
    "attention_after": (2,),
    "attention_dim": (16,),
    "num_attention_heads": 2,
    "classifier_hidden_sizes": (16,),
    "pool_hidden_size": 16,
    "se_reduction": 4,
}
TRANSFORMER = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
WAVEFORM = {**TRANSFORMER, "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "max_source_positions": 100,
    "classifier_proj_size": 16,
}
MODELS = {
    "sanet": (SANetConfig(**SANET, num_labels=3), SANetFeatureExtractor()),
    "wav2vec2": (Wav2Vec2Config(**WAVEFORM, num_labels=3), Wav2Vec2FeatureExtractor(return_attention_mask=True)),
    "hubert": (HubertConfig(**WAVEFORM, num_labels=3), Wav2Vec2FeatureExtractor()),
    "ast": (ASTConfig(**TRANSFORMER, max_length=128, num_labels=3), ASTFeatureExtractor(max_length=128)),
    "whisper": (WhisperConfig(**WHISPER, num_labels=3), WhisperFeatureExtractor(chunk_length=2)),
}


def make_evaluation(seed: int = 0, num_clips: int = 60, is_multi_label: bool = False, noise: float = 1.0, **kwargs):
    """Return an evaluation with rounded probabilities, so that some are equal. The seed does not change the labels."""
    rng = np.random.default_rng(99)
    references = rng.integers(len(LABELS), size=num_clips)
    matrix = np.eye(len(LABELS), dtype=int)[references]
    if is_multi_label:
        references = matrix = (rng.random(matrix.shape) < 0.4).astype(int)
    probabilities = 0.3 + 0.4 * matrix + 0.2 * noise * np.random.default_rng(seed).standard_normal(matrix.shape)
    arguments = {
        "split": "test",
        "files": [f"{index}.wav" for index in range(num_clips)],
        "labels": LABELS,
        "references": references,
        "probabilities": probabilities.clip(0, 1).round(1).astype(np.float32),
    }
    return Evaluation(**{**arguments, **kwargs})


@pytest.fixture
def make_candidate(tmp_path_factory):
    def make(name: str = "run", model_type: str = "sanet", evaluation: Evaluation | None = None) -> Candidate:
        folder = tmp_path_factory.mktemp("runs")
        config, feature_extractor = MODELS[model_type]
        model = AutoModelForAudioClassification.from_config(copy.deepcopy(config)).eval()
        model.save_pretrained(folder)
        feature_extractor.save_pretrained(folder)
        evaluation = evaluation or make_evaluation()
        return Candidate(name, model, feature_extractor, evaluation, 75.0, model_bytes(folder), folder)

    return make


@pytest.fixture
def without_process(monkeypatch):
    """Replace the measurement of memory, because its process takes seconds to start."""
    monkeypatch.setattr(compare_module, "measure_memory", lambda *arguments: 987_654_321)


def test_resamples_are_drawn_with_replacement(monkeypatch):
    weights = np.concatenate(list(resample(30, seed=1, num_resamples=500)), axis=1)
    assert weights.shape == (30, 500)
    assert (weights.sum(axis=0) == 30).all()
    # The variance of how often one of n clips is drawn is 1 - 1 / n.
    assert weights.var() == pytest.approx(1 - 1 / 30, abs=0.05)
    assert (weights == next(resample(30, seed=1, num_resamples=500))).all()
    monkeypatch.setattr("sanet_hf.training.evaluation.statistics.MAX_DRAWS", 100)
    assert [block.shape for block in resample(30, seed=1, num_resamples=7)] == [(30, 3), (30, 3), (30, 1)]


def test_intervals_match_brute_force():
    """Metrics with weights equal the metrics of clips that are actually repeated."""
    evaluations = [make_evaluation(seed) for seed in (1, 2)]
    result = bootstrap(evaluations, seed=3)
    weights = next(resample(60, seed=3))
    drawn = [np.repeat(np.arange(60), counts) for counts in weights.T.astype(int)]
    for row, evaluation in enumerate(evaluations):
        accuracies = [evaluation.is_right[clips].mean() for clips in drawn]
        assert interval(result["accuracy"][row]) == pytest.approx(interval(np.array(accuracies)))
    change = [evaluations[1].is_right[clips].mean() - evaluations[0].is_right[clips].mean() for clips in drawn]
    low, high = np.percentile(change, [2.5, 97.5])
    test = difference(evaluations, result["accuracy"], 0, 1)
    assert (test["low"], test["high"]) == (pytest.approx(low), pytest.approx(high))
    true, predicted = evaluations[0].references, evaluations[0].probabilities.argmax(axis=1)
    expected = [f1_score(true[clips], predicted[clips], average="macro") for clips in drawn[:100]]
    np.testing.assert_allclose(result["macro_f1"][0, :100], expected, rtol=1e-6)


def test_multi_label_intervals_match_brute_force():
    evaluation = make_evaluation(is_multi_label=True)
    result = bootstrap([evaluation], seed=0)
    assert list(result) == ["mAP", "macro_f1"]
    weights = next(resample(60, seed=0))
    for index in range(50):
        clips = np.repeat(np.arange(60), weights[:, index].astype(int))
        true, probabilities = evaluation.true_matrix[clips], evaluation.probabilities[clips]
        expected = average_precision_score(true, probabilities, average="macro")
        assert result["mAP"][0, index] == pytest.approx(expected)
        expected = f1_score(true, evaluation.predicted_matrix[clips], average="macro")
        assert result["macro_f1"][0, index] == pytest.approx(expected)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_weights_of_one_give_the_metrics(is_multi_label):
    """This also holds if a class has no clip."""
    evaluation = make_evaluation(is_multi_label=is_multi_label)
    nothing = np.zeros((60, 1), int if is_multi_label else np.float32)
    wider = make_evaluation(
        is_multi_label=is_multi_label,
        labels=[*LABELS, "d"],
        references=np.hstack([evaluation.references, nothing]) if is_multi_label else evaluation.references,
        probabilities=np.hstack([evaluation.probabilities, nothing.astype(np.float32)]),
    )
    for candidate in (evaluation, wider):
        once = np.ones((60, 1), np.float32)
        assert resampled_f1(candidate, once)[0] == pytest.approx(candidate.metrics["macro_f1"], rel=1e-6)
        if is_multi_label:
            assert resampled_map(candidate, once)[0] == pytest.approx(candidate.metrics["mAP"], rel=1e-6)


@pytest.mark.parametrize(
    ("only_first", "only_other", "p"),
    [(0, 0, 1.0), (2, 2, 1.0), (0, 5, 2 / 2**5), (1, 7, 2 * (1 + 8) / 2**8), (8, 2, 2 * (1 + 10 + 45) / 2**10)],
)
def test_mcnemar(only_first, only_other, p):
    """p is twice the binomial tail, computed by hand."""
    first = np.array([True] * 20 + [False] * 4 + [True] * only_first + [False] * only_other)
    other = np.array([True] * 20 + [False] * 4 + [False] * only_first + [True] * only_other)
    assert mcnemar(first, other) == {"b": only_first, "c": only_other, "p": pytest.approx(p)}


@pytest.mark.parametrize("model_type", MODELS)
def test_every_architecture_can_be_measured(make_candidate, model_type):
    candidate = make_candidate(model_type=model_type)
    model, feature_extractor = candidate.model, candidate.feature_extractor
    inputs = make_inputs(model, feature_extractor, make_noise(feature_extractor, 1, 1.0, seed=0))
    flops = count_flops(model, inputs)
    assert flops > 10**5
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert count_flops(model, inputs) == flops
    (speed,) = measure_speed([(model, feature_extractor)], 1.0, batch_size=2, num_rounds=1, seed=0)
    assert all(value > 0 for value in speed.values())


def test_cost_of_a_clip_includes_all_windows(make_candidate):
    candidate = make_candidate()
    model, feature_extractor = candidate.model, candidate.feature_extractor
    flops = {}
    for seconds in (0.25, 0.6):
        feature_extractor.max_length_seconds = 0.25
        inputs = make_inputs(model, feature_extractor, make_noise(feature_extractor, 2, seconds, seed=0))
        flops[seconds] = len(inputs["input_values"]), count_flops(model, inputs)
    assert flops[0.25][0] == 2 and flops[0.6][0] == 6
    assert flops[0.6][1] == 3 * flops[0.25][1]


def test_flops_of_sanet_match_the_formula():
    """The formula omits only small parts."""
    config = SANetConfig(num_labels=10)
    feature_extractor = SANetFeatureExtractor()
    model = SANetForAudioClassification(config).eval()
    flops = count_flops(model, make_inputs(model, feature_extractor, make_noise(feature_extractor, 1, 4.0, seed=0)))
    expected, frames, inputs = 0, 64000, 1
    dims = dict(zip(config.attention_after, config.attention_dim))
    for stage, (width, kernel, stride) in enumerate(zip(config.conv_dim, config.conv_kernel, config.conv_stride)):
        frames //= stride
        expected += frames * (kernel * width * (inputs + width) + width * inputs)
        if stage in dims:
            dim, merged = dims[stage], frames // config.attention_stride
            expected += merged * (4 * width**2 + width * dim + 4 * dim**2 + 2 * merged * dim)
            expected += frames * (dim**2 + dim * width)
        inputs = width
    expected += frames * config.conv_dim[-1] * config.pool_hidden_size
    assert flops == pytest.approx(2 * expected, rel=1e-3)
    assert flops == pytest.approx(13.70e9, rel=1e-3)


def test_model_bytes_ignore_training_files(make_candidate):
    folder = make_candidate().path
    size = sum((folder / f).stat().st_size for f in ("config.json", "preprocessor_config.json", "model.safetensors"))
    (folder / "checkpoint-8").mkdir()
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "checkpoint-8/model.safetensors"):
        (folder / name).write_bytes(b"0" * 1000)
    assert model_bytes(folder) == size
    assert model_bytes(folder / "user/model-on-the-hub") is None


def test_memory_is_measured(make_candidate):
    candidate = make_candidate()
    memory = measure_memory(candidate.model, candidate.feature_extractor, candidate.path, 0.5, batch_size=1)
    assert 10**7 < memory < 10**11


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_comparison_files_have_the_results(make_candidate, without_process, tmp_path, is_multi_label, capsys):
    names = ["sanet", "a|b <i>$x$</i>", "ast"]
    candidates = [
        make_candidate(name, model_type, make_evaluation(seed, is_multi_label=is_multi_label, noise=seed + 1))
        for seed, (name, model_type) in enumerate(zip(names, ("sanet", "wav2vec2", "ast")))
    ]
    candidates[2].training_seconds = None
    # The last run has a baseline for some of the clips.
    part = make_evaluation(7, is_multi_label=is_multi_label, noise=3)
    candidates[2].baseline = Evaluation("test", part.files[:30], LABELS, part.references[:30], part.probabilities[:30])
    result = compare(candidates, tmp_path / "new", clip_seconds=0.5, batch_size=2, num_rounds=2)
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"comparison.{ending}" for ending in ("html", "json", "md", "png")
    ]
    assert json.loads((tmp_path / "new/comparison.json").read_text()) == result

    metric = "mAP" if is_multi_label else "accuracy"
    first, *others = result["candidates"]
    assert [row["name"] for row in result["candidates"]] == names
    for row, candidate in zip(result["candidates"], candidates):
        assert list(row["metrics"]) == [metric, "macro_f1"]
        for name, values in row["metrics"].items():
            assert values["low"] <= values["value"] == candidate.evaluation.metrics[name] <= values["high"]
        assert row["parameters"] == candidate.model.num_parameters()
        assert row["latency_p95"] >= row["latency_median"] >= row["model_latency_median"] > 0
    assert first["difference"] is first["baseline"] is None
    simple = others[1]["baseline"]
    assert simple["num_clips"] == 30 and simple["low"] <= simple["value"] <= simple["high"]
    assert simple["value"] == candidates[2].baseline.metrics[metric]
    for row in others:
        value = row["metrics"][metric]["value"] - first["metrics"][metric]["value"]
        assert row["difference"]["value"] == pytest.approx(value)
    assert first["input_shape"] == [4000]  # one of two windows
    assert others[1]["input_shape"] == [128, 128]
    assert others[1]["training_seconds"] is None
    assert list(others[1]["not_measured"]) == ["training_seconds"]

    markdown = (tmp_path / "new/comparison.md").read_text()
    lines = markdown.splitlines()
    table = lines[: lines.index("")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    values = first["metrics"][metric]
    assert "{value:.3f} ({low:.3f}–{high:.3f})".format(**values) in table[2]
    (row,) = [line for line in table if line.startswith("| Log-mel baseline")]
    assert row.endswith("| – | – | {value:.3f} ({low:.3f}–{high:.3f}) |".format(**simple))
    assert "| Training time | 1.2 min | 1.2 min | – |" in table
    assert "| Peak memory | 987.7 MB | 987.7 MB | 987.7 MB |" in table

    html = (tmp_path / "new/comparison.html").read_text()
    assert "http" not in html.replace("http-equiv", "") and "url(" not in html.replace("url(#", "")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html) and "<script" not in html
    assert "<i>" not in html and "a|b &lt;i&gt;$x$&lt;/i&gt;" in html
    for text in (f"{values['value']:.3f}", "987.7 MB", "1.2 min"):
        assert text in html
    assert (tmp_path / "new/comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_candidate(make_candidate, without_process, tmp_path):
    """If all 60 clips are correct, the bootstrap gives no interval, but Wilson's is 0.940 to 1."""
    candidate = make_candidate(evaluation=make_evaluation(noise=0))
    result = compare([candidate], tmp_path, clip_seconds=0.25, batch_size=1, num_rounds=1)
    assert result["candidates"][0]["difference"] is None
    accuracy = result["candidates"][0]["metrics"]["accuracy"]
    assert (accuracy["value"], accuracy["low"], accuracy["high"]) == (1.0, pytest.approx(0.9398, abs=1e-4), 1.0)
    markdown = (tmp_path / "comparison.md").read_text()
    assert "| Accuracy (95 % interval) | 1.000 (0.940–1.000) |" in markdown
    assert "| Macro F1 (95 % interval) | 1.000 (–) |" in markdown and "the bootstrap gives no interval" in markdown
    assert "McNemar" not in to_markdown(result)


def test_failed_measurement_is_reported(make_candidate, monkeypatch, tmp_path):
    def fail(*arguments):
        raise MemoryError("too large")

    monkeypatch.setattr(compare_module, "measure_memory", fail)
    row = compare([make_candidate()], tmp_path, clip_seconds=0.25, batch_size=1, num_rounds=1)["candidates"][0]
    assert row["memory_bytes"] is None
    assert row["not_measured"] == {"memory_bytes": "MemoryError: too large"}
    assert "| Peak memory | – |" in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (make_evaluation(labels=["a", "b", "z"]), "their classes differ .only one of them has c, z"),
        (make_evaluation(num_clips=50), "different clips .60 of the test split and 50"),
        (make_evaluation(files=[f"{index}.flac" for index in range(60)]), "different clips"),
        (make_evaluation(split="validation"), "60 of the test split and 60 of the validation split"),
        (make_evaluation(references=np.zeros(60, int)), "the true classes of their clips differ"),
        (make_evaluation(is_multi_label=True), "the true classes of their clips differ"),
    ],
)
def test_incomparable_runs_are_an_error(make_candidate, tmp_path, evaluation, message):
    candidates = [make_candidate("one"), make_candidate("two", evaluation=evaluation)]
    with pytest.raises(ValueError, match=rf"Cannot compare \S*runs\S* and \S*runs\S*: .*{message}"):
        compare(candidates, tmp_path, batch_size=1)
    assert not list(tmp_path.iterdir())


def test_labels_can_have_another_order(make_candidate, without_process, tmp_path):
    one = make_evaluation()
    order = [2, 0, 1]
    two = make_evaluation(
        labels=[LABELS[index] for index in order],
        references=np.argsort(order)[one.references],
        probabilities=one.probabilities[:, order],
    )
    candidates = [make_candidate("one", evaluation=one), make_candidate("two", evaluation=two)]
    result = compare(candidates, tmp_path, clip_seconds=0.25, batch_size=1, num_rounds=1)
    assert result["candidates"][1]["difference"]["p"] == 1.0


def test_no_runs_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="no run"):
        compare([], tmp_path, batch_size=1)


def test_unique_names(make_candidate):
    paths = ["x/run", "y/run", "other", "y/run", "p/z/same", "q/z/same"]
    candidates = [replace(make_candidate(path.split("/")[-1]), path=path) for path in paths]
    assert unique_names(candidates) == ["x/run", "y/run (1)", "other", "y/run (2)", "p/z/same", "q/z/same"]
    # The models of cross-validations are in subfolders.
    candidates = [replace(make_candidate("cv"), path=f"{x}/cv/fold_1", folder=f"{x}/cv") for x in "ab"]
    assert unique_names(candidates) == ["a/cv", "b/cv"]


def make_row(name: str, accuracy: float, seconds: float, is_significant: bool, p: float = 0.02) -> dict:
    gap = {"value": 0.031, "low": 0.005, "high": 0.057, "p": p, "is_significant": is_significant}
    metrics = {"accuracy": {"value": accuracy}}
    return {"name": name, "latency_median": seconds, "metrics": metrics, "difference": gap, "behind_best": gap}


def test_difference_is_described():
    sanet = make_row("sanet", 0.9, 0.1, True)
    assert describe_difference("accuracy", sanet, make_row("ast", 0.931, 0.9, True)) == (
        "ast is 3.1 points more accurate than sanet (95 % interval 0.5 to 5.7; p = 0.02), and takes 9.0 times as "
        "long per clip."
    )
    worse = make_row("ast", 0.869, 0.1, False, p=0.2)
    worse["difference"] |= {"value": -0.031, "low": -0.07, "high": 0.01}
    assert describe_difference("accuracy", sanet, worse) == (
        "ast is 3.1 points less accurate than sanet, which could be chance (95 % interval −1.0 to 7.0; p = 0.2), and "
        "takes about the same time per clip."
    )


def test_recommendation_weighs_accuracy_and_speed():
    def advise(*rows):
        return recommend({"metric": "accuracy", "candidates": rows})

    fast_and_worse, slow_and_best = make_row("sanet", 0.9, 0.1, True), make_row("ast", 0.93, 0.9, False)
    assert advise(fast_and_worse, slow_and_best) == "Use ast if accuracy matters most, sanet if speed does."
    fast_and_best = make_row("sanet", 0.95, 0.1, False)
    assert advise(fast_and_best, make_row("ast", 0.9, 0.9, True)).endswith("and the fastest.")
    as_good = make_row("middle", 0.92, 0.5, False)
    assert advise(as_good, slow_and_best) == (
        "Use middle: it is the fastest, and no other model is significantly more accurate. ast could still be up to "
        "5.7 points more accurate."
    )
    assert "sanet is faster, but less accurate" in advise(fast_and_worse, as_good, slow_and_best)
    # Between models of equal accuracy, no possible gain is named.
    equal = make_row("middle", 0.93, 0.5, False)
    equal["behind_best"] |= {"value": 0.0, "low": 0.0, "high": 0.0}
    assert advise(equal, slow_and_best).endswith("no other model is significantly more accurate.")


def test_more_accurate_model_is_recommended_if_times_are_about_the_same():
    def advise(*rows):
        return recommend({"metric": "accuracy", "candidates": rows})

    head, sanet = make_row("head", 0.85, 0.0243, False), make_row("sanet", 0.95, 0.0246, False)
    assert "about the same time" in describe_difference("accuracy", sanet, head)
    assert advise(sanet, head) == "Use sanet: it is the most accurate and the fastest (within 10 %)."
    slower = make_row("sanet", 0.95, 1.11 * 0.0243, False)
    assert "times as fast" in describe_difference("accuracy", slower, head)
    assert advise(slower, head).startswith("Use head: it is the fastest, and")


def test_recommendation_avoids_models_that_are_not_better_than_their_baseline():
    def advise(*rows):
        return recommend({"metric": "accuracy", "candidates": rows})

    rows = make_row("head", 0.85, 0.1, False), make_row("sanet", 0.95, 0.3, False)
    for row, gain in zip(rows, (0.0, 0.1)):
        row["baseline"] = {"difference": {"value": gain}}
    assert advise(*rows).startswith("Use sanet: it is the fastest of the models that are not significantly less")
    rows[1]["baseline"]["difference"]["value"] = 0.0
    assert advise(*rows).startswith("Use head:") and "head is not more accurate than its log-mel" in advise(*rows)
    for row in rows:
        row["baseline"]["difference"]["value"] = -0.05
    assert advise(*rows).startswith("Use none of these models")
    # The fastest model is not recommended for its speed if the baseline is as good.
    rows[0]["behind_best"] = {**rows[0]["behind_best"], "is_significant": True}
    rows[1]["baseline"]["difference"]["value"] = 0.1
    assert advise(*rows) == (
        "Use sanet: it is the most accurate. head is faster, but not more accurate than its log-mel baseline."
    )
