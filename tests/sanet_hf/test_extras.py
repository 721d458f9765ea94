# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Packages that only some commands need."""

import sys

import pytest

from sanet_hf.utils.extras import MissingPackageError, require


def test_installed_packages_pass():
    require("torch", "train")
    require(["numpy", "transformers"], "train")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ("none_such", 'none_such is not installed. Run: pip install "sanet-hf[plot]"'),
        (["torch", "one", "two"], 'one, two are not installed. Run: pip install "sanet-hf[plot]"'),
    ],
)
def test_a_missing_package_is_one_sentence_that_names_the_extra(packages, message):
    with pytest.raises(MissingPackageError) as error:
        require(packages, "plot")
    assert str(error.value) == message


def test_a_package_that_was_imported_and_removed_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="matplotlib"):
        require("matplotlib", "plot")
