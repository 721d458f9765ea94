# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet prepare` and `sanet check`: formats, clips, interruptions, faults, splits and problems in recordings."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
from mmap import mmap
from pathlib import Path

import numpy as np
import pandas
import psutil
import pytest
import soundfile
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.audio import decoders
from sanet_hf.audio.decode import load_audio
from sanet_hf.cli.main import main
from sanet_hf.errors import AudioError, DataError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.baseline import fit_baseline
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.preparation import prepare as prepare_module
from sanet_hf.training.preparation import source_files as recordings_module
from sanet_hf.training.preparation.check import check
from sanet_hf.training.preparation.prepare import clip_stem, make_manifest, prepare
from sanet_hf.training.preparation.progress import PrepareOptions
from sanet_hf.training.preparation.source_files import list_files, read_recording, store
from sanet_hf.training.preparation.worker_pool import map_unordered
from sanet_hf.training.reports.preparation import count_reasons
from sanet_hf.utils.extras import MissingPackageError


RATE = 16000


def tone(seconds=1.0, rate=RATE, frequency=440.0, amplitude=0.3):
    """Return a tone in faint noise, float64 of shape (samples,)."""
    times = np.arange(round(seconds * rate)) / rate
    return amplitude * np.sin(2 * np.pi * frequency * times) + 1e-3 * np.random.default_rng(0).standard_normal(
        len(times)
    )


def write(path, waveform, rate=RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, **options)
    return path


def convert(path, *options) -> Path:
    """Write a tone in the format of the path with the ffmpeg program. Return the path."""
    source = write(path.with_name("source.wav"), tone(2.0, 44100), 44100)
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", source, *options, f"file:{path}"], check=True, stdin=subprocess.DEVNULL
    )
    source.unlink()
    return path


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file that is not hidden."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def run_one(path, tmp_path, **options) -> pandas.DataFrame:
    """Prepare one recording and an additional good one. Return the manifest's rows of the first."""
    folder = tmp_path / "recordings"
    write(folder / "good" / "good.wav", tone())
    if path.parent.parent != folder:
        (folder / "one").mkdir(exist_ok=True)
        shutil.move(path, folder / "one" / path.name)
    manifest = prepare(
        folder, tmp_path / "data", PrepareOptions(**{"denoise": False, **options}), num_workers=1
    ).manifest
    assert manifest[manifest["class"] == "good"]["file"].notna().any()
    return manifest[manifest["class"] != "good"]


# Formats


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_of_every_sample_format(tmp_path, subtype):
    waveform = tone(0.5)
    recording = read_recording(write(tmp_path / "a.wav", waveform, subtype=subtype))
    assert np.abs(recording.waveform - waveform).max() < (1e-2 if subtype == "PCM_U8" else 1e-4)
    assert recording[1:] == (RATE, 1, "none", "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.flac", []),
        ("a.mp3", []),
        ("a.ogg", ["-c:a", "libvorbis"]),
        ("a.opus", []),
        ("a.m4a", ["-c:a", "aac"]),
        ("a.mp4", ["-c:a", "aac"]),
        ("a.wma", []),
        ("a.webm", ["-c:a", "libopus"]),
        ("a.aiff", []),
    ],
)
def test_formats_give_the_tone(tmp_path, name, options):
    rows = run_one(convert(tmp_path / name, *options), tmp_path)
    rows = rows[rows["kind"] == "clip"]
    (row,) = rows.itertuples()
    waveform, rate = soundfile.read(tmp_path / "data" / row.file)
    assert rate == RATE and waveform.ndim == 1 and soundfile.info(tmp_path / "data" / row.file).subtype == "PCM_16"
    assert row.duration == len(waveform) / RATE == pytest.approx(2.0, abs=0.1)
    assert np.abs(np.fft.rfft(waveform[:RATE])).argmax() == 440
    # MP3 adds a little silence.
    assert row.rms == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
    assert row.channels == 1 and row.original_rate == (48000 if name in ("a.opus", "a.webm") else 44100)
    assert row.resampling == "torchaudio sinc_interp_hann"


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000, 44099])
def test_sampling_rates_are_converted(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone(1.0, rate), rate, subtype="FLOAT")
    recording = read_recording(path)
    assert recording.resampling == "torchaudio sinc_interp_hann"
    assert len(recording.waveform) == RATE
    np.testing.assert_array_equal(recording.waveform, load_audio(path, RATE))
    assert np.abs(np.fft.rfft(recording.waveform)).argmax() == 440


def test_16_khz_16_bit_samples_are_not_changed(tmp_path):
    path = write(tmp_path / "a.wav", np.random.default_rng(0).integers(-32768, 32767, 4 * RATE + 3, dtype=np.int16))
    original = path.read_bytes()[44:]
    rows = run_one(path, tmp_path, max_seconds=1.0)
    clips = rows[rows["kind"] == "clip"]
    assert len(clips) == 5
    written = b""
    for row in clips.itertuples():
        with wave.open(str(tmp_path / "data" / row.file)) as file:
            written += file.readframes(file.getnframes())
        assert row.hash == hashlib.sha256(load_audio(tmp_path / "data" / row.file, RATE).tobytes()).hexdigest()
    assert written == original


