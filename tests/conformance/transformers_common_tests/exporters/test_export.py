# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Replace the mixin that runs transformers' exporters on a model. `ModelTesterMixin` extends it. The sdist lacks it, and
it needs the dependencies of all exporters.
"""


class ExportTesterMixin:
    """No tests."""
