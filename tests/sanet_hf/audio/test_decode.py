# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding of audio files: formats, resampling, errors, and stretches of a file."""

import os
import resource
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.audio.decode import load_audio, stream_audio
from sanet_hf.audio.formats import SUFFIXES, is_audio_file
from sanet_hf.audio.levels import envelope
from sanet_hf.errors import AudioError


RATE = 16000


def tone(rate: int = RATE, seconds: float = 0.5, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "FLOAT", 1e-6),
        ("a.flac", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
        ("no_suffix", "PCM_16", 1e-4),
    ],
)
def test_formats(tmp_path, name, subtype, tolerance):
    path = tmp_path / name
    container = {"ogg": "OGG", "mp3": "MP3", "flac": "FLAC"}.get(path.suffix[1:], "WAV")
    soundfile.write(path, tone(), RATE, subtype=subtype, format=container)
    waveform = load_audio(path, RATE)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    middle = slice(2000, 6000)
    assert np.abs(waveform[middle] - tone()[middle]).max() < tolerance


@pytest.mark.parametrize("suffix", [".m4a", ".wma", ".webm"])
def test_formats_read_only_by_ffmpeg(tmp_path, suffix):
    if shutil.which("ffmpeg") is None:
        pytest.skip("makes its file with the ffmpeg program")
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    path = tmp_path / f"a{suffix}"
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", tmp_path / "a.wav", path], check=True)
    waveform = load_audio(path, RATE)
    assert len(waveform) == pytest.approx(8000, abs=2500)
    spectrum = np.abs(np.fft.rfft(waveform[2000:6000]))
    assert np.argmax(spectrum) * RATE / 4000 == pytest.approx(440, abs=4)


# Formats of soundfile with names that differ from the suffix.
SOUNDFILE_FORMATS = {".aif": "AIFF", ".aifc": "AIFF", ".oga": "OGG"}
# Options of FFmpeg for suffixes whose default encoder or format does not work; None if FFmpeg cannot write the format.
FFMPEG_OPTIONS = {
    ".3g2": ["-c:a", "aac"],
    ".3gp": ["-c:a", "aac"],
    ".ac3": ["-ar", "48000"],
    ".amr": None,
    ".f4v": ["-ar", "44100"],
    ".flv": ["-ar", "44100"],
    ".mxf": ["-f", "lavfi", "-i", "color=s=720x576:r=25", "-ar", "48000", "-shortest"],
    ".ogm": ["-f", "ogg"],
}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_known_suffix_is_decoded(tmp_path, suffix):
    path = tmp_path / f"a{suffix.upper()}"
    container = SOUNDFILE_FORMATS.get(suffix, suffix[1:].upper())
    if container in soundfile.available_formats():
        soundfile.write(path, tone(), RATE, format=container, subtype="ALAW" if suffix == ".wve" else None)
    else:
        options = FFMPEG_OPTIONS.get(suffix, [])
        if shutil.which("ffmpeg") is None or options is None:
            pytest.skip("nothing here writes such a file")
        soundfile.write(tmp_path / "a.wav", tone(), RATE)
        output = tmp_path / f"a{suffix}"
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *options, output], check=True)
        output.rename(path)
    assert is_audio_file(path.name)
    for waveform in (load_audio(path, RATE), np.concatenate(list(stream_audio(path, RATE)))):
        # WVE is always read as 8,000 Hz: the tone written at 16,000 Hz has half its pitch.
        expected = 220 if suffix == ".wve" else 440
        spectrum = np.abs(np.fft.rfft(waveform[2000:6000]))
        assert np.argmax(spectrum) * RATE / 4000 == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("edges", [[], [1], [4999], [5000, 5001], [79, 80, 81, 9990]])
def test_envelope_does_not_depend_on_blocks(edges):
    waveform = np.zeros(10_001, np.float32)
    waveform[3000], waveform[7000], waveform[-1] = 0.5, -0.25, 0.125
    low, high = envelope(np.split(waveform, edges), 80)
    assert len(low) == len(high) == 126
    assert {index: high[index] for index in np.flatnonzero(high)} == {37: 0.5, 125: 0.125}
    assert {index: low[index] for index in np.flatnonzero(low)} == {87: -0.25, 125: 0.125}


