# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Export of a trained classifier, and what 8-bit integers cost it.

    sanet export runs/sanet exported --format onnx --quantize int8
"""

import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.utils import logging

from sanet_hf.architectures import extract_features
from sanet_hf.errors import DataError, UsageError
from sanet_hf.export import (
    EXAMPLE,
    INT8_FILE,
    ONNX_FILE,
    PROGRAM_FILE,
    export_onnx,
    export_program,
    load_onnx,
    quantize_onnx,
    require_onnx,
    run_onnx,
    shortest_clip,
    staged,
)
from sanet_hf.inference.loading import load_classifier
from sanet_hf.training.arguments import DATA_SOURCES, override_data_arguments
from sanet_hf.training.data.batches import collate
from sanet_hf.training.data.clips import EvaluationClips
from sanet_hf.training.data.load import load_recordings, longest_first
from sanet_hf.training.evaluation.costs import make_noise
from sanet_hf.training.evaluation.evaluate import average_windows
from sanet_hf.training.run_folder import read_options


logger = logging.get_logger(__name__)

MAX_CALIBRATION_CLIPS = 128
FEW_CALIBRATION_CLIPS = 32
NUM_ROUNDS = 20  # of timing


def export(
    name: str,
    output_dir: str | Path,
    file_format: str = "onnx",
    quantize: bool = False,
    calibration_dir: str | Path | None = None,
    split: str = "test",
    batch_size: int = 8,
) -> str:
    """
    Export a classifier, and compare the files with it.

    Args:
        name: Folder or Hub id.
        output_dir: Folder for the files; nothing comes into it if something fails.
        file_format: `onnx` or `torch_export`; see [`export_onnx`] and [`export_program`].
        quantize: Whether to write an ONNX file in 8-bit integers, too; see [`quantize_onnx`].
        calibration_dir: Folder of recordings for that; by default those of the training run.
        split: Split on which accuracy is measured, as [`evaluate_models`] has it. Ranges are measured on up to
            `MAX_CALIBRATION_CLIPS` clips of the validation split, or of this one where there is none.
        batch_size: Clips classified at once.

    Returns:
        What was written, with the largest difference from PyTorch and, of both ONNX files, metrics and time.

    Raises:
        ValueError: The model cannot be loaded or exported, or the recordings do not fit it.
    """
    if file_format == "onnx":
        require_onnx()
    model, feature_extractor = load_classifier(name)
    if quantize:
        # First, since an export takes longer than to find that the recordings do not fit.
        calibration, clips = _load_clips(name, calibration_dir, split, model, feature_extractor)
    with staged(output_dir) as folder:
        if file_format == "onnx":
            path, difference = folder / ONNX_FILE, export_onnx(model, feature_extractor, folder)
        else:
            path, difference = folder / PROGRAM_FILE, export_program(model, feature_extractor, folder)
        lines = [f"{path.name}: {_megabytes(path)}, logits as PyTorch's to {difference:.1e}"]
        shortest = shortest_clip(model, feature_extractor, program=file_format != "onnx")
        if shortest > 1:
            lines.append(f"Clips of less than {shortest} samples must be padded to them with zeros.")
        if file_format == "onnx" and not (folder / EXAMPLE.name).exists():
            lines.append("There is no classify.py beside it: its features need transformers' feature extractor.")
        if quantize:
            bar = tqdm(calibration, desc="Calibrating", unit="clip")
            quantize_onnx(folder, (collate([item], feature_extractor) for item in bar))
            lines += ["", *_compare_files(folder, split, model, feature_extractor, clips, batch_size)]
            lines.append(
                f"Metrics of {len(clips.recordings)} recordings of {split}; ranges of values from {len(calibration)}."
            )
    return "\n".join(lines)


def _load_clips(
    name: str,
    calibration_dir: str | Path | None,
    split: str,
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
) -> tuple[EvaluationClips, EvaluationClips]:
    """Clips to measure ranges of values on, and those of `split` to measure accuracy on."""
    options = read_options(name)
    if calibration_dir is None and not any(options.get(source) for source in DATA_SOURCES):
        raise UsageError(f"--calibration_dir is missing: {name} does not tell what it was trained on.")
    given = {} if calibration_dir is None else {"data_dir": str(calibration_dir)}
    arguments = override_data_arguments(options, given)
    # Not the training split: every recording of a split is read to be checked.
    recordings = load_recordings(
        arguments, feature_extractor.sampling_rate, splits=[split] if split == "all" else ["validation", split]
    )
    if split not in recordings:
        raise DataError(
            f"There is no {split} split to measure accuracy on, only {', '.join(recordings)}: see --split."
        )
    calibration = recordings.get("validation", recordings[split])
    calibration = calibration.shuffle(seed=0).select(range(min(len(calibration), MAX_CALIBRATION_CLIPS)))
    if len(calibration) < FEW_CALIBRATION_CLIPS:
        logger.warning(
            f"Ranges of values are measured on {len(calibration)} clips only; some hundred, from a larger "
            "--calibration_dir, make int8 safer."
        )
    seconds = options.get("max_length_seconds", arguments.max_length_seconds)
    label2id = model.config.label2id
    return (
        EvaluationClips(calibration, feature_extractor, label2id, seconds),
        EvaluationClips(longest_first(recordings[split]), feature_extractor, label2id, seconds, all_windows=True),
    )


def _compare_files(
    folder: Path,
    split: str,
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    clips: EvaluationClips,
    batch_size: int,
) -> list[str]:
    """A table of the ONNX files: size, metrics, and the median time of a clip of the full length."""
    sessions = {name: load_onnx(folder / name) for name in (ONNX_FILE, INT8_FILE)}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    references = []
    for start in tqdm(range(0, len(clips), batch_size), desc="Evaluating", unit="batch"):
        batch = collate([clips[i] for i in range(start, min(start + batch_size, len(clips)))], feature_extractor)
        references.append(batch["labels"].numpy())
        for name, session in sessions.items():
            logits[name].append(run_onnx(session, batch))
    seconds = clips.max_length / feature_extractor.sampling_rate
    inputs = extract_features(feature_extractor, make_noise(feature_extractor, 1, seconds, seed=0))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    # By turns, so that what else the machine does meets both alike.
    for _ in range(NUM_ROUNDS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            run_onnx(session, inputs)
            times[name].append(time.perf_counter() - start)
    metric = "mAP" if clips.is_multi_label else "accuracy"
    threads = torch.get_num_threads()
    clip = f"{seconds:g} s, {threads} thread{'s' if threads > 1 else ''}"
    lines = [f"{'':16}{'size':>10}{metric:>10}{'macro F1':>10}{clip:>18}"]
    references = np.concatenate(references)
    for name in sessions:
        metrics = average_windows(split, clips, model.config, np.concatenate(logits[name]), references).metrics
        milliseconds = f"{1000 * np.median(times[name][1:]):.1f} ms"
        lines.append(
            f"{name:16}{_megabytes(folder / name):>10}{metrics[metric]:10.3f}{metrics['macro_f1']:10.3f}"
            f"{milliseconds:>18}"
        )
    return lines


def _megabytes(path: Path) -> str:
    # Weights over 2 GB are in files beside it.
    return f"{sum(file.stat().st_size for file in path.parent.glob(f'{path.name}*')) / 1e6:.1f} MB"
