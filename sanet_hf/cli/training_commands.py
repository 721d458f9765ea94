# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Options and handlers of the commands for training and evaluation: prepare, check, train, evaluate, compare, augment.

Handlers import their functions when they run, so that other commands work without the packages for training.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from sanet_hf.cli.options import (
    DATA_HELP,
    MODEL_HELP,
    add_evaluation_options,
    add_threshold_option,
    check_new_folder,
    natural,
    positive,
)
from sanet_hf.errors import TrainingTerminated, UsageError
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import writing_to
from sanet_hf.utils.processes import is_main_process, num_processes


# Packages that training, preparation and evaluation need beyond those of inference.
TRAIN_PACKAGES = ("accelerate", "datasets", "evaluate", "filelock", "jinja2", "matplotlib", "scipy", "sklearn", "yaml")


def add_parsers(commands: argparse._SubParsersAction, with_data_options: bool = True) -> None:
    """
    Add the parsers of [`COMMANDS`], and a line for `train`.

    Args:
        commands: Where to add them.
        with_data_options: Whether to load the data options of `evaluate` and `compare`, which takes seconds.
    """
    data_parsers = []
    if with_data_options:
        from sanet_hf.cli.train_options import make_data_parser

        data_parsers = [make_data_parser()]
    _add_prepare(commands)
    _add_check(commands)
    commands.add_parser("train", help="train a classifier on a folder of recordings", add_help=False)
    _add_evaluate(commands, data_parsers)
    _add_compare(commands, data_parsers)
    _add_augment(commands)


