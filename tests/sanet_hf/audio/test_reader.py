# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole files, stretches and streams have the same samples in all formats, and as many as FFmpeg decodes."""

import itertools
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sanet_hf.audio import decode, decoders
from sanet_hf.audio.decode import load_audio, stream_audio
from sanet_hf.errors import AudioError


pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its files with the ffmpeg program")

RATE = 16000
# Containers and codecs as options of FFmpeg. FORMATS are always tested, SLOW_FORMATS only with the slow tests.
FORMATS = {
    "wav": "-f wav",
    "flac": "-f flac",
    "mp3": "-f mp3 -q:a 9",
    "ogg": "-f ogg -c:a libvorbis",
    "opus": "-f ogg -c:a libopus",
    "m4a": "-f ipod -c:a aac",
    "adpcm": "-f wav -c:a adpcm_ms",
    "wma": "-f asf -c:a wmav2",
}
SLOW_FORMATS = {
    **{codec: f"-f wav -c:a {codec}" for codec in ("pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le")},
    **{
        codec: f"-f wav -c:a {codec}"
        for codec in ("pcm_alaw", "pcm_mulaw", "adpcm_ima_wav", "adpcm_swf", "libmp3lame")
    },
    **{f"aiff {codec}": f"-f aiff -c:a {codec}" for codec in ("pcm_s16be", "pcm_s24be", "pcm_f32be", "adpcm_ima_qt")},
    **{f"caf {codec}": f"-f caf -c:a {codec}" for codec in ("pcm_s16be", "alac", "aac", "adpcm_ima_qt")},
    **{
        f"mka {codec}": f"-f matroska -c:a {codec}" for codec in ("flac", "aac", "libopus", "libvorbis", "ac3", "alac")
    },
    **{f"mov {codec}": f"-f mov -c:a {codec}" for codec in ("aac", "alac", "pcm_s16le", "ac3")},
    **{f"nut {codec}": f"-f nut -c:a {codec}" for codec in ("libmp3lame", "pcm_s16le", "eac3", "dca -strict -2")},
    **{f"ogg {codec}": f"-f ogg -c:a {codec}" for codec in ("flac", "libspeex")},
    **{f"mpegts {codec}": f"-f mpegts -c:a {codec}" for codec in ("aac", "libmp3lame", "ac3")},
    **{
        name: f"-f {name}"
        for name in ("voc", "mp2", "au", "w64", "adts", "ac3", "eac3", "wv", "tta", "avi", "asf", "flv", "webm")
    },
    **{"mp3 constant": "-f mp3 -b:a 64k -write_xing 0", "rf64": "-f wav -rf64 always", "gsm": "-f wav -c:a libgsm_ms"},
    **{
        "fragmented": "-f mp4 -c:a aac -movflags frag_keyframe+empty_moov",
        "m4a faststart": "-f ipod -movflags +faststart",
    },
    **{"noise": "-f ipod -c:a aac -aac_pns 1 -b:a 32k", "late": "-f matroska -c:a aac -output_ts_offset 5"},
}
# The decoders of FFmpeg and libsndfile differ by rounding in these formats.
TOLERANCE = {"mp2": 1e-4, "adpcm_ima_wav": 5e-3, "aiff adpcm_ima_qt": 1e-2}
# FFmpeg writes files to a pipe in these formats, but cannot read them.
UNREADABLE = {("w64", True), ("rf64", True)}


def run_ffmpeg(*options: str | Path, content: bytes | None = None) -> bytes | None:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, options)]
    process = subprocess.run(
        command, input=content, stdin=None if content else subprocess.DEVNULL, capture_output=True
    )
    return process.stdout if process.returncode == 0 else None


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> dict[tuple[int, int], Path]:
    """Return files with 1.13 s of rising noise, by sampling rate and number of channels."""
    folder, sounds = tmp_path_factory.mktemp("sounds"), {}
    for rate, channels in itertools.product((8000, 22050, 44100, 48000), (1, 2)):
        noise = np.random.default_rng(rate).standard_normal((round(1.13 * rate), channels))
        sounds[rate, channels] = folder / f"{rate}_{channels}.wav"
        soundfile.write(sounds[rate, channels], 0.1 * np.linspace(0.2, 1, len(noise))[:, None] * noise, rate)
    return sounds


def write(path: Path, sound: Path, options: str, is_piped: bool) -> bytes | None:
    """Write a file with FFmpeg. In a pipe, FFmpeg cannot seek back to write the length into the header."""
    if is_piped:
        content = run_ffmpeg("-i", sound, *options.split(), "pipe:1")
        path.write_bytes(content or b"")
        return content or None
    return path.read_bytes() if run_ffmpeg("-i", sound, *options.split(), path) is not None else None


