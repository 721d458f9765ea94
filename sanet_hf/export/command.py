# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet export`: write the classifier of a checkpoint to a folder, and compare it with the checkpoint."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm
from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from sanet_hf.architectures import extract_features, window_length
from sanet_hf.audio.denoise import DENOISED
from sanet_hf.errors import DataError
from sanet_hf.export.exporters import (
    CLASSIFY_SCRIPT,
    ONNX_FILE,
    ONNX_PACKAGES,
    PROGRAM_FILE,
    export_onnx,
    export_program,
    load_onnx,
    make_noise_features,
    run_onnx,
    shortest_clip,
)
from sanet_hf.export.quantize import (
    INT8_FILE,
    Recordings,
    find_recordings,
    quantize_onnx,
)
from sanet_hf.inference.calibration_clips import load_calibration_clips
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.prediction import predict
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.inference.windows import predicted_classes
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import atomic_directory
from sanet_hf.utils.formatting import format_count


logger = logging.get_logger(__name__)

# A warning is given if a smaller share of the recordings has the same classes in int8.
MIN_AGREEMENT = 0.95
NUM_ROUNDS = 20  # of timing


def export_classifier(
    name: str,
    output_dir: str | Path,
    file_format: str = "onnx",
    quantize: bool = False,
    calibration_dir: str | Path | None = None,
    split: str = "test",
    batch_size: int = 8,
) -> str:
    """
    Export a classifier, compare the files with it, and return a report.

    Args:
        name: Folder or Hub id of the model.
        output_dir: Folder for the files. Nothing is written to it if the export fails.
        file_format: `onnx` or `torch_export`; see [`export_onnx`] and [`export_program`].
        quantize: Whether to also write an int8 ONNX file; see [`quantize_onnx`].
        calibration_dir, split: Recordings for quantization; see [`find_recordings`].
        batch_size: Clips per batch.

    Returns:
        The files, their largest difference from PyTorch and, with `quantize`, the table of [`compare_files`].

    Raises:
        SanetError: The model cannot be loaded or exported, or the recordings do not match its classes.
        MissingPackageError: A package for ONNX is not installed.
    """
    if file_format == "onnx":
        require(ONNX_PACKAGES, "onnx")
    model, feature_extractor = load_classifier(name, device="cpu")
    if quantize:
        # Errors in the recordings are found before the export, which takes long.
        calibration, recordings, source = find_recordings(name, model.config, calibration_dir, split)
        clips = load_calibration_clips(list(calibration), model, feature_extractor)
    with atomic_directory(output_dir) as folder:
        if file_format == "onnx":
            path, difference = folder / ONNX_FILE, export_onnx(model, feature_extractor, folder)
        else:
            path, difference = folder / PROGRAM_FILE, export_program(model, feature_extractor, folder)
        lines = [f"{path.name}: {megabytes(path)}, largest difference of a logit from PyTorch {difference:.1e}"]
        shortest = shortest_clip(model, feature_extractor, program=file_format != "onnx")
        if shortest > 1:
            lines.append(f"Clips of less than {shortest} samples must be padded with zeros to this length.")
        if file_format == "onnx" and not (folder / CLASSIFY_SCRIPT.name).exists():
            lines.append("There is no classify.py, since this model needs the feature extractor of transformers.")
        if getattr(feature_extractor, DENOISED, False):
            lines.append(
                "The model was trained on denoised clips (sanet prepare --denoise). Denoise recordings in the same "
                "way before classification."
            )
        if quantize:
            bar = tqdm(clips, desc="Calibrating", unit="clip")
            error = quantize_onnx(folder, (extract_features(feature_extractor, [clip]) for clip in bar))
            table, count = compare_files(folder, model, feature_extractor, recordings, batch_size)
            unread = f"; {len(recordings) - count} cannot be read" if count < len(recordings) else ""
            lines += ["", table, f"Metrics on {count} recordings from {source}{unread}."]
            if calibration_dir is not None:
                lines.append("They are too good if the model was trained on these recordings, which is not checked.")
            lines.append(f"Calibrated on {len(clips)} clips, on which the int8 logits differ by {error:.1%}.")
    return "\n".join(lines)