def test_channels_are_averaged(tmp_path):
    left, right = tone(), tone(frequency=880)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    assert np.allclose(load_audio(tmp_path / "a.wav", RATE), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_pitch_level_and_duration(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    waveform = load_audio(tmp_path / "a.wav", RATE)
    assert len(waveform) == pytest.approx(8000, abs=1)
    assert np.abs(waveform[1000:7000] - tone()[1000:7000]).max() < 0.01


@pytest.mark.parametrize("rate", [22255, 44099])
def test_odd_rates_need_little_memory(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waveform = load_audio(tmp_path / "a.wav", RATE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert len(waveform) == pytest.approx(8000, abs=20)
    spectrum = np.abs(np.fft.rfft(waveform[2000:6000]))
    assert np.argmax(spectrum) * RATE / 4000 == pytest.approx(440, abs=4)


def test_wav_content_with_suffix_raw(tmp_path):
    """soundfile raises a TypeError for this suffix, whatever the file contains."""
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    (tmp_path / "a.wav").rename(tmp_path / "a.raw")
    assert len(load_audio(tmp_path / "a.raw", RATE)) == 8000


def write_rate(path, rate):
    soundfile.write(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)


def write_overflow(path):
    """Write samples that are finite in each channel, but whose mean overflows."""
    soundfile.write(path, np.full((100, 2), 3e38, dtype=np.float32), RATE, subtype="FLOAT")


def write_with(path, value):
    samples = tone()
    samples[7] = value
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def write_truncated(path):
    soundfile.write(path, tone(), RATE)
    path.write_bytes(path.read_bytes()[:30])


def write_wrong_lengths(path):
    """Write a RIFF header with a wrong size and an empty format chunk."""
    path.write_bytes(b"RIFF" + struct.pack("<I", 2**31) + b"WAVEfmt " + struct.pack("<I", 0) + b"data")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "file not found"),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: path.write_text("this is no audio"), "neither soundfile nor FFmpeg can read the file"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), "contains no samples"),
        (lambda path: write_with(path, np.nan), "contains NaN or Inf"),
        (lambda path: write_with(path, -np.inf), "contains NaN or Inf"),
        (write_overflow, "contains NaN or Inf"),
        (lambda path: write_rate(path, 0), "neither"),
        (lambda path: write_rate(path, 1), "implausible sampling rate: 1 Hz"),
        (lambda path: write_rate(path, 2**31 - 1), "implausible sampling rate: 2147483647 Hz|neither"),
        (os.mkfifo, "not a file"),
        (write_truncated, "cannot|neither|no samples"),
        (write_wrong_lengths, "cannot|neither|no samples"),
    ],
    ids=(
        "missing folder empty text no_samples nan inf overflow rate_0 rate_1 rate_2**31-1 fifo truncated lengths"
    ).split(),
)
def test_errors_name_the_file_and_the_reason(tmp_path, make, message):
    path = tmp_path / "clip.wav"
    make(path)
    with pytest.raises(AudioError, match=message) as error:
        load_audio(path, RATE)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_too_long_file_name(tmp_path):
    with pytest.raises(AudioError, match="File name too long"):
        load_audio(tmp_path / ("a" * 300 + ".wav"), RATE)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("damage", ["cut", "zeroed", "shuffled"])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_damaged_files_give_samples_or_an_error(tmp_path, suffix, damage, place):
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    start = int(len(content) * place)
    if damage == "cut":
        del content[start:]
    elif damage == "zeroed":
        content[start : start + 100] = bytes(len(content[start : start + 100]))
    else:
        content[start:] = np.random.default_rng(0).permutation(np.frombuffer(content[start:], np.uint8)).tobytes()
    path.write_bytes(content)
    try:
        waveform = load_audio(path, RATE)
    except AudioError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert waveform.ndim == 1 and waveform.size and np.isfinite(waveform).all()


