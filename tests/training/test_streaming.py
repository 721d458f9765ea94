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

from .tiny_models import SIZES
from .two_processes import run_in_two_processes


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


# --- several processes

NUM_RECORDINGS, BATCH_SIZE = 23, 5
# Takes two epochs of batches from the trainer's own loader, and writes numbers and lengths of the clips in each.
RANK_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from training.arguments import AudioTrainingArguments, DataArguments
from training.data import load_recordings
from training.features import StreamedClips, TrainingClips
from training.sources import stream_training_split
from training.train import _make_trainer

folder, output, sizes = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
extractor = SANetFeatureExtractor(max_length=16000, do_normalize=False)
model = SANetForAudioClassification(SANetConfig(num_labels=2, **sizes))
data = (extractor, {"even": 0, "odd": 1}, 1)
for kind in ("streamed", "whole"):
    arguments = DataArguments(dataset_name=folder, streaming=kind == "streamed")
    if kind == "streamed":
        clips = StreamedClips(stream_training_split(arguments), *data, buffer_size=5)
    else:
        clips = TrainingClips(load_recordings(arguments)["train"], *data)
    for num_workers in (0, 1):
        training = AudioTrainingArguments(
            output_dir=str(output / "run"), use_cpu=True, bf16=False, max_steps=10,
            per_device_train_batch_size=BATCH_SIZE, dataloader_num_workers=num_workers,
            train_sampling_strategy="random", save_strategy="no", report_to="none",
        )
        loader = _make_trainer(model, extractor, {"train": clips}, training).get_train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches = []
            for batch in loader:
                waveforms = batch["input_values"]
                numbers = (100 * waveforms[:, 0]).round().int().tolist()
                assert batch["labels"].tolist() == [number % 2 for number in numbers]
                mask = batch.get("attention_mask", torch.ones(waveforms.shape))
                batches.append(list(zip(numbers, mask.sum(1).int().tolist())))
            epochs.append(batches)
        rank = training.process_index
        (output / f"{kind}_{num_workers}_{rank}.json").write_text(json.dumps(epochs))
""".replace("BATCH_SIZE", str(BATCH_SIZE))


def length_of(number: int) -> int:
    return 4000 + 400 * number


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Folder of what each of two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "data").mkdir()
    features = Features(audio=Audio(sampling_rate=RATE, decode=False), label=ClassLabel(names=["even", "odd"]))
    numbers = range(1, NUM_RECORDINGS + 1)
    parts = {"train": np.array_split(numbers, NUM_SHARDS), "validation": [[30, 31]], "test": [[40, 41]]}
    for split, shards in parts.items():
        for shard, part in enumerate(shards):
            rows = [{**row(n), "audio": {"bytes": encode(n, length_of(n)), "path": f"{n}.flac"}} for n in part]
            path = folder / "data" / f"{split}-{shard:05d}-of-{len(shards):05d}.parquet"
            Dataset.from_list(rows, features=features).to_parquet(path)
    (folder / "script.py").write_text(RANK_SCRIPT)
    arguments = [str(folder / "script.py"), str(folder / "data"), str(folder), json.dumps(SIZES["sanet"])]
    run_in_two_processes(arguments, timeout=600)
    return folder


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", ["streamed", "whole"])
def test_processes_share_the_recordings(ranks, kind, num_workers):
    of_rank = [json.loads((ranks / f"{kind}_{num_workers}_{rank}.json").read_text()) for rank in range(2)]
    orders = []
    for epochs in zip(*of_rank):
        assert len(epochs[0]) == len(epochs[1]) == -(-NUM_RECORDINGS // (2 * BATCH_SIZE))
        # The clips of each step, of one process after the other.
        steps = [[clip for batch in step for clip in batch] for step in zip(*epochs)]
        assert all(length == length_of(number) for step in steps for number, length in step)
        numbers = [[number for number, _ in step] for step in steps]
        assert all(len(batch) == BATCH_SIZE for rank in epochs for batch in rank[:-1])
        assert len(epochs[0][-1]) == len(epochs[1][-1])
        orders.append([number for step in numbers for number in step])
        # No loss and no overlap, but that the last step is filled up with the first clips, to as many in each process.
        once, filling = orders[-1][:NUM_RECORDINGS], orders[-1][NUM_RECORDINGS:]
        assert sorted(once) == [*range(1, NUM_RECORDINGS + 1)]
        assert filling == once[: len(filling)] and len(numbers[-1]) <= 2 * BATCH_SIZE
    assert orders[0] != orders[1]
