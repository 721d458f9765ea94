# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' `ModelTesterMixin` on SANet."""

import unittest

import pytest
import torch
from transformers.testing_utils import torch_device
from transformers_common_tests.test_modeling_common import ModelTesterMixin

from sanet_hf import SANetConfig, SANetForAudioClassification, SANetModel


class SANetModelTester:
    """What the mixin asks of a tester: a configuration, inputs, and the sizes that come out."""

    is_training = True
    batch_size = 4
    # Not a multiple of the total stride, so that the model pads it: to 128 samples.
    num_samples = 120
    # Merged frames, which the attention probabilities have.
    seq_length = 8

    def __init__(self, config_kwargs: dict):
        self.config_kwargs = config_kwargs
        config = self.get_config()
        self.num_attention_heads = config.num_attention_heads
        # Two counts: of attentions, and of hidden states.
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

    def test_hidden_states_output(self):
        # The test takes the first hidden state to be as long as the attentions.
        self.model_tester.seq_length = 32
        self.model_tester.hidden_size = self.model_tester.get_config().conv_dim[0]
        super().test_hidden_states_output()

    @unittest.skip("SANet's input is a waveform: it has no token embeddings.")
    def test_model_get_set_embeddings(self):
        pass