def test_six_channels_are_averaged(tmp_path):
    channels = np.stack([tone(0.5, frequency=200 * (i + 1), amplitude=0.1) for i in range(6)], axis=1)
    recording = read_recording(write(tmp_path / "a.wav", channels))
    assert recording.num_channels == 6 and not recording.warning
    assert np.abs(recording.waveform - channels.mean(axis=1)).max() < 1e-4


def test_louder_channel_is_used_if_channels_cancel(tmp_path):
    left = tone(0.5)
    rows = run_one(write(tmp_path / "a.flac", np.stack([0.5 * left, -0.55 * left], axis=1)), tmp_path)
    (row,) = rows[rows["kind"] == "clip"].itertuples()
    assert "mean of 2 channels cancels out, so channel 2" in row.warning
    assert row.rms == pytest.approx(0.55 * np.sqrt(np.square(left).mean()), rel=1e-3)
    # Silent channels are not a cancellation.
    quiet = read_recording(write(tmp_path / "b.wav", np.stack([left, *[0 * left] * 5], axis=1)))
    assert not quiet.warning


def test_samples_above_full_scale_are_scaled(tmp_path):
    rows = run_one(write(tmp_path / "a.wav", 40 * tone(0.5), subtype="DOUBLE"), tmp_path)
    (row,) = rows[rows["kind"] == "clip"].itertuples()
    assert row.gain == pytest.approx(1 / 12, rel=0.02) and row.peak == pytest.approx(1, abs=1e-3)
    waveform = soundfile.read(tmp_path / "data" / row.file)[0]
    assert np.corrcoef(waveform, tone(0.5))[0, 1] > 0.9999


