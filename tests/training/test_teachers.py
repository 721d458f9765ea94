# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training with teachers: their probabilities, the loss, recordings without labels, and the reports of a run."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List
from safetensors.torch import load_file, save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from sanet_hf.architectures import find_window_seconds
from sanet_hf.audio.decode import resample_waveform
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import DataError, UsageError
from sanet_hf.inference.prediction import classify_waveforms
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments
from sanet_hf.training.callbacks import TrainingClock
from sanet_hf.training.data.batches import collate, mixup
from sanet_hf.training.data.clips import TrainingClips
from sanet_hf.training.data.items import TEACHER_INPUTS
from sanet_hf.training.data.joined_clips import JoinedClips
from sanet_hf.training.data.record import EARLIER, RECORD_FILE, UNLABELED, read_record, seen_digests
from sanet_hf.training.losses import join_targets, make_loss, make_taught_loss
from sanet_hf.training.run_folder import check_output
from sanet_hf.training.sampling import draw_balanced
from sanet_hf.training.teachers import Teachers, describe_teachers, find_teachers, load_teachers, temper
from sanet_hf.training.train import train

from .conftest import write_tone
from .tiny_models import save_checkpoint


pytestmark = pytest.mark.usefixtures("without_report")

SEVERAL = "multi_label_classification"


# Loss


def test_loss_by_hand():
    """0.3 * -ln(0.9) + 0.7 * 2^2 * KL((0.5, 0.5), (0.25, 0.75)). A clip without a label has only the second term."""
    logits = torch.tensor([[0.0, np.log(9)], [0.0, np.log(9)]], dtype=torch.float32)
    taught = torch.full((2, 2), 0.5)
    loss = make_taught_loss(False, 0.7, 2.0)
    kl = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    with_label, without = 0.3 * -np.log(0.9) + 0.7 * 4 * kl, 0.7 * 4 * kl
    assert with_label == pytest.approx(0.434363, abs=1e-6) and without == pytest.approx(0.402755, abs=1e-6)
    targets = join_targets(torch.tensor([1, -1]), taught)
    outputs = {"logits": logits}
    assert loss(outputs, targets).item() == pytest.approx((with_label + without) / 2, abs=1e-6)
    # The mean is over the clips of all accumulated batches.
    parts = [loss({"logits": logits[i : i + 1]}, targets[i : i + 1], num_items_in_batch=2).item() for i in (0, 1)]
    assert parts == pytest.approx([with_label / 2, without / 2], abs=1e-6)


def test_multi_label_loss_by_hand():
    logits = torch.tensor([[2.0, -4.0], [0.0, 6.0]])
    taught = torch.tensor([[0.9, 0.2], [0.5, 0.7]])
    targets = join_targets(torch.tensor([[1.0, 0.0], [-1.0, -1.0]]), taught)
    loss = make_taught_loss(True, 0.25, 2.0)({"logits": logits}, targets)
    of_teachers = 4 * binary_cross_entropy_with_logits(logits / 2, taught)
    of_labels = binary_cross_entropy_with_logits(logits[:1], torch.tensor([[1.0, 0.0]])) / 2
    torch.testing.assert_close(loss, 0.75 * of_labels + 0.25 * of_teachers)


@pytest.mark.parametrize("is_multi_label", [False, True], ids=["single", "multi"])
def test_label_term_agrees_with_the_loss_without_teachers(is_multi_label):
    """Smoothing and class weights apply to labels, but not to teachers."""
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(6, 3, generator=generator), torch.tensor([0.5, 2.0, 1.0])
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    labels = torch.eye(3)[labels] if is_multi_label else labels
    taught = torch.rand(6, 3, generator=generator)
    plain = make_loss(is_multi_label, 0.1, weights)({"logits": logits}, labels)
    targets = join_targets(labels, taught)
    torch.testing.assert_close(
        make_taught_loss(is_multi_label, 0.0, 2.0, 0.1, weights)({"logits": logits}, targets), plain
    )
    alone = [
        make_taught_loss(is_multi_label, 1.0, 2.0, *options)({"logits": logits}, targets)
        for options in ((), (0.1, weights))
    ]
    torch.testing.assert_close(*alone)


