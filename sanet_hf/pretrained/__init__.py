# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pretrained networks without classes that are shipped with sanet-hf.

    from sanet_hf import SANetModel
    from sanet_hf.pretrained import find_model

    model = SANetModel.from_pretrained(find_model("sanet-tiny"))
"""

from pathlib import Path

from sanet_hf.errors import UsageError
from sanet_hf.utils.formatting import shorten


FOLDER = Path(__file__).parent
# Default network for training.
DEFAULT = "sanet-tiny"


def model_names() -> list[str]:
    """Return the names of the networks that are shipped with sanet-hf."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find_model(name: str) -> str:
    """
    Return the folder of a network that is shipped with sanet-hf. Other names, and those of models in the working
    directory, are returned unchanged.

    Raises:
        UsageError: `name` does not exist, but models beside it do. It is a typing error rather than a Hub id.
    """
    path = Path(name)
    if name in model_names() and not (path / "config.json").is_file():
        return str(FOLDER / name)
    if not path.exists() and path.parent != Path() and (siblings := models_below(str(path.parent))):
        raise UsageError(f"{name}: no such folder. Models in {path.parent}: {shorten(siblings)}.")
    return name


def models_below(name: str) -> list[str]:
    """Return the model folders in a folder, such as that of a cross-validation."""
    return sorted(str(path.parent) for path in Path(name).glob("*/config.json"))
