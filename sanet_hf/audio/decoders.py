# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Decode audio files to frames of all channels. The length in a header is ignored: every file is decoded to its end.

libsndfile reads the formats that it decodes correctly; the `ffmpeg` program reads the rest. Formats whose frames do
not depend on earlier ones are read from the middle. All others are decoded from the start.
"""

import io
import mmap
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile


# Samples that are decoded at once, all channels together.
DECODING_BLOCK = 2**22

# With these subtypes (also in FLAC), frames can be read without earlier ones.
SEEKABLE = re.compile("PCM_.*|FLOAT|DOUBLE|ULAW|ALAW")
# libsndfile reads block headers of VOC files as samples, reads one block too many of GSM, and stops early in MPEG
# audio within WAV files.
MISREAD = re.compile("VOC/.*|.*/GSM610|(WAV|WAVEX|RF64|W64)/MPEG.*")
# The first frame of an MP3 file states its length in one of these tags.
MP3_TAGS = re.compile(rb"Xing|Info|VBRI")
MAX_MP3_FRAME = 1441  # bytes
NO_END = 2**40  # bytes

# FFmpeg accepts files that are not recordings. It opens every file, pipe or port that a playlist or a stream
# description names. Chiptune files are programs of game consoles; a hundred bytes of them can play forever.
LIST_MARKS = re.compile(
    rb"ffconcat version|#EXTM3U|dash:profile|<CompositionPlaylist|# VobSub index|(^|\n)\r?c=IN IP", re.IGNORECASE
)
GAME_MUSIC = (b"ZXAY", b"GBS\x01", b"GYMX", b"HESM", b"KSCC", b"KSSX", b"NESM", b"NSFE", b"SAP\r", b"SNES", b"Vgm ")
# Bytes from which FFmpeg detects a format.
PROBED_BYTES = 2**20


class DecodingError(ValueError):
    """The reason why a file cannot be read as audio."""


class _Distrusted(DecodingError):
    """The reason why libsndfile must not read a file."""


class AudioFile(NamedTuple):
    """
    An opened file. The sampling rate is in Hz. `is_seekable` says whether decoding can begin in the middle. `read` is
    called once, with the first frame, the frame after the last (`None`: end of file) and the number of frames to read
    at once. It yields float32 arrays of shape (frames, channels), and raises [`DecodingError`].
    """

    sampling_rate: int
    num_channels: int
    is_seekable: bool
    read: Callable[..., Iterator[np.ndarray]]
    num_frames: int | None = None  # known for seekable files only


class _SoundFile(soundfile.SoundFile):
    """A file without seeking: soundfile seeks after every read, which loses the decoder's state in MP3 and Opus."""

    def seekable(self) -> bool:
        return False


class _Endless(io.RawIOBase):
    """A file that appears endless. Otherwise libmpg123 estimates a missing length of MP3 from the file size."""

    def __init__(self, file: io.IOBase):
        self.file, self.is_at_end = file, False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.is_at_end = whence == os.SEEK_END
        return NO_END if self.is_at_end else self.file.seek(offset, whence)

    def tell(self) -> int:
        return NO_END if self.is_at_end else self.file.tell()

    def readinto(self, buffer) -> int:
        return self.file.readinto(buffer)

    def is_left(self) -> bool:
        """Return whether more than tags or a part of a frame follows."""
        rest = self.file.read(2**16)
        return len(rest) > 2 * MAX_MP3_FRAME and not re.search(rb"TAG|APETAGEX|LYRICSBEGIN", rest[:MAX_MP3_FRAME])

    def close(self) -> None:
        self.file.close()
        super().close()


def open_audio(source: Path | bytes) -> AudioFile:
    """
    Open an audio file, or its content.

    Raises:
        DecodingError: The file is not audio, or it needs FFmpeg, which is not installed.
        OSError: The file cannot be read.
    """
    try:
        file = _open_with_soundfile(source)
    except (soundfile.LibsndfileError, TypeError, _Distrusted) as error:
        # soundfile raises a TypeError for *.raw files.
        return _open_with_ffmpeg(source, getattr(error, "error_string", str(error)))

    def read(first: int, stop: int | None, block_length: int | None = None) -> Iterator[np.ndarray]:
        position = first
        try:
            for block in _read_with_soundfile(source, file, first, stop, block_length):
                yield block
                position += len(block)
        except soundfile.LibsndfileError as error:
            _check_end(source, file)
            place = f" after {position / file.samplerate:.1f} s" if position else ""
            raise DecodingError(f"damaged{place} ({error.error_string.rstrip('.')}).") from error

    is_seekable = _is_seekable(file)
    return AudioFile(file.samplerate, file.channels, is_seekable, read, file.frames if is_seekable else None)


