# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options and handlers of the commands that use a trained model: predict, embed, explain, app, export, convert."""

import argparse
import math
import sys
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
        description="Classify audio files. Files that are longer than the model's maximum are classified in windows: "
        "one row per window, and one row for the file, which combines the windows (--aggregate). Silence has no class "
        "(-). A file that cannot be read gets a row with the error and makes the exit code 1; the others are still "
        "classified. Rows are written immediately, in input order.",
        epilog="Examples: sanet predict runs/sanet clip.wav calls/ @list.txt --output predictions.csv; "
        "sanet predict runs/sanet day.flac --window 4 --hop 2 --segments --output timeline.csv --plot timeline.png",
    )
    predict.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    predict.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file; folder, including subfolders; pattern such as 'calls/**/*.mp3'; @list.txt: file with one of "
        "these per line; -: read such lines from standard input",
    )
    predict.add_argument("--output", type=Path, help=".csv, .jsonl or .parquet file (default: print a table)")
    predict.add_argument(
        "--top_k",
        type=positive,
        help="number of classes per row, best first (default: 1, or 5 for multi-label models)",
    )
    add_min_score_option(predict)
    predict.add_argument("--window", type=float, help="window length in seconds (default: the model's maximum)")
    predict.add_argument("--hop", type=float, help="seconds between window starts (default: window length)")
    predict.add_argument(
        "--aggregate",
        choices=["loud", "mean", "max"],
        help="how to combine window scores into a file score. loud: mean over windows at most 20 dB below the loudest "
        "(single-label default). mean: over all windows (multi-label default). max: for rare events",
    )
    parts = predict.add_mutually_exclusive_group()
    parts.add_argument(
        "--segments",
        dest="parts",
        action="store_const",
        const="segments",
        default="windows",
        help="merge neighbouring windows with the same label into one row",
    )
    parts.add_argument(
        "--files_only",
        dest="parts",
        action="store_const",
        const="none",
        help="write rows of files only, not of windows",
    )
    predict.add_argument("--plot", type=Path, help="plot the scores of one file over time: .png, .jpg, .svg or .pdf")
    existing = predict.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="keep the rows of OUTPUT; classify missing and failed files"
    )
    existing.add_argument("--overwrite", action="store_true", help="overwrite OUTPUT")
    predict.add_argument("--strict", action="store_true", help="stop at the first file that cannot be classified")
    add_reading_options(predict)
    add_model_options(predict)


def _add_embed(commands: argparse._SubParsersAction) -> None:
    embed = commands.add_parser(
        "embed",
        help="compute embeddings, for search and clustering",
        usage="sanet embed MODEL INPUT [INPUT ...] --output FILE [--plot PICTURE] [--OPTION VALUE ...]",
        description="Write one embedding per audio file: the pooled output of SANet, or the mean of the last hidden "
        "states of other architectures. Files that are longer than the model's maximum get the mean over their "
        "windows. The columns are path, label (name of the parent folder), prediction, score and embedding.",
        epilog="Example: sanet embed runs/sanet recordings/test --output embeddings.parquet --plot map.png",
    )
    embed.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}, or a pretrained model, such as sanet-tiny")
    embed.add_argument("inputs", nargs="+", metavar="INPUT", help="like the inputs of sanet predict")
    embed.add_argument("--output", type=Path, required=True, help=".parquet or .npz file")
    embed.add_argument("--normalize", action="store_true", help="scale each embedding to an L2 norm of 1")
    embed.add_argument("--plot", type=Path, help="plot a 2-D map: .png, .jpg, .svg or .pdf")
    embed.add_argument("--method", choices=["pca", "tsne"], default="pca", help="projection (default: pca)")
    embed.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read")
    add_reading_options(embed)
    add_model_options(embed)


