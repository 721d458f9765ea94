# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Order of the clips in training."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler, WeightedRandomSampler


class EpochSampler(Sampler[int]):
    """
    Draw new clips in each epoch, as `epoch * num_clips + clip`, so that a dataset also knows the epoch.

    Args:
        num_clips: Number of clips to draw from.
        draw: Draws the clips of an epoch with a generator.
        seed: Seeds the generator, together with the epoch.
    """

    def __init__(self, num_clips: int, draw: Callable[[torch.Generator], Sequence[int]], seed: int):
        self.num_clips, self.draw, self.seed = num_clips, draw, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. accelerate calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        yield from (self.epoch * self.num_clips + clip for clip in self.draw(generator))


def draw_balanced(class_matrix: np.ndarray, generator: torch.Generator, num_others: int = 0) -> list[int]:
    """
    Draw as many clips as there are, with replacement, with each class equally often. Return their indices. A clip of
    several classes is drawn as often as its rarest class. Clips of no class count as one more class. Each clip without
    a label is drawn once, at a random position.

    Args:
        class_matrix: 0/1 of shape (clips with labels, classes).
        generator: Random generator.
        num_others: Number of clips without a label, whose indices follow.
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
    Return the clips of an epoch in batches of similar length: draw them, and sort up to 50 batches at a time by
    length. The longest clip comes first, so that running out of memory shows at once.

    Source: the same order as `transformers.trainer_pt_utils.get_length_grouped_indices`.

    Args:
        seconds: Length of each training clip. Clips of equal length are in random order.
        batch_size: Clips per batch.
        generator: Random generator.
        draw: Draws the clips of the epoch (default: every clip once, at random).
    """
    size = batch_size * max(1, min(len(seconds) // (batch_size * 4), 50))
    order = shuffle(len(seconds), generator) if draw is None else list(draw(generator))
    parts = [sorted(order[i : i + size], key=lambda clip: -seconds[clip]) for i in range(0, len(order), size)]
    longest = max(parts, key=lambda part: seconds[part[0]])
    parts[0][0], longest[0] = longest[0], parts[0][0]
    return [clip for part in parts for clip in part]


def shuffle(num_clips: int, generator: torch.Generator) -> list[int]:
    """Return the indices of all clips in random order."""
    return torch.randperm(num_clips, generator=generator).tolist()
