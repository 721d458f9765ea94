# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Replace the tests of text generation. `ModelTesterMixin` requires them only of generative models."""


class GenerationTesterMixin:
    """No tests."""
