# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantize exported classifiers to int8, and find recordings for calibration."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedConfig

from sanet_hf.audio.find import find_audio_files
from sanet_hf.audio.folders import SPLITS, find_split_folders
from sanet_hf.errors import DataError, ExportError, UsageError
from sanet_hf.export.exporters import (
    ONNX_FILE,
    ONNX_PACKAGES,
    load_onnx,
    onnx_inputs,
    quiet,
    run_onnx,
)
from sanet_hf.optimization.int8 import MAX_ERROR
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import atomic_directory


if TYPE_CHECKING:
    import onnx

INT8_FILE = "model_int8.onnx"
# ONNX operators with weights.
QUANTIZED = ["Conv", "Gemm", "MatMul"]

# Classes of each recording, by path.
Recordings = Mapping[str, Sequence[str]]


def quantize_onnx(output_dir: str | Path, features: Iterable[Mapping[str, torch.Tensor | np.ndarray]]) -> float:
    """
    Quantize the `model.onnx` of [`export_onnx`] and write `model_int8.onnx` next to it. Convolutions and products with
    weights are in int8. Weights have one scale per channel, and activations are scaled by their range in `features`.

    Layers that lose the most precision and cost little stay in float32: products of two activations, as in attention
    and pooling, the first layers on the waveform or spectrogram, and all products in a power spectrum. Weights have 7
    bits, since sums of products of 8 bits overflow on x86 processors without VNNI.

    Args:
        output_dir: Folder with `model.onnx`.
        features: Inputs of the model in batches, for instance for some hundred training recordings.

    Returns:
        The root mean square of the errors of the int8 logits on these clips, relative to that of the logits. It is
        larger on sounds that these clips do not represent; `sanet export` measures it.

    Raises:
        MissingPackageError: A package for ONNX is not installed.
        UsageError: There is no `model.onnx`, or there are no batches.
        ExportError: The file is over 2 GB, or the error is above `MAX_ERROR`. `model_int8.onnx` is not written.
    """
    require(ONNX_PACKAGES, "onnx")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = Path(output_dir) / ONNX_FILE
    if not source.is_file():
        raise UsageError(f"{source}: file not found. Export the model first.")
    if source.with_name(f"{ONNX_FILE}.data").exists():
        raise ExportError(f"{source} is over 2 GB, which is too large for quantization. Use {ONNX_FILE}.")
    batches = list(features)
    if not batches:
        raise UsageError("There are no clips for the calibration of int8.")
    session = load_onnx(source)
    names = [node.name for node in session.get_inputs()]

    class Reader(CalibrationDataReader):
        inputs = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.inputs, None)
            return batch if batch is None else onnx_inputs(names, batch)

    # transformers' OnnxRuntimeQuantizer (new in 5.20) is not used. It has no preprocessing, without which no weights
    # of dynamo graphs are found, and it needs the excluded nodes before there is a graph.
    with atomic_directory(output_dir) as folder, quiet():
        # This folds constants, so that weights are found. Symbolic shapes of dynamo graphs are already known, and
        # their inference by onnxruntime fails for SANet (1.32).
        quant_pre_process(source, folder / "preprocessed.onnx", skip_symbolic_shape=True)
        quantize_static(
            folder / "preprocessed.onnx",
            folder / INT8_FILE,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=_kept_in_float(onnx.load(folder / "preprocessed.onnx").graph),
        )
        (folder / "preprocessed.onnx").unlink()
        quantized = onnx.load(folder / INT8_FILE)
        del quantized.metadata_props[:]
        onnx.helper.set_model_props(quantized, session.get_modelmeta().custom_metadata_map)
        onnx.save(quantized, folder / INT8_FILE)
        error = _relative_error(session, load_onnx(folder / INT8_FILE), batches)
        if not error <= MAX_ERROR:
            raise ExportError(
                f"The int8 logits differ from the float32 logits by {error:.0%} (root mean square), more than "
                f"{MAX_ERROR:.0%}. {INT8_FILE} was not written. Calibrate with other recordings, or do not quantize."
            )
    return error


