# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for the tests of text generation, which `ModelTesterMixin` requires of models that generate only."""


class GenerationTesterMixin:
    """No tests."""
