# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of recordings to batches: splits, labels, loading, collation."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Audio, Dataset, DatasetDict, load_dataset
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from tqdm.auto import tqdm
from transformers import FeatureExtractionMixin
from transformers.utils import logging

from sanet_hf.audio import AudioError, load_audio


logger = logging.get_logger(__name__)

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
AUDIO_SUFFIXES = frozenset(AudioFolder.EXTENSIONS)


class DataError(ValueError):
    """Recordings that cannot be trained on; the message names them and says what to do."""


def load_recordings(
    data_dir: str | Path, sampling_rate: int, max_bad_fraction: float = 0.05, num_threads: int = 4
) -> DatasetDict:
    """
    Load a folder of recordings with `datasets`' audiofolder.

    Two layouts are known: `data_dir/<class>/*.wav`, split 80/10/10 by a hash of the file names within each class, and
    `data_dir/<split>/<class>/*.wav`. Where the second has no validation folder, a tenth of the training recordings
    takes its place. Recordings that cannot be read are left out with a warning that names them.

    Args:
        data_dir: The folder.
        sampling_rate: Sampling rate in Hz at which recordings must be readable.
        max_bad_fraction: Part of all recordings that may be unreadable.
        num_threads: Threads that read recordings to check them.

    Returns:
        `train`, `validation` and, where there is one, `test`, with the columns `audio` (not decoded) and `label`.

    Raises:
        DataError: There is nothing to train on, or too many recordings cannot be read.
    """
    data_dir = Path(data_dir)
    files = _find_recordings(data_dir)
    _check_classes(data_dir, files)
    files = _leave_out_unreadable(files, sampling_rate, max_bad_fraction, num_threads)
    _check_classes(data_dir, files)
    paths = {split: [str(path) for paths in classes.values() for path in paths] for split, classes in files.items()}
    # Globs would be guessed at: a class folder called "test" would become a split.
    try:
        recordings = load_dataset("audiofolder", data_files=paths, drop_labels=False, drop_metadata=True)
    except ImportError as error:
        raise DataError(
            f"datasets cannot read audio here: {error} Install FFmpeg, whose libraries torchcodec needs (Debian: "
            "apt-get install ffmpeg)."
        ) from error
    return recordings.cast_column("audio", Audio(decode=False))


def make_features(
    recordings: DatasetDict, feature_extractor: FeatureExtractionMixin, label2id: Mapping[str, int]
) -> dict[str, Dataset]:
    """
    Splits whose items are `input_values`, `attention_mask` and `labels` in the numbering of `label2id`, computed when
    they are asked for: a random stretch of a recording in training, its middle elsewhere, where it is longer than
    `feature_extractor.max_length`.
    """
    return {
        split: dataset.with_transform(
            partial(
                _extract_features,
                feature_extractor=feature_extractor,
                label_ids=[label2id[label] for label in dataset.features["label"].names],
                truncation="random" if split == "train" else "center",
            )
        )
        for split, dataset in recordings.items()
    }


def collate(items: list[Mapping], feature_extractor: FeatureExtractionMixin) -> dict[str, torch.Tensor]:
    """Pad items to the longest of the batch; a mask that leaves nothing out is dropped, since it only costs time."""
    labels = torch.tensor([item["labels"] for item in items])
    features = [{name: value for name, value in item.items() if name != "labels"} for item in items]
    batch = dict(feature_extractor.pad(features, padding="longest", return_tensors="pt"))
    if "attention_mask" in batch and bool(batch["attention_mask"].all()):
        del batch["attention_mask"]
    return {**batch, "labels": labels}


def _extract_features(
    rows: Mapping[str, list], feature_extractor: FeatureExtractionMixin, label_ids: list[int], truncation: str
) -> dict[str, list]:
    waveforms = [load_audio(audio["path"], feature_extractor.sampling_rate) for audio in rows["audio"]]
    # Seeded from PyTorch's generator: DataLoader gives each worker its own, and Trainer restores it on resuming.
    generator = np.random.default_rng(int(torch.randint(2**62, ())))
    features = feature_extractor(
        waveforms,
        sampling_rate=feature_extractor.sampling_rate,
        padding=False,
        truncation=truncation,
        generator=generator,
    )
    return {**features, "labels": [label_ids[label] for label in rows["label"]]}