# Blocks


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.webm"])
def test_decoding_in_blocks_gives_the_same_samples(tmp_path, name, monkeypatch):
    if name == "a.wav":
        path = write(tmp_path / name, tone(2.0, 44100), 44100)
    else:
        path = convert(tmp_path / name, *(["-c:a", "libopus"] if name == "a.webm" else []))
    whole = read_recording(path).waveform
    monkeypatch.setattr(decoders, "DECODING_BLOCK", 10_000)
    monkeypatch.setattr(recordings_module, "MAX_BYTES_IN_MEMORY", 20_000)
    in_blocks = read_recording(path, temporary_folder=tmp_path).waveform
    assert np.allclose(in_blocks, whole, atol=1e-5)
    for start in range(2000, RATE + 1, 100):
        assert np.std(in_blocks[start : start + RATE // 2]) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
    assert list(tmp_path.iterdir()) == [path]


def test_long_waveforms_leave_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings_module, "MAX_BYTES_IN_MEMORY", 100)
    waveform = store(iter(np.arange(100, dtype=np.float32).reshape(10, 10)), tmp_path)
    assert isinstance(waveform.base.obj, mmap) and waveform.tolist() == list(range(100)) and waveform.flags.writeable
    assert not list(tmp_path.iterdir())


# Clips


@settings(deadline=None)
@given(names=st.sets(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)))
def test_stems_are_unique_valid_names(names):
    stems = [clip_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        assert len(stem.encode()) <= 200 and not set('*?[]:"\\/\n\0') & set(stem)


def test_stems_are_readable():
    assert clip_stem("one two ü.wav") == "one two ü_wav"
    assert clip_stem("a.b.mp3") == "a.b_mp3"


@pytest.fixture(scope="session")
def prepared(speech, tmp_path_factory) -> Path:
    """Prepare `speech` with two processes. Return the folder."""
    output = tmp_path_factory.mktemp("prepared") / "data"
    assert main(["prepare", str(speech), str(output), "--denoise", "--num_workers", "2"]) == 0
    return output


def test_manifest_describes_every_clip(prepared, speech):
    manifest = pandas.read_parquet(prepared / "manifest.parquet")
    written = manifest[manifest["file"].notna()]
    files = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*.wav")}
    assert set(written["file"]) == files and written["file"].is_unique
    assert set(written["source"]) == {path.relative_to(speech).as_posix() for path in speech.rglob("*.*")}
    for row in written.itertuples():
        folder, split, label, _ = row.file.split("/")
        assert (folder, split) == ({"clip": "denoised_clips", "segment": "speech_segments"}[row.kind], row.split)
        assert label == row.source.split("/")[0]
        assert row.end - row.start == pytest.approx(row.duration) and row.duration >= 0.5
        waveform = load_audio(prepared / row.file, RATE)
        assert len(waveform) == round(row.duration * RATE)
        assert row.hash == hashlib.sha256(waveform.tobytes()).hexdigest()
        assert row.peak == np.abs(waveform).max() and row.rms == pytest.approx(np.sqrt(np.square(waveform).mean()))
    assert (written["kind"] == "segment").sum() >= 8 and written[written["kind"] == "clip"]["duration"].max() <= 4
    assert written.groupby("source")["split"].nunique().max() == 1
    hidden = {".prepare.jsonl", ".prepare.lock"}
    assert {"denoised_clips", "speech_segments", "manifest.parquet", "preparation.json", "report.html", *hidden} == {
        path.name for path in prepared.iterdir()
    }


@pytest.mark.parametrize("folder", ["denoised_clips", "speech_segments"])
def test_audiofolder_and_sanet_read_the_clips(prepared, folder, tmp_path):
    manifest = pandas.read_parquet(prepared / "manifest.parquet")
    rows = manifest[manifest["file"].fillna("").str.startswith(folder)]
    dataset = load_dataset("audiofolder", data_dir=str(prepared / folder), cache_dir=str(tmp_path))
    recordings = load_recordings(DataArguments(data_dir=str(prepared / folder)))
    for split, part in rows.groupby("split"):
        labels = dict(zip(part["file"].map(lambda name: "/".join(name.split("/")[-2:])), part["class"]))
        assert len(dataset[split]) == len(recordings[split]) == len(part)
        assert sorted(dataset[split]["label"]) == sorted(part["class"])
        names = recordings[split].features["label"].names
        for row in recordings[split].remove_columns("audio"):
            assert names[row["label"]] == labels["/".join(Path(row["file"]).parts[-2:])]
        assert dataset[split][0]["audio"].get_all_samples().sample_rate == RATE


@pytest.mark.parametrize(
    ("configs", "folder", "options"),
    [
        pytest.param(["sanet.yaml"], "denoised_clips", ["--num_train_epochs", "50"], id="whole"),
        pytest.param(
            ["sanet.yaml", "sanet_dynamic.yaml"],
            "speech_segments",
            ["--samples_per_class", "20"],
            id="dynamic",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_models_learn_from_prepared_clips(prepared, tiny_options, configs, folder, options, tmp_path):
    """Training on whole recordings and on joined segments separates the two voices, one of which is much deeper."""
    command = ["train", *configs, "--data_dir", str(prepared / folder), "--output_dir", str(tmp_path / "run")]
    assert main([*command, *tiny_options, *options]) == 0
    history = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert json.loads((tmp_path / "run/all_results.json").read_text())["train_accuracy"] > 0.8


def test_number_of_processes_does_not_change_clips(prepared, speech, tmp_path):
    prepare(speech, tmp_path / "data", PrepareOptions(denoise=True), num_workers=1)
    assert contents(tmp_path / "data") == contents(prepared)


def test_finished_folder_is_not_changed(prepared, speech, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}
    assert main(["prepare", str(speech), str(prepared), "--denoise", "--num_workers", "1"]) == 0
    assert f"{prepared} is already finished. Use --overwrite" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}


def test_other_options_for_a_finished_folder_are_an_error(prepared, speech, capsys):
    assert main(["prepare", str(speech), str(prepared), "--max_seconds", "3", "--no_denoise"]) == 2
    error = capsys.readouterr().err
    assert "max_seconds 4.0 instead of 3.0" in error and "denoise True instead of False" in error
    assert "--overwrite" in error


def test_report_is_self_contained(prepared):
    html = (prepared / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "") and "https://" not in html
    for text in ("annie", "max", "Durations of the clips", "data:image/png", "data:audio/wav", "silero-vad", "train"):
        assert text in html


# Interruptions

# Waits half a second before each line of the progress file, so that the test can interrupt the run. The signal handler
# is set because processes in the background of a shell ignore Ctrl-C.
SLOW_COMMAND = """
import signal, sys, time
from sanet_hf.cli.main import main
from sanet_hf.training.preparation import prepare

to_line = prepare.to_line
prepare.to_line = lambda value: (time.sleep(0.5), to_line(value))[1]
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "ctrl-c"])
def test_interrupted_run_resumes(speech, prepared, tmp_path, end):
    output = tmp_path / "data"
    command = [
        sys.executable,
        "-c",
        SLOW_COMMAND,
        "prepare",
        str(speech),
        str(output),
        "--denoise",
        "--num_workers",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    progress = output / ".prepare.jsonl"
    deadline = time.monotonic() + 600
    while not progress.exists() or len(progress.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    if end == "kill":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=300)[1].decode()
    assert process.returncode == (-signal.SIGKILL if end == "kill" else 130)
    assert end == "kill" or ("Interrupted." in error and "Traceback" not in error)
    # Workers also stop.
    deadline = time.monotonic() + 300
    while processes_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    result = prepare(speech, output, PrepareOptions(denoise=True), num_workers=1)
    assert 2 <= result.num_finished_before < result.num_recordings
    assert contents(output) == contents(prepared)


# Waits, while it holds the lock, until a file exists.
WAITING_COMMAND = """
import pathlib, sys, time
from sanet_hf.cli.main import main
from sanet_hf.training.preparation import prepare

go, work = pathlib.Path(sys.argv.pop(1)), prepare._work

def wait_and_work(*arguments):
    while not go.exists():
        time.sleep(0.01)
    work(*arguments)

prepare._work = wait_and_work
sys.exit(main())
"""


def test_second_run_into_the_same_folder_is_an_error(tmp_path, capsys):
    folder, output, go = tmp_path / "recordings", tmp_path / "data", tmp_path / "go"
    write(folder / "a" / "0.wav", tone(0.5))
    prepare(folder, output, PrepareOptions(denoise=False), num_workers=1)
    write(folder / "a" / "1.wav", tone(0.5, frequency=300))
    argv = ["prepare", str(folder), str(output), "--no_denoise", "--num_workers", "1"]
    process = subprocess.Popen([sys.executable, "-c", WAITING_COMMAND, str(go), *argv], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not (output / ".prepare_tmp").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
        for more in ([], ["--overwrite"]):
            assert main([*argv, *more]) == 2
            assert f"Another `sanet prepare` is writing to {output}" in capsys.readouterr().err
        assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*")}
        go.touch()
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    assert prepare(folder, output, PrepareOptions(denoise=False), num_workers=1).num_finished_before == 2
    result = prepare(folder, output, PrepareOptions(denoise=False), num_workers=1, overwrite=True)
    assert result.num_finished_before == 0 and len(list(output.rglob("*.wav"))) == 2


def processes_of(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_full_disk_keeps_finished_recordings(tmp_path, monkeypatch):
    for index in range(6):
        write(tmp_path / "recordings" / "ab"[index % 2] / f"{index}.wav", tone(0.5, frequency=100 * (index + 1)))
    options = PrepareOptions(denoise=False)
    prepare(tmp_path / "recordings", tmp_path / "whole", options, num_workers=1)
    write_clip, num_written = prepare_module.write_clip, itertools.count()

    def write_until_full(*arguments):
        if next(num_written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_clip(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_clip", write_until_full)
        with pytest.raises(OSError, match=r"The disk of .* is full\. Finished recordings are kept"):
            prepare(tmp_path / "recordings", tmp_path / "data", options, num_workers=1)
    assert len(list((tmp_path / "data").rglob("*.wav"))) == 3
    assert prepare(tmp_path / "recordings", tmp_path / "data", options, num_workers=1).num_finished_before == 3
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_incomplete_progress_and_missing_clips_are_repaired(tmp_path):
    folder, output, options = tmp_path / "recordings", tmp_path / "data", PrepareOptions(denoise=False)
    for index in range(4):
        write(folder / "a" / f"{index}.wav", tone(0.5, frequency=100 * (index + 1)))
    prepare(folder, output, options, num_workers=1)
    before = contents(output)
    progress = output / ".prepare.jsonl"
    progress.write_bytes(progress.read_bytes()[:-20] + "ü".encode()[:1])
    next(output.rglob("0_wav_0000.wav")).unlink()
    (output / "clips" / "train" / "a" / "gone_wav_0000.wav").write_bytes(b"left by a killed run")
    assert prepare(folder, output, options, num_workers=1).num_finished_before == 2
    assert contents(output) == before


def test_changed_recordings_are_prepared_again(tmp_path):
    folder, output, options = tmp_path / "recordings", tmp_path / "data", PrepareOptions(denoise=False)
    for index in range(12):
        write(folder / "a" / f"{index}.wav", tone(0.5, frequency=100 * (index + 1)))
    prepare(folder, output, options, num_workers=1)
    write(folder / "a" / "0.wav", tone(0.7))
    (folder / "a" / "1.wav").unlink()
    write(folder / "b" / "new.wav", tone(0.5))
    assert 0 < prepare(folder, output, options, num_workers=1).num_finished_before < 11
    prepare(folder, tmp_path / "anew", options, num_workers=1)
    assert contents(output) == contents(tmp_path / "anew")


def test_overwrite_keeps_files_of_the_user(tmp_path):
    folder, output = tmp_path / "recordings", tmp_path / "data"
    write(folder / "a" / "0.wav", tone(0.5))
    prepare(folder, output, PrepareOptions(denoise=False), num_workers=1)
    (output / "notes.txt").write_text("mine")
    result = prepare(folder, output, PrepareOptions(denoise=False, max_seconds=0.25), num_workers=1, overwrite=True)
    assert (result.manifest["kind"] == "clip").sum() == 2 and (output / "notes.txt").read_text() == "mine"


# Faults


def make_text(path):
    path.write_text("this is no audio")


def make_empty(path):
    path.touch()


def make_zeros(path):
    path.write_bytes(bytes(10_000))


def make_without_samples(path):
    soundfile.write(path, np.zeros(0), RATE)


def make_nan(path):
    soundfile.write(path, np.where(np.arange(RATE) == 5000, np.nan, tone()), RATE, subtype="FLOAT")


def make_infinite(path):
    soundfile.write(path, np.where(np.arange(RATE) == 5000, np.inf, tone()), RATE, subtype="DOUBLE")


def make_silent(path):
    soundfile.write(path, np.zeros(RATE), RATE)


def make_folder(path):
    path.mkdir()


def make_self_link(path):
    path.symlink_to(path)


def make_dangling_link(path):
    path.symlink_to(path.with_name("nowhere.wav"))


def make_fifo(path):
    os.mkfifo(path)


def make_odd_rate(path):
    soundfile.write(path, tone(), RATE)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 5)
    path.write_bytes(data)


def make_picture(path):
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color", "-frames:v", "1", f"{path}.png"], check=True
    )
    os.replace(f"{path}.png", path)


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (make_text, "a.wav", "neither soundfile nor FFmpeg can read the file"),
        (make_text, "a.mp3", "neither soundfile nor FFmpeg can read the file|no samples"),
        (make_text, "a.raw", r"its suffix is not an audio format \(\.raw\)"),
        (make_text, "notes.txt", r"its suffix is not an audio format \(\.txt\)"),
        (make_text, "README", r"its suffix is not an audio format \(no suffix\)"),
        (make_empty, "a.wav", "the file is empty"),
        (make_zeros, "a.flac", "neither soundfile nor FFmpeg can read the file"),
        (make_without_samples, "a.wav", "contains no samples"),
        (make_nan, "a.wav", "NaN or Inf"),
        (make_infinite, "a.wav", "NaN or Inf"),
        (make_silent, "a.wav", "silent"),
        (make_folder, "x.wav", "a folder, not a file"),
        (make_self_link, "a.wav", "symbolic link|file not found"),
        (make_dangling_link, "a.wav", "file not found"),
        (make_fifo, "a.wav", "not a file"),
        (make_odd_rate, "a.wav", "5 Hz"),
        (make_picture, "a.m4a", "neither soundfile nor FFmpeg can read the file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_faults_are_rows_of_the_manifest(tmp_path, make, name, reason):
    folder = tmp_path / "recordings" / "bad class"
    folder.mkdir(parents=True)
    make(folder / name)
    (row,) = run_one(folder / name, tmp_path).itertuples()
    assert row.kind == "recording" and row.source == f"bad class/{name}" and pandas.isna(row.file)
    assert pandas.Series([row.skipped]).str.contains(reason).all(), row.skipped
    assert str(tmp_path) not in row.skipped
    html = (tmp_path / "data" / "report.html").read_text()
    assert f"bad class/{name}" in html
    # `sanet check` reports the same reason, except for silence.
    assert row.skipped.split(" (")[0] in check(tmp_path / "recordings", num_workers=1) or make is make_silent


def test_truncated_wav_and_mp3_give_the_rest(tmp_path):
    for path in (write(tmp_path / "a.wav", tone(2.0)), convert(tmp_path / "a.mp3")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 0.5 < len(read_recording(path).waveform) / RATE < 1.5


@pytest.mark.parametrize("name", ["a.flac", "a.m4a", "a.ogg", "a.opus"])
def test_truncated_files_are_skipped_or_shorter(tmp_path, name):
    path = convert(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows = run_one(path, tmp_path)
    assert rows["skipped"].notna().any() or rows["duration"].max() < 1.5


def test_header_that_claims_4_gb_is_ignored(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 2**32 - 1)
    path.write_bytes(data)
    assert len(read_recording(path).waveform) == RATE


def test_missing_file_is_an_audio_error(tmp_path):
    with pytest.raises(AudioError, match="file not found"):
        read_recording(tmp_path / "nowhere.wav")


def test_wrong_extensions_do_not_matter(tmp_path):
    path = write(tmp_path / "a.flac", tone())
    rows = run_one(path.rename(tmp_path / "a.mp3"), tmp_path)
    assert rows[rows["kind"] == "clip"]["duration"].tolist() == [1.0]


def test_unusual_file_names_are_prepared(tmp_path):
    folder, output = tmp_path / "recordings", tmp_path / "data"
    names = [
        "a.wav",
        "a.flac",
        "a_wav.wav",
        "mit Umlaut ü 🎵.wav",
        "-v.wav",
        'a,b"c.wav',
        "[x]*?.wav",
        "n" * 251 + ".wav",
    ]
    names += ["line\nbreak.wav", os.fsdecode(b"\xff.wav"), os.fsdecode(b"\xfe.wav"), "http:::x.wav", ".hidden.wav"]
    for index, name in enumerate(names):
        write(folder / "ü 1" / "x.wav", tone(0.5, frequency=100 * (index + 1)))
        os.rename(folder / "ü 1" / "x.wav", folder / "ü 1" / name)
    manifest = prepare(folder, output, PrepareOptions(denoise=False), num_workers=1).manifest
    clips = manifest[manifest["kind"] == "clip"]
    assert len(clips) == clips["hash"].nunique() == len(names) - 1 == len(list((output / "clips").rglob("*.wav")))
    recordings = load_dataset("audiofolder", data_dir=str(output / "clips"), cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, recordings.values())) == len(clips)
    write(folder / "b::[c]" / "x.wav", tone(0.5))
    prepare(folder, output, PrepareOptions(denoise=False), num_workers=1)
    recordings = load_recordings(DataArguments(data_dir=str(output / "clips")))
    assert sum(map(len, recordings.values())) == len(names)
    assert recordings["train"].features["label"].names == ["b::[c]", "ü 1"]
    assert "b::[c]" in check(output, num_workers=1)


def test_misplaced_files_have_an_error(tmp_path):
    folder = tmp_path / "recordings"
    write(folder / "a" / "good.wav", tone(0.5))
    write(folder / "a" / "deeper" / "x.wav", tone(0.5))
    write(folder / "loose.wav", tone(0.5))
    (folder / "empty").mkdir()
    (folder / "README.md").write_text("not listed")
    errors = {file.path.relative_to(folder).as_posix(): file.error for file in list_files(folder)}
    assert errors == {
        "a/good.wav": None,
        "a/deeper/x.wav": "in a subfolder of its class folder",
        "loose.wav": "outside of class folders",
        "empty": "an empty class folder",
    }


def test_no_usable_files_are_an_error(tmp_path, capsys):
    (tmp_path / "recordings" / "a").mkdir(parents=True)
    make_text(tmp_path / "recordings" / "a" / "a.wav")
    for command in 2 * (
        ["check", tmp_path / "recordings"],
        ["prepare", tmp_path / "recordings", tmp_path / "data"],
    ):
        assert main([*map(str, command), "--num_workers", "1"]) == 2
        assert "None of the 1 files" in capsys.readouterr().err
    assert "neither soundfile" in (tmp_path / "data" / "report.html").read_text()


def test_invalid_arguments_write_nothing(tmp_path, capsys):
    folder = tmp_path / "recordings"
    write(folder / "a" / "a.wav", tone(0.5))
    (tmp_path / "notes.txt").touch()
    before = contents(tmp_path)

    def refuse(*argv) -> str:
        assert main(["prepare", *map(str, argv), "--num_workers", "1"]) == 2
        assert contents(tmp_path) == before
        return capsys.readouterr().err

    (tmp_path / "link").symlink_to(folder)
    for output in (folder, folder / "data", tmp_path / "link" / "data", folder / "a" / ".." / "data"):
        assert "is inside the folder of the recordings" in refuse(folder, output)
    assert "folder not found" in refuse(tmp_path / "nowhere", tmp_path / "data")
    assert "notes.txt is a file" in refuse(folder, tmp_path / "notes.txt")
    assert "--max_seconds must be" in refuse(folder, tmp_path / "data", "--max_seconds", "0")
    assert "--max_seconds must be" in refuse(folder, tmp_path / "data", "--max_seconds", "nan")
    assert "not a valid regular expression" in refuse(folder, tmp_path / "data", "--group_pattern", "(")
    assert "does not match 1 of 1 names" in refuse(folder, tmp_path / "data", "--group_pattern", "speaker")
    (tmp_path / "data" / "clips").mkdir(parents=True)
    assert "was not written by sanet prepare" in refuse(folder, tmp_path / "data", "--overwrite")
    write(tmp_path / "data" / "clips" / "a" / "a.wav", tone(0.5))
    before = contents(tmp_path)
    assert "where clips are written" in refuse(tmp_path / "data" / "clips", tmp_path / "data")


@pytest.mark.parametrize(("name", "options"), [("noisereduce", {"denoise": True}), ("silero_vad", {})])
def test_missing_packages_are_named(tmp_path, monkeypatch, name, options):
    write(tmp_path / "recordings" / "a" / "a.wav", tone(0.5))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf'{name} .* pip install "sanet-hf\[prepare\]"'):
        prepare(tmp_path / "recordings", tmp_path / "data", PrepareOptions(**options))


def test_packages_of_unused_steps_are_not_needed(tmp_path, monkeypatch):
    write(tmp_path / "recordings" / "a" / "a.wav", tone(0.5))
    for name in ("noisereduce", "silero_vad"):
        monkeypatch.setitem(sys.modules, name, None)
    manifest = prepare(tmp_path / "recordings", tmp_path / "data", PrepareOptions(segments=False), 1).manifest
    assert list(manifest["kind"]) == ["clip"] and manifest["skipped"].isna().all()


@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
def test_clips_have_the_chosen_sampling_rate(tmp_path, capsys, rate):
    source, output = tmp_path / "recordings", tmp_path / "data"
    write(source / "low" / "a.wav", tone(1.0, 22_050, 300), 22_050)
    write(source / "high" / "a.wav", tone(1.0, 22_050, 2000), 22_050)
    command = ["prepare", str(source), str(output), "--sampling_rate", str(rate), "--no_segments"]
    assert main([*command, "--max_seconds", "0.4", "--num_workers", "1"]) == 0
    assert f"{output / 'clips'} --sampling_rate {rate} --output_dir" in capsys.readouterr().out
    manifest = pandas.read_parquet(output / "manifest.parquet")
    assert len(manifest) == 6
    for row in manifest.itertuples():
        info = soundfile.info(output / row.file)
        assert info.samplerate == rate and row.duration == info.frames / rate == pytest.approx(1 / 3, abs=1e-3)
    assert json.loads((output / "preparation.json").read_text())["sampling_rate"] == rate
    # `sanet check` uses the sampling rate of the prepared clips.
    assert "lower sampling rates" not in check(output, num_workers=1)


@pytest.mark.parametrize("rate", [7999, 96_001])
def test_sampling_rate_out_of_range_is_an_error(tmp_path, rate):
    write(tmp_path / "recordings" / "a" / "a.wav", tone(0.5))
    with pytest.raises(DataError, match=f"--sampling_rate must be from 8000 to 96000 Hz, not {rate}"):
        prepare(tmp_path / "recordings", tmp_path / "data", PrepareOptions(sampling_rate=rate))


def test_dead_worker_is_an_error():
    with pytest.raises(OSError, match="A worker process died"):
        list(map_unordered(os._exit, [1, 2, 3], 2))


# Splits


def test_recordings_get_the_splits_of_training(tmp_path):
    folder, output = tmp_path / "recordings", tmp_path / "data"
    for label, index in itertools.product("ab", range(10)):
        write(folder / label / f"{index}.wav", tone(0.6, frequency=100 * (index + 1)))
    manifest = prepare(folder, output, PrepareOptions(0.25, denoise=False), num_workers=1).manifest
    clips = manifest[manifest["kind"] == "clip"]
    assert len(clips) == 60 and clips.groupby("source")["split"].nunique().max() == 1
    for split, dataset in load_recordings(DataArguments(data_dir=str(folder))).items():
        assert {"/".join(Path(file).parts[-2:]) for file in dataset["file"]} == set(
            clips[clips["split"] == split]["source"]
        )


def test_groups_stay_together(tmp_path):
    folder = tmp_path / "recordings"
    for label, speaker, index in itertools.product("ab", range(5), range(2)):
        write(folder / label / f"spk{speaker}_{index}.wav", tone(0.3, frequency=100 * (index + speaker + 1)))
    options = PrepareOptions(denoise=False, group_pattern="(spk[0-9]+)_")
    manifest = prepare(folder, tmp_path / "data", options, num_workers=1).manifest
    speakers = manifest["source"].str.extract("(spk[0-9]+)_")[0]
    assert manifest.groupby(speakers)["split"].nunique().max() == 1 and manifest["split"].nunique() == 3


def test_split_folders_are_kept(tones, tmp_path):
    shutil.copytree(tones, tmp_path / "recordings")
    os.rename(tmp_path / "recordings" / "validation", tmp_path / "recordings" / "dev")
    write(tmp_path / "recordings" / "more" / "raw" / "x.wav", tone(0.5))
    manifest = prepare(
        tmp_path / "recordings", tmp_path / "data", PrepareOptions(denoise=False), num_workers=1
    ).manifest
    clips = manifest[manifest["kind"] == "clip"]
    assert clips.groupby("split").size().to_dict() == {"test": 8, "train": 32, "validation": 8}
    assert (clips["source"].str.split("/").str[0].replace("dev", "validation") == clips["split"]).all()
    assert count_reasons(manifest[manifest["source"] == "more"]) == [("recording", "not a split folder", 1)]


def test_missing_validation_split_is_made_by_recording(tones, tmp_path):
    shutil.copytree(tones / "train", tmp_path / "recordings" / "train")
    shutil.copytree(tones / "test", tmp_path / "recordings" / "test")
    options = PrepareOptions(0.1, denoise=False)
    manifest = prepare(tmp_path / "recordings", tmp_path / "data", options, num_workers=1).manifest
    assert manifest.groupby("source")["split"].nunique().max() == 1
    assert manifest.groupby("split")["source"].nunique().to_dict() == {"test": 8, "train": 27, "validation": 5}
    assert manifest[manifest["source"].str.startswith("test")]["split"].unique().tolist() == ["test"]
    # `sanet train` holds out the same recordings.
    for split, dataset in load_recordings(DataArguments(data_dir=str(tmp_path / "recordings"))).items():
        expected = set(manifest[manifest["split"] == split]["source"])
        assert {"/".join(Path(file).parts[-3:]) for file in dataset["file"]} == expected


# Check


def test_check_finds_problems(tmp_path, capsys):
    folder = tmp_path / "recordings"
    for split, count in (("train", 12), ("validation", 3), ("test", 3)):
        for index in range(count):
            low = tone(0.5, frequency=200 + 7 * index + len(split))
            write(folder / split / "low" / f"{index}.wav", low)
            write(folder / split / "high" / f"{index}.wav", tone(0.5, 8000, 2000 + 7 * index + len(split)), 8000)
    write(folder / "train" / "rare" / "one.wav", np.clip(5 * tone(0.5), -1, 1))
    shutil.copy(folder / "train" / "low" / "0.wav", folder / "train" / "low" / "copy.wav")
    shutil.copy(folder / "train" / "low" / "1.wav", folder / "test" / "low" / "leak.flac")
    shutil.copy(folder / "train" / "low" / "2.wav", folder / "train" / "high" / "other.wav")
    write(folder / "train" / "low" / "silent.wav", np.zeros(RATE))
    write(folder / "train" / "low" / "offset.wav", 0.05 + 0.1 * tone(0.5))
    (folder / "test" / "low" / "bad.wav").write_text("no audio")
    convert(folder / "test" / "high" / "phone.m4a")
    before = contents(folder)
    assert main(["check", str(folder), "--num_workers", "1"]) == 0
    output = capsys.readouterr().out
    for text in (
        "1 of 44 files are not usable:\n      test/low/bad.wav: neither",
        "3 classes with fewer than 10 files or less than 60 s for training",
        "1 set of files with the same sound:\n      train/low/0.wav = train/low/copy.wav",
        "1 set of files with the same sound in several splits",
        "1 set of files with the same sound in several classes",
        "1 file is silent (below -80 dBFS):\n      train/low/silent.wav",
        "1 file is clipped in over 0.1 % of their samples:\n      train/rare/one.wav",
        "1 file is offset by over 1 % of full scale (DC):\n      train/low/offset.wav",
        "1 class is not in validation:\n      rare",
        "The sampling rates differ: 18 of 8000 Hz,",
        "The rate alone predicts the class of",
        "fitted to the training split",
    ):
        assert text in output, f"{text}\n\n{output}"
    row = next(line for line in output.splitlines() if line.startswith("validation")).split()
    assert row[1] == "6" and float(row[2]) == 1.0
    assert contents(folder) == before


def test_check_of_a_prepared_folder(prepared):
    text = check(prepared, num_workers=1)
    assert f"{prepared / 'denoised_clips'}\n" in text and f"{prepared / 'speech_segments'}\n" in text


def test_check_keeps_clips_of_a_recording_together(tmp_path):
    """
    If each class has one recording, all clips are in train, and there is no baseline. Copied clips, without the files
    of `sanet prepare`, are separate recordings.
    """
    for label, frequency in (("low", 200), ("high", 2000)):
        write(tmp_path / "recordings" / label / "long_0001.wav", tone(3.0, frequency=frequency))
    prepare(tmp_path / "recordings", tmp_path / "data", PrepareOptions(0.5, denoise=False), num_workers=1)
    assert [path.name for path in (tmp_path / "data" / "clips").iterdir()] == ["train"]
    assert "No baseline: a class has only one file or group" in check(tmp_path / "data", num_workers=1)
    shutil.copytree(tmp_path / "data" / "clips", tmp_path / "clips")
    assert "by cross-validation" in check(tmp_path / "clips", num_workers=1)


def test_check_without_problems_says_so(tmp_path):
    for label, index in itertools.product(("low", "high"), range(10)):
        write(tmp_path / label / f"{index}.wav", tone(6.0, frequency=(200 if label == "low" else 2000) + 7 * index))
    text = check(tmp_path, num_workers=1)
    assert "No problems found." in text and "by cross-validation in 5 parts" in text
    assert text.splitlines()[-1].split() == ["all", "20", "1.000", "1.000"]


def test_baseline_keeps_groups_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 10)
    # The features identify the group, which says nothing about the class of other groups.
    features = rng.standard_normal((10, 40))[groups] + 0.01 * rng.standard_normal((100, 40))
    labels = ["ab"[group % 2] for group in groups]
    (apart,), _ = fit_baseline(features, labels, ["unsplit"] * 100, [str(index) for index in range(100)])
    (together,), _ = fit_baseline(features, labels, ["unsplit"] * 100, [str(group) for group in groups])
    assert apart.accuracy == 1.0 and together.accuracy < 0.8
    assert not fit_baseline(features[:3], ["a", "a", "b"], ["unsplit"] * 3, ["1", "2", "3"])[0]
    assert not fit_baseline(features[:3], ["a"] * 3, ["unsplit"] * 3, ["1", "2", "3"])[0]


def test_manifest_always_has_all_columns():
    manifest = make_manifest([{"source": "a", "kind": "recording", "skipped": "empty"}])
    assert manifest["start"].isna().all() and str(manifest["original_rate"].dtype) == "Int64"


def test_progress_file_is_json_lines(prepared):
    header, *lines = (prepared / ".prepare.jsonl").read_text().splitlines()
    assert json.loads(header)["finished"] and len([json.loads(line) for line in lines]) == 9
