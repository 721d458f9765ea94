# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Cross-validation from recordings to a report and a final model."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from sanet_hf.cli.main import main
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import DataError, TrainingTerminated, UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.training.arguments import ModelArguments
from sanet_hf.training.callbacks import TrainingClock
from sanet_hf.training.cross_validation import collect, cross_validate, name_folders, over_folds, summarize
from sanet_hf.training.data.labels import label_matrix, label_names
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.evaluation.results import Evaluation, write_predictions
from sanet_hf.training.evaluation.saved_models import evaluate_models
from sanet_hf.training.models import make_model
from sanet_hf.training.options import changed_options
from sanet_hf.training.train import train

from .conftest import write_tone
from .reports.test_run import Page


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Return a folder of two classes with nine tones each. File names begin with a published fold."""
    folder = tmp_path_factory.mktemp("folds")
    rng = np.random.default_rng(0)
    for label, low, high in (("high", 1000, 2000), ("low", 200, 400)):
        for index in range(9):
            write_tone(folder / label / f"{index % 3}-{index}.wav", rng.uniform(low, high), 0.3, seed=index)
    return folder


@pytest.fixture(scope="module")
def command(recordings, tiny_options) -> list[str]:
    options = ["--data_dir", str(recordings), *tiny_options, "--num_train_epochs", "3", "--use_cpu", "true"]
    options += ["--baseline", "true"]
    return ["train", "sanet.yaml", *options]


@pytest.fixture(scope="module")
def done(command, tmp_path_factory) -> Path:
    """Return a cross-validation of two folds with a final model. It was interrupted in fold 2 and resumed."""
    output_dir = tmp_path_factory.mktemp("runs") / "run"
    command = [*command, "--folds", "2", "--final_model", "true", "--output_dir", str(output_dir)]

    def interrupt(self, args, state, control, **kwargs):
        if args.output_dir.endswith("fold_2"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingClock, "on_save", interrupt, raising=False)
        assert main(command) == 130
    assert (output_dir / "fold_1/all_results.json").exists() and list((output_dir / "fold_2").glob("checkpoint-*"))
    assert not (output_dir / "cross_validation.json").exists()
    before = (output_dir / "fold_1/model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (output_dir / "fold_1/model.safetensors").stat().st_mtime_ns == before
    return output_dir


def test_out_of_fold_predictions_cover_each_recording_once(done, recordings):
    rows = read_table(done / "predictions/out_of_fold.csv")
    assert [row["file"] for row in rows] == sorted(str(path) for path in recordings.rglob("*.wav"))
    assert all(row["label"] == Path(row["file"]).parent.name for row in rows)
    folds = {row["file"]: row["fold"] for row in read_table(done / "folds.csv")}
    assert {row["file"]: row["fold"] for row in rows} == {str(recordings / key): folds[key] for key in folds}
    for fold in "12":
        own = [{name: value for name, value in row.items() if name != "fold"} for row in rows if row["fold"] == fold]
        assert own == read_table(done / f"fold_{fold}/predictions/test.csv") and len(own) == 9
        for split in ("train", "validation"):
            others = {row["file"] for row in read_table(done / f"fold_{fold}/predictions/{split}.csv")}
            assert others and not others & {row["file"] for row in own}


def test_results_combine_the_folds(done):
    result = json.loads((done / "cross_validation.json").read_text())
    for number, fold in enumerate(result["folds"], 1):
        assert (fold["fold"], fold["folder"], fold["recordings"]) == (str(number), f"fold_{number}", 9)
        metrics = json.loads((done / f"fold_{number}/all_results.json").read_text())
        assert fold["metrics"]["accuracy"] == metrics["test_accuracy"]
        assert fold["metrics"]["loss"] == metrics["test_loss"]
    accuracies = [fold["metrics"]["accuracy"] for fold in result["folds"]]
    assert result["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    # The folds have the same size, so the pooled accuracy is the mean.
    pooled = result["out_of_fold"]
    assert pooled["recordings"] == 18
    assert pooled["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(accuracies))
    for name in ("accuracy", "macro_f1"):
        low, value, high = (pooled["metrics"][name][key] for key in ("low", "value", "high"))
        assert 0 <= low <= value <= high <= 1 and low < high
    page = Page((done / "report.html").read_text(encoding="utf-8"))
    assert [row[:2] for row in page.rows["folds"]][:3] == [["Fold", "Clips"], ["1", "9"], ["2", "9"]]
    assert page.rows["folds"][1][2] == f"{accuracies[0]:.3f}"
    assert page.rows["folds"][3][2] == f"{result['metrics']['accuracy']['mean']:.3f}"
    assert "data" not in page.rows and [row[-1] for row in page.rows["classes"]] == ["Clips", "9", "9"]
    assert "Pooled test split: " in page.words
    assert f"{accuracies[1]:.3f}" in summarize(result)


def test_baseline_is_pooled_over_the_folds(done):
    result = json.loads((done / "cross_validation.json").read_text())
    row = result["baseline"]["rows"][0]
    metrics = [json.loads((done / f"fold_{number}/all_results.json").read_text()) for number in (1, 2)]
    assert (row["split"], row["num_clips"], row["metric"]) == ("pooled test", 18, "accuracy")
    assert row["baseline"]["value"] == pytest.approx(np.mean([own["baseline_test_accuracy"] for own in metrics]))
    assert row["network"]["value"] == pytest.approx(result["out_of_fold"]["metrics"]["accuracy"]["value"])
    rows = read_table(done / "predictions/baseline_out_of_fold.csv")
    assert [own["file"] for own in rows] == [own["file"] for own in read_table(done / "predictions/out_of_fold.csv")]
    is_right = [own["label"] == own["prediction"] for own in rows]
    assert np.mean(is_right) == pytest.approx(row["baseline"]["value"])
    for text in ((done / "report.html").read_text(encoding="utf-8"), (done / "final/README.md").read_text()):
        assert result["baseline"]["text"].split(";")[0] in text
    assert any(line.startswith("baseline, pooled") for line in summarize(result).splitlines())


def test_single_fold_agrees_with_the_cross_validation(done, command, tmp_path):
    """Folds can be trained on several machines. In the cross-validation, this fold was interrupted."""
    alone = tmp_path / "alone"
    assert main([*command, "--folds", "2", "--fold", "2", "--output_dir", str(alone)]) == 0
    for name in ("train_options.yaml", "predictions/test.csv", "predictions/validation.csv"):
        assert (alone / name).read_bytes() == (done / "fold_2" / name).read_bytes()


def test_evaluation_of_a_fold_agrees_with_its_run(done):
    (evaluated,) = evaluate_models([str(done / "fold_2")], {}, "test", 4)
    results = json.loads((done / "fold_2/all_results.json").read_text())
    assert evaluated.evaluation.metrics["loss"] == pytest.approx(results["test_loss"], abs=1e-5)
    assert len(evaluated.evaluation.files) == 9


def test_final_model(done, recordings, capsys):
    final = done / "final"
    options = yaml.safe_load((final / "train_options.yaml").read_text())
    assert (options["folds"], options["fold"]) == (2, "final") and "final_model" not in options
    metrics = json.loads((final / "all_results.json").read_text())
    assert metrics["epoch"] == 3 and not [name for name in metrics if name.startswith(("eval_", "test_"))]
    state = json.loads((final / "trainer_state.json").read_text())
    # 18 recordings in batches of 4, in each of three epochs.
    assert state["global_step"] == 15 and state["best_model_checkpoint"] is None
    card = (final / "README.md").read_text(encoding="utf-8")
    result = json.loads((done / "cross_validation.json").read_text())
    accuracy = result["metrics"]["accuracy"]
    assert (
        "trained on all recordings. None were held out for testing. Its quality was estimated by 2-fold cross" in card
    )
    assert (
        f"| Accuracy | {accuracy['mean']:.3f} | {accuracy['standard_deviation']:.3f} | {accuracy['low']:.3f} " in card
    )
    assert "model-index" not in card and "was not evaluated" not in card
    assert load_classifier(final)[0].config.label2id == {"high": 0, "low": 1}
    assert main(["predict", str(final), str(recordings / "low/0-0.wav")]) == 0
    assert main(["predict", str(done), str(recordings / "low/0-0.wav")]) == 2
    assert f"Choose one: {final}, {done}/fold_1, {done}/fold_2." in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"contains models. Choose one: {final}"):
        make_model(ModelArguments(model_name_or_path=str(done)), ["high", "low"], 1.0)


def test_finished_cross_validation_is_not_repeated(done, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    assert main([*command, "--folds", "2", "--final_model", "true", "--output_dir", str(done)]) == 0
    output = capsys.readouterr()
    assert "Fold 2 (2 of 2) is finished." in output.err and "standard deviation" in output.out
    assert f"sanet predict {done}/final FILE" in output.out
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "3"], "contains a cross-validation with folds=2, not 3"),
        (["--fold_pattern", "/(.)"], "contains a cross-validation with folds=2, not its default"),
        (["--folds", "2", "--learning_rate", "0.5"], r"learning_rate.*0\.01.*0\.5"),
        (["--folds", "2", "--resume_from_checkpoint", "true"], "Leave out --resume_from_checkpoint"),
        (["--folds", "2", "--push_to_hub", "true"], "Add --final_model true"),
        (["--folds", "2", "--final_model", "true", "--lr_scheduler_type", "reduce_lr_on_plateau"], "validation split"),
        (["--final_model", "true"], "--final_model needs cross-validation"),
        (["--folds", "2", "--fold", "1"], "contains a cross-validation. Use another --output_dir"),
    ],
)
def test_other_options_are_refused(done, command, options, message, capsys):
    before = {path: path.read_bytes() for path in done.rglob("*.yaml")}
    assert main([*command, *options, "--output_dir", str(done)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in done.rglob("*.yaml")} == before


def guess(model_arguments, data_arguments, training_arguments) -> dict[str, float]:
    """Replace `train`: write its results without a model and return the metrics. The last class wins narrowly."""
    output_dir = Path(training_arguments.output_dir)
    if (output_dir / "all_results.json").exists() and not training_arguments.overwrite_output_dir:
        return json.loads((output_dir / "all_results.json").read_text())
    test = load_recordings(data_arguments).get("test")
    options = {**changed_options(data_arguments), **changed_options(training_arguments)}
    metrics = {}
    if test is not None:
        names = label_names(test)
        matrix = label_matrix(test, {name: index for index, name in enumerate(names)})
        is_multi_label = data_arguments.problem_type.startswith("multi")
        # Equal after rounding, but on both sides of the threshold.
        probabilities = np.full(matrix.shape, 0.5 - 1e-7, np.float32)
        probabilities[:, -1] = 0.5 + 1e-7
        references = matrix if is_multi_label else matrix.argmax(axis=1)
        evaluation = Evaluation("test", test["file"][:], names, references, probabilities)
        write_predictions(evaluation, output_dir / "predictions/test.csv")
        metrics = {f"test_{name}": value for name, value in evaluation.metrics.items()}
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "train_options.yaml").write_text(yaml.safe_dump(options))
    (output_dir / "all_results.json").write_text(json.dumps(metrics))
    return metrics


def run(command, output_dir, *options, train=guess):
    """Return the results of a cross-validation. Skip report plots and garbage collection, which take longest."""
    arguments = parse_train_arguments([*command[1:], *options, "--output_dir", str(output_dir)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sanet_hf.training.cross_validation.write_report", lambda *args, **options: None)
        patch.setattr("gc.collect", lambda: 0)
        return cross_validate(*arguments, train)


def test_published_folds(command, tmp_path):
    result = run(command, tmp_path, "--fold_pattern", r"/(\d)-")
    assert [(fold["fold"], fold["folder"], fold["recordings"]) for fold in result["folds"]] == [
        (name, f"fold_{name}", 6) for name in "012"
    ]
    rows = read_table(tmp_path / "predictions/out_of_fold.csv")
    assert all(Path(row["file"]).name.startswith(f"{row['fold']}-") for row in rows) and len(rows) == 18
    assert not (tmp_path / "final").exists()


def test_rounding_changes_no_prediction(command, tmp_path):
    """Tables contain rounded probabilities: 0.500000 can be on either side of the threshold."""
    result = run(command, tmp_path, "--folds", "3")
    assert [fold["metrics"]["accuracy"] for fold in result["folds"]] == [0.5] * 3
    assert result["out_of_fold"]["metrics"]["accuracy"]["value"] == 0.5
    assert {row["prediction"] for row in read_table(tmp_path / "predictions/out_of_fold.csv")} == {"low"}


def test_several_classes_per_recording(command, recordings, tmp_path):
    labels = ("high;low", "low", "high", "")
    lines = [f"{path},{labels[index % 4]}" for index, path in enumerate(sorted(recordings.rglob("*.wav")))]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *lines]))
    options = ["--manifest", str(tmp_path / "list.csv"), "--problem_type", "multi_label_classification"]
    result = run([*command, "--data_dir", "", *options], tmp_path / "run", "--folds", "3")
    rows = read_table(tmp_path / "run/predictions/out_of_fold.csv")
    assert [f"{row['file']},{row['label']}" for row in rows] == lines
    assert {row["prediction"] for row in rows} == {"low"}
    expected = np.mean([row["label"] == "low" for row in rows])
    assert result["out_of_fold"]["metrics"]["accuracy"]["value"] == pytest.approx(expected)
    assert set(result["out_of_fold"]["metrics"]["mAP"]) == {"value", "low", "high"}


def test_changed_labels_are_refused(command, recordings, tmp_path):
    """With --fold_pattern, a corrected label does not change the folds. Finished folds used the old label."""
    paths = sorted(recordings.rglob("*.wav"))
    table = tmp_path / "list.csv"
    lines = ["file,label", *(f"{path},{path.parent.name}" for path in paths)]
    table.write_text("\n".join(lines))
    command = [*command, "--data_dir", "", "--manifest", str(table), "--fold_pattern", r"/(\d)-"]
    run(command, tmp_path / "run")
    table.write_text("\n".join([*lines[:-1], f"{paths[-1]},high"]))
    with pytest.raises(UsageError, match=f"labels differ .*: 1 changed, the first: {paths[-1]} .now high"):
        run(command, tmp_path / "run")
    # Earlier versions did not store the labels. Their cross-validations can be resumed.
    folds = tmp_path / "run/folds.csv"
    with open(folds, encoding="utf-8", newline="") as file:
        rows = [row[:2] for row in csv.reader(file)]
    with open(folds, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    run(command, tmp_path / "run")


def test_changed_recordings_are_refused(command, recordings, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(recordings, data)
    command = [*command, "--data_dir", str(data), "--folds", "2"]
    run(command, tmp_path / "run")
    shutil.copy(data / "low/0-0.wav", data / "low/new.wav")
    with pytest.raises(
        UsageError, match=r"differ from those of the cross-validation in .*run: \d new and \d missing, the"
    ):
        run(command, tmp_path / "run")
    result = run(command, tmp_path / "run", "--overwrite_output_dir", "true")
    assert result["out_of_fold"]["recordings"] == 19


def test_overwriting_deletes_the_earlier_folds(command, tmp_path):
    run(command, tmp_path, "--folds", "4", "--final_model", "true")
    (tmp_path / "fold_of_mine").mkdir()
    result = run(command, tmp_path, "--folds", "2", "--overwrite_output_dir", "true")
    assert len(result["folds"]) == 2
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        *("fold_1", "fold_2", "fold_of_mine", "predictions")
    }


def test_a_folder_with_a_run_or_recordings_is_refused(command, tmp_path):
    (tmp_path / "train_options.yaml").write_text("seed: 1\n")
    with pytest.raises(UsageError, match="contains a single run"):
        run(command, tmp_path, "--folds", "2")
    data = Path(command[command.index("--data_dir") + 1])
    before = sorted(data.rglob("*"))
    with pytest.raises(UsageError, match="is inside --data_dir"):
        run(command, data, "--folds", "2", train=train)
    assert sorted(data.rglob("*")) == before


def test_sigterm_skips_the_remaining_folds(command, tmp_path, monkeypatch, capsys):
    folders = []

    def end(model_arguments, data_arguments, training_arguments):
        folders.append(Path(training_arguments.output_dir).name)
        if data_arguments.fold == "2":
            raise TrainingTerminated("SIGTERM ended the training")
        return guess(model_arguments, data_arguments, training_arguments)

    monkeypatch.setattr("sanet_hf.training.train.train", end)
    assert main([*command, "--folds", "3", "--output_dir", str(tmp_path)]) == 143
    assert folders == ["fold_1", "fold_2"] and "SIGTERM ended the training" in capsys.readouterr().err
    assert not (tmp_path / "cross_validation.json").exists()


def test_only_the_final_model_is_pushed_to_the_hub(command, tmp_path):
    seen = {}

    def look(model_arguments, data_arguments, training_arguments):
        seen[Path(training_arguments.output_dir).name] = training_arguments
        return guess(model_arguments, data_arguments, training_arguments)

    options = ["--folds", "2", "--final_model", "true", "--push_to_hub", "true", "--run_name", "mine"]
    run(command, tmp_path / "birds", *options, train=look)
    assert {name: (own.push_to_hub, own.hub_model_id, own.run_name) for name, own in seen.items()} == {
        "fold_1": (False, None, "mine-fold_1"),
        "fold_2": (False, None, "mine-fold_2"),
        "final": (True, "birds", "mine-final"),
    }


def test_names_of_fold_folders_are_safe_and_unique():
    names = ["A", "a", "x/y", "x y", "ü.1"]
    assert list(name_folders(names).values()) == ["fold_A", "fold_a_2", "fold_x_y", "fold_x_y_2", "fold_ü.1"]


def test_statistics_over_folds():
    values = [0.7, 0.8, 0.75, 0.9]
    result = over_folds(values, "accuracy")
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    expected = {"mean": np.mean(values), "standard_deviation": np.std(values, ddof=1), "low": low, "high": high}
    assert result == pytest.approx(expected)
    assert over_folds([0.9, 1.0], "accuracy")["high"] == 1.0 < over_folds([0.9, 1.0], "loss")["high"]


def test_folds_with_different_classes_are_not_pooled(command, tmp_path):
    run(command, tmp_path, "--folds", "2")
    path = tmp_path / "fold_2/predictions/test.csv"
    path.write_text(path.read_text().replace("probability_low", "probability_owl"))
    arguments = parse_train_arguments([*command[1:], "--folds", "2", "--output_dir", str(tmp_path)])[1]
    with pytest.raises(DataError, match=r"fold_2 and .*fold_1 have different classes"):
        collect(tmp_path, {"1": "fold_1", "2": "fold_2"}, arguments)
    path.unlink()
    with pytest.raises(DataError, match=r"Delete .*fold_2 and run the training again"):
        collect(tmp_path, {"1": "fold_1", "2": "fold_2"}, arguments)


def test_compare_uses_out_of_fold_predictions(done, tmp_path, monkeypatch, capsys):
    # Measuring memory would start a separate process.
    monkeypatch.setattr("sanet_hf.training.evaluation.compare.measure_memory", lambda *arguments: 1)
    other = tmp_path / "other"
    shutil.copytree(done, other)
    # All predictions are wrong, so the difference is known.
    path = other / "predictions/out_of_fold.csv"
    rows = [row.split(",") for row in path.read_text().splitlines()]
    for row in rows[1:]:
        row[3] = "low" if row[2] == "high" else "high"
        row[4:] = ("0.1", "0.9") if row[3] == "low" else ("0.9", "0.1")
    path.write_text("".join(f"{','.join(row)}\n" for row in rows))
    options = ["--output", str(tmp_path / "comparison"), "--num_rounds", "1"]
    assert main(["compare", str(done), str(other), *options]) == 0
    result = json.loads((tmp_path / "comparison/comparison.json").read_text())
    pooled = json.loads((done / "cross_validation.json").read_text())["out_of_fold"]["metrics"]["accuracy"]["value"]
    assert (result["split"], result["num_clips"]) == ("pooled test", 18)
    assert [row["name"] for row in result["candidates"]] == ["run", "other"]
    assert result["candidates"][0]["metrics"]["accuracy"]["value"] == pytest.approx(pooled)
    assert result["candidates"][1]["difference"]["b"] == round(18 * pooled)
    simple = json.loads((done / "cross_validation.json").read_text())["baseline"]["rows"][0]["baseline"]["value"]
    assert result["candidates"][1]["baseline"]["value"] == pytest.approx(simple)
    assert result["candidates"][1]["baseline"]["difference"]["b"] == round(18 * simple)
    capsys.readouterr()
    for arguments, message in (
        ([str(done), str(done / "fold_1")], "is not a cross-validation, but others are"),
        ([str(done), str(other), "--data_dir", "x"], "--data_dir has no effect on cross-validations"),
        ([str(done), str(other), "--split", "train"], "--split has no effect on cross-validations"),
    ):
        assert main(["compare", *arguments, *options]) == 2
        assert message in capsys.readouterr().err
    (other / "cross_validation.json").unlink()
    assert main(["compare", str(done), str(other), *options]) == 2
    assert "the cross-validation is not finished" in capsys.readouterr().err
