# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Broken, unusual and malicious files, and the expected result for each.

    python tests/hostile_audio.py FOLDER    writes all of them
"""

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile


RATE = 16000
HOURS = 10
# Errors for files that no decoder supports.
NO_AUDIO = "neither soundfile nor FFmpeg|cannot decode|no samples"


class Case(NamedTuple):
    """
    A file and its expected result: `shortest` to `longest` seconds of samples, or an error that matches the regular
    expression `reason`. Damaged files that decoders repair in part have both.
    """

    name: str | bytes
    make: Callable[[Path], None]
    reason: str | None = None
    shortest: float | None = None
    longest: float | None = None
    needs: str = ""  # a program to make it, or "user" for a user who is not root

    @property
    def is_long(self) -> bool:
        return (self.longest or 0) > 3600

    def is_possible(self) -> bool:
        if self.needs == "user":
            return os.geteuid() != 0
        return not self.needs or shutil.which(self.needs) is not None

    def path(self, folder: Path) -> Path:
        return folder / os.fsdecode(self.name)


def write_corpus(folder: Path, is_long: bool = False) -> dict[Path, Case]:
    """Write the files that this machine can make: only the long ones, or all others. Return their cases."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {case.path(folder): case for case in CASES if case.is_possible() and case.is_long == is_long}
    for path, case in cases.items():
        case.make(path)
    return cases


# --- pieces of files


