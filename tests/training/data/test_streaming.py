# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training on streamed Parquet files and tar archives."""

import io
import json
import tarfile
from itertools import cycle, islice

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, Features, List, Value, load_dataset
from torch.utils.data import DataLoader
from transformers import Wav2Vec2FeatureExtractor

from sanet_hf import SANetFeatureExtractor
from sanet_hf.cli.main import main
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import DataError, UsageError
from sanet_hf.training import time_limit
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.clips import StreamedClips, TrainingClips
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.sources import stream_training_split
from sanet_hf.training.train import train

from ..processes import run_in_processes
from ..tiny_models import SIZES


RATE = 16000
PLAIN = Wav2Vec2FeatureExtractor(do_normalize=False)
NUM_SHARDS, PER_SHARD = 4, 6


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """
    Shorten the pause of seconds that datasets makes after each pass. It prevents that threads of Arrow crash a process
    at its end.
    """
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)


def encode(number: int, samples: int = RATE // 2) -> bytes:
    """Return a FLAC file of one constant value, which identifies the recording."""
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, number / 100), RATE, format="FLAC")
    return file.getvalue()


def row(number: int) -> dict:
    return {"audio": {"bytes": encode(number), "path": f"{number}.flac"}, "label": number % 2}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    features = Features(audio=Audio(sampling_rate=RATE, decode=False), label=ClassLabel(names=["even", "odd"]))
    for split, first, shards in (("train", 0, NUM_SHARDS), ("validation", 30, 1), ("test", 40, 1)):
        for shard in range(shards):
            numbers = range(first + shard * PER_SHARD, first + (shard + 1) * PER_SHARD)
            rows = Dataset.from_list([row(number) for number in numbers], features=features)
            rows.to_parquet(folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for split, first, shards in (("train", 0, NUM_SHARDS), ("validation", 30, 1)):
        for shard in range(shards):
            with tarfile.open(folder / f"{split}-{shard:05d}.tar", "w") as archive:
                for number in range(first + shard * PER_SHARD, first + (shard + 1) * PER_SHARD):
                    label = ("even", "odd")[number % 2].encode()
                    for suffix, content in (("flac", encode(number)), ("txt", label)):
                        info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
    return folder


def open_stream(folder):
    return load_dataset(str(folder), split="train", streaming=True).cast_column("audio", Audio(decode=False))


def numbers_of(clips: StreamedClips, num_workers: int = 0, epoch: int = 0) -> list[int]:
    clips.set_epoch(epoch)
    loader = DataLoader(clips, batch_size=None, num_workers=num_workers)
    items = list(loader)
    numbers = [round(100 * float(item["input_values"][0])) for item in items]
    assert all(item["labels"] == number % 2 for item, number in zip(items, numbers))
    return numbers


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_workers_read_every_recording_once(parquet, num_workers):
    clips = StreamedClips(open_stream(parquet), PLAIN, {"even": 0, "odd": 1}, 1, buffer_size=5)
    assert sorted(numbers_of(clips, num_workers)) == [*range(NUM_SHARDS * PER_SHARD)]


def test_order_depends_on_seed_and_epoch(parquet):
    def order(seed: int, epoch: int) -> list[int]:
        return numbers_of(
            StreamedClips(open_stream(parquet), PLAIN, {"even": 0, "odd": 1}, 1, buffer_size=9, seed=seed),
            epoch=epoch,
        )

    assert order(0, 0) == order(0, 0) != sorted(order(0, 0))
    assert len({tuple(order(*at)) for at in ((0, 0), (0, 1), (1, 0))}) == 3


def write_ramps(folder, num_recordings: int) -> None:
    ramp = io.BytesIO()
    soundfile.write(ramp, np.linspace(0, 0.9, RATE * 2), RATE, format="FLAC")
    rows = [{"audio": {"bytes": ramp.getvalue(), "path": "a.flac"}, "label": "a"}] * num_recordings
    Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).to_parquet(folder / "train.parquet")


