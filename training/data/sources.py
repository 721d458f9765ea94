# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Sources of recordings: a folder, a manifest, or a dataset on the Hub.

Each gives a `DatasetDict` with the columns `audio` (not decoded), `file` (a name for display), `key` (a name that does
not change when the data are moved) and `label` (text, or a list of texts in multi-label data). Its splits are those of
the source (`train`, `validation` and `test`), or the single split `unsplit`, which is divided later.
"""

import io
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, IterableDataset, List, Value, load_dataset
from datasets.exceptions import DatasetsError
from transformers.utils import logging

from sanet_hf.audio.folders import (
    SPLIT_NAMES,
    SPLITS,
    count_other_files,
    find_split_folders,
    list_audio_files,
    visible_folders,
)
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.labels import (
    LabelFormat,
    feature_names,
    find_label_format,
    warn_of_spellings,
)
from sanet_hf.training.data.manifest import read_bounds, read_manifest_rows
from sanet_hf.training.data.rows import is_url
from sanet_hf.utils.files import to_text
from sanet_hf.utils.formatting import format_count, shorten


logger = logging.get_logger(__name__)


class SourceSplit(NamedTuple):
    """A split of a source: the columns of [`read_source`] without the label, and the original labels."""

    recordings: Dataset
    labels: list


def read_source(arguments: DataArguments) -> DatasetDict:
    """
    Return the recordings that the options name, with the columns above.

    Recordings without a label, and splits without any label, are skipped with a warning; see [`labels`].

    Raises:
        DataError: The source cannot be read, or more than `max_bad_fraction` of a split have no label.
    """
    is_multi_label = arguments.problem_type == "multi_label_classification"
    try:
        if arguments.manifest:
            splits, names = _read_manifest(Path(arguments.manifest)), None
        elif arguments.dataset_name:
            splits, names = _read_hub(arguments)
        else:
            splits, names = _read_folder(Path(arguments.data_dir)), None
        labels = list(chain.from_iterable(split.labels for split in splits.values()))
        if arguments.data_dir and not arguments.class_names:
            # Names of class folders are class names, even 0 and 1.
            label_format = LabelFormat(is_multi_label)
        else:
            label_format = find_label_format(labels, is_multi_label, names, arguments.class_names)
        warn_of_spellings(labels, names or (labels if arguments.data_dir else ()))
        recordings = {
            name: _read_labels(name, split, label_format, arguments.max_bad_fraction) for name, split in splits.items()
        }
    except UnicodeEncodeError as error:
        name = error.object.encode("utf-8", "backslashreplace").decode()
        raise DataError(
            f"{name}: the name is not UTF-8. Rename it, or train on the clips of sanet prepare."
        ) from error
    return DatasetDict({name: dataset for name, dataset in recordings.items() if dataset is not None})


def _read_labels(name: str, split: SourceSplit, label_format: LabelFormat, max_bad_fraction: float) -> Dataset | None:
    """Return the split with a column `label`, without unlabelled recordings; `None` if all are unlabelled."""
    files = split.recordings["file"][:]
    labels = [label_format.read(label, f"{file} ({name})") for label, file in zip(split.labels, files)]
    missing = [file for label, file in zip(labels, files) if label is None]
    if len(missing) == len(labels):
        if name in ("train", "unsplit"):
            raise DataError(f"None of the {len(labels)} training recordings has a label.")
        logger.warning(f"Skipped the {name} split: none of its {len(labels)} recordings has a label.")
        return None
    if len(missing) > max_bad_fraction * len(labels):
        raise DataError(
            f"{len(missing)} of {len(labels)} recordings ({name}) are unlabelled, more than "
            f"max_bad_fraction={max_bad_fraction:g}: {shorten(missing)}. Missing, None, NaN and -1 mean no label."
        )
    recordings = split.recordings
    if missing:
        logger.warning(
            f"Skipped {format_count(len(missing), 'recording')} ({name}) without a label: {shorten(missing)}."
        )
        recordings = recordings.select([index for index, label in enumerate(labels) if label is not None])
    labels = [label for label in labels if label is not None]
    if label_format.is_multi_label:
        return recordings.add_column("label", labels, feature=List(Value("string")))
    return recordings.add_column("label", [label for (label,) in labels], feature=Value("string"))


def _read_folder(data_dir: Path) -> dict[str, SourceSplit]:
    if not data_dir.is_dir():
        raise DataError(f"--data_dir {data_dir}: folder not found.")
    split_folders = find_split_folders(data_dir)
    if not split_folders:
        called_as_splits = [path.name for path in visible_folders(data_dir) if path.name.lower() in SPLIT_NAMES]
        if called_as_splits:
            logger.warning(
                f"{data_dir}: {shorten(called_as_splits)} counts as a class, not as a split, because it contains no "
                "class folders."
            )
        return _from_files(data_dir, {"unsplit": _files_of_classes(data_dir, "unsplit")})
    others = [f"{path.name}/" for path in visible_folders(data_dir) if path not in split_folders]
    if others:
        logger.warning(f"{data_dir}: skipped {', '.join(others)}, because there are split folders.")
    without_classes = [path for path, split in split_folders.items() if split != "train" and not visible_folders(path)]
    for path in without_classes if len(without_classes) < len(split_folders) else []:
        logger.warning(f"Skipped {path}, because it contains no class folders.")
        del split_folders[path]
    return _from_files(data_dir, {split: _files_of_classes(path, split) for path, split in split_folders.items()})


def _from_files(data_dir: Path, files: Mapping[str, list[Path]]) -> dict[str, SourceSplit]:
    files = {
        split: [Path(os.path.abspath(path)) for path in paths if _is_utf8(path)] for split, paths in files.items()
    }
    files = {split: paths for split, paths in files.items() if paths}
    if not files:
        raise DataError(f"{data_dir} contains no recordings, such as .wav, .flac or .mp3 files.")
    # datasets' audiofolder treats names as globs and URLs, so that it does not find names with "[x]" or "::".
    splits = {}
    for split, paths in files.items():
        keys = [f"{path.parent.name}/{path.name}" for path in paths]
        splits[split] = SourceSplit(_from_paths(list(map(str, paths)), keys), [path.parent.name for path in paths])
    return splits


def _from_paths(paths: Sequence[str], keys: Sequence[str]) -> Dataset:
    dataset = Dataset.from_dict({"audio": paths, "file": paths, "key": keys})
    return dataset.cast_column("audio", Audio(decode=False))


def _is_utf8(path: Path) -> bool:
    """Return whether Arrow can store a file's name. Warn if not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        logger.warning(f"Skipped {to_text(str(path))}: its name is not UTF-8. Rename it.")
        return False
    return True


