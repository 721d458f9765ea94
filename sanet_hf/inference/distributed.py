# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classification by several processes, as `accelerate launch` and `torchrun` start them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from sanet_hf.inference.windows import Prediction


FILES_PER_ROUND = 128  # of each process; then the main process gets what all of them found

Value = TypeVar("Value")


class Processes(NamedTuple):
    """How many processes were started together, which of them this one is, and its device, if they share several."""

    num_processes: int = 1
    process_index: int = 0
    device: str | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.process_index == 0


def join_processes() -> Processes:
    """The processes that a launcher started together, once they can reach each other."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes()
    # Imported late, since a single process does not need it.
    import torch
    from accelerate import PartialState

    # The others wait for one with long files; where one dies, the launcher ends them.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    return Processes(state.num_processes, state.process_index, str(state.device))


def share(value: Value) -> Value:
    """The main process's value, in all of them."""
    if join_processes().num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


def predict_in_processes(
    predict: Callable[[Sequence[str]], Iterable[Prediction]], paths: Sequence[str], state: Processes
) -> Iterator[Prediction]:
    """
    Predictions of files, in their order and in each process; every process classifies a part of the files.

    Args:
        predict: Classifies files.
        paths: The files, the same in each process.
        state: As [`join_processes`] gives it.
    """
    from accelerate.utils import gather_object

    num_files = FILES_PER_ROUND * state.num_processes
    for first in range(0, len(paths), num_files):
        part = paths[first : first + num_files][state.process_index :: state.num_processes]
        for predictions in zip_longest(*gather_object([list(predict(part))])):
            yield from (prediction for prediction in predictions if prediction is not None)
