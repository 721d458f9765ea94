# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Untrusted checkpoints: errors name the fault before memory is allocated, and no code of the checkpoint runs."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from sanet_hf import SANetConfig, convert_original_checkpoint
from sanet_hf.configuration_sanet import MAX_LABELS
from sanet_hf.errors import UsageError
from sanet_hf.inference.bulk import embed_files
from sanet_hf.inference.loading import has_classes, load_classifier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_stride": [-4, 4, 4]}, r"conv_stride=\(-4, 4, 4\) must be positive"),
        ({"conv_dim": "abc"}, "'conv_dim' with value 'abc'"),
        ({"conv_dim": [8.5, 8, 16]}, "conv_dim"),
        ({"conv_dim": None}, "conv_dim"),
        ({"num_channels": True}, "num_channels"),
        ({"batch_norm_eps": float("nan")}, "batch_norm_eps=nan must be positive"),
        ({"conv_dim": [8, 8, 10**9]}, "weights, but the maximum is 2,000,000,000"),
        ({"conv_kernel": [10**10, 8, 5]}, "weights, but the maximum is 2,000,000,000"),
        ({"max_position_embeddings": 10**12}, "weights, but the maximum is 2,000,000,000"),
        ({"pool_hidden_size": 10**12}, "weights, but the maximum is 2,000,000,000"),
        ({"classifier_hidden_sizes": [10**6, 10**6]}, "weights, but the maximum is 2,000,000,000"),
        ({"conv_dim": [8] * 10**5, "conv_kernel": [16] * 10**5, "conv_stride": [4] * 10**5}, "at most 64 entries"),
        ({"num_labels": 10**12}, f"at most {MAX_LABELS:,}"),
        ({"num_labels": -1}, "num_labels=-1"),
        ({"conv_dims": [8]}, "no conv_dims. Did you mean conv_dim"),
        ({"model_type": "unheard_of"}, "custom code"),
        ({"id2label": {str(index): str(index) for index in range(5)}}, r"classifier.*\(5,\) not \(3,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_configuration_values_are_named(tiny_checkpoint, changes, message):
    path = tiny_checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message) as error:
        load_classifier(tiny_checkpoint)
    assert str(tiny_checkpoint) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"null"], ids=repr)
def test_unreadable_configurations_are_named(tiny_checkpoint, content):
    (tiny_checkpoint / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=str(tiny_checkpoint)):
        load_classifier(tiny_checkpoint)


def test_missing_weights_are_named(tiny_checkpoint):
    path = tiny_checkpoint / "model.safetensors"
    weights = load_file(path)
    del weights["sanet.pooling.score.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for sanet\.pooling\.score\.weight"):
        load_classifier(tiny_checkpoint)


def test_model_without_classes_gives_only_embeddings(tmp_path, caplog):
    """A random head gives no predictions, and the embeddings do not depend on it."""
    with pytest.raises(UsageError, match=r"^sanet-tiny: the checkpoint has no weights for .*sanet embed"):
        load_classifier("sanet-tiny")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 48000), 16000)
    embeddings = []
    for seed in range(2):
        torch.manual_seed(seed)
        model, feature_extractor = load_classifier("sanet-tiny", needs_classes=False)
        assert not has_classes(model)
        embed_files(model, feature_extractor, [tmp_path / "a.wav"], tmp_path / "a.npz")
        table = np.load(tmp_path / "a.npz")
        assert table["prediction"].tolist() == [""] and np.isnan(table["score"]).all()
        embeddings.append(table["embedding"])
    assert embeddings[0].shape == (1, 256) and np.ptp(embeddings[0]) > 0
    assert np.array_equal(*embeddings)
    assert "LOAD REPORT" not in caplog.text


def test_missing_weights_are_named_for_embeddings(tiny_checkpoint):
    assert has_classes(load_classifier(tiny_checkpoint, needs_classes=False)[0])
    path = tiny_checkpoint / "model.safetensors"
    weights = load_file(path)
    del weights["sanet.pooling.score.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"no weights for sanet\.pooling\.score\.weight"):
        load_classifier(tiny_checkpoint, needs_classes=False)


@pytest.mark.parametrize("part", [0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_an_error(tiny_checkpoint, part):
    path = tiny_checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=str(tiny_checkpoint)):
        load_classifier(tiny_checkpoint)


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_pickle(thing: object, path: Path) -> None:
    with open(path, "wb") as file:
        pickle.dump(thing, file, protocol=2)


@pytest.mark.parametrize("save", [save_pickle, torch.save], ids=["pickle", "torch.save"])
def test_pickles_run_no_code(tiny_checkpoint, tmp_path, save):
    trace = tmp_path / "trace"
    weights = load_file(tiny_checkpoint / "model.safetensors")
    (tiny_checkpoint / "model.safetensors").unlink()
    save({**weights, "more": Malicious(trace)}, tiny_checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle with objects other than tensors"):
        load_classifier(tiny_checkpoint)
    with pytest.raises(ValueError, match="cannot be read as a PyTorch checkpoint of only tensors"):
        convert_original_checkpoint(tiny_checkpoint / "pytorch_model.bin")
    assert not trace.exists()
    # An ordinary load runs the code, so this test can fail.
    pickle.loads(pickle.dumps(Malicious(trace)))
    assert trace.exists()


def test_configuration_keeps_extra_values():
    """Extra names are kept, as in all configurations of transformers."""
    assert SANetConfig(note="mine").note == "mine"
