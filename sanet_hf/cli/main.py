# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command: each subcommand calls a function that can also be imported."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version

from sanet_hf.cli.inference import (
    WITH_FILES,
    _add_app,
    _add_convert,
    _add_embed,
    _add_explain,
    _add_export,
    _add_predict,
    _app,
    _convert,
    _embed,
    _explain,
    _export,
    _predict,
)
from sanet_hf.cli.options import _num_processes
from sanet_hf.cli.training import (
    _add_augment,
    _add_compare,
    _add_evaluate,
    _add_prepare,
    _augment,
    _compare,
    _evaluate,
    _prepare,
    _train,
)
from sanet_hf.utils.extras import MissingPackageError
from sanet_hf.utils.files import writing_to


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
    except (ValueError, OSError, FloatingPointError, MissingPackageError) as error:
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


def make_parser(with_data_options: bool = True) -> argparse.ArgumentParser:
    """
    Parser of the `sanet` command; `command` is the name of the subcommand. `train`, whose options come from
    transformers, has a parser of its own in `arguments`.

    Args:
        with_data_options: Whether to load the options of `evaluate` and `compare` about data, which takes seconds.
    """
    data_parsers = []
    if with_data_options:
        from sanet_hf.cli.train_options import make_data_parser

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
