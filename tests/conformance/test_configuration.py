# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Run transformers' `ConfigTester` on SANet."""

import unittest

import pytest
from transformers_common_tests.test_configuration_common import ConfigTester

from sanet_hf import SANetConfig


@pytest.mark.parametrize(
    "check", [name for name in dir(ConfigTester) if name.startswith(("create_and_test", "check"))]
)
def test_configuration(check, tiny_config_kwargs):
    tester = ConfigTester(unittest.TestCase(), config_class=SANetConfig, has_text_modality=False, **tiny_config_kwargs)
    getattr(tester, check)()
