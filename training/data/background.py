# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Background sounds for training, so that the model does not classify them as one of its classes.

A class called `background`, or the class that `--background` names, is trained like the others. Its name is stored in
the configuration of the model, so that it is never reported. In multi-label data, its recordings have no class.

`--background auto` and `--background_dir` write clips to a folder of the run:

    generated noise                    kinds of [`TRAINED_KINDS`] that do not sound like a class of the recordings
    quiet parts of the recordings      from the same split, at most a quarter
    recordings of `background_dir`     divided like other recordings; their test split is kept for false alarms

These clips are used for training and to choose the epoch. Results are computed only on the user's recordings, as in
`sanet evaluate`, because most noise is easily distinguished from the classes.
"""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from datasets import Audio, ClassLabel, Dataset, DatasetDict, List, concatenate_datasets
from transformers.utils import logging

from sanet_hf.audio.decode import load_audio
from sanet_hf.audio.folders import SPLITS, list_audio_files
from sanet_hf.audio.levels import SILENCE, largest_amplitude
from sanet_hf.errors import AudioError, DataError
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments
from sanet_hf.training.data.background_labels import (
    ADDED,
    AUTO,
    DEFAULT_NAME,
    Background,
    adds_background,
    background_name,
)
from sanet_hf.training.data.labels import is_multi_label, label_matrix, label_names
from sanet_hf.training.data.noise_likeness import find_alike
from sanet_hf.training.data.noises import LEVELS, TRAINED_KINDS, make_noise
from sanet_hf.training.data.progress_bars import without_progress_bars
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.splits import split_by_hash
from sanet_hf.utils.files import write_atomically


logger = logging.get_logger(__name__)

# Not uploaded, like the folder of decoded recordings.
FOLDER = "_background"
RECORD_FILE = "background.json"

# The position of a split here seeds its random numbers.
QUIET_PART, OWN_PART = 0.25, 0.5  # of the added clips, at most
# Number of different noises in a file, from which training clips are random parts, and largest number in all files.
NUM_NOISES, MAX_NOISES = 8, 800
# Fraction of the noises that are mixed with another kind, and its level relative to the first in dB.
MIXED_PART, MIXED_LEVELS = 0.4, (-15.0, 0.0)
# Fraction of files that are shorter than a clip, as recordings can be, and their shortest length.
SHORT_PART, SHORTEST_SECONDS = 0.25, 0.3
# A quiet part is this many dB below the loudest tenth of its recording, for this time.
QUIET_DECIBELS, QUIET_SECONDS, FRAME_SECONDS = 20.0, 1.0, 0.05
LONGEST_QUIET_SECONDS = 10.0
# Number of recordings that are searched for each quiet part, and the length that is read of each.
NUM_SEARCHED, MAX_READ_SECONDS = 10, 600.0
GROUP = "recordings of --background_dir"


def add_background(
    recordings: DatasetDict, data: DataArguments, training: AudioTrainingArguments, sampling_rate: int
) -> tuple[DatasetDict, Background]:
    """
    Add background clips to the training and validation splits, about as many as the median class has recordings. They
    are the same for the same recordings, options and seed. Their number is printed to stderr.

    Args:
        recordings: As [`load_recordings`] returns them.
        data, training: Options of the run. Clips are written to a folder in its `output_dir`.
        sampling_rate: In Hz.

    Raises:
        DataError: `background_dir` contains no readable recordings.
    """
    if not adds_background(data):
        return recordings, Background()
    folder = Path(training.output_dir) / FOLDER
    with training.main_process_first(local=True, desc="writing clips of background"):
        if training.local_process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            _write(folder, recordings, data, training.seed, sampling_rate)
    record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    background = Background({}, record["alike"], record["test_files"])
    name = background_name(data.background) or DEFAULT_NAME
    result = {}
    for split, dataset in recordings.items():
        own = [row for row in record["clips"] if row["split"] == split]
        background.counts[split] = dict(Counter(row["kind"] for row in own))
        with without_progress_bars():
            result[split] = _append(dataset, own, folder, None if is_multi_label(dataset) else name)
    if training.process_index == 0:
        print(_describe(background, data), file=sys.stderr)
    return DatasetDict(result), background


def _append(dataset: Dataset, clips: Sequence[Mapping], folder: Path, name: str | None) -> Dataset:
    """Return a split with added background clips, which have the class `name` or no class."""
    is_several, names = is_multi_label(dataset), label_names(dataset)
    if name is not None and name not in names:
        # Last, so that the other classes keep their numbers.
        names = [*names, name]
    label = List(ClassLabel(names=names)) if is_several else ClassLabel(names=names)
    dataset = dataset.cast_column("label", label).add_column(ADDED, [False] * len(dataset))
    if not clips:
        return dataset
    paths = [str((folder / clip["file"]).resolve()) for clip in clips]
    columns = {
        "audio": paths,
        "file": paths,
        "key": paths,
        "label": [[] if is_several else names.index(name)] * len(clips),
        "seconds": [clip["seconds"] for clip in clips],
        "digest": [clip["digest"] for clip in clips],
        "start": [0.0] * len(clips),
        "end": [None] * len(clips),
        ADDED: [True] * len(clips),
    }
    added = Dataset.from_dict({column: columns[column] for column in dataset.column_names})
    # Paths become audio that is not decoded.
    added = added.cast_column("audio", Audio(decode=False)).cast(dataset.features)
    return concatenate_datasets([dataset, added])


def _describe(background: Background, data: DataArguments) -> str:
    counts = ", ".join(f"{sum(kinds.values())} {split}" for split, kinds in background.counts.items() if kinds)
    kinds = sorted({kind for kinds in background.counts.values() for kind in kinds})
    text = f"Background added: {counts} clips ({', '.join(kinds)})"
    text += f", in the folder {FOLDER} of the run."
    for kind, label in background.alike.items():
        text += f"\nGenerated {kind} is not used, because it sounds like the class {label}."
    if data.background_dir and not background.test_files:
        text += f"\nFewer than three {GROUP} are readable, so that none remain to count false alarms."
    return text


def _write(folder: Path, recordings: DatasetDict, data: DataArguments, seed: int, rate: int) -> None:
    """Write the clips, and then their record."""
    learnt = {split: recordings[split] for split in ("train", "validation") if split in recordings}
    own = _divide_own(data.background_dir, [split for split in SPLITS if split in recordings])
    length = round(data.max_length_seconds * rate)
    alike = find_alike(recordings, rate, length, seed) if data.background == AUTO else {}
    kinds = [kind for kind in TRAINED_KINDS if kind not in alike]
    rows = []
    for split, dataset in learnt.items():
        generator = np.random.default_rng([seed, SPLITS.index(split)])
        count = max(_median_count(dataset), len(kinds) if data.background == AUTO else 1)
        parts = list(_cut_own(own[split], length, rate, generator, count))
        clips = [("recorded", clip) for clip in parts[: round(count * OWN_PART) if data.background == AUTO else count]]
        if data.background == AUTO:
            num_quiet = round(count * QUIET_PART)
            clips += [("quiet", clip) for clip in _find_quiet(dataset, rate, generator, num_quiet)]
            clips += _generate(kinds, count - len(clips), length, rate, generator, is_training=split == "train")
        for number, (kind, clip) in enumerate(clips):
            name = f"{split}/{number:04}-{kind}.wav"
            with write_atomically(folder / name) as file:
                # As floats, because quiet parts would lose precision in 16 bits.
                soundfile.write(file, clip, rate, format="WAV", subtype="FLOAT")
            digest = hashlib.sha256(clip.astype(np.float32).tobytes()).hexdigest()[:32]
            rows.append({"split": split, "file": name, "kind": kind, "seconds": len(clip) / rate, "digest": digest})
    test_files = [str(path.resolve()) for path in own["test"]]
    record = {"alike": alike, "test_files": test_files, "clips": rows}
    with write_atomically(folder / RECORD_FILE) as file:
        file.write(json.dumps(record, indent=1).encode())


def _median_count(dataset: Dataset) -> int:
    names = label_names(dataset)
    counts = label_matrix(dataset, {name: index for index, name in enumerate(names)}).sum(axis=0)
    return max(1, round(float(np.median(counts[counts > 0])))) if (counts > 0).any() else 1


def _generate(
    kinds: Sequence[str], count: int, length: int, rate: int, generator: np.random.Generator, is_training: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield generated noises of alternating kinds. In training, a file contains several noises."""
    num_noises = max(1, min(NUM_NOISES, MAX_NOISES // max(count, 1))) if is_training else 1
    for index in range(max(0, count)):
        kind = kinds[index % len(kinds)]
        if generator.uniform() < SHORT_PART:
            least = min(length, round(SHORTEST_SECONDS * rate))
            yield kind, make_noise(kind, generator, int(generator.integers(least, length + 1)), rate)
        else:
            # All noises of a file have one level, because training skips parts that are much quieter than others.
            level = generator.uniform(*LEVELS)
            noises = [_mix_noise(kind, kinds, generator, length, rate, level) for _ in range(num_noises)]
            yield kind, np.concatenate(noises)


def _mix_noise(
    kind: str, kinds: Sequence[str], generator: np.random.Generator, length: int, rate: int, level: float
) -> np.ndarray:
    """Return noise of a kind, sometimes mixed with another kind for more variety."""
    noise = make_noise(kind, generator, length, rate, level)
    if generator.uniform() < MIXED_PART:
        other = make_noise(str(generator.choice(kinds)), generator, length, rate)
        level = 10 ** (generator.uniform(*MIXED_LEVELS) / 20)
        noise = noise + other * np.float32(level * np.std(noise) / max(np.std(other), 1e-9))
    return noise


def find_quiet_part(waveform: np.ndarray, sampling_rate: int) -> tuple[int, int] | None:
    """
    Return the first and last sample of the longest quiet part of a recording that is not digital silence; `None` if
    there is none of at least `QUIET_SECONDS`.

    Args:
        waveform: Shape (samples,).
        sampling_rate: In Hz.
    """
    frame = max(1, round(FRAME_SECONDS * sampling_rate))
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    if not len(frames):
        return None
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    level = np.quantile(power, 0.9)
    # Some recordings are padded with zeros, which are not background of a microphone.
    is_quiet = (power < level * 10 ** (-QUIET_DECIBELS / 10)) & (np.abs(frames).max(axis=1) >= SILENCE)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_quiet, [0]])))
    if not len(edges):
        return None
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    start, end = int(starts[longest]) * frame, int(ends[longest]) * frame
    end = min(end, start + round(LONGEST_QUIET_SECONDS * sampling_rate))
    return (start, end) if end - start >= QUIET_SECONDS * sampling_rate else None


