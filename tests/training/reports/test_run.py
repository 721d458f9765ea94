# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of a run: self-contained, valid HTML with correct numbers, for few and many classes, and multi-label."""

import base64
import io
import re
from collections import defaultdict
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from sanet_hf.training.evaluation.results import Evaluation, accuracy_interval
from sanet_hf.training.reports.html import encode_audio, plot_durations, shorten_middle
from sanet_hf.training.reports.run import count_confusions, list_confusions, list_mistakes, plot_history, write_report


VOID = {"meta", "link", "br", "img", "input", "hr"}
HISTORY = [
    {"epoch": 1.0, "loss": 2.0, "learning_rate": 1e-3},
    {"epoch": 1.0, "eval_loss": 1.5, "eval_accuracy": 0.5, "eval_macro_f1": 0.4},
    {"epoch": 2.0, "loss": 1.0, "learning_rate": 5e-4},
    {"epoch": 2.0, "eval_loss": 0.5, "eval_accuracy": 0.9, "eval_macro_f1": 0.8},
    {"epoch": 3.0, "loss": 0.5, "learning_rate": 0.0},
    {"epoch": 3.0, "eval_loss": 0.75, "eval_accuracy": 0.7, "eval_macro_f1": 0.6},
    {"epoch": 3.0, "train_loss": 1.2, "train_runtime": 10.0},
]


