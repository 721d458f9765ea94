# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The measured classifiers, each from waveforms to logits with its feature extractor. Weights are random, because they do
not affect the time.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.architectures import drop_full_mask, extract_features
from sanet_hf.export import export_onnx, load_onnx, onnx_inputs, run_onnx
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.optimization import calibrate_int8, optimize_for_inference, quantize_for_inference
from sanet_hf.training.config_files import find_config, parse_config_overrides
from sanet_hf.training.evaluation.costs import count_flops

from .original import OriginalSANet


Classify = Callable[[Sequence[np.ndarray]], object]

ORIGINAL = "original"
NUM_CLASSES = 10
# Configurations of smaller networks.
SMALLER = {"small": "sanet_small.yaml", "tiny": "sanet_tiny.yaml"}
# Sizes of a network that only serves to try a benchmark.
QUICK_SANET = {
    "conv_dim": [8, 16],
    "conv_kernel": [8, 4],
    "conv_stride": [4, 4],
    "attention_after": [1],
    "attention_dim": [16],
    "num_attention_heads": 2,
    "classifier_hidden_sizes": [8],
    "pool_hidden_size": 8,
}
QUICK_TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ALL = (ORIGINAL, "sanet", "optimized", "int8", "compiled", "onnxruntime", "openvino", *SMALLER, "ast", "wav2vec2")


def make_variant(name: str, dtype: torch.dtype, device: torch.device, quick: bool = False) -> Classify:
    """
    Make a classifier of clips at 16 kHz.

    Args:
        name: One of `ALL`: the original code; SANet; SANet after `optimize_for_inference`; SANet after
            `quantize_for_inference`, in 8-bit integers independent of `dtype`; the optimised SANet with
            `torch.compile`; SANet exported to ONNX, with onnxruntime or OpenVINO; the smaller SANets after
            `optimize_for_inference`; AST and wav2vec2-base.
        quick: Whether to use small networks, except for the original.

    Raises:
        ModuleNotFoundError: A package is missing.
        ValueError: The variant does not run in this number format or on this device.
    """
    torch.manual_seed(0)
    if name == ORIGINAL:
        return _TorchClassifier(OriginalSANet(NUM_CLASSES), SANetFeatureExtractor(), dtype, device)
    if name == "ast":
        sizes = QUICK_TRANSFORMER if quick else {}
        model = ASTForAudioClassification(ASTConfig(num_labels=NUM_CLASSES, **sizes))
        return _TorchClassifier(model, ASTFeatureExtractor(), dtype, device)
    if name == "wav2vec2":
        sizes = QUICK_TRANSFORMER | {"conv_dim": [32] * 7} if quick else {}
        model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(num_labels=NUM_CLASSES, **sizes))
        return _TorchClassifier(model, Wav2Vec2FeatureExtractor(), dtype, device)
    model, feature_extractor = SANetForAudioClassification(make_config(name, quick)), SANetFeatureExtractor()
    if name == "sanet":
        return _TorchClassifier(model, feature_extractor, dtype, device)
    if name in ("optimized", "compiled", *SMALLER):
        model = optimize_for_inference(model.to(device, dtype))
        if name == "compiled":
            model = compile_model(model, device, quick)
        return _TorchClassifier(model, feature_extractor, dtype, device)
    if name == "int8" and device.type == "cpu":
        model = quantize_for_inference(model.eval(), calibrate_int8(model, [make_features(feature_extractor)]))
        return _TorchClassifier(model, feature_extractor, torch.float32, device)
    if device.type != "cpu":
        raise ValueError(f"{name} is only measured on the CPU")
    if name == "onnxruntime":
        if dtype != torch.float32:
            raise ValueError("onnxruntime only supports SANet in float32")
        return _in_onnxruntime(model, feature_extractor)
    if name == "openvino":
        return _in_openvino(model, feature_extractor, dtype)
    raise ValueError(f"variant {name} not found. Choose one of {', '.join(ALL)}")


