# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of a trained model: metrics, intervals, comparison, costs."""
