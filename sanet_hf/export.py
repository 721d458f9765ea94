# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Classifiers as files that run without this package: ONNX, in float32 or int8, and programs of `torch.export`.

Each file is compared with the model that it was made of before it gets its name.
"""

import copy
import importlib.util
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedModel
from transformers.utils import CONFIG_NAME

from sanet_hf.architectures import (
    extract_features,
    find_window_seconds,
    hears_padding,
    is_padding_neutral,
    min_samples,
)
from sanet_hf.feature_extraction_sanet import SANetFeatureExtractor


if TYPE_CHECKING:
    import onnx
    import onnxruntime

ONNX_FILE, INT8_FILE, PROGRAM_FILE = "model.onnx", "model_int8.onnx", "model.pt2"
EXAMPLE = Path(__file__).parent / "templates" / "classify.py"
# Largest difference of a logit from the model's own.
TOLERANCE = 1e-4
# Operators of ONNX with weights.
QUANTIZED = ["Conv", "Gemm", "MatMul"]
# Batches of clips that are compared, and the longest of the clips.
NUM_BATCHES = 8
MAX_SECONDS = 4


def export_onnx(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, output_dir: str | Path) -> float:
    """
    Write `model.onnx`, which takes what the feature extractor gives, in batches of any size and, as far as the
    architecture allows, length; `config.json`; `preprocessor_config.json`; and, for SANet, `classify.py`, an example.

    The weights are in the file itself, or beside it where they are over 2 GB. Its metadata hold, each as JSON,
    `labels`, `problem_type`, `model_type`, the feature extractor's settings, such as `sampling_rate` in Hz, and, in
    samples, `min_length`, to which shorter clips are padded, and `window_length`, in windows of which longer ones are
    classified.

    Args:
        model, feature_extractor: As [`load_classifier`] gives them.
        output_dir: Folder for the files; nothing comes into it if something fails.

    Returns:
        The largest difference of a logit from the model's own, in float32 on the CPU.

    Raises:
        ValueError: onnx is not installed, the architecture cannot be exported, or a logit differs by more than
            `TOLERANCE`.
    """
    require_onnx()
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    metadata = {name: json.dumps(value) for name, value in _metadata(model, feature_extractor).items()}
    example, dynamic_shapes = _example(model, feature_extractor)
    with _export_errors(model, "torch.onnx"):
        program = torch.onnx.export(
            model,
            kwargs=example,
            input_names=list(example),
            output_names=["logits", "pooling_weights"] if model.config.model_type == "sanet" else ["logits"],
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            verbose=False,
        )
    # What the exporter notes of each node holds paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    with staged(output_dir) as folder:
        program.save(folder / ONNX_FILE)
        del program
        session = load_onnx(folder / ONNX_FILE)
        difference = _compare(
            model,
            feature_extractor,
            lambda features: torch.from_numpy(run_onnx(session, features)),
            shortest_clip(model, feature_extractor),
        )
        _write_settings(model, feature_extractor, folder)
        if isinstance(feature_extractor, SANetFeatureExtractor):
            shutil.copyfile(EXAMPLE, folder / EXAMPLE.name)
    return difference


def export_program(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, output_dir: str | Path) -> float:
    """
    Write `model.pt2`, a program that `torch.export.load` takes, `config.json` and `preprocessor_config.json`.

    The file holds the metadata of [`export_onnx`] as the extra file `metadata.json`. Its `min_length` is more than 1
    for SANet, too.

    Args, returns and raises as [`export_onnx`].
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    example, dynamic_shapes = _example(model, feature_extractor)
    with _export_errors(model, "torch.export"):
        program = torch.export.export(
            model,
            (),
            example,
            dynamic_shapes={name: dict.fromkeys(axes, torch.export.Dim.AUTO) for name, axes in dynamic_shapes.items()},
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    # They hold paths of this machine.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    metadata = _metadata(model, feature_extractor)
    metadata["min_length"] = shortest_clip(model, feature_extractor, program=True)
    with staged(output_dir) as folder:
        # By way of memory: PyTorch's own writer ends the process where the disk gets full.
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata)})
        (folder / PROGRAM_FILE).write_bytes(content.getbuffer())
        with _quiet():
            loaded = torch.export.load(folder / PROGRAM_FILE).module()
        difference = _compare(
            model, feature_extractor, lambda features: loaded(**features).logits, metadata["min_length"]
        )
        _write_settings(model, feature_extractor, folder)
    return difference