def _files_of_classes(folder: Path, split: str) -> list[Path]:
    """Return the recordings in class folders, sorted by name. In a training split, no class may be empty."""
    files = []
    too_deep = []
    classes = visible_folders(folder)
    for path in classes:
        own = list_audio_files(path)
        if not own and split in ("train", "unsplit"):
            raise DataError(f"{folder}: class {path.name} has no recordings. Add some, or remove the class folder.")
        files += own
        too_deep += [file for file in list_audio_files(path, is_deep=True) if file.parent != path]
    loose = list_audio_files(folder)
    if not classes:
        found = format_count(len(loose), "recording") if loose else "nothing"
        raise DataError(
            f"{folder} contains {found} but no class folders. Put the recordings of each class in {folder}/CLASS/."
        )
    if loose:
        logger.warning(
            f"Skipped {format_count(len(loose), 'recording')} outside of class folders, the first: {loose[0]}"
        )
    others = count_other_files(classes)
    if others:
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in others.items())
        logger.warning(f"{folder}: skipped files whose suffix is not an audio format: {kinds}.")
    if too_deep:
        logger.warning(
            f"Skipped {format_count(len(too_deep), 'recording')} in subfolders of classes, the first: {too_deep[0]}"
        )
    return files


def _read_manifest(path: Path) -> dict[str, SourceSplit]:
    rows = read_manifest_rows(path)
    names = [split for split in SPLITS if any(row.get("split") == split for row in rows)] or ["unsplit"]
    splits = {}
    for name in names:
        of_split = [row for row in rows if row.get("split", "unsplit") == name]
        files = [_find_file(path.parent, row["file"]) for row in of_split]
        # The same key for all spellings of a path, on all operating systems.
        keys = [os.path.normpath(row["file"].replace("\\", "/")).replace("\\", "/") for row in of_split]
        recordings = _from_paths(files, keys)
        if "start" in of_split[0]:
            recordings = _with_bounds(recordings, [(row["start"], row["end"]) for row in of_split])
        splits[name] = SourceSplit(recordings, [row["label"] for row in of_split])
    return splits


