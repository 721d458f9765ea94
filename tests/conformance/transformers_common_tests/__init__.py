# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The common tests of transformers as a package.

The wheel of transformers has no tests, but its sdist has the common mixins. Importing this package downloads the sdist
of the installed version once, keeps its test modules in a cache folder, and adds that folder to the package's path.
Then `from transformers_common_tests.test_modeling_common import ModelTesterMixin` works. The mixins import a few names
from test folders that the sdist lacks. The modules next to this file replace those.

Without a network, the import skips the importing test module. If CI is set, it fails.
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
    """Return the folder with the test modules of the installed transformers. Download it if it is not cached."""
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
                # Another process may have created it in the meantime.
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

# Two modules import transformers from a source tree, which does not exist here. One reads the list of tiny models on
# the Hub at import; `tiny_models` replaces it.
with (
    mock.patch("transformers.utils.direct_transformers_import", return_value=transformers),
    mock.patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=str(Path(__file__).parent / "tiny_models")),
):
    from . import test_configuration_common, test_pipeline_mixin  # noqa: F401
