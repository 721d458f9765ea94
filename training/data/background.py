# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The background: what is trained on so that the model does not take it for a class.

A class called `background`, or as `--background` names it, is trained like others, and its name stored in the model's
configuration, so that nothing reports it. In multi-label data, its recordings have no class instead.

`--background auto` and `--background_dir` add clips of 16 bits in a folder of the run:

    generated noise                    kinds of [`TRAINED_KINDS`] that do not sound like a class of the recordings
    quiet parts of the recordings      of the same split, at most a quarter
    recordings of `background_dir`     divided as other recordings are; their test split is kept for false alarms

They train, and help to choose the epoch. Results are those of the user's recordings alone, as `sanet evaluate` finds
them, since noise is easily told from most classes.
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
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.data.splits import split_by_hash
from sanet_hf.utils.files import write_atomically


logger = logging.get_logger(__name__)

# Like that of decoded recordings, it is not uploaded.
FOLDER = "_background"
RECORD_FILE = "background.json"

# Random numbers of a split are those of its place here.
QUIET_PART, OWN_PART = 0.25, 0.5  # of the clips that are added, at most
# A training clip is a random stretch of a file with so many different noises, in all at most so many.
NUM_NOISES, MAX_NOISES = 8, 800
# Parts of the noises that another kind is mixed into, and its level beside the first in dB.
MIXED_PART, MIXED_LEVELS = 0.4, (-15.0, 0.0)
# Some files are shorter than a clip, as recordings can be.
SHORT_PART, SHORTEST_SECONDS = 0.25, 0.3
# A part of a recording is quiet where it is by so many dB below the loudest tenth of it, for so long.
QUIET_DECIBELS, QUIET_SECONDS, FRAME_SECONDS = 20.0, 1.0, 0.05
LONGEST_QUIET_SECONDS = 10.0
# Recordings that are read to find each quiet part, and how much of one.
NUM_SEARCHED, MAX_READ_SECONDS = 10, 600.0
GROUP = "recordings of --background_dir"