def _open_with_soundfile(source: Path | bytes) -> _SoundFile:
    is_path, place = isinstance(source, Path), _find_mp3(source)
    if place is not None:
        _check_mp3(source, place)
        with _mapped(source) as content:
            states_length = MP3_TAGS.search(content[place : place + MAX_MP3_FRAME])
        if not states_length:
            return _SoundFile(_Endless(open(source, "rb", buffering=0) if is_path else io.BytesIO(source)))
    # soundfile cannot encode names that are not UTF-8.
    name = (os.fsencode(source) if os.name == "posix" else str(source)) if is_path else io.BytesIO(source)
    file = _SoundFile(name)
    reason = _distrust(source, file, place)
    if reason:
        file.close()
        raise _Distrusted(reason)
    return file


def _is_seekable(file: _SoundFile) -> bool:
    # FLAC that was written to a pipe states the largest possible number of frames.
    return bool(SEEKABLE.fullmatch(file.subtype)) and file.frames < NO_END


def _distrust(source: Path | bytes, file: _SoundFile, place: int | None) -> str:
    """Return the reason why libsndfile must not read a file that it has opened, or an empty string."""
    # libsndfile reads nothing from a WAV file whose header is incomplete.
    if not file.frames:
        return "the file contains no samples"
    if file.format == "MP3" and place is None:
        return "the file does not begin with an MP3 frame"
    if file.format == "OGG" and not _is_plain_ogg(source):
        return "the file is not one complete Ogg stream"
    if file.format == "W64" and _read_start(source, 24)[16:] == b"\xff" * 8:
        return "the header states no length"
    kind = f"{file.format}/{file.subtype}"
    return f"libsndfile misreads {kind}" if MISREAD.fullmatch(kind) else ""


