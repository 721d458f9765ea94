# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepare clips from raw recordings: `sanet prepare` and `sanet check`."""
