# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fixtures of this folder: the package of transformers' common tests, a tiny model, and entries in transformers' tables
as for its own models.
"""

import sys
from pathlib import Path

import pytest
import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from sanet_hf import SANetConfig, SANetForAudioClassification, SANetModel


# pytest's importlib mode does not change sys.path. Without this, the package next to this file is not found.
sys.path.append(str(Path(__file__).parent))
# Some of its modules are named test_*.py, but contain no tests to collect.
collect_ignore = ["transformers_common_tests"]


def pytest_configure(config):
    for name in (
        "accelerate_tests",
        "flash_attn_3_test",
        "flash_attn_4_test",
        "flash_attn_test",
        "is_pipeline_test",
        "torch_compile_test",
    ):
        config.addinivalue_line("markers", f"{name}: of transformers' common tests")


@pytest.fixture
def tiny_config_kwargs() -> dict:
    """Return the sizes of a SANet of two stages, with attention after the second, for clips of up to 1024 samples."""
    return {
        "conv_dim": [16, 32],
        "conv_kernel": [8, 4],
        "conv_stride": [4, 2],
        "se_reduction": 4,
        "attention_after": [1],
        "attention_dim": [32],
        "attention_stride": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pool_hidden_size": 8,
        "classifier_hidden_sizes": [16],
    }


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: more do not speed up a tiny model, and cost seconds if other processes run."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def names_in_transformers_tables(monkeypatch):
    """
    Add SANet to transformers' own tables, where the common tests look up classes by name. Registration does not change
    these tables. Without the entries, the tests treat the base model as a head and make no labels for the classifier.
    """
    monkeypatch.setitem(MODEL_MAPPING_NAMES, SANetConfig.model_type, SANetModel.__name__)
    monkeypatch.setitem(
        MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, SANetConfig.model_type, SANetForAudioClassification.__name__
    )