def _kept_in_float(graph: "onnx.GraphProto") -> list[str]:
    """Return the names of the nodes of types in `QUANTIZED` that stay in float32; see [`quantize_onnx`]."""
    weights = {initializer.name for initializer in graph.initializer}
    # Inputs, and values computed from them before the first product.
    raw = {value.name for value in graph.input}
    kept = []
    for node in graph.node:
        if node.op_type in QUANTIZED:
            # The option MatMulConstBOnly should also exclude products of two activations, but onnxruntime 1.32 ignores
            # it in this format.
            if node.input[1] not in weights or node.input[0] in raw:
                kept.append(node.name)
        elif raw.issuperset(set(node.input) - weights - {""}):
            raw.update(node.output)
    return kept + _before_logarithm(graph)


def _before_logarithm(graph: "onnx.GraphProto") -> list[str]:
    """
    Return the names of the nodes of types in `QUANTIZED` that compute a power spectrum, the input of the first
    logarithm that depends on such nodes. 8 bits are too few for its range: the logits would be meaningless.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for logarithm in (node for node in graph.node if node.op_type == "Log"):
        pending, names = list(logarithm.input), set()
        while pending:
            node = makers.get(pending.pop())
            if node is not None and node.name not in names:
                names.add(node.name)
                pending += node.input
        if found := [node.name for node in graph.node if node.name in names and node.op_type in QUANTIZED]:
            return found
    return []


def _relative_error(expected, actual, batches: Iterable[Mapping]) -> float:
    """Return the root mean square of the differences between the logits of two sessions, relative to the first."""
    pairs = [(run_onnx(expected, batch), run_onnx(actual, batch)) for batch in batches]
    logits, quantized = (np.concatenate(values).astype(np.float64) for values in zip(*pairs))
    return float(np.linalg.norm(quantized - logits) / np.linalg.norm(logits))


def find_recordings(
    model_name: str | Path, config: PreTrainedConfig, calibration_dir: str | Path | None, split: str
) -> tuple[Recordings, Recordings, Path]:
    """
    Find recordings for calibration and recordings for evaluation.

    Without `calibration_dir`, they are those of the `validation` split and of `split` in the predictions of
    `sanet train` in the folder of the model. A `calibration_dir` contains class folders, or split folders as for
    `sanet train`. Without split folders, or if `split` is `all`, all its recordings are used for both.

    Returns:
        Recordings for calibration, recordings for evaluation, and the file or folder of the latter.

    Raises:
        UsageError, DataError: There are no such recordings, or the model does not have their classes.
    """
    if calibration_dir is None:
        paths = sorted((Path(model_name) / "predictions").glob("*.csv"))
        sources = {path.stem: path for path in paths if not path.stem.startswith("baseline_")}
        if not sources:
            raise UsageError(
                f"{model_name} does not list its training recordings. Give recordings with --calibration_dir."
            )
    else:
        folder = Path(calibration_dir)
        if not folder.is_dir():
            raise DataError(f"{folder}: folder not found.")
        folders = {name: path for path, name in find_split_folders(folder).items()}
        sources = {name: folders[name] for name in SPLITS if name in folders}
        if split == "all" or not sources:
            sources = {split: folder}
    if split not in sources:
        raise DataError(f"The recordings have no {split} split, only: {', '.join(sources)}. Choose another --split.")
    read = _read_predictions if calibration_dir is None else _read_folder
    found = {name: read(source, config) for name, source in sources.items() if name in ("validation", split)}
    unknown = {label for recordings in found.values() for labels in recordings.values() for label in labels}
    unknown -= config.label2id.keys()
    if unknown:
        raise DataError(
            f"{model_name} does not have these classes of the recordings: {', '.join(sorted(unknown))}. "
            "Use recordings of its classes."
        )
    return found.get("validation", found[split]), found[split], sources[split]


def _read_folder(folder: Path, config: PreTrainedConfig) -> Recordings:
    return {path: [Path(path).parent.name] for path in find_audio_files([folder])}


def _read_predictions(path: Path, config: PreTrainedConfig) -> Recordings:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = [row["file"] for row in rows if not Path(row["file"]).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(rows)} recordings in {path} are not found, such as {missing[0]}. Give a folder "
            "of recordings with --calibration_dir."
        )
    several = config.problem_type == "multi_label_classification"
    return {row["file"]: list(filter(None, row["label"].split(";"))) if several else [row["label"]] for row in rows}
