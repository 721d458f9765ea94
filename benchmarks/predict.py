# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure peak memory and speed of classifying a short and a long file, each in a separate process.

    python -m benchmarks.predict [--model runs/sanet] [--seconds 60 7200] [--suffix flac]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.prediction import predict
from sanet_hf.training.evaluation.costs import peak_memory


SAMPLING_RATE = 44100  # Hz, stereo


def write_recording(path: Path, seconds: int) -> None:
    """Write noise in blocks, with FFmpeg if soundfile does not support the format."""
    wav = path if path.suffix in (".wav", ".flac", ".ogg", ".mp3") else path.with_suffix(".flac")
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(wav, "w", SAMPLING_RATE, channels=2) as file:
        for _ in range(0, seconds, 10):
            file.write(0.1 * rng.standard_normal((10 * SAMPLING_RATE, 2), dtype=np.float32))
    if wav != path:
        subprocess.run(["ffmpeg", "-v", "error", "-i", wav, path], check=True)
        wav.unlink()


def classify(model: str, path: str) -> None:
    """Classify a file. Print the peak memory in MB, the elapsed seconds and the length of the file in seconds."""
    loaded = load_classifier(model, device="cpu")
    start = time.perf_counter()
    (prediction,) = predict(*loaded, [path])
    elapsed = time.perf_counter() - start
    print(peak_memory() / 2**20, elapsed, prediction.duration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: a SANet with random weights)")
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 7200])
    parser.add_argument("--suffix", default="flac", help="format of the files, such as flac, mp3 or m4a")
    parser.add_argument("--classify", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.classify:
        classify(arguments.model, arguments.classify)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = str(Path(folder, "model"))
            SANetForAudioClassification(SANetConfig(num_labels=10)).save_pretrained(model)
            SANetFeatureExtractor().save_pretrained(model)
        print(f"{'file':>12}{'peak memory':>16}{'time':>12}{'× real time':>16}")
        for seconds in arguments.seconds:
            path = Path(folder, f"{seconds}.{arguments.suffix}")
            write_recording(path, seconds)
            command = [sys.executable, "-m", "benchmarks.predict", "--model", model, "--classify", path]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            memory, elapsed, duration = map(float, output.split())
            print(
                f"{f'{duration:.0f} s':>12}{f'{memory:.0f} MB':>16}{f'{elapsed:.1f} s':>12}{duration / elapsed:16.0f}"
            )
            path.unlink()


if __name__ == "__main__":
    main()
