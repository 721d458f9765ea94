# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Library versions with which the code in checkpoints was tested."""

# Oldest and newest versions of `make test-versions`. The oldest are the lower bounds in pyproject.toml.
TESTED_VERSIONS = {"torch": ("2.8.0", "2.14.1"), "transformers": ("5.0.0", "5.24.0")}
