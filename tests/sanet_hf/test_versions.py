# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Ranges of supported versions."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from sanet_hf.versions import TESTED_VERSIONS


PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", TESTED_VERSIONS)
def test_tested_versions_are_the_ends_of_the_allowed_range(name):
    (requirement,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name]
    oldest, newest = map(Version, TESTED_VERSIONS[name])
    (lower,) = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
    assert lower == oldest < newest
    assert newest in requirement.specifier
