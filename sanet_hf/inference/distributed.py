# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classification by several processes, as `accelerate launch` and `torchrun` start them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from sanet_hf.inference.windows import Prediction


FILES_PER_ROUND = 128  # of each process; then the main process gets what all of them found

Value = TypeVar("Value")


def join_processes() -> PartialState:
    """Which of the processes that were started together this one is, and its device."""
    # The others wait for one with long files; where one dies, the launcher ends them.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))


def share(value: Value) -> Value:
    """The main process's value, in all of them."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def predict_in_processes(
    predict: Callable[[Sequence[str]], Iterable[Prediction]], paths: Sequence[str], state: PartialState
) -> Iterator[Prediction]:
    """
    Predictions of files, in their order and in each process; every process classifies a part of the files.

    Args:
        predict: Classifies files.
        paths: The files, the same in each process.
        state: As [`join_processes`] gives it.
    """
    num_files = FILES_PER_ROUND * state.num_processes
    for first in range(0, len(paths), num_files):
        part = paths[first : first + num_files][state.process_index :: state.num_processes]
        for predictions in zip_longest(*gather_object([list(predict(part))])):
            yield from (prediction for prediction in predictions if prediction is not None)