@cache
def noise(seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((round(RATE * seconds), channels))


@cache
def encode(container: str, subtype: str | None = None, seconds: float = 1.0, channels: int = 1) -> bytes:
    """Return a sound file of noise."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(seconds, channels), RATE, subtype, format=container)
    return buffer.getvalue()


@cache
def encode_with_ffmpeg(container: str, *options: str) -> bytes:
    command = ["ffmpeg", "-v", "error", "-i", "pipe:0", *options, "-f", container]
    if container in ("ipod", "mov"):
        # To write the index, FFmpeg must seek in a file. In a pipe, it writes fragments with their own indices.
        command += ["-movflags", "frag_keyframe+empty_moov"]
    return subprocess.run([*command, "pipe:1"], input=encode("WAV"), stdout=subprocess.PIPE, check=True).stdout


def samples(values: np.ndarray, subtype: str = "FLOAT", rate: int = RATE, container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, values, rate, subtype, format=container)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """Return a RIFF chunk. `size` may be wrong."""
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def fmt(tag: int = 1, channels: int = 1, rate: int = RATE, block: int = 2, bits: int = 16) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block % 2**32, block, bits))


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks), size)


PCM = (noise()[:, 0] * 32767).astype("<i2").tobytes()
DATA = chunk(b"data", PCM)


def nested(depth: int) -> bytes:
    """Return RIFF lists nested to this depth."""
    body = b""
    for _ in range(depth):
        body = chunk(b"LIST", b"INFO" + body)
    return body


def game_music() -> bytes:
    """Return a program for the NES that starts an endless tone."""
    header = b"NESM\x1a\x01\x01\x01" + struct.pack("<HHH", 0x8000, 0x8000, 0x8000) + bytes(96)
    header += struct.pack("<H", 16666) + bytes(8) + struct.pack("<H", 20000) + bytes(6)
    stores = ((0x01, 0x4015), (0xBF, 0x4000), (0xFE, 0x4002), (0x00, 0x4003))
    return header + b"".join(struct.pack("<BBBH", 0xA9, value, 0x8D, place) for value, place in stores) + b"\x60"


def id3(size: int, body: bytes = b"") -> bytes:
    """Return a tag. Its size is encoded with 7 bits per byte."""
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + body


def flac_with(total: int) -> bytes:
    """Return a FLAC file whose header states this number of samples (36 bits)."""
    content = bytearray(encode("FLAC"))
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = struct.pack(">I", total % 2**32)
    return bytes(content)


def replaced(content: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """Replace the bytes at `offset` after a mark with `value`."""
    start = content.index(mark) + offset
    return content[:start] + value + content[start + len(value) :]


def damaged(content: bytes, start: float = 0.5, length: float = 0.1) -> bytes:
    """Overwrite a part of the file with other bytes."""
    first, count = int(len(content) * start), int(len(content) * length)
    return content[:first] + np.random.default_rng(1).bytes(count) + content[first + count :]


def cut(content: bytes, part: float = 0.5) -> bytes:
    return content[: int(len(content) * part)]


def ogg_with_granules(position: int) -> bytes:
    """Return an Ogg file whose pages state this end position, with valid checksums."""
    content, start = bytearray(encode("OGG", "VORBIS")), 0
    while (start := content.find(b"OggS", start)) >= 0:
        if struct.unpack_from("<q", content, start + 6)[0] > 0:
            struct.pack_into("<q", content, start + 6, position)
            stop = content.find(b"OggS", start + 4)
            page = content[start : stop if stop > 0 else len(content)]
            page[22:26] = bytes(4)
            struct.pack_into("<I", content, start + 22, _ogg_sum(page))
        start += 4
    return bytes(content)


def _ogg_sum(page: bytes) -> int:
    total = 0
    for byte in page:
        total ^= byte << 24
        for _ in range(8):
            total = (total << 1 ^ (0x04C11DB7 if total & 0x80000000 else 0)) & 0xFFFFFFFF
    return total


def png() -> bytes:
    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(72))) + part(b"IEND", b"")


# --- ways to make a file


def holding(content: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content() if callable(content) else content) and None


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def make_sparse_silence(path: Path) -> None:
    """Make a sparse file of ten hours. It needs no disk space."""
    size = HOURS * 3600 * RATE * 2
    path.write_bytes(b"RIFF" + struct.pack("<I", size + 36) + b"WAVE" + fmt() + b"data" + struct.pack("<I", size))
    os.truncate(path, size + 44)


def make_long_flac(path: Path) -> None:
    """Make a file of ten hours that compress to a megabyte."""
    minute = np.zeros(60 * RATE, np.int16)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16", format="FLAC") as file:
        for _ in range(60 * HOURS):
            file.write(minute)


def make_socket(path: Path) -> None:
    """Make a socket from within its folder, because socket paths are limited to about a hundred bytes."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def make_unreadable(path: Path) -> None:
    path.write_bytes(encode("WAV"))
    path.chmod(0)


def make_own_list(path: Path) -> None:
    path.write_text(f"ffconcat version 1.0\nfile '{path.name}'\n", encoding="utf-8")


# --- the table


def _cases() -> Iterator[Case]:
    Content = bytes | Callable[[Path], None]

    def maker(content: Content) -> Callable[[Path], None]:
        return holding(content) if isinstance(content, bytes) else content

    def refused(name: str | bytes, content: Content, reason: str = NO_AUDIO, needs: str = "") -> Case:
        return Case(name, maker(content), reason, needs=needs)

    def reads(
        name: str | bytes, content: Content, seconds: float = 1.0, longest: float | None = None, needs: str = ""
    ) -> Case:
        return Case(name, maker(content), None, 0.99 * seconds, longest or 1.01 * seconds, needs)

    def either(name: str | bytes, content: Content, longest: float = 1.1, needs: str = "") -> Case:
        return Case(name, maker(content), f"{NO_AUDIO}|damaged|NaN or Inf|sampling rate", 1 / RATE, longest, needs)

    wav, flac, mp3 = encode("WAV"), encode("FLAC"), encode("MP3")
    # No audio.
    yield refused("empty.wav", b"", "the file is empty")
    yield refused("empty.mp3", b"", "the file is empty")
    yield refused("one_byte.wav", b"R")
    yield refused("text.wav", b"this is no audio\n" * 50)
    yield refused("page.mp3", b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20)
    yield refused(
        "pointer.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    )
    yield refused("zeros.wav", bytes(10_000))
    yield refused("zeros.m4a", bytes(10_000))
    yield refused("picture.wav", png())
    yield refused("archive.ogg", b"PK\x03\x04" + bytes(2000))
    yield either("random.mp3", np.random.default_rng(2).bytes(50_000), 20)
    yield either("random.aac", np.random.default_rng(3).bytes(50_000), 20)
    # Lists of other files and streams. FFmpeg would open these.
    yield refused("list.m4a", b"ffconcat version 1.0\nfile one_sample.wav\n", "list of other files")
    yield refused("list_of_itself.m4a", make_own_list, "list of other files")
    yield refused("list_of_fifo.m4a", b"ffconcat version 1.0\nfile fifo.wav\n", "list of other files")
    yield refused("playlist.aac", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "list of other")
    session = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n"
    yield refused("session.m4a", session, "list of other files")
    manifest = b'<?xml version="1.0"?>\n<MPD profiles="urn:mpeg:dash:profile:isoff-live:2011"></MPD>'
    yield refused("manifest.mp4", manifest, "list of other files")
    yield refused("game_music.m4a", game_music(), "chiptune files")
    yield refused("tag_before_game_music.m4a", id3(10, bytes(10)) + game_music(), "chiptune files")
    # Samples.
    one = np.full(RATE, 0.1)
    for value in (np.nan, np.inf, -np.inf):
        yield refused(f"{value}.wav", samples(np.where(np.arange(RATE) == 77, value, one)), "NaN or Inf")
    yield refused("all_nan.wav", samples(np.full(RATE, np.nan)), "NaN or Inf")
    yield refused("mean_overflows.wav", samples(np.full((RATE, 2), 3e38)), "NaN or Inf")
    yield refused("beyond_float32.wav", samples(np.full(RATE, 1e300), "DOUBLE"), "NaN or Inf")
    yield refused("no_samples.wav", samples(np.zeros(0)))
    yield refused("no_samples.flac", flac[:42])
    yield refused("no_samples.ogg", samples(np.zeros(0), "VORBIS", container="OGG"))
    yield refused("no_samples.caf", samples(np.zeros(0), "PCM_16", container="CAF"))
    yield reads("one_sample.wav", samples(np.full(1, 0.1)), 1 / RATE)
    yield reads("denormals.wav", samples(np.full(RATE, 1e-40)))
    yield reads("near_the_largest.wav", samples(np.full(RATE, 3e38)))
    yield reads("clipped.wav", samples(np.sign(noise()), "PCM_16"))
    yield reads("silence.wav", samples(np.zeros(RATE), "PCM_16"))
    # Ten hours.
    yield reads("ten_hours.wav", make_sparse_silence, HOURS * 3600)
    yield reads("ten_hours.flac", make_long_flac, HOURS * 3600)
    # Wrong sizes in headers.
    yield reads("data_size_0.wav", riff(fmt(), chunk(b"data", PCM, 0)))
    yield reads("data_size_max.wav", riff(fmt(), chunk(b"data", PCM, 2**32 - 1)))
    yield either("riff_size_0.wav", riff(fmt(), DATA, size=0))
    yield reads("riff_size_max.wav", riff(fmt(), DATA, size=2**32 - 1))
    yield refused("format_size_max.wav", riff(chunk(b"fmt ", fmt()[8:], 2**32 - 1), DATA))
    yield either("chunk_size_max.wav", riff(fmt(), chunk(b"junk", b"x", 2**32 - 1), DATA))
    yield refused("no_format.wav", riff(DATA))
    yield refused("no_data.wav", riff(fmt()))
    yield either("data_before_format.wav", riff(DATA, fmt()))
    yield either("two_formats.wav", riff(fmt(), fmt(channels=2, block=4), DATA))
    yield either("block_size_0.wav", riff(fmt(block=0), DATA))
    yield either("block_size_max.wav", riff(fmt(block=65535), DATA))
    yield refused("bits_0.wav", riff(fmt(bits=0), DATA))
    yield refused("bits_max.wav", riff(fmt(bits=65535), DATA))
    yield refused("unknown_codec.wav", riff(fmt(tag=0xDEAD), DATA))
    yield either("adpcm_without_blocks.wav", riff(fmt(tag=2, block=0, bits=4), DATA), 3)
    yield either("nested_chunks.wav", riff(fmt(), nested(5000), DATA))
    yield reads("many_chunks.wav", riff(fmt(), chunk(b"junk", b"") * 50_000, DATA))
    yield either("riff_in_riff.wav", riff(fmt(), riff(fmt(), DATA), DATA))
    yield refused("cut_in_header.wav", wav[:30])
    yield reads("cut_in_data.wav", cut(wav), 0.5)
    yield either("flac_samples_max.flac", flac_with(2**36 - 1))
    yield reads("flac_samples_unknown.flac", flac_with(0))
    yield either("flac_metadata_max.flac", flac[:5] + b"\xff\xff\xff" + flac[8:])
    yield either("flac_picture_max.flac", flac[:42] + b"\x06\xff\xff\xff" + flac[42:])
    yield either("aiff_frames_max.aiff", replaced(encode("AIFF"), b"COMM", 10, b"\xff" * 4))
    yield either("aiff_rate_nan.aiff", replaced(encode("AIFF"), b"COMM", 16, b"\x7f\xff" + b"\xff" * 8))
    yield either("au_sizes_max.au", b".snd" + b"\xff" * 8 + encode("AU")[12:])
    yield either("w64_size_max.w64", replaced(encode("W64"), b"data", 16, b"\xff" * 7 + b"\x7f"))
    yield either("rf64_sizes_max.rf64", replaced(encode("RF64"), b"ds64", 8, b"\xff" * 24))
    yield either("caf_size_min.caf", replaced(encode("CAF"), b"data", 4, b"\x80" + bytes(7)))
    yield either("ogg_granules_max.ogg", holding(lambda: ogg_with_granules(2**62)))
    yield either("ogg_granules_back.ogg", holding(lambda: ogg_with_granules(1)))
    # Sampling rates and channels.
    for rate in (0, 1, 999, 2**31 - 1, 2**32 - 1):
        yield refused(f"rate_{rate}.wav", riff(fmt(rate=rate), DATA), f"{NO_AUDIO}|sampling rate")
    yield reads("rate_1000.wav", riff(fmt(rate=1000), DATA), 16)
    yield reads("rate_max.wav", riff(fmt(rate=1_000_000), DATA), 0.0159)
    yield reads("rate_odd.wav", riff(fmt(rate=44_099), DATA), 0.36)
    yield either("rate_prime.wav", riff(fmt(rate=999_983), DATA))
    yield refused("channels_0.wav", riff(fmt(channels=0), DATA))
    yield either("channels_max.wav", riff(fmt(channels=65535, block=65534), DATA))
    yield reads("channels_1024.wav", samples(np.full((100, 1024), 0.1), "PCM_16"), 100 / RATE)
    # Damage.
    for name, content in {
        "flac": flac,
        "ogg": encode("OGG", "VORBIS"),
        "opus": encode("OGG", "OPUS"),
        "mp3": mp3,
        "aiff": encode("AIFF"),
        "w64": encode("W64"),
        "au": encode("AU", "FLOAT"),
        "caf": encode("CAF", "ALAC_16"),
    }.items():
        yield either(f"damaged.{name}", damaged(content))
        yield either(f"cut.{name}", cut(content))
        yield either(f"damaged_header.{name}", damaged(content, 0.001, 0.002))
    # Tags.
    yield either("tag_max.mp3", id3(2**28 - 1) + mp3)
    yield either("tag_alone.mp3", id3(1000, bytes(1000)))
    yield reads("tag_of_4_mb.mp3", id3(2**22, bytes(2**22)) + mp3, longest=1.2)
    yield either("many_tags.mp3", id3(0) * 50 + mp3, 1.2)
    yield either("tag_before.flac", id3(2**28 - 1) + flac)
    # Formats that only FFmpeg reads.
    for container, name, *options in (
        ("ipod", "m4a", "-c:a", "aac"),
        ("matroska", "mka", "-c:a", "aac"),
        ("webm", "webm", "-c:a", "libopus"),
        ("asf", "wma", "-c:a", "wmav2"),
    ):
        whole = partial(encode_with_ffmpeg, container, *options)
        yield either(f"damaged.{name}", holding(lambda whole=whole: damaged(whole())), 1.3, "ffmpeg")
        yield either(f"cut.{name}", holding(lambda whole=whole: cut(whole())), 1.3, "ffmpeg")
        yield refused(f"header.{name}", holding(lambda whole=whole: whole()[:40]), needs="ffmpeg")
    # Not regular files.
    yield refused("folder.wav", lambda path: path.mkdir(), "not a file")
    yield refused("fifo.wav", os.mkfifo, "not a file")
    yield refused("socket.wav", make_socket, "not a file")
    yield refused("zero.wav", link_to("/dev/zero"), "not a file")
    yield refused("null.wav", link_to("/dev/null"), "not a file")
    yield refused("process.wav", link_to("/proc/self/status"), "empty|not a file|file not found")
    yield refused("link_to_itself.wav", link_to("link_to_itself.wav"), "file not found")
    yield refused("link_to_nothing.wav", link_to("nothing"), "file not found")
    yield refused("folder_in_itself", link_to("."), "not a file")
    yield refused("folder_in_itself_twice", link_to("."), "not a file")
    yield refused("unreadable.wav", make_unreadable, "ermission|can read the file", needs="user")
    # Names.
    for name in (
        "new\nline.wav",
        "-dash.wav",
        "--help.wav",
        "'\"quotes`$(touch x).wav",
        "<script>alert(1)<,script>.wav",
        "=1+1;\t,.wav",
        "http:::a?b=c.wav",
        "[x]*{y}.wav",
        "@at.wav",
        "100%s %n.wav",
        "\u202egpj.\N{SNOWMAN}\N{PILE OF POO}.wav",
        "a" * 251 + ".wav",
        "samples.raw",
        "CAPITALS.WAV",
        "..two.wav",
    ):
        yield reads(name, wav)
    yield reads(b"not_utf8_\xff\xfe.wav", wav)
    m4a = holding(lambda: encode_with_ffmpeg("ipod", "-c:a", "aac"))
    yield reads(b"not_utf8_\xff.m4a", m4a, longest=1.2, needs="ffmpeg")
    yield reads("-i \n'100%03d'.m4a", m4a, longest=1.2, needs="ffmpeg")
    yield reads("file:a|b.m4a", m4a, longest=1.2, needs="ffmpeg")


CASES = tuple(_cases())


if __name__ == "__main__":
    for is_long in (False, True):
        write_corpus(Path(sys.argv[1]), is_long)
