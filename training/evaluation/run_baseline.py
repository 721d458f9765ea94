# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The baseline of a run: fitted to the training split before training, and compared with the network afterwards. If the
network is trained again with the validation split (`--refit`), the baseline is also fitted again.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from sanet_hf.audio.folders import SPLITS
from sanet_hf.errors import AudioError
from sanet_hf.training.arguments import AudioTrainingArguments, DataArguments
from sanet_hf.training.baseline import Baseline, fit
from sanet_hf.training.data.background_labels import background_name
from sanet_hf.training.data.folds import group_recordings
from sanet_hf.training.data.labels import is_multi_label, label_matrix
from sanet_hf.training.data.log_mel import MAX_SECONDS, NUM_STATISTICS, log_mel_statistics
from sanet_hf.training.data.rows import load_recording
from sanet_hf.training.evaluation.results import Evaluation, in_order
from sanet_hf.training.evaluation.statistics import BASELINE, compare_with_baseline, metric_interval
from sanet_hf.training.run_folder import METRIC_PREFIXES, are_epochs_chosen
from sanet_hf.utils.formatting import format_count


logger = logging.get_logger(__name__)

# To limit the time, larger splits are sampled, and only a shorter beginning of many long recordings is used.
MAX_TRAINING, MAX_TESTED = 5000, 2500
MAX_TOTAL_SECONDS, MIN_SECONDS = 10 * 3600.0, 5.0
# Number of recordings in memory at once, and of threads that read them.
NUM_AT_ONCE, NUM_THREADS = 16, 4
# What the baseline was fitted to, without and with refit.
FITTED_TO = (
    "the same training recordings as the network",
    "the training recordings, and for the results on test, like the network, also to the validation recordings",
)
TEST_ON_MORE = "Test on more recordings: --folds 5 tests on all of them."
# Statistics by content, sampling rate and length. The folds of a cross-validation share most recordings.
_known: dict[tuple[str, int, float], np.ndarray] = {}


@dataclass
class Examples:
    """
    Recordings as inputs of the baseline.

    Attributes:
        rows: Rows in the split, int of shape (recordings,).
        files: Names of the recordings.
        features: float32 of shape (recordings, NUM_STATISTICS).
        targets: Classes, 0/1 of shape (recordings, classes).
        groups: Group of each recording. Recordings of a group stay in one fold.
    """

    rows: np.ndarray
    files: Sequence[str]
    features: np.ndarray
    targets: np.ndarray
    groups: Sequence[str]


@dataclass
class RunBaseline:
    """
    The baseline of a run.

    Attributes:
        baseline: Fitted to the training split.
        examples: Examples by split.
        evaluations: Results of the validation and test splits.
        notes: Notes on recordings or parts that were not used.
        is_refit: Whether the baseline and the test results are those of [`refit_to_validation`].
    """

    baseline: Baseline
    examples: Mapping[str, Examples]
    evaluations: Mapping[str, Evaluation]
    notes: Sequence[str]
    is_refit: bool = False


