# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors with a message for the user. The `sanet` command prints them in one line, and other errors as a bug."""


class SanetError(ValueError):
    """Base class of errors whose message says what is wrong and what to do."""


class AudioError(SanetError):
    """A file that cannot be used as audio; the message names it and says why."""


class UsageError(SanetError):
    """Wrong use of a command or function; the message says what to do."""


class DataError(SanetError):
    """Recordings or files that cannot be used; the message names them and says what to do."""


class ExportError(SanetError):
    """A model that cannot be exported, or an exported file whose results differ; the message says which."""


class TrainingTerminated(SanetError):
    """SIGTERM stopped training after a checkpoint was saved."""
