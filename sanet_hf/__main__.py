# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m sanet_hf` is the `sanet` command."""

import sys

from sanet_hf.cli.main import main


sys.exit(main())