def fit_to_recordings(
    recordings: Mapping[str, Dataset],
    label2id: Mapping[str, int],
    sampling_rate: int,
    arguments: DataArguments,
    is_balanced: bool = False,
) -> RunBaseline | None:
    """
    Fit the baseline to the training split and evaluate it on the others. It uses the first minute of each recording.

    From more than 5,000 training recordings, or 2,500 for evaluation, a random sample is used (the same in each run).
    If it is longer than 10 hours, less of the beginning of each recording is used, but at least 5 s.

    Args:
        recordings: Splits as [`load.load_recordings`] returns them.
        label2id: Classes of the model.
        sampling_rate: In Hz.
        arguments: Source and groups of the recordings.
        is_balanced: Whether every class has the same weight.

    Returns:
        The baseline; `None` if there are no held-out recordings, or none can be read.
    """
    if "train" not in recordings or len(recordings) < 2:
        return None
    chosen = {split: _choose(dataset, split) for split, dataset in recordings.items()}
    sizes = [np.array(recordings[split]["seconds"])[rows] for split, rows in chosen.items()]
    lengths = np.concatenate(sizes).clip(max=MAX_SECONDS)
    seconds = MAX_SECONDS
    if lengths.sum() > MAX_TOTAL_SECONDS:
        seconds = float(max(MIN_SECONDS, MAX_TOTAL_SECONDS // len(lengths)))
    notes = [
        f"{len(rows):,} random recordings of {len(recordings[split]):,} in {split} were used"
        for split, rows in chosen.items()
        if len(rows) < len(recordings[split])
    ]
    if seconds < lengths.max():
        notes.append(f"the first {seconds:g} s of each recording were used")
    examples = {}
    with tqdm(total=len(lengths), desc="Baseline", unit="file", delay=5) as bar:
        for split, rows in chosen.items():
            features, is_read = _measure(recordings[split], rows, sampling_rate, seconds, bar)
            if not is_read.any():
                return None
            rows = rows[is_read]
            dataset = recordings[split].select(rows)
            targets, groups = label_matrix(dataset, label2id), group_recordings(dataset, arguments)
            examples[split] = Examples(rows, dataset["file"][:], features[is_read], targets, groups)
    train, validation = examples["train"], examples.get("validation")
    several = is_multi_label(recordings["train"])
    baseline = fit(
        train.features,
        train.targets,
        train.groups,
        None if validation is None else (validation.features, validation.targets),
        several,
        is_balanced,
    )
    evaluations = {
        split: Evaluation(
            split=split,
            files=own.files,
            labels=sorted(label2id, key=label2id.get),
            references=own.targets if several else own.targets.argmax(axis=1),
            probabilities=baseline.predict_proba(own.features),
            background=background_name(arguments.background),
        )
        for split, own in examples.items()
        if split != "train"
    }
    return RunBaseline(baseline, examples, in_order(evaluations), notes)


def describe_baseline(run: RunBaseline) -> str:
    """Return a line such as `Baseline (..., fitted to train): accuracy 0.80 (0.70-0.87) on validation`."""
    parts = []
    for split, evaluation in run.evaluations.items():
        metric = "mAP" if evaluation.is_multi_label else "accuracy"
        value = evaluation.metrics[metric]
        low, high = metric_interval(evaluation, metric)
        name = "" if parts else f"{metric} "
        parts.append(f"{name}{value:.2f} ({low:.2f}-{high:.2f}) on {split}")
    notes = "".join(f"; {note}" for note in run.notes)
    return f"Baseline ({BASELINE}, fitted to train): {', '.join(parts)}{notes}"


def prepare_baseline(
    recordings: Mapping[str, Dataset],
    label2id: Mapping[str, int],
    sampling_rate: int,
    arguments: DataArguments,
    is_balanced: bool = False,
) -> RunBaseline | None:
    """Fit the baseline as in [`fit_to_recordings`]. Print its results, or the reason for its absence."""
    if arguments.streaming:
        print("No baseline: with --streaming, the training recordings are read only once.", file=sys.stderr)
        return None
    run = fit_to_recordings(recordings, label2id, sampling_rate, arguments, is_balanced)
    if run is not None:
        print(describe_baseline(run), file=sys.stderr)
    return run


def refit_to_validation(run: RunBaseline) -> RunBaseline:
    """
    Return a baseline that is fitted to the training and validation splits together, for a network that was trained on
    both. Its validation results are from before this fit.
    """
    train, validation, test = (run.examples.get(split) for split in SPLITS)
    if validation is None:
        return run
    features, targets = (
        np.concatenate([getattr(split, name) for split in (train, validation)]) for name in ("features", "targets")
    )
    baseline, evaluations = run.baseline.refit(features, targets), dict(run.evaluations)
    if test is not None:
        evaluations["test"] = dataclasses.replace(
            evaluations["test"], probabilities=baseline.predict_proba(test.features), metrics={}
        )
    return dataclasses.replace(run, baseline=baseline, evaluations=evaluations, is_refit=True)


def compare_run(
    run: RunBaseline,
    evaluations: Mapping[str, Evaluation],
    model: PreTrainedModel,
    arguments: AudioTrainingArguments,
    is_fold: bool = False,
) -> tuple[dict[str, Any] | None, dict[str, float]]:
    """
    Compare the network of a run with its baseline, and print the result.

    Args:
        run: Result of [`prepare_baseline`].
        evaluations: Evaluations of the network by split.
        model: The network.
        arguments: Options of its training.
        is_fold: Whether this is a run of a cross-validation, which will test on all recordings.

    Returns:
        The result of [`compare_with_baseline`], with `fitted_to`: the recordings of the baseline. And metrics for
        `all_results.json`: accuracy, macro F1 and, in multi-label data, mAP, with names such as
        `baseline_eval_accuracy` or `baseline_test_accuracy`, and `baseline_C`.
    """
    metrics = {
        f"baseline_{METRIC_PREFIXES[split]}_{metric}": evaluation.metrics[metric]
        for split, evaluation in run.evaluations.items()
        for metric in ("accuracy", "macro_f1", "mAP")
        if metric in evaluation.metrics
    }
    # The recipe chose a length at which more steps gained little.
    is_long = are_epochs_chosen(arguments.output_dir)
    advice = advise(model.config, arguments.mixup_alpha, arguments.head_only, is_long)
    comparison = compare_with_baseline(evaluations, run.evaluations, advice, "" if is_fold else TEST_ON_MORE)
    if comparison is not None:
        comparison["fitted_to"] = FITTED_TO[run.is_refit]
        print_comparison(comparison, run.is_refit)
    elif run.evaluations and evaluations:
        logger.warning("Cannot compare the network with the baseline: several recordings have the same name.")
    return comparison, {**metrics, "baseline_C": run.baseline.C}


def advise(config: PreTrainedConfig, mixup_alpha: float, head_only: bool = False, is_long: bool = False) -> str:
    """Return advice for a network that is not more accurate than the baseline. `is_long` omits a longer training."""
    if head_only:
        return "Try more recordings, or train the whole network (leave out --head_only)."
    steps = ["more recordings"]
    if not is_long:
        steps.append("longer training (--num_train_epochs or --max_minutes)")
    if config.model_type != "sanet":
        steps.append("a pretrained model (--model_name_or_path)")
    elif not config.spectrogram_dim:
        steps.append("the network for few recordings (sanet_spectrogram.yaml, or no configuration file)")
    if not mixup_alpha:
        steps.append("--mixup_alpha 1")
    *others, last = steps
    return f"Try {', '.join(others)} or {last}." if others else f"Try {last}."


def print_comparison(comparison: Mapping[str, Any], is_refit: bool = False) -> None:
    """Print the results of the network and the baseline. Warn if the network is worse."""
    again = ". For test, both were trained again, with the validation recordings" if is_refit else ""
    print(f"\nNetwork and baseline (95 % intervals){again}:", file=sys.stderr)
    for row, (split, _, metric, network, baseline, gap) in zip(comparison["rows"], comparison["table"]):
        clips = format_count(row["num_clips"], "clip")
        print(f"  {split} ({clips}), {metric}: network {network}, baseline {baseline}, {gap}", file=sys.stderr)
    if comparison["verdict"] == "worse":
        logger.warning(comparison["text"])
    else:
        print(comparison["text"], file=sys.stderr)


def _choose(dataset: Dataset, split: str) -> np.ndarray:
    """Return the used rows, the longest recordings first, as in the evaluation of the network."""
    most = MAX_TRAINING if split == "train" else MAX_TESTED
    rows = np.argsort(-np.array(dataset["seconds"]), kind="stable")
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]


def _measure(
    dataset: Dataset, rows: np.ndarray, sampling_rate: int, seconds: float, bar: tqdm
) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistics of each recording, shape (rows, NUM_STATISTICS), and whether it could be read."""
    features, is_read = np.zeros((len(rows), NUM_STATISTICS), np.float32), np.ones(len(rows), bool)
    digests, most = dataset["digest"][:], round(seconds * sampling_rate)

    def read(row: int) -> np.ndarray | None:
        if (digests[row], sampling_rate, seconds) in _known:
            return None
        try:
            return load_recording(dataset[row], sampling_rate, 0, most)
        except (AudioError, OSError):
            # The evaluation of the network reports the error.
            return np.zeros(0, np.float32)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in range(0, len(rows), NUM_AT_ONCE):
            some = rows[start : start + NUM_AT_ONCE].tolist()
            for place, (row, waveform) in enumerate(zip(some, pool.map(read, some)), start):
                key = (digests[row], sampling_rate, seconds)
                if waveform is None:
                    features[place] = _known[key]
                elif len(waveform):
                    features[place] = log_mel_statistics(waveform, sampling_rate)
                    if digests[row]:
                        _known[key] = features[place]
                else:
                    is_read[place] = False
                bar.update()
    return features, is_read
