# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding of audio files in blocks."""

import itertools
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.functional import resample

from sanet_hf.audio import decoders, resampling
from sanet_hf.audio.decode import load_audio, stream_audio
from sanet_hf.audio.resampling import resample_blocks
from sanet_hf.errors import AudioError


RATE = 16000


def write(path, rate: int = RATE, seconds: float = 3.0, channels: int = 1):
    """Write a file of low-pass filtered noise with soundfile, or with FFmpeg for other formats. Return its path."""
    noise = np.random.default_rng(0).standard_normal((round(rate * seconds) + 50, channels))
    smooth = np.stack([np.convolve(row, np.ones(51) / 51, mode="valid") for row in noise.T], axis=1)
    if path.suffix in (".wav", ".flac", ".mp3", ".ogg"):
        soundfile.write(path, smooth, rate)
        return path
    soundfile.write(path.with_suffix(".wav"), smooth, rate)
    options = ["-c:a", "libopus"] if path.suffix == ".webm" else []
    subprocess.run(["ffmpeg", "-v", "error", "-i", path.with_suffix(".wav"), *options, path], check=True)
    return path


@given(
    rates=st.sampled_from([(8000, 16000), (44100, 16000), (48000, 16000), (11025, 16000), (16000, 8000)]),
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
)
def test_resampling_in_blocks_equals_the_whole(rates, lengths):
    waveform = np.random.default_rng(0).standard_normal(sum(lengths)).astype(np.float32)
    blocks = np.split(waveform, np.cumsum(lengths)[:-1])
    result = np.concatenate([waveform[:0], *resample_blocks(blocks, *rates, block_length=500)])
    expected = resample(torch.from_numpy(waveform), *rates).numpy() if len(waveform) else waveform
    assert result.shape == expected.shape and np.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "m4a", "webm"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2)])
def test_blocks_are_parts_of_the_whole(tmp_path, suffix, rate, channels, monkeypatch):
    path = write(tmp_path / f"a.{suffix}", rate, channels=channels)
    monkeypatch.setattr(decoders, "DECODING_BLOCK", 10_000)
    monkeypatch.setattr(resampling, "RESAMPLING_BLOCK", 7_000)
    blocks = list(stream_audio(path, RATE))
    assert len(blocks) > 3 and all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    waveform, whole = np.concatenate(blocks), load_audio(path, RATE)
    assert waveform.shape == whole.shape
    assert np.abs(waveform - whole).max() < 1e-6


def test_odd_rate(tmp_path):
    path = write(tmp_path / "a.wav", 22255)
    waveform, whole = np.concatenate(list(stream_audio(path, RATE))), load_audio(path, RATE)
    np.testing.assert_array_equal(waveform, whole)


def test_damage_in_the_middle_ends_the_stream_with_an_error(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", seconds=20.0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    monkeypatch.setattr(decoders, "DECODING_BLOCK", 10_000)
    blocks = stream_audio(path, RATE)
    assert np.isfinite(next(blocks)).all()
    with pytest.raises(AudioError, match=r"a\.flac: "):
        list(blocks)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "file not found"), (b"", "the file is empty"), (b"no audio" * 100, "can read the file")],
)
def test_unreadable_files_are_an_error(tmp_path, content, message):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError, match=message):
        next(stream_audio(path, RATE))


def test_files_without_samples_or_with_nan_are_an_error(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match=r"contains no samples|neither soundfile nor FFmpeg"):
        next(stream_audio(tmp_path / "empty.wav", RATE))
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, 0]), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or Inf"):
        next(stream_audio(tmp_path / "nan.wav", RATE))


def test_ffmpeg_ends_with_the_iterator(tmp_path, monkeypatch):
    path = write(tmp_path / "a.m4a", seconds=20.0)
    monkeypatch.setattr(decoders, "DECODING_BLOCK", 1000)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[-1]
    )
    blocks = stream_audio(path, RATE)
    assert len(list(itertools.islice(blocks, 2))) == 2
    blocks.close()
    assert started[0].poll() is not None


def test_file_name_is_not_an_option_of_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.m4a").rename(tmp_path / "-y: 100%.m4a")
    assert len(np.concatenate(list(stream_audio("-y: 100%.m4a", RATE)))) == pytest.approx(3 * RATE, abs=2500)
