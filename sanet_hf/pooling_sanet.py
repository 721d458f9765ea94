# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Pooling of frames to one vector per clip: attentive pooling, and statistics of log-mel bands."""

import torch
from torch import nn

from .configuration_sanet import SANetConfig


class SANetAttentivePooling(nn.Module):
    """
    Attentive statistics pooling (Okabe et al., 2018): (batch, frames, channels) -> weighted mean and standard
    deviation, (batch, 2 * channels), and the weights, (batch, frames).
    """

    def __init__(self, config: SANetConfig):
        super().__init__()
        self.hidden = nn.Linear(config.hidden_size, config.pool_hidden_size)
        self.act = nn.Tanh()
        self.score = nn.Linear(config.pool_hidden_size, 1)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.score(self.act(self.hidden(hidden_states))).squeeze(-1).float()
        if mask is not None:
            scores = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        values = hidden_states.float()
        mean = torch.matmul(weights.unsqueeze(1), values)
        var = torch.matmul(weights.unsqueeze(1), (values - mean).square())
        pooled = torch.cat([mean, var.clamp(min=1e-9).sqrt()], dim=-1).squeeze(1)
        return pooled.to(hidden_states.dtype), weights.to(hidden_states.dtype)


def band_statistics(bands: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Compute statistics of each band over time, (batch, frames, bands) -> (batch, 4 * bands + 1): mean, standard
    deviation, maximum, standard deviation of differences between frames, and last the logarithm of the number of
    frames. Frames for which the (batch, frames) mask is zero do not count.
    """
    values, counts = bands.float(), mask.float().unsqueeze(-1)
    mean, std = _mean_and_std(values, counts)
    highest = values.masked_fill(counts == 0, torch.finfo(values.dtype).min).amax(1)
    # If no frame counts, there is no maximum.
    highest = highest.where(counts.amax(1) > 0, mean)
    # Only differences between two frames that count.
    _, change = _mean_and_std(values[:, 1:] - values[:, :-1], counts[:, 1:] * counts[:, :-1])
    return torch.cat([mean, std, highest, change, counts.sum(1).log1p()], dim=-1).to(bands.dtype)


def _mean_and_std(values: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = counts.sum(1).clamp(min=1)
    mean = (values * counts).sum(1) / total
    var = ((values - mean.unsqueeze(1)).square() * counts).sum(1) / total
    return mean, var.clamp(min=1e-9).sqrt()
