# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips of recordings: random parts for training, windows for evaluation, augmentation and features."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers import FeatureExtractionMixin
from transformers.utils import logging

from sanet_hf.architectures import pads_to_one_length
from sanet_hf.audio.decode import OpenedRecording, WindowReader
from sanet_hf.audio.levels import is_loud, is_silent, mean_power
from sanet_hf.errors import AudioError, DataError
from sanet_hf.inference.windows import window_starts
from sanet_hf.training.data.augmentation import Augmentation
from sanet_hf.training.data.items import extract, make_item
from sanet_hf.training.data.labels import (
    LabelFormat,
    as_target,
    feature_names,
    find_label_format,
    indices_of_names,
    is_multi_label,
    label_matrix,
)
from sanet_hf.training.data.rows import check_end, load_recording, open_row
from sanet_hf.training.data.stretches import draw_start, find_loud_starts
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)


# Of a longer recording, a random part of this length is joined.
LONG_SEGMENT_SECONDS = 2.0
LONG_SEGMENT_PART = 0.3, 0.6
# Loud parts are searched only in recordings up to this length, because these are read completely.
LONGEST_SEARCHED_SECONDS = 30.0
# Number of labels of a stream that are read to find the label format.
NUM_LABELS_READ = 100


class TrainingClips(Dataset):
    """
    Training clips: a random part of each recording, or, with `samples_per_class`, clips joined from recordings of one
    class (or of no class). They are augmented, and have features and `labels`.

    In single-label data, parts that are more than 20 dB quieter than the loudest part are not used, as in evaluation,
    because the silence after a sound does not belong to the class.

    An item depends only on its index, `epoch * len(self) + clip`, and the seed. It is the same with any number of
    worker processes and when training resumes. See [`EpochSampler`].

    Args:
        recordings: A split as [`load_recordings`] returns it.
        feature_extractor: The model's own.
        label2id: Classes of the model.
        max_length_seconds: Length of a clip.
        augment: Changes the waveform.
        augment_normalized: Changes the waveform after the feature extractor has normalised its loudness. If the
            features are a spectrogram, it changes the input of the feature extractor.
        samples_per_class: Number of joined clips per class and epoch.
        max_segments: Largest number of recordings in a joined clip.
        seed: Seeds the random numbers, together with the index.

    Attributes:
        read_kept: Reads kept samples instead of [`load_recording`]; see [`keep_decoded`].
        teacher_inputs: Makes the teachers' inputs of a clip; see [`TeacherInputs`].
        are_known: Clips that need no teachers' inputs, bool of shape (clips,).

    Raises:
        DataError: A recording has a label that the model does not have.
    """

    # Any part of a recording may be read next.
    are_whole = True

    def __init__(
        self,
        recordings: datasets.Dataset,
        feature_extractor: FeatureExtractionMixin,
        label2id: Mapping[str, int],
        max_length_seconds: float,
        augment: Augmentation | None = None,
        augment_normalized: Augmentation | None = None,
        samples_per_class: int | None = None,
        max_segments: int = 4,
        seed: int = 0,
    ):
        self.recordings = recordings
        self.feature_extractor = feature_extractor
        self.max_length = round(max_length_seconds * feature_extractor.sampling_rate)
        self.augment, self.augment_normalized = augment, augment_normalized
        # Read more, so that a part still fills a clip after augmentation has made it faster.
        self.read_length = math.ceil(self.max_length * getattr(augment, "shortening", 1.0))
        self.samples_per_class, self.max_segments = samples_per_class, max_segments
        self.seed = seed
        self.label_matrix = label_matrix(recordings, label2id)
        self.is_multi_label = is_multi_label(recordings)
        self.read_kept: Callable[..., np.ndarray] | None = None
        self.teacher_inputs: Callable[[np.ndarray], list] | None = None
        self.are_known = np.zeros(len(self), dtype=bool)
        # By row, for recordings that were searched.
        self._loud_starts: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        if self.samples_per_class is None:
            return len(self.recordings)
        return self.samples_per_class * len(self._rows_of_class)

    @cached_property
    def class_matrix(self) -> np.ndarray:
        """Return the classes of each clip, 0/1 of shape (clips, classes)."""
        if self.samples_per_class is None:
            return self.label_matrix
        num_classes = self.label_matrix.shape[1]
        classes = np.eye(num_classes + 1, num_classes, dtype=int)
        return np.repeat(classes[list(self._rows_of_class)], self.samples_per_class, axis=0)

    @cached_property
    def seconds(self) -> list[float]:
        """
        Return the length of each clip in training: the length of the recording, at most `max_length_seconds`. With the
        padding `max_length`, all clips have this length.
        """
        longest = self.max_length / self.feature_extractor.sampling_rate
        if self.samples_per_class is not None or pads_to_one_length(self.feature_extractor):
            return [longest] * len(self)
        return [min(seconds, longest) for seconds in self.recordings["seconds"]]

    @property
    def are_fixed(self) -> np.ndarray:
        """Return which clips are the same in each epoch (short, without augmentation), bool of shape (clips,)."""
        if self.samples_per_class is not None or self.augment is not None or self.augment_normalized is not None:
            return np.zeros(len(self), dtype=bool)
        return np.array(self._num_samples) <= self.max_length

    @cached_property
    def _rows_of_class(self) -> dict[int, np.ndarray]:
        """Return the rows of each class, and last the rows without a class."""
        columns = enumerate([*self.label_matrix.T, ~self.label_matrix.any(axis=1)])
        return {label: np.flatnonzero(column) for label, column in columns if column.any()}

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng([self.seed, index])
        parts = self._draw(index, generator)
        waveforms = [self._read(*part) for part in parts]
        waveform, labels = waveforms[0], self.label_matrix[[row for row, _, _ in parts]].max(axis=0)
        if self.samples_per_class is not None:
            waveform = np.concatenate(waveforms)[: self.max_length]
            missing = self.max_length - len(waveform)
            before = int(generator.integers(missing, endpoint=True))
            waveform = np.pad(waveform, (before, missing - before))
        teacher_inputs = None if self.are_known[index % len(self)] else self.teacher_inputs
        return {**make_item(waveform, labels, generator, self, teacher_inputs), "index": index}

    def _read(self, row: int, start: int, length: int) -> np.ndarray:
        recording, rate = self.recordings[row], self.feature_extractor.sampling_rate
        if self.read_kept is None:
            return load_recording(recording, rate, start, length)
        return self.read_kept(row, recording, rate, start, length)

    def files(self, index: int) -> list[str]:
        """Return the files of the recordings in an item."""
        if self.samples_per_class is None:
            # Do not draw a part here, because this may read the recording.
            return [self.recordings[index % len(self)]["file"]]
        parts = self._draw(index, np.random.default_rng([self.seed, index]))
        return [self.recordings[row]["file"] for row, _, _ in parts]

    def _draw(self, index: int, generator: np.random.Generator) -> list[tuple[int, int, int]]:
        """
        Draw the recordings of an item. Return row, first sample and number of samples of each: a part of one
        recording, or several recordings that fill a clip.

            |  silence  | recording | part of a long one | recording |  silence  |
        """
        clip = index % len(self)
        if self.samples_per_class is None:
            return [(clip, self._draw_start(clip, generator), self.read_length)]
        rows = list(self._rows_of_class.values())[clip // self.samples_per_class]
        parts, total = [], 0
        for _ in range(generator.integers(1, self.max_segments, endpoint=True)):
            row = int(generator.choice(rows))
            start, length = 0, self._num_samples[row]
            if length > LONG_SEGMENT_SECONDS * self.feature_extractor.sampling_rate:
                length = int(length * generator.uniform(*LONG_SEGMENT_PART))
                start = int(generator.integers(self._num_samples[row] - length, endpoint=True))
            parts.append((row, start, length))
            total += length
            if total >= self.max_length:
                break
        return parts

    def _draw_start(self, row: int, generator: np.random.Generator) -> int:
        """Draw the first sample of a part."""
        length, rate = self._num_samples[row], self.feature_extractor.sampling_rate
        starts = None
        if not self.is_multi_label and self.read_length < length <= LONGEST_SEARCHED_SECONDS * rate:
            starts = self._loud_starts.get(row)
            if starts is None:
                starts = self._loud_starts[row] = find_loud_starts(self._read(row, 0, length), self.read_length, rate)
        return draw_start(starts, length, self.read_length, rate, generator)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Return the part of each recording that is read: first sample and number of samples."""
        return [(0, length) for length in self._num_samples]

    @cached_property
    def _num_samples(self) -> list[int]:
        """Return the length of each recording in samples."""
        return [round(seconds * self.feature_extractor.sampling_rate) for seconds in self.recordings["seconds"]]


class StreamedClips(IterableDataset):
    """
    Training clips from a stream of recordings: a random part of each, augmented, with features and `labels`. In
    single-label data, quiet parts are not used, as in [`TrainingClips`]. Recordings that are unreadable or have no
    label are skipped with a warning.

    Each process and worker reads its own files. If the number of files is not a multiple of the number of processes,
    each process uses a part of the recordings in every file. The order and the random parts depend on the seed, the
    epoch and the process.

    Args:
        stream: Has the columns `audio` (not decoded) and `label`, as [`stream_training_split`] returns it.
        feature_extractor: The model's own.
        label2id: Classes of the model.
        max_length_seconds: Length of a clip.
        augment, augment_normalized: As in [`TrainingClips`].
        is_multi_label: Whether a recording can have several classes, as a list or separated by `;`.
        buffer_size: Number of recordings from which one is drawn at random.
        max_bad_fraction: Largest fraction of recordings that may be unreadable or have no label.
        seed: Seeds the random numbers, together with the epoch.
        process_index, num_processes: Index of this process, and number of processes.
        class_names: Option of that name; see [`find_label_format`].

    Attributes:
        teacher_inputs: As in [`TrainingClips`].
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        feature_extractor: FeatureExtractionMixin,
        label2id: Mapping[str, int],
        max_length_seconds: float,
        augment: Augmentation | None = None,
        augment_normalized: Augmentation | None = None,
        is_multi_label: bool = False,
        buffer_size: int = 1000,
        max_bad_fraction: float = 0.05,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        class_names: str | None = None,
    ):
        # All processes shuffle in the same way.
        stream = stream.shuffle(seed, buffer_size=buffer_size)
        self.stream = split_dataset_by_node(stream, process_index, num_processes)
        self.process_index = process_index
        self.feature_extractor = feature_extractor
        self.label2id, self.class_names = label2id, class_names
        self._indices = indices_of_names(label2id)
        self.max_length = round(max_length_seconds * feature_extractor.sampling_rate)
        self.augment, self.augment_normalized = augment, augment_normalized
        self.read_length = math.ceil(self.max_length * getattr(augment, "shortening", 1.0))
        self.is_multi_label = is_multi_label
        self.max_bad_fraction = max_bad_fraction
        self.seed, self.epoch = seed, 0
        self.teacher_inputs: Callable[[np.ndarray], list] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. accelerate calls this before each epoch."""
        self.epoch = epoch
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        reader = self.process_index, 0 if worker is None else worker.id
        bad = 0
        for count, row in enumerate(self.stream):
            generator = np.random.default_rng([self.seed, self.epoch, *reader, count])
            name = (row["audio"] or {}).get("path") or f"recording {count + 1}"
            labels = self._labels(row["label"], name)
            try:
                if labels is None:
                    raise AudioError(f"{name}: the label is missing.")
                row = {**row, "file": name}
                waveform = load_recording(row, self.feature_extractor.sampling_rate)
                check_end(row, self.feature_extractor.sampling_rate, len(waveform))
            except (AudioError, OSError) as error:
                logger.warning(f"Skipped: {error}")
                bad += 1
                if bad > self.max_bad_fraction * max(count + 1, 100):
                    raise DataError(
                        f"{bad} of {count + 1} streamed recordings are unreadable or unlabelled, more than "
                        f"max_bad_fraction={self.max_bad_fraction:g}. The last: {error}"
                    ) from error
                continue
            length, rate = self.read_length, self.feature_extractor.sampling_rate
            starts = None if self.is_multi_label else find_loud_starts(waveform, length, rate)
            start = draw_start(starts, len(waveform), length, rate, generator)
            yield make_item(waveform[start : start + length], labels, generator, self, self.teacher_inputs)

    @cached_property
    def _format(self) -> LabelFormat:
        """Find the label format from the first labels."""
        first = self.stream.select_columns("label").take(NUM_LABELS_READ) if self.is_multi_label else []
        labels = [row["label"] for row in first]
        names = feature_names(self.stream.features["label"])
        return find_label_format(labels, self.is_multi_label, names, self.class_names)

    def _labels(self, label: object, name: str) -> np.ndarray | None:
        """Return the classes, 0/1 of shape (classes,); `None` if the label is missing."""
        found = self._format.read(label, name)
        if found is None:
            return None
        labels = np.zeros(len(self.label2id), dtype=int)
        for value in found:
            if value not in self._indices:
                raise DataError(
                    f"{name} has the label {value!r}, but the classes are {shorten(sorted(self.label2id))}. Classes "
                    "come from the stream's label column if it lists them, or else from the validation split."
                )
            labels[self._indices[value]] = 1
        return labels


class EvaluationClips(Dataset):
    """
    Windows of recordings for evaluation, with features and `labels`: the middle window of each recording, or all
    windows, as in [`predict`].

    Args:
        recordings: A split as [`load_recordings`] returns it.
        feature_extractor: The model's own.
        label2id: Classes of the model.
        max_length_seconds: Length of a window.
        all_windows: Whether to use all windows of a longer recording instead of the middle one.

    Attributes:
        rows: Recording of each clip, int of shape (clips,), in ascending order.
        powers: Mean square of each clip that was read, 0 if it is silent: float64 of shape (clips,). Worker processes
            share it.
        read_kept: As in [`TrainingClips`]; not with `all_windows`.

    Raises:
        DataError: A recording has a label that the model does not have.
    """

    are_whole = False

    def __init__(
        self,
        recordings: datasets.Dataset,
        feature_extractor: FeatureExtractionMixin,
        label2id: Mapping[str, int],
        max_length_seconds: float,
        all_windows: bool = False,
    ):
        self.recordings = recordings
        self.feature_extractor = feature_extractor
        self.max_length = round(max_length_seconds * feature_extractor.sampling_rate)
        self.label_matrix = label_matrix(recordings, label2id)
        self.is_multi_label = is_multi_label(recordings)
        lengths = [round(seconds * feature_extractor.sampling_rate) for seconds in recordings["seconds"]]
        self.lengths = lengths
        starts = [
            window_starts(length, self.max_length, self.max_length)
            if all_windows
            else [max(0, length - self.max_length) // 2]
            for length in lengths
        ]
        self.rows = np.repeat(np.arange(len(starts)), [len(some) for some in starts])
        self.starts = [start for some in starts for start in some]
        self.powers = torch.zeros(len(self.rows), dtype=torch.float64).share_memory_()
        self.reader = WindowReader()
        self.read_kept: Callable[..., np.ndarray] | None = None

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Return the part of each recording that is read: first sample and number of samples."""
        return [(start, min(length, self.max_length)) for start, length in zip(self.starts, self.lengths)]

    @property
    def silent(self) -> np.ndarray:
        """
        Return which clips do not count in the mean over their recording, as in [`predict`], bool of shape (clips,).
        These are silent clips and, in single-label data, clips much quieter than the loudest.
        """
        powers = self.powers.numpy()
        if self.is_multi_label:
            return powers == 0
        parts = np.split(powers, np.flatnonzero(np.diff(self.rows)) + 1)
        return ~np.concatenate([is_loud(part) for part in parts]) | (powers == 0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        place, rate = int(self.rows[index]), self.feature_extractor.sampling_rate
        row, start = self.recordings[place], self.starts[index]
        is_last = index + 1 == len(self) or self.rows[index + 1] != place

        def open_from(first: int) -> OpenedRecording:
            return open_row(row, rate, first, start - first + self.max_length if is_last else None)

        if self.read_kept is not None:
            waveform = self.read_kept(place, row, rate, start, self.max_length)
        else:
            # A sampler in the order of the windows decodes a long compressed recording only once.
            waveform = self.reader.read(place, open_from, start, self.max_length)
        if is_last:
            self.reader.close()
        self.powers[index] = 0.0 if is_silent(waveform) else mean_power(waveform)
        item = extract(self.feature_extractor, waveform)
        return {**item, "labels": as_target(self.label_matrix[self.rows[index]], self.is_multi_label)}
