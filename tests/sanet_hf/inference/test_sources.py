# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings in the formats of datasets and pipelines: each is read, or gives a prediction with an error."""

import array
import io
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.errors import AudioError, UsageError
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.prediction import predict
from sanet_hf.inference.sources import resolve_source


RATE = 16000
WAVEFORM = (0.1 * np.random.default_rng(0).standard_normal(6000)).astype(np.float32)


def encode(waveform: np.ndarray = WAVEFORM, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, "FLOAT", format="WAV")
    return file.getvalue()


CONTENT = encode()


class Decoder:
    """Behaves like torchcodec's AudioDecoder."""

    def __init__(self, rate: float = RATE, error: Exception | None = None, encoded: dict | None = None):
        self.rate, self.error = rate, error
        if encoded:
            self._hf_encoded = encoded

    def get_all_samples(self):
        if self.error:
            raise self.error
        return SimpleNamespace(data=torch.from_numpy(np.stack([WAVEFORM, WAVEFORM])), sample_rate=self.rate)


def of_rate(rate: object) -> dict:
    return {"array": WAVEFORM, "sampling_rate": rate}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "clip.wav"
    path.write_bytes(CONTENT)
    return path


SAME = {
    "text": str,
    "path": lambda path: path,
    "bytes": lambda _: CONTENT,
    "bytearray": lambda _: bytearray(CONTENT),
    "array": lambda _: WAVEFORM,
    "float64": lambda _: WAVEFORM.astype(np.float64),
    "list": lambda _: WAVEFORM.tolist(),
    "tuple": lambda _: tuple(WAVEFORM.tolist()),
    "array.array": lambda _: array.array("f", WAVEFORM),
    "series": lambda _: pandas.Series(WAVEFORM),
    "tensor": lambda _: torch.from_numpy(WAVEFORM),
    "tensor with gradient": lambda _: torch.from_numpy(WAVEFORM).requires_grad_(),
    "reversed strides": lambda _: WAVEFORM[::-1].copy()[::-1],
    "one channel first": lambda _: WAVEFORM[None],
    "one channel last": lambda _: WAVEFORM[:, None],
    "channels first": lambda _: torch.from_numpy(np.stack([WAVEFORM, WAVEFORM])),
    "channels last": lambda _: np.stack([WAVEFORM] * 8, axis=1),
    "channels of opposite sign": lambda _: np.stack([0.9 * -WAVEFORM, WAVEFORM]),
    "opposite, last": lambda _: torch.from_numpy(np.stack([WAVEFORM, -WAVEFORM], axis=1)),
    "dataset, array": lambda _: {"path": "x.wav", **of_rate(RATE)},
    "dataset, bytes": lambda _: {"bytes": CONTENT, "path": "gone.wav"},
    "dataset, bytes alone": lambda _: {"bytes": CONTENT},
    "dataset, path": lambda path: {"bytes": None, "path": str(path)},
    "dataset, row": lambda path: {"label": 1, "audio": {"bytes": None, "path": str(path)}},
    "pipeline": lambda _: {"raw": WAVEFORM, "sampling_rate": RATE},
    "pipeline, list": lambda _: {"raw": WAVEFORM.tolist(), "sampling_rate": RATE},
    "rate, float": lambda _: of_rate(16000.0),
    "rate, text": lambda _: of_rate("16000"),
    "rate, numpy": lambda _: of_rate(np.float32(RATE)),
    "rate, tensor": lambda _: of_rate(torch.tensor(RATE)),
    "decoder": lambda _: Decoder(),
    "decoder, rate": lambda _: Decoder(16000.0),
    "decoder of a file": lambda path: Decoder(error=RuntimeError(), encoded={"path": str(path), "bytes": None}),
    "decoder of bytes": lambda _: Decoder(error=RuntimeError(), encoded={"path": "gone.wav", "bytes": CONTENT}),
    "decoder of a file elsewhere": lambda _: Decoder(encoded={"path": "https://x/y.wav", "bytes": None}),
    "row of a dataset": lambda _: {"audio": Decoder(), "label": "cat"},
}
BAD = {
    "no file": ("missing.wav", "file not found."),
    "null character": ("a\0.wav", "null character"),
    "no audio": (b"this is no audio", "can read the file"),
    "no bytes": (b"", "the file is empty."),
    "None": (None, "a NoneType is not a recording: expected a path"),
    "number": (3.5, "a float is not a recording"),
    "texts": (["a.wav", "b.wav"], "a list is not a recording"),
    "ragged": ([[0.1], [0.2, 0.3]], "a list is not a recording"),
    "object": (object(), "an? object is not a recording"),
    "complex": (np.ones(9, complex), "is not a recording"),
    "empty": (np.zeros(0), r"shape \(0,\)"),
    "empty channels": (np.zeros((2, 0)), "not a recording"),
    "no channels": (np.zeros((0, 9000)), "not a recording"),
    "which is which": (np.zeros((2, 3)), r"shape \(2, 3\) is not a recording: expected \(samples,\)"),
    "many channels": (np.zeros((9, 9000)), "up to 8 channels"),
    "three dimensions": (np.zeros((1, 1, 9000)), r"shape \(1, 1, 9000\)"),
    "NaN": (np.array([0, np.nan]), "NaN or Inf"),
    "too large": (np.array([1e300]), "NaN or Inf"),
    "int64": ([0, 1, 2], "full scale of samples of type int64 is unknown"),
    "uint8": (np.zeros(9, np.uint8), "full scale of samples of type uint8 is unknown"),
    "bool": (np.zeros(9, bool), "full scale of samples of type bool is unknown"),
    "no keys": ({}, "a mapping with no keys is not a recording"),
    "other keys": ({"file": "a.wav", "label": 1}, "a mapping with file, label is not a recording"),
    "nothing in it": ({"bytes": None, "path": None}, "is not a recording"),
    "no rate": ({"array": WAVEFORM}, "the mapping has array, but no sampling_rate"),
    "rate None": (of_rate(None), "no sampling_rate"),
    "rate 0": (of_rate(0), "implausible sampling rate: 0"),
    "rate -1": (of_rate(-1), "implausible sampling rate: -1"),
    "rate NaN": (of_rate(math.nan), "whole number of Hz, not nan"),
    "rate inf": (of_rate(math.inf), "whole number of Hz, not inf"),
    "rate 1e300": (of_rate(1e300), "implausible sampling rate: 1e.300"),
    "rate fraction": (of_rate(22050.5), "whole number of Hz, not 22050.5"),
    "rate word": (of_rate("high"), "whole number of Hz, not 'high'"),
    "rate bool": (of_rate(True), "whole number of Hz, not True"),
    "rate list": (of_rate([16000, 16000]), "whole number of Hz"),
    "decoder": (Decoder(error=RuntimeError("no packets")), "torchcodec cannot decode the recording .no packets."),
    "decoder, empty message": (Decoder(error=ValueError()), "torchcodec cannot decode the recording"),
    "decoder, rate": (Decoder(rate=None), "whole number of Hz, not None"),
    "nested": ({"audio": {"path": "missing.wav"}}, "file not found."),
}


