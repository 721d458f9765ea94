# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Training on Parquet files and tar archives that are read as they are trained on."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, Value, load_dataset
from torch.utils.data import DataLoader
from transformers import Wav2Vec2FeatureExtractor

from training.arguments import UsageError, parse_train_arguments
from training.cli import main
from training.features import StreamedClips
from training.sources import DataError
from training.train import train


RATE = 16000
PLAIN = Wav2Vec2FeatureExtractor(do_normalize=False)
NUM_SHARDS, PER_SHARD = 4, 6


def encode(number: int, samples: int = RATE // 2) -> bytes:
    """A FLAC file of one value, that tells which recording it is."""
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
def test_every_recording_once_in_any_number_of_workers(parquet, num_workers):
    clips = StreamedClips(open_stream(parquet), PLAIN, {"even": 0, "odd": 1}, 1, buffer_size=5)
    assert sorted(numbers_of(clips, num_workers)) == [*range(NUM_SHARDS * PER_SHARD)]


def test_order_is_by_seed_and_epoch(parquet):
    def order(seed: int, epoch: int) -> list[int]:
        return numbers_of(
            StreamedClips(open_stream(parquet), PLAIN, {"even": 0, "odd": 1}, 1, buffer_size=9, seed=seed),
            epoch=epoch,
        )

    assert order(0, 0) == order(0, 0) != sorted(order(0, 0))
    assert len({tuple(order(*at)) for at in ((0, 0), (0, 1), (1, 0))}) == 3


def test_stretches_are_random(tmp_path):
    ramp = io.BytesIO()
    soundfile.write(ramp, np.linspace(0, 0.9, RATE * 2), RATE, format="FLAC")
    Dataset.from_list([{"audio": {"bytes": ramp.getvalue(), "path": "a.flac"}, "label": "a"}] * 8).cast_column(
        "audio", Audio(decode=False)
    ).to_parquet(tmp_path / "train.parquet")
    clips = StreamedClips(open_stream(tmp_path), PLAIN, {"a": 0}, 0.5)
    items = list(clips)
    assert {len(item["input_values"]) for item in items} == {RATE // 2}
    assert len({float(item["input_values"][0]) for item in items}) == 8


def write_damaged(folder, num_bad: int) -> None:
    rows = [row(number) for number in range(120)]
    for number in range(num_bad):
        rows[number * 7]["audio"] = {"bytes": b"no audio", "path": f"bad_{number}.flac"}
    features = Features(audio=Audio(decode=False), label=Value("int64"))
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")


def test_what_cannot_be_read_is_left_out(tmp_path, caplog):
    write_damaged(tmp_path, 5)
    clips = StreamedClips(open_stream(tmp_path), PLAIN, {"0": 0, "1": 1}, 1)
    assert len(list(clips)) == 115


def test_too_much_that_cannot_be_read(tmp_path):
    write_damaged(tmp_path, 7)
    clips = StreamedClips(open_stream(tmp_path), PLAIN, {"0": 0, "1": 1}, 1)
    with pytest.raises(DataError, match=r"streamed recordings cannot be read, more than max_bad_fraction=0.05.*bad_"):
        list(clips)


def test_unknown_labels(parquet):
    clips = StreamedClips(open_stream(parquet), PLAIN, {"even": 0}, 1)
    with pytest.raises(DataError, match=r"flac has the label 'odd'; the classes are even"):
        list(clips)


def test_several_labels(tmp_path):
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


def test_train_on_tars_without_streaming(command, tars, tmp_path):
    options = ["--dataset_name", str(tars), "--audio_column_name", "flac", "--label_column_name", "txt"]
    assert main([*command, *options, "--streaming", "false"]) == 0
    assert "train_accuracy" in json.loads((tmp_path / "run/all_results.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_steps", "-1"], "--streaming needs --max_steps"),
        (["--sampler", "balanced"], "--sampler balanced needs all"),
        (["--class_weights", "balanced"], "--class_weights balanced needs all"),
        (["--samples_per_class", "4"], "--samples_per_class needs all"),
        (["--averaged_epochs", "2"], "--averaged_epochs needs all"),
    ],
)
def test_options_that_need_all_recordings(command, parquet, options, message):
    with pytest.raises(UsageError, match=message):
        train(*parse_train_arguments([*command[1:], "--dataset_name", str(parquet), *options]))


def test_streaming_needs_a_data_set(command, tones):
    with pytest.raises(UsageError, match="--streaming needs --dataset_name"):
        train(*parse_train_arguments([*command[1:], "--data_dir", str(tones)]))
