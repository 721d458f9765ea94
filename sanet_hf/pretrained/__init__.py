# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Networks that come with sanet-hf, pretrained without the classes of anyone.

    from sanet_hf import SANetModel
    from sanet_hf.pretrained import find_model

    model = SANetModel.from_pretrained(find_model("sanet-tiny"))
"""

from pathlib import Path


FOLDER = Path(__file__).parent
# The one that a training starts from where nobody names another.
DEFAULT = "sanet-tiny"


def model_names() -> list[str]:
    """Names of the networks that come with sanet-hf."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find_model(name: str) -> str:
    """
    Return the folder of a network that comes with sanet-hf. Any other name, and that of a model in the working
    directory, is returned as it is.
    """
    is_here = (Path(name) / "config.json").is_file()
    return str(FOLDER / name) if name in model_names() and not is_here else name
