# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Order of the clips in training."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler, WeightedRandomSampler


class EpochSampler(Sampler[int]):
    """
    Draws the clips of each epoch anew, as `epoch * num_clips + clip`, so that a data set knows the epoch too.

    Args:
        num_clips: Clips to draw from.
        draw: Clips of an epoch, drawn with a generator.
        seed: With the epoch, decides what is drawn.
    """

    def __init__(self, num_clips: int, draw: Callable[[torch.Generator], Sequence[int]], seed: int):
        self.num_clips, self.draw, self.seed = num_clips, draw, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        yield from (self.epoch * self.num_clips + clip for clip in self.draw(generator))


def draw_balanced(class_matrix: np.ndarray, generator: torch.Generator, num_others: int = 0) -> list[int]:
    """
    As many clips as there are, with replacement, each class equally often. Clips of several classes are drawn as often
    as their rarest; those of none count as one more class. Clips without a label come once each, among the others.

    Args:
        class_matrix: 0/1 of shape (clips with labels, classes).
        generator: To draw with.
        num_others: Clips without a label, whose numbers follow.
    """
    class_matrix = np.column_stack([class_matrix, ~class_matrix.any(axis=1)])
    weights = (class_matrix / np.maximum(class_matrix.sum(axis=0), 1)).max(axis=1)
    clips = list(WeightedRandomSampler(weights, len(weights), generator=generator))
    if num_others:
        clips += range(len(weights), len(weights) + num_others)
        clips = [clips[place] for place in shuffle(len(clips), generator)]
    return clips


def group_by_length(
    seconds: Sequence[float],
    batch_size: int,
    generator: torch.Generator,
    draw: Callable[[torch.Generator], Sequence[int]] | None = None,
) -> list[int]:
    """
    The clips of an epoch in an order in which batches hold clips of similar length: they are drawn, and up to 50
    batches in a row sorted by length. The longest clip comes first, so that a lack of memory shows at once.

    Source: `transformers.trainer_pt_utils.get_length_grouped_indices`, whose order this is.

    Args:
        seconds: Length of each clip as it is trained on. The order of clips of one length is random.
        batch_size: Clips of a batch.
        generator: To draw with.
        draw: Clips of the epoch; by default every clip once, at random.
    """
    size = batch_size * max(1, min(len(seconds) // (batch_size * 4), 50))
    order = shuffle(len(seconds), generator) if draw is None else list(draw(generator))
    parts = [sorted(order[i : i + size], key=lambda clip: -seconds[clip]) for i in range(0, len(order), size)]
    longest = max(parts, key=lambda part: seconds[part[0]])
    parts[0][0], longest[0] = longest[0], parts[0][0]
    return [clip for part in parts for clip in part]


def shuffle(num_clips: int, generator: torch.Generator) -> list[int]:
    """Every clip once, in random order."""
    return torch.randperm(num_clips, generator=generator).tolist()