def quantize_onnx(output_dir: str | Path, features: Iterable[Mapping[str, torch.Tensor | np.ndarray]]) -> None:
    """
    Write `model_int8.onnx` beside the `model.onnx` of [`export_onnx`]: convolutions and products with weights in
    8-bit integers, weights scaled for each channel, activations by the smallest and largest value in `features`.

    What loses the most by 8 bits and costs little stays in float32: products of two activations, such as attention
    and the pooling's variance, and what the waveform or spectrogram meets first. Weights have 7 bits, since sums of
    products of 8 overflow on x86 processors without VNNI.

    Args:
        output_dir: Folder with `model.onnx`.
        features: Batches of clips as the model takes them, such as some hundred of the training recordings.

    Raises:
        ValueError: onnx is not installed, there is no such file, it is over 2 GB, or there are no batches.
    """
    require_onnx()
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = Path(output_dir) / ONNX_FILE
    if not source.is_file():
        raise ValueError(f"{source}: there is no such file. Export the model first.")
    if source.with_name(f"{ONNX_FILE}.data").exists():
        raise ValueError(f"{source} is over 2 GB, too large to be quantized.")
    session = load_onnx(source)
    names = [node.name for node in session.get_inputs()]
    inputs = (onnx_inputs(names, batch) for batch in features)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

    with staged(output_dir) as folder, _quiet():
        # Folds constants, so that weights are found. Symbolic shapes of dynamo's graphs are known already, and
        # onnxruntime's inference of them breaks on SANet's (1.32).
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


def require_onnx() -> None:
    """
    Raises:
        ValueError: What ONNX needs is not installed.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'ONNX needs {", ".join(missing)}: pip install "sanet-hf[onnx]"')


def load_onnx(path: str | Path) -> "onnxruntime.InferenceSession":
    """A session on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_onnx(session: "onnxruntime.InferenceSession", features: Mapping[str, torch.Tensor | np.ndarray]) -> np.ndarray:
    """Logits, float32 of shape (batch, labels)."""
    return session.run(["logits"], onnx_inputs([node.name for node in session.get_inputs()], features))[0]


