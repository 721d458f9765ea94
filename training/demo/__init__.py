# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo: a small speech dataset and a model trained on it."""
