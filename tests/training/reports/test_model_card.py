# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card: metadata for the Hub, correct text, and an example that runs."""

import ast
import re

import jinja2.meta
import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.training.evaluation.results import Evaluation, accuracy_interval
from sanet_hf.training.reports.model_card import TEMPLATE, write_model_card
from sanet_hf.utils.formatting import format_duration

from ..tiny_models import make_config


LABELS = ["cat", "dog", "owl"]


def make_sanet(labels=LABELS, max_length=8000, **kwargs):
    config = SANetConfig(
        conv_dim=[8, 16],
        conv_kernel=[16, 8],
        conv_stride=[4, 4],
        attention_after=[1],
        attention_dim=[16],
        num_attention_heads=2,
        classifier_hidden_sizes=[16],
        pool_hidden_size=16,
        se_reduction=4,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **kwargs,
    )
    return SANetForAudioClassification(config), SANetFeatureExtractor(max_length=max_length)


def make_wav2vec2():
    return Wav2Vec2ForSequenceClassification(make_config("wav2vec2", LABELS)), Wav2Vec2FeatureExtractor()


def make_evaluation(split="test", labels=LABELS, num_clips=20, is_multi_label=False):
    rng = np.random.default_rng(len(split))
    probabilities = rng.dirichlet(np.ones(len(labels)), num_clips).astype(np.float32)
    references = rng.integers(0, len(labels), num_clips)
    if is_multi_label:
        references = (rng.random(probabilities.shape) < 0.5).astype(int)
    return Evaluation(split, [f"{index}.wav" for index in range(num_clips)], labels, references, probabilities)


@pytest.fixture
def write_card(tmp_path):
    """Return a function that writes a card for a model (SANet by default) into `birds/` and loads it."""

    def write(*evaluations, model=None, **kwargs) -> ModelCard:
        model, feature_extractor = model or make_sanet()
        arguments = {
            "dataset_name": "recordings",
            "dataset_id": None,
            "base_model": None,
            "hyperparameters": {},
            "training_seconds": None,
        }
        by_split = {evaluation.split: evaluation for evaluation in evaluations}
        write_model_card(tmp_path / "birds", model, feature_extractor, by_split, **arguments | kwargs)
        return ModelCard.load(tmp_path / "birds" / "README.md")

    return write


def words(card: ModelCard) -> str:
    return " ".join(card.text.split())


def example(card: ModelCard) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    return block


def rows(card: ModelCard, first_cell: str) -> list[list[str]]:
    """Return the table rows that begin with this cell. `\\|` does not end a cell."""
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in card.text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table if row[0].strip() == first_cell]


def test_metadata_has_dataset_and_results(write_card):
    evaluations = [make_evaluation("train"), make_evaluation("validation"), make_evaluation("test")]
    data = write_card(*evaluations, dataset_name="Birds", dataset_id="someone/birds").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "audio-classification")
    assert data.tags == ["audio-classification", "sanet"]
    assert (data.datasets, data.metrics, data.model_name) == (["someone/birds"], ["accuracy", "f1"], "birds")
    assert "base_model" not in data.to_dict()
    metrics = evaluations[-1].metrics
    found = [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results]
    assert found == [("accuracy", "Accuracy", metrics["accuracy"]), ("f1", "Macro F1", metrics["macro_f1"])]
    for result in data.eval_results:
        assert (result.task_type, result.dataset_split) == ("audio-classification", "test")
        assert (result.dataset_type, result.dataset_name) == ("someone/birds", "Birds")


def test_metadata_without_test_split_and_without_hub(write_card):
    card = write_card(make_evaluation("validation"), make_evaluation("train"))
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert {result.dataset_type for result in card.data.eval_results} == {"audiofolder"}
    assert "datasets" not in card.data.to_dict()
    assert "no test split" in words(card)
    assert "no test split" not in words(write_card(make_evaluation("test")))


def test_metadata_of_a_multi_label_model(write_card):
    evaluation = make_evaluation(is_multi_label=True)
    card = write_card(evaluation, model=make_sanet(problem_type="multi_label_classification"))
    assert [r.metric_type for r in card.data.eval_results] == card.data.metrics == ["mAP", "f1"]
    assert card.data.eval_results[0].metric_value == evaluation.metrics["mAP"]
    assert "A multi-label audio classifier" in words(card) and "Every clip gets one" not in words(card)