def test_truncated_wav_keeps_its_samples(tmp_path):
    """The header states more samples than the file contains."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE, subtype="FLOAT")
    whole = load_audio(path, RATE)
    path.write_bytes(path.read_bytes()[:-4001])
    waveform = load_audio(path, RATE)
    assert 6000 < len(waveform) < 8000
    assert np.array_equal(waveform, whole[: len(waveform)])


def test_ffmpeg_channels_are_averaged(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("makes its file with the ffmpeg program")
    soundfile.write(tmp_path / "a.wav", np.stack([tone(), np.zeros(8000)], 1), RATE)
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", tmp_path / "a.wav", tmp_path / "a.m4a"], check=True)
    waveform = load_audio(tmp_path / "a.m4a", RATE)
    # RMS of a tone with half the amplitude of 0.5.
    assert np.sqrt(np.mean(waveform[2000:6000] ** 2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.05)


def test_error_without_ffmpeg_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.wma"
    path.write_bytes(bytes(1000))
    with pytest.raises(AudioError, match=r"This file needs FFmpeg\. Install it") as error:
        load_audio(path, RATE)
    assert str(error.value).startswith(f"{path}: ")
    # Formats that soundfile reads do not need FFmpeg.
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    assert len(load_audio(tmp_path / "a.wav", RATE)) == 8000


RATES = [16000, 8000, 11025, 22050, 32000, 44100, 48000, 96000]


@pytest.fixture(scope="module")
def noises(tmp_path_factory) -> dict[tuple[int, str], tuple[Path, np.ndarray]]:
    """Return the path of 2 s of stereo noise and its whole waveform, for each rate and format."""
    folder, files = tmp_path_factory.mktemp("noises"), {}
    for rate in RATES:
        samples = 0.1 * np.random.default_rng(rate).standard_normal((2 * rate + 13, 2))
        wav = folder / f"{rate}.wav"
        soundfile.write(wav, samples, rate, subtype="FLOAT")
        for suffix in ("wav", "flac", "mp3", "opus", "m4a"):
            path = wav.with_suffix(f".{suffix}")
            if suffix == "flac":
                soundfile.write(path, samples, rate)
            elif suffix != "wav":
                # AAC replaces noise with random numbers of the decoder, which depend on where decoding starts.
                codec = {"opus": ["-c:a", "libopus"], "m4a": ["-aac_pns", "0"]}.get(suffix, [])
                subprocess.run(["ffmpeg", "-loglevel", "error", "-i", wav, *codec, path], check=True)
            files[rate, suffix] = path, load_audio(path, 16000)
    return files


@given(
    rate=st.sampled_from(RATES),
    suffix=st.sampled_from(["wav", "flac", "mp3", "opus", "m4a"]),
    start=st.integers(0, 31999),
    length=st.integers(1, 33000) | st.none(),
)
@settings(max_examples=40, deadline=None)
def test_stretch_equals_part_of_whole_file(noises, rate, suffix, start, length):
    path, whole = noises[rate, suffix]
    stretch = load_audio(path, 16000, start=start, length=length)
    np.testing.assert_array_equal(stretch, whole[start:][:length])
    np.testing.assert_array_equal(stretch, load_audio(path.read_bytes(), 16000, start=start, length=length))


def test_stretch_at_odd_rate(tmp_path):
    soundfile.write(tmp_path / "odd.wav", tone(44099), 44099)
    whole = load_audio(tmp_path / "odd.wav", 16000)
    np.testing.assert_array_equal(load_audio(tmp_path / "odd.wav", 16000, start=900, length=70), whole[900:970])


def test_ffmpeg_stretch_at_odd_rate(tmp_path):
    soundfile.write(tmp_path / "odd.wav", tone(44099), 44099)
    convert = ["ffmpeg", "-loglevel", "error", "-i", tmp_path / "odd.wav", "-c", "copy", tmp_path / "odd.mka"]
    subprocess.run(convert, check=True)
    whole = load_audio(tmp_path / "odd.mka", 16000)
    np.testing.assert_allclose(whole, load_audio(tmp_path / "odd.wav", 16000), atol=1e-4)
    np.testing.assert_array_equal(load_audio(tmp_path / "odd.mka", 16000, start=900, length=70), whole[900:970])


@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_stretch_beyond_the_end_is_an_error(noises, suffix):
    path, _ = noises[44100, suffix]
    with pytest.raises(AudioError, match=path.name):
        load_audio(path, 16000, start=16000 * 60, length=10)


def test_only_the_stretch_of_a_long_file_is_read(tmp_path, monkeypatch):
    """One second of a ten-minute file reads this second and the rest of its resampling blocks."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(48000 * 600, dtype="int16"), 48000)
    read, frames = soundfile.SoundFile.read, []

    def spy(self, *args, **kwargs):
        frames.append(read(self, *args, **kwargs))
        return frames[-1]

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    load_audio(path, 16000, start=16000 * 300, length=16000)
    assert [48000 <= len(array) < 48000 + 2 * 66000 for array in frames] == [True]


def test_stretches_of_mp3_print_nothing(noises, capfd):
    """After a seek, libmpg123 writes warnings about missing data to stderr."""
    path, whole = noises[48000, "mp3"]
    for start in range(1000, 30000, 5000):
        np.testing.assert_allclose(load_audio(path, 16000, start=start, length=900), whole[start:][:900], atol=1e-6)
    assert capfd.readouterr() == ("", "")
