# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Choose how to train a SANet from the recordings and the time. `sanet train` does this without a configuration file.

Choices and reasons are written to `recipe.yaml` in the folder of the run, which then uses it as its configuration
file. They are based on measurements with `python -m benchmarks.accuracy`; docs/accuracy.md has the tables.
"""

import dataclasses
import json
import logging
import math
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.modeling_sanet import SANetForAudioClassification
from sanet_hf.pretrained import DEFAULT, find_model, model_names
from sanet_hf.training.arguments import FEW_RECORDINGS, AudioTrainingArguments, DataArguments, ModelArguments
from sanet_hf.training.data.labels import label_names
from sanet_hf.training.data.load import load_recordings
from sanet_hf.training.models import check_regression, read_model_type, read_sampling_rate, read_window_seconds
from sanet_hf.training.run_folder import DURATIONS, GIVEN, OPTIONS_FILE, RECIPE_FILE, check_output, is_cross_validation
from sanet_hf.utils.files import write_atomically
from sanet_hf.utils.formatting import format_duration


# Channels of the blocks on the spectrogram, and the smallest number of training recordings for which they are chosen.
WIDTHS = {"narrow": ([16, 32, 64, 128], 0), "wide": ([32, 64, 128, 256], 3000)}
# Window of the spectrogram at 16 kHz. At other rates, it is the power of two with the closest duration.
WINDOW_SECONDS = 1024 / 16000
LONGEST_SECONDS, SHORTEST_SECONDS = 2.048, 0.512
BATCH_SIZE = 16
# On a few hundred recordings, more steps gained nothing. The steps are converted to epochs within these bounds.
STEPS, MIN_EPOCHS, MAX_EPOCHS = 3000, 30, 150
# With a few dozen recordings, even more epochs are still few steps.
FEWEST_STEPS, MAX_EPOCHS_OF_FEW = 2000, 500
# Steps from a pretrained network.
PRETRAINED_STEPS = 1200
DEFAULT_MINUTES = 30.0
MEASURED_STEPS, MAX_MEASURING = 8, 3.0  # seconds
# Fraction of the time that the estimated steps may take. The rest is for reading and augmentation (46 of
# 175 ms of processor time per step of sanet-tiny on one thread of an AMD EPYC), evaluation, and a busy processor.
USED_PART = 0.75
MAX_POSITIONS = 4096


class Facts(NamedTuple):
    """
    Properties of the recordings that determine the choices.

    Attributes:
        seconds: Length of each training recording.
        num_validation: Recordings in the validation split.
        num_classes: Number of classes.
        sampling_rate: In Hz.
    """

    seconds: np.ndarray
    num_validation: int
    num_classes: int
    sampling_rate: int


class Choice(NamedTuple):
    """The value of an option and the reason for it."""

    value: object
    reason: str


def choose_recipe(
    facts: Facts,
    batch_size: int = BATCH_SIZE,
    max_minutes: float | None = None,
    seconds_per_step: float | None = None,
    max_length_seconds: float | None = None,
    start: str | None = None,
    fits_head: bool = True,
) -> dict[str, Choice]:
    """
    Choose the options of `sanet train` for some recordings.

    Args:
        facts: The recordings.
        batch_size: Clips per step.
        max_minutes: Time limit of the training, if given. It replaces the number of epochs.
        seconds_per_step: As [`measure_step`] returns it, if it was measured.
        max_length_seconds: Clip length, if given.
        start: SANet checkpoint from which the training starts.
        fits_head: Whether to fit the head of a shipped network first (`head_first`).

    Returns:
        Choices by the name of the option, in the order of the file.
    """
    num_recordings = len(facts.seconds)
    width, dim = choose_width(num_recordings)
    stretch = choose_stretch(facts) if max_length_seconds is None else max_length_seconds
    # A checkpoint of the user keeps its padding.
    is_own = start is not None and start not in model_names()
    if start is None:
        network = make_network(dim, facts.sampling_rate, stretch)
        reason = f"the best of the networks tested on up to {WIDTHS['wide'][1]:,} recordings"
        choices = {
            "model_type": Choice("sanet", "the architecture of this project"),
            "config_overrides": Choice(network, f"{width} two-dimensional blocks on a log-mel spectrogram: {reason}"),
        }
    else:
        choices = {"model_name_or_path": Choice(start, "a pretrained network")}
        if fits_head and not is_own:
            choices["head_first"] = Choice(
                True,
                "fits a head in seconds; training starts from it, and it is kept if training makes it clearly worse",
            )
    choices |= {
        "max_length_seconds": Choice(
            stretch,
            f"random clips of this length in training, windows in evaluation: {_explain_length(facts, start)}",
        ),
        **({} if is_own else {"padding": _choose_padding(facts, stretch)}),
        "per_device_train_batch_size": Choice(batch_size, "small batches give more steps"),
        "learning_rate": Choice(1e-3, "for AdamW and networks of this size"),
        "lr_scheduler_type": Choice("cosine", "decays to zero"),
        "warmup_steps": Choice(0.05, "fraction of all steps"),
        "weight_decay": Choice(0.05, "applies to weights with more than one dimension"),
        "max_grad_norm": Choice(1.0, "limits rare large gradients"),
        "mixup_alpha": Choice(1.0, "mixes pairs of clips: gains several points on few recordings"),
        "augmentations": Choice(
            [
                {"Resample": {"min_speed": 0.8, "max_speed": 1.25, "p": 0.6}},
                {"SevenBandParametricEQ": {"min_gain_db": -6, "max_gain_db": 6, "p": 0.5}},
                {"AddGaussianSNR": {"min_snr_db": 15, "max_snr_db": 40, "p": 0.3}},
                {"PolarityInversion": {"p": 0.5}},
            ],
            "vary speed and pitch, microphone, noise and polarity",
        ),
    }
    steps_per_epoch = max(1, -(-num_recordings // batch_size))
    epochs, reason = choose_epochs(steps_per_epoch, seconds_per_step, will_refit(facts), start is not None)
    if max_minutes is None:
        choices["num_train_epochs"] = Choice(epochs, reason)
    choices |= {
        "averaged_fraction": Choice(0.3, "the average of the last weights is more stable than the best epoch"),
        "load_best_model_at_end": Choice(False, "few validation recordings select the best epoch by chance"),
        "refit": _choose_refit(facts),
        "eval_strategy": Choice("no", "no epoch is selected"),
        "save_strategy": Choice("steps", "saves checkpoints, so that an interrupted training can resume"),
        "save_steps": Choice(
            0.1, "fraction of all steps; late checkpoints recompute BatchNorm statistics, which takes time"
        ),
        "save_total_limit": Choice(
            1, "only the last checkpoint is needed to resume; before a refit, the last two are kept"
        ),
        "logging_strategy": Choice("epoch", "one point of the loss curve per epoch"),
    }
    return choices


def choose_width(num_recordings: int) -> tuple[str, list[int]]:
    """Return the name and the channels of the widest network for this number of training recordings."""
    return next((name, dim) for name, (dim, fewest) in reversed(WIDTHS.items()) if num_recordings >= fewest)


def choose_stretch(facts: Facts) -> float:
    """
    Return the clip length in seconds: the 75th percentile of the recordings, within limits, rounded up to whole frames
    of the last block.
    """
    longest = float(np.quantile(facts.seconds, 0.75)) if len(facts.seconds) else LONGEST_SECONDS
    frame = _window(facts.sampling_rate) * 2 / facts.sampling_rate
    seconds = min(max(longest, SHORTEST_SECONDS), LONGEST_SECONDS)
    return round(max(1, int(np.ceil(seconds / frame - 1e-6))) * frame, 6)


def _choose_padding(facts: Facts, stretch: float) -> Choice:
    short = float(np.mean(facts.seconds < stretch)) if len(facts.seconds) else 0.0
    if short <= 0.5:
        return Choice("longest", "most recordings fill a clip")
    return Choice(
        "max_length", f"{short:.0%} of the recordings are shorter than a clip, so that duration is a feature"
    )


def make_network(dim: list[int], sampling_rate: int, stretch: float) -> dict[str, object]:
    """Return the [`SANetConfig`] options of a network on a spectrogram."""
    window = _window(sampling_rate)
    # Windows in evaluation and prediction may be four times as long as clips in training.
    positions = int(np.ceil(4 * stretch * sampling_rate / (window * 8)))
    return {
        "spectrogram_dim": dim,
        "spectrogram_pool": [[1, 1], [2, 2], [2, 2], [2, 2]],
        "num_mel_bins": 64,
        "spectrogram_window": window,
        "spectrogram_stride": window // 4,
        "spectrogram_sampling_rate": sampling_rate,
        "conv_dim": [],
        "conv_kernel": [],
        "conv_stride": [],
        "attention_after": [-1],
        "attention_dim": [dim[-1] // 2],
        "max_position_embeddings": min(max(positions, 8), MAX_POSITIONS),
        "pool_hidden_size": 64,
        "classifier_hidden_sizes": [128],
    }


def _window(sampling_rate: int) -> int:
    """Return the window of the spectrogram in samples."""
    return max(256, 2 ** round(np.log2(WINDOW_SECONDS * sampling_rate)))


def choose_epochs(
    steps_per_epoch: int, seconds_per_step: float | None, is_refit: bool, is_pretrained: bool = False
) -> tuple[int, str]:
    """Return the number of epochs and the reason: enough steps, within the time."""
    steps, fewest = (PRETRAINED_STEPS, PRETRAINED_STEPS) if is_pretrained else (STEPS, FEWEST_STEPS)
    epochs = min(max(round(steps / steps_per_epoch), MIN_EPOCHS), MAX_EPOCHS)
    epochs = max(epochs, min(round(fewest / steps_per_epoch), MAX_EPOCHS_OF_FEW))
    reason = f"about {epochs * steps_per_epoch:,} steps; more gained little in our measurements"
    if seconds_per_step is None:
        return epochs, reason
    trainings = 2 if is_refit else 1
    allowed = int(DEFAULT_MINUTES * 60 * USED_PART / (steps_per_epoch * seconds_per_step * trainings))
    estimate = f"the network takes {1000 * seconds_per_step:.0f} ms per step here"
    if allowed < epochs:
        epochs = max(allowed, 1)
        reason = f"as many as fit into {DEFAULT_MINUTES:.0f} minutes ({estimate}); --max_minutes allows more"
    else:
        minutes = format_duration(epochs * steps_per_epoch * seconds_per_step * trainings)
        both = "both trainings" if is_refit else "training"
        reason += f"; {estimate}: at least {minutes} for {both}, plus reading, augmentation and evaluation"
    return epochs, reason


def will_refit(facts: Facts) -> bool:
    """Return whether the final network is trained on training and validation recordings together."""
    return 0 < facts.num_validation and len(facts.seconds) < FEW_RECORDINGS


def measure_step(choices: Mapping[str, Choice], facts: Facts, arguments: AudioTrainingArguments) -> float:
    """
    Measure the seconds of a training step on noise, on the device of the training. Return the minimum of a few steps,
    because another program may use the processor for a moment.
    """
    stretch = choices["max_length_seconds"].value
    if "config_overrides" in choices:
        config = SANetConfig(**choices["config_overrides"].value)
    else:
        config = SANetConfig.from_pretrained(find_model(choices["model_name_or_path"].value))
    config.num_labels, config.use_band_statistics = max(2, facts.num_classes), False
    device = arguments.device
    random_state = torch.get_rng_state()
    model = SANetForAudioClassification(config).to(device).train()
    samples = round(stretch * facts.sampling_rate)
    clips = 0.1 * torch.randn(choices["per_device_train_batch_size"].value, samples, device=device)
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16
    seconds, end = math.inf, time.perf_counter() + MAX_MEASURING
    # The first step prepares kernels.
    for step in range(MEASURED_STEPS + 1):
        start = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=arguments.bf16 or arguments.fp16):
            logits = model(clips).logits
        logits.float().square().mean().backward()
        # Waits for the device.
        logits.sum().item()
        now = time.perf_counter()
        seconds = min(seconds, now - start)
        if now > end and step > 0:
            break
    torch.set_rng_state(random_state)
    return seconds


def find_recipe(
    model: ModelArguments, data: DataArguments, training: AudioTrainingArguments, given: Collection[str]
) -> Path | None:
    """
    Return the recipe of a run without a configuration file: the one in its folder, or a new one, which is printed.
    Return None if the run was started without a recipe.

    Args:
        model, data, training: Options of the run so far.
        given: Names of the given options, which are not chosen.

    Raises:
        DataError: There is nothing to train on.
        UsageError: The folder of the run cannot be used.
    """
    model_type = read_model_type(model)
    if training.head_only:
        check_regression(
            dataclasses.replace(model, model_name_or_path=model.model_name_or_path or DEFAULT), data, training
        )
    if model_type != SANetConfig.model_type:
        return None
    if data.streaming or data.samples_per_class is not None or not 0 < data.max_length_seconds < math.inf:
        return None
    path = Path(training.output_dir) / RECIPE_FILE
    is_new = training.overwrite_output_dir or not (
        (path.parent / OPTIONS_FILE).is_file() or is_cross_validation(path.parent)
    )
    if not is_new and not path.is_file():
        # A run that was started without a recipe resumes without one.
        return None
    is_main = training.process_index == 0
    with training.main_process_first(local=False, desc="choosing a recipe"):
        if not is_main or not is_new:
            return path
        check_output(path.parent, data)
        given_start = model.model_name_or_path or (DEFAULT if training.head_only else None)
        facts = find_facts(data, read_sampling_rate(dataclasses.replace(model, model_name_or_path=given_start)))
        start = given_start or _choose_start(facts, model, data, given)
        if training.head_only:
            choices = choose_head_recipe(facts, start)
        else:
            choices = _choose_training(facts, data, training, given, start)
        options = {name: value for part in (model, data, training) for name, value in vars(part).items()}
        write_recipe(choices, {name: options[name] for name in given if name in options}, path)
        print(f"Chosen for {len(facts.seconds)} training recordings ({path}):", file=sys.stderr)
        print(summarize(choices, given), file=sys.stderr)
    return path


def _choose_start(facts: Facts, model: ModelArguments, data: DataArguments, given: Collection[str]) -> str | None:
    """Return the shipped network if it suits the recordings and options; None to train from scratch."""
    is_large = len(facts.seconds) >= WIDTHS["wide"][1]
    if model.from_scratch or is_large or {"config_overrides", "model_type"} & set(given):
        return None
    config = SANetConfig.from_pretrained(find_model(DEFAULT))
    is_too_long = "max_length_seconds" in given and (
        data.max_length_seconds * config.spectrogram_sampling_rate > config.max_input_samples
    )
    return None if is_too_long or facts.sampling_rate != config.spectrogram_sampling_rate else DEFAULT


def _choose_training(
    facts: Facts,
    data: DataArguments,
    training: AudioTrainingArguments,
    given: Collection[str],
    start: str | None,
) -> dict[str, Choice]:
    options = {
        "start": start,
        # Fitting a head needs all weights in one process.
        "fits_head": not (training.fsdp or training.deepspeed),
        "batch_size": training.per_device_train_batch_size if "per_device_train_batch_size" in given else BATCH_SIZE,
        "max_minutes": training.max_minutes,
        "max_length_seconds": data.max_length_seconds if "max_length_seconds" in given else _trained_length(start),
    }
    choices = choose_recipe(facts, **options)
    if training.max_minutes is None and not given & {"num_train_epochs", "max_steps", "config_overrides"}:
        choices = choose_recipe(facts, **options, seconds_per_step=measure_step(choices, facts, training))
    return choices


def _explain_length(facts: Facts, start: str | None) -> str:
    if start in (None, *model_names()):
        return f"half of the recordings are up to {np.median(facts.seconds):.3g} s long"
    return f"the clip length of {start}; change it with --max_length_seconds"


def _trained_length(start: str | None) -> float | None:
    """Return the clip length in seconds of a user's checkpoint; None for a shipped network or no checkpoint."""
    return None if start in (None, *model_names()) else read_window_seconds(start)


