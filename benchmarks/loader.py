# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure how long training waits for its clips: `sanet train` on FLAC files of 4 s with several numbers of worker
processes, with and without the augmentation of sanet_dynamic.yaml.

    python -m benchmarks.loader [--num_workers 0 4 8] [--batch_size 64] [--OPTION of sanet train …]

The waiting time of the device is the time of a step minus that of a step on a batch that is already on the device (`no
loader`). The time in `next(loader)` is that of the training loop; on a GPU, the device computes during a part of it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import soundfile
import torch
import yaml
from transformers import TrainerCallback

from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training import make_trainer
from sanet_hf.training import train as train_module
from sanet_hf.training.config_files import find_config
from sanet_hf.training.evaluation.costs import synchronize
from sanet_hf.training.trainer import AudioClassificationTrainer

from . import timing
from .variants import QUICK_SANET


AUGMENTATION = "sanet_dynamic.yaml"
NAMES = ("augmentations", "augmentations_after_normalization")
WARM_UP = 4  # steps
MAX_STEPS = 100_000  # more than the time allows


class Measured(BaseException):
    """Ends a run after its timed steps."""


class TimedTrainer(AudioClassificationTrainer):
    """Train for `max_seconds` after the first steps; with `is_fixed`, always on the first batch."""

    max_seconds: float
    is_fixed: bool
    clock: "_Clock"

    def train(self, *args, **kwargs):
        type(self).clock = _Clock(self.args.device, self.max_seconds)
        self.add_callback(self.clock)
        self._first = None
        super().train(*args, **kwargs)
        raise Measured

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        start = time.perf_counter()
        if self._first is None or not self.is_fixed:
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
            self._first = [dict(batch) for batch in batches], num_items
        batches, num_items = self._first
        self.clock.in_next += time.perf_counter() - start
        # A copy, because the loss removes keys.
        return [dict(batch) for batch in batches], num_items


class _Clock(TrainerCallback):
    """Measure seconds, number of steps, and seconds in `next(loader)`, after the first steps."""

    def __init__(self, device: torch.device, max_seconds: float):
        self.device, self.max_seconds = device, max_seconds
        self.start = self.seconds = self.in_next = 0.0
        self.num_steps = -WARM_UP

    def on_step_end(self, args, state, control, **kwargs):
        self.num_steps += 1
        if self.num_steps == 0:
            synchronize(self.device)
            self.start, self.in_next = time.perf_counter(), 0.0
        elif self.num_steps > 0 and time.perf_counter() - self.start > self.max_seconds:
            synchronize(self.device)
            self.seconds = time.perf_counter() - self.start
            control.should_training_stop = True


def write_recordings(folder: Path, count: int, seconds: float) -> None:
    """Write FLAC files of coloured noise at 16 kHz, in folders of two classes."""

    def write(index: int) -> None:
        noise = np.random.default_rng(index).standard_normal(round(seconds * DEFAULT_SAMPLING_RATE) + 1)
        path = folder / "train" / "ab"[index % 2] / f"{index}.flac"
        soundfile.write(path, 0.1 * (noise[1:] + noise[:-1]), DEFAULT_SAMPLING_RATE)

    for label in "ab":
        (folder / "train" / label).mkdir(parents=True)
    with ThreadPoolExecutor() as executor:
        list(executor.map(write, range(count)))


def time_training(options: Sequence[str], max_seconds: float, is_fixed: bool = False) -> _Clock:
    """Train like `sanet train`, up to the end of the timed steps. Return the clock."""
    TimedTrainer.max_seconds, TimedTrainer.is_fixed = max_seconds, is_fixed
    arguments = parse_train_arguments(list(options))
    with patch.object(make_trainer, "AudioClassificationTrainer", TimedTrainer):
        try:
            train_module.train(*arguments)
        except Measured:
            return TimedTrainer.clock
    raise RuntimeError("sanet train did not train.")


def augmentation_options() -> list[str]:
    options = yaml.safe_load(find_config(AUGMENTATION).read_text(encoding="utf-8"))
    return [f"--{name}={json.dumps(options[name])}" for name in NAMES if name in options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_workers", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_recordings", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a recording (default: %(default)g)")
    parser.add_argument(
        "--max_seconds", type=float, default=5.0, help="duration of the timed steps (default: %(default)g)"
    )
    parser.add_argument("--quick", action="store_true", help="a small network on few, short recordings")
    timing.add_output_options(parser)
    arguments, others = parser.parse_known_args()
    if arguments.quick:
        arguments.num_recordings, arguments.seconds, arguments.max_seconds = 32, 0.25, 0.2
        arguments.batch_size = 4
        sizes = ",".join(f"{name}={value}" for name, value in QUICK_SANET.items()).replace(" ", "")
        others = ["--config_overrides", sizes, *others]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_recordings(data, arguments.num_recordings, arguments.seconds)
        common = ["sanet.yaml", f"--data_dir={data}", f"--max_length_seconds={arguments.seconds:g}"]
        common += [f"--per_device_train_batch_size={arguments.batch_size}", f"--max_steps={MAX_STEPS}"]
        common += ["--eval_strategy=no", "--save_strategy=no", "--load_best_model_at_end=false", "--disable_tqdm=true"]
        runs = [("no loader", 0, [], True)]
        for name, augmentation in (("plain", []), ("augmented", augmentation_options())):
            runs += [(f"{name}, {number} workers", number, augmentation, False) for number in arguments.num_workers]
        print(f"{'':24}{'ms per step':>12}{'clips/s':>10}{'in next()':>12}{'device waits':>14}")
        for index, (name, num_workers, augmentation, is_fixed) in enumerate(runs):
            output = [f"--output_dir={folder}/{index}", f"--dataloader_num_workers={num_workers}"]
            clock = time_training([*common, *output, *augmentation, *others], arguments.max_seconds, is_fixed)
            step = clock.seconds / clock.num_steps
            row = {"benchmark": "loader", "variant": name, "batch_size": arguments.batch_size}
            row |= {"seconds": arguments.seconds, "device": clock.device.type, "ms": 1000 * step}
            row |= {"clips_per_second": arguments.batch_size / step, "in_next": clock.in_next / clock.seconds}
            # At least 0, because the times of steps vary by a few percent.
            row["device_waits"] = max(0.0, 1 - rows[0]["ms"] / row["ms"]) if rows else 0.0
            rows.append(row)
            print(
                f"{name:24}{row['ms']:12.1f}{row['clips_per_second']:10.0f}{row['in_next']:12.2f}"
                f"{row['device_waits']:14.2f}",
                flush=True,
            )
            timing.write_rows(rows, arguments, clock.device)
    timing.finish(rows, arguments, clock.device)


if __name__ == "__main__":
    main()