def _add_explain(commands: argparse._SubParsersAction) -> None:
    explain = commands.add_parser(
        "explain",
        help="explain a prediction",
        description="Plot which parts of an audio file support the score of a class, below waveform and spectrogram: "
        "the loss of score when a part is silenced (occlusion, any architecture) and, for SANet, pooling weights and "
        "attention. If the file is longer than the model's maximum, its middle is explained, or the window that "
        "begins at --start.",
        epilog="Example: sanet explain runs/sanet clip.wav --output explained.png",
    )
    explain.add_argument("model", help=MODEL_HELP)
    explain.add_argument("file", type=Path, help="audio file")
    explain.add_argument(
        "--output",
        type=Path,
        required=True,
        help="plot (.png, .jpg, .svg, .pdf) or numbers (.json); an existing file is overwritten",
    )
    explain.add_argument("--label", help="class to explain (default: the one with the highest score)")
    explain.add_argument(
        "--start",
        type=float,
        metavar="SECONDS",
        help="start in seconds of the explained window",
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
        help="export a classifier as ONNX or torch.export",
        description="Export an audio classifier to a file that runs without sanet-hf: ONNX for onnxruntime, with an "
        "example, or a torch.export program. It supports any batch size and, if the architecture allows it, any "
        "length. Logits must agree with PyTorch to 1e-4 on clips of random lengths. --quantize int8 also writes an "
        "8-bit ONNX file and measures its loss of accuracy.",
        epilog="Example: sanet export runs/sanet exported --format onnx --quantize int8",
    )
    export.add_argument("model", help=MODEL_HELP)
    export.add_argument("output", type=Path, help="new folder for model.onnx or model.pt2 and its settings")
    export.add_argument(
        "--format", choices=["onnx", "torch_export"], default="onnx", help="file format (default: onnx)"
    )
    export.add_argument("--quantize", choices=["int8"], help="also write model_int8.onnx")
    export.add_argument(
        "--calibration_dir",
        type=Path,
        metavar="FOLDER",
        help="recordings for quantization, in class folders, with or without split folders (default: those of the "
        "training run). Value ranges are measured on the validation split if there is one",
    )
    add_evaluation_options(export)


def _add_app(commands: argparse._SubParsersAction) -> None:
    app = commands.add_parser(
        "app",
        help="classify recordings in the browser",
        description="Serve a page that classifies uploaded or recorded audio in the browser: scores, waveform with "
        "SANet's pooling weights and, for long recordings, playable segments. Recordings stay on this machine and are "
        "deleted within about an hour. Stop it with Ctrl+C.",
        epilog="Example: sanet app runs/sanet --examples recordings/test",
    )
    app.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    app.add_argument("--examples", type=Path, metavar="FOLDER", help="example audio files on the page, at most 10")
    app.add_argument("--host", default="127.0.0.1", help="0.0.0.0: allow other machines (default: %(default)s)")
    app.add_argument("--port", type=positive, help="default: first free port from 7860")
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
        description="Convert a checkpoint of the original SqueezeAttendNet to a folder for from_pretrained and "
        "pipeline. Only tensors are read from the checkpoint; its code is not run.",
        epilog="Example: sanet convert original.pt runs/converted --labels labels.txt",
    )
    convert.add_argument("checkpoint", type=Path, help="file written by torch.save")
    convert.add_argument("output_dir", type=Path, help="new folder for the model")
    convert.add_argument("--labels", type=Path, help="text file with one class name per line, in output order")


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
        print(f"Classified {num_done} of {num_done + num_errors} files. The rows are in {arguments.output}.")
    if arguments.plot is not None and num_done:
        print(f"The plot is {arguments.plot}.")
    return 1 if num_errors else 0