class OnnxClassifier:
    """An ONNX file of [`export_onnx`] as a model for [`predict`]."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: Path, config: PreTrainedConfig):
        self.session, self.config = load_onnx(path), config

    def __call__(self, return_dict: bool = True, **features: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.from_numpy(run_onnx(self.session, features)))


def compare_files(
    folder: Path,
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    recordings: Recordings,
    batch_size: int,
) -> tuple[str, int]:
    """
    Compare `model.onnx` and `model_int8.onnx` on recordings.

    Returns:
        A table and the number of readable recordings. The table has size, accuracy (all classes of a recording
        correct), macro-F1, share of recordings with the same classes as in float32, and median time for a clip of full
        length.

    Raises:
        DataError: None of the recordings can be read.
    """
    config = model.config
    classifiers = {name: OnnxClassifier(folder / name, config) for name in (ONNX_FILE, INT8_FILE)}
    scores: dict[str, np.ndarray] = {}
    for name, classifier in classifiers.items():
        predictions = predict(
            classifier, feature_extractor, list(recordings), min_level=None, batch_size=batch_size, denoise=None
        )
        bar = tqdm(predictions, total=len(recordings), desc=f"Evaluating {name}", unit="file")
        of_file = {prediction.path: prediction.scores for prediction in bar if prediction.error is None}
        if not of_file:
            raise DataError("None of the recordings for evaluation can be read. Use other recordings.")
        scores[name] = np.stack(list(of_file.values()))
    truth = np.zeros_like(scores[name], dtype=bool)
    for row, path in enumerate(of_file):
        truth[row, [config.label2id[label] for label in recordings[path]]] = True

    length = window_length(model, feature_extractor)
    times = _median_times(classifiers, make_noise_features(feature_extractor, [length]))
    threads = torch.get_num_threads()
    clip = f"{length / feature_extractor.sampling_rate:g} s, {format_count(threads, 'thread')}"
    lines = [f"{'':16}{'size':>10}{'accuracy':>10}{'macro F1':>10}{'agreement':>11}{clip:>20}"]
    several = config.problem_type == "multi_label_classification"
    thresholds = decision_threshold(config)
    expected = predicted_classes(scores[ONNX_FILE], several, thresholds)
    for name in classifiers:
        predicted = predicted_classes(scores[name], several, thresholds)
        accuracy, agreement = ((predicted == classes).all(axis=1).mean() for classes in (truth, expected))
        lines.append(
            f"{name:16}{megabytes(folder / name):>10}{accuracy:10.3f}{macro_f1(predicted, truth, several):10.3f}"
            f"{agreement:11.3f}{f'{1000 * times[name]:.1f} ms':>20}"
        )
    if agreement < MIN_AGREEMENT:
        logger.warning(
            f"{INT8_FILE} predicts other classes than {ONNX_FILE} for {1 - agreement:.1%} of the recordings. "
            f"Calibrate with more representative recordings, or use {ONNX_FILE}."
        )
    return "\n".join(lines), len(of_file)


def _median_times(classifiers: Mapping[str, OnnxClassifier], features: Mapping) -> dict[str, float]:
    """Return the median seconds of each classifier for a batch. They are interleaved, so that other load is shared."""
    times: dict[str, list[float]] = {name: [] for name in classifiers}
    for index in range(NUM_ROUNDS + 1):
        for name, classifier in classifiers.items():
            start = time.perf_counter()
            classifier(**features)
            if index > 0:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def macro_f1(predicted: np.ndarray, truth: np.ndarray, several: bool) -> float:
    """
    Return the mean F1 over classes of bool arrays (clips, classes). As in scikit-learn, a class without true and
    predicted clips counts as 0 for multi-label models, and does not count otherwise.
    """
    hits, counts = (predicted & truth).sum(axis=0), predicted.sum(axis=0) + truth.sum(axis=0)
    return float(np.mean(2 * hits / np.maximum(counts, 1), where=(counts > 0) | several))


def megabytes(path: Path) -> str:
    """Return the size of an ONNX file, including separate weights if it is over 2 GB."""
    return f"{sum(file.stat().st_size for file in path.parent.glob(f'{path.name}*')) / 1e6:.1f} MB"
