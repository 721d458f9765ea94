# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Examples of an augmentation: audio files and spectrograms."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import yaml

from sanet_hf.audio.decode import load_audio
from sanet_hf.errors import UsageError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE, SANetFeatureExtractor
from sanet_hf.training.config_files import find_config, parse_augmentations
from sanet_hf.training.data.augmentation import Augmentation, make_augmentation, seeded
from sanet_hf.utils.plot_style import style


def write_examples(
    file: Path,
    output_dir: Path,
    config: str,
    num_examples: int = 8,
    seed: int = 0,
    sampling_rate: int = DEFAULT_SAMPLING_RATE,
) -> None:
    """
    Write `original.wav`, `1.wav`, `2.wav`, ... after loudness normalisation, and `examples.png` with their
    spectrograms and the applied transforms.

    Args:
        file: Recording to augment.
        output_dir: Output folder.
        config: YAML file, or the name of a file of the package, with `augmentations` and
            `augmentations_after_normalization`.
        num_examples: Number of examples in addition to the original.
        seed: Seed of the random parameters.
        sampling_rate: Sampling rate of the model to train in Hz.

    Raises:
        UsageError: The YAML file cannot be read or contains no augmentation.
        AudioError: The recording cannot be read.
    """
    path = find_config(config)
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from error
    lists = [
        parse_augmentations(options.get(name) if isinstance(options, Mapping) else None)
        for name in ("augmentations", "augmentations_after_normalization")
    ]
    if not any(lists):
        raise UsageError(f"{path} has neither augmentations nor augmentations_after_normalization. Add one of them.")
    feature_extractor = SANetFeatureExtractor(sampling_rate=sampling_rate, max_length=None)
    augment, augment_normalized = (make_augmentation(transforms, sampling_rate) for transforms in lists)
    waveform = load_audio(file, sampling_rate)
    output_dir.mkdir(parents=True, exist_ok=True)
    examples = {"original": (_normalize(waveform, feature_extractor), "unchanged")}
    for number in range(1, num_examples + 1):
        with seeded(int(np.random.SeedSequence([seed, number]).generate_state(1)[0])):
            changed = waveform if augment is None else augment(waveform)
            changed = _normalize(changed, feature_extractor)
            changed = changed if augment_normalized is None else augment_normalized(changed)
        done = [text for step in (augment, augment_normalized) if step is not None for text in _applied(step)]
        examples[str(number)] = changed, ", ".join(done) or "unchanged"
    for name, (changed, _) in examples.items():
        # Floating point, because gain can move samples above full scale.
        soundfile.write(output_dir / f"{name}.wav", changed, sampling_rate, subtype="FLOAT")
    _plot(examples, sampling_rate, output_dir / "examples.png")


def _normalize(waveform: np.ndarray, feature_extractor: SANetFeatureExtractor) -> np.ndarray:
    return feature_extractor(waveform, sampling_rate=feature_extractor.sampling_rate, padding=False)["input_values"][0]


def _applied(augment: Augmentation) -> list[str]:
    """Return the transforms of the last call with their parameters."""
    texts = []
    for transform in augment.func.transforms:
        parameters = {name: value for name, value in transform.parameters.items() if name != "should_apply"}
        if transform.parameters.get("should_apply"):
            values = [f"{value:.3g}" for value in parameters.values() if isinstance(value, float)]
            values += [Path(value).stem for value in parameters.values() if isinstance(value, (str, Path))]
            texts.append(f"{type(transform).__name__} {' '.join(values)}".strip())
    return texts


def _plot(examples: Mapping[str, tuple[np.ndarray, str]], sampling_rate: int, path: Path) -> None:
    # Imported here, because other commands do not draw.
    import matplotlib
    from matplotlib.figure import Figure

    seconds = max(len(waveform) for waveform, _ in examples.values()) / sampling_rate
    rows = -(-len(examples) // 3)
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(13, 2.4 * rows), layout="constrained")
        axes = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(examples) :]:
            axis.set_visible(False)
        for axis, (name, (waveform, text)) in zip(axes.flat, examples.items()):
            waveform = np.pad(waveform, (0, max(0, 512 - len(waveform))))
            # Faint noise, because the logarithm of silence is not finite. A constant has no power at most frequencies.
            waveform = waveform + 1e-7 * np.random.default_rng(0).standard_normal(len(waveform))
            axis.specgram(waveform, NFFT=512, noverlap=384, Fs=sampling_rate, vmin=-130, vmax=-30, cmap="magma")
            axis.yaxis.set_major_formatter(lambda hertz, _: f"{hertz / 1000:g}")
            axis.set_title(f"{name}: {text}", wrap=True)
            axis.set_xlim(0, seconds)
        figure.supxlabel("time (s)")
        figure.supylabel("frequency (kHz)")
        figure.savefig(path)