def test_parts_of_recordings_are_random(tmp_path):
    write_ramps(tmp_path, 8)
    items = list(StreamedClips(open_stream(tmp_path), PLAIN, {"a": 0}, 0.5))
    assert {len(item["input_values"]) for item in items} == {RATE // 2}
    assert len({float(item["input_values"][0]) for item in items}) == 8


def test_processes_draw_different_parts(tmp_path):
    write_ramps(tmp_path, 8)

    def draw(index: int) -> list[float]:
        clips = StreamedClips(open_stream(tmp_path), PLAIN, {"a": 0}, 0.5, process_index=index, num_processes=2)
        return [float(item["input_values"][0]) for item in clips]

    assert draw(0) == draw(0) and draw(1) == draw(1)
    assert len({*draw(0), *draw(1)}) == 8


def write_damaged(folder, num_bad: int) -> None:
    rows = [row(number) for number in range(120)]
    for number in range(num_bad):
        rows[number * 7]["audio"] = {"bytes": b"no audio", "path": f"bad_{number}.flac"}
    features = Features(audio=Audio(decode=False), label=Value("int64"))
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")


def test_unreadable_recordings_are_skipped(tmp_path, caplog):
    write_damaged(tmp_path, 5)
    clips = StreamedClips(open_stream(tmp_path), PLAIN, {"0": 0, "1": 1}, 1)
    assert len(list(clips)) == 115
    assert "bad_" in caplog.text


def test_too_many_unreadable_recordings_are_an_error(tmp_path):
    write_damaged(tmp_path, 7)
    clips = StreamedClips(open_stream(tmp_path), PLAIN, {"0": 0, "1": 1}, 1)
    with pytest.raises(
        DataError, match=r"streamed recordings are unreadable or unlabelled, more than max_bad_fraction=0.05.*bad_"
    ):
        list(clips)


def test_unknown_labels_are_an_error(parquet):
    clips = StreamedClips(open_stream(parquet), PLAIN, {"even": 0}, 1)
    with pytest.raises(DataError, match=r"flac has the label 'odd', but the classes are even"):
        list(clips)


def test_streamed_labels_of_several_classes(tmp_path):
    rows = [{**row(1), "label": label} for label in ("a;b", "b", " a ; c")]
    Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "train.parquet")
    clips = StreamedClips(open_stream(tmp_path), PLAIN, {"a": 0, "b": 1, "c": 2}, 1, is_multi_label=True)
    assert sorted(item["labels"].tolist() for item in clips) == [[0, 1, 0], [1, 0, 1], [1, 1, 0]]


@pytest.fixture
def command(tiny_options, tmp_path) -> list[str]:
    options = ["--streaming", "true", "--max_steps", "12", "--eval_strategy", "steps", "--eval_steps", "6"]
    options += ["--save_strategy", "steps", "--save_steps", "6", "--shuffle_buffer_size", "8"]
    return ["train", "sanet.yaml", "--output_dir", str(tmp_path / "run"), *tiny_options, *options]


def test_train_on_streamed_parquet(command, parquet, tmp_path):
    assert main([*command, "--dataset_name", str(parquet), "--dataloader_num_workers", "2"]) == 0
    results = json.loads((tmp_path / "run/all_results.json").read_text())
    assert {"eval_accuracy", "test_macro_f1"} <= set(results) and "train_accuracy" not in results
    assert json.loads((tmp_path / "run/config.json").read_text())["label2id"] == {"even": 0, "odd": 1}
    assert json.loads((tmp_path / "run/trainer_state.json").read_text())["global_step"] == 12
    assert (tmp_path / "run/report.html").is_file() and (tmp_path / "run/README.md").is_file()


def test_train_on_streamed_tars(command, tars, tmp_path):
    options = ["--dataset_name", str(tars), "--audio_column_name", "flac", "--label_column_name", "txt"]
    assert main([*command, *options, "--mixup_alpha", "0.4"]) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["label2id"] == {"even": 0, "odd": 1}