def check(path: Path, tolerance: float = 1e-5, ffmpeg: bool = True) -> np.ndarray:
    """
    Check that all ways to read a file give the same samples, and the same as FFmpeg. Return the waveform at the file's
    own rate.
    """
    content = path.read_bytes()
    opened = decode.open_recording(path, RATE)
    rate = opened.original_rate
    whole, resampled = load_audio(path, rate), np.concatenate(list(opened.blocks))
    np.testing.assert_array_equal(load_audio(content, RATE), resampled)
    generator = np.random.default_rng(len(content))
    start, length = (int(number) for number in generator.integers(1, len(whole), 2))
    np.testing.assert_array_equal(load_audio(path, rate, None, start, length), whole[start:][:length])
    start = int(generator.integers(1, len(resampled)))
    # Convolutions of different lengths round differently.
    np.testing.assert_allclose(load_audio(content, RATE, None, start, 900), resampled[start:][:900], atol=1e-6)
    decoded = run_ffmpeg("-i", path, "-ar", rate, "-f", "f32le", "pipe:1") if ffmpeg else None
    # FFmpeg cannot read the AIFF files that it wrote to a pipe.
    if decoded is not None:
        decoded = np.frombuffer(decoded, "<f4").reshape(-1, opened.num_channels).mean(axis=1)
        # Opus is decoded at another rate here. FFmpeg's resampling filter ends at a slightly different sample.
        assert len(whole) == pytest.approx(len(decoded), abs=2 if path.suffix == ".opus" else 0)
        if path.suffix != ".opus":
            np.testing.assert_allclose(whole, decoded, atol=tolerance)
    return whole


def check_format(folder: Path, sound: Path, name: str, options: str, is_piped: bool) -> None:
    path = folder / f"{name.split()[0]}.{name if name == 'opus' else 'audio'}"
    if write(path, sound, options, is_piped) is None:
        pytest.skip("FFmpeg does not write this here")
    if (name, is_piped) in UNREADABLE:
        with pytest.raises(AudioError, match=r"neither soundfile nor FFmpeg|contains no samples"):
            load_audio(path, RATE)
        return
    whole = check(path, TOLERANCE.get(name, 1e-5))
    # Encoders add a few frames at the start and end.
    rate = 48000 if name == "opus" else soundfile.info(sound).samplerate
    assert len(whole) / decode.open_recording(path, RATE).original_rate == pytest.approx(1.13, abs=4500 / rate)