def test_card_without_evaluations(write_card):
    card = write_card()
    assert not {"model-index", "metrics", "model_name"} & card.data.to_dict().keys()
    assert "was not evaluated" in words(card)


def test_custom_code_is_tagged(write_card, tmp_path):
    """Saving a SANet adds its code, and `auto_map` to the configuration."""
    model, feature_extractor = make_sanet()
    model.save_pretrained(tmp_path / "birds")
    assert "custom_code" in write_card(model=(model, feature_extractor)).data.tags
    assert write_card(model=make_wav2vec2()).data.tags == ["audio-classification", "wav2vec2"]


def test_base_model_on_the_hub_is_linked(write_card):
    card = write_card(base_model="facebook/wav2vec2-base", model=make_wav2vec2())
    assert card.data.base_model == "facebook/wav2vec2-base"
    assert "[facebook/wav2vec2-base](https://huggingface.co/facebook/wav2vec2-base)" in card.text


@pytest.mark.parametrize(
    "name", ["runs/old_one", "./runs/old_one", "{tmp_path}/runs/old_one", "runs/other/../old_one"]
)
def test_base_model_in_a_folder(write_card, tmp_path, monkeypatch, name):
    """
    A local base model is not in the metadata, even if its path could be a Hub id. The card does not contain the path,
    which is private.
    """
    (tmp_path / "runs" / "old_one").mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    card = write_card(base_model=name.format(tmp_path=tmp_path))
    assert "base_model" not in card.data.to_dict()
    assert "fine-tuned from a local checkpoint (old_one)" in words(card)
    assert "runs" not in str(card) and tmp_path.name not in str(card)


def test_card_says_trained_from_scratch(write_card):
    assert "trained from scratch on recordings." in words(write_card())


def test_card_has_results_and_training(write_card):
    evaluations = [make_evaluation("test", num_clips=12), make_evaluation("train", num_clips=30)]
    options = {"learning_rate": 0.001, "notes": "a|b"}
    card = write_card(*evaluations, hyperparameters=options, training_seconds=754, trained_on="A processor, bfloat16")
    for evaluation in evaluations:
        names = ("accuracy", "macro_f1", "auroc", "ece")
        numbers = [f"{evaluation.metrics[name]:.3f}" for name in names]
        interval = "{:.3f}–{:.3f}".format(*accuracy_interval(evaluation))
        assert rows(card, evaluation.split) == [[evaluation.split, str(len(evaluation.files)), *numbers, interval]]
    assert [len(rows(card, label)) for label in LABELS] == [2, 2, 2]
    recalls = [row[2] for row in rows(card, "owl")]
    assert recalls == [f"{evaluation.per_class()['recall'][2]:.3f}" for evaluation in reversed(evaluations)]
    assert card.text.count("<details>") == card.text.count("</details>") == 2
    assert "Clips: 30 train, 12 test." in words(card) and "Training took 12.6 min." in words(card)
    assert "Trained on: A processor, bfloat16." in words(card)
    assert rows(card, "learning_rate") == [["learning_rate", "0.001"]]
    assert rows(card, "notes") == [["notes", r"a\|b"]]


def test_card_names_machine_and_versions(write_card):
    """A checkpoint trained with a processor's wrong kernel can be recognised by its card."""
    versions = {"torch": ("2.4", "2.14"), "transformers": ("5.0", "5.24")}
    card = write_card(trained_on="Some_ CPU|2, bfloat16", tested_versions=versions)
    assert "## Training Trained on: Some\\_ CPU\\|2, bfloat16." in words(card)
    assert "Tested with: torch 2.4–2.14, transformers 5.0–5.24." in words(card)
    assert "Trained on" not in words(write_card()) and "Tested with" not in words(write_card())


def test_template_uses_exactly_the_given_values(write_card, monkeypatch):
    """`ModelCard.from_template` would silently omit a value with a misspelled name."""
    given = {}
    from_template = ModelCard.from_template
    monkeypatch.setattr(ModelCard, "from_template", lambda *args, **kw: given.update(kw) or from_template(*args, **kw))
    write_card(make_evaluation())
    used = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(TEMPLATE.read_text(encoding="utf-8")))
    assert used == {*given, "card_data"}


def test_class_without_clips_has_no_recall(write_card):
    references, probabilities = np.array([0, 0, 1]), np.eye(3, dtype=np.float32)[[0, 2, 1]]
    card = write_card(Evaluation("test", list("xyz"), LABELS, references, probabilities))
    assert rows(card, "owl") == [["owl", "0.000", "–", "–", "0"]]
    assert "their results are uncertain: cat (2), dog (1), owl (0)." in words(card)


