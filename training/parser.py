# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of the `sanet` command and of each subcommand, but for `train`, whose are in `arguments`."""

import argparse
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
MODEL_HELP = "folder or Hub id of a trained audio classifier"
DEVICE_HELP = "such as cpu, cuda or cuda:1 (default: the GPU, if there is one)"
DATA_HELP = (
    "The recordings are those of the (first) training run, or others by --data_dir, --manifest or --dataset_name."
)


def make_parser(with_data_options: bool = True) -> argparse.ArgumentParser:
    """
    Parser of the `sanet` command; `command` is the name of the subcommand. `train`, whose options come from
    transformers, has a parser of its own in `arguments`.

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
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    _add_prepare(commands)
    commands.add_parser("train", help="train a classifier on a folder of recordings", add_help=False)
    _add_predict(commands)
    _add_embed(commands)
    _add_explain(commands)
    _add_export(commands)
    _add_app(commands)
    _add_evaluate(commands, data_parsers)
    _add_compare(commands, data_parsers)
    _add_augment(commands)
    _add_convert(commands)
    return parser


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


def _add_predict(commands: argparse._SubParsersAction) -> None:
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
    predict.add_argument("model", metavar="MODEL", help=MODEL_HELP)
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


def _add_embed(commands: argparse._SubParsersAction) -> None:
    embed = commands.add_parser(
        "embed",
        help="vectors of audio files, for search and clustering",
        usage="sanet embed MODEL INPUT [INPUT ...] --output FILE [--plot PICTURE] [--OPTION VALUE ...]",
        description="Write an embedding of each audio file: what SANet pools over time, or, of other architectures, "
        "the mean of the last hidden states; of a file longer than the model takes, the mean over its windows. The "
        "file has the columns path, label (the folder that the file lies in), prediction, score and embedding.",
        epilog="Example: sanet embed runs/mine recordings/test --output embeddings.parquet --plot map.png",
    )
    embed.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    embed.add_argument("inputs", nargs="+", metavar="INPUT", help="as sanet predict takes them")
    embed.add_argument("--output", type=Path, required=True, help=".parquet or .npz file")
    embed.add_argument("--normalize", action="store_true", help="bring each embedding to an L2 norm of 1")
    embed.add_argument("--plot", type=Path, help="picture of a map in two dimensions: .png, .jpg, .svg or .pdf")
    embed.add_argument("--method", choices=["pca", "tsne"], default="pca", help="of the map (default: pca)")
    embed.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read")
    _add_model_options(embed)


def _add_explain(commands: argparse._SubParsersAction) -> None:
    explain = commands.add_parser(
        "explain",
        help="see what in an audio file its score comes from",
        description="Draw what in an audio file the score of a class comes from: how much the score loses where a "
        "part is silenced (occlusion, for any architecture) and, for SANet, how much each frame counted in the "
        "pooling and what the attention blocks looked at, under waveform and spectrogram. Of a file longer than the "
        "model takes, the middle is explained, or the stretch from --start on, as predict classifies a window.",
        epilog="Example: sanet explain runs/mine clip.wav --output explained.png",
    )
    explain.add_argument("model", help=MODEL_HELP)
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


def _add_export(commands: argparse._SubParsersAction) -> None:
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
    export.add_argument("model", help=MODEL_HELP)
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


def _add_app(commands: argparse._SubParsersAction) -> None:
    app = commands.add_parser(
        "app",
        help="classify recordings in the browser",
        description="Serve a page for the browser that classifies what one uploads or records: scores, the waveform "
        "with SANet's pooling weights and, of a recording longer than the model takes, its segments, played where one "
        "clicks. Recordings stay on this machine and are deleted within about an hour. Ctrl+C ends it.",
        epilog="Example: sanet app runs/mine --examples recordings/test",
    )
    app.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    app.add_argument("--examples", type=Path, metavar="FOLDER", help="audio files to choose from, up to 10 of all")
    app.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in (default: %(default)s, nobody else)")
    app.add_argument("--port", type=_positive, help="default: the first that is free from 7860 on")
    app.add_argument("--max_seconds", type=float, default=1800.0, help="longest recording (default: %(default)g)")
    app.add_argument("--max_megabytes", type=float, default=100.0, help="largest file (default: %(default)g)")
    app.add_argument("--device", help=DEVICE_HELP)


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


def _add_convert(commands: argparse._SubParsersAction) -> None:
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


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help=DEVICE_HELP)
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
