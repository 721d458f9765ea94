# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The log-mel spectrogram of SANet and its 2-D blocks.

2-D kernels learn a sound at one pitch and recognise it at another. 1-D kernels need more recordings for this. Hidden
states are (batch, frames, bins * channels): each frame is a row of (merged) mel bands, with the channels of a band
next to each other.
"""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.audio_utils import mel_filter_bank

from .batchnorm_sanet import SANetBatchNorm
from .configuration_sanet import SANetConfig
from .layers_sanet import (
    HALF_MIN_CHANNELS,
    SANetLayer,
    SANetSqueezeExcitation,
    convolve_in_float32,
    is_half_on_cpu,
    pad_to_multiple,
    zero_padded_frames,
)


# Power below which a band is silent: 56 dB below white noise at the loudness of the feature extractor.
FLOOR = 1e-5
LOWEST_FREQUENCY = 30.0  # Hz


class SANetSpectrogram(SANetLayer):
    """
    Log-mel spectrogram in float32, (batch, samples, 1) -> (batch, frames, bins), normalised per band. A frame is in
    the middle of its window. Windows at both ends of the clip are padded with zeros:

        0 0 | a b c d e f g h | 0 0    (stride 2, window 6)
        [ window of  ]                 frame of a b
            [   frame of c d  ]
    """

    def __init__(self, config: SANetConfig):
        super().__init__()
        self.stride, window = config.spectrogram_stride, config.spectrogram_window
        self.num_parts = window // self.stride
        self.before = (window - self.stride) // 2
        self.after = window - self.stride - self.before
        filters = mel_filter_bank(
            num_frequency_bins=window // 2 + 1,
            num_mel_filters=config.num_mel_bins,
            min_frequency=LOWEST_FREQUENCY,
            max_frequency=config.spectrogram_sampling_rate / 2,
            sampling_rate=config.spectrogram_sampling_rate,
        )
        # Window and filters are stored in the checkpoint, so that bands do not depend on library versions.
        self.register_buffer("window", torch.hann_window(window))
        self.register_buffer("filters", torch.from_numpy(filters).float())
        self.norm = SANetBatchNorm(config.num_mel_bins, eps=config.batch_norm_eps)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            samples = pad_to_multiple(hidden_states, self.stride).squeeze(-1).float()
            samples = nn.functional.pad(samples, (self.before, self.after))
            # shape[0] instead of len(), which exporters turn into a constant.
            parts = samples.reshape(samples.shape[0], -1, self.stride)
            num_frames = parts.shape[1] - self.num_parts + 1
            frames = torch.cat([parts[:, part : part + num_frames] for part in range(self.num_parts)], dim=-1)
            bands = torch.log(_power_spectrum(frames * self.window.float()) @ self.filters.float() + FLOOR)
        bands = self.norm(bands.to(self.norm.weight.dtype), mask)
        return zero_padded_frames(bands, mask)


def _power_spectrum(frames: torch.Tensor) -> torch.Tensor:
    """Return the power spectrum of (batch, frames, samples) as (batch, frames, samples / 2 + 1)."""
    if not torch.compiler.is_compiling():
        spectrum = torch.fft.rfft(frames)
        return spectrum.real.square() + spectrum.imag.square()
    # Compilers and exporters support matrix products better than complex numbers.
    num_samples = frames.shape[-1]
    samples = torch.arange(num_samples, device=frames.device)
    # The product of frequency and sample is reduced to one period in integers, since float32 would round it.
    periods = torch.outer(samples, samples[: num_samples // 2 + 1]) % num_samples
    angles = periods.float() * (2 * math.pi / num_samples)
    return (frames @ angles.cos()).square() + (frames @ angles.sin()).square()


class SANetConv2d(nn.Conv2d):
    """
    `nn.Conv2d` over (batch, frames, bins, channels), channels-last in memory. In bfloat16 and float16 on a CPU, inputs
    with few channels are convolved in float32, since kernels of oneDNN are wrong for them on Intel processors with
    AMX.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if is_half_on_cpu(hidden_states) and self.in_channels < HALF_MIN_CHANNELS:
            return convolve_in_float32(self, hidden_states)
        return self._convolve(hidden_states, self.weight, self.bias)

    def _convolve(self, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        images = nn.functional.conv2d(hidden_states.permute(0, 3, 1, 2), weight, bias, padding=self.padding)
        return images.permute(0, 2, 3, 1).contiguous()


class SANetSpectrogramLayer(SANetLayer):
    """
    2-D residual block: it merges neighbouring frames and bins by their maximum, then convolves. The shapes are (batch,
    frames, bins * in) -> (batch, frames / stride, merged bins * out). The last block averages its bins.
    """

    def __init__(self, config: SANetConfig, stage: int):
        super().__init__()
        in_channels, channels = (1, *config.spectrogram_dim)[stage : stage + 2]
        self.stride, self.bin_stride = config.spectrogram_pool[stage]
        self.is_last = stage == len(config.spectrogram_dim) - 1
        self.conv1 = SANetConv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm1 = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.conv2 = SANetConv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.squeeze_excitation = SANetSqueezeExcitation(config, channels) if config.use_squeeze_excitation else None
        self.shortcut = nn.Linear(in_channels, channels, bias=False)
        self.shortcut_norm = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        batch_size, in_channels = hidden_states.shape[0], self.conv1.in_channels
        hidden_states = pad_to_multiple(hidden_states, self.stride)
        hidden_states = hidden_states.unflatten(2, (-1, in_channels))
        if (self.stride, self.bin_stride) != (1, 1):
            images = nn.functional.max_pool2d(hidden_states.permute(0, 3, 1, 2), (self.stride, self.bin_stride))
            hidden_states = images.permute(0, 2, 3, 1).contiguous()
        num_bins = hidden_states.shape[2]
        # All operations except the convolutions treat each band of a frame as a frame.
        band_mask = None if mask is None else mask.unsqueeze(-1).expand(-1, -1, num_bins).flatten(1)
        residual = self.shortcut_norm(self.shortcut(hidden_states).flatten(1, 2), band_mask)

        values = self.conv1(hidden_states).flatten(1, 2)
        values = zero_padded_frames(self.act(self.norm1(values, band_mask)), band_mask)
        values = self.conv2(values.unflatten(1, (-1, num_bins))).flatten(1, 2)
        values = self.norm2(values, band_mask)
        if self.squeeze_excitation is not None:
            values = self.squeeze_excitation(values, band_mask)
        values = zero_padded_frames(self.act(values + residual), band_mask)
        values = values.view(batch_size, -1, num_bins, values.shape[-1])
        return values.mean(2) if self.is_last else values.flatten(2)