def _find_recordings(data_dir: Path) -> dict[str, dict[str, list[Path]]]:
    """Recordings of each class of each split, in the order of their names."""
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: there is no such folder. --data_dir names the folder with the recordings.")
    folders = [path for path in sorted(data_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    splits = {path: SPLIT_FOLDERS[path.name.lower()] for path in folders if path.name.lower() in SPLIT_FOLDERS}
    if not splits:
        return _split_by_hash(_classes_in(data_dir), {"train": 0.8, "validation": 0.1, "test": 0.1})
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = ", ".join(f"{path.name}/" for path in splits if splits[path] == split)
            raise DataError(f"{data_dir} holds several folders for the {split} split: {names}. Keep one.")
    if "train" not in splits.values():
        raise DataError(
            f"{data_dir} holds {', '.join(f'{path.name}/' for path in splits)} but no train/ to learn from."
        )
    others = [f"{path.name}/" for path in folders if path not in splits]
    if others:
        logger.warning(f"{data_dir}: {', '.join(others)} beside the split folders is left out.")
    files = {split: _classes_in(path) for path, split in splits.items()}
    if "validation" not in files:
        logger.warning(f"{data_dir} has no validation/: a tenth of the training recordings is held out instead.")
        files.update(_split_by_hash(files["train"], {"train": 0.9, "validation": 0.1}))
    return {split: files[split] for split in ("train", "validation", "test") if split in files}


def _classes_in(folder: Path) -> dict[str, list[Path]]:
    classes = {}
    too_deep = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        classes[path.name] = _audio_files(path.iterdir())
        too_deep += [file for file in _audio_files(path.rglob("*")) if file.parent != path]
    if not classes:
        loose = _audio_files(folder.iterdir())
        found = f"{len(loose)} recordings" if loose else "nothing"
        raise DataError(
            f"{folder} holds {found} but no class folders: put each class's recordings in {folder}/CLASS/."
        )
    if too_deep:
        logger.warning(
            f"{len(too_deep)} recordings lie deeper than their class folder and are left out, the first: {too_deep[0]}"
        )
    return classes


def _audio_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir())


def _split_by_hash(classes: Mapping[str, list[Path]], parts: Mapping[str, float]) -> dict[str, dict[str, list[Path]]]:
    """
    Split each class by a hash of the file names: the same recordings give the same splits wherever they lie. Every
    split gets a recording of a class before a split gets its second.
    """
    files: dict[str, dict[str, list[Path]]] = {split: {} for split in parts}
    for label, paths in classes.items():
        ordered = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())
        bounds = np.cumsum([0, *parts.values()])
        bounds = np.ceil(bounds / bounds[-1] * len(ordered)).astype(int)
        for split, start, end in zip(parts, bounds[:-1], bounds[1:]):
            files[split][label] = sorted(ordered[start:end])
    return files


def _check_classes(data_dir: Path, files: Mapping[str, Mapping[str, list[Path]]]) -> None:
    train = {label for label, paths in files["train"].items() if paths}
    if not any(paths for classes in files.values() for paths in classes.values()):
        raise DataError(f"{data_dir} holds no recordings that can be read ({', '.join(sorted(AUDIO_SUFFIXES))}).")
    for split, classes in files.items():
        empty = sorted(label for label, paths in classes.items() if not paths)
        if empty and split == "train":
            raise DataError(
                f"{data_dir}: no recordings to learn {', '.join(empty)} from. Add some or remove the class folder."
            )
        unknown = sorted(label for label, paths in classes.items() if paths and label not in train)
        if unknown:
            raise DataError(f"{data_dir}: {', '.join(unknown)} stands in {split}/ but not in train/.")
    if len(train) == 1:
        raise DataError(f"{data_dir} holds one class, {train.pop()}: there is nothing to tell it from. Add another.")
    if not any(files["validation"].values()):
        raise DataError(f"{data_dir}: no recordings are left for validation. Add some to choose the best model by.")


def _leave_out_unreadable(
    files: Mapping[str, Mapping[str, list[Path]]], sampling_rate: int, max_bad_fraction: float, num_threads: int
) -> dict[str, dict[str, list[Path]]]:
    paths = [path for classes in files.values() for paths in classes.values() for path in paths]
    with ThreadPoolExecutor(num_threads) as pool:
        check = partial(_reading_error, sampling_rate=sampling_rate)
        errors = list(tqdm(pool.map(check, paths), total=len(paths), desc="Checking recordings", unit="file"))
    bad = {path: error for path, error in zip(paths, errors) if error is not None}
    for error in bad.values():
        logger.warning(f"Left out: {error}")
    if len(bad) > max_bad_fraction * len(paths):
        shown = "\n".join(f"  {error}" for error in list(bad.values())[:20])
        more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise DataError(
            f"{len(bad)} of {len(paths)} recordings cannot be read, more than max_bad_fraction={max_bad_fraction:g}:\n"
            f"{shown}{more}"
        )
    kept: dict[str, dict[str, list[Path]]] = defaultdict(dict)
    for split, classes in files.items():
        for label, paths in classes.items():
            kept[split][label] = [path for path in paths if path not in bad]
    return dict(kept)


def _reading_error(path: Path, sampling_rate: int) -> str | None:
    try:
        load_audio(path, sampling_rate)
    except AudioError as error:
        return str(error)
    return None
