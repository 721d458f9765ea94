# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options and handlers of the commands that make or test a model: prepare, augment, train, evaluate, compare."""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from sanet_hf.cli.options import (
    DATA_HELP,
    MODEL_HELP,
    _add_evaluation_options,
    _check_new_folder,
    _is_main_process,
    _num_processes,
    _positive,
)
from sanet_hf.utils.files import writing_to


def _train(argv: Sequence[str]) -> int:
    import datasets
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.cli.train_options import parse_train_arguments
    from sanet_hf.training.checkpoints import Terminated
    from sanet_hf.training.run_folder import METRIC_PREFIXES, is_finished
    from sanet_hf.training.train import train

    model_arguments, data_arguments, training_arguments = parse_train_arguments(argv)
    output_dir = training_arguments.output_dir
    was_finished = is_finished(output_dir) and not training_arguments.overwrite_output_dir
    # Bars for what takes a moment; those for reading recordings and for training stay.
    disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with nullcontext() if was_finished else writing_to(output_dir):
            metrics = train(model_arguments, data_arguments, training_arguments)
    except Terminated as error:
        print(f"\n{error}", file=sys.stderr)
        return 128 + signal.SIGTERM
    if training_arguments.process_index > 0:
        return 0
    if was_finished:
        print(f"{output_dir} is finished; --overwrite_output_dir true trains anew.")
    _print_metrics(
        {
            split: {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
            for split, prefix in METRIC_PREFIXES.items()
        }
    )
    print(f"\nThe model is in {output_dir}, with report.html. Classify a file with: sanet predict {output_dir} FILE")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    if arguments.check:
        from sanet_hf.training.preparation.check import check

        if arguments.output is not None:
            raise ValueError("--check writes nothing: leave OUTPUT away.")
        print(check(arguments.recordings, arguments.group_pattern, arguments.num_workers))
        return 0
    if arguments.output is None:
        raise ValueError("OUTPUT is missing: the folder for the clips. To check a folder, use --check.")
    from sanet_hf.training.preparation.prepare import prepare
    from sanet_hf.training.preparation.progress import FOLDERS, PrepareOptions
    from sanet_hf.training.reports.preparation import summarize

    output_dir = arguments.output
    options = PrepareOptions(arguments.max_seconds, arguments.min_seconds, arguments.denoise, arguments.group_pattern)
    result = prepare(arguments.recordings, output_dir, options, arguments.num_workers, arguments.overwrite)
    if result.num_finished_before == result.num_recordings:
        print(f"{output_dir} is finished; --overwrite prepares it anew.")
    elif result.num_finished_before:
        print(f"{result.num_finished_before} of {result.num_recordings} files were finished before.")
    print(summarize(result.manifest))
    print(
        f"\nThe report is {output_dir / 'report.html'}. Train with: sanet train sanet.yaml --data_dir "
        f"{output_dir / FOLDERS['clip']}"
    )
    return 0


def _print_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """A table with a row for each split."""
    from sanet_hf.training.evaluation.metrics import METRICS

    metrics = {split: values for split, values in metrics.items() if "accuracy" in values}
    names = [name for name in METRICS if any(name in values for values in metrics.values())]
    print(f"\n{'split':12}" + "".join(f"{METRICS[name][0]:>16}" for name in names))
    for split, values in metrics.items():
        print(f"{split:12}" + "".join(f"{values[name]:16.3f}" for name in names))


def _evaluate(arguments: argparse.Namespace) -> int:
    from sanet_hf.training.evaluation.saved_models import evaluate_models, write_evaluation

    if arguments.output is not None:
        _check_new_folder(arguments.output)
    (result,) = evaluate_models([arguments.model], vars(arguments), arguments.split, arguments.batch_size)
    if not _is_main_process():
        return 0
    _print_metrics({arguments.split: result.evaluation.metrics})
    if arguments.output is not None:
        write_evaluation(result, arguments.output)
        print(f"\nThe report is {arguments.output / 'report.html'}.")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from sanet_hf.training.evaluation.saved_models import compare_models

    if _num_processes() > 1:
        raise ValueError("sanet compare measures time, which other processes would take: run it as one process.")
    markdown = compare_models(
        arguments.models,
        vars(arguments),
        arguments.output,
        split=arguments.split,
        batch_size=arguments.batch_size,
        num_rounds=arguments.num_rounds,
    )
    print(markdown)
    print(f"\nThe comparison is in {arguments.output}: comparison.html, .md, .json and .png.")
    return 0


def _augment(arguments: argparse.Namespace) -> int:
    from sanet_hf.training.reports.augmentation_examples import write_examples

    _check_new_folder(arguments.output)
    write_examples(arguments.file, arguments.output, arguments.config, arguments.num_examples, arguments.seed)
    print(f"{arguments.num_examples} examples are in {arguments.output}; see examples.png.")
    return 0


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="cut recordings into clips to train on, or check a folder",
        usage="sanet prepare RECORDINGS OUTPUT [--OPTION VALUE ...]\n       sanet prepare --check FOLDER",
        description="Decode recordings of any format and length to 16 kHz mono, reduce noise, and cut them: all of "
        "each recording to OUTPUT/denoised_clips, its stretches of speech to OUTPUT/speech_segments, in folders of "
        "splits. OUTPUT/manifest.parquet and report.html list every clip, and what was skipped and why. The "
        "recordings are only read. The same command goes on after an interruption. With --check nothing is written: "
        "a folder that sanet train takes, or OUTPUT, is searched for faults, and a simple classifier shows what to "
        "beat.",
        epilog="Example: sanet prepare recordings data && sanet train sanet.yaml --data_dir data/denoised_clips",
    )
    prepare.add_argument(
        "recordings",
        type=Path,
        metavar="RECORDINGS",
        help="folder of class folders, or of split folders that hold them",
    )
    prepare.add_argument(
        "output", type=Path, nargs="?", metavar="OUTPUT", help="folder for the clips; not inside of the recordings"
    )
    prepare.add_argument("--check", action="store_true", help="check a folder instead")
    prepare.add_argument(
        "--max_seconds",
        type=float,
        default=4.0,
        help="longest clip: longer recordings are cut into equal parts (default: 4, what SANet takes)",
    )
    prepare.add_argument(
        "--min_seconds", type=float, default=0.5, help="shortest stretch of speech that is kept (default: 0.5)"
    )
    noise = prepare.add_mutually_exclusive_group()
    noise.add_argument("--denoise", action="store_true", default=True, help="reduce noise (the default)")
    noise.add_argument(
        "--no_denoise",
        dest="denoise",
        action="store_false",
        help="leave noise in, as for sounds that are like noise: rain, engines, breath",
    )
    prepare.add_argument(
        "--group_pattern",
        help="regular expression on CLASS/FILE: recordings for which it finds the same, such as a speaker, come into "
        "one split",
    )
    prepare.add_argument("--num_workers", type=_positive, help="processes (default: one a core)")
    prepare.add_argument("--overwrite", action="store_true", help="remove what an earlier run wrote to OUTPUT")


