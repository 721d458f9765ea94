# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of this folder: weights and clips from formulas, a tiny and a full-size model."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors import safe_open

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification, convert_original_checkpoint


DATA = Path(__file__).parents[1] / "data"

# Three stages with an even and two odd kernels, attention after the second stage; clips up to 8000 samples.
TINY = {
    "conv_dim": (8, 16, 16),
    "conv_kernel": (8, 5, 3),
    "conv_stride": (4, 2, 1),
    "se_reduction": 4,
    "attention_after": (1,),
    "attention_dim": (16,),
    "attention_stride": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 500,
    "pool_hidden_size": 8,
    "classifier_hidden_sizes": (16,),
    "num_labels": 3,
}

# Use the same examples in every run, so that failures are reproducible.
settings.register_profile("sanet_hf", derandomize=True, deadline=None, print_blob=True, database=None)
settings.load_profile("sanet_hf")


def formula_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """
    Return the tensor of this name that was used to compute the expected outputs of the original; see test_parity.py.

    Initial weights give logits of about 1e-3, which hide errors. These weights give logits of about 1, and BatchNorm
    statistics that are not the identity.
    """
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    values = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * abs(values)
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif len(shape) == 1:
        values = 1 + 0.1 * values if name.endswith("weight") else 0.05 * values
    elif name.endswith(("pos_embed", "position_embedding.weight")):
        values = 0.02 * values
    else:
        values = 1.7 * values / np.sqrt(np.prod(shape[1:]))
    return torch.tensor(values, dtype=torch.float32)


@pytest.fixture(scope="session")
def make_waveforms() -> Callable[[int, int], torch.Tensor]:
    """Return a function that makes clips of shape (batch, samples): rising tones of different pitch in noise."""

    def make(batch_size: int, length: int) -> torch.Tensor:
        rng = np.random.RandomState(1000)
        time = np.arange(length) / 16000
        clips = [
            0.3 * np.sin(2 * np.pi * 110 * 2 ** (0.7 * index) * time * (1 + 0.1 * time))
            + 0.05 * rng.standard_normal(length)
            for index in range(batch_size)
        ]
        return torch.tensor(np.stack(clips), dtype=torch.float32)

    return make


@pytest.fixture(scope="session")
def parity() -> tuple[dict[str, torch.Tensor], dict[str, list]]:
    """Return the outputs of the original network by name, and `state_dict` (names and shapes) and `grad_order`."""
    with safe_open(DATA / "parity.safetensors", framework="pt") as file:
        metadata = file.metadata()
        return (
            {name: file.get_tensor(name) for name in file.keys()},
            {name: json.loads(metadata[name]) for name in ("state_dict", "grad_order")},
        )


@pytest.fixture(scope="session")
def original_state_dict(parity) -> dict[str, torch.Tensor]:
    """Return the state dict of the full-size original network with 10 classes."""
    return {name: formula_tensor(name, tuple(shape)) for name, shape in parity[1]["state_dict"].items()}


@pytest.fixture(scope="session")
def full_size_model(original_state_dict) -> SANetForAudioClassification:
    """Return the default architecture in evaluation mode. All tests share it, so copy it before changing it."""
    return convert_original_checkpoint(original_state_dict)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SANetForAudioClassification]:
    """Return a function that makes a tiny model with formula weights, in evaluation mode. Arguments override TINY."""

    def make(**config_kwargs) -> SANetForAudioClassification:
        model = SANetForAudioClassification(SANetConfig(**TINY | config_kwargs)).eval()
        model.load_state_dict(
            {name: formula_tensor(name, tuple(value.shape)) for name, value in model.state_dict().items()}
        )
        return model

    return make


@pytest.fixture
def tiny_config_kwargs() -> dict:
    return dict(TINY)


@pytest.fixture
def tiny_model(make_model) -> SANetForAudioClassification:
    return make_model()


@pytest.fixture
def tiny_checkpoint(make_model, tmp_path) -> Path:
    """Return a folder with a tiny model of three named classes and a feature extractor."""
    id2label = {0: "cat", 1: "dog", 2: "owl"}
    folder = tmp_path / "tiny_checkpoint"
    make_model(id2label=id2label, label2id={label: index for index, label in id2label.items()}).save_pretrained(folder)
    SANetFeatureExtractor(max_length=8000).save_pretrained(folder)
    return folder
