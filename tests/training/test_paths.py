# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Odd names of files, classes and archive members. Nothing is written outside the output folder."""

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

import pandas
import pytest
from datasets import Audio, Dataset
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from sanet_hf.cli.main import main
from sanet_hf.training.preparation import prepare as prepare_module
from sanet_hf.training.preparation.cutting import cut_evenly

from .conftest import write_tone
from .tiny_models import save_checkpoint


# Names of classes and files. "ROOT" becomes a folder that must not change.
PATHS = ["../../escaped", "ROOT/escaped", "a/b", "..", ".", "~", "~/escaped", "$HOME/escaped", "file:///ROOT/escaped"]
RESERVED = ["CON", "NUL.wav", "metadata.csv", "report.html", ".prepare_tmp", "denoised_clips", "x_0000.wav", "C:\\x"]
ODD = ["line\nbreak", "<script>", "%2e%2e%2fescaped", "..\\..\\escaped", "…/…", "ü" * 120, "predictions", "*", "-rf"]


def snapshot(folder: Path, *left_out: Path) -> dict[str, tuple]:
    """Return mode, content and modification time, or link target, of all in a folder, without following links."""
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
@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])
@example(
    files=[
        *(
            (b"metadata.csv", b"b"),
            (b"metadata.csv", b"a"),
            (b"x_0000.wav", b"a"),
            (b"b", b"b"),
            (b"\xff" * 249, b"c"),
        ),
        *((b"\xff", b"d"), (b"b", b"c"), (b"\\xff", b"d")),
    ],
    links=[],
    in_splits=False,
)
@given(
    files=st.lists(st.tuples(NAMES, NAMES), max_size=6),
    links=st.lists(st.tuples(NAMES, NAMES, st.sampled_from(LINKS)), max_size=3),
    in_splits=st.booleans(),
)
def test_preparation_changes_only_its_output_folder(files, links, in_splits):
    """A repeated command adds no files, and the manifest lists each clip once."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        # Replace the network that detects speech.
        patch.setattr(prepare_module, "find_speech", lambda waveform, *_: cut_evenly(len(waveform), 2000))
        root = Path(name)
        source, output = root / "source", root / "deep" / "output"
        output.parent.mkdir()
        base = os.fsencode(source / "train" if in_splits else source)
        write_tone(root / "victim.wav", 300)
        (root / "victim").mkdir()
        write_tone(root / "victim" / "a.wav", 300)
        write_tone(source / ("train" if in_splits else "") / "good" / "good.wav", 300)
        os.mkfifo(source / ("train" if in_splits else "") / "good" / "pipe.wav")
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
        assert clips["file"].is_unique and all((output / file).is_file() for file in clips["file"])
        assert len(clips) == len([path for path in output.rglob("*.wav") if path.is_file()])


def test_progress_file_can_only_remove_clips(tmp_path):
    """The progress file may come from an untrusted folder."""
    source, output = tmp_path / "source", tmp_path / "output"
    for index in range(2):
        write_tone(source / "a" / f"{index}.wav", 300 * (index + 1))
    (tmp_path / "victim").write_text("mine")
    command = ["prepare", str(source), str(output), "--no_denoise", "--num_workers", "1"]
    assert main(command) == 0
    progress = output / ".prepare.jsonl"
    for victim in ("../victim", str(tmp_path / "victim"), "denoised_clips/../../victim", ".prepare.lock", "", 3):
        header, line, *lines = progress.read_text().splitlines()
        line = json.loads(line) | {"size": 1}
        line["rows"][0]["file"] = victim
        progress.write_text("\n".join([header, json.dumps(line), *lines]) + "\n")
        with unchanged(tmp_path, output):
            assert main(command) == 0
        assert (output / ".prepare.lock").exists() and len(list(output.glob("clips/*/*/*.wav"))) == 2


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[Path, list[str]]:
    """Return a folder of recordings, and the class names that manifests and archives give them."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(24):
        write_tone(folder / f"{index}.wav", 200 * (index % 8 + 1), 0.2, seed=index)
    return folder, [*PATHS[:5], *RESERVED[:3], *ODD[:4]]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_labels_of_a_manifest_cannot_leave_the_outputs(labelled, tiny_options, tmp_path, suffix):
    """Each command that uses a model with such labels writes only its own output."""
    folder, labels = labelled
    root = tmp_path / "root"
    run, deep = root / "deep" / "run", root / "deep"
    deep.mkdir(parents=True)
    rows = [
        {
            "file": str(folder / f"{index % 24}.wav"),
            "label": label.replace("ROOT", str(root)),
            "split": split,
        }
        for split, count in (("train", 4), ("validation", 1), ("test", 1))
        for index, label in enumerate(labels * count)
    ]
    manifest = tmp_path / f"manifest{suffix}"
    table = pandas.DataFrame(rows)
    if suffix == ".csv":
        table.to_csv(manifest, index=False)
    else:
        table.to_json(manifest, orient="records", lines=True)
    options = ["--manifest", str(manifest)]
    outputs = [run, *(deep / name for name in ("evaluation", "comparison", "exported", "rows.csv", "vectors.npz"))]
    outputs += [deep / "explained.png", deep / "map.png"]
    with unchanged(tmp_path, *outputs[:5]):
        before = snapshot(tmp_path, *outputs)
        command = ["train", "sanet.yaml", *options, "--output_dir", str(run), *tiny_options]
        assert main([*command, "--num_train_epochs", "1", "--per_device_train_batch_size", "16"]) == 0
        # The splits share files, so choose one.
        options += ["--split", "train"]
        assert main(["evaluate", str(run), *options, "--output", str(outputs[1])]) == 0
        assert main(["compare", str(run), *options, "--output", str(outputs[2]), "--num_rounds", "1"]) == 0
        assert main(["export", str(run), str(outputs[3]), "--format", "torch_export"]) == 0
        assert snapshot(tmp_path, *outputs) == before
    for command in (
        ["predict", str(run), str(folder), "--output", str(outputs[4])],
        ["embed", str(run), str(folder), "--output", str(outputs[5]), "--plot", str(outputs[7])],
        ["explain", str(run), str(folder / "0.wav"), "--output", str(outputs[6])],
    ):
        assert main(command) == 0
    files = {os.path.join(deep, path.name) for path in outputs}
    found = snapshot(tmp_path, *outputs)
    assert {path: value for path, value in found.items() if path not in files} == {
        path: value for path, value in before.items() if path not in files
    }
    predictions = pandas.read_csv(run / "predictions" / "test.csv", keep_default_na=False)
    assert set(predictions["label"]) == {label.replace("ROOT", str(root)).strip() for label in labels}
    assert sorted(path.name for path in (run / "predictions").iterdir()) == ["test.csv", "train.csv", "validation.csv"]


