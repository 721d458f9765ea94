# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Run the core tests with the oldest and the newest versions that pyproject.toml allows: `make test-versions`.

Each set of versions has its own environment in build/versions. An environment is kept until its requirements change.
Two environments with PyTorch for CUDA need 15 GB. The script prints a table of versions and results at the end. The
full output of each set is in build/versions/NAME.log.

    python tests/versions/check.py [oldest] [newest]
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path


ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "versions"

# Model, masks, Auto classes, pipeline, remote code, export, and a short training with evaluation and predictions.
TESTS = [
    "tests/sanet_hf/test_auto.py",
    "tests/sanet_hf/test_configuration.py",
    "tests/sanet_hf/test_convert.py",
    "tests/sanet_hf/export/test_formats.py",
    "tests/sanet_hf/test_feature_extraction.py",
    "tests/sanet_hf/test_masks.py",
    "tests/sanet_hf/test_modeling.py",
    "tests/training/test_cli.py",
    "tests/training/test_train.py",
]
# transformers' common tests. In older versions, they import test modules that the source distribution lacks.
NEWEST_TESTS = ["tests/conformance"]
EXTRAS = ("train", "formats", "plot", "prepare", "app", "onnx")
TEST_PACKAGES = ["hypothesis", "parameterized", "pytest", "setuptools>=77"]
SHOWN = ["torch", "torchaudio", "torchcodec", "transformers", "huggingface-hub", "accelerate", "datasets", "numpy"]

# A checkpoint saved with one set must load with the other, with the code in the checkpoint.
SAVE = """
import sys, torch, sanet_hf
torch.manual_seed(0)
config = sanet_hf.SANetConfig(conv_dim=(8, 16), conv_kernel=(8, 3), conv_stride=(4, 1), attention_after=(1,),
    attention_dim=(16,), num_attention_heads=2, se_reduction=4, num_labels=3)
model = sanet_hf.SANetForAudioClassification(config).eval()
model.save_pretrained(sys.argv[1])
sanet_hf.SANetFeatureExtractor(max_length=8000).save_pretrained(sys.argv[1])
clip = torch.sin(torch.arange(8000) * 0.1)[None]
torch.save((clip, model(clip).logits.detach()), sys.argv[1] + "/expected.pt")
"""
LOAD = """
import sys, torch
sys.modules["sanet_hf"] = None
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
clip, expected = torch.load(sys.argv[1] + "/expected.pt", weights_only=True)
torch.testing.assert_close(model(clip).logits, expected, atol=1e-5, rtol=0)
"""


def requirements(name: str) -> list[str]:
    """Return the requirements of the set `name` ("oldest" or "newest"), in pip's format."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    names = [requirement for group in groups for requirement in group if not requirement.startswith("sanet-hf")]
    return [requirement.replace(">=", "==") if name == "oldest" else requirement for requirement in names]


def make_environment(name: str) -> Path:
    """Make the environment of a set, unless it exists with the same requirements. Return its Python."""
    folder, wanted = BUILD / name, "\n".join(requirements(name))
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"Making the environment {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *TEST_PACKAGES, *wanted.split("\n")], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT]
    subprocess.run(install, check=True)
    return python


def run_tests(name: str, python: Path) -> dict[str, int]:
    """Run the core tests in an environment. Return the numbers of passed, failed and skipped tests."""
    tests = TESTS + NEWEST_TESTS if name == "newest" else TESTS
    log = BUILD / f"{name}.log"
    with open(log, "wb") as file:
        command = [python, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", *tests]
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    summary = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1]
    counts = {outcome: int(count) for count, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    # Without a summary, pytest itself failed.
    return {
        "passed": counts.get("passed", 0),
        "failed": failed or int(status != 0),
        "skipped": counts.get("skipped", 0),
    }


def loads_checkpoint_of(python: Path, other: Path, folder: Path) -> bool:
    """Return whether a checkpoint saved by `other` gives the same logits in `python`, with the checkpoint's code."""
    subprocess.run([other, "-c", SAVE, folder], check=True, cwd=BUILD, stderr=subprocess.DEVNULL)
    result = subprocess.run([python, "-c", LOAD, folder], cwd=BUILD, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        print(result.stderr)
    return result.returncode == 0


def versions(python: Path) -> dict[str, str]:
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    output = subprocess.run([python, "-c", code, *SHOWN], check=True, capture_output=True, text=True).stdout
    return dict(zip(SHOWN, output.split()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["oldest", "newest"], metavar="SET")
    sets = parser.parse_args().sets
    BUILD.mkdir(parents=True, exist_ok=True)
    pythons = {name: make_environment(name) for name in sets}
    columns = {}
    for name, python in pythons.items():
        print(f"Testing {name}: build/versions/{name}.log")
        columns[name] = {**versions(python), **run_tests(name, python)}
        for other in sets:
            loads = loads_checkpoint_of(python, pythons[other], BUILD / f"checkpoint_{other}")
            columns[name][f"loads the checkpoint of {other}"] = "yes" if loads else "no"
            columns[name]["failed"] += not loads
    print("\n| |", " | ".join(sets), "|")
    print("| --- " * (1 + len(sets)) + "|")
    for row in columns[sets[0]]:
        print(f"| {row} |", " | ".join(str(columns[name][row]) for name in sets), "|")
    return int(any(column["failed"] for column in columns.values()))


if __name__ == "__main__":
    sys.exit(main())