def add_background(
    recordings: DatasetDict, data: DataArguments, training: AudioTrainingArguments, sampling_rate: int
) -> tuple[DatasetDict, Background]:
    """
    Add clips of background to the training and validation splits, about as many as the median class has recordings.
    They are the same for the same recordings, options and seed. A line to stderr says how many they are.

    Args:
        recordings: As [`load_recordings`] gives them.
        data, training: Options of the run; clips are written to a folder in its `output_dir`.
        sampling_rate: In Hz.

    Raises:
        DataError: `background_dir` holds no recordings that can be read.
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
        result[split] = _append(dataset, own, folder, None if is_multi_label(dataset) else name)
    if training.process_index == 0:
        print(_describe(background, data), file=sys.stderr)
    return DatasetDict(result), background


def _append(dataset: Dataset, clips: Sequence[Mapping], folder: Path, name: str | None) -> Dataset:
    """A split with clips of background, which are of class `name` or of none."""
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
    # A path becomes audio that is not decoded.
    added = added.cast_column("audio", Audio(decode=False)).cast(dataset.features)
    return concatenate_datasets([dataset, added])


def _describe(background: Background, data: DataArguments) -> str:
    counts = ", ".join(f"{sum(kinds.values())} {split}" for split, kinds in background.counts.items() if kinds)
    kinds = sorted({kind for kinds in background.counts.values() for kind in kinds})
    text = f"Background added: {counts} clips ({', '.join(kinds)})"
    text += f", in {FOLDER} of the run."
    for kind, label in background.alike.items():
        text += f"\nGenerated {kind} is left out: it sounds like {label}, which the model is to report."
    if data.background_dir and not background.test_files:
        text += f"\nFewer than three {GROUP} can be read: none is left to count false alarms on."
    return text


def _write(folder: Path, recordings: DatasetDict, data: DataArguments, seed: int, rate: int) -> None:
    """Write the clips, and last the record of them."""
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
                # Floats, since quiet parts are faint.
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
    """Kinds in turn, in files of several noises where a training clip is a stretch of one."""
    num_noises = max(1, min(NUM_NOISES, MAX_NOISES // max(count, 1))) if is_training else 1
    for index in range(max(0, count)):
        kind = kinds[index % len(kinds)]
        if generator.uniform() < SHORT_PART:
            least = min(length, round(SHORTEST_SECONDS * rate))
            yield kind, make_noise(kind, generator, int(generator.integers(least, length + 1)), rate)
        else:
            # Of one level: training takes no stretch that is much quieter than others of a file.
            level = generator.uniform(*LEVELS)
            noises = [_mix_noise(kind, kinds, generator, length, rate, level) for _ in range(num_noises)]
            yield kind, np.concatenate(noises)


def _mix_noise(
    kind: str, kinds: Sequence[str], generator: np.random.Generator, length: int, rate: int, level: float
) -> np.ndarray:
    """Noise of a kind, some of it with another in it: there are more sounds than kinds."""
    noise = make_noise(kind, generator, length, rate, level)
    if generator.uniform() < MIXED_PART:
        other = make_noise(str(generator.choice(kinds)), generator, length, rate)
        level = 10 ** (generator.uniform(*MIXED_LEVELS) / 20)
        noise = noise + other * np.float32(level * np.std(noise) / max(np.std(other), 1e-9))
    return noise


def find_quiet_part(waveform: np.ndarray, sampling_rate: int) -> tuple[int, int] | None:
    """
    Return the first and last sample of the longest part of a recording that is well below its level, but not digital
    silence; `None` where there is none of a second or more.

    Args:
        waveform: Of shape (samples,).
        sampling_rate: In Hz.
    """
    frame = max(1, round(FRAME_SECONDS * sampling_rate))
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    if not len(frames):
        return None
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    level = np.quantile(power, 0.9)
    # Some recordings are filled up with zeros, which no microphone gives.
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
            # Unchecked recordings are found when they are trained on.
            continue
        part = find_quiet_part(waveform, rate)
        if part is not None:
            count -= 1
            yield waveform[slice(*part)]


def _divide_own(background_dir: str | None, splits: Sequence[str]) -> dict[str, list[Path]]:
    """The recordings of `background_dir` by split; all train where nothing else is held out."""
    if background_dir is None:
        return {split: [] for split in SPLITS}
    folder = Path(background_dir)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder. --background_dir names one with recordings of background."
        )
    files = list_audio_files(folder, is_deep=True)
    if not files:
        raise DataError(
            f"{folder} holds no recordings, such as .wav, .flac or .mp3 files. Leave out --background_dir."
        )
    names = [path.relative_to(folder).as_posix() for path in files]
    held_out = [split for split in ("validation", "test") if split in splits or (split == "test" and len(splits) > 1)]
    parts = split_by_hash([DEFAULT_NAME] * len(files), names, held_out)
    return {split: [files[index] for index in parts.get(split, [])] for split in SPLITS}


def _cut_own(
    files: Sequence[Path], length: int, rate: int, generator: np.random.Generator, count: int
) -> Iterator[np.ndarray]:
    """Up to `count` clips of files, the first of each in turn."""
    waveforms = []
    for index in generator.permutation(len(files))[:count]:
        try:
            waveform = load_audio(files[index], rate, None, 0, round(MAX_READ_SECONDS * rate))
        except AudioError as error:
            logger.warning(f"Left out: {error}")
            continue
        if largest_amplitude(waveform) >= SILENCE:
            waveforms.append(waveform)
    if files and not waveforms:
        raise DataError(f"None of the {len(files)} {GROUP} to learn from can be read and has a sound.")
    starts = [generator.permutation(max(1, len(waveform) // length)) * length for waveform in waveforms]
    rounds = max(map(len, starts), default=0)
    for turn in range(rounds):
        for waveform, own in zip(waveforms, starts):
            if turn < len(own) and count > 0:
                count -= 1
                yield waveform[own[turn] : own[turn] + length]