@pytest.mark.parametrize("is_multi_label", [False, True], ids=["single", "multi"])
def test_mixup_mixes_labels_and_teachers_alike(is_multi_label):
    """Gradients are the weighted mean of those of both clips. A clip without a label adds no gradient of labels."""
    torch.manual_seed(0)
    labels = torch.tensor([1, -1, 0, 2])
    if is_multi_label:
        labels = torch.where(labels[:, None] < 0, -1.0, torch.eye(3)[labels.clamp(min=0)])
    targets = join_targets(labels, torch.rand(4, 3).softmax(1))
    mixed, mixed_targets = mixup({"rows": torch.eye(4)}, targets, 1.0)
    parts = mixed["rows"]
    assert not torch.equal(parts, torch.eye(4))
    loss = make_taught_loss(is_multi_label, 0.4, 3.0)
    logits = torch.randn(4, 3, requires_grad=True)
    (found,) = torch.autograd.grad(loss({"logits": logits}, mixed_targets), logits)
    expected = torch.zeros(4, 3)
    for clip in range(4):
        for other in range(4):
            one = loss({"logits": logits[clip : clip + 1]}, targets[other : other + 1])
            expected += parts[clip, other] / 4 * torch.autograd.grad(one, logits)[0]
    torch.testing.assert_close(found, expected)


def test_temperature_divides_logits():
    logits = torch.tensor([[1.0, -2.0, 30.0]])
    torch.testing.assert_close(temper(logits.softmax(1), 4.0, False), (logits / 4).softmax(1))
    both = torch.cat([logits.sigmoid(), (-logits).sigmoid()], dim=1)
    torch.testing.assert_close(temper(both, 4.0, True), (logits / 4).sigmoid())


# Inputs and outputs of teachers


def make_recordings(seconds: list[float], is_multi_label: bool = False) -> Dataset:
    labels = [index % 3 for index in range(len(seconds))]
    label = ClassLabel(names=["x", "y", "z"])
    columns = {
        "audio": [{"bytes": None, "path": None}] * len(seconds),
        "file": [f"{index}.wav" for index in range(len(seconds))],
        "label": [[label] for label in labels] if is_multi_label else labels,
        "seconds": seconds,
    }
    return Dataset.from_dict(columns).cast_column("label", List(label) if is_multi_label else label)


def read_noise(row: int, recording: dict, rate: int, start: int, length: int) -> np.ndarray:
    """Return noise instead of reading a file."""
    total = round(recording["seconds"] * rate)
    noise = 0.1 * np.random.default_rng(row).standard_normal(total).astype(np.float32)
    return noise[start : start + length]


def make_clips(recordings: Dataset, feature_extractor, seconds: float = 1.0, **options) -> TrainingClips:
    clips = TrainingClips(recordings, feature_extractor, {"x": 0, "y": 1, "z": 2}, seconds, **options)
    clips.read_kept = read_noise
    return clips


def make_teachers(tmp_path, student, *names: str, **options) -> Teachers:
    names = [str(tmp_path / name) for name in names]
    arguments = AudioTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, teacher=names, **options)
    return Teachers(load_teachers(arguments), *student, arguments, 1.0)


def make_batch(clips: TrainingClips, teachers: Teachers, indices: list[int]) -> dict:
    collator = partial(collate, feature_extractor=clips.feature_extractor)
    return teachers.inputs.collate([clips[index] for index in indices], collator)


def say(teachers: Teachers, batch: dict) -> torch.Tensor:
    """Return the probabilities of the teachers in the targets of a batch."""
    targets = teachers.make_targets(batch["labels"], batch.get(TEACHER_INPUTS), batch["index"])
    return targets[:, -teachers.num_classes :]


