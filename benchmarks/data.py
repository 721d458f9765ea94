# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure training clips per second, in batches as in training. Compare this loader with transformers' audio
classification example, which decodes a whole file with `datasets` and then cuts out a part. Also measure the time of
each transform of an augmentation, and of recordings that are kept decoded (`--cache_audio`), from the second epoch on.

    python -m benchmarks.data [--config sanet_dynamic.yaml] [--repeats 5]
    python -m benchmarks.data --only kept
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
import yaml
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from sanet_hf import SANetFeatureExtractor
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.config_files import find_config, parse_augmentations
from sanet_hf.training.data.augmentation import Augmentation, make_augmentation, seeded
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import TrainingClips
from sanet_hf.training.data.decoded import keep_decoded
from sanet_hf.training.data.rows import load_recording

from . import timing


MAX_SECONDS = 4.0
BATCH_SIZE = 16
NUM_BATCHES = 8  # in this process
# Per worker process: many, so that batches that are ready before the first request have little influence.
NUM_WORKER_BATCHES = 32
EXTRACTOR = SANetFeatureExtractor(max_length=round(MAX_SECONDS * DEFAULT_SAMPLING_RATE))
FORMATS = ("wav", "flac", "mp3")
KEPT_FORMATS = ((16_000, "wav"), (16_000, "flac"), (44_100, "wav"), (44_100, "mp3"), (44_100, "ogg"), (44_100, "m4a"))
DURATIONS = (4, 60)  # s