def _read_with_soundfile(
    source: Path | bytes, file: _SoundFile, first: int, stop: int | None, block_length: int | None
) -> Iterator[np.ndarray]:
    with file:
        position, block_length = 0, block_length or max(1, DECODING_BLOCK // file.channels)
        if _is_seekable(file):
            position = min(first, file.frames)
            if position:
                file.seek(position)
        while stop is None or position < stop:
            count = block_length if stop is None else min(block_length, stop - position)
            block = file.read(count, dtype="float32", always_2d=True)
            if not len(block):
                _check_end(source, file)
                return
            if position + len(block) > first:
                yield block[max(0, first - position) :]
            position += len(block)


def _check_end(source: Path | bytes, file: _SoundFile) -> None:
    """Raise an error if libsndfile stopped at the end of the first of several joined files."""
    if isinstance(file.name, _Endless) and file.name.is_left():
        raise DecodingError("libsndfile reads only a part. If several files were joined to this one, separate them.")
    if file.format == "FLAC" and _count(source, b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22") > 1:
        raise DecodingError("several FLAC files were joined to this one. Separate them.")


def _find_mp3(source: Path | bytes) -> int | None:
    """Return where the first frame of MPEG audio begins, after ID3 tags, or None if the file is not MPEG audio."""
    start = _read_start(source, 10)
    if not start.startswith((b"ID3", b"\xff")):
        return None
    with _mapped(source) as content:
        place = _skip_id3(content)
        first, second = content[place : place + 2].ljust(2, b"\0")
    # AAC has no layer.
    return place if first == 0xFF and second & 0xE0 == 0xE0 and second & 6 else None


def _check_mp3(source: Path | bytes, place: int) -> None:
    """
    Raise [`_Distrusted`] if the size of an MP3 file differs from its header, or if the header states only a number of
    frames. This happens with joined and truncated files.

    Source: G. Windisch, MPEG Audio Frame Header, "XING Header".
    """
    with _mapped(source) as content:
        tag = MP3_TAGS.search(content[place : place + MAX_MP3_FRAME])
        if tag is None:
            return
        start = place + tag.start()
        flags = content[start + 7] if tag.group() != b"VBRI" and start + 16 < len(content) else 0
        size = start + (12 if flags & 1 else 8)
        end = place + int.from_bytes(content[size : size + 4])
        # FFmpeg continues at another sampling rate, but loses samples.
        rest = content[end : end + PROBED_BYTES]
        first, second = content[place : place + 3], rest[_skip_id3(rest) :][:3]
        if second.startswith(b"\xff") and (first[1] & 0x18, first[2] & 0x0C) != (second[1] & 0x18, second[2] & 0x0C):
            raise DecodingError("MP3 files with different sampling rates were joined to this one. Separate them.")
        # Some encoders do not count the first frame. Other tags may follow.
        rest = content[end : end + MAX_MP3_FRAME]
        is_end = end + MAX_MP3_FRAME >= len(content) or re.search(rb"TAG|APETAGEX|LYRICSBEGIN", rest)
        if not flags & 2 or end > len(content) or not is_end:
            raise _Distrusted("the file is shorter or longer than its header states")


def _is_plain_ogg(source: Path | bytes) -> bool:
    """
    Return whether an Ogg file is one complete stream. libsndfile reads only the first of several streams, and nothing
    of a stream without an end.

    Source: RFC 3533, section 6.
    """
    with _mapped(source) as content:
        place, number, first, flags = 0, None, None, 0
        while content[place : place + 4] == b"OggS":
            flags, stream, found, segments = struct.unpack("<5xB8xII4xB", content[place : place + 27])
            number = found if number is None else number + 1
            first = stream if first is None else first
            if number != found or stream != first or bool(flags & 2) != (place == 0):
                return False
            place += 27 + segments + sum(content[place + 27 : place + 27 + segments])
        return place == len(content) and bool(flags & 4)


def _count(source: Path | bytes, *marks: bytes) -> int:
    with _mapped(source) as content:
        return sum(1 for mark in marks for _ in re.finditer(re.escape(mark), content))


@contextmanager
def _mapped(source: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _read_start(source: Path | bytes, count: int) -> bytes:
    if isinstance(source, bytes):
        return source[:count]
    with open(source, "rb") as file:
        return file.read(count)


def _skip_id3(content: bytes | mmap.mmap) -> int:
    """Return the position after ID3 tags."""
    place = 0
    while content[place : place + 3] == b"ID3" and len(content) >= place + 10:
        sizes = content[place + 6 : place + 10]
        place += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(sizes, (21, 14, 7, 0)))
    return place


def _check_content(source: Path | bytes) -> None:
    """Raise an error if FFmpeg must not open a file (see [`LIST_MARKS`]), or would read joined files only in part."""
    start = _read_start(source, PROBED_BYTES)
    if LIST_MARKS.search(start):
        raise DecodingError("the file is a list of other files or streams, not a recording.")
    # FFmpeg skips ID3 tags.
    if start[_skip_id3(start) :].startswith(GAME_MUSIC):
        raise DecodingError("chiptune files (NSF, GBS, SPC …) are not supported.")
    if start[:4] == b"RIFF" and len(start) >= 8:
        with _mapped(source) as content:
            end = 8 + int.from_bytes(start[4:8], "little")
            if re.match(rb"\0?RIFF....WAVE", content[end : end + 13], re.DOTALL):
                raise DecodingError("several WAV files were joined to this one. Separate them.")


def _open_with_ffmpeg(source: Path | bytes, reason: str) -> AudioFile:
    """
    Open any file that FFmpeg supports. FFmpeg chooses the stream and keeps the number of channels and the sampling
    rate of its start.

    Args:
        source: Audio file, or its content.
        reason: The reason why soundfile does not read it.
    """
    _check_content(source)
    program = shutil.which("ffmpeg")
    if program is None:
        reason = reason.rstrip(".")
        raise DecodingError(f"{reason}. This file needs FFmpeg. Install it (Debian: apt-get install ffmpeg).")
    process = _run_ffmpeg(program, source, reason)
    sampling_rate, num_channels = next(process)

    def read(first: int, stop: int | None, block_length: int | None = None) -> Iterator[np.ndarray]:
        block_length = block_length or max(1, DECODING_BLOCK // num_channels)
        position = 0
        with closing(process):
            while stop is None or position < stop:
                block = process.send(block_length if stop is None else min(block_length, stop - position))
                if not len(block):
                    return
                if position + len(block) > first:
                    yield block[max(0, first - position) :]
                position += len(block)

    return AudioFile(sampling_rate, num_channels, False, read)


def _run_ffmpeg(program: str, source: Path | bytes, reason: str) -> Generator:
    """
    Yield the sampling rate and the number of channels, then as many frames as the caller sends for, and an empty block
    at the end.
    """
    with tempfile.TemporaryFile() as log, _as_file(source) as path:
        # The whitelist keeps playlists from opening the network. AU has a simple header, and supports any number of
        # channels and samples.
        command = [program, "-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", b"file:" + path]
        command += ["-map_metadata", "-1", "-c:a", "pcm_f32be", "-f", "au", "-flush_packets", "0", "pipe:1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            header = process.stdout.read(24)
            if len(header) < 24:
                process.wait()
                raise DecodingError(f"neither soundfile nor FFmpeg can read the file ({reason.rstrip('.')}).")
            size, _, _, sampling_rate, num_channels = struct.unpack(">4x5I", header)
            process.stdout.read(size - 24)
            length = yield sampling_rate, num_channels
            frame_bytes = 4 * num_channels
            while content := process.stdout.read(length * frame_bytes):
                samples = np.frombuffer(content[: len(content) // frame_bytes * frame_bytes], ">f4")
                length = yield samples.astype(np.float32).reshape(-1, num_channels)
            if process.wait() != 0:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise DecodingError(f"FFmpeg cannot decode the file ({lines[-1] if lines else reason}).")
            yield np.zeros((0, num_channels), np.float32)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


@contextmanager
def _as_file(source: Path | bytes) -> Iterator[bytes]:
    """
    Yield the path of a file, or of a temporary one. FFmpeg needs a file, since some formats have their index last.
    """
    if isinstance(source, Path):
        yield os.fsencode(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording")
        path.write_bytes(source)
        yield os.fsencode(path)
