# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Export classifiers to ONNX and `torch.export`.

Each file is compared with the PyTorch model before it is moved to its final path.
"""

import copy
import io
import json
import logging
import re
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, FEATURE_EXTRACTOR_NAME

from sanet_hf.architectures import (
    architecture_of,
    expects_fixed_length,
    extract_features,
    is_padding_invariant,
    min_samples,
    window_length,
)
from sanet_hf.errors import ExportError
from sanet_hf.feature_extraction_sanet import SANetFeatureExtractor
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import atomic_directory


if TYPE_CHECKING:
    import onnxruntime

ONNX_FILE, PROGRAM_FILE = "model.onnx", "model.pt2"
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
CLASSIFY_SCRIPT = Path(__file__).parent / "templates" / "classify.py"
# Largest difference of a logit from PyTorch.
TOLERANCE = 1e-4
# Number of batches for the comparison, and longest clip.
NUM_BATCHES = 8
MAX_SECONDS = 4
ESCAPE_CODES = re.compile(r"\x1b\[[0-9;]*m")  # for colours


def export_onnx(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, output_dir: str | Path) -> float:
    """
    Write `model.onnx`, `config.json`, `preprocessor_config.json` and, for SANet, the example `classify.py`.

    The inputs of `model.onnx` are those of the model: batches of any size and, if the architecture allows it, of any
    length. Weights over 2 GB are in a separate file. The metadata contain these values as JSON: `labels`,
    `problem_type`, `model_type`, and the settings of the feature extractor, such as `sampling_rate` in Hz. For
    multi-label models, `thresholds` are the minimum scores of predicted classes. `min_length` is the number of samples
    to which shorter clips must be padded. `window_length` is the number of samples of the windows in which longer
    clips are classified.

    Args:
        model, feature_extractor: Results of [`load_classifier`].
        output_dir: Folder for the files. Nothing is written to it if the export fails.

    Returns:
        The largest difference of a logit from that of the model, in float32 on the CPU.

    Raises:
        MissingPackageError: A package for ONNX is not installed.
        ExportError: The architecture cannot be exported, or a logit differs by more than `TOLERANCE`.
    """
    require(ONNX_PACKAGES, "onnx")
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    min_length = shortest_clip(model, feature_extractor)
    example, dynamic_shapes = _example(model, feature_extractor)
    # transformers' OnnxExporter is not used: it is new in 5.13, its return value changed until 5.20, and it writes
    # neither metadata nor names of axes.
    with _export_errors(model, "torch.onnx"):
        program = torch.onnx.export(
            model,
            kwargs=example,
            input_names=list(example),
            output_names=["logits", "pooling_weights"] if architecture_of(model).has_pooling_weights else ["logits"],
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            verbose=False,
        )
    # The exporter's metadata of nodes contain paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    metadata = _metadata(model, feature_extractor, min_length)
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    with atomic_directory(output_dir) as folder:
        program.save(folder / ONNX_FILE)
        del program
        session = load_onnx(folder / ONNX_FILE)
        difference = _compare(
            model, feature_extractor, lambda features: torch.from_numpy(run_onnx(session, features)), min_length
        )
        _write_settings(model, feature_extractor, folder)
        if isinstance(feature_extractor, SANetFeatureExtractor):
            shutil.copyfile(CLASSIFY_SCRIPT, folder / CLASSIFY_SCRIPT.name)
    return difference


def export_program(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, output_dir: str | Path) -> float:
    """
    Write `model.pt2`, a program for `torch.export.load`, `config.json` and `preprocessor_config.json`.

    The extra file `metadata.json` in the program contains the metadata of [`export_onnx`]. For SANet, its
    `min_length` is larger than that of the ONNX file.

    See [`export_onnx`] for arguments, return value and errors.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    min_length = shortest_clip(model, feature_extractor, program=True)
    example, dynamic_shapes = _example(model, feature_extractor)
    with _export_errors(model, "torch.export"):
        program = torch.export.export(
            model,
            (),
            example,
            dynamic_shapes={name: dict.fromkeys(axes, torch.export.Dim.AUTO) for name, axes in dynamic_shapes.items()},
        )
    # Stack traces contain paths of this machine.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    metadata = _metadata(model, feature_extractor, min_length)
    with atomic_directory(output_dir) as folder:
        # In memory first, since PyTorch's file writer aborts the process if the disk is full.
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata)})
        (folder / PROGRAM_FILE).write_bytes(content.getbuffer())
        with quiet():
            loaded = torch.export.load(folder / PROGRAM_FILE).module()
        difference = _compare(model, feature_extractor, lambda features: loaded(**features).logits, min_length)
        _write_settings(model, feature_extractor, folder)
    return difference


def load_onnx(path: str | Path) -> "onnxruntime.InferenceSession":
    """Load an ONNX file for the CPU, with the number of threads of PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_onnx(session: "onnxruntime.InferenceSession", features: Mapping[str, torch.Tensor | np.ndarray]) -> np.ndarray:
    """Run an ONNX model and return logits, float32 of shape (batch, labels)."""
    return session.run(["logits"], onnx_inputs([node.name for node in session.get_inputs()], features))[0]


def onnx_inputs(names: Sequence[str], features: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Return the named inputs from a batch of features. If the mask is missing, it is all ones."""
    inputs = {name: np.asarray(features[name]) for name in names if name in features}
    if "attention_mask" in names and "attention_mask" not in inputs:
        inputs["attention_mask"] = np.ones(inputs["input_values"].shape, dtype=np.int32)
    return inputs


