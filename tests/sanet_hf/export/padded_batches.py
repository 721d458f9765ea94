# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Padded batches of clips of different lengths, for exported and compiled tiny models."""

import torch


# Batch sizes and lengths: below, at and above whole frames (16 samples), up to the limit.
SHAPES = [(1, 17), (2, 32), (5, 1600), (3, 3999), (2, 8000)]


def make_batch(
    batch_size: int, length: int, mask_dtype: torch.dtype = torch.int64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips of `length` to 1 samples, padded with noise, and their mask."""
    generator = torch.Generator().manual_seed(length)
    clips = 0.1 * torch.randn(batch_size, length, generator=generator)
    lengths = torch.linspace(length, 1, batch_size).long()
    return clips, (torch.arange(length) < lengths.unsqueeze(1)).to(mask_dtype)


def assert_same_frames(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    """Compare the frames of a compiled or exported model. It may have more frames; those after the clip are zero."""
    num_frames = expected.shape[1]
    torch.testing.assert_close(actual[:, :num_frames], expected, atol=atol, rtol=0)
    assert not actual[:, num_frames:].any()