def test_train_a_detector_on_streamed_0_and_1(command, tmp_path):
    """The data have classes by position, negatives, a missing label and a recording without audio."""
    features = Features(audio=Audio(sampling_rate=RATE, decode=False), label=List(Value("int8")))
    for split in ("train", "validation"):
        rows = [{**row(number), "label": [number % 2]} for number in range(10)]
        if split == "train":
            rows[3]["label"], rows[4]["audio"] = None, None
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    options = ["--dataset_name", str(tmp_path), "--problem_type", "multi_label_classification", "--max_steps", "6"]
    assert main([*command, *options, "--class_names", "odd"]) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["label2id"] == {"odd": 0}
    header, *lines = (tmp_path / "run/predictions/validation.csv").read_text().splitlines()
    assert header == "file,label,prediction,probability_odd"
    assert sorted(line.split(",")[1] for line in lines) == [""] * 5 + ["odd"] * 5


def test_max_minutes_sets_the_steps_on_a_stream(command, parquet, tmp_path, monkeypatch):
    now = iter(range(10**6))
    monkeypatch.setattr(time_limit, "read_clock", lambda: next(now))
    at = command.index("--max_steps")
    options = ["--max_minutes", "0.5", "--eval_strategy", "epoch", "--save_strategy", "epoch"]
    options += ["--per_device_train_batch_size", "1", "--max_evaluations", "2"]
    assert main([*command[:at], *command[at + 2 :], "--dataset_name", str(parquet), *options]) == 0
    state = json.loads((tmp_path / "run/trainer_state.json").read_text())
    assert 8 <= state["global_step"] == state["max_steps"] <= 10 and state["epoch"] == 1
    assert all(0 < entry["epoch"] <= 1 for entry in state["log_history"])


def test_train_on_tars_without_streaming(command, tars, tmp_path):
    options = ["--dataset_name", str(tars), "--audio_column_name", "flac", "--label_column_name", "txt"]
    # Other values of --shuffle_buffer_size are an error without --streaming.
    assert main([*command, *options, "--streaming", "false", "--shuffle_buffer_size", "1000"]) == 0
    assert "train_accuracy" in json.loads((tmp_path / "run/all_results.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_steps", "-1"], "--streaming needs --max_steps"),
        (["--sampler", "balanced"], "--sampler balanced does not work with --streaming"),
        (["--class_weights", "balanced"], "--class_weights balanced does not work with --streaming"),
        (["--samples_per_class", "4"], "--samples_per_class does not work with --streaming"),
        (["--averaged_epochs", "2"], "--averaged_epochs does not work with --streaming"),
    ],
)
def test_options_that_conflict_with_streaming(command, parquet, options, message):
    with pytest.raises(UsageError, match=message):
        train(*parse_train_arguments([*command[1:], "--dataset_name", str(parquet), *options]))


def test_streaming_needs_a_validation_split(command, tmp_path):
    features = Features(audio=Audio(sampling_rate=RATE, decode=False), label=Value("string"))
    Dataset.from_list([{**row(0), "label": "a"}], features=features).to_parquet(tmp_path / "train.parquet")
    message = "^There is no validation or test split. --streaming needs a validation split.$"
    with pytest.raises(DataError, match=message):
        train(*parse_train_arguments([*command[1:], "--dataset_name", str(tmp_path)]))


def test_streaming_needs_a_dataset(command, tones):
    with pytest.raises(UsageError, match="--streaming has no effect: it needs --dataset_name"):
        train(*parse_train_arguments([*command[1:], "--data_dir", str(tones)]))


# Several processes