def shortest_clip(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, program: bool = False) -> int:
    """
    Return the minimum samples of a clip (shorter clips must be padded), for a model or its `torch.export` program.
    """
    if program and isinstance(feature_extractor, SANetFeatureExtractor):
        # torch.export turns a size of 1 into a constant, here the number of merged frames of an attention block.
        return model.config.total_stride + 1
    return min_samples(feature_extractor)


def make_noise_features(
    feature_extractor: FeatureExtractionMixin, lengths: Iterable[int], seed: int = 0
) -> BatchFeature:
    """Return features of noise clips with these numbers of samples, padded to the longest one."""
    rng = np.random.default_rng(seed)
    clips = [0.1 * rng.standard_normal(length, dtype=np.float32) for length in lengths]
    if expects_fixed_length(feature_extractor):
        return feature_extractor(
            clips, sampling_rate=feature_extractor.sampling_rate, padding="longest", return_tensors="pt"
        )
    return extract_features(feature_extractor, clips)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of the exporters, which are for their developers. Errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _metadata(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, min_length: int) -> dict[str, object]:
    """Return the metadata of an exported model; see [`export_onnx`]."""
    config = model.config
    settings = {
        name: value
        for name, value in feature_extractor.to_dict().items()
        if value is None or isinstance(value, (bool, int, float, str))
    }
    return {
        **settings,
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "background_label": getattr(config, "background_label", None),
        "problem_type": config.problem_type,
        "thresholds": _thresholds(config),
        "model_type": config.model_type,
        "min_length": min_length,
        "window_length": window_length(model, feature_extractor),
    }


def _thresholds(config: PreTrainedConfig) -> list[float] | None:
    """Return the minimum scores of predicted classes for multi-label models, else None."""
    if config.problem_type != "multi_label_classification":
        return None
    return [round(float(value), 6) for value in decision_threshold(config)]


def _example(
    model: PreTrainedModel, feature_extractor: FeatureExtractionMixin
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    """Return features of two clips, the second padded, and names of their dynamic axes."""
    longest = min(window_length(model, feature_extractor), feature_extractor.sampling_rate)
    example = make_noise_features(feature_extractor, [longest, longest * 3 // 4])
    shorter = make_noise_features(feature_extractor, [longest // 2, longest // 4])
    dynamic_shapes = {}
    for name, value in example.items():
        dynamic_shapes[name] = {0: "batch"}
        for axis in range(1, value.dim()):
            if value.shape[axis] != shorter[name].shape[axis]:
                dynamic_shapes[name][axis] = "samples" if value.dim() == 2 else "frames"
    return dict(example), dynamic_shapes


@torch.no_grad()
def _compare(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    run: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    shortest: int,
) -> float:
    """Return the largest difference of a logit between the model and `run`, on clips of random lengths."""
    rng = np.random.default_rng(0)
    longest = min(window_length(model, feature_extractor), MAX_SECONDS * feature_extractor.sampling_rate)
    largest = 0.0
    for index in range(NUM_BATCHES):
        # Log-uniform, so that some clips are short. The shortest and the longest length are always included.
        lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest), size=1 + index % 4)).astype(int)
        lengths[0] = {0: shortest, 1: longest}.get(index, lengths[0])
        if not is_padding_invariant(feature_extractor):
            # One length per batch, as in classification. In silence without a mask, onnxruntime differs by 2e-4
            # (wav2vec2).
            lengths[:] = lengths[0]
        features = make_noise_features(feature_extractor, np.clip(lengths, shortest, longest), seed=index)
        try:
            logits = run(features)
        except Exception as error:
            raise ExportError(
                f"The exported {model.config.model_type} model fails on clips of {', '.join(map(str, lengths))} "
                f"samples: {_reason(error)}. Nothing was written."
            ) from error
        difference = (logits - model(**features).logits).abs().max().item()
        if not difference <= TOLERANCE:
            raise ExportError(
                f"A logit of the exported {model.config.model_type} model differs from PyTorch by {difference:.1e}, "
                f"more than {TOLERANCE:g}, on clips of {', '.join(map(str, lengths))} samples. Nothing was written."
            )
        largest = max(largest, difference)
    return largest


def _write_settings(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, folder: Path) -> None:
    """Write `config.json` and `preprocessor_config.json`, without references to code in checkpoints."""
    for name, settings in ((CONFIG_NAME, model.config), (FEATURE_EXTRACTOR_NAME, feature_extractor)):
        values = {key: value for key, value in json.loads(settings.to_json_string()).items() if key != "auto_map"}
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _export_errors(model: PreTrainedModel, exporter: str) -> Iterator[None]:
    """Convert errors of an exporter to an ExportError that names the architecture."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise ExportError(
            f"{exporter} cannot export a model of type {model.config.model_type!r} ({_reason(error)}). Try the other "
            "--format, or use the checkpoint."
        ) from error


def _reason(error: BaseException) -> str:
    """Return the first line of the original error. The errors of exporters are pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in ESCAPE_CODES.sub("", str(error)).splitlines())
    return textwrap.shorten(next(filter(None, lines), type(error).__name__), 160, placeholder=" …").rstrip(".!:")