def onnx_inputs(names: Sequence[str], features: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """What a graph with inputs of these names takes of a feature extractor's batch, with a mask if it had none."""
    inputs = {name: np.asarray(features[name]) for name in names if name in features}
    if "attention_mask" in names and "attention_mask" not in inputs:
        inputs["attention_mask"] = np.ones(inputs["input_values"].shape, dtype=np.int32)
    return inputs


def shortest_clip(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, program: bool = False) -> int:
    """Samples that shorter clips are padded to for a model, or for the program that `torch.export` makes of it."""
    if not isinstance(feature_extractor, SANetFeatureExtractor):
        return min_samples(feature_extractor)
    # torch.export takes a size of 1, here the merged frames of an attention block, for a constant.
    return model.config.total_stride + 1 if program else 1


@contextmanager
def staged(output_dir: str | Path) -> Iterator[Path]:
    """A folder whose files come into `output_dir` in the end, or not at all if something fails."""
    output_dir = Path(output_dir)
    is_new = not output_dir.exists()
    output_dir.mkdir(parents=True, exist_ok=True)
    # Inside: beside it may be another file system, or a folder that cannot be written to.
    folder = Path(tempfile.mkdtemp(prefix="unfinished-", dir=output_dir))
    try:
        yield folder
        for path in sorted(folder.iterdir()):
            path.replace(output_dir / path.name)
        folder.rmdir()
    except BaseException:
        shutil.rmtree(output_dir if is_new else folder, ignore_errors=True)
        raise


def _metadata(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> dict[str, object]:
    """What a program needs to know of the model; see [`export_onnx`]."""
    config = model.config
    settings = {
        name: value
        for name, value in feature_extractor.to_dict().items()
        if value is None or isinstance(value, (bool, int, float, str))
    }
    return {
        **settings,
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "problem_type": config.problem_type,
        "model_type": config.model_type,
        "min_length": shortest_clip(model, feature_extractor),
        "window_length": _window_length(model, feature_extractor),
    }


def _kept_in_float(graph: "onnx.GraphProto") -> list[str]:
    """Names of the nodes of the kinds in `QUANTIZED` that lose too much by it; see [`quantize_onnx`]."""
    weights = {initializer.name for initializer in graph.initializer}
    # Inputs, and what is made of them before the first product.
    raw = {value.name for value in graph.input}
    kept = []
    for node in graph.node:
        if node.op_type in QUANTIZED:
            # Of products of two activations, the option MatMulConstBOnly says the same, but onnxruntime 1.32 does not
            # follow it in this format.
            if node.input[1] not in weights or node.input[0] in raw:
                kept.append(node.name)
        elif raw.issuperset(set(node.input) - weights - {""}):
            raw.update(node.output)
    return kept


def _features(feature_extractor: FeatureExtractionMixin, lengths: Iterable[int], seed: int) -> BatchFeature:
    """A batch of noise of these numbers of samples, padded to the longest also where the model hears padding."""
    rng = np.random.default_rng(seed)
    clips = [0.1 * rng.standard_normal(length, dtype=np.float32) for length in lengths]
    if hears_padding(feature_extractor):
        return feature_extractor(
            clips, sampling_rate=feature_extractor.sampling_rate, padding="longest", return_tensors="pt"
        )
    return extract_features(feature_extractor, clips)


def _window_length(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> int:
    """Samples of the longest clip that the model takes."""
    return round(find_window_seconds(model, feature_extractor) * feature_extractor.sampling_rate)


def _example(
    model: PreTrainedModel, feature_extractor: FeatureExtractionMixin
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    """Features of two clips, the second padded, and the axes of each that are free: those that follow the length."""
    longest = min(_window_length(model, feature_extractor), feature_extractor.sampling_rate)
    example = _features(feature_extractor, [longest, longest * 3 // 4], seed=0)
    shorter = _features(feature_extractor, [longest // 2, longest // 4], seed=0)
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
    """The largest difference of a logit between the model and `run`, on batches of clips of random lengths."""
    rng = np.random.default_rng(0)
    longest = min(_window_length(model, feature_extractor), MAX_SECONDS * feature_extractor.sampling_rate)
    largest = 0.0
    for index in range(NUM_BATCHES):
        # Log-uniform, so that some are short; the shortest and the longest are there in any case.
        lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest), size=1 + index % 4)).astype(int)
        lengths[0] = {0: shortest, 1: longest}.get(index, lengths[0])
        if not is_padding_neutral(feature_extractor):
            # As such clips are classified; onnxruntime is off by 2e-4 in silence that is not masked (wav2vec2).
            lengths[:] = lengths[0]
        features = _features(feature_extractor, np.clip(lengths, shortest, longest), seed=index)
        difference = (run(features) - model(**features).logits).abs().max().item()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"The exported {model.config.model_type} differs from PyTorch's by {difference:.1e} in a logit, more "
                f"than {TOLERANCE:g}, on clips of {', '.join(map(str, lengths))} samples: it is not written."
            )
        largest = max(largest, difference)
    return largest


def _write_settings(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, folder: Path) -> None:
    """`config.json` and `preprocessor_config.json`, without the code that checkpoints carry beside their weights."""
    for name, settings in ((CONFIG_NAME, model.config), ("preprocessor_config.json", feature_extractor)):
        values = {key: value for key, value in json.loads(settings.to_json_string()).items() if key != "auto_map"}
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes to their developers from the user; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _export_errors(model: PreTrainedModel, exporter: str) -> Iterator[None]:
    """An exporter's failure as a ValueError that names the architecture."""
    try:
        with _quiet():
            yield
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{exporter} cannot export a model of type {model.config.model_type!r}: {reason}") from error