def write_shards(folder, sizes: dict[str, list[int]]) -> None:
    """Write Parquet files with these numbers of recordings. Recordings are numbered from 1 in each split."""
    features = Features(audio=Audio(sampling_rate=RATE, decode=False), label=ClassLabel(names=["even", "odd"]))
    for split, of_shard in sizes.items():
        numbers = iter(range(1, sum(of_shard) + 1))
        for shard, size in enumerate(of_shard):
            rows = [row(number) for number in islice(numbers, size)]
            path = folder / f"{split}-{shard:05d}-of-{len(of_shard):05d}.parquet"
            Dataset.from_list(rows, features=features).to_parquet(path)


@pytest.mark.parametrize("num_workers", [0, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 2, 3))])
@pytest.mark.parametrize(("num_processes", "num_shards"), [(1, 4), (2, 4), (3, 4), (2, 3), (3, 1)])
def test_processes_read_every_recording_once(tmp_path, num_processes, num_shards, num_workers):
    sizes = [5, 1, 4, 3][:num_shards]
    write_shards(tmp_path, {"train": sizes})
    numbers = []
    for index in range(num_processes):
        part = {"process_index": index, "num_processes": num_processes}
        clips = StreamedClips(open_stream(tmp_path), PLAIN, {"even": 0, "odd": 1}, 1, buffer_size=4, **part)
        numbers += numbers_of(clips, num_workers, epoch=1)
    assert sorted(numbers) == [*range(1, sum(sizes) + 1)]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_read_every_tar_recording_once(tars, num_processes):
    arguments = DataArguments(
        dataset_name=str(tars), audio_column_name="flac", label_column_name="txt", streaming=True
    )
    numbers = []
    for index in range(num_processes):
        part = {"process_index": index, "num_processes": num_processes}
        clips = StreamedClips(stream_training_split(arguments), PLAIN, {"even": 0, "odd": 1}, 1, **part)
        numbers += numbers_of(clips)
    assert sorted(numbers) == [*range(NUM_SHARDS * PER_SHARD)]


SIZES_OF_SHARDS, BATCH_SIZE = [12, 2, 8, 1], 3
# Reads two epochs of batches as the trainer does, and writes the numbers of the recordings in each batch. For joined
# clips, it writes their indices and a number that identifies the waveform.
PROCESS_SCRIPT = """
import json, sys
from pathlib import Path
import datasets, torch
from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.clips import StreamedClips, TrainingClips
from sanet_hf.training.data.sources import stream_training_split
from sanet_hf.training.make_trainer import make_clips, make_trainer

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1
folder, output, sizes = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
extractor = SANetFeatureExtractor(max_length=16000, do_normalize=False)
labels = {"id2label": {0: "even", 1: "odd"}, "label2id": {"even": 0, "odd": 1}}
model = SANetForAudioClassification(SANetConfig(**labels, **sizes))
for kind in ("streamed", "whole", "joined"):
    for num_workers in (0, 2):
        arguments = AudioTrainingArguments(
            output_dir=str(output / "run"), use_cpu=True, bf16=False, max_steps=10,
            per_device_train_batch_size=BATCH_SIZE, dataloader_num_workers=num_workers,
            train_sampling_strategy="random", save_strategy="no", report_to="none",
        )
        data = DataArguments(dataset_name=folder, max_length_seconds=1, shuffle_buffer_size=5)
        data.streaming, data.samples_per_class = kind == "streamed", 7 if kind == "joined" else None
        splits = ("validation", "test") if data.streaming else ("train", "validation", "test")
        stream = stream_training_split(data) if data.streaming else None
        recordings = load_recordings(data, splits=splits)
        clips = make_clips(stream, recordings, model, extractor, data, (None, None), arguments)
        trainer = make_trainer(model, extractor, clips, arguments)
        loader, epochs = trainer.get_train_dataloader(), []
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches, iterator = [], iter(loader)
            while taken := trainer.get_batch_samples(iterator, 1, arguments.device)[0]:
                waveforms = taken[0]["input_values"]
                numbers = (100 * waveforms[:, 0]).round().int().tolist()
                if kind == "joined":
                    marks = waveforms @ torch.linspace(0, 1, waveforms.shape[1])
                    numbers = [*zip(taken[0]["index"].tolist(), marks.tolist())]
                else:
                    assert taken[0]["labels"].tolist() == [number % 2 for number in numbers]
                batches.append(numbers)
            epochs.append(batches)
        (output / f"{kind}_{num_workers}_{arguments.process_index}.json").write_text(json.dumps(epochs))
torch.distributed.destroy_process_group()
""".replace("BATCH_SIZE", str(BATCH_SIZE))