def _find_file(folder: Path, name: str) -> str:
    """Return the path of a file in a table, relative to the table's folder. Windows tables have backslashes."""
    if is_url(name):
        return name
    path = folder / name
    with_slashes = folder / name.replace("\\", "/")
    return str(with_slashes if "\\" in name and not os.path.exists(path) else path)


def _with_bounds(recordings: Dataset, bounds: Sequence[tuple[float | None, float | None]]) -> Dataset:
    """Return the recordings with columns `start` and `end` in seconds, also in `file`, unless all are `None`."""
    if all(bound == (None, None) for bound in bounds):
        return recordings
    starts, ends = zip(*bounds)
    files = [file + _format_bounds(*bound) for file, bound in zip(recordings["file"], bounds)]
    recordings = recordings.remove_columns("file").add_column("file", files)
    recordings = recordings.add_column("start", [start or 0.0 for start in starts], feature=Value("float64"))
    return recordings.add_column("end", list(ends), feature=Value("float64"))


def _format_bounds(start: float | None, end: float | None) -> str:
    first = f"{round(start or 0.0, 3):.12g}"
    if end is not None:
        return f" [{first}–{round(end, 3):.12g} s]"
    return f" [from {first} s]" if start else ""


def stream_training_split(arguments: DataArguments) -> IterableDataset:
    """
    Return the training split of `dataset_name` as a stream, with the columns `audio` (not decoded), `label`
    (unchanged, see [`labels`]) and, if it has them, `start` and `end` (seconds).

    Raises:
        DataError: The dataset cannot be read.
    """
    return _load_hub(arguments)["train"]


def _read_hub(arguments: DataArguments) -> tuple[dict[str, SourceSplit], list[str] | None]:
    splits, names = {}, None
    for split, rows in _load_hub(arguments).items():
        names = names or feature_names(rows.features["label"])
        if arguments.streaming and split == "train":
            continue
        if arguments.streaming:
            rows = Dataset.from_list(list(rows), features=rows.features)
        labels = rows["label"][:]
        rows = rows.remove_columns("label")
        paths = [(row["audio"] or {}).get("path") for row in rows]
        keys = [f"{split}/{index}" if path is None else path for index, path in enumerate(paths)]
        columns = [column for column in ("start", "end") if column in rows.column_names]
        starts, ends = (rows[c][:] if c in columns else [None] * len(rows) for c in ("start", "end"))
        bounds = [
            read_bounds(start, end, f"{arguments.dataset_name}: {key} ({split})")
            for start, end, key in zip(starts, ends, keys)
        ]
        rows = rows.remove_columns(columns).add_column("file", keys)
        # Clips of one file get the same key. Files in different folders do not belong together.
        rows = rows.add_column("key", keys if columns else [Path(key).name for key in keys])
        splits[split] = SourceSplit(_with_bounds(rows, bounds), labels)
    return splits, names


