"""Classify a WAV file with numpy and onnxruntime alone: python classify.py clip.wav [model_int8.onnx]"""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime


model = sys.argv[2] if len(sys.argv) > 2 else Path(__file__).with_name("model.onnx")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
options = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
sys.stderr.write("Denoise clips by noisereduce first, as in training.\n" * bool(options.get("denoised_training")))
with wave.open(sys.argv[1]) as file:
    if (file.getsampwidth(), file.getframerate()) != (2, options["sampling_rate"]):
        sys.exit(f"{sys.argv[1]}: convert it to 16-bit PCM at {options['sampling_rate']} Hz first.")
    frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
clip, length, scores = frames.mean(1, dtype=np.float32) / 32768, options["window_length"], []
starts = [*range(0, len(clip) - length, length), max(0, len(clip) - length)]  # the last window ends with the clip
for window in (clip[start : start + length] for start in starts if np.any(abs(clip[start:][:length]) >= 1e-4)):
    if options["do_normalize"]:
        window = window * options["target_rms"] / max(np.sqrt(np.mean(window**2)), 1e-8)
    mask = {"attention_mask": np.ones((1, len(window)), np.int32)} if options["return_attention_mask"] else {}
    window = window if mask else np.pad(window, (0, length - len(window)))  # without a mask, silence counts
    odds = np.exp(session.run(["logits"], {"input_values": window[None], **mask})[0][0].astype(np.float64))
    scores.append(odds / (1 + odds) if "multi" in str(options["problem_type"]) else odds / odds.sum())
for score, label in sorted(zip(np.mean(scores or sys.exit("silent: no class"), 0), options["labels"]), reverse=True):
    print(f"{score:.4f} {label}")