def choose_head_recipe(facts: Facts, start: str) -> dict[str, Choice]:
    """Choose the options to fit only the head, in the form of [`choose_recipe`]."""
    stretch = _trained_length(start) or choose_stretch(facts)
    return {
        "head_only": Choice(True, "the rest of the network stays unchanged"),
        "model_name_or_path": Choice(start, "the network that computes the embeddings"),
        "max_length_seconds": Choice(stretch, f"windows: {_explain_length(facts, start)}"),
        "refit": _choose_refit(facts),
    }


def _choose_refit(facts: Facts) -> Choice:
    if not facts.num_validation:
        return Choice("false", "there is no validation split")
    return Choice(
        "auto", f"below {FEW_RECORDINGS:,} recordings, the final training includes the validation recordings"
    )


def find_facts(arguments: DataArguments, sampling_rate: int) -> Facts:
    """Read the recordings, as the training will, and return the properties that determine the choices."""
    if arguments.fold is None:
        arguments = dataclasses.replace(arguments, folds=None, fold_pattern=None)
    # The training reads the recordings again and gives the same warnings.
    logging.disable(logging.WARNING)
    try:
        recordings = load_recordings(arguments, sampling_rate)
    finally:
        logging.disable(logging.NOTSET)
    train = recordings["train"]
    num_validation, num_classes = len(recordings.get("validation", ())), len(label_names(train))
    return Facts(np.array(train["seconds"]), num_validation, num_classes, sampling_rate)


def write_recipe(choices: Mapping[str, Choice], given: Mapping[str, object], path: Path) -> None:
    """
    Write a configuration file with a reason above each option. Options `given` as flags replace choices, so that the
    file alone repeats the training.
    """
    lines = [
        "# Chosen by `sanet train` for these recordings and this machine. To use it for other recordings:",
        "#   sanet train recipe.yaml --data_dir FOLDER --output_dir RUN",
    ]
    is_given = {name: Choice(given[name], GIVEN) for name in (*choices, *DURATIONS) if name in given}
    for name, (value, reason) in (choices | is_given).items():
        lines += [f"# {reason}", f"{name}: {json.dumps(value)}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def summarize(choices: Mapping[str, Choice], given: Collection[str]) -> str:
    """Return the important choices for the console, one per line."""
    shown = ("model_name_or_path", "config_overrides", "max_length_seconds", "padding", "num_train_epochs", "refit")
    lines = []
    for name in shown:
        if name in choices and name not in given:
            value = "a network" if name == "config_overrides" else f"{name} {choices[name].value}"
            lines.append(f"  {value}: {choices[name].reason}")
    return "\n".join(lines)
