# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The recordings of a run as hashes of their samples, to find out whether a test recording was used in training, under
any name. The file contains no names, because the folder of the run may be pushed to the Hub.
"""

import csv
import hashlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from datasets import Dataset

from sanet_hf.errors import DataError
from sanet_hf.training.checkpoints import PREFIX as CHECKPOINT_PREFIX
from sanet_hf.training.data.labels import label_names
from sanet_hf.utils.files import write_atomically


RECORD_FILE = "recordings.csv"
# In addition to the splits: training and validation recordings of earlier runs, from whose weights this run started.
EARLIER = "earlier"
# Recordings without labels, for which a model learns its teachers' predictions.
UNLABELED = "unlabeled"
COLUMNS = ["split", "digest"]

# Digests of each split, and of `earlier`.
Record = Mapping[str, Collection[str]]


def write_record(
    path: str | Path, recordings: Mapping[str, Dataset], earlier: Record | None = None, is_refit: bool = False
) -> None:
    """
    Write the content hashes of a run's recordings in sorted order, which does not reveal their original order.

    Args:
        path: The file; `RECORD_FILE` in the folder of the run.
        recordings: Splits as [`load_recordings`] returns them and, as `UNLABELED`, recordings without labels. Those
            without a hash are skipped.
        earlier: Records of earlier runs, of the initial weights or the teachers.
        is_refit: Whether the final model is also trained on the validation split. Its recordings then count as both
            splits.
    """
    rows = {(split, digest) for split, dataset in recordings.items() for digest in dataset["digest"] if digest}
    if is_refit:
        rows |= {("train", digest) for split, digest in rows if split == "validation"}
    earlier = {split: set(digests) for split, digests in (earlier or {}).items()}
    for split in ("train", "validation"):
        now = {digest for name, digest in rows if name == split}
        # Recordings of this run are listed only under its own splits.
        earlier[split] = earlier.get(split, set()) - now
    rows |= {(EARLIER, digest) for digest in seen_digests(earlier)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted(rows))
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


def read_record(path: str | Path) -> dict[str, set[str]] | None:
    """
    Return the digests of each split and of `earlier`; `None` if the file does not exist.

    Raises:
        DataError: The file is damaged.
    """
    try:
        header, *rows = csv.reader(Path(path).read_text(encoding="utf-8").splitlines())
        if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} is damaged: {error}. Without it, the model's training recordings are not known."
        ) from error
    record: dict[str, set[str]] = {}
    for split, digest in rows:
        record.setdefault(split, set()).add(digest)
    return record


def find_record(name: str | Path) -> dict[str, set[str]] | None:
    """
    Return the record of a trained model: the folder of a run, or a checkpoint in it. `None` if there is none, or if it
    does not list the training recordings.

    Raises:
        DataError: The file is damaged.
    """
    folder = Path(name).resolve()
    record = read_record(folder / RECORD_FILE)
    if record is None and folder.name.startswith(CHECKPOINT_PREFIX):
        record = read_record(folder.parent / RECORD_FILE)
    return record if record and "train" in record else None


def seen_digests(record: Record, with_validation: bool = True) -> set[str]:
    """Return the digests of a model's training recordings and, `with_validation`, of its validation recordings."""
    names = ["train", UNLABELED, EARLIER, *(["validation"] if with_validation else [])]
    return set().union(*(record.get(name, ()) for name in names))


def data_fingerprint(recordings: Mapping[str, Dataset]) -> dict[str, object]:
    """
    Describe recordings so that two sets of them can be compared.

    Returns:
        `classes` (names in the order of the class indices), `counts` (recordings per split), `digest` (of the split,
        labels and content of every recording, independent of their order) and `is_checked` (whether all contents were
        read; if not, `digest` uses the lengths instead). The values can be stored as JSON and YAML.
    """
    digest = hashlib.sha256()
    for row in sorted(row for split, dataset in recordings.items() for row in _describe(split, dataset)):
        digest.update(f"{row}\n".encode())
    return {
        "classes": label_names(next(iter(recordings.values()))),
        "counts": {split: len(dataset) for split, dataset in recordings.items()},
        "digest": digest.hexdigest(),
        "is_checked": all(all(dataset["digest"]) for dataset in recordings.values()),
    }


def _describe(split: str, dataset: Dataset) -> list[str]:
    columns = zip(dataset["digest"], dataset["label"], dataset["seconds"])
    # If contents were not read, lengths are compared instead.
    return [f"{split} {digest or seconds} {label}" for digest, label, seconds in columns]
