# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command: each subcommand calls a function that can also be imported."""

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path


DESCRIPTION = """\
Classifiers of audio in Hugging Face transformers: SANet, small and end to end, beside wav2vec2, AST and others.

  sanet prepare recordings data
  sanet train sanet.yaml --data_dir recordings --output_dir runs/mine
  sanet evaluate runs/mine --data_dir recordings --split test
  sanet compare runs/mine runs/wav2vec2 runs/ast --data_dir recordings --output comparison
  sanet predict runs/mine clip.wav calls/ --output predictions.csv
  sanet embed runs/mine calls/ --output embeddings.parquet
  sanet explain runs/mine clip.wav --output explained.png
  sanet app runs/mine
  sanet export runs/mine exported --format onnx
  sanet augment clip.wav examples --config sanet_dynamic.yaml
  sanet convert original.pt runs/converted --labels labels.txt
"""


METRIC_TITLES = {"mAP": "mAP", "accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "ece": "ECE"}
DATA_HELP = (
    "The recordings are those of the (first) training run, or others by --data_dir, --manifest or --dataset_name."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 is success, 1 a failure that is reported, 2 misuse."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or bool(os.environ.get("SANET_DEBUG"))
    argv = [argument for argument in argv if argument != "--debug"]
    try:
        if argv[:1] == ["train"]:
            return _train(argv[1:])
        arguments = make_parser(with_data_options=argv[:1] in (["evaluate"], ["compare"])).parse_args(argv)
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"sanet: error: {error}", file=sys.stderr)
        misuse = isinstance(error, (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError))
        return 2 if misuse else 1


def make_parser(with_data_options: bool = True) -> argparse.ArgumentParser:
    """
    Parser of the `sanet` command; `train`, whose options come from transformers, has its own in `arguments`.

    Args:
        with_data_options: Whether to load the options of `evaluate` and `compare` about data, which takes seconds.
    """
    data_parsers = []
    if with_data_options:
        from .arguments import make_data_parser

        data_parsers = [make_data_parser()]
    parser = argparse.ArgumentParser(
        prog="sanet", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sanet-hf {version('sanet-hf')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    prepare = commands.add_parser(
        "prepare",
        help="cut recordings into clips to train on, or check a folder",
        usage="sanet prepare RECORDINGS OUTPUT [--OPTION VALUE ...]\n       sanet prepare --check FOLDER",
        description="Decode recordings of any format and length to 16 kHz mono, reduce noise, and cut them: all of "
        "each recording to OUTPUT/denoised_clips, its stretches of speech to OUTPUT/speech_segments, in folders of "
        "splits. "
        "OUTPUT/manifest.parquet and report.html list every clip, and what was skipped and why. The recordings are "
        "only read. The same command goes on after an interruption. With --check nothing is written: a folder that "
        "sanet train takes, or OUTPUT, is searched for faults, and a simple classifier shows what to beat.",
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
    prepare.set_defaults(run=_prepare)

    commands.add_parser("train", help="train a classifier on a folder of recordings", add_help=False)

    predict = commands.add_parser(
        "predict",
        help="classify audio files of any number and length",
        usage="sanet predict MODEL INPUT [INPUT ...] [--output FILE] [--OPTION VALUE ...]",
        description="Classify audio files. A file longer than the model takes is classified in windows: a row for "
        "each, and one for the file with the mean of their scores. A file that cannot be read gets a row with the "
        "error and makes the exit code 1; the rest are classified all the same. Rows come in the order of the inputs, "
        "as they are made.",
        epilog="Examples: sanet predict runs/mine clip.wav calls/ @list.txt --output predictions.csv; "
        "sanet predict runs/mine day.flac --window 4 --hop 2 --segments --output timeline.csv --plot timeline.png",
    )
    predict.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained audio classifier")
    predict.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file; folder, with all audio files in it; pattern such as 'calls/**/*.mp3'; @list.txt, a file "
        "with one of those a line; - for such lines from standard input",
    )
    predict.add_argument("--output", type=Path, help=".csv, .jsonl or .parquet file; without it a table is printed")
    predict.add_argument("--top_k", type=_positive, default=1, help="classes in a row, the best first (default: 1)")
    predict.add_argument("--window", type=float, help="seconds of a window (default: the longest the model takes)")
    predict.add_argument("--hop", type=float, help="seconds from a window to the next (default: those of a window)")
    predict.add_argument(
        "--aggregate",
        choices=["mean", "max"],
        default="mean",
        help="what the windows' scores become the file's by: mean (the default), or max for rare events",
    )
    parts = predict.add_mutually_exclusive_group()
    parts.add_argument(
        "--segments",
        dest="parts",
        action="store_const",
        const="segments",
        default="windows",
        help="neighbouring windows with one label as one row",
    )
    parts.add_argument(
        "--files_only", dest="parts", action="store_const", const="none", help="no rows but those of files"
    )
    predict.add_argument("--plot", type=Path, help="picture of one file over time: .png, .jpg, .svg or .pdf")
    existing = predict.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="keep the rows that OUTPUT has, and add what is missing or had an error"
    )
    existing.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    predict.add_argument("--strict", action="store_true", help="stop at the first file that cannot be classified")
    _add_model_options(predict)
    predict.set_defaults(run=_predict)

    embed = commands.add_parser(
        "embed",
        help="vectors of audio files, for search and clustering",
        usage="sanet embed MODEL INPUT [INPUT ...] --output FILE [--plot PICTURE] [--OPTION VALUE ...]",
        description="Write an embedding of each audio file: what SANet pools over time, or, of other architectures, "
        "the mean of the last hidden states; of a file longer than the model takes, the mean over its windows. The "
        "file has the columns path, label (the folder that the file lies in), prediction, score and embedding.",
        epilog="Example: sanet embed runs/mine recordings/test --output embeddings.parquet --plot map.png",
    )
    embed.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained audio classifier")
    embed.add_argument("inputs", nargs="+", metavar="INPUT", help="as sanet predict takes them")
    embed.add_argument("--output", type=Path, required=True, help=".parquet or .npz file")
    embed.add_argument("--normalize", action="store_true", help="bring each embedding to an L2 norm of 1")
    embed.add_argument("--plot", type=Path, help="picture of a map in two dimensions: .png, .jpg, .svg or .pdf")
    embed.add_argument("--method", choices=["pca", "tsne"], default="pca", help="of the map (default: pca)")
    embed.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read")
    _add_model_options(embed)
    embed.set_defaults(run=_embed)

    explain = commands.add_parser(
        "explain",
        help="see what in an audio file its score comes from",
        description="Draw what in an audio file the score of a class comes from: how much the score loses where a "
        "part is silenced (occlusion, for any architecture) and, for SANet, how much each frame counted in the "
        "pooling and what the attention blocks looked at, under waveform and spectrogram. Of a file longer than the "
        "model takes, the middle is explained, or the stretch from --start on, as predict classifies a window.",
        epilog="Example: sanet explain runs/mine clip.wav --output explained.png",
    )
    explain.add_argument("model", help="folder or Hub id of a trained audio classifier")
    explain.add_argument("file", type=Path, help="audio file")
    explain.add_argument(
        "--output",
        type=Path,
        required=True,
        help="picture (.png, .jpg, .svg, .pdf) or numbers (.json) to write; an existing one is replaced",
    )
    explain.add_argument("--label", help="class to explain (default: the one with the highest score)")
    explain.add_argument(
        "--start",
        type=float,
        metavar="SECONDS",
        help="explain the stretch of the model's length from there on",
    )
    explain.add_argument(
        "--occlusion_seconds",
        type=float,
        metavar="SECONDS",
        help="duration of each silenced part (default: 0.25, but at least 1/64 and at most 1/8 of the clip)",
    )
    explain.add_argument(
        "--hop_seconds",
        type=float,
        metavar="SECONDS",
        help="time from one silenced part to the next (default: half of their duration)",
    )
    _add_model_options(explain)
    explain.set_defaults(run=_explain)
    export = commands.add_parser(
        "export",
        help="write a classifier as ONNX or torch.export, to run elsewhere",
        description="Write an audio classifier as a file that runs without sanet-hf: ONNX, for onnxruntime, with an "
        "example, or a program of torch.export. It takes batches of any size and, as far as the architecture allows, "
        "length, and is compared with PyTorch on clips of random lengths: a logit that differs by more than 1e-4 is "
        "an error. With --quantize int8 an ONNX file in 8-bit integers is written too, and what that costs is "
        "measured on recordings.",
        epilog="Example: sanet export runs/mine exported --format onnx --quantize int8 --calibration_dir recordings",
    )
    export.add_argument("model", help="folder or Hub id of a trained audio classifier")
    export.add_argument("output", type=Path, help="new folder for model.onnx or model.pt2, and the settings")
    export.add_argument(
        "--format", choices=["onnx", "torch_export"], default="onnx", help="kind of file (default: onnx)"
    )
    export.add_argument("--quantize", choices=["int8"], help="write model_int8.onnx, too")
    export.add_argument(
        "--calibration_dir",
        type=Path,
        metavar="FOLDER",
        help="recordings to quantize with, in class folders as sanet train takes them (default: those of the training "
        "run); ranges of values are measured on the validation split",
    )
    _add_evaluation_options(export)
    export.set_defaults(run=_export)

    app = commands.add_parser(
        "app",
        help="classify recordings in the browser",
        description="Serve a page for the browser that classifies what one uploads or records: scores, the waveform "
        "with SANet's pooling weights and, of a recording longer than the model takes, its segments, played where one "
        "clicks. Recordings stay on this machine and are deleted within about an hour. Ctrl+C ends it.",
        epilog="Example: sanet app runs/mine --examples recordings/test",
    )
    app.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained audio classifier")
    app.add_argument("--examples", type=Path, metavar="FOLDER", help="audio files to choose from, up to 10 of all")
    app.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in (default: %(default)s, nobody else)")
    app.add_argument("--port", type=_positive, help="default: the first that is free from 7860 on")
    app.add_argument("--max_seconds", type=float, default=1800.0, help="longest recording (default: %(default)g)")
    app.add_argument("--max_megabytes", type=float, default=100.0, help="largest file (default: %(default)g)")
    app.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the GPU, if there is one)")
    app.set_defaults(run=_app)

    evaluate = commands.add_parser(
        "evaluate",
        parents=data_parsers,
        help="metrics of a trained classifier on a split",
        usage="sanet evaluate MODEL [--data_dir FOLDER] [--split SPLIT] [--output FOLDER] [--OPTION VALUE ...]",
        description="Evaluate an audio classifier on a split of recordings and print its metrics. " + DATA_HELP,
        epilog="Example: sanet evaluate runs/mine --data_dir recordings --split test --output evaluation",
    )
    evaluate.add_argument("model", help="folder or Hub id of a trained audio classifier")
    _add_evaluation_options(evaluate)
    evaluate.add_argument(
        "--output", type=Path, help="new folder for report.html, metrics.json and predictions/SPLIT.csv"
    )
    evaluate.set_defaults(run=_evaluate)

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
    compare.set_defaults(run=_compare)

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
    augment.set_defaults(run=_augment)

    convert = commands.add_parser(
        "convert",
        help="convert a checkpoint of the original SqueezeAttendNet",
        description="Convert a checkpoint of the original SqueezeAttendNet to a folder that from_pretrained and "
        "pipeline take. The checkpoint is read as tensors alone; code in it is not run.",
        epilog="Example: sanet convert original.pt runs/converted --labels labels.txt",
    )
    convert.add_argument("checkpoint", type=Path, help="file written by torch.save")
    convert.add_argument("output_dir", type=Path, help="new folder for the model")
    convert.add_argument("--labels", type=Path, help="text file with one class name a line, in the model's order")
    convert.set_defaults(run=_convert)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the GPU, if there is one)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the model (default: as it was saved)"
    )
    parser.add_argument(
        "--batch_size",
        type=lambda text: None if text == "auto" else _positive(text),
        help="clips classified at once; auto (the default): 32 on a GPU, else 8, and fewer where memory is short",
    )