def write_recordings(
    folder: Path, suffix: str, seconds: int, count: int = 8, rate: int = DEFAULT_SAMPLING_RATE
) -> datasets.Dataset:
    """Write recordings of coloured noise, and return them as `load_recordings` does."""
    rows = []
    for index in range(count):
        noise = np.random.default_rng(index).standard_normal(seconds * rate + 1)
        path = folder / f"{seconds}_{index}.{suffix}"
        # libsndfile does not support M4A, and crashes on long Ogg files.
        is_written_by_ffmpeg = suffix in ("m4a", "ogg")
        written = path.with_suffix(".wav") if is_written_by_ffmpeg else path
        soundfile.write(written, 0.1 * (noise[1:] + noise[:-1]), rate)
        if is_written_by_ffmpeg:
            codec = ["-c:a", "libvorbis"] if suffix == "ogg" else []
            subprocess.run(["ffmpeg", "-v", "error", "-i", written, *codec, path], check=True)
        row = {"audio": {"bytes": None, "path": str(path)}, "file": path.name, "label": 0}
        # AAC files are longer than their source.
        rows.append({**row, "seconds": len(load_recording(row, DEFAULT_SAMPLING_RATE)) / DEFAULT_SAMPLING_RATE})
    features = datasets.Features(
        audio={"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        file=datasets.Value("string"),
        label=datasets.ClassLabel(names=["noise"]),
        seconds=datasets.Value("float64"),
    )
    return datasets.Dataset.from_list(rows, features=features)


class ExampleClips(Dataset):
    """Decode the whole file with `datasets`, then cut out a random part, as in run_audio_classification.py."""

    def __init__(self, recordings: datasets.Dataset, augment: Augmentation | None):
        self.recordings = recordings.cast_column("audio", datasets.Audio(sampling_rate=DEFAULT_SAMPLING_RATE))
        self.augment = augment

    def __getitem__(self, index: int) -> dict:
        row, max_length = self.recordings[index % len(self.recordings)], round(MAX_SECONDS * DEFAULT_SAMPLING_RATE)
        waveform = row["audio"]["array"]
        start = np.random.randint(0, max(1, len(waveform) - max_length))
        waveform = np.asarray(waveform[start : start + max_length], dtype=np.float32)
        waveform = waveform if self.augment is None else self.augment(waveform)
        features = EXTRACTOR(waveform, sampling_rate=DEFAULT_SAMPLING_RATE, padding=False)
        return {**{name: value[0] for name, value in features.items()}, "labels": row["label"]}


def make_loader(clips: Dataset, num_workers: int = 0, num_batches: int = NUM_BATCHES) -> DataLoader:
    num_batches = num_workers * NUM_WORKER_BATCHES or num_batches
    return DataLoader(
        clips,
        BATCH_SIZE,
        sampler=range(num_batches * BATCH_SIZE),
        num_workers=num_workers,
        collate_fn=partial(collate, feature_extractor=EXTRACTOR),
        persistent_workers=num_workers > 0,
    )


def clips_per_second(loader: DataLoader) -> float:
    start = time.perf_counter()
    count = sum(len(batch["labels"]) for batch in loader)
    return count / (time.perf_counter() - start)


def measure_loading(augment: Augmentation | None, repeats: int) -> list[dict]:
    """Return one row per loader and kind of recording."""
    rows = []
    num_cores = len(os.sched_getaffinity(0))
    print(
        f"\n{'augmented' if augment else 'not augmented'}; clips per second in batches of {BATCH_SIZE}, and ratio to "
        f"the example; medians of {repeats}\n"
        f"{'recordings':14}{'example':>10}{'sanet':>10}{'ratio':>8}{f'sanet, {num_cores} workers':>20}{'ratio':>8}"
    )
    for seconds in DURATIONS:
        for suffix in FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                recordings = write_recordings(Path(folder), suffix, seconds)
                clips = TrainingClips(recordings, EXTRACTOR, {"noise": 0}, MAX_SECONDS, augment)
                loaders = [
                    make_loader(ExampleClips(recordings, augment)),
                    make_loader(clips),
                    make_loader(clips, num_cores),
                ]
                # The first round starts worker processes and fills caches.
                rates = [[clips_per_second(loader) for loader in loaders] for _ in range(repeats + 1)][1:]
                example, sanet, workers = map(statistics.median, zip(*rates))
                print(
                    f"{f'{suffix}, {seconds} s':14}{example:10.0f}{sanet:10.0f}{sanet / example:8.1f}"
                    f"{workers:20.0f}{workers / example:8.1f}",
                    flush=True,
                )
                benchmark = f"{'augmented' if augment else 'plain'} {suffix}"
                for variant, rate in (("example", example), ("sanet", sanet), (f"{num_cores} workers", workers)):
                    what = dict(zip(timing.KEYS, (benchmark, variant, BATCH_SIZE, seconds)))
                    rows.append(what | {"ms": 1000 * BATCH_SIZE / rate, "clips_per_second": rate})
    return rows


def measure_kept(repeats: int) -> list[dict]:
    """Return one row per kind of recording, decoded for each clip or kept decoded."""
    rows = []
    print(
        f"\nms per clip of {MAX_SECONDS:g} s in batches of {BATCH_SIZE}, medians of {repeats}\n"
        f"{'recordings':24}{'decoded':>10}{'kept':>10}{'ratio':>8}"
    )
    for seconds in DURATIONS:
        for rate, suffix in KEPT_FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                recordings = write_recordings(Path(folder), suffix, seconds, rate=rate)
                plain, kept = (TrainingClips(recordings, EXTRACTOR, {"noise": 0}, MAX_SECONDS) for _ in range(2))
                # FFmpeg is slow.
                loaders = [make_loader(plain, num_batches=1 if suffix == "m4a" else 4), make_loader(kept)]
                epochs = TrainingArguments(folder, num_train_epochs=100, use_cpu=True)
                with redirect_stderr(None), keep_decoded({"train": kept}, Path(folder), 2, epochs):
                    # The first round writes the kept recordings.
                    times = [[1000 / clips_per_second(loader) for loader in loaders] for _ in range(repeats + 1)][1:]
            decoded, read = map(statistics.median, zip(*times))
            title = f"{suffix}, {rate} Hz, {seconds} s"
            print(f"{title:24}{decoded:10.2f}{read:10.2f}{decoded / read:8.1f}", flush=True)
            for variant, ms in (("decoded", decoded), ("kept", read)):
                what = dict(zip(timing.KEYS, (f"{suffix} {rate}", variant, BATCH_SIZE, seconds)))
                rows.append(what | {"ms": BATCH_SIZE * ms, "clips_per_second": 1000 / ms})
    return rows


def measure_transforms(transforms: Sequence[dict], repeats: int) -> list[dict]:
    """Return one row per transform."""
    rows = []
    waveform = (0.1 * np.random.default_rng(0).standard_normal(round(MAX_SECONDS * DEFAULT_SAMPLING_RATE))).astype(
        np.float32
    )
    print(f"\nms per clip of {MAX_SECONDS:g} s, medians of {repeats * 20}")
    costs = {}
    for entry in transforms:
        ((name, parameters),) = entry.items()
        augment = make_augmentation([{name: {**parameters, "p": 1}}], DEFAULT_SAMPLING_RATE)
        times = []
        for index in range(repeats * 20 + 5):
            with seeded(index):
                start = time.perf_counter()
                augment(waveform)
                times.append(1000 * (time.perf_counter() - start))
        median = statistics.median(times[5:])
        costs[name] = parameters.get("p", 0.5) * median
        print(f"  {name:24}{median:8.2f}, p {parameters.get('p', 0.5):g}: {costs[name]:6.2f}")
        rows.append({"benchmark": "transform", "variant": name, "seconds": MAX_SECONDS, "ms": median})
    print(f"largest cost, weighted by probability: {max(costs, key=costs.get)}; all: {sum(costs.values()):.2f} ms")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="sanet_dynamic.yaml", help="YAML file with the augmentation")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["loading", "kept", "transforms"], help="run only this part")
    timing.add_output_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = yaml.safe_load(find_config(arguments.config).read_text(encoding="utf-8"))
    transforms = [
        entry
        for name in ("augmentations", "augmentations_after_normalization")
        for entry in parse_augmentations(options.get(name))
    ]
    rows = []
    if arguments.only in (None, "loading"):
        for augment in (None, make_augmentation(transforms, DEFAULT_SAMPLING_RATE)):
            rows += measure_loading(augment, arguments.repeats)
    if arguments.only in (None, "kept"):
        rows += measure_kept(arguments.repeats)
    if arguments.only in (None, "transforms"):
        rows += measure_transforms(transforms, arguments.repeats)
    timing.finish(rows, arguments, torch.device("cpu"))


if __name__ == "__main__":
    main()
