# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
False alarms per hour: detections of a trained model on background sounds.

    noise      |------ a minute of one kind at one level ------|------ the next minute ------| ...
    windows    |--owl--|--owl--|-------|-owl--|-fox--|-------|
    detections  1: owl           2: owl  3: fox

Each minute has the next kind of [`KINDS`], at levels from loud to faint. The noise differs from that of training: it
has other parameter ranges, and includes kinds that training never uses. Held-out recordings of `--background_dir` are
counted separately.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from transformers import FeatureExtractionMixin, PreTrainedModel, Trainer
from transformers.utils import logging

from sanet_hf.architectures import find_window_seconds
from sanet_hf.inference.prediction import predict
from sanet_hf.inference.windows import THRESHOLD, Prediction, window_classes
from sanet_hf.training.data.background_labels import Background
from sanet_hf.training.data.noises import KINDS, make_noise
from sanet_hf.training.evaluation.alarm_counts import MOST_PER_HOUR, Count, FalseAlarms


logger = logging.get_logger(__name__)

MINUTES, SECONDS_OF_PIECE = 60, 60.0
# Levels in dBFS.
LEVELS = (-15.0, -27.0, -40.0, -52.0, -64.0)
# Largest number of windows per training clip. Only the forward pass is computed, so this takes a tenth of the time.
WINDOWS_OF_CLIP = 0.25
RECORDED = "recorded"
# Makes the noise different from that of training with the same seed.
SEED = 7_000_003


def measure_false_alarms(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    minutes: int = MINUTES,
    seed: int = 0,
    files: Sequence[str] = (),
    alike: Mapping[str, str] | None = None,
    has_background: bool = False,
) -> FalseAlarms | None:
    """
    Run a classifier on background and count its detections as in [`predict`], in windows without overlap. A detection
    is a score above the model's threshold (multi-label) or of at least 0.5 (single-label). Adjacent windows with the
    same class are one detection.

    Args:
        model, feature_extractor: As [`~sanet_hf.inference.load_classifier`] returns them.
        minutes: Minutes of generated noise. Each has the next kind, so that fewer minutes than [`KINDS`] omit some.
        seed: Seed of the noise.
        files: Recordings of background.
        alike, has_background: As in [`FalseAlarms`].

    Returns:
        The counts, or `None` if there are no minutes of noise that count.
    """
    labels = set(model.config.id2label.values()) - {getattr(model.config, "background_label", None)}
    # Noise that is called like a class, such as rain, may be detected as this class.
    alike = {label.lower(): label for label in labels if label.lower() in KINDS} | dict(alike or {})
    plan = [
        (KINDS[index % len(KINDS)], LEVELS[(index + index // len(KINDS)) % len(LEVELS)]) for index in range(minutes)
    ]
    if all(kind in alike for kind, _ in plan):
        return None
    min_score = None if model.config.problem_type == "multi_label_classification" else THRESHOLD
    rate = feature_extractor.sampling_rate

    def make_pieces() -> Iterator[np.ndarray]:
        for index, (kind, level) in enumerate(plan):
            generator = np.random.default_rng([SEED, seed, index])
            yield make_noise(kind, generator, round(SECONDS_OF_PIECE * rate), rate, level, is_held_out=True)

    predictions = predict(model, feature_extractor, make_pieces(), min_score=min_score)
    by_kind: dict[str, list[Prediction]] = {}
    for (kind, _), prediction in zip(plan, predictions, strict=True):
        by_kind.setdefault(kind, []).append(prediction)
    counts = [_count(kind, own) for kind, own in by_kind.items()]
    own = [p for p in predict(model, feature_extractor, list(files), min_score=min_score) if p.error is None]
    recorded = _count(RECORDED, own) if own else None
    return FalseAlarms(counts, recorded, min_score, alike, has_background)


def count_detections(prediction: Prediction) -> tuple[Counter, int]:
    """Return the number of detections per class in a recording, and the number of windows with a detection."""
    classes = window_classes(prediction)
    detections = Counter()
    for before, now in pairwise([frozenset(), *classes]):
        detections.update(prediction.labels[index] for index in now - before)
    return detections, sum(map(bool, classes))


def _count(kind: str, predictions: Sequence[Prediction]) -> Count:
    detections, num_detected = Counter(), 0
    for prediction in predictions:
        own, num_own = count_detections(prediction)
        detections.update(own)
        num_detected += num_own
    seconds = sum(prediction.duration for prediction in predictions)
    num_windows = sum(len(prediction.windows) for prediction in predictions)
    return Count(kind, seconds / 3600, dict(detections.most_common()), num_windows, num_detected)


def choose_minutes(wanted: int | None, num_clips: float, window_seconds: float) -> int:
    """
    Return the number of minutes of noise to test on.

    Args:
        wanted: Value of the option (default: 60, or fewer after a short training).
        num_clips: Number of training clips, over all epochs.
        window_seconds: Length of a window.
    """
    if wanted is not None:
        return wanted
    return min(MINUTES, int(WINDOWS_OF_CLIP * num_clips * window_seconds / SECONDS_OF_PIECE))


def print_false_alarms(result: FalseAlarms) -> None:
    """Print the result to stderr, with a warning if there are too many false alarms."""
    print(result.summary, file=sys.stderr)
    if result.advice is not None:
        logger.warning(f"More than {MOST_PER_HOUR:g} false alarms per hour. {result.advice}")


def check_on_background(model: PreTrainedModel, trainer: Trainer, background: Background) -> FalseAlarms | None:
    """
    Count the false alarms of a trained model, and print the result.

    Args:
        model: The saved model.
        trainer: Trainer after training.
        background: Background clips that were added to the recordings.

    Returns:
        The counts, or `None` if the training was too short for a minute of noise, or the option is 0.
    """
    arguments, feature_extractor = trainer.args, trainer.processing_class
    clips = trainer.state.global_step * arguments.train_batch_size * arguments.gradient_accumulation_steps
    window_seconds = find_window_seconds(model, feature_extractor)
    minutes = choose_minutes(arguments.false_alarm_minutes, clips * arguments.world_size, window_seconds)
    result = measure_false_alarms(
        model,
        feature_extractor,
        minutes,
        arguments.seed,
        background.test_files if minutes else [],
        background.alike,
        has_background=bool(background.counts) or getattr(model.config, "background_label", None) is not None,
    )
    if result is not None:
        print_false_alarms(result)
    return result
