# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Stands in for the mixin that runs transformers' exporters on a model, which `ModelTesterMixin` extends. The sdist lacks
it, and it needs all the exporters' dependencies.
"""


class ExportTesterMixin:
    """No tests."""
