# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training waveforms by audiomentations, from a list of transforms in YAML."""

import math
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
from huggingface_hub import cached_assets_path
from tqdm.auto import tqdm
from transformers.utils import logging

from sanet_hf.errors import UsageError
from sanet_hf.utils.files import write_atomically


logger = logging.get_logger(__name__)

Augmentation = Callable[[np.ndarray], np.ndarray]

NUM_ROOMS = 64
# Parameters that name files or folders of sounds, and the file formats that audiomentations supports there.
PATHS = ("ir_path", "sounds_path")
SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav")
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
MP3_BACKEND = "fast-mp3-augment"  # audiomentations' default; the others are deprecated


def make_augmentation(transforms: Sequence[Mapping], sampling_rate: int) -> Augmentation | None:
    """
    Make a chain of audiomentations transforms.

    `ApplyImpulseResponse` without an `ir_path` uses simulated rooms; see [`simulated_rooms`]. `Resample` also supports
    `min_speed` and `max_speed`, which are independent of the sampling rate.

    Args:
        transforms: Mappings of one transform's name to its parameters, in the order in which they are applied.
        sampling_rate: In Hz.

    Returns:
        A function that changes a waveform of shape (samples,). It uses Python's and NumPy's random generators; see
        [`seeded`]. Its attribute `shortening` is the largest factor by which it shortens a waveform. None if there are
        no transforms.

    Raises:
        UsageError: A transform does not exist, does not support the parameters, or needs a missing package.
    """
    if not transforms:
        return None
    # Imported late, because it loads librosa, which is slow.
    import audiomentations

    chain = []
    for entry in transforms:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UsageError(f"augmentations: {entry!r} is not of the form Name: {{parameter: value}}.")
        ((name, parameters),) = entry.items()
        transform = getattr(audiomentations, str(name), None)
        if not isinstance(transform, type):
            raise UsageError(f"augmentations: audiomentations has no transform {name!r}.")
        if not isinstance(parameters, Mapping | None):
            raise UsageError(f"augmentations: {name}: {parameters!r} is not of the form {{parameter: value}}.")
        parameters = dict(parameters or {})
        if name == "ApplyImpulseResponse" and "ir_path" not in parameters:
            parameters["ir_path"] = simulated_rooms(sampling_rate)
        _fit_to_rate(name, parameters, sampling_rate)
        # The error message of audiomentations names another package.
        is_compressed = name == "Mp3Compression" and parameters.get("backend", MP3_BACKEND) == MP3_BACKEND
        if is_compressed and find_spec("fast_mp3_augment") is None:
            raise UsageError(f'augmentations: {name} needs {MP3_BACKEND}: pip install "sanet-hf[prepare]".')
        for parameter in PATHS:
            _check_sounds(name, parameter, parameters.get(parameter))
        try:
            chain.append(transform(**parameters))
            _try(transform(**{**parameters, "p": 1.0}), sampling_rate)
        except Exception as error:  # Transforms raise many kinds of errors for wrong parameters.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"augmentations: {name}: {reason}") from error
    augment = partial(audiomentations.Compose(chain), sample_rate=sampling_rate)
    augment.shortening = math.prod(_shortening(transform, sampling_rate) for transform in chain)
    return augment


def _shortening(transform: Callable, sampling_rate: int) -> float:
    """Return the largest factor by which a transform shortens a waveform."""
    name = type(transform).__name__
    if name == "Resample":
        return max(1.0, sampling_rate / transform.min_sample_rate)
    if name == "TimeStretch" and not transform.leave_length_unchanged:
        return max(1.0, transform.max_rate)
    return 1.0


def _check_sounds(name: str, parameter: str, value: object) -> None:
    """Raise a UsageError if files or folders of sounds are missing, or contain no sounds."""
    for path in [value] if isinstance(value, (str, Path)) else value or []:
        if not Path(path).exists():
            raise UsageError(f"augmentations: {name}: {parameter} {path}: folder not found.")
        if Path(path).is_dir() and not any(file.suffix.lower() in SOUNDS for file in Path(path).rglob("*")):
            raise UsageError(
                f"augmentations: {name}: {parameter} {path}: the folder contains no sounds ({', '.join(SOUNDS)})."
            )


def _try(transform: Callable, sampling_rate: int) -> None:
    """Apply a transform once, to import its packages and to check its parameters at the sampling rate."""
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform(np.random.default_rng(0).normal(0, 0.1, sampling_rate).astype(np.float32), sampling_rate)


