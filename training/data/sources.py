# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Where recordings come from: a folder, a manifest, a data set on the Hub.

Each gives a `DatasetDict` with the columns `audio` (not decoded), `file` (a name to show), `key` (a name that stays
the same when the data move) and `label` (text; where multi-label, a list of texts). Its splits are `train`,
`validation` and `test` as far as the source has them, or the single split `unsplit`, still to be divided.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value, load_dataset
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
from sanet_hf.utils.files import to_text


logger = logging.get_logger(__name__)


def read_source(arguments: DataArguments) -> DatasetDict:
    """
    The recordings that the options name, with the columns above.

    Raises:
        DataError: The source cannot be read.
    """
    try:
        if arguments.manifest:
            recordings = _read_manifest(Path(arguments.manifest))
        elif arguments.dataset_name:
            recordings = _read_hub(arguments)
        else:
            recordings = _read_folder(Path(arguments.data_dir))
    except UnicodeEncodeError as error:
        name = error.object.encode("utf-8", "backslashreplace").decode()
        raise DataError(f"{name}: a name that is no UTF-8. Rename it, or train on what sanet prepare makes") from error
    is_multi_label = arguments.problem_type == "multi_label_classification"
    return DatasetDict(
        {split: _label_as_text(dataset, split, is_multi_label) for split, dataset in recordings.items()}
    )


def _read_folder(data_dir: Path) -> DatasetDict:
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: there is no such folder. --data_dir names the folder with the recordings.")
    split_folders = find_split_folders(data_dir)
    if not split_folders:
        return _from_files(data_dir, {"unsplit": _files_of_classes(data_dir)})
    others = [f"{path.name}/" for path in visible_folders(data_dir) if path not in split_folders]
    if others:
        logger.warning(f"{data_dir}: {', '.join(others)} beside the split folders is left out.")
    return _from_files(data_dir, {split: _files_of_classes(path) for path, split in split_folders.items()})


def _from_files(data_dir: Path, files: Mapping[str, list[Path]]) -> DatasetDict:
    files = {
        split: [Path(os.path.abspath(path)) for path in paths if _is_utf8(path)] for split, paths in files.items()
    }
    files = {split: paths for split, paths in files.items() if paths}
    if not files:
        raise DataError(f"{data_dir} holds no recordings, such as .wav, .flac or .mp3 files.")
    # Not datasets' audiofolder, which takes names for globs and URLs: "[x]" it would not find, nor anything with "::".
    names = sorted({path.parent.name for paths in files.values() for path in paths})
    numbers = {name: number for number, name in enumerate(names)}
    features = Features({"audio": Value("string"), "label": ClassLabel(names=names)})
    recordings = DatasetDict()
    for split, paths in files.items():
        columns = {"audio": list(map(str, paths)), "label": [numbers[path.parent.name] for path in paths]}
        dataset = Dataset.from_dict(columns, features=features)
        keys = (f"{path.parent.name}/{path.name}" for path in paths)
        recordings[split] = _with_names(dataset.cast_column("audio", Audio(decode=False)), map(str, paths), keys)
    return recordings