def _find_quiet(dataset: Dataset, rate: int, generator: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    order = generator.permutation(len(dataset))[: NUM_SEARCHED * count]
    for index in order:
        if count == 0:
            return
        try:
            waveform = load_recording(dataset[int(index)], rate, 0, round(MAX_READ_SECONDS * rate))
        except AudioError:
            # With unchecked recordings, training reports the unreadable ones.
            continue
        part = find_quiet_part(waveform, rate)
        if part is not None:
            count -= 1
            yield waveform[slice(*part)]


def _divide_own(background_dir: str | None, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Return the recordings of `background_dir` by split; all are for training if the data has no other splits."""
    if background_dir is None:
        return {split: [] for split in SPLITS}
    folder = Path(background_dir)
    if not folder.is_dir():
        raise DataError(f"--background_dir {folder}: folder not found.")
    files = list_audio_files(folder, is_deep=True)
    if not files:
        raise DataError(
            f"--background_dir {folder} contains no recordings, such as .wav, .flac or .mp3 files. Add some, or leave "
            "it out."
        )
    names = [path.relative_to(folder).as_posix() for path in files]
    held_out = [split for split in ("validation", "test") if split in splits or (split == "test" and len(splits) > 1)]
    parts = split_by_hash([DEFAULT_NAME] * len(files), names, held_out)
    return {split: [files[index] for index in parts.get(split, [])] for split in SPLITS}


def _cut_own(
    files: Sequence[Path], length: int, rate: int, generator: np.random.Generator, count: int
) -> Iterator[np.ndarray]:
    """Yield up to `count` clips from files: first one clip of each file, then the next of each."""
    waveforms = []
    for index in generator.permutation(len(files))[:count]:
        try:
            waveform = load_audio(files[index], rate, None, 0, round(MAX_READ_SECONDS * rate))
        except AudioError as error:
            logger.warning(f"Skipped: {error}")
            continue
        if largest_amplitude(waveform) >= SILENCE:
            waveforms.append(waveform)
    if files and not waveforms:
        raise DataError(
            f"All {len(files)} {GROUP} for training are unreadable or silent. Add others, or leave it out."
        )
    starts = [generator.permutation(max(1, len(waveform) // length)) * length for waveform in waveforms]
    rounds = max(map(len, starts), default=0)
    for turn in range(rounds):
        for waveform, own in zip(waveforms, starts):
            if turn < len(own) and count > 0:
                count -= 1
                yield waveform[own[turn] : own[turn] + length]
