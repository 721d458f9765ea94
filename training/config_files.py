# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""YAML configurations: the files shipped with the package, and options that are mappings or lists."""

from pathlib import Path

import yaml

from sanet_hf.errors import UsageError


def find_config(name: str) -> Path:
    """
    Return the path of a YAML file: a path, or the name of a shipped file, with or without `.yaml`.

    Raises:
        UsageError: No such file.
    """
    if Path(name).is_file():
        return Path(name)
    for path in shipped_configs():
        if name in (path.name, path.stem):
            return path
    raise UsageError(
        f"{name}: configuration file not found. The files shipped with sanet-hf are: "
        f"{', '.join(path.name for path in shipped_configs())}."
    )


def shipped_configs() -> list[Path]:
    """Return the YAML files that are shipped with the package."""
    # In a checkout configs/ is beside this package, in a wheel inside it.
    package = Path(__file__).parent
    return sorted([*package.glob("configs/*.yaml"), *package.parent.glob("configs/*.yaml")])


def parse_config_overrides(overrides: str | None) -> dict:
    """
    Parse `"conv_dim=[8,16],se_reduction=4"`, or the same as a YAML or JSON mapping. Return a dict.

    Raises:
        UsageError: The text has neither form.
    """
    if not overrides:
        return {}
    text = overrides.strip()
    # YAML raises a ValueError for an invalid date such as 2026-13-01.
    try:
        values = yaml.safe_load(text if text.startswith("{") else "{" + text.replace("=", ": ") + "}")
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f'--config_overrides {overrides!r} is not of the form "name=value,name=value".') from error
    return values


def parse_augmentations(augmentations: str | list | None) -> list:
    """
    Return the list of transforms in an option such as `augmentations`.

    Raises:
        UsageError: The option is not a list.
    """
    if augmentations is None or augmentations in ("", "none"):
        return []
    try:
        transforms = yaml.safe_load(augmentations) if isinstance(augmentations, str) else augmentations
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--augmentations {augmentations!r} cannot be read as YAML or JSON: {error}") from error
    if not isinstance(transforms, list):
        raise UsageError(f"--augmentations {augmentations!r} is not a list of transforms.")
    return transforms
