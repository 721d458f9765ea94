# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The `sanet` command: find the subcommand, run it, and turn errors into messages and exit codes."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version

from sanet_hf.cli import inference_commands, training_commands
from sanet_hf.cli.options import CommandParser
from sanet_hf.errors import SanetError
from sanet_hf.utils.files import writing_to
from sanet_hf.utils.processes import num_processes


# Each handler gets the parsed arguments and returns the exit code. `train` is separate, since its options come from
# transformers.
COMMANDS = {**training_commands.COMMANDS, **inference_commands.COMMANDS}

DESCRIPTION = """\
Audio classifiers in Hugging Face transformers: SANet, a small end-to-end network, and wav2vec2, AST and others.

  sanet check recordings
  sanet prepare recordings data
  sanet train --data_dir recordings --output_dir runs/sanet
  sanet augment clip.wav examples
  sanet evaluate runs/sanet
  sanet compare runs/sanet runs/ast --output comparison
  sanet predict runs/sanet clip.wav calls/ --output predictions.csv
  sanet embed runs/sanet calls/ --output embeddings.parquet
  sanet explain runs/sanet clip.wav --output explained.png
  sanet app runs/sanet
  sanet export runs/sanet exported --format onnx
  sanet convert original.pt runs/converted --labels labels.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a subcommand.

    Args:
        argv: The command line without the name of the program (default: that of this process).

    Returns:
        The exit code. 0: success. 1: failure, or unexpected error (with traceback). 2: wrong options or missing files.
        130: interrupted. 141: the reader closed the pipe. 143: training saved a checkpoint after SIGTERM and stopped.

    Raises:
        SystemExit: The help was printed (0), or the command line cannot be parsed (2).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in argv or bool(os.environ.get("SANET_TRACEBACK"))
    argv = [argument for argument in argv if argument != "--traceback"]
    try:
        code = _run(argv)
        _leave_processes()
        return code
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader needs no more output, like `head`. The rest of the output is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports SIGPIPE
    except Exception as error:
        is_expected = _is_expected(error)
        if with_traceback or not is_expected:
            traceback.print_exc()
        print(f"sanet: {'' if is_expected else 'unexpected '}error: {error}", file=sys.stderr)
        is_misuse = isinstance(error, (SanetError, FileNotFoundError, FileExistsError, NotADirectoryError))
        return 2 if is_misuse else 1


def make_parser(with_data_options: bool = True) -> argparse.ArgumentParser:
    """
    Return the parser of the `sanet` command; `command` is the name of the subcommand. The parser of `train` is in
    `train_options`, since its options come from transformers.

    Args:
        with_data_options: Whether to load the data options of `evaluate` and `compare`, which takes seconds.
    """
    parser = argparse.ArgumentParser(
        prog="sanet", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sanet-hf {version('sanet-hf')}")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    training_commands.add_parsers(commands, with_data_options)
    inference_commands.add_parsers(commands)
    return parser


def _run(argv: Sequence[str]) -> int:
    if argv[:1] == ["train"]:
        return training_commands.train_command(argv[1:])
    arguments = make_parser(with_data_options=argv[:1] in (["evaluate"], ["compare"])).parse_args(argv)
    output = getattr(arguments, "output", getattr(arguments, "output_dir", None))
    is_folder = arguments.command not in inference_commands.WITH_FILES
    with nullcontext() if output is None else writing_to(output, is_folder):
        return COMMANDS[arguments.command](arguments)


def _is_expected(error: Exception) -> bool:
    """Return whether the message of an error is enough: the error is ours, the operating system's, or the Hub's."""
    if type(error) is OSError:
        # Libraries raise a plain OSError without errno for any kind of fault.
        return error.errno is not None
    # A diverging training raises FloatingPointError.
    return isinstance(error, (SanetError, OSError, FloatingPointError))


def _leave_processes() -> None:
    if num_processes() > 1:
        from torch import distributed

        # Open connections can abort a process that has finished its work.
        if distributed.is_initialized():
            distributed.destroy_process_group()
