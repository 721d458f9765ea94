# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""`sanet export`: write a checkpoint's classifier to a folder, compared with the checkpoint."""

from pathlib import Path

from tqdm import tqdm

from sanet_hf.architectures import extract_features
from sanet_hf.audio.denoise import DENOISED
from sanet_hf.export.exporters import (
    CLASSIFY_SCRIPT,
    ONNX_FILE,
    ONNX_PACKAGES,
    PROGRAM_FILE,
    export_onnx,
    export_program,
    shortest_clip,
)
from sanet_hf.export.quantize import (
    compare_files,
    find_recordings,
    load_calibration_clips,
    megabytes,
    quantize_onnx,
)
from sanet_hf.inference.loading import load_classifier
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import atomic_directory


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
    Export a classifier, and compare the files with it.

    Args:
        name: Folder or Hub id.
        output_dir: Folder for the files. Nothing is written to it if the export fails.
        file_format: `onnx` or `torch_export`; see [`export_onnx`] and [`export_program`].
        quantize: Whether to write an ONNX file in 8-bit integers as well; see [`quantize_onnx`].
        calibration_dir, split: Recordings for that; see [`find_recordings`].
        batch_size: Clips classified at once.

    Returns:
        A report: the files, their largest difference from PyTorch and, with `quantize`, the table of
        [`compare_files`].

    Raises:
        SanetError: The model cannot be loaded or exported, or the recordings do not fit it.
        MissingPackageError: A package for ONNX is not installed.
    """
    if file_format == "onnx":
        require(ONNX_PACKAGES, "onnx")
    model, feature_extractor = load_classifier(name, device="cpu")
    if quantize:
        # First: an export takes longer than to find that the recordings do not fit.
        calibration, recordings, source = find_recordings(name, model.config, calibration_dir, split)
        clips = load_calibration_clips(calibration, model, feature_extractor)
    with atomic_directory(output_dir) as folder:
        if file_format == "onnx":
            path, difference = folder / ONNX_FILE, export_onnx(model, feature_extractor, folder)
        else:
            path, difference = folder / PROGRAM_FILE, export_program(model, feature_extractor, folder)
        lines = [f"{path.name}: {megabytes(path)}, logits as PyTorch's to {difference:.1e}"]
        shortest = shortest_clip(model, feature_extractor, program=file_format != "onnx")
        if shortest > 1:
            lines.append(f"Clips of less than {shortest} samples must be padded to them with zeros.")
        if file_format == "onnx" and not (folder / CLASSIFY_SCRIPT.name).exists():
            lines.append("There is no classify.py beside it: its features need transformers' feature extractor.")
        if getattr(feature_extractor, DENOISED, False):
            lines.append(
                "The model was trained on denoised clips (sanet prepare --denoise): reduce noise in recordings in the "
                "same way before they are classified."
            )
        if quantize:
            bar = tqdm(clips, desc="Calibrating", unit="clip")
            error = quantize_onnx(folder, (extract_features(feature_extractor, [clip]) for clip in bar))
            table, count = compare_files(folder, model, feature_extractor, recordings, batch_size)
            unread = f"; {len(recordings) - count} cannot be read" if count < len(recordings) else ""
            lines += ["", table, f"Metrics of {count} recordings of {source}{unread}."]
            lines.append(f"Ranges of values from {len(clips)} clips, on which int8's logits are off by {error:.1%}.")
    return "\n".join(lines)
