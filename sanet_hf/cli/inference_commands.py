# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options and handlers of the commands that use a trained model: predict, embed, explain, app, export, convert."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sanet_hf.cli.options import (
    DENOISE_HELP,
    DEVICE_HELP,
    MODEL_HELP,
    add_dtype_option,
    add_evaluation_options,
    add_min_score_option,
    add_model_options,
    add_reading_options,
    check_new_folder,
    positive,
)
from sanet_hf.errors import UsageError
from sanet_hf.utils.extras import require
from sanet_hf.utils.processes import is_main_process


if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedModel


# Commands whose output is a file, not a folder.
WITH_FILES = ("predict", "embed", "explain")


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of [`COMMANDS`]."""
    _add_predict(commands)
    _add_embed(commands)
    _add_explain(commands)
    _add_export(commands)
    _add_app(commands)
    _add_convert(commands)


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
    predict.add_argument(
        "--top_k",
        type=positive,
        help="classes in a row, the best first (default: 1, or 5 where a clip can have several)",
    )
    add_min_score_option(predict)
    predict.add_argument("--window", type=float, help="seconds of a window (default: the longest the model takes)")
    predict.add_argument("--hop", type=float, help="seconds from a window to the next (default: those of a window)")
    predict.add_argument(
        "--aggregate",
        choices=["loud", "mean", "max"],
        help="how window scores become a file's: loud, the mean of windows at most 20 dB quieter than the loudest "
        "(the default where a file has one class), mean of all (the default otherwise), or max for rare events",
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
    add_reading_options(predict)
    add_model_options(predict)


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
    add_reading_options(embed)
    add_model_options(embed)


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
    add_model_options(explain)


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
        help="recordings to quantize with, in class folders, or in train, validation and test folders of them "
        "(default: those of the training run); ranges of values are measured on the validation split, if there is one",
    )
    add_evaluation_options(export)


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
    app.add_argument("--port", type=positive, help="default: the first that is free from 7860 on")
    app.add_argument("--max_seconds", type=float, default=1800.0, help="longest recording (default: %(default)g)")
    app.add_argument("--max_megabytes", type=float, default=100.0, help="largest file (default: %(default)g)")
    add_min_score_option(app)
    app.add_argument("--denoise", action="store_true", help=DENOISE_HELP)
    app.add_argument("--device", help=DEVICE_HELP)
    add_dtype_option(app)


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


def _predict(arguments: argparse.Namespace) -> int:
    _require_for_output(arguments.output, arguments.plot)
    from sanet_hf.inference.bulk import predict_files
    from sanet_hf.inference.outputs import make_table_printer
    from sanet_hf.inference.windows import UNKNOWN

    model, feature_extractor = _load_classifier(arguments, calibration_inputs=arguments.inputs)
    labels = [*model.config.label2id, *([] if arguments.min_score is None else [UNKNOWN])]
    show = None if arguments.output is not None else make_table_printer(labels)
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
        min_level=arguments.min_level,
        min_score=arguments.min_score,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        denoise=arguments.denoise,
    )
    if not is_main_process():
        return 1 if num_errors else 0
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be classified.", file=sys.stderr)
    if arguments.output is not None:
        print(f"Classified {num_done} of {num_done + num_errors} files; the rows are in {arguments.output}.")
    if arguments.plot is not None and num_done:
        print(f"The picture is {arguments.plot}.")
    return 1 if num_errors else 0


def _embed(arguments: argparse.Namespace) -> int:
    _require_for_output(arguments.output)
    if arguments.plot is not None:
        require(["matplotlib", "sklearn"], "plot")
    from sanet_hf.inference.bulk import embed_files

    num_done, num_errors = embed_files(
        *_load_classifier(arguments, calibration_inputs=arguments.inputs),
        arguments.inputs,
        arguments.output,
        normalize=arguments.normalize,
        plot=arguments.plot,
        method=arguments.method,
        strict=arguments.strict,
        min_level=arguments.min_level,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        denoise=arguments.denoise,
    )
    if not is_main_process():
        return 1 if num_errors else 0
    if num_done:
        print(f"{arguments.output} holds the embeddings of {num_done} files.")
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be read.", file=sys.stderr)
    return 1 if num_errors else 0


def _require_for_output(output: Path | None, plot: Path | None = None) -> None:
    if output is not None and output.suffix == ".parquet":
        require("pyarrow", "train")
    if plot is not None:
        require("matplotlib", "plot")


def _load_classifier(
    arguments: argparse.Namespace, is_used_as_it_is: bool = False, calibration_inputs: Sequence[str | Path] = ()
) -> "tuple[PreTrainedModel, FeatureExtractionMixin]":
    """Load a model. One that is used as it is, not optimised, is checked on this processor here."""
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.inference.distributed import join_processes
    from sanet_hf.inference.int8 import INT8, load_classifier

    disable_progress_bar()  # it takes a moment
    dtype = arguments.dtype
    device = arguments.device or (None if dtype == INT8 else join_processes().device)
    inputs = (calibration_inputs, arguments.denoise)
    model, feature_extractor = load_classifier(arguments.model, device, dtype, *inputs)
    if is_used_as_it_is:
        from sanet_hf.optimization.self_check import replace_wrong_layers

        replace_wrong_layers(model, model.dtype)
    return model, feature_extractor


def _explain(arguments: argparse.Namespace) -> int:
    from sanet_hf.architectures import find_window_seconds
    from sanet_hf.audio.decode import load_audio
    from sanet_hf.audio.denoise import check_denoising
    from sanet_hf.audio.levels import is_silent
    from sanet_hf.inference.explanation import explain
    from sanet_hf.inference.plots import check_suffix, write_explanation
    from sanet_hf.inference.prediction import load_denoised

    check_suffix(arguments.output)
    if arguments.output.suffix.lower() != ".json":
        require("matplotlib", "plot")
    start = arguments.start
    if start is not None and not 0 <= start < float("inf"):
        raise UsageError(f"--start {start:g} must be 0 or more seconds.")
    if arguments.dtype == "int8":
        raise UsageError("--dtype int8: sanet explain shows a model in full precision. Use another --dtype.")
    model, feature_extractor = _load_classifier(arguments, is_used_as_it_is=True)
    check_denoising(feature_extractor, arguments.denoise)
    read = load_denoised if arguments.denoise else load_audio
    rate = feature_extractor.sampling_rate
    first = round((start or 0) * rate)
    length = None if start is None else round(find_window_seconds(model, feature_extractor) * rate)
    explanation = explain(
        model,
        feature_extractor,
        read(arguments.file, rate, start=first, length=length),
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
    if is_silent(explanation.waveform):
        print("This stretch is silent (below -80 dB of full scale): sanet predict gives it no class.")
    return 0


def _app(arguments: argparse.Namespace) -> int:
    from sanet_hf.audio.find import find_audio_files
    from sanet_hf.inference.app import check_address, launch_app, make_app

    require("gradio", "app")
    check_address(arguments.host, arguments.port or 0)
    examples = []
    if arguments.examples is not None:
        if not arguments.examples.is_dir():
            raise UsageError(f"--examples {arguments.examples}: there is no such folder.")
        paths = list(find_audio_files([arguments.examples]))
        # Of all classes, where they are folders in it.
        examples = paths[:: math.ceil(len(paths) / 10)]
    model, feature_extractor = _load_classifier(arguments, calibration_inputs=examples)
    names = ("max_megabytes", "max_seconds", "denoise", "min_score")
    app = make_app(model, feature_extractor, examples, **{name: getattr(arguments, name) for name in names})
    options = {"server_name": arguments.host, "server_port": arguments.port}
    try:
        _, address, _ = launch_app(app, quiet=True, prevent_thread_lock=True, **options)
    except OSError as error:
        raise UsageError(f"The app cannot be served on {arguments.host}: {error}") from error
    print(f"Open {address} in a browser; Ctrl+C ends it.", flush=True)
    app.block_thread()
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.export.command import export_classifier

    check_new_folder(arguments.output)
    if arguments.quantize and arguments.format != "onnx":
        raise UsageError(f"--quantize {arguments.quantize} is for --format onnx.")
    if arguments.calibration_dir and not arguments.quantize:
        raise UsageError("--calibration_dir is for --quantize int8.")
    disable_progress_bar()
    print(
        export_classifier(
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


def _convert(arguments: argparse.Namespace) -> int:
    from sanet_hf import SANetFeatureExtractor, convert_original_checkpoint

    check_new_folder(arguments.output_dir)
    id2label = None
    if arguments.labels is not None:
        try:
            lines = arguments.labels.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"--labels {arguments.labels} is no text file in UTF-8.") from error
        labels = [line.strip() for line in lines if line.strip()]
        id2label = dict(enumerate(labels))
    model = convert_original_checkpoint(arguments.checkpoint, id2label)
    model.save_pretrained(arguments.output_dir)
    SANetFeatureExtractor(max_length=model.config.max_input_samples).save_pretrained(arguments.output_dir)
    print(f"Converted {model.num_parameters():,} parameters and {model.config.num_labels} classes.")
    print(f"The model is in {arguments.output_dir}. Classify a file with: sanet predict {arguments.output_dir} FILE")
    return 0


COMMANDS = {
    "predict": _predict,
    "embed": _embed,
    "explain": _explain,
    "export": _export,
    "app": _app,
    "convert": _convert,
}