def test_all_forms_give_the_same_result(tiny_checkpoint, path):
    """All forms are in one call. Unreadable sources between them give errors in the same order."""
    model, feature_extractor = load_classifier(tiny_checkpoint)
    sources = [make(path) for make in SAME.values()] + [source for source, _ in BAD.values()] + [path]
    results = list(predict(model, feature_extractor, sources))
    assert len(results) == len(sources)
    right, bad, last = results[: len(SAME)], results[len(SAME) : -1], results[-1]
    for name, result in zip(SAME, right):
        assert result.error is None, (name, result.error)
        assert result.duration == 0.375 and np.allclose(result.scores, last.scores, atol=1e-5), name
    for name, result in zip(BAD, bad):
        assert result.error is not None and result.scores is None, name
    names = dict(zip(SAME, (result.path for result in right)))
    assert names["text"] == names["path"] == names["dataset, row"] == names["decoder of a file"] == str(path)
    assert names["dataset, bytes"] == "gone.wav" and names["bytes"] == "#3"


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=list(BAD))
def test_error_names_the_fault(tiny_checkpoint, source, message):
    _, result = predict(*load_classifier(tiny_checkpoint), ["missing.wav", source])
    assert re.search(message, result.error) and not result.error.startswith(("#2", "missing.wav"))