def train_command(argv: Sequence[str]) -> int:
    """Run `sanet train` and return the exit code."""
    if not {"-h", "--help", "--help_all"} & set(argv):
        require(TRAIN_PACKAGES, "train")
    from sanet_hf.cli.train_options import parse_train_arguments

    model_arguments, data_arguments, training_arguments = parse_train_arguments(argv, _find_recipe)
    from sanet_hf.training.data.folds import check_fold_options, uses_folds

    check_fold_options(data_arguments)
    has_folds = uses_folds(data_arguments) and data_arguments.fold is None
    if training_arguments.final_model and not has_folds:
        raise UsageError("--final_model needs cross-validation. Use --folds or --fold_pattern without --fold.")
    _leave_out_noise()
    try:
        run = _cross_validate if has_folds else _train
        run(model_arguments, data_arguments, training_arguments)
    except TrainingTerminated as error:
        print(f"\n{error}", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


def _find_recipe(*options) -> Path | None:
    # Imported late, so that --help works without the packages for training.
    from sanet_hf.training.recipe import find_recipe

    return find_recipe(*options)


def _train(model_arguments, data_arguments, training_arguments) -> None:
    """Train without folds, or one fold."""
    from sanet_hf.training.run_folder import METRIC_PREFIXES, is_left_alone
    from sanet_hf.training.train import train

    output_dir = training_arguments.output_dir
    was_finished = is_left_alone(training_arguments)
    with nullcontext() if was_finished else writing_to(output_dir):
        metrics = train(model_arguments, data_arguments, training_arguments)
    if training_arguments.process_index > 0:
        return
    _print_metrics(
        {
            split: {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
            for split, prefix in METRIC_PREFIXES.items()
        }
    )
    # A model that was trained on all recordings has no report.
    report = ", with report.html" if Path(output_dir, "report.html").exists() else ""
    print(f"\nThe model is in {output_dir}{report}. Classify a file with: sanet predict {output_dir} FILE")
    if was_finished:
        print(
            f"\nNothing was trained: {output_dir} already contains a finished run. Use --overwrite_output_dir true to "
            "retrain."
        )


def _leave_out_noise() -> None:
    """Disable progress bars of short steps. Those for reading recordings and for training stay."""
    import datasets
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("transformers.trainer_utils").addFilter(_is_of_interest)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Return whether a message of `Trainer` is for users. Its message about the order of checkpoints is not."""
    return "mtime may not be reliable" not in record.getMessage()


def _cross_validate(model_arguments, data_arguments, training_arguments) -> None:
    """Train and evaluate one model per fold."""
    from sanet_hf.training.cross_validation import cross_validate, summarize
    from sanet_hf.training.train import train

    output_dir = training_arguments.output_dir
    with writing_to(output_dir):
        result = cross_validate(model_arguments, data_arguments, training_arguments, train)
    if training_arguments.process_index > 0:
        return
    print(f"\n{summarize(result)}")
    print(f"\nThe report is {output_dir}/report.html. All predictions are in predictions/out_of_fold.csv.")
    if training_arguments.final_model:
        print(
            f"The model trained on all recordings is in {output_dir}/final. Classify a file with: sanet predict "
            f"{output_dir}/final FILE"
        )
    else:
        print("To also train a model on all recordings, run the command again with --final_model true.")


def _prepare(arguments: argparse.Namespace) -> int:
    require(TRAIN_PACKAGES, "prepare")
    from sanet_hf.training.preparation.prepare import prepare
    from sanet_hf.training.preparation.progress import PrepareOptions
    from sanet_hf.training.reports.preparation import summarize

    output_dir = arguments.output
    names = ("max_seconds", "min_seconds", "denoise", "group_pattern", "sampling_rate", "segments")
    options = PrepareOptions(**{name: getattr(arguments, name) for name in names})
    result = prepare(arguments.recordings, output_dir, options, arguments.num_workers, arguments.overwrite)
    if result.num_finished_before == result.num_recordings:
        print(f"{output_dir} is already finished. Use --overwrite to prepare it again.")
    elif result.num_finished_before:
        print(f"Resumed. {result.num_finished_before} of {result.num_recordings} files were already finished.")
    print(summarize(result.manifest))
    rate = "" if options.sampling_rate == PrepareOptions.sampling_rate else f" --sampling_rate {options.sampling_rate}"
    print(
        f"\nThe report is {output_dir / 'report.html'}. Train with: sanet train --data_dir "
        f"{output_dir / options.folders['clip']}{rate} --output_dir runs/prepared"
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.folder is None and not arguments.machine:
        raise UsageError("Nothing to check. Give FOLDER or --machine.")
    if arguments.machine:
        from sanet_hf.optimization.processor_report import format_machine_report, machine_report

        print(format_machine_report(machine_report()))
    if arguments.folder is not None:
        require(TRAIN_PACKAGES, "prepare")
        from sanet_hf.training.preparation.check import check

        if arguments.machine:
            print()
        print(check(arguments.folder, arguments.group_pattern, arguments.num_workers, arguments.sampling_rate))
    return 0


def _print_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table with one row per split."""
    from sanet_hf.training.evaluation.metric_names import METRICS
    from sanet_hf.utils.formatting import format_interval

    metrics = {split: values for split, values in metrics.items() if "accuracy" in values}
    if not metrics:
        return
    names = [name for name in METRICS if any(name in values for values in metrics.values())]
    titles = [(METRICS[name][0], *(["95 % interval"] if name == "accuracy" else [])) for name in names]
    print(f"\n{'split':12}" + "".join(f"{title:>16}" for group in titles for title in group))
    for split, values in metrics.items():
        cells = ""
        for name in names:
            # AUROC is missing for a split with clips of only one class.
            cells += (f"{values[name]:16.3f}" if name in values else f"{'–':>16}") + (
                f"{format_interval(values):>16}" if name == "accuracy" else ""
            )
        print(f"{split:12}{cells}")


def _evaluate(arguments: argparse.Namespace) -> int:
    require(TRAIN_PACKAGES, "train")
    from sanet_hf.training.evaluation.saved_models import evaluate_models, write_evaluation

    _leave_out_noise()
    if arguments.output is not None:
        check_new_folder(arguments.output)
    options = (vars(arguments), arguments.split, arguments.batch_size, arguments.threshold)
    (result,) = evaluate_models([arguments.model], *options)
    if not is_main_process():
        return 0
    _print_metrics({result.evaluation.split: result.evaluation.metrics})
    print(f"\nEvaluated on {len(result.evaluation.files)} recordings.")
    if arguments.output is not None:
        write_evaluation(result, arguments.output)
        print(f"\nThe report is {arguments.output / 'report.html'}.")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    require(TRAIN_PACKAGES, "train")
    from sanet_hf.training.evaluation.saved_models import compare_models

    if num_processes() > 1:
        raise UsageError("sanet compare measures time, so that it must run alone. Start it as one process.")
    _leave_out_noise()
    markdown = compare_models(
        arguments.models,
        vars(arguments),
        arguments.output,
        split=arguments.split,
        batch_size=arguments.batch_size,
        num_rounds=arguments.num_rounds,
        threshold=arguments.threshold,
    )
    print(markdown)
    print(f"\nThe comparison is in {arguments.output}: comparison.html, .md, .json and .png.")
    return 0


def _augment(arguments: argparse.Namespace) -> int:
    require((*TRAIN_PACKAGES, "audiomentations"), "train")
    from sanet_hf.training.reports.augmentation_examples import write_examples

    check_new_folder(arguments.output)
    names = ("file", "output", "config", "num_examples", "seed", "sampling_rate")
    write_examples(*(getattr(arguments, name) for name in names))
    print(f"{arguments.num_examples} examples are in {arguments.output}. See examples.png.")
    return 0


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="cut recordings into training clips",
        usage="sanet prepare RECORDINGS OUTPUT [--OPTION VALUE ...]",
        description="Convert recordings of any format and length to 16 kHz mono and cut them into clips. OUTPUT/clips "
        "(with --denoise, OUTPUT/denoised_clips) contains each whole recording in parts; OUTPUT/speech_segments "
        "contains the detected speech. Both have split folders. OUTPUT/manifest.parquet and report.html list every "
        "clip, and what was skipped and why. The recordings are not changed. Run the same command again to resume "
        "after an interruption.",
        epilog="Example: sanet prepare recordings data",
    )
    prepare.add_argument(
        "recordings",
        type=Path,
        metavar="RECORDINGS",
        help="folder with class folders, or with split folders that contain class folders",
    )
    prepare.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the clips, outside RECORDINGS")
    prepare.add_argument(
        "--max_seconds",
        type=float,
        default=4.0,
        help="maximum length of a clip in seconds; longer recordings are cut into equal parts (default: 4, as for "
        "SANet)",
    )
    prepare.add_argument(
        "--min_seconds", type=float, default=0.5, help="minimum length of a speech segment in seconds (default: 0.5)"
    )
    noise = prepare.add_mutually_exclusive_group()
    noise.add_argument(
        "--denoise",
        action="store_true",
        help="reduce noise. This also removes noise-like sounds such as rain, engines and breath. Models trained on "
        "such clips need sanet predict --denoise",
    )
    noise.add_argument("--no_denoise", dest="denoise", action="store_false", help="do not reduce noise (default)")
    prepare.add_argument(
        "--no_segments",
        dest="segments",
        action="store_false",
        help="skip the detection of speech, for recordings of other sounds",
    )
    prepare.add_argument(
        "--sampling_rate",
        type=positive,
        default=16000,
        help="sampling rate of the clips in Hz, from 8000 to 96000; use the same for sanet train (default: 16000)",
    )
    prepare.add_argument(
        "--group_pattern",
        help="regular expression for CLASS/FILE that finds the group of a recording, such as its speaker; each group "
        "is in one split",
    )
    prepare.add_argument("--num_workers", type=positive, help="number of processes (default: one per core)")
    prepare.add_argument("--overwrite", action="store_true", help="delete the results of an earlier run in OUTPUT")


def _add_check(commands: argparse._SubParsersAction) -> None:
    check = commands.add_parser(
        "check",
        help="check a folder of recordings, or the fast code paths of this machine",
        usage="sanet check [FOLDER] [--machine] [--OPTION VALUE ...]",
        description="Check a folder for sanet train, or the output of sanet prepare, for unreadable files, "
        "duplicates, silence, clipping, DC offsets, different sampling rates and small classes. A simple classifier "
        "shows the accuracy to beat. Nothing is written.",
        epilog="Examples: sanet check recordings; sanet check --machine",
    )
    check.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="folder of recordings or clips")
    check.add_argument(
        "--machine",
        action="store_true",
        help="for bug reports: print processor, instruction sets, threads and PyTorch version, and test whether each "
        "fast path computes correct results",
    )
    check.add_argument(
        "--group_pattern",
        help="regular expression for CLASS/FILE that finds the group of a file; a group stays together in "
        "cross-validation (default: the clips that sanet prepare cut from one recording)",
    )
    check.add_argument(
        "--sampling_rate",
        type=positive,
        help="sampling rate in Hz of the model to train (default: that of the clips of sanet prepare, else 16000)",
    )
    check.add_argument("--num_workers", type=positive, help="number of processes (default: one per core)")