def _embed(arguments: argparse.Namespace) -> int:
    _require_for_output(arguments.output)
    if arguments.plot is not None:
        require(["matplotlib", "sklearn"], "plot")
    from sanet_hf.inference.bulk import embed_files

    num_done, num_errors = embed_files(
        *_load_classifier(arguments, calibration_inputs=arguments.inputs, needs_classes=False),
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
        print(f"{arguments.output} contains the embeddings of {num_done} files.")
    if num_errors:
        print(f"{num_errors} of {num_done + num_errors} files could not be read.", file=sys.stderr)
    return 1 if num_errors else 0


def _require_for_output(output: Path | None, plot: Path | None = None) -> None:
    if output is not None and output.suffix == ".parquet":
        require("pyarrow", "train")
    if plot is not None:
        require("matplotlib", "plot")


def _load_classifier(
    arguments: argparse.Namespace, is_optimized_later: bool = True, **options: object
) -> "tuple[PreTrainedModel, FeatureExtractionMixin]":
    """Load a model. If it is not optimised later, its layers are checked on this processor here."""
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.inference.distributed import join_processes
    from sanet_hf.inference.int8 import INT8, load_classifier

    disable_progress_bar()  # loading takes a moment
    dtype = arguments.dtype
    device = arguments.device or (None if dtype == INT8 else join_processes().device)
    model, feature_extractor = load_classifier(arguments.model, device, dtype, denoise=arguments.denoise, **options)
    if not is_optimized_later:
        from sanet_hf.optimization.self_check import replace_wrong_layers

        replace_wrong_layers(model, model.dtype)
    return model, feature_extractor


def _explain(arguments: argparse.Namespace) -> int:
    from sanet_hf.architectures import window_length
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
        raise UsageError(f"--start {start:g} must be at least 0.")
    if arguments.dtype == "int8":
        raise UsageError("sanet explain does not support --dtype int8. Choose another --dtype.")
    model, feature_extractor = _load_classifier(arguments, is_optimized_later=False)
    check_denoising(feature_extractor, arguments.denoise)
    read = load_denoised if arguments.denoise else load_audio
    rate = feature_extractor.sampling_rate
    first = round((start or 0) * rate)
    length = None if start is None else window_length(model, feature_extractor)
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
    part = f"{explanation.start:.2f}–{explanation.end:.2f} s"
    print(f"{arguments.file}, {part}: {explanation.label} {score:.4f}, explained in {arguments.output}.")
    if start is None and explanation.start > 0:
        print("This is the middle of the file. --start SECONDS explains another part.")
    if is_silent(explanation.waveform):
        print("This part is silent (below -80 dBFS). sanet predict gives it no class.")
    return 0


def _app(arguments: argparse.Namespace) -> int:
    from sanet_hf.audio.find import find_audio_files
    from sanet_hf.inference.app import check_address, launch_app, make_app

    require("gradio", "app")
    check_address(arguments.host, arguments.port or 0)
    examples = []
    if arguments.examples is not None:
        if not arguments.examples.is_dir():
            raise UsageError(f"--examples {arguments.examples}: folder not found.")
        paths = list(find_audio_files([arguments.examples]))
        # Evenly spaced paths: if the folder contains class folders, the examples come from all of them.
        examples = paths[:: math.ceil(len(paths) / 10)]
    model, feature_extractor = _load_classifier(arguments, calibration_inputs=examples)
    names = ("max_megabytes", "max_seconds", "denoise", "min_score")
    app = make_app(model, feature_extractor, examples, **{name: getattr(arguments, name) for name in names})
    options = {"server_name": arguments.host, "server_port": arguments.port}
    try:
        _, address, _ = launch_app(app, quiet=True, prevent_thread_lock=True, **options)
    except OSError as error:
        raise UsageError(f"The app cannot be served on {arguments.host}: {error}") from error
    print(f"Open {address} in a browser. Press Ctrl+C to stop the app.", flush=True)
    app.block_thread()
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.export.command import export_classifier

    check_new_folder(arguments.output)
    if arguments.quantize and arguments.format != "onnx":
        raise UsageError(f"--quantize {arguments.quantize} needs --format onnx.")
    if arguments.calibration_dir and not arguments.quantize:
        raise UsageError("--calibration_dir needs --quantize int8.")
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
            raise UsageError(f"--labels {arguments.labels} is not a text file in UTF-8.") from error
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
