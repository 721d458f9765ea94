# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Run transformers' `SequenceFeatureExtractionTestMixin` on SANet."""

import unittest

import numpy as np
from transformers_common_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from sanet_hf import SANetFeatureExtractor


class SANetFeatureExtractionTester:
    """Give the mixin the extractor's arguments and clips of increasing length."""

    batch_size = 5
    feature_size = 1
    min_seq_length = 400
    max_seq_length = 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self) -> dict:
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 8000,
            "padding_value": 0.0,
            "max_length": 1600,
            "do_normalize": False,
            "target_rms": 0.2,
            "return_attention_mask": False,
        }

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        rng = np.random.default_rng(0)
        lengths = [self.min_seq_length + index * self.seq_length_diff for index in range(self.batch_size)]
        clips = [rng.normal(size=self.max_seq_length if equal_length else length) for length in lengths]
        return clips if numpify else [clip.tolist() for clip in clips]


class SANetFeatureExtractionTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = SANetFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = SANetFeatureExtractionTester()
