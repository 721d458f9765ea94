# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Costs of a classifier: operations, time, memory and disk space."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedModel
from transformers.utils import CONFIG_NAME, FEATURE_EXTRACTOR_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME
from transformers.utils.logging import disable_progress_bar

from sanet_hf.architectures import extract_features, window_length
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.windows import window_starts
from sanet_hf.optimization.processor import processor_name


def make_noise(feature_extractor: FeatureExtractionMixin, num_clips: int, seconds: float, seed: int) -> list:
    """Return random clips, float32 of shape (samples,), at the extractor's sampling rate."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * feature_extractor.sampling_rate)
    return list(0.1 * rng.standard_normal((num_clips, num_samples), dtype=np.float32))


def make_inputs(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, clips: list) -> BatchFeature:
    """
    Return the model's inputs for the clips, on its device and in its number format. Clips that are longer than a
    window of the model become several windows, as in prediction.
    """
    window = window_length(model, feature_extractor)
    windows = [clip[start : start + window] for clip in clips for start in window_starts(len(clip), window, window)]
    return extract_features(feature_extractor, windows).to(model.device, dtype=model.dtype)


# In inference_mode, FlopCounterMode breaks weight-normalised convolutions (wav2vec2, HuBERT).
@torch.no_grad()
def count_flops(model: PreTrainedModel, inputs: BatchFeature) -> int:
    """
    Count the floating-point operations of matrix products, convolutions and attention in one forward pass. A
    multiply-add counts as two.
    """
    attention = model.config._attn_implementation
    # FlopCounterMode supports few fused attention kernels, and none on the CPU. It counts the others as 0.
    model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
    finally:
        model.set_attn_implementation(attention)
    return counter.get_total_flops()


@torch.inference_mode()
def time_clips(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, clips: list) -> tuple[float, float]:
    """Return the seconds of one batch from waveforms to logits, and the seconds of the model alone."""
    synchronize(model.device)
    start = time.perf_counter()
    inputs = make_inputs(model, feature_extractor, clips)
    synchronize(model.device)
    extracted = time.perf_counter()
    model(**inputs)
    synchronize(model.device)
    end = time.perf_counter()
    return end - start, end - extracted


def measure_speed(
    classifiers: Sequence[tuple[PreTrainedModel, FeatureExtractionMixin]],
    clip_seconds: float,
    batch_size: int,
    num_rounds: int,
    seed: int,
) -> list[dict[str, float]]:
    """
    Time classifiers interleaved, so that other load on the machine affects all of them equally. In each round, every
    classifier, in random order, gets the same clips as one batch and then one by one. The first round does not count.

    Returns:
        For each classifier, `clips_per_second` in batches, the median and the 95th percentile of `latency` (seconds
        per single clip) and, without feature extraction, `model_clips_per_second` and `model_latency_median`.
    """
    rng = np.random.default_rng(seed)
    batch_times, clip_times = ([[] for _ in classifiers] for _ in range(2))
    for index in tqdm(range(num_rounds + 1), desc="Timing", unit="round"):
        for which in rng.permutation(len(classifiers)):
            clips = make_noise(classifiers[which][1], batch_size, clip_seconds, seed + index)
            batch_time = time_clips(*classifiers[which], clips)
            times = [time_clips(*classifiers[which], [clip]) for clip in clips]
            if index > 0:
                batch_times[which].append(batch_time)
                clip_times[which] += times
    speeds = []
    for batches, clips in zip(batch_times, clip_times):
        batch, model_batch = np.median(batches, axis=0)
        latency, model_latency = np.median(clips, axis=0)
        speeds.append(
            {
                "clips_per_second": batch_size / batch,
                "model_clips_per_second": batch_size / model_batch,
                "latency_median": latency,
                "latency_p95": np.percentile(clips, 95, axis=0)[0],
                "model_latency_median": model_latency,
            }
        )
    return [{name: float(value) for name, value in speed.items()} for speed in speeds]


def measure_memory(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    path: str | Path,
    clip_seconds: float,
    batch_size: int,
) -> int:
    """
    Return the peak memory in bytes for classifying one batch. On a GPU, this is the weights and all other allocations.
    On the CPU, it is a new process that loads the model from `path`, including Python and its libraries.

    Raises:
        ValueError: The device is neither.
        BrokenProcessPool: The process was killed, for example because memory ran out.
    """
    if model.device.type == "cuda":
        clips = make_noise(feature_extractor, batch_size, clip_seconds, seed=0)
        torch.cuda.reset_peak_memory_stats(model.device)
        # The memory in use before contains the weights of all compared models.
        before = torch.cuda.memory_allocated(model.device)
        time_clips(model, feature_extractor, clips)
        return torch.cuda.max_memory_allocated(model.device) - before + model.get_memory_footprint()
    if model.device.type != "cpu":
        raise ValueError(f"memory is not measured on {model.device.type}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(
            _peak_of_this_process, path, model.dtype, clip_seconds, batch_size, torch.get_num_threads()
        ).result()


def model_bytes(folder: str | Path) -> int | None:
    """Return the size in bytes of the files that `from_pretrained` needs; `None` if the folder does not exist."""
    if not Path(folder).is_dir():
        return None
    names = {CONFIG_NAME, FEATURE_EXTRACTOR_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME}
    files = [path for path in Path(folder).iterdir() if path.suffix == ".safetensors" or path.name in names]
    return sum(path.stat().st_size for path in files)


def describe_machine(device: torch.device) -> dict[str, str | int | bool]:
    """Return the `device`'s name, `is_gpu`, CPU `threads`, and versions of `python`, `torch` and `transformers`."""
    gpu = f"{torch.cuda.get_device_name(device)} with " if device.type == "cuda" else ""
    return {
        "device": f"{gpu}{processor_name()}",
        "is_gpu": device.type == "cuda",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _peak_of_this_process(
    path: str | Path, dtype: torch.dtype, clip_seconds: float, batch_size: int, num_threads: int
) -> int:
    """Return the peak resident memory in bytes after one batch."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    disable_progress_bar()
    torch.set_num_threads(num_threads)
    model, feature_extractor = load_classifier(path)
    model.to(dtype)
    time_clips(model, feature_extractor, make_noise(feature_extractor, batch_size, clip_seconds, seed=0))
    return peak_memory()


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, ru_maxrss includes the peak of the parent process.
        return next(
            1024 * int(line.split()[1]) for line in status.read_text(encoding="utf-8").splitlines() if "VmHWM" in line
        )
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its computations."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