class Page(HTMLParser):
    """Parse elements, references, text and the table rows of each section. Fail if tags are not paired."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.ids, self.references, self.styles, self.text = [], set(), [], [], []
        self.rows, self._section, self._open = defaultdict(list), None, []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self._open.append(tag)
        self._add(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self._add(tag, attrs)

    def _add(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for name, value in attrs if name == "id"}
        names = ("src", "href", "xlink:href", "srcset", "data", "poster", "action")
        self.references += [value for name, value in attrs if name in names]
        self.styles += [value for _, value in attrs if value and "url(" in value]
        if tag == "h2":
            self._section = dict(attrs)["id"]
        if tag == "tr":
            self.rows[self._section].append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if "style" in self._open:
            self.styles.append(data)
        elif self._open:
            self.text.append(data)
            if {"td", "th"} & set(self._open):
                self.rows[self._section][-1][-1] += data.strip()

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def find(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and attributes.items() <= a.items()]


def make_evaluation(num_classes=3, num_clips=40, split="test", labels=None, is_multi_label=False, strength=2.0):
    """Return an evaluation with random predictions. A larger strength makes more of them correct."""
    rng = np.random.default_rng(num_classes)
    labels = labels or [f"class {index}" for index in range(num_classes)]
    logits = rng.standard_normal((num_clips, len(labels)))
    if is_multi_label:
        references = (rng.random(logits.shape) < 0.3).astype(int)
        probabilities = 1 / (1 + np.exp(1 - logits - strength * references))
    else:
        references = rng.integers(0, len(labels), num_clips)
        logits[np.arange(num_clips), references] += strength
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    files = [f"{split}/clip_{index}.wav" for index in range(num_clips)]
    return Evaluation(split, files, labels, references, probabilities.astype(np.float32))


@pytest.fixture
def report(tmp_path):
    """Return a function that writes a report and parses it."""

    def make(*evaluations, title="Report", facts=None, log_history=HISTORY, **kwargs) -> Page:
        path = tmp_path / "new" / "report.html"
        by_split = {evaluation.split: evaluation for evaluation in evaluations}
        durations = {split: np.linspace(0.5, 4, len(evaluation.files)) for split, evaluation in by_split.items()}
        write_report(path, title, facts or {"Model": "tiny"}, by_split, durations, log_history, **kwargs)
        return Page(path.read_text(encoding="utf-8"))

    return make


def ramp(split, index):
    return np.linspace(-1, 1, 100 + index, dtype=np.float32)


def decode(uri: str) -> tuple[np.ndarray, int]:
    prefix = "data:audio/wav;base64,"
    assert uri.startswith(prefix)
    return soundfile.read(io.BytesIO(base64.b64decode(uri.removeprefix(prefix))), dtype="float32")


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_report_fetches_and_runs_nothing(report, is_multi_label):
    page = report(make_evaluation(is_multi_label=is_multi_label), load_clip=ramp)
    assert page.find("audio") and page.find("svg")
    for reference in page.references:
        assert reference.startswith(("data:", "#")), reference
    for style in page.styles:
        assert "@import" not in style and re.findall(r"url\((.)", style) == ["#"] * style.count("url("), style
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "img"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_references_have_targets_in_the_page(report):
    page = report(make_evaluation(split="validation"), make_evaluation())
    targets = [reference[1:] for reference in page.references if reference.startswith("#")]
    targets += [target for style in page.styles for target in re.findall(r"url\(#([^)]*)\)", style)]
    assert {"results", "data", "training", "confusions", "classes", "calibration", "mistakes"} <= set(targets)
    assert len(targets) > 20
    assert set(targets) <= page.ids


def test_names_are_escaped(report):
    labels = [
        "<script>alert(1)</script>",
        "a & b \"c\" 'd'",
        "</table>",
        "$x_1$",
        "ツグミ 🐦",
        "{{ 7 * 7 }}",
        "long " * 60,
    ]
    evaluation = make_evaluation(labels=labels, strength=0)
    evaluation.files = [f"<b>{file}" for file in evaluation.files]
    page = report(evaluation, title="<i>Title", facts={"<u>Fact": "<s>value", "Command": "<em> --option 1"})
    assert not {tag for tag, _ in page.tags} & {"script", "u", "s", "em"}
    for text in (*labels, "<i>Title", "<u>Fact", "<s>value", "<em> --option 1", "<b>test/clip_"):
        assert " ".join(text.split()) in page.words, text
    assert {label.strip() for label in labels} <= {row[0] for row in page.rows["classes"]}
    assert page.find("th", title=labels[0])


@pytest.mark.parametrize("num_classes", [2, 25, 26, 60, 61, 100])
def test_confusions_of_few_and_many_classes(report, num_classes):
    evaluation = make_evaluation(num_classes, num_clips=3 * num_classes, strength=1.0)
    page = report(evaluation)
    matrices = [a["class"].split() for a in page.find("div") if "matrix" in a.get("class", "").split()]
    rows = [row for row in page.rows["confusions"] if row[0] in evaluation.labels]
    counts = count_confusions(evaluation)
    if num_classes <= 25:
        assert matrices == [["scroll", "matrix"]]
        assert [[int(cell or 0) for cell in row[1:]] for row in rows] == counts.tolist()
    elif num_classes <= 60:
        assert matrices == [["scroll", "matrix", "dense"]]
        cells = [row[1:] for row in rows if len(row) == num_classes + 1]
        assert len(cells) == num_classes and not any(map(any, cells))
    else:
        assert not matrices
    listed = [row for row in rows if re.fullmatch(r"\d+ of \d+", row[2])]
    num_confusions = np.count_nonzero(counts * (1 - np.eye(num_classes)))
    assert len(listed) == (min(30, num_confusions) if num_classes > 25 else 0)


def test_confusion_matrix_by_hand(report):
    """Two clips of a are predicted as a. Two clips of b are predicted as b and c. Class c has no clip."""
    probabilities = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    evaluation = Evaluation("test", list("wxyz"), ["a", "b", "c"], np.array([0, 0, 1, 1]), probabilities)
    page = report(evaluation)
    assert page.rows["confusions"][1:] == [
        ["a", "2", "", ""],
        ["b", "", "1", "1"],
        ["c", "", "", ""],
    ]
    (wrong,) = page.find("td", title="b → c: 1 of 2")
    assert (wrong["class"], wrong["style"]) == ("miss", "--value:0.500")
    (right,) = page.find("td", title="a → a: 2 of 2")
    assert (right["class"], right["style"]) == ("hit", "--value:1.000")
    assert list_confusions(evaluation) == [{"true": "b", "predicted": "c", "count": 1, "support": 2}]
    # Class c has no clips, so it has no recall and F1. Its only prediction is wrong.
    assert page.rows["classes"][1:] == [
        ["a", "1.000", "1.000", "1.000", "2"],
        ["b", "1.000", "0.500", "0.667", "2"],
        ["c", "0.000", "–", "–", "0"],
    ]


def test_most_frequent_confusions_come_first():
    references = np.array([0] * 3 + [1] * 5 + [2] * 2)
    predicted = [1, 1, 0, 2, 2, 2, 0, 1, 2, 2]
    evaluation = Evaluation("test", [""] * 10, list("abc"), references, np.eye(3, dtype=np.float32)[predicted])
    found = [(row["true"], row["predicted"], row["count"], row["support"]) for row in list_confusions(evaluation)]
    assert found == [("b", "c", 3, 5), ("a", "b", 2, 3), ("b", "a", 1, 5)]


def test_every_split_has_its_numbers(report):
    """The order in which splits are given does not matter. Only the test split is analysed in detail."""
    splits = [make_evaluation(num_classes=4, split=split, num_clips=n) for split, n in (("test", 30), ("train", 50))]
    page = report(*splits)
    names = ("accuracy", "macro_f1", "top_3_accuracy", "auroc", "ece")
    assert page.rows["results"][1:] == [
        [
            *(e.split, str(len(e.files)), *(f"{e.metrics[name]:.3f}" for name in names)),
            "{:.3f}–{:.3f}".format(*accuracy_interval(e)),
        ]
        for e in reversed(splits)
    ]
    assert f"Test split: {splits[0].is_right.sum()} of 30 clips are correct." in page.words
    assert page.rows["data"][-1] == ["All clips", "50", "1.9 min", "30", "1.1 min"]


def test_data_table_counts_each_class(tmp_path):
    evaluation = Evaluation("test", list("xyz"), ["a", "b"], np.array([[1, 0], [1, 1], [0, 0]]), np.full((3, 2), 0.7))
    write_report(tmp_path / "r.html", "", {}, {"test": evaluation}, {"test": np.array([10.0, 20.0, 40.0])}, [])
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.rows["data"][1:] == [
        ["a", "2", "30.0 s"],
        ["b", "1", "20.0 s"],
        ["All clips", "3", "1.2 min"],
    ]


@pytest.mark.parametrize(
    "splits, shown", [(["train", "validation"], "validation"), (["train"], "train"), (["all"], "all")]
)
def test_last_split_is_analysed_in_detail(report, splits, shown):
    page = report(*(make_evaluation(split=split) for split in splits))
    assert f"{shown.capitalize()} split:" in page.words
    assert f"{shown}/clip_" in page.words


def test_multi_label_report(report):
    page = report(make_evaluation(4, is_multi_label=True), load_clip=ramp)
    assert "mAP" in page.words and "confusions" not in page.ids
    assert "predicted, but absent" in page.words and "present, but missed" in page.words


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_report_of_one_clip(report, is_multi_label):
    evaluation = make_evaluation(2, num_clips=1, is_multi_label=is_multi_label)
    assert "of 1 clips are correct" in report(evaluation, log_history=[]).words


def test_report_without_mistakes(report):
    page = report(make_evaluation(30, num_clips=60, strength=50.0), load_clip=ramp)
    assert "All clips of the test split are correct." in page.words
    assert "The test split has no confusions." in page.words
    assert not page.find("audio")


def test_no_evaluation_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one split"):
        write_report(tmp_path / "report.html", "", {}, {}, {}, [])


def test_mistakes_are_ranked_by_confidence():
    """The score of the predicted class decides, not that of the true class."""
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.01, 0.39], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]], np.float32)
    evaluation = Evaluation("test", list("wxyz"), ["a", "b", "c"], np.array([0, 1, 0, 0]), probabilities)
    found = list_mistakes(evaluation, 12, None, 16000)
    assert [mistake["file"] for mistake in found] == ["y", "z", "x"]
    assert found[0]["wrong"] == [("b", pytest.approx(0.8), True), ("a", pytest.approx(0.1), False)]
    assert [mistake["file"] for mistake in list_mistakes(evaluation, 1, None, 16000)] == ["y"]


def test_multi_label_mistakes_are_ranked_by_error():
    """A class that is missed at 0.02 ranks before a class that is falsely predicted at 0.9."""
    probabilities = np.array([[0.9, 0.1, 0.2], [0.02, 0.1, 0.8], [0.1, 0.9, 0.6]], np.float32)
    references = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1]])
    found = list_mistakes(Evaluation("test", list("xyz"), list("abc"), references, probabilities), 12, None, 16000)
    assert [(mistake["file"], mistake["true"]) for mistake in found] == [("y", ["a", "c"]), ("x", [])]
    assert found[0]["wrong"] == [("a", pytest.approx(0.02), False)]
    assert found[1]["wrong"] == [("a", pytest.approx(0.9), True)]


def test_players_have_the_audio_of_the_mistakes(report):
    evaluation = make_evaluation(strength=0.5)
    wanted = [int(mistake["file"].split("_")[1][:-4]) for mistake in list_mistakes(evaluation, 5, None, 8000)]
    page = report(evaluation, load_clip=ramp, sampling_rate=8000, num_mistakes=5)
    players = page.find("audio", preload="none")
    assert len(players) == len(wanted) == 5 and all("controls" in player for player in players)
    for player, index in zip(players, wanted):
        waveform, sampling_rate = decode(player["src"])
        assert sampling_rate == 8000
        np.testing.assert_allclose(waveform, ramp("test", index), atol=1 / 32768)


def test_audio_of_a_long_clip_is_its_middle():
    waveform, _ = decode(encode_audio(np.arange(30000) / 30000, 1000))
    np.testing.assert_allclose(waveform, np.arange(10000, 20000) / 30000, atol=1 / 32768)


def test_audio_is_clipped_and_not_wrapped():
    waveform, _ = decode(encode_audio(np.array([-1.5, 0.0, 1.5]), 1000))
    np.testing.assert_allclose(waveform, [-1, 0, 1], atol=1 / 32768)


def test_unreadable_clip_is_shown_without_audio(report):
    evaluation = make_evaluation(strength=0.5)
    files = [mistake["file"] for mistake in list_mistakes(evaluation, 4, None, 16000)]

    def load_clip(split, index):
        if evaluation.files[index] == files[1]:
            raise OSError("gone")
        return ramp(split, index)

    page = report(evaluation, load_clip=load_clip, num_mistakes=4)
    assert len(page.find("audio")) == 3
    assert all(file in page.words for file in files)


def test_captions_of_curves_name_the_best_epoch():
    loss, metrics = plot_history(HISTORY)
    assert loss.caption == "Lowest validation loss: 0.500 after epoch 2."
    assert metrics.caption == "Highest Macro F1: 0.800 after epoch 2."
    for text in ("epoch", "training loss", "validation loss"):
        assert f">{text}</text>" in loss.svg
    assert ">Accuracy</text>" in metrics.svg


def test_curves_omit_the_evaluation_after_training():
    """The best model is evaluated again after training. This is logged under the last epoch, whatever its epoch."""
    again = {"epoch": 3.0, "eval_loss": 0.1, "eval_accuracy": 1.0, "eval_macro_f1": 1.0}
    assert plot_history([*HISTORY, again]) == plot_history(HISTORY)


def test_curves_show_only_logged_values(report):
    assert [plot.title for plot in plot_history([{"epoch": 0.5, "loss": 1.0}])] == ["Loss"]
    diverged = [*HISTORY, {"epoch": 4.0, "loss": float("nan"), "eval_loss": float("inf")}]
    assert plot_history(diverged)[0].caption == "Lowest validation loss: 0.500 after epoch 2."
    assert plot_history([{"eval_loss": 1.0}]) == []
    page = report(make_evaluation(), log_history=[])
    assert "training" not in page.ids and "#training" not in page.references


def test_durations_with_one_very_long_clip():
    durations = {"train": np.full(500, 2.0), "test": np.array([1.0, 7200.0])}
    caption = plot_durations(durations).caption
    assert caption == "From 1.0 s to 2.0 h, median 2.0 s. The last bar contains all clips from 2.0 s on."
    assert "last bar" not in plot_durations({"test": np.array([1.0, 1.5])}).caption
    assert plot_durations({"test": np.full(3, 2.5)}).caption == "All clips: 2.5 s."


def test_long_names_keep_both_ends():
    assert shorten_middle("Turdus merula number 1") == "Turdus mer…number 1"
    assert shorten_middle("Turdus merula") == "Turdus merula"
