# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fuzz the audio readers and the feature extractor, guided by coverage. The corpus starts from the files of
`tests/hostile_audio.py`.

    make fuzz FUZZ_SECONDS=600

With options of libFuzzer, or with one of its findings to reproduce it:

    python tests/fuzz/fuzz_audio.py -max_total_time=600 -artifact_prefix=build/fuzz/ build/fuzz/corpus
    python tests/fuzz/fuzz_audio.py build/fuzz/crash-…
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["sanet_hf.audio.decode", "sanet_hf.audio.decoders", "soundfile"]):
    from sanet_hf.audio.decode import load_audio, stream_audio
    from sanet_hf.errors import AudioError
with atheris.instrument_imports(include=["sanet_hf.feature_extraction_sanet"]):
    from sanet_hf import SANetFeatureExtractor


RATE = 16000
# Largest number of samples to read from a stream, because a stream may be endless.
MAX_SAMPLES = 2**24
# The first byte of an input selects the target for the rest.
TARGETS = ("load", "load a stretch", "stream", "extract")
DTYPES = ("f4", "f8", "f2", ">f4", "i2", "i1", "i4", "i8", "u1", "u2", "?", "c8", "S1", "O", "M8[s]")


def check_waveform(waveform: np.ndarray, limit: int | None = None) -> None:
    assert isinstance(waveform, np.ndarray) and waveform.dtype == np.float32 and waveform.ndim == 1, waveform
    assert 0 < len(waveform) <= (limit or len(waveform)), (len(waveform), limit)
    assert np.isfinite(waveform).all()


def check_error(error: Exception, name: str) -> None:
    assert str(error).startswith(f"{name}: ") and "\n" not in str(error), error


def load(content: bytes) -> None:
    try:
        check_waveform(load_audio(content, RATE, "name"))
    except AudioError as error:
        check_error(error, "name")


def load_stretch(content: bytes) -> None:
    start, length = (int.from_bytes(content[place : place + 2], "little") for place in (0, 2))
    rate = (8000, 16000, 22050, 44100)[length % 4]
    try:
        check_waveform(load_audio(content[4:], rate, "name", start, length + 1), length + 1)
    except AudioError as error:
        check_error(error, "name")


def stream(content: bytes) -> None:
    path = FOLDER / "file.wav"
    path.write_bytes(content)
    count = 0
    try:
        for block in stream_audio(path, RATE):
            check_waveform(block)
            count += len(block)
            if count > MAX_SAMPLES:
                return
        assert count
    except AudioError as error:
        check_error(error, str(path))


def pick(data: atheris.FuzzedDataProvider, values: tuple):
    return data.PickValueInList(list(values))


def make_clip(data: atheris.FuzzedDataProvider):
    """Return an array, tensor or list. Some contain values that are not samples."""
    dtype = np.dtype(pick(data, DTYPES))
    shape = [data.ConsumeIntInRange(0, 40) for _ in range(data.ConsumeIntInRange(0, 3))]
    count = int(np.prod(shape))
    if dtype.kind == "O":
        values = (None, 0.5, 1, "a", [0.1, 0.2], np.zeros(3), True, 1e400, 10**400)
        array = np.empty(count, dtype)
        for place in range(count):
            array[place] = pick(data, values)
    else:
        content = data.ConsumeBytes(count * dtype.itemsize).ljust(count * dtype.itemsize, b"\1")
        array = np.frombuffer(content, dtype)
    array = array.reshape(shape)
    kind = data.ConsumeIntInRange(0, 3)
    if kind == 1 and dtype.kind in "fiub" and dtype.isnative and dtype != np.uint16:
        tensor = torch.tensor(array)
        return tensor.bfloat16() if data.ConsumeBool() and tensor.is_floating_point() else tensor
    if kind == 2:
        with np.errstate(all="ignore"):
            return array.tolist()
    return array


def extract(content: bytes) -> None:
    data = atheris.FuzzedDataProvider(content)
    clips = make_clip(data) if data.ConsumeBool() else [make_clip(data) for _ in range(data.ConsumeIntInRange(0, 4))]
    lengths = (None, 0, 1, -1, 7, 64, 2**16, True, 2.5)
    try:
        extractor = SANetFeatureExtractor(
            max_length=pick(data, lengths),
            do_normalize=data.ConsumeBool(),
            target_rms=pick(data, (0.1, 1e-30, 1e30, 0.0)),
            return_attention_mask=data.ConsumeBool(),
        )
        features = extractor(
            clips,
            padding=pick(data, ("max_length", "longest", True, False, "do_not_pad", "x", None)),
            max_length=pick(data, lengths),
            truncation=pick(data, ("center", "random", True, False, "x", None)),
            pad_to_multiple_of=pick(data, (None, 1, 256, 0, -1, 3)),
            return_attention_mask=pick(data, (None, True, False)),
            return_tensors=pick(data, (None, "pt", "np", "x")),
            sampling_rate=pick(data, (RATE, None, 8000, -1, 0)),
        )
    except ValueError as error:
        assert str(error)
        return
    for row in features["input_values"]:
        assert len(row) and np.isfinite(np.asarray(row)).all(), row


def run(content: bytes) -> None:
    if content:
        (load, load_stretch, stream, extract)[content[0] % len(TARGETS)](content[1:])


def write_seeds(folder: Path) -> None:
    """Write the small files of the corpus as inputs of each target."""
    from hostile_audio import write_corpus

    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        for number, path in enumerate(write_corpus(Path(temporary))):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**16:
                content = path.read_bytes()
                for target, options in enumerate((b"", b"\1\0\0\1", b"")):
                    (folder / f"{number:03}_{target}").write_bytes(bytes([target]) + options + content)
    rng = np.random.default_rng(0)
    for number in range(50):
        (folder / f"extract_{number}").write_bytes(b"\3" + rng.bytes(300))


def main() -> None:
    torch.set_num_threads(1)
    for folder in (argument for argument in sys.argv[1:] if not argument.startswith("-")):
        if not os.path.exists(folder):
            write_seeds(Path(folder))
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        FOLDER = Path(temporary)
        main()
