# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of files, classes and members of archives, however odd: nothing is written outside of the output folder."""

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from datasets import Audio, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from training import prepare as prepare_module
from training.cli import main
from training.cutting import cut_evenly
from training.data import load_recordings
from training.arguments import DataArguments

from .conftest import write_tone


# Of classes and files; "ROOT" becomes a folder that must not change.
PATHS = ["../../escaped", "ROOT/escaped", "a/b", "..", ".", "~", "~/escaped", "$HOME/escaped", "file:///ROOT/escaped"]
RESERVED = ["CON", "NUL.wav", "metadata.csv", "report.html", ".prepare_tmp", "denoised_clips", "x_0000.wav", "C:\\x"]
ODD = ["line\nbreak", "<script>", "%2e%2e%2fescaped", "..\\..\\escaped", "…/…", "ü" * 120, "predictions", "*", "-rf"]


def snapshot(folder: Path, *left_out: Path) -> dict[str, tuple]:
    """Kind, time of change, content or target of everything in a folder; links are not followed."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(parent, name) not in left_out]
        for name in [*folders, *names]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content = None
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest(), status.st_mtime_ns
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[path] = (status.st_mode, content)
    return found


@contextmanager
def unchanged(root: Path, *outputs: Path):
    before = snapshot(root, *outputs)
    yield
    assert snapshot(root, *outputs) == before


def is_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name and len(name) < 250


NAMES = st.one_of(
    st.sampled_from([os.fsencode(name) for name in (*PATHS, *RESERVED, *ODD)]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.encode),
    st.binary(max_size=80),
    st.just(b"\xff" * 249),
).filter(is_name)
LINKS = ["victim.wav", "victim", "nowhere", "/dev/zero", "/proc/self/mem", "."]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    files=st.lists(st.tuples(NAMES, NAMES), max_size=6),
    links=st.lists(st.tuples(NAMES, NAMES, st.sampled_from(LINKS)), max_size=3),
    in_splits=st.booleans(),
)
def test_preparation(files, links, in_splits):
    """Every file is used or listed with the reason, too."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        # Without the network that finds speech.
        patch.setattr(prepare_module, "find_speech", lambda waveform, _: cut_evenly(len(waveform), 2000))
        root = Path(name)
        source, output = root / "source", root / "deep" / "output"
        output.parent.mkdir()
        base = os.fsencode(source / "train" if in_splits else source)
        write_tone(root / "victim.wav", 300)
        (root / "victim").mkdir()
        write_tone(root / "victim" / "a.wav", 300)
        write_tone(source / ("train" if in_splits else "") / "good" / "good.wav", 300)
        os.mkfifo(source / ("train" if in_splits else "") / "good" / "pipe.wav")
        num_files = 2
        for index, (label, file) in enumerate(files):
            path = os.path.join(base, label, file + (b"" if index % 3 == 0 else b".wav"))
            if not os.path.lexists(path) and (os.path.isdir(base + b"/" + label) or not os.path.lexists(base + label)):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.copy(root / "victim.wav", path)
        for label, file, target in links:
            folder = os.path.join(base, label)
            os.makedirs(folder, exist_ok=True)
            for path in (os.path.join(folder, file + b".wav"), os.path.join(base, file + b"link")):
                if not os.path.lexists(path):
                    os.symlink(os.fsencode(root / target), path)
        command = ["prepare", str(source), str(output), "--no_denoise", "--num_workers", "1"]
        with unchanged(root, output):
            assert main(command) == 0
            before = snapshot(output)
            assert main(command) == 0
        assert snapshot(output).keys() == before.keys()
        manifest = pandas.read_parquet(output / "manifest.parquet")
        clips = manifest[manifest["file"].notna()]
        assert num_files and clips["file"].is_unique and all((output / file).is_file() for file in clips["file"])
        assert len(clips) == len([path for path in output.rglob("*.wav") if path.is_file()])
        load_recordings(DataArguments(data_dir=str(output / "denoised_clips")), splits=["train"])