def _add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        default="test",
        choices=["train", "validation", "test", "all"],
        help="split to evaluate on (default: test); all takes every recording of a source without splits",
    )
    parser.add_argument("--batch_size", type=_positive, default=8, help="clips classified at once (default: 8)")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _train(argv: Sequence[str]) -> int:
    import datasets
    from transformers.utils.logging import disable_progress_bar

    from .arguments import parse_train_arguments
    from .train import METRIC_PREFIXES, is_finished, train

    model_arguments, data_arguments, training_arguments = parse_train_arguments(argv)
    output_dir = training_arguments.output_dir
    was_finished = is_finished(output_dir) and not training_arguments.overwrite_output_dir
    # Bars for what takes a moment; those for reading recordings and for training stay.
    disable_progress_bar()
    datasets.disable_progress_bars()
    metrics = train(model_arguments, data_arguments, training_arguments)
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
    _print_metrics({arguments.split: result.evaluation.metrics})
    if arguments.output is not None:
        write_evaluation(result, arguments.output)
        print(f"\nThe report is {arguments.output / 'report.html'}.")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from .evaluate import compare_models

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
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.inference import load_classifier

    from .predict import predict_files

    disable_progress_bar()
    model, feature_extractor = load_classifier(arguments.model, arguments.device, arguments.dtype)
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
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be classified.", file=sys.stderr)
    if arguments.output is not None:
        print(f"Classified {num_done} of {num_done + num_errors} files; the rows are in {arguments.output}.")
    if arguments.plot is not None and num_done:
        print(f"The picture is {arguments.plot}.")
    return 1 if num_errors else 0


