# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Atomic writing: a file gets its name when it is complete."""

from contextlib import suppress
from pathlib import Path

import pytest

from sanet_hf.utils.files import write_atomically


@pytest.mark.parametrize("temporary", [None, "elsewhere"])
@pytest.mark.parametrize("was_there", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_write_atomically(tmp_path: Path, temporary, was_there, fails):
    path = tmp_path / "folder" / "file"
    if was_there:
        path.parent.mkdir()
        path.write_bytes(b"old")
    with suppress(ZeroDivisionError), write_atomically(path, temporary and tmp_path / temporary) as file:
        file.write(b"new")
        file.flush()
        assert path.exists() == was_there and (not was_there or path.read_bytes() == b"old")
        if fails:
            raise ZeroDivisionError
    contents = {
        found.relative_to(tmp_path).as_posix(): found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()
    }
    assert contents == ({"folder/file": b"old" if fails else b"new"} if was_there or not fails else {})