def _fit_to_rate(name: str, parameters: dict, sampling_rate: int) -> None:
    """Set parameters that depend on the sampling rate, and raise a UsageError for those that do not fit it."""
    if name == "Resample":
        speeds = {key: parameters.pop(key) for key in ("min_speed", "max_speed") if key in parameters}
        if speeds and not all(isinstance(speed, (int, float)) and speed > 0 for speed in speeds.values()):
            raise UsageError(f"augmentations: {name}: min_speed and max_speed must be above 0, not {speeds}.")
        if speeds:
            # A clip that is resampled to a lower rate and played at the old rate is faster and higher.
            parameters["min_sample_rate"] = round(sampling_rate / speeds.get("max_speed", 1))
            parameters["max_sample_rate"] = round(sampling_rate / speeds.get("min_speed", 1))
        lowest, highest = (parameters.get(f"{end}_sample_rate", sampling_rate) for end in ("min", "max"))
        if isinstance(lowest, int) and isinstance(highest, int) and not lowest <= sampling_rate <= highest:
            logger.warning(
                f"augmentations: {name} from {lowest} to {highest} Hz makes every clip {sampling_rate / highest:.2g} "
                f"to {sampling_rate / lowest:.2g} times as fast, because the sampling rate of the model is "
                f"{sampling_rate} Hz. Use min_speed and max_speed instead, such as 0.85 and 1.18."
            )
    if name == "Mp3Compression" and sampling_rate not in MP3_RATES:
        raise UsageError(
            f"augmentations: {name}: MP3 does not support a sampling rate of {sampling_rate} Hz, only "
            f"{', '.join(map(str, MP3_RATES))}. Leave it out."
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's random generators, which audiomentations uses, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def simulated_rooms(sampling_rate: int) -> Path:
    """
    Return a folder of impulse responses of shoebox rooms, from a small office to a hall, with reverberation times of
    0.15 to 0.8 s. pyroomacoustics computes them once by the image source method; huggingface_hub's cache keeps them.

    Source: Scheibler et al., Pyroomacoustics, ICASSP 2018; Allen and Berkley, Image method for efficiently simulating
    small-room acoustics, JASA 1979.

    Raises:
        UsageError: pyroomacoustics is not installed.
    """
    folder = cached_assets_path("sanet_hf", "impulse_responses", f"{NUM_ROOMS}_rooms_{sampling_rate}_hz")
    paths = [folder / f"room_{index:02d}.wav" for index in range(NUM_ROOMS)]
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    if not missing:
        return folder
    try:
        import pyroomacoustics
    except ImportError as error:
        raise UsageError(
            "The augmentation ApplyImpulseResponse of the configuration file simulates rooms, which needs "
            'pyroomacoustics: pip install "sanet-hf[prepare]". Or set its ir_path to a folder of recorded impulse '
            "responses, or remove it."
        ) from error
    for index in tqdm(missing, desc="Simulating rooms", unit="room"):
        response = _simulate_room(pyroomacoustics, np.random.default_rng(index), sampling_rate)
        # Several processes may write it at the same time.
        with write_atomically(paths[index], paths[index].with_suffix(f".{os.getpid()}.tmp")) as file:
            soundfile.write(file, response, sampling_rate, subtype="FLOAT", format="WAV")
    return folder


def _simulate_room(pyroomacoustics, generator: np.random.Generator, sampling_rate: int) -> np.ndarray:
    size = generator.uniform([3, 3, 2.4], [10, 8, 4])  # m
    while True:
        try:
            absorption, max_order = pyroomacoustics.inverse_sabine(generator.uniform(0.15, 0.8), size)
            break
        except ValueError:
            continue  # A large room cannot have such a short reverberation time.
    room = pyroomacoustics.ShoeBox(
        size, fs=sampling_rate, materials=pyroomacoustics.Material(absorption), max_order=min(max_order, 40)
    )
    # At least 0.5 m from the walls.
    source, microphone = (generator.uniform(0.5, size - 0.5) for _ in range(2))
    room.add_source(source)
    room.add_microphone(microphone)
    room.compute_rir()
    response = room.rir[0][0]
    # The direct sound is the first sample and at full level, so that clips keep their position and loudness.
    response = response[np.argmax(np.abs(response)) :]
    return (response / np.abs(response).max()).astype(np.float32)
