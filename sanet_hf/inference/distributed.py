# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classify files in several processes, started by `accelerate launch` or `torchrun`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice, zip_longest
from typing import NamedTuple, TypeVar

from sanet_hf.inference.windows import Prediction
from sanet_hf.utils.extras import require
from sanet_hf.utils.processes import num_processes


FILES_PER_ROUND = 128  # files per process between two exchanges of predictions

Value = TypeVar("Value")


class Processes(NamedTuple):
    """Number of processes of a launcher, index of this one, and its device if there are several."""

    num_processes: int = 1
    process_index: int = 0
    device: str | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.process_index == 0


def join_processes() -> Processes:
    """Initialise the distributed state if a launcher started several processes, and return it."""
    if num_processes() == 1:
        return Processes()
    # Imported late, since a single process does not need accelerate.
    require("accelerate", "train")
    import torch
    from accelerate import PartialState

    # Processes wait for the one with the longest files. If one dies, the launcher ends the others.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    return Processes(state.num_processes, state.process_index, str(state.device))


def share(value: Value) -> Value:
    """Return the main process's value in every process."""
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
    Yield the predictions of all files, in order and in every process. Each process classifies a part of the files.

    Every process gets all predictions, so that `--strict` and exit codes agree without another exchange.

    Args:
        predict: Classifies files. Yields one prediction per file, in order.
        paths: The files, the same in each process.
        state: The result of [`join_processes`].
    """
    from accelerate.utils import gather_object

    # One call for all files keeps batches, decoded files and a reduced batch size from one round to the next.
    predictions = iter(predict(paths[state.process_index :: state.num_processes]))
    for _ in range(0, len(paths), FILES_PER_ROUND * state.num_processes):
        for row in zip_longest(*gather_object([list(islice(predictions, FILES_PER_ROUND))])):
            yield from (prediction for prediction in row if prediction is not None)