def _load_hub(arguments: DataArguments) -> dict[str, Dataset | IterableDataset]:
    """Return the available splits, with the columns `audio` and `label`."""
    name, options = arguments.dataset_name, {"streaming": arguments.streaming}
    try:
        try:
            dataset = load_dataset(name, arguments.dataset_config_name, **options)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # The Hub has converted datasets that are scripts, such as superb, on a separate branch.
            options["revision"] = "refs/convert/parquet"
            dataset = load_dataset(name, arguments.dataset_config_name, **options)
    except (OSError, ValueError, ImportError, RuntimeError, DatasetsError) as error:
        raise DataError(f"--dataset_name {name}: cannot load the dataset: {error}") from error
    names = {split: getattr(arguments, f"{split}_split_name") for split in SPLITS}
    for split, source in names.items():
        default = DataArguments.__dataclass_fields__[f"{split}_split_name"].default
        if source not in dataset and (split == "train" or source != default):
            raise DataError(f"{name} has no split {source!r}. Choose one of: {', '.join(dataset)}.")
    return {split: _select_columns(dataset[source], arguments) for split, source in names.items() if source in dataset}


def _select_columns(rows: Dataset | IterableDataset, arguments: DataArguments) -> Dataset | IterableDataset:
    if rows.features is None:
        rows = rows._resolve_features()
    columns = {"audio": arguments.audio_column_name, "label": arguments.label_column_name}
    for option, column in columns.items():
        if column not in rows.column_names:
            raise DataError(
                f"{arguments.dataset_name} has no column {column!r}. Choose --{option}_column_name from "
                f"{', '.join(rows.column_names)}."
            )
    dtypes = {name: getattr(feature, "dtype", "") for name, feature in rows.features.items()}
    bounds = [
        name
        for name in ("start", "end")
        if name not in columns.values() and dtypes.get(name, "").startswith(("int", "uint", "float"))
    ]
    rows = rows.select_columns([*columns.values(), *bounds])
    try:
        rows = _not_decoded(rows, arguments.audio_column_name, Path(arguments.dataset_name))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{arguments.dataset_name}: the column {arguments.audio_column_name!r} contains no audio. Choose another "
            "--audio_column_name."
        ) from error
    # Last, because renaming columns of a stream reads them, and damaged audio would end the training.
    return rows.rename_columns({column: name for name, column in columns.items() if column != name})


def _not_decoded(rows: Dataset | IterableDataset, column: str, folder: Path) -> Dataset | IterableDataset:
    """Convert a column of audio, paths, file contents or waveforms to audio that is not decoded."""
    feature = rows.features[column]
    parts = feature.keys() if isinstance(feature, dict) else {getattr(feature, "dtype", "").removeprefix("large_")}
    if isinstance(feature, Audio) or ({"bytes", "path"} & parts and isinstance(rows, Dataset)):
        return rows.cast_column(column, Audio(decode=False))
    if not ({"bytes", "path", "string", "binary"} & parts or {"array", "sampling_rate"} <= parts):
        raise TypeError(f"{feature} is not audio")
    features = Features({**rows.features, column: Audio(decode=False)})
    # Do not use datasets' cache, because it does not notice that the files of a table were moved.
    options = {"load_from_cache_file": False} if isinstance(rows, Dataset) else {}
    return rows.map(partial(_as_audio, column=column, folder=folder), features=features, **options)


def _as_audio(row: Mapping, column: str, folder: Path) -> dict[str, dict | None]:
    """
    Convert the audio of a row to its path or content. A row has a path (absolute, or relative to the folder of the
    table), content, both, or a waveform of shape (samples,) or (channels, samples).
    """
    audio = row[column]
    if not isinstance(audio, dict):
        audio = {"path": audio} if isinstance(audio, str) else {"bytes": audio}
    path, content = audio.get("path"), audio.get("bytes")
    if path is not None and content is None and not is_url(path):
        found = _find_file(folder, path)
        path = found if os.path.exists(found) else path
    if content is None and audio.get("array") is not None:
        file = io.BytesIO()
        waveform = np.asarray(audio["array"], np.float32)
        soundfile.write(file, waveform.T, int(audio["sampling_rate"]), format="WAV", subtype="FLOAT")
        content = file.getvalue()
    return {column: None if path is None and content is None else {"path": path, "bytes": content}}
