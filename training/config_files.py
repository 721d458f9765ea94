# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""YAML configurations: those that come with the package, and options that are mappings or lists."""

from pathlib import Path

import yaml

from sanet_hf.errors import UsageError


def find_config(name: str) -> Path:
    """A YAML file by its path, or one that comes with the package by its bare name, with or without `.yaml`."""
    if Path(name).is_file():
        return Path(name)
    for path in shipped_configs():
        if name in (path.name, path.stem):
            return path
    raise UsageError(
        f"{name}: there is no such configuration file, and none of that name comes with sanet-hf "
        f"({', '.join(path.name for path in shipped_configs())})."
    )


def shipped_configs() -> list[Path]:
    """The YAML files that come with the package."""
    # In a checkout configs/ stands beside this package, in a wheel inside it.
    package = Path(__file__).parent
    return sorted([*package.glob("configs/*.yaml"), *package.parent.glob("configs/*.yaml")])


def parse_config_overrides(overrides: str | None) -> dict:
    """
    `"conv_dim=[8,16],se_reduction=4"`, or the same as a YAML or JSON mapping, as a dict.

    Raises:
        UsageError: It is neither.
    """
    if not overrides:
        return {}
    text = overrides.strip()
    # YAML raises a ValueError for what looks like a date but is none.
    try:
        values = yaml.safe_load(text if text.startswith("{") else "{" + text.replace("=", ": ") + "}")
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f'--config_overrides {overrides!r} is not of the form "name=value,name=value".') from error
    return values


def parse_augmentations(augmentations: str | list | None) -> list:
    """
    The list of transforms in an option such as `augmentations`.

    Raises:
        UsageError: It is no list.
    """
    if augmentations is None or augmentations in ("", "none"):
        return []
    try:
        transforms = yaml.safe_load(augmentations) if isinstance(augmentations, str) else augmentations
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--augmentations {augmentations!r} cannot be read as YAML or JSON: {error}") from error
    if not isinstance(transforms, list):
        raise UsageError(f"--augmentations {augmentations!r} is no list of transforms.")
    return transforms
