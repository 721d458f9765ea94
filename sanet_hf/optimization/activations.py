# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Activations that are fused into fast layers."""

import torch
from torch import nn


# Activations by their names in oneDNN.
ACTIVATIONS = {"none": nn.Identity(), "gelu": nn.functional.gelu, "relu": torch.relu, "tanh": torch.tanh}
_IN_PLACE = {"gelu": torch.ops.aten.gelu_, "relu": torch.relu_, "tanh": torch.tanh_}


def activate_(values: torch.Tensor, activation: str) -> torch.Tensor:
    """Apply an activation in place."""
    return values if activation == "none" else _IN_PLACE[activation](values)