@pytest.fixture(scope="module")
def data_of_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, {"train": SIZES_OF_SHARDS, "validation": [2], "test": [2]})
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def batches_of_processes(data_of_processes, tmp_path_factory, request):
    """
    Run the script in several processes. Return their number, and a function that reads the batches of a kind of
    dataset and a number of workers.
    """
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(PROCESS_SCRIPT)
    arguments = [str(folder / "script.py"), str(data_of_processes), str(folder), json.dumps(SIZES["sanet"])]
    run_in_processes(arguments, timeout=600, num_processes=request.param)

    def read(kind: str, num_workers: int) -> list[list[list[list[int]]]]:
        """Return the batches by epoch, process and step."""
        names = [f"{kind}_{num_workers}_{index}.json" for index in range(request.param)]
        return [*zip(*(json.loads((folder / name).read_text()) for name in names))]

    return request.param, read


def flatten(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_share_a_stream(batches_of_processes, num_workers):
    _, read = batches_of_processes
    orders = []
    for of_process in read("streamed", num_workers):
        assert len({len(batches) for batches in of_process}) == 1, "a process would wait for the others forever"
        own = []
        for batches in of_process:
            numbers = flatten(batches)
            count = next((at for at in range(1, len(numbers)) if numbers[at] in numbers[:at]), len(numbers))
            # Processes with fewer batches repeat them.
            assert numbers == [*islice(cycle(numbers[:count]), len(numbers))]
            own += numbers[:count]
        assert sorted(own) == [*range(1, sum(SIZES_OF_SHARDS) + 1)]
        orders.append([flatten(batches) for batches in of_process])
    assert orders[0] != orders[1]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_share_recordings(batches_of_processes, num_workers):
    num_processes, read = batches_of_processes
    num_recordings = sum(SIZES_OF_SHARDS)
    orders = []
    for of_process in read("whole", num_workers):
        assert len({len(batches) for batches in of_process}) == 1
        assert len(of_process[0]) == -(-num_recordings // (num_processes * BATCH_SIZE))
        # Collect the clips of each step from all processes. The last step is padded with the first clips.
        order = flatten([flatten(step) for step in zip(*of_process)])
        assert sorted(order[:num_recordings]) == [*range(1, num_recordings + 1)]
        assert order[num_recordings:] == order[: len(order) - num_recordings]
        orders.append(order)
    assert orders[0] != orders[1]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_make_the_joined_clips_of_one(batches_of_processes, data_of_processes, num_workers):
    """Several processes make the same joined clips as a single process. Most clips differ from each other."""
    recordings = load_recordings(DataArguments(dataset_name=str(data_of_processes)))["train"]
    extractor = SANetFeatureExtractor(max_length=RATE, do_normalize=False)
    clips = TrainingClips(recordings, extractor, {"even": 0, "odd": 1}, 1, samples_per_class=7, seed=42)
    waveforms = torch.tensor(np.stack([clips[index]["input_values"] for index in range(2 * len(clips))]))
    expected = (waveforms @ torch.linspace(0, 1, RATE)).tolist()
    assert len({round(mark, 3) for mark in expected}) > 0.7 * len(expected)
    _, read = batches_of_processes
    marks = [mark for epoch in read("joined", num_workers) for batches in epoch for mark in flatten(batches)]
    assert {index for index, _ in marks} == {*range(len(expected))}
    assert all(mark == pytest.approx(expected[index], rel=1e-4) for index, mark in marks)