@pytest.mark.parametrize("problem_type", ["single_label_classification", SEVERAL])
@pytest.mark.parametrize("model_type", ["sanet", "wav2vec2", "ast"])
def test_teachers_get_the_clips_of_the_student(tmp_path, model_type, problem_type):
    """Each teacher has its own sampling rate and order of classes. The probabilities of two teachers are averaged."""
    several = problem_type == SEVERAL
    student = save_checkpoint(tmp_path / "student", "sanet", problem_type=problem_type)
    options = {"extractor_options": {"sampling_rate": 8000}} if model_type == "sanet" else {}
    teacher = save_checkpoint(tmp_path / "one", model_type, ("z", "x", "y"), problem_type=problem_type, **options)
    save_checkpoint(tmp_path / "two", "sanet", problem_type=problem_type)
    clips = make_clips(
        make_recordings([0.3, 0.7, 2.5, 0.31], several), student[1], augment=lambda waveform: waveform[::-1].copy()
    )
    teachers = make_teachers(tmp_path, student, "one", "two", teacher_temperature=1.0)
    heard = []
    clips.teacher_inputs = lambda waveform: heard.append(waveform) or teachers.inputs(waveform)
    batch = make_batch(clips, teachers, [0, 1, 6, 3])
    expected = []
    for place, waveform in enumerate(heard):
        (own,) = student[1](waveform, sampling_rate=16000, padding=False)["input_values"]
        np.testing.assert_array_equal(own, batch["input_values"][place, : len(own)])
        resampled = resample_waveform(waveform, 16000, teacher[1].sampling_rate)
        first, _ = classify_waveforms(*teacher, [resampled])
        second, _ = classify_waveforms(student[0], student[1], [waveform])
        expected.append((first[0][[1, 2, 0]] + second[0]) / 2)
    np.testing.assert_allclose(say(teachers, batch).numpy(), expected, atol=2e-5)
    assert max(map(len, heard)) == 16000 and not clips.are_fixed.any()


def test_windows_of_longer_clips_are_averaged(tmp_path, caplog):
    student = save_checkpoint(tmp_path / "student", "sanet")
    model, feature_extractor = save_checkpoint(tmp_path / "one", "sanet", extractor_options={"max_length": 6400})
    teachers = make_teachers(tmp_path, student, "one", teacher_temperature=1.0)
    assert find_window_seconds(model, feature_extractor) == 0.4
    assert "supports clips of up to 0.4 s" in caplog.text
    clips = make_clips(make_recordings([1.0]), student[1])
    clips.teacher_inputs = teachers.inputs
    waveform = read_noise(0, {"seconds": 1.0}, 16000, 0, 16000)
    scores, _ = classify_waveforms(model, feature_extractor, [waveform[i : i + 6400] for i in (0, 6400, 9600)])
    np.testing.assert_allclose(say(teachers, make_batch(clips, teachers, [0]))[0], scores.mean(axis=0), atol=1e-5)
    # Quiet windows are skipped, as in prediction.
    waveform[6400:] *= 0.01
    assert len(teachers.inputs(waveform)[0]) == 1


def test_teachers_get_augmentation_after_normalization(tmp_path):
    """The clip gets back its loudness from before normalization."""
    student = save_checkpoint(tmp_path / "student", "sanet")
    clips = make_clips(make_recordings([0.5]), student[1], augment_normalized=lambda waveform: 3 * waveform)
    heard = []
    clips.teacher_inputs = lambda waveform: heard.append(waveform) or []
    clips[0]
    plain = read_noise(0, {"seconds": 0.5}, 16000, 0, 8000)
    np.testing.assert_allclose(heard[0], 3 * (plain - plain.mean()), rtol=1e-2, atol=1e-3)


class Alone:
    """Replace an `Accelerator` of one process."""

    process_index, num_processes, is_main_process = 0, 1, False

    def reduce(self, value, kind):
        return value