def test_names_cannot_break_the_card(write_card):
    labels = ["a|b", "<script>x</script>", "two\nlines", "`code` *bold* [link](x)", "# -", "_it_"]
    card = write_card(make_evaluation(labels=labels), model=make_sanet(labels))
    tables = [line for line in card.text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables[-len(labels) :]} == {6}
    unescaped = re.sub(r"\\.", "", card.text)
    assert "<script" not in unescaped and "link](" not in unescaped and "*bold" not in unescaped
    assert "two lines" in card.text and rows(card, r"a\|b") and rows(card, r"\_it\_")


def test_list_of_many_classes_is_shortened(write_card):
    labels = [f"class {index}" for index in range(60)]
    card = write_card(model=make_sanet(labels))
    assert "class 49 and 10 more" in words(card) and "class 50" not in words(card)
    assert "more" not in words(write_card(model=make_sanet(labels[:50]))).split("## Use")[0]


def test_card_names_the_maximum_length_of_clips(write_card):
    sentence = "Clips can have any length up to 0.5 s."
    assert sentence in words(write_card(model=make_sanet(max_length=8000)))
    assert "Clips can" not in words(write_card(model=make_sanet(max_length=None)))
    assert "Clips can" not in words(write_card(model=make_wav2vec2()))


@pytest.mark.parametrize("make_model", [make_sanet, make_wav2vec2])
def test_example_runs(write_card, tmp_path, monkeypatch, capsys, make_model):
    model, feature_extractor = make_model()
    model.save_pretrained(tmp_path / "birds")
    feature_extractor.save_pretrained(tmp_path / "birds")
    code = example(write_card(model=(model, feature_extractor)))
    assert ("import sanet_hf" in code) == (make_model is make_sanet)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    scores = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert {score["label"] for score in scores} == set(LABELS)
    assert sum(score["score"] for score in scores) == pytest.approx(1, abs=1e-3)


def test_example_with_an_odd_folder_name(tmp_path):
    folder = tmp_path / 'my "birds" 🐦\\2'
    write_model_card(folder, *make_sanet(), {}, "recordings", None, None, {}, None)
    calls = [
        node for node in ast.walk(ast.parse(example(ModelCard.load(folder / "README.md")))) if hasattr(node, "func")
    ]
    (name,) = [keyword.value.value for call in calls for keyword in call.keywords if keyword.arg == "model"]
    assert name == folder.name


def test_accuracy_interval():
    """Wilson's interval for 5 of 10, by hand: 0.5 ± 1.96 sqrt(0.025 + 1.96² / 400) / (1 + 1.96² / 10)."""
    probabilities = np.eye(2, dtype=np.float32)[[0] * 10]
    evaluation = Evaluation("test", [""] * 10, ["a", "b"], np.array([0, 1] * 5), probabilities)
    assert accuracy_interval(evaluation) == pytest.approx((0.2366, 0.7634), abs=1e-4)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.0 s"),
        (4, "4.0 s"),
        (59.94, "59.9 s"),
        (60, "1.0 min"),
        (3599, "60.0 min"),
        (5400, "1.5 h"),
        (4e6, "1,111 h"),
    ],
)
def test_durations_are_formatted(seconds, text):
    assert format_duration(seconds) == text


def test_card_of_a_final_model_has_its_cross_validation(write_card):
    values = {"mean": 0.8125, "standard_deviation": 0.05, "low": 0.75, "high": 0.875}
    result = {
        "folds": [{"fold": str(number)} for number in range(1, 6)],
        "metrics": {"loss": values, "accuracy": values},
        "out_of_fold": {"recordings": 1234, "metrics": {}},
    }
    card = write_card(cross_validation=result)
    assert (
        "estimated by 5-fold cross-validation. 5 models" in card.content
        and "(1,234 recordings in total)" in card.content
    )
    assert "None were held out for testing" in card.content and "not evaluated" not in card.content
    assert "| Accuracy | 0.812 | 0.050 | 0.750 to 0.875 |" in card.content and "loss" not in card.content
    assert card.data.eval_results is None
    # The results of the test split are added.
    card = write_card(make_evaluation(), cross_validation=result)
    assert "on all recordings outside the test split. Its quality" in card.content
    assert "| test | 20 |" in card.content and card.data.eval_results[0].dataset_split == "test"
