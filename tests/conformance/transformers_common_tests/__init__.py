# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
transformers' common tests, as a package.

transformers' wheel has no tests, but its sdist has the common mixins. Importing this package downloads the sdist of
the installed version once, keeps its test modules in a cache folder, and adds that folder to the package's path, so
that `from transformers_common_tests.test_modeling_common import ModelTesterMixin` works. The mixins import a little
from test folders that the sdist lacks; the modules beside this file stand in for those.

Without a network, the import skips the test module that asked for it, or fails it where CI is set.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import transformers


def common_tests_folder() -> Path:
    """The folder of the installed transformers version's test modules; downloaded if it is not in the cache."""
    version = transformers.__version__
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sanet-hf"
    target = cache / f"transformers-{version}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            pip_download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformers"]
            options = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--dest", folder]
            subprocess.run([*pip_download, *options, f"transformers=={version}"], check=True, capture_output=True)
            unpacked = Path(folder) / "unpacked"
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as sdist:
                members = [member for member in sdist if Path(member.name).match("transformers-*/tests/*.py")]
                sdist.extractall(unpacked, members, filter="data")
            try:
                next(unpacked.iterdir()).rename(target)
            except OSError:
                # Another process was faster.
                if not target.is_dir():
                    raise
    return target / "tests"


try:
    __path__.append(str(common_tests_folder()))
except subprocess.CalledProcessError as error:
    reason = f"transformers' sdist, which has the common tests, could not be downloaded: {error.stderr.decode()}"
    if os.environ.get("CI"):
        raise pytest.fail.Exception(reason, pytrace=False) from None
    raise pytest.skip.Exception(reason, allow_module_level=True) from None

# Two modules import transformers from the source tree around them, which is not there. One reads at import which tiny
# models are on the Hub; `tiny_models` stands in for them.
with (
    mock.patch("transformers.utils.direct_transformers_import", return_value=transformers),
    mock.patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=str(Path(__file__).parent / "tiny_models")),
):
    from . import test_configuration_common, test_pipeline_mixin  # noqa: F401
