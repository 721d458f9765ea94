# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The record of a run's recordings as hashes."""

import shutil

import pytest
import soundfile

from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.data.record import RECORD_FILE, data_fingerprint, read_record, seen_digests, write_record


@pytest.fixture
def recordings(tones):
    return load_recordings(DataArguments(data_dir=str(tones)))


def test_record_has_every_split_and_no_names(recordings, tmp_path):
    path = tmp_path / RECORD_FILE
    write_record(path, recordings)
    assert read_record(path) == {split: set(dataset["digest"]) for split, dataset in recordings.items()}
    assert "tone" not in path.read_text() and "wav" not in path.read_text()
    assert read_record(tmp_path / "none.csv") is None
    assert seen_digests(read_record(path), with_validation=False) == set(recordings["train"]["digest"])


def test_record_includes_earlier_runs(recordings, tmp_path):
    first, second, third = (tmp_path / name / RECORD_FILE for name in "abc")
    write_record(first, recordings.__class__({"train": recordings["validation"], "validation": recordings["test"]}))
    write_record(second, recordings.__class__({"train": recordings["train"]}), read_record(first))
    write_record(third, recordings.__class__({"test": recordings["test"]}), read_record(second))
    everything = {digest for dataset in recordings.values() for digest in dataset["digest"]}
    assert seen_digests(read_record(second)) == seen_digests(read_record(third)) == everything


@pytest.mark.parametrize("content", [b"", b"file,label\n", b"split,digest\ntrain\n", b"\xff\xfe\x00"])
def test_damaged_record_is_an_error(tmp_path, content):
    (tmp_path / RECORD_FILE).write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        read_record(tmp_path / RECORD_FILE)


def test_fingerprint_depends_on_data_not_file_names(tones, tmp_path):
    def fingerprint(folder, **options):
        return data_fingerprint(load_recordings(DataArguments(data_dir=str(folder), **options)))

    first = fingerprint(tones)
    assert first["classes"] == ["high", "low"] and first["counts"] == {"train": 32, "validation": 8, "test": 8}
    renamed = shutil.copytree(tones, tmp_path / "renamed")
    for path in (renamed / "train" / "high").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    assert fingerprint(renamed) == first
    swapped = shutil.copytree(tones, tmp_path / "swapped")
    (swapped / "train" / "high" / "high_train_0.wav").rename(swapped / "train" / "low" / "a.wav")
    (swapped / "train" / "low" / "low_train_0.wav").rename(swapped / "train" / "high" / "a.wav")
    changed = shutil.copytree(tones, tmp_path / "changed")
    samples, rate = soundfile.read(changed / "train" / "low" / "low_train_0.wav")
    soundfile.write(changed / "train" / "low" / "low_train_0.wav", -samples, rate)
    assert len({found["digest"] for found in (first, fingerprint(swapped), fingerprint(changed))}) == 3
    assert first["is_checked"] and not fingerprint(tones, check_recordings=False)["is_checked"]
