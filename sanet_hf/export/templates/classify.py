"""Classify a WAV file with only numpy and onnxruntime: python classify.py clip.wav [model_int8.onnx]"""

import argparse
import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("clip")
parser.add_argument("model", nargs="?", default=Path(__file__).with_name("model.onnx"))
parser.add_argument("--min_score", "--threshold", type=float, help="minimum score of a predicted class")
arguments = parser.parse_args()
session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
options = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
sys.stderr.write("Denoise clips with noisereduce first, as in training.\n" * bool(options.get("denoised_training")))
try:
    file = wave.open(arguments.clip)
except (OSError, EOFError, wave.Error) as error:
    sys.exit(f"{arguments.clip}: not a readable WAV file ({error}).")
if (file.getsampwidth(), file.getframerate()) != (2, options["sampling_rate"]):
    sys.exit(f"{arguments.clip}: convert the file to 16-bit PCM at {options['sampling_rate']} Hz first.")
frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
clip, length, scores, powers = frames.mean(1, dtype=np.float32) / 32768, options["window_length"], [], []
several = "multi" in str(options["problem_type"])
starts = [*range(0, len(clip) - length, length), max(0, len(clip) - length)]  # the last window ends with the clip
for window in (clip[start : start + length] for start in starts if np.any(abs(clip[start:][:length]) >= 1e-4)):
    powers.append(np.mean(window**2))
    if options["do_normalize"]:
        window = window * options["target_rms"] / max(np.sqrt(np.mean(window**2)), 1e-8)
    mask = {"attention_mask": np.ones((1, len(window)), np.int32)} if options["return_attention_mask"] else {}
    window = window if mask else np.pad(window, (0, length - len(window)))  # as in training without a mask
    logits = session.run(["logits"], {"input_values": window[None], **mask})[0][0].astype(np.float64)
    odds = np.exp(logits - logits.max())
    scores.append(0.5 + 0.5 * np.tanh(0.5 * logits) if several else odds / odds.sum())
if not several:  # windows over 20 dB quieter than the loudest do not count
    scores = [score for score, power in zip(scores, powers) if power >= max(powers) / 100]
scores = np.mean(scores or sys.exit("silent, no class"), 0)
background = options.get("background_label")
default = options.get("thresholds") or [0.5 if several else 0] * len(scores)
least = default if arguments.min_score is None else [arguments.min_score] * len(scores)
if not several and max(scores) < least[0] and options["labels"][np.argmax(scores)] != background:
    print(f"{max(scores):.4f} unknown")
for score, limit, label in sorted(zip(scores, least, options["labels"]), reverse=True):
    mark = " *" if several and score >= limit else ""  # * marks predicted classes of multi-label models
    print(f"{score:.4f} {label}" + (" (no detection)" if label == background else mark))
