# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The structure of the code: rules for imports and the length of modules."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGES = {"sanet_hf": ROOT / "sanet_hf", "sanet_hf.training": ROOT / "training"}
MAX_LINES = 450
MAX_LAYERS = 9
REMOTE_CODE = (
    "batchnorm_sanet",
    "configuration_sanet",
    "feature_extraction_sanet",
    "layers_sanet",
    "modeling_sanet",
    "pooling_sanet",
    "spectrogram_sanet",
)


def _list_modules() -> dict[str, Path]:
    modules = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


MODULES = _list_modules()


def _imports(module: str) -> set[str]:
    """Return the modules of the project that a module imports, including imports in functions."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found & MODULES.keys() - {module}


IMPORTS = {module: _imports(module) for module in MODULES}


def _layer(module: str, importers: tuple[str, ...] = ()) -> int:
    assert module not in importers, f"circular imports: {' -> '.join([*importers, module])}"
    return 1 + max((_layer(imported, (*importers, module)) for imported in IMPORTS[module]), default=0)


def test_imports_form_few_layers_without_cycles():
    layers = {module: _layer(module) for module in MODULES}
    assert layers["sanet_hf.cli.main"] > 4  # fails if the imports are not found
    too_high = {module: layer for module, layer in layers.items() if layer > MAX_LAYERS}
    assert not too_high


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("sanet_hf.training")])
def test_inference_does_not_import_training(module):
    """Only the command line imports both."""
    if not module.startswith(("sanet_hf.cli", "sanet_hf.__main__")):
        assert not [name for name in IMPORTS[module] if name.startswith("sanet_hf.training")]


def test_remote_code_imports_only_its_siblings():
    """These files are copied into checkpoints."""
    siblings = {f"sanet_hf.{name}" for name in REMOTE_CODE}
    for module in siblings:
        assert IMPORTS[module] <= siblings


def test_no_module_is_long():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {module: length for module, length in lengths.items() if length > MAX_LINES}
    assert lengths["sanet_hf.modeling_sanet"] < MAX_LINES
