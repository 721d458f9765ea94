# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Demo from data to predictions on a generated dataset: `make demo`, or `python -m sanet_hf.training.demo [FOLDER]`.

Generate a speech dataset of ten synthetic voices, train for three minutes, evaluate on new sentences, and run
`pipeline("audio-classification")` on a clip of each voice. `sanet train` chooses the network and the options.
"""

import argparse
import shlex
import shutil
import sys
import time
from pathlib import Path

from sanet_hf.cli.main import main as sanet
from sanet_hf.training.demo.speech import make_speech_dataset


def main() -> int:
    """Run the demo and return the exit code of its first command that fails, or 0."""
    parser = argparse.ArgumentParser(prog="python -m sanet_hf.training.demo", description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("demo"), help="for data and model (default: demo)"
    )
    parser.add_argument("--num_train", type=int, default=48, help="training clips per voice (default: 48)")
    parser.add_argument("--max_minutes", type=float, default=3.0, help="training time in minutes (default: 3)")
    arguments = parser.parse_args()
    start = time.monotonic()
    data_dir, model_dir = arguments.folder / "speech", arguments.folder / "model"

    print(f"1. Writing random sentences in ten voices to {data_dir}")
    make_speech_dataset(data_dir, num_train=arguments.num_train)
    print(f"\n2. Training for {arguments.max_minutes:g} minutes, with logistic regression as a baseline")
    shutil.rmtree(model_dir, ignore_errors=True)
    command = ["train", "--data_dir", str(data_dir), "--output_dir", str(model_dir)]
    command += ["--max_minutes", f"{arguments.max_minutes:g}"]
    print(f"$ sanet {shlex.join(command)}")
    if status := sanet(command):
        return status
    print('\n3. Running pipeline("audio-classification") on a test clip of each voice')
    _classify(data_dir / "test", model_dir)
    print(f"\nDone in {time.monotonic() - start:.0f} s. Next, with the recordings of each class in FOLDER/<class>/:")
    print("  . .venv/bin/activate")
    print("  sanet train --data_dir FOLDER --output_dir runs/sanet")
    print("  sanet predict runs/sanet CLIP.wav")
    return 0


def _classify(test_dir: Path, model_dir: Path) -> None:
    from transformers import pipeline

    import sanet_hf  # noqa: F401 (registers SANet)

    classifier = pipeline("audio-classification", model=str(model_dir))
    clips = [sorted(folder.glob("*.wav"))[0] for folder in sorted(test_dir.iterdir())]
    print(f"{'file':22}{'predicted':12}score")
    for clip, (best, *_) in zip(clips, classifier([str(clip) for clip in clips])):
        name = str(clip.relative_to(test_dir))
        remark = "" if best["label"] == clip.parent.name else "  wrong"
        print(f"{name:22}{best['label']:12}{best['score']:.3f}{remark}")


if __name__ == "__main__":
    sys.exit(main())
