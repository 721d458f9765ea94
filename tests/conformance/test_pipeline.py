# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Run transformers' `PipelineTesterMixin` on SANet."""

import unittest

import pytest
from transformers_common_tests import test_pipeline_mixin
from transformers_common_tests.test_pipeline_mixin import PipelineTesterMixin

import sanet_hf
from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification


class SANetPipelineTest(PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = {"audio-classification": SANetForAudioClassification}

    @pytest.fixture(autouse=True)
    def tiny_model(self, tiny_config_kwargs, tmp_path, monkeypatch):
        """Write a checkpoint to the folder in which the mixin looks for the tiny models of the Hub."""
        config = SANetConfig(**tiny_config_kwargs, num_labels=3)
        folder = tmp_path / config.model_type / SANetForAudioClassification.__name__
        SANetForAudioClassification(config).save_pretrained(folder)
        SANetFeatureExtractor(max_length=config.max_input_samples).save_pretrained(folder)
        monkeypatch.setattr(test_pipeline_mixin, "TRANSFORMERS_TINY_MODEL_PATH", str(tmp_path))
        monkeypatch.setattr(test_pipeline_mixin, "transformers_module", sanet_hf)
        monkeypatch.setitem(
            test_pipeline_mixin.pipeline_test_mapping,
            "audio-classification",
            {
                "test": "transformers_common_tests.pipelines.test_pipelines_audio_classification"
                ".AudioClassificationPipelineTests"
            },
        )

    def skipTest(self, reason):
        # The mixin skips the test if it cannot load the checkpoint. Here that is a fault.
        if self._testMethodName.startswith("test_pipeline_audio_classification"):
            self.fail(reason)
        super().skipTest(reason)
