# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
SANet as in the original project, as a reference for timing: `Conv1d` over (batch, channels, frames), separate
BatchNorm and activations, `nn.MultiheadAttention` with its default weights, `nn.ConvTranspose1d`. Its state dict has
the original names, so that `sanet_hf.convert_original_checkpoint` supports it.
"""

import math

import torch
from torch import nn


class SE1D(nn.Module):
    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Sequential(
            nn.Conv1d(channels, channels // reduction, 1),
            nn.GELU(),
            nn.Conv1d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(self.pool(x))


class ResBlock1D(nn.Module):
    """(batch, in, frames) to (batch, out, frames / stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride, padding=(stride + kernel_size - 2) // 2, bias=False
        )
        self.bn1 = nn.BatchNorm1d(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size, padding=(kernel_size - 1) // 2, bias=False)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.se = SE1D(out_channels)
        self.down = nn.Sequential(
            nn.Conv1d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm1d(out_channels)
        )
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        return self.act(out + self.down(x))


class DownsampledAttentionBlock(nn.Module):
    """(batch, channels, frames) to the same shape."""

    def __init__(self, channels: int, dim: int, stride: int = 4, num_heads: int = 8, max_length: int = 500):
        super().__init__()
        self.down_time = nn.Conv1d(channels, channels, stride, stride)
        self.bn_down = nn.BatchNorm1d(channels)
        self.down_ch = nn.Conv1d(channels, dim, 1)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, max_length, dim))
        self.mha = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.ln_attn = nn.LayerNorm(dim)
        self.up_time = nn.ConvTranspose1d(dim, dim, stride, stride)
        self.bn_up = nn.BatchNorm1d(dim)
        self.up_ch = nn.Conv1d(dim, channels, 1)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged = self.down_ch(self.act(self.bn_down(self.down_time(x)))).transpose(1, 2)
        merged = merged + self.pos_embed[:, : merged.shape[1]]
        attended, _ = self.mha(merged, merged, merged)
        merged = self.ln_attn(merged + attended).transpose(1, 2)
        return x + self.up_ch(self.act(self.bn_up(self.up_time(merged))))


class AttentivePool(nn.Module):
    """(batch, channels, frames) to (batch, 2 * channels)."""

    def __init__(self, channels: int, hidden: int = 128):
        super().__init__()
        self.score = nn.Sequential(nn.Conv1d(channels, hidden, 1), nn.Tanh(), nn.Conv1d(hidden, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.score(x), dim=-1)
        mean = (weights * x).sum(-1)
        var = (weights * (x - mean.unsqueeze(-1)) ** 2).sum(-1)
        return torch.cat([mean, var.clamp(min=1e-9).sqrt()], dim=1)


class OriginalSANet(nn.Module):
    """Waveforms of shape (batch, samples), a multiple of 256, to logits of shape (batch, classes)."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.stage1 = ResBlock1D(1, 32, 64, 4)
        self.stage2 = ResBlock1D(32, 64, 32, 2)
        self.stage3 = ResBlock1D(64, 128, 6, 2)
        self.stage4 = ResBlock1D(128, 256, 4, 2)
        self.dab1 = DownsampledAttentionBlock(256, 128)
        self.stage5 = ResBlock1D(256, 512, 4, 2)
        self.dab2 = DownsampledAttentionBlock(512, 256)
        self.pool = AttentivePool(512)
        self.classifier = nn.Sequential(
            nn.Linear(1024, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, num_classes),
        )

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        padding = 256 * math.ceil(waveforms.shape[-1] / 256) - waveforms.shape[-1]
        x = nn.functional.pad(waveforms, (0, padding)).unsqueeze(1)
        for block in (self.stage1, self.stage2, self.stage3, self.stage4, self.dab1, self.stage5, self.dab2):
            x = block(x)
        return self.classifier(self.pool(x))
