# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors that the commands report in one line."""


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says why."""


class UsageError(ValueError):
    """A mistake in how a command was called; the message says what to do."""


class DataError(ValueError):
    """Recordings that cannot be used; the message names them and says what to do."""


class ExportError(ValueError):
    """A model that cannot be exported, or an exported file that gives other results; the message says which."""
