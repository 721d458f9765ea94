# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pretrained networks without classes that are shipped with sanet-hf.

    from sanet_hf import SANetModel
    from sanet_hf.pretrained import find_model

    model = SANetModel.from_pretrained(find_model("sanet-tiny"))
"""

from pathlib import Path


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
    """
    is_here = (Path(name) / "config.json").is_file()
    return str(FOLDER / name) if name in model_names() and not is_here else name