def make_features(feature_extractor: FeatureExtractionMixin) -> BatchFeature:
    """Return features of noise, to measure the ranges of activations, which do not affect the time."""
    clips = np.random.default_rng(0).standard_normal((2, 4 * DEFAULT_SAMPLING_RATE), dtype=np.float32)
    return extract_features(feature_extractor, list(0.1 * clips))


def compile_model(model: nn.Module, device: torch.device, quick: bool = False) -> nn.Module:
    """
    Compile a model, on a GPU for each shape of inputs separately and with CUDA graphs. On other devices, `quick` skips
    code generation.

    Raises:
        ValueError: There is no compiler for torch.compile.
    """
    if device.type == "cuda":
        torch._dynamo.config.recompile_limit = 64
        return torch.compile(model, mode="reduce-overhead", dynamic=False)
    if quick:
        return torch.compile(model, backend="aot_eager")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ValueError("torch.compile needs g++ or the compiler in the environment variable CXX")
    return torch.compile(model)


def make_config(name: str, quick: bool = False) -> SANetConfig:
    """Return the configuration of a variant of SANet."""
    overrides = QUICK_SANET if quick else {}
    if name in SMALLER and not quick:
        options = yaml.safe_load(find_config(SMALLER[name]).read_text(encoding="utf-8"))
        overrides = parse_config_overrides(options["config_overrides"])
    return SANetConfig(num_labels=NUM_CLASSES, **overrides)


@cache
def count_sanet_flops(name: str, seconds: float) -> int:
    """Return the operations of a clip's convolutions, matrix products and attention. A multiply-add counts as two."""
    waveforms = torch.zeros(1, round(seconds * DEFAULT_SAMPLING_RATE))
    model = SANetForAudioClassification(make_config(name)).eval()
    return count_flops(model, BatchFeature({"input_values": waveforms}))


class _TorchClassifier:
    """Compute logits of clips, or of features from `extract`."""

    def __init__(
        self, model: nn.Module, feature_extractor: FeatureExtractionMixin, dtype: torch.dtype, device: torch.device
    ):
        self.model, self.feature_extractor = model.to(device, dtype).eval(), feature_extractor
        self.dtype, self.device = dtype, device

    def extract(self, clips: Sequence[np.ndarray]) -> BatchFeature:
        """Return features on the device, in the number format."""
        features = extract_features(self.feature_extractor, clips)
        drop_full_mask(features, clips)
        return features.to(self.device, dtype=self.dtype)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[np.ndarray] | BatchFeature) -> torch.Tensor:
        features = clips if isinstance(clips, BatchFeature) else self.extract(clips)
        if isinstance(self.model, OriginalSANet):
            return self.model(features["input_values"])
        return self.model(**features).logits


def bind_features(classifier: Classify, clips: Sequence[np.ndarray]) -> Callable[[], object]:
    """Extract features and return a call of the model alone. For other runtimes than PyTorch, include extraction."""
    return partial(classifier, classifier.extract(clips) if isinstance(classifier, _TorchClassifier) else clips)


def _in_onnxruntime(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> Classify:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model, feature_extractor, folder)
        session = load_onnx(Path(folder) / "model.onnx")
    return lambda clips: run_onnx(session, extract_features(feature_extractor, clips))


def _in_openvino(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, dtype: torch.dtype) -> Classify:
    if find_spec("openvino") is None:
        raise ModuleNotFoundError("openvino is not installed. Install it: pip install openvino")
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model, feature_extractor, folder)
        core = openvino.Core()
        precision = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32"}
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = core.compile_model(core.read_model(Path(folder) / "model.onnx"), "CPU", {**precision, **threads})

    names = [node.any_name for node in compiled.inputs]
    return lambda clips: compiled(onnx_inputs(names, extract_features(feature_extractor, clips)))["logits"]
