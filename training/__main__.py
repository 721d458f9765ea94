# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m training` is the `sanet` command."""

import sys

from .cli import main


sys.exit(main())
