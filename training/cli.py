# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command: each subcommand calls a function that can also be imported."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


DESCRIPTION = """\
SANet, a small end-to-end classifier of raw audio, in Hugging Face transformers.

  sanet train sanet.yaml --data_dir recordings --output_dir runs/mine
  sanet predict runs/mine clip.wav another.flac
  sanet convert original.pt runs/converted --labels labels.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 is success, 1 a failure that is reported, 2 misuse."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or bool(os.environ.get("SANET_DEBUG"))
    argv = [argument for argument in argv if argument != "--debug"]
    try:
        if argv[:1] == ["train"]:
            return _train(argv[1:])
        arguments = make_parser().parse_args(argv)
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


def make_parser() -> argparse.ArgumentParser:
    """Parser of the `sanet` command; `train`, whose options come from transformers, has its own in `arguments`."""
    parser = argparse.ArgumentParser(
        prog="sanet", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sanet-hf {version('sanet-hf')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    commands.add_parser("train", help="train a classifier on a folder of recordings", add_help=False)

    predict = commands.add_parser(
        "predict",
        help="classify audio files",
        description="Classify audio files and print a table of file, label and score. A file that cannot be read is "
        "named with the reason and makes the exit code 1; the rest are classified all the same. Of a clip longer than "
        "SANet takes, the middle is classified, and a remark says so.",
        epilog="Example: sanet predict runs/mine clip.wav another.flac",
    )
    predict.add_argument("model", help="folder or Hub id of a trained audio classifier")
    predict.add_argument("files", nargs="+", metavar="file", help="audio file")
    predict.add_argument("--batch_size", type=_positive, default=8, help="files classified at once (default: 8)")
    predict.set_defaults(run=_predict)

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


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _train(argv: Sequence[str]) -> int:
    import datasets
    from transformers.utils.logging import disable_progress_bar

    from .arguments import parse_train_arguments
    from .train import train

    arguments = parse_train_arguments(argv)
    # Bars for what takes a moment; those for reading recordings and for training stay.
    disable_progress_bar()
    datasets.disable_progress_bars()
    metrics = train(*arguments)
    output_dir = arguments[-1].output_dir
    print(f"\n{'split':12}{'accuracy':>10}{'macro F1':>10}")
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if f"{prefix}_accuracy" in metrics:
            print(f"{split:12}{metrics[f'{prefix}_accuracy']:10.3f}{metrics[f'{prefix}_macro_f1']:10.3f}")
    print(f"\nThe model is in {output_dir}. Classify a file with: sanet predict {output_dir} FILE")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from sanet_hf.inference import load_classifier, predict

    disable_progress_bar()
    model, feature_extractor = load_classifier(arguments.model)
    width = max(4, *(len(path) for path in arguments.files)) + 2
    label_width = max(5, *(len(label) for label in model.config.label2id)) + 2
    print(f"{'file':{width}}{'label':{label_width}}score")
    # SANet's feature extractor crops; those of other models have rules of their own.
    crops = model.config.model_type == "sanet" and feature_extractor.max_length is not None
    limit = feature_extractor.max_length / feature_extractor.sampling_rate if crops else float("inf")
    num_errors = 0
    for prediction in predict(model, feature_extractor, arguments.files, arguments.batch_size):
        if prediction.error is None:
            print(f"{prediction.path:{width}}{prediction.label:{label_width}}{prediction.score:.4f}", flush=True)
            if prediction.duration > limit:
                print(
                    f"{prediction.path}: {prediction.duration:.1f} s long, of which the middle {limit:g} s were "
                    "classified; cut it into parts to classify all of it.",
                    file=sys.stderr,
                )
        else:
            num_errors += 1
            print(f"{prediction.path}: {prediction.error}", file=sys.stderr, flush=True)
    if num_errors:
        print(f"{num_errors} of {len(arguments.files)} files could not be classified.", file=sys.stderr)
    return 1 if num_errors else 0


def _convert(arguments: argparse.Namespace) -> int:
    from sanet_hf import SANetFeatureExtractor, convert_original_checkpoint

    if arguments.output_dir.exists() and any(arguments.output_dir.iterdir()):
        raise ValueError(f"{arguments.output_dir} is not empty: choose a new folder.")
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
