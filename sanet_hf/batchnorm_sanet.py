# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""BatchNorm that ignores padded frames and can share statistics between processes."""

import torch
from torch import nn


class SANetBatchNorm(nn.BatchNorm1d):
    """
    `nn.BatchNorm1d` over (batch, frames, channels) or (batch, channels) with these differences in training:

    - Padded frames do not count in the statistics.
    - A single value per channel is normalised by the running statistics. PyTorch raises an error.
    - With frozen weights, the running statistics are used and not updated.
    - The second forward pass of gradient checkpointing does not update the running statistics again.
    - With `synchronize`, processes that train together share the statistics of their batches. Unlike
      `nn.SyncBatchNorm`, this also works on CPUs.
    """

    synchronize: bool = False

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        training = self.training and self.weight.requires_grad
        flat = hidden_states.reshape(-1, self.num_features)
        mask = None if mask is None else mask.reshape(-1, 1)
        if not training or (mask is None and not self.synchronize):
            normalized = self._normalize(flat, training)
        elif self.synchronize or torch.compiler.is_compiling() or flat.device.type != "cpu":
            # Weights instead of an index: the number of valid frames depends on the data, which would break a compiled
            # graph or wait for a GPU.
            normalized = self._normalize_weighted(flat, mask)
        else:
            index = mask.flatten().nonzero().squeeze(1)
            valid = self._normalize(flat.index_select(0, index), training)
            normalized = valid.new_zeros(flat.shape).index_copy_(0, index, valid)
        return normalized.view_as(hidden_states)

    def _normalize(self, values: torch.Tensor, training: bool) -> torch.Tensor:
        """Normalise (values, channels) by their statistics, or in evaluation by the running statistics."""
        if values.shape[0] == 1:
            training = False
        update = training and not _is_recomputing()
        if update:
            self.num_batches_tracked.add_(1)
        return nn.functional.batch_norm(
            values,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum if update else 0.0,
            self.eps,
        )

    def _normalize_weighted(self, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """
        Normalise (values, channels) by the statistics of values for which the (values, 1) mask is 1, over all
        processes with `synchronize`.
        """
        values, dtype = values.to(torch.promote_types(values.dtype, torch.float32)), values.dtype
        valid, count = (values, values.new_full((), len(values))) if mask is None else (values * mask, mask.sum())
        mean = valid.sum(0) / count.clamp(min=1)
        centered = values - mean if mask is None else (values - mean) * mask
        squares = centered.square().sum(0)
        if self.synchronize:
            count, mean, squares = _combine_over_processes(count, mean, squares)
        var = squares / count
        if not _is_recomputing():
            with torch.no_grad():
                # A single value has no variance, so that it does not change the running statistics.
                momentum = self.momentum * (count > 1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_((squares / (count - 1).clamp(min=1)).to(self.running_var.dtype), momentum)
                self.num_batches_tracked.add_(1)
        mean = torch.where(count > 1, mean, self.running_mean)
        var = torch.where(count > 1, var, self.running_var)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (values * scale + (self.bias - mean * scale)).to(dtype)


def _combine_over_processes(
    count: torch.Tensor, mean: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Combine the number of values, their mean and their sum of squared differences over all processes, with one message
    forward and one backward.

    Source: Chan et al., 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    from torch import distributed

    own = torch.cat([count.reshape(1), mean, squares])
    # One row per process; a sum gathers them. The gradient of a sum is a sum, which every backend supports.
    rows = own.new_zeros(distributed.get_world_size(), len(own))
    rows[distributed.get_rank()] = own
    rows = _add_up_over_processes(rows)
    counts, means, squares = rows.split([1, len(mean), len(mean)], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    return count, mean, (squares + counts * (means - mean).square()).sum(0)


# If this is compiled by PyTorch 2.11, gradients are not summed.
@torch.compiler.disable
def _add_up_over_processes(values: torch.Tensor) -> torch.Tensor:
    # Imported late, since some builds of PyTorch lack it.
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)


def _is_recomputing() -> bool:
    """Return whether this runs inside a backward pass, like the second forward pass of gradient checkpointing."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