def write_tar(path: Path, folder: Path, labels: list[str], root: Path) -> None:
    """Write samples whose names lead out of the archive, and members that are not files."""
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes = b"", **fields) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))

        add("link", type=tarfile.SYMTYPE, linkname=str(root))
        add("link/escaped", b"x")
        add("hard.wav", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add("../../device.wav", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        add("pipe.wav", type=tarfile.FIFOTYPE)
        add("../folder.wav", type=tarfile.DIRTYPE)
        for index, label in enumerate(labels * 2):
            for way in ("../../", f"{root}/", "a/../../../", ""):
                add(f"{way}sample{index}.wav", (folder / f"{index % 24}.wav").read_bytes())
                add(f"{way}sample{index}.txt", label.encode())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_streamed_archives_cannot_leave_the_run(labelled, tiny_options, tmp_path, kind):
    folder, labels = labelled
    root, data, run = tmp_path / "root", tmp_path / "root" / "data", tmp_path / "root" / "deep" / "run"
    data.mkdir(parents=True)
    run.parent.mkdir()
    for split in ("train", "validation"):
        if kind == "tar":
            write_tar(data / f"{split}-0.tar", folder, labels, root)
        else:
            names = [f"{way}{index}.wav" for index in range(len(labels)) for way in ("../../", f"{root}/")]
            rows = [
                {"audio": {"bytes": (folder / Path(name).name).read_bytes(), "path": name}, "label": label}
                for name, label in zip(names * 2, labels * 4)
            ]
            Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).to_parquet(data / f"{split}.parquet")
    options = ["--streaming", "true", "--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "4"]
    options += ["--save_strategy", "steps", "--save_steps", "4", "--dataset_name", str(data)]
    if kind == "tar":
        options += ["--audio_column_name", "wav", "--label_column_name", "txt"]
    with unchanged(tmp_path, run):
        assert main(["train", "sanet.yaml", "--output_dir", str(run), *tiny_options, *options]) == 0
    assert (run / "model.safetensors").is_file()


def test_uploads_cannot_leave_the_cache(labelled, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs gradio: pip install sanet-hf[app]")
    import httpx

    from sanet_hf.inference.app import launch_app, make_app

    cache = tmp_path / "deep" / "cache"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    app = make_app(*save_checkpoint(tmp_path / "model", "sanet", labels=PATHS))
    cache.parent.mkdir()
    content = (labelled[0] / "0.wav").read_bytes()
    paths: list[str] = []
    _, address, _ = launch_app(app, quiet=True, prevent_thread_lock=True)
    try:
        with unchanged(tmp_path, cache):
            for name in [*PATHS, *RESERVED, *ODD]:
                files = {"files": (name.replace("ROOT", str(tmp_path)), content, "audio/wav")}
                response = httpx.post(f"{address}gradio_api/upload", files=files)
                if response.status_code == 200:
                    paths += response.json()
            # The app deletes the files when it closes.
            assert len(paths) > 15 and all(cache in Path(path).resolve().parents for path in paths)
    finally:
        app.close()