def _add_evaluate(commands: argparse._SubParsersAction, data_parsers: list[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=data_parsers,
        help="compute metrics of a trained classifier on a split",
        usage="sanet evaluate MODEL [--data_dir FOLDER] [--split SPLIT] [--output FOLDER] [--OPTION VALUE ...]",
        description="Evaluate an audio classifier on a split of recordings and print its metrics. " + DATA_HELP,
        epilog="Example: sanet evaluate runs/sanet --data_dir recordings --split test --output evaluation",
    )
    evaluate.add_argument("model", help=MODEL_HELP)
    add_evaluation_options(evaluate, with_default=False)
    add_threshold_option(evaluate)
    evaluate.add_argument(
        "--output", type=Path, help="new folder for report.html, metrics.json and predictions/SPLIT.csv"
    )


def _add_compare(commands: argparse._SubParsersAction, data_parsers: list[argparse.ArgumentParser]) -> None:
    compare = commands.add_parser(
        "compare",
        parents=data_parsers,
        help="compare accuracy and cost of trained classifiers",
        usage="sanet compare MODEL [MODEL ...] --output FOLDER [--data_dir FOLDER] [--split SPLIT] [--OPTION VALUE]",
        description="Evaluate audio classifiers on the same split, measure their cost on this machine, and write "
        "comparison.md, .json, .html and .png: accuracy and macro-F1 with 95 % intervals, McNemar's test against the "
        "first, parameters, FLOPs, clips per second, latency, memory, disk, training time. Run nothing else at the "
        "same time. " + DATA_HELP,
        epilog="Example: sanet compare runs/sanet runs/wav2vec2 runs/ast --data_dir recordings --output comparison",
    )
    compare.add_argument("models", nargs="+", metavar="model", help="folder of a trained audio classifier")
    add_evaluation_options(compare, with_default=False)
    add_threshold_option(compare)
    compare.add_argument("--output", type=Path, required=True, help="folder for the comparison")
    compare.add_argument("--num_rounds", type=positive, default=10, help="number of timing rounds (default: 10)")


def _add_augment(commands: argparse._SubParsersAction) -> None:
    augment = commands.add_parser(
        "augment",
        help="listen to augmentations",
        description="Write examples of a recording with the augmentations of a configuration file, at the loudness of "
        "training, and a plot that names the transforms of each.",
        epilog="Example: sanet augment clip.wav examples --config sanet_dynamic.yaml -n 8",
    )
    augment.add_argument("file", type=Path, help="audio file")
    augment.add_argument("output", type=Path, help="new folder for 1.wav, 2.wav, ..., original.wav and examples.png")
    augment.add_argument(
        "--config",
        default="sanet_dynamic.yaml",
        help="YAML file with augmentations and augmentations_after_normalization, or the name of a shipped one "
        "(default: %(default)s)",
    )
    augment.add_argument("-n", "--num_examples", type=positive, default=8, help="number of examples (default: 8)")
    augment.add_argument(
        "--sampling_rate",
        type=positive,
        default=16000,
        help="sampling rate in Hz of the model to train (default: 16000)",
    )
    augment.add_argument("--seed", type=natural, default=0, help="random seed (default: 0)")


COMMANDS = {
    "prepare": _prepare,
    "check": _check,
    "evaluate": _evaluate,
    "compare": _compare,
    "augment": _augment,
}