def _is_utf8(path: Path) -> bool:
    """Whether Arrow can hold a file's name; if not, a warning names it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        logger.warning(f"Left out: {to_text(str(path))}: its name is not UTF-8; rename it.")
        return False
    return True


def _files_of_classes(folder: Path) -> list[Path]:
    """Recordings in class folders, in the order of their names; a class without any is an error where it is learnt."""
    files = []
    too_deep = []
    classes = visible_folders(folder)
    for path in classes:
        own = list_audio_files(path)
        if not own and SPLIT_NAMES.get(folder.name.lower(), "train") == "train":
            raise DataError(f"{folder}: no recordings to learn {path.name} from. Add some or remove the class folder.")
        files += own
        too_deep += [file for file in list_audio_files(path, is_deep=True) if file.parent != path]
    if not classes:
        loose = list_audio_files(folder)
        found = f"{len(loose)} recordings" if loose else "nothing"
        raise DataError(
            f"{folder} holds {found} but no class folders: put each class's recordings in {folder}/CLASS/."
        )
    others = count_other_files(classes)
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        logger.warning(f"{folder}: left out files that are no recordings by their names: {kinds}.")
    if too_deep:
        logger.warning(
            f"{len(too_deep)} recordings lie deeper than their class folder and are left out, the first: {too_deep[0]}"
        )
    return files


def _read_manifest(path: Path) -> DatasetDict:
    try:
        if path.suffix.lower() in (".jsonl", ".json"):
            table = pandas.read_json(path, lines=True, dtype=False)
        else:
            table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"--manifest {path} cannot be read: {error}") from error
    missing = [name for name in ("file", "label") if name not in table]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(map(repr, table.columns)) or 'none'}. A manifest "
            "has the columns file and label, and may have split."
        )
    if table.empty:
        raise DataError(f"{path} names no recordings.")
    for name in ("file", "label", "split"):
        if name in table and table[name].isna().any():
            raise DataError(f"{path}: row {int(table[name].isna().to_numpy().argmax()) + 1} has no {name}.")
    if "split" in table:
        splits = table["split"].map(lambda name: SPLIT_NAMES.get(str(name).strip().lower()))
        if splits.isna().any():
            row = int(splits.isna().to_numpy().argmax())
            raise DataError(
                f"{path}: the split of row {row + 1} is {table['split'][row]!r}; it must be train, validation or test."
            )
        tables = {split: table[splits == split] for split in SPLITS if (splits == split).any()}
    else:
        tables = {"unsplit": table}
    return DatasetDict({split: _from_manifest_rows(path, rows) for split, rows in tables.items()})


def _from_manifest_rows(path: Path, rows: pandas.DataFrame) -> Dataset:
    paths = [path.parent / name for name in rows["file"].astype(str)]
    labels = rows["label"].tolist()
    are_lists = [isinstance(label, list) for label in labels]
    if any(are_lists) and not all(are_lists):
        raise DataError(f"{path}: the label of row {are_lists.index(False) + 1} is no list, others are.")
    labels = [[str(name) for name in label] if isinstance(label, list) else str(label) for label in labels]
    dataset = Dataset.from_dict({"audio": [str(file) for file in paths], "label": labels})
    return _with_names(dataset.cast_column("audio", Audio(decode=False)), map(str, paths), rows["file"].astype(str))


def stream_training_split(arguments: DataArguments) -> IterableDataset:
    """
    The training split of `dataset_name`, read while it is trained on, with the columns `audio` (not decoded) and
    `label` (text, a class index, or a list of them).

    Raises:
        DataError: It cannot be read.
    """
    return _load_hub(arguments)["train"]


def _read_hub(arguments: DataArguments) -> DatasetDict:
    recordings = DatasetDict()
    for split, rows in _load_hub(arguments).items():
        if arguments.streaming and split == "train":
            continue
        if arguments.streaming:
            rows = Dataset.from_list(list(rows), features=rows.features)
        paths = [audio["path"] for audio in rows.remove_columns("label")["audio"]]
        keys = [f"{split}/{index}" if path is None else path for index, path in enumerate(paths)]
        recordings[split] = _with_names(rows, keys, (Path(key).name for key in keys))
    return recordings


def _load_hub(arguments: DataArguments) -> dict[str, Dataset | IterableDataset]:
    """The splits that there are, with the columns `audio` and `label`."""
    name, options = arguments.dataset_name, {"streaming": arguments.streaming}
    try:
        try:
            dataset = load_dataset(name, arguments.dataset_config_name, **options)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # Data sets that came as a script, as superb did, have been converted by the Hub on a branch of its own.
            options["revision"] = "refs/convert/parquet"
            dataset = load_dataset(name, arguments.dataset_config_name, **options)
    except (OSError, ValueError, ImportError, RuntimeError, DatasetsError) as error:
        raise DataError(f"--dataset_name {name}: datasets cannot load it: {error}") from error
    names = {split: getattr(arguments, f"{split}_split_name") for split in SPLITS}
    for split, source in names.items():
        default = DataArguments.__dataclass_fields__[f"{split}_split_name"].default
        if source not in dataset and (split == "train" or source != default):
            raise DataError(f"{name} has no split {source!r}; it has {', '.join(dataset)}.")
    return {split: _select_columns(dataset[source], arguments) for split, source in names.items() if source in dataset}


def _select_columns(rows: Dataset | IterableDataset, arguments: DataArguments) -> Dataset | IterableDataset:
    columns = {"audio": arguments.audio_column_name, "label": arguments.label_column_name}
    for option, column in columns.items():
        if column not in rows.column_names:
            raise DataError(
                f"{arguments.dataset_name} has no column {column!r}; choose --{option}_column_name from "
                f"{', '.join(rows.column_names)}."
            )
    rows = rows.select_columns(list(columns.values()))
    rows = rows.rename_columns({column: name for name, column in columns.items() if column != name})
    try:
        return rows.cast_column("audio", Audio(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{arguments.dataset_name}: the column {arguments.audio_column_name!r} holds no audio; choose another for "
            "--audio_column_name."
        ) from error


def _with_names(dataset: Dataset, files: Iterable[str], keys: Iterable[str]) -> Dataset:
    return dataset.add_column("file", list(files)).add_column("key", list(keys))


def _label_as_text(dataset: Dataset, split: str, is_multi_label: bool) -> Dataset:
    feature = dataset.features["label"]
    item = feature.feature if isinstance(feature, List) else feature
    labels = dataset["label"][:]
    if isinstance(feature, List) and not is_multi_label:
        raise DataError(
            "The labels are lists: recordings can have several classes. Say so with "
            "--problem_type multi_label_classification."
        )
    if isinstance(item, ClassLabel):
        names = item.names
        for index, label in enumerate(labels):
            for value in label if isinstance(label, list) else [label]:
                if value is None or not 0 <= value < len(names):
                    raise DataError(f"{dataset['file'][index]} ({split}) has the label {value}, which is no class.")
        labels = [[names[i] for i in label] if isinstance(label, list) else names[label] for label in labels]
    elif not isinstance(feature, List):
        labels = ["" if label is None else str(label).strip() for label in labels]
    if is_multi_label:
        if None in labels:
            raise DataError(f"{dataset['file'][labels.index(None)]} ({split}) has no list of labels.")
        labels = [label if isinstance(label, list) else label.split(";") for label in labels]
        labels = [sorted({str(name).strip() for name in label} - {""}) for label in labels]
    elif "" in labels:
        raise DataError(f"{dataset['file'][labels.index('')]} ({split}) has an empty label.")
    feature = List(Value("string")) if is_multi_label else Value("string")
    return dataset.remove_columns("label").add_column("label", labels, feature=feature)
