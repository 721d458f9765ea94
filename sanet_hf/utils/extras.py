# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Packages that only some commands need."""

from collections.abc import Sequence
from importlib.util import find_spec

from sanet_hf.errors import SanetError


class MissingPackageError(ImportError, SanetError):
    """A package of an optional dependency group is not installed; the message says how to install it."""


def require(packages: str | Sequence[str], extra: str) -> None:
    """
    Check that packages are installed before they are imported.

    Args:
        packages: Import names of top-level packages, such as `sklearn`.
        extra: Optional dependency group of sanet-hf that installs them, such as `train`.

    Raises:
        MissingPackageError: At least one package is not installed.
    """
    packages = [packages] if isinstance(packages, str) else packages
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise MissingPackageError(
            f'{", ".join(missing)} {are} not installed. Run: pip install "sanet-hf[{extra}]"',
            name=missing[0],
        )