def _embed(arguments: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.inference import load_classifier

    from .predict import embed_files

    disable_progress_bar()
    num_done, num_errors = embed_files(
        *load_classifier(arguments.model, arguments.device, arguments.dtype),
        arguments.inputs,
        arguments.output,
        normalize=arguments.normalize,
        plot=arguments.plot,
        method=arguments.method,
        strict=arguments.strict,
        batch_size=arguments.batch_size,
    )
    if num_done:
        print(f"{arguments.output} holds the embeddings of {num_done} files.")
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be read.", file=sys.stderr)
    return 1 if num_errors else 0


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
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.audio import load_audio
    from sanet_hf.explanation import check_suffix, explain, write_explanation
    from sanet_hf.inference import find_window_seconds, load_classifier

    check_suffix(arguments.output)
    start = arguments.start
    if start is not None and not 0 <= start < float("inf"):
        raise ValueError(f"--start {start:g} must be 0 or more seconds.")
    disable_progress_bar()
    model, feature_extractor = load_classifier(arguments.model, arguments.device, arguments.dtype)
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
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.app import launch_app, make_app
    from sanet_hf.inference import load_classifier
    from sanet_hf.prediction_files import find_audio_files

    examples = []
    if arguments.examples is not None:
        if not arguments.examples.is_dir():
            raise ValueError(f"--examples {arguments.examples}: there is no such folder.")
        paths = list(find_audio_files([arguments.examples]))
        # Of all classes, where they are folders in it.
        examples = paths[:: math.ceil(len(paths) / 10)]
    disable_progress_bar()
    model, feature_extractor = load_classifier(arguments.model, arguments.device)
    limits = {"max_megabytes": arguments.max_megabytes, "max_seconds": arguments.max_seconds}
    app = make_app(model, feature_extractor, examples, **limits)
    options = {"server_name": arguments.host, "server_port": arguments.port}
    _, address, _ = launch_app(app, quiet=True, prevent_thread_lock=True, **options)
    print(f"Open {address} in a browser; Ctrl+C ends it.", flush=True)
    app.block_thread()
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from .export import export

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
