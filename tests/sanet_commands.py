# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Parse the `sanet` commands of the documentation, without running them."""

import itertools
import re
import shlex

from sanet_hf.cli.main import make_parser
from sanet_hf.cli.train_options import parse_train_arguments


def find_commands(text: str) -> list[str]:
    """Return the lines of `text` that start with `sanet`; a backslash at the end of a line continues it."""
    return re.findall(r"^sanet .*$", re.sub(r"\\\n\s*", "", text), re.MULTILINE)


def parse_command(command: str) -> None:
    """Parse a `sanet` command up to its first redirection or pipe; a wrong option ends the process, as in a shell."""
    tokens = itertools.takewhile(lambda token: not re.match(r"\d?>|\|", token), shlex.split(command))
    _, subcommand, *argv = tokens
    if subcommand == "train":
        parse_train_arguments(argv)
    else:
        make_parser().parse_args([subcommand, *argv])