@pytest.mark.parametrize("is_piped", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("name", FORMATS)
def test_whole_stretch_and_stream(tmp_path, sounds, name, is_piped):
    rate = 48000 if name == "opus" else 44100
    check_format(tmp_path, sounds[rate, 2 if is_piped else 1], name, FORMATS[name], is_piped)


@pytest.mark.slow
@pytest.mark.parametrize("is_piped", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("name", FORMATS | SLOW_FORMATS)
def test_whole_stretch_and_stream_of_every_format(tmp_path, sounds, name, is_piped):
    # Each format has two combinations of rate and channels. All combinations would take 20 minutes.
    place = 3 * list(FORMATS | SLOW_FORMATS).index(name) + 4 * is_piped
    combinations = [*sounds.values()]
    for sound in (combinations[place % 8], combinations[(place + 5) % 8]):
        check_format(tmp_path, sound, name, (FORMATS | SLOW_FORMATS)[name], is_piped)


def test_variable_bitrate_mp3_without_length(tmp_path):
    """An estimate of the length from the first frames was only 25 to 75 % of the length."""
    path = tmp_path / "a.mp3"
    quiet_then_loud = np.random.default_rng(0).standard_normal(8 * RATE) * np.repeat([1e-4, 0.3], 4 * RATE)
    soundfile.write(tmp_path / "a.wav", quiet_then_loud, RATE)
    path.write_bytes(run_ffmpeg("-i", tmp_path / "a.wav", "-q:a", "5", "-f", "mp3", "pipe:1"))
    assert len(check(path)) == pytest.approx(8 * RATE, abs=3000)


def test_files_that_start_late(tmp_path, sounds):
    for name in ("a.mp3", "a.ogg", "a.mka"):
        options = ["-c:a", "aac"] if name == "a.mka" else []
        run_ffmpeg("-itsoffset", "1.5", "-i", sounds[44100, 1], *options, tmp_path / name)
        assert len(check(tmp_path / name)) == pytest.approx(1.13 * 44100, abs=3000)


def test_joined_files(tmp_path, sounds):
    """Joined files are read completely or refused with an error. They are never read in part."""
    for name in ("a.mp3", "b.ogg", "c.flac", "d.wav", "e.mp3"):
        options = ["-write_xing", "0"] if name == "e.mp3" else []
        options = ["-c:a", "libvorbis"] if name == "b.ogg" else options
        parts = [tmp_path / f"{rate}_{name}" for rate in (44100, 22050)]
        for rate, part in zip((44100, 22050), parts):
            run_ffmpeg("-i", sounds[rate, 1], *options, part)
        for both in (parts[:1] * 2, parts):
            path = tmp_path / name
            path.write_bytes(b"".join(part.read_bytes() for part in both))
            if name in ("c.flac", "d.wav") or (name.endswith(".mp3") and len(set(both)) > 1):
                for source in (path, path.read_bytes()):
                    for read in (load_audio, lambda *args: list(stream_audio(*args))):
                        with pytest.raises(AudioError, match=r"joined to this one(\. S|, s)eparate them"):
                            read(source, RATE, "name")
            else:
                # Without FFmpeg's Xing tag, libmpg123 decodes more of the second file than FFmpeg.
                assert len(check(path, ffmpeg=name != "e.mp3")) == pytest.approx(2.26 * 44100, abs=6000), (
                    name,
                    len(both),
                )


@pytest.mark.parametrize(("name", "rest"), [("a.mp3", 0.4), ("a.ogg", 0.4), ("a.wav", 0.4), ("a.m4a", None)])
def test_truncated_files(tmp_path, sounds, name, rest):
    path = tmp_path / name
    codec = ["-c:a", "libvorbis"] if name == "a.ogg" else []
    run_ffmpeg("-stream_loop", "3", "-i", sounds[44100, 1], *codec, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    if rest is None:
        with pytest.raises(AudioError, match=r"a\.m4a: neither"):
            load_audio(path, RATE)
    else:
        assert 44100 < len(check(path)) < 4 * 44100


@pytest.mark.parametrize("length", [0, 2**32 - 1, 2**31])
def test_wav_with_unfinished_header(tmp_path, sounds, length):
    path = tmp_path / "a.wav"
    content = bytearray(sounds[22050, 2].read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", length)
    path.write_bytes(content)
    assert len(check(path)) == round(1.13 * 22050)


def test_mp3_in_small_blocks(tmp_path, sounds, monkeypatch):
    """soundfile seeks after each block, which loses data that the next frames depend on."""
    path = tmp_path / "a.mp3"
    run_ffmpeg("-i", sounds[44100, 2], "-q:a", "9", path)
    whole = load_audio(path, 44100)
    monkeypatch.setattr(decoders, "DECODING_BLOCK", 2000)
    np.testing.assert_allclose(load_audio(path, 44100), whole, atol=1e-6)


# --- channels


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    monkeypatch.setattr(decode.logger, "warning", messages.append)
    return messages


@pytest.mark.parametrize("suffix", ["wav", "flac", "m4a"])
def test_opposite_channels_keep_the_louder_one(tmp_path, suffix, warnings):
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    # Both channels start with silence. The second channel is louder.
    noise[: 2 * RATE] = 0
    soundfile.write(tmp_path / "a.wav", np.stack([0.9 * noise, -noise], 1), RATE)
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        run_ffmpeg("-i", tmp_path / "a.wav", path)
    elif suffix == "flac":
        soundfile.write(path, np.stack([0.9 * noise, -noise], 1), RATE)
    whole = check(path, ffmpeg=False)
    assert len(whole) == pytest.approx(3 * RATE, abs=2500)
    if suffix != "m4a":
        np.testing.assert_allclose(whole, -noise, atol=1e-4)
    assert np.sqrt(np.mean(whole[-RATE // 2 :] ** 2)) == pytest.approx(0.1, rel=0.1)
    # One warning for the file, one for its bytes.
    assert [message.split(":")[0] for message in warnings] == [str(path), "recording"]
    assert all("2 channels cancel each other in their mean. Channel 2" in message for message in warnings)


def test_channels_that_do_not_cancel_are_averaged(tmp_path, warnings):
    left, right = 0.1 * np.random.default_rng(0).standard_normal((2, RATE))
    for channels in ((left, right), (left, left), (left, 0 * left), (0 * left, 0 * left), (left, -0.4 * left)):
        soundfile.write(tmp_path / "a.wav", np.stack(channels, 1), RATE, subtype="FLOAT")
        np.testing.assert_allclose(load_audio(tmp_path / "a.wav", RATE), np.mean(channels, axis=0), atol=1e-6)
    assert not warnings