def _add_evaluate(commands: argparse._SubParsersAction, data_parsers: list[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=data_parsers,
        help="metrics of a trained classifier on a split",
        usage="sanet evaluate MODEL [--data_dir FOLDER] [--split SPLIT] [--output FOLDER] [--OPTION VALUE ...]",
        description="Evaluate an audio classifier on a split of recordings and print its metrics. " + DATA_HELP,
        epilog="Example: sanet evaluate runs/mine --data_dir recordings --split test --output evaluation",
    )
    evaluate.add_argument("model", help=MODEL_HELP)
    _add_evaluation_options(evaluate)
    evaluate.add_argument(
        "--output", type=Path, help="new folder for report.html, metrics.json and predictions/SPLIT.csv"
    )


def _add_compare(commands: argparse._SubParsersAction, data_parsers: list[argparse.ArgumentParser]) -> None:
    compare = commands.add_parser(
        "compare",
        parents=data_parsers,
        help="compare trained classifiers: accuracy and cost",
        usage="sanet compare MODEL [MODEL ...] --output FOLDER [--data_dir FOLDER] [--split SPLIT] [--OPTION VALUE]",
        description="Evaluate audio classifiers on the same split, measure what they cost on this machine, and write "
        "comparison.md, .json, .html and .png: accuracy and macro-F1 with 95 % intervals, McNemar's test against the "
        "first, parameters, FLOPs, clips per second, latency, memory, disk, training time. Let nothing else run "
        "meanwhile. " + DATA_HELP,
        epilog="Example: sanet compare runs/sanet runs/wav2vec2 runs/ast --data_dir recordings --output comparison",
    )
    compare.add_argument("models", nargs="+", metavar="model", help="folder of a trained audio classifier")
    _add_evaluation_options(compare)
    compare.add_argument("--output", type=Path, required=True, help="folder for the comparison")
    compare.add_argument("--num_rounds", type=_positive, default=10, help="rounds of timing (default: 10)")


def _add_augment(commands: argparse._SubParsersAction) -> None:
    augment = commands.add_parser(
        "augment",
        help="hear what an augmentation does",
        description="Write examples of a recording augmented as in training, at the loudness that SANet hears, and a "
        "picture of them that says what was done to each.",
        epilog="Example: sanet augment clip.wav examples --config sanet_dynamic.yaml -n 8",
    )
    augment.add_argument("file", type=Path, help="audio file")
    augment.add_argument("output", type=Path, help="new folder for 1.wav, 2.wav, ..., original.wav and examples.png")
    augment.add_argument(
        "--config",
        default="sanet_dynamic.yaml",
        help="YAML file with augmentations and augmentations_after_normalization, or the name of one that comes with "
        "sanet-hf (default: %(default)s)",
    )
    augment.add_argument("-n", "--num_examples", type=_positive, default=8, help="examples (default: 8)")
    augment.add_argument("--seed", type=int, default=0, help="other examples (default: 0)")