def test_fixed_clips_are_scored_once(tmp_path):
    """Other clips are scored each time. Labels make no difference."""
    student = save_checkpoint(tmp_path / "student", "sanet")
    save_checkpoint(tmp_path / "one", "sanet")
    teachers = make_teachers(tmp_path, student, "one")
    labeled, others = (make_clips(make_recordings(s), student[1]) for s in ([0.3, 2.0], [0.4, 3.0, 0.5]))
    clips = JoinedClips(labeled, others)
    clips.teacher_inputs, indices = teachers.inputs, [7, 5, 6, 8, 9]
    batch = make_batch(clips, teachers, indices)
    assert batch["index"].tolist() == indices and batch["labels"].tolist() == [-1, 0, 1, -1, -1]
    at_once = say(teachers, batch)

    def make_loader(dataset, batch_size, persistent_workers):
        return [make_batch(dataset.dataset, teachers, dataset.indices[i : i + 2]) for i in (0, 2)]

    teachers.remember(clips, make_loader, AudioTrainingArguments(output_dir="run", use_cpu=True), Alone())
    assert clips.are_known.tolist() == [True, False, True, False, True]
    batch = make_batch(clips, teachers, indices)
    assert [len(own["clips"]) for own in batch[TEACHER_INPUTS][0]] == [2]
    torch.testing.assert_close(say(teachers, batch), at_once)
    # A batch of known clips needs no teacher inputs.
    batch = make_batch(clips, teachers, [5, 7])
    assert TEACHER_INPUTS not in batch
    torch.testing.assert_close(say(teachers, batch), at_once[[1, 0]])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (("x", "y"), {}, "lacks z"),
        (("x", "y", "z", "w"), {}, "the recordings have no w"),
        (("x", "y", "w"), {}, "lacks z; the recordings have no w"),
        (("x", "y", "z"), {"problem_type": SEVERAL}, "predicts several classes per clip, but"),
        (("x", "y", "z"), {"problem_type": "regression"}, "is a regression"),
    ],
)
def test_unsuitable_teachers_are_refused(tmp_path, labels, options, message):
    student = save_checkpoint(tmp_path / "student", "sanet")
    save_checkpoint(tmp_path / "one", "sanet", labels, **options)
    with pytest.raises(UsageError, match=f"--teacher .*one.* {message}"):
        make_teachers(tmp_path, student, "one")


def test_a_folder_of_models_is_no_teacher(tmp_path):
    student = save_checkpoint(tmp_path / "folds/fold_1", "sanet")
    with pytest.raises(UsageError, match=r"Choose from: --teacher \S*fold_1"):
        make_teachers(tmp_path, student, "folds")
    with pytest.raises(UsageError, match="a model twice"):
        make_teachers(tmp_path, student, "folds/fold_1", "folds/fold_1")


def test_cross_validation_teaches_fold_by_fold(tmp_path):
    """The final model is taught by the models of all folds."""
    folders = [str(tmp_path / "folds" / name) for name in ("fold_1", "fold_b")]
    rows = [{"fold": fold, "folder": Path(folder).name} for fold, folder in zip(("1", "b"), folders)]
    for folder in folders:
        save_checkpoint(Path(folder), "sanet")
    names = [str(tmp_path / "folds"), "other/model"]
    with pytest.raises(UsageError, match="none of them of fold 1 of a finished"):
        find_teachers(names, "1")
    (tmp_path / "folds/cross_validation.json").write_text(json.dumps({"folds": rows}), encoding="utf-8")
    assert find_teachers(names, "b") == [folders[1], "other/model"]
    assert find_teachers(names, "final") == [*folders, "other/model"]
    for fold in (None, "3"):
        with pytest.raises(UsageError, match="Choose from"):
            find_teachers(names, fold)
    arguments = AudioTrainingArguments(output_dir="run", use_cpu=True, teacher=names, teacher_weight=0.5)
    text = describe_teachers(find_teachers(names, "final"), arguments, 0)
    assert text.startswith("the mean of folds/fold_1, folds/fold_b, other/model has the weight 0.5 in the loss")


