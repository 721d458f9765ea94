# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Replace the table of arguments that every configuration supports, with values other than the defaults. `ConfigTester`
checks that a configuration keeps them.
"""

config_common_kwargs = {
    "architectures": ["SANetForAudioClassification"],
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 3,
    "is_encoder_decoder": True,
    "id2label": {0: "low", 1: "high", 2: "none"},
    "label2id": {"low": 0, "high": 1, "none": 2},
    "problem_type": "multi_label_classification",
    "name_or_path": "some/where",
}
