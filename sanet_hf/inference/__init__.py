# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classify, embed and explain recordings of any length with a trained model."""