def test_balanced_epoch_has_each_unlabeled_clip_once():
    matrix = np.eye(2, dtype=int)[[0] * 9 + [1]]
    drawn = draw_balanced(matrix, torch.Generator().manual_seed(0), num_others=30)
    others = [clip for clip in drawn if clip >= 10]
    assert len(drawn) == 40 and sorted(others) == [*range(10, 40)] and drawn[10:] != others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher_weight", "0.5"], "--teacher_weight has no effect: it needs --teacher"),
        (["--unlabeled_dir", "calls"], "--unlabeled_dir has no effect: it needs --teacher"),
        (["--teacher", "a", "--teacher_weight", "0"], "must be above 0 and at most 1"),
        (["--teacher", "a", "--teacher_weight", "1.5"], "must be above 0 and at most 1"),
        (["--teacher", "a", "--teacher_temperature", "0"], "must be positive"),
        (["--teacher", "a", "b", "--teacher_weight", "1", "--class_weights", "balanced"], "--class_weights has no"),
    ],
)
def test_ineffective_or_invalid_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        parse_train_arguments(["--data_dir", "x", "--output_dir", "y", *options])


# Trainings


class Interrupted(BaseException):
    pass


@pytest.fixture(scope="module")
def noise(tones, tmp_path_factory) -> Path:
    """Return a folder with noise and meaningless labels for training, and tones for validation and test."""
    folder = tmp_path_factory.mktemp("noise")
    for split in ("validation", "test"):
        shutil.copytree(tones / split, folder / split)
    for label in ("high", "low"):
        for index in range(2):
            write_tone(folder / "train" / label / f"{index}.wav", 0, 0.3, seed=ord(label[0]) + index)
    return folder


@pytest.fixture(scope="module")
def unlabeled(tones, noise, tmp_path_factory) -> Path:
    """Return a folder of tones with a copy each of a test, a validation and a training recording."""
    folder = tmp_path_factory.mktemp("unlabeled")
    rng = np.random.default_rng(1)
    for index in range(24):
        frequency = rng.uniform(1000, 2000) if index % 2 else rng.uniform(200, 400)
        write_tone(folder / f"{index % 3}" / f"{index}.wav", frequency, rng.uniform(0.3, 0.8), seed=100 + index)
    write_tone(folder / "long.flac", 1500, 1.5, seed=7)
    shutil.copy(tones / "test/high/high_test_0.wav", folder / "copy.wav")
    shutil.copy(tones / "validation/low/low_validation_0.wav", folder / "0/other.wav")
    shutil.copy(noise / "train/low/0.wav", folder / "1/third.wav")
    return folder


@pytest.fixture(scope="module")
def command(trained, noise, unlabeled, tiny_options) -> list[str]:
    options = [*tiny_options, "--num_train_epochs", "10", "--calibrate", "false", "--teacher", str(trained)]
    options += ["--unlabeled_dir", str(unlabeled), "--teacher_weight", "1", "--false_alarm_minutes", "0"]
    return ["sanet.yaml", "--data_dir", str(noise), *options]


