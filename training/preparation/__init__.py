# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Raw recordings to clips: `sanet prepare` and `sanet check`."""
