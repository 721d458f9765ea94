# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command: each subcommand calls a function that can also be imported."""

import argparse
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .output import writing_to
from .parser import make_parser


if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedModel

METRIC_TITLES = {"mAP": "mAP", "accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "ece": "ECE"}
# Commands whose output is a file.
WITH_FILES = ("predict", "embed", "explain")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a subcommand; 0 is success, 1 a failure that is reported, 2 misuse, 130 an interruption, 143 a training that
    SIGTERM ended after it saved a checkpoint.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or bool(os.environ.get("SANET_DEBUG"))
    argv = [argument for argument in argv if argument != "--debug"]
    try:
        code = _run(argv)
        _leave_processes()
        return code
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            traceback.print_exc()
        print(f"sanet: error: {error}", file=sys.stderr)
        misuse = isinstance(error, (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError))
        return 2 if misuse else 1


def _run(argv: Sequence[str]) -> int:
    if argv[:1] == ["train"]:
        return _train(argv[1:])
    arguments = make_parser(with_data_options=argv[:1] in (["evaluate"], ["compare"])).parse_args(argv)
    output = getattr(arguments, "output", getattr(arguments, "output_dir", None))
    with nullcontext() if output is None else writing_to(output, arguments.command not in WITH_FILES):
        return COMMANDS[arguments.command](arguments)


def _leave_processes() -> None:
    if _num_processes() > 1:
        from torch import distributed

        # Left open, its connections can abort a process that has done its work.
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _train(argv: Sequence[str]) -> int:
    import datasets
    from transformers.utils.logging import disable_progress_bar

    from .arguments import parse_train_arguments
    from .checkpoints import Terminated
    from .train import METRIC_PREFIXES, is_finished, train

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
        from .check import check

        if arguments.output is not None:
            raise ValueError("--check writes nothing: leave OUTPUT away.")
        print(check(arguments.recordings, arguments.group_pattern, arguments.num_workers))
        return 0
    if arguments.output is None:
        raise ValueError("OUTPUT is missing: the folder for the clips. To check a folder, use --check.")
    from .prepare import FOLDERS, PrepareOptions, prepare
    from .prepare_report import summarize

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
    metrics = {split: values for split, values in metrics.items() if "accuracy" in values}
    names = [name for name in METRIC_TITLES if any(name in values for values in metrics.values())]
    print(f"\n{'split':12}" + "".join(f"{METRIC_TITLES[name]:>10}" for name in names))
    for split, values in metrics.items():
        print(f"{split:12}" + "".join(f"{values[name]:10.3f}" for name in names))


def _evaluate(arguments: argparse.Namespace) -> int:
    from .evaluate import evaluate_models, write_evaluation

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
    from .evaluate import compare_models

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


def _predict(arguments: argparse.Namespace) -> int:
    from .predict import predict_files

    model, feature_extractor = _load_classifier(arguments.model, arguments.device, arguments.dtype)
    show = None if arguments.output is not None else _make_table_printer(model.config.label2id)
    num_done, num_errors = predict_files(
        model,
        feature_extractor,
        arguments.inputs,
        arguments.output,
        top_k=arguments.top_k,
        parts=arguments.parts,
        plot=arguments.plot,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        strict=arguments.strict,
        show=show,
        window_seconds=arguments.window,
        hop_seconds=arguments.hop,
        aggregate=arguments.aggregate,
        batch_size=arguments.batch_size,
    )
    if not _is_main_process():
        return 1 if num_errors else 0
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be classified.", file=sys.stderr)
    if arguments.output is not None:
        print(f"Classified {num_done} of {num_done + num_errors} files; the rows are in {arguments.output}.")
    if arguments.plot is not None and num_done:
        print(f"The picture is {arguments.plot}.")
    return 1 if num_errors else 0


def _embed(arguments: argparse.Namespace) -> int:
    from .predict import embed_files

    num_done, num_errors = embed_files(
        *_load_classifier(arguments.model, arguments.device, arguments.dtype),
        arguments.inputs,
        arguments.output,
        normalize=arguments.normalize,
        plot=arguments.plot,
        method=arguments.method,
        strict=arguments.strict,
        batch_size=arguments.batch_size,
    )
    if not _is_main_process():
        return 1 if num_errors else 0
    if num_done:
        print(f"{arguments.output} holds the embeddings of {num_done} files.")
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be read.", file=sys.stderr)
    return 1 if num_errors else 0


def _load_classifier(
    name: str, device: str | None, dtype: str | None = None
) -> "tuple[PreTrainedModel, FeatureExtractionMixin]":
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.loading import load_classifier

    disable_progress_bar()  # it takes a moment
    if device is None and _num_processes() > 1:
        from .processes import join_processes

        device = str(join_processes().device)
    return load_classifier(name, device, dtype)


def _num_processes() -> int:
    # Launchers tell it so; not to import accelerate for it.
    return int(os.environ.get("WORLD_SIZE", 1))


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _make_table_printer(labels: Iterable[str]) -> Callable[[list[dict]], None]:
    """A function that prints rows of files as lines of a table, and the header before the first."""
    from tqdm.auto import tqdm

    width = max(5, *map(len, labels)) + 2
    is_first = True

    def show(rows: list[dict]) -> None:
        nonlocal is_first
        lines = [f"{'score':8}{'label':{width}}file"] if is_first else []
        is_first = False
        for row in rows:
            if row["error"] is not None:
                continue
            best = [(row[f"score{rank}"], row[f"label{rank}"]) for rank in _ranks(row)]
            scores = "  ".join(f"{score:<6.4f}  {label:{width - 2}}" for score, label in best)
            time = "" if row["start"] is None else f"  {row['start']:.2f} to {row['end']:.2f} s"
            lines.append(f"{scores}  {row['path']}{time}")
        if lines:
            tqdm.write("\n".join(lines))
            sys.stdout.flush()

    return show


def _ranks(row: Mapping[str, object]) -> list[str]:
    """Suffixes of a row's columns of classes that have a value."""
    names = [name.removeprefix("label") for name in row if name.startswith("label")]
    return [name for name in names if row[f"label{name}"] is not None]


def _explain(arguments: argparse.Namespace) -> int:
    from sanet_hf.audio import load_audio
    from sanet_hf.explanation import check_suffix, explain, write_explanation
    from sanet_hf.inference import find_window_seconds

    check_suffix(arguments.output)
    start = arguments.start
    if start is not None and not 0 <= start < float("inf"):
        raise ValueError(f"--start {start:g} must be 0 or more seconds.")
    model, feature_extractor = _load_classifier(arguments.model, arguments.device, arguments.dtype)
    rate = feature_extractor.sampling_rate
    first = round((start or 0) * rate)
    length = None if start is None else round(find_window_seconds(model, feature_extractor) * rate)
    explanation = explain(
        model,
        feature_extractor,
        load_audio(arguments.file, rate, start=first, length=length),
        label=arguments.label,
        occlusion_seconds=arguments.occlusion_seconds,
        hop_seconds=arguments.hop_seconds,
        offset=first / rate,
        batch_size=arguments.batch_size,
    )
    write_explanation(explanation, arguments.output, arguments.file.name)
    score = explanation.scores[explanation.label]
    print(
        f"{arguments.file}, {explanation.start:.2f}–{explanation.end:.2f} s: {explanation.label} {score:.4f}, "
        f"explained in {arguments.output}."
    )
    return 0


def _app(arguments: argparse.Namespace) -> int:
    from sanet_hf.app import launch_app, make_app
    from sanet_hf.prediction_files import find_audio_files

    examples = []
    if arguments.examples is not None:
        if not arguments.examples.is_dir():
            raise ValueError(f"--examples {arguments.examples}: there is no such folder.")
        paths = list(find_audio_files([arguments.examples]))
        # Of all classes, where they are folders in it.
        examples = paths[:: math.ceil(len(paths) / 10)]
    model, feature_extractor = _load_classifier(arguments.model, arguments.device)
    limits = {"max_megabytes": arguments.max_megabytes, "max_seconds": arguments.max_seconds}
    app = make_app(model, feature_extractor, examples, **limits)
    options = {"server_name": arguments.host, "server_port": arguments.port}
    _, address, _ = launch_app(app, quiet=True, prevent_thread_lock=True, **options)
    print(f"Open {address} in a browser; Ctrl+C ends it.", flush=True)
    app.block_thread()
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.export.command import export

    _check_new_folder(arguments.output)
    if arguments.quantize and arguments.format != "onnx":
        raise ValueError(f"--quantize {arguments.quantize} is for --format onnx.")
    if arguments.calibration_dir and not arguments.quantize:
        raise ValueError("--calibration_dir is for --quantize int8.")
    disable_progress_bar()
    print(
        export(
            arguments.model,
            arguments.output,
            arguments.format,
            arguments.quantize == "int8",
            arguments.calibration_dir,
            arguments.split,
            arguments.batch_size,
        )
    )
    print(f"\nThe files are in {arguments.output}.")
    return 0


def _augment(arguments: argparse.Namespace) -> int:
    from .augmentation_examples import write_examples

    _check_new_folder(arguments.output)
    write_examples(arguments.file, arguments.output, arguments.config, arguments.num_examples, arguments.seed)
    print(f"{arguments.num_examples} examples are in {arguments.output}; see examples.png.")
    return 0


def _check_new_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: choose a new folder.")


def _convert(arguments: argparse.Namespace) -> int:
    from sanet_hf import SANetFeatureExtractor, convert_original_checkpoint

    _check_new_folder(arguments.output_dir)
    id2label = None
    if arguments.labels is not None:
        labels = [line.strip() for line in arguments.labels.read_text().splitlines() if line.strip()]
        id2label = dict(enumerate(labels))
    model = convert_original_checkpoint(arguments.checkpoint, id2label)
    model.save_pretrained(arguments.output_dir)
    SANetFeatureExtractor(max_length=model.config.max_input_samples).save_pretrained(arguments.output_dir)
    print(f"Converted {model.num_parameters():,} parameters and {model.config.num_labels} classes.")
    print(f"The model is in {arguments.output_dir}. Classify a file with: sanet predict {arguments.output_dir} FILE")
    return 0


COMMANDS = {
    "prepare": _prepare,
    "predict": _predict,
    "embed": _embed,
    "explain": _explain,
    "export": _export,
    "app": _app,
    "evaluate": _evaluate,
    "compare": _compare,
    "augment": _augment,
    "convert": _convert,
}