@pytest.mark.parametrize("rate", [8000, 11025, 22050.0, 44099, 48000, "44100"])
def test_arrays_are_resampled_like_files(tiny_checkpoint, tmp_path, rate):
    """This includes odd rates, for which torchaudio's kernel would not fit into memory."""
    soundfile.write(tmp_path / "clip.wav", WAVEFORM, int(rate), "FLOAT")
    of_array, of_file = predict(*load_classifier(tiny_checkpoint), [of_rate(rate), tmp_path / "clip.wav"])
    assert of_array.error is of_file.error is None
    assert of_array.duration == of_file.duration == pytest.approx(6000 / int(rate), abs=1e-4)
    np.testing.assert_allclose(of_array.scores, of_file.scores, atol=1e-5)


@settings(max_examples=50)
@given(values=st.lists(st.floats(-1, 0.75), min_size=1, max_size=20), dtype=st.sampled_from(["int16", "int32"]))
def test_integers_are_scaled_by_the_range_of_their_type(values, dtype):
    scale = 2.0 ** (15 if dtype == "int16" else 31)
    waveform, rate = resolve_source((np.array(values, np.float64) * scale).astype(dtype))
    assert rate is None and waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, values, atol=2**-15)


@pytest.mark.parametrize(
    "source",
    [
        "clip.wav",
        Path("clip.wav"),
        CONTENT,
        WAVEFORM,
        np.stack([WAVEFORM, WAVEFORM]),
        torch.from_numpy(WAVEFORM),
        WAVEFORM.tolist()[:5],
        of_rate(RATE),
        {"audio": of_rate(RATE)},
        Decoder(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_single_source_is_an_error(tiny_checkpoint, source):
    """A path is not read letter by letter, nor an array sample by sample."""
    with pytest.raises(UsageError, match=r"sources is one recording \(.*\), but must be an iterable of recordings"):
        predict(*load_classifier(tiny_checkpoint), source)


def test_iterables_of_sources(tiny_checkpoint, path):
    classifier = load_classifier(tiny_checkpoint)
    for sources in ([], (), [path], (path,), {path}, iter([path]), np.array([str(path)]), pandas.Series([str(path)])):
        assert [result.error for result in predict(*classifier, sources)] in ([], [None])
    for sources in (None, 3):
        with pytest.raises(UsageError, match="must be an iterable of recordings, not "):
            predict(*classifier, sources)


def test_bug_in_reading_is_raised(tiny_checkpoint, path, monkeypatch):
    def fail(*arguments):
        raise KeyError("a bug")

    monkeypatch.setattr("sanet_hf.inference.prediction.stream_audio", fail)
    with pytest.raises(KeyError, match="a bug"):
        list(predict(*load_classifier(tiny_checkpoint), [path]))


def test_decoded_datasets(tiny_checkpoint, path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("torchcodec")
    rows = datasets.Dataset.from_dict({"audio": [str(path)] * 2}).cast_column("audio", datasets.Audio())
    of_rows = list(predict(*load_classifier(tiny_checkpoint), rows))
    of_column = list(predict(*load_classifier(tiny_checkpoint), rows["audio"]))
    (expected,) = predict(*load_classifier(tiny_checkpoint), [path])
    for result in of_rows + of_column:
        assert result.error is None and result.path == str(path)
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)


def test_error_of_a_nested_mapping_names_its_keys():
    with pytest.raises(AudioError, match="a mapping with x is not a recording"):
        resolve_source({"audio": {"x": 1}})
