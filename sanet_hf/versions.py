# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Versions of the libraries that the code in checkpoints was tested with."""

# The oldest and the newest that `make test-versions` ran with. The oldest are the bounds in pyproject.toml.
TESTED_VERSIONS = {"torch": ("2.8.0", "2.14.1"), "transformers": ("5.0.0", "5.24.0")}
