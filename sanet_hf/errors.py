# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors with a message for the user. The `sanet` command reports them in one line, and any other as a bug."""


class SanetError(ValueError):
    """Base class of the errors whose message tells the user what is wrong and what to do."""


class AudioError(SanetError):
    """A file that cannot be used as audio; the message names it and says why."""


class UsageError(SanetError):
    """A mistake in how a command or function was called; the message says what to do."""


class DataError(SanetError):
    """Recordings or files that cannot be used; the message names them and says what to do."""


class ExportError(SanetError):
    """A model that cannot be exported, or an exported file that gives other results; the message says which."""


class TrainingTerminated(SanetError):
    """SIGTERM ended a training, which saved what it needs to resume."""
