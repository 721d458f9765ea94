# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Run transformers' `ModelTesterMixin` on SANet."""

import copy
import unittest

import pytest
import torch
from transformers.testing_utils import torch_device
from transformers_common_tests.test_modeling_common import ModelTesterMixin

from sanet_hf import SANetConfig, SANetForAudioClassification, SANetModel


# Prefixes of test names. Without an entry, these tests fail, pass without testing anything, or skip themselves for a
# wrong reason.
NOT_APPLICABLE = {
    "test_model_get_set_embeddings": "The input is a waveform: there are no token embeddings.",
    "test_resize_tokens_embeddings": "The input is a waveform: there are no token embeddings.",
    "test_resize_embeddings_untied": "The input is a waveform: there are no token embeddings.",
    "test_enable_input_require_grads_with_gradient_checkpointing": "It follows the gradient of token embeddings.",
    "test_resize_position_vector_embeddings": "SANet does not implement resize_position_embeddings.",
    "test_get_": "There are no get_text_features, get_image_features, get_audio_features, get_video_features methods.",
    "test_sdpa_can_dispatch_composite_models": "SANet is one model, not a composite of several.",
    "test_torch_compile_for_training": "It feeds token ids to a language model.",
}

# These tests skip themselves if they find nothing to test. For SANet that is a fault.
MUST_NOT_SKIP = (
    "test_can_init_all_missing_weights",
    "test_can_load_ignoring_mismatched_shapes",
    "test_sdpa_can_dispatch_non_composite_models",
)


class SANetModelTester:
    """Give the mixin a configuration, inputs and the sizes of the outputs."""

    is_training = True
    batch_size = 4
    # Not a multiple of the total stride, so that the last merged frame is incomplete.
    num_samples = 120
    # Merged frames, as in the attention probabilities.
    seq_length = 8

    def __init__(self, config_kwargs: dict):
        self.config_kwargs = config_kwargs
        config = self.get_config()
        self.num_attention_heads = config.num_attention_heads
        # The mixin expects `num_hidden_layers` attentions and `expected_num_hidden_layers` hidden states.
        self.num_hidden_layers = len(config.attention_after)
        self.expected_num_hidden_layers = config.num_hidden_layers

    def get_config(self) -> SANetConfig:
        return SANetConfig(**self.config_kwargs)

    def prepare_config_and_inputs_for_common(self) -> tuple[SANetConfig, dict]:
        lengths = torch.tensor([self.num_samples - 50, self.num_samples, 1, self.num_samples - 1])
        inputs = {
            "input_values": torch.rand(self.batch_size, self.num_samples) * 2 - 1,
            "attention_mask": (torch.arange(self.num_samples) < lengths.unsqueeze(1)).long(),
        }
        return self.get_config(), {name: tensor.to(torch_device) for name, tensor in inputs.items()}


class SANetModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SANetModel, SANetForAudioClassification)

    @pytest.fixture(autouse=True)
    def set_model_tester(self, tiny_config_kwargs):
        self.model_tester = SANetModelTester(tiny_config_kwargs)

    def setUp(self):
        for name, reason in NOT_APPLICABLE.items():
            if self._testMethodName.startswith(name):
                self.skipTest(reason)

    def skipTest(self, reason):
        if self._testMethodName in MUST_NOT_SKIP:
            self.fail(reason)
        super().skipTest(reason)

    def test_hidden_states_output(self):
        # The mixin expects the first hidden state to be as long as the attentions.
        config = self.model_tester.get_config()
        self.model_tester.seq_length = self.model_tester.num_samples // config.conv_stride[0]
        self.model_tester.hidden_size = config.conv_dim[0]
        super().test_hidden_states_output()

    @staticmethod
    def _prepare_config_headdim(config, requested_dim):
        # The mixin widens hidden_size. Here it follows from conv_dim and is not the width of the attention.
        config = copy.deepcopy(config)
        config.attention_dim = tuple(
            max(width, requested_dim * config.num_attention_heads) for width in config.attention_dim
        )
        return config