@pytest.fixture(scope="module")
def student(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "student"
    train(*parse_train_arguments([*command, "--output_dir", str(folder)]))
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_student_learns_from_unlabeled_recordings(student, trained):
    """The labels are those of noise and have no weight in the loss."""
    metrics = read(student / "all_results.json")
    assert metrics["test_accuracy"] >= 0.75 and metrics["eval_accuracy"] >= 0.9
    card = (student / "README.md").read_text(encoding="utf-8")
    assert f"{trained.name} has the weight 1 in the loss, at temperature 2" in card and str(trained) not in card
    assert "25 recordings without labels" in card and "Clips: 4 train, 8 validation, 8 test" in card
    # The teacher was trained on recordings outside validation and test.
    record, before = read_record(student / RECORD_FILE), read_record(trained / RECORD_FILE)
    assert len(record[UNLABELED]) == 25 and record[UNLABELED] <= seen_digests(record, with_validation=False)
    assert before["train"] <= record[EARLIER] and not record[EARLIER] & (record["validation"] | record["test"])
    assert read(student / "training_data.json")["counts"][UNLABELED] == 25


def test_unlabeled_copies_of_split_recordings_are_skipped(command, caplog, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise Interrupted

    monkeypatch.setattr(TrainingClock, "on_train_begin", stop)
    with pytest.raises(Interrupted):
        train(*parse_train_arguments([*command, "--output_dir", str(tmp_path / "run")]))
    assert "Skipped 3 of 28 recordings of --unlabeled_dir" in caplog.text
    assert "copy.wav" in caplog.text and "other.wav" in caplog.text and "third.wav" in caplog.text
    (tmp_path / "empty").mkdir()
    options = ["--output_dir", str(tmp_path / "other"), "--unlabeled_dir", str(tmp_path / "empty")]
    with pytest.raises(DataError, match="contains no recordings"):
        train(*parse_train_arguments([*command, *options]))


@pytest.mark.parametrize(("folder", "message"), [("none", "folder not found"), ("runs", "is inside")])
def test_invalid_unlabeled_dir_is_refused(folder, message, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match=message):
        check_output(tmp_path / "runs/one", DataArguments(), str(tmp_path / folder))


@pytest.mark.parametrize("options", [[], ["--mixup_alpha", "0.5", "--teacher_weight", "0.5"]], ids=["plain", "mixup"])
def test_a_resumed_training_ends_with_the_same_weights(command, student, tmp_path, monkeypatch, options):
    arguments = [*command, "--num_train_epochs", "2", *options, "--output_dir"]
    train(*parse_train_arguments([*arguments, str(tmp_path / "whole")]))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 11:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingClock, "on_step_end", on_step_end, raising=False)
        train(*parse_train_arguments([*arguments, str(tmp_path / "run")]))
    train(*parse_train_arguments([*arguments, str(tmp_path / "run")]))
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(weights[name], others[name]) for name in others)


def test_changed_teacher_is_refused_on_resuming(command, trained, tmp_path, monkeypatch, caplog):
    teacher = shutil.copytree(trained, tmp_path / "teacher")
    arguments = [*command, "--teacher", str(teacher), "--output_dir", str(tmp_path / "run")]

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise Interrupted

    monkeypatch.setattr(TrainingClock, "on_step_end", on_step_end, raising=False)
    with pytest.raises(Interrupted):
        train(*parse_train_arguments(arguments))
    with pytest.raises(UsageError, match="contains a run with other options: teacher_temperature default → 3"):
        train(*parse_train_arguments([*arguments, "--teacher_temperature", "3"]))
    with pytest.raises(UsageError, match="contains a run with other options: teacher "):
        train(*parse_train_arguments([*arguments, "--teacher", str(trained)]))
    weights = load_file(teacher / "model.safetensors")
    name = "sanet.pooling.score.bias"
    save_file({**weights, name: weights[name] + 1}, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="teacher has changed since the training of"):
        train(*parse_train_arguments(arguments))


def test_teacher_trained_on_the_test_split_is_reported(command, trained, tones, tmp_path, monkeypatch, caplog):
    """Recordings from the teacher's training cannot test the student. The run warns and records them."""
    data = tmp_path / "data"
    shutil.copytree(tones / "train", data / "test")
    shutil.copytree(tones / "test", data / "train")
    shutil.copytree(tones / "validation", data / "validation")
    options = [*command[3:], "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    train(*parse_train_arguments(["sanet.yaml", "--data_dir", str(data), *options]))
    text = f"The teacher {trained.name} was already trained on 32 of 32 test recordings"
    assert text in caplog.text and text in (tmp_path / "run/README.md").read_text(encoding="utf-8")
    record = read_record(tmp_path / "run" / RECORD_FILE)
    assert record["test"] <= record[EARLIER]
