# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pretrain a SANet on the corpus. The shipped networks were trained in this way.

    python -m sanet_hf.training.pretraining.train corpus runs/pretrained --steps 20000

A segment is mixed with another one, filtered, and covered with noise. From the network's embedding of it, linear
layers predict the embeddings of the segment by two published networks, statistics of its log-mel bands, and its tags.
The first call measures the corpus. Run an interrupted command again to resume from its last checkpoint. `OUT/model` is
for `--model_name_or_path`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.errors import SanetError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE, SANetFeatureExtractor
from sanet_hf.layers_sanet import downsample_mask, zero_padded_frames
from sanet_hf.modeling_sanet import SANetAttentionLayer, SANetModel
from sanet_hf.pooling_sanet import band_statistics
from sanet_hf.spectrogram_sanet import FLOOR
from sanet_hf.training.checkpoints import find_last_checkpoint
from sanet_hf.training.pretraining.experts import SoundExpert, VoiceExpert
from sanet_hf.training.pretraining.stretches import (
    PARTS,
    STRETCH_SECONDS,
    Stretches,
    measure_corpus,
    read_stretches,
)
from sanet_hf.training.recipe import make_network
from sanet_hf.utils.files import write_atomically


# Channels of the blocks of each shipped network.
NETWORKS = {"tiny": [16, 32, 64, 128], "small": [32, 64, 128, 256]}
# Weights of the terms of the loss. Each term is near 1 for an untrained network.
WEIGHTS = {"sounds": 1.0, "voices": 0.5, "bands": 1.0, "tags": 0.05}
# Weight of tags that only other parts of the corpus have. They are known to be absent, which is easy to predict.
OTHER_TAG_WEIGHT = 0.1


class PretrainingNetwork(nn.Module):
    """
    A SANet and the layers that predict from its embedding. The inputs are log-mel bands, so that a segment is measured
    only once. The SANet itself has waveforms as inputs.
    """

    def __init__(self, config: SANetConfig, num_tags: int):
        super().__init__()
        self.sanet = SANetModel(config)
        size, num_statistics = 2 * config.hidden_size, 4 * config.num_mel_bins + 1
        self.norm = nn.BatchNorm1d(size, affine=False)
        self.statistics_norm = nn.BatchNorm1d(num_statistics, affine=False)
        self.heads = nn.ModuleDict(
            {
                "sounds": nn.Linear(size, SoundExpert.num_features),
                "voices": nn.Linear(size, VoiceExpert.num_features),
                "bands": nn.Linear(size, num_statistics),
                "tags": nn.Linear(size, num_tags),
            }
        )
        # Start from a low probability, because each tag is rare.
        nn.init.constant_(self.heads["tags"].bias, -5.0)

    def embed(self, bands: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings (batch, size) and statistics of the bands, as [`SANetModel`] does for waveforms."""
        spectrogram, *layers = self.sanet.layers
        hidden_states = zero_padded_frames(spectrogram.norm(bands, mask), mask)
        statistics = band_statistics(hidden_states, mask)
        for layer in layers:
            mask = downsample_mask(mask, layer.stride)
            hidden_states = layer(hidden_states, mask)
            if isinstance(layer, SANetAttentionLayer):
                hidden_states, _ = hidden_states
        return self.sanet.pooling(hidden_states, mask)[0], statistics

    def forward(
        self,
        bands: torch.Tensor,
        mask: torch.Tensor,
        sounds: torch.Tensor,
        voices: torch.Tensor,
        voice_weights: torch.Tensor,
        tags: torch.Tensor,
        tag_weights: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Return the loss.

        Args:
            bands, mask: (batch, frames, bins) and (batch, frames).
            sounds, voices: Standardised embeddings of the experts.
            voice_weights: Weight of each segment's voice; 0 without speech.
            tags, tag_weights: Target of each tag in the segment (0 to 1), and its weight, (batch, tags).
        """
        embeddings, statistics = self.embed(bands, mask)
        embeddings = self.norm(embeddings.float())
        # Detached, because otherwise training would make the statistics easy to predict.
        statistics = self.statistics_norm(statistics.detach().float())
        found = {name: head(embeddings).float() for name, head in self.heads.items()}
        voice_losses = (found["voices"] - voices).square().mean(1)
        tag_losses = nn.functional.binary_cross_entropy_with_logits(found["tags"], tags, reduction="none")
        losses = {
            "sounds": (found["sounds"] - sounds).square().mean(),
            "voices": (voice_losses * voice_weights).sum() / voice_weights.sum().clamp(min=1),
            "bands": (found["bands"] - statistics).square().mean(),
            "tags": (tag_losses * tag_weights).sum(1).mean(),
        }
        return {"loss": sum(WEIGHTS[name] * loss for name, loss in losses.items())}


class Indices(Dataset):
    """Indices of segments, from which the collator makes batches."""

    def __init__(self, number: int):
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> int:
        return index


class Collator:
    """
    Make a batch for [`PretrainingNetwork`] from indices of segments. Half of the segments are mixed with another
    segment of the batch. Their powers add up, so the targets are mixed with the same weights.
    """

    # Fraction of the segments that are mixed with another one, and range of the other one's share of the power.
    mixed, parts_of_power = 0.5, (0.1, 0.5)

    def __init__(self, stretches: Stretches, device: torch.device | str = "cpu", seed: int = 0):
        self.generator = torch.Generator(device).manual_seed(seed)
        has_voice = stretches.parts == PARTS.index("speech")
        # One extra index pads the lists of tags of segments with fewer tags.
        num_tags, most = len(stretches.tags), max(map(len, stretches.tags_of))
        tags_of = np.full((len(stretches.tags_of), most), num_tags)
        for own, tags in zip(tags_of, stretches.tags_of):
            own[: len(tags)] = tags
        # On the CPU, the bands stay memory-mapped. On a GPU, all of them are loaded.
        self.bands, self.frames, self.sounds, self.voices, self.parts, self.tags_of = (
            torch.from_numpy(values).to(device)
            for values in (
                stretches.bands,
                stretches.frames,
                _standardise(np.sqrt(stretches.sounds.astype(np.float32))),
                _standardise(stretches.voices.astype(np.float32), has_voice),
                stretches.parts,
                tags_of,
            )
        )
        self.tag_weights = torch.from_numpy(np.where(stretches.tags_of_part, 1.0, OTHER_TAG_WEIGHT)).float().to(device)

    def __call__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        rows, size, device = torch.tensor(indices, device=self.bands.device), len(indices), self.bands.device
        power = (self.bands[rows].float().exp() - FLOOR).clamp(min=0)
        frames, times = self.frames[rows], torch.arange(power.shape[1], device=device)
        # A circular shift in time keeps the content that the experts got. Padded segments are not shifted.
        shifts = torch.randint(len(times), (size,), generator=self.generator, device=device) * (frames >= len(times))
        power = power.gather(1, ((times - shifts[:, None]) % len(times)).unsqueeze(-1).expand_as(power))
        other = torch.randperm(size, generator=self.generator, device=device)
        is_mixed = torch.rand(size, generator=self.generator, device=device) < self.mixed
        low, high = self.parts_of_power
        share = (low + (high - low) * torch.rand(size, generator=self.generator, device=device)) * is_mixed
        frames = torch.where(is_mixed, torch.maximum(frames, frames[other]), frames)
        mask = (times < frames[:, None]).float()
        power = torch.lerp(power, power[other], share[:, None, None])
        power = corrupt(power, self.generator) * mask.unsqueeze(-1)

        tags = torch.zeros(size, self.tag_weights.shape[1] + 1, device=device)
        tags = tags.scatter_(1, self.tags_of[rows], 1)[:, :-1]
        present = torch.maximum(tags * (1 - share[:, None] / 2), tags[other] * (1.5 * share[:, None]))
        sounds = self.sounds[rows].float()
        return {
            "bands": torch.log(power + FLOOR),
            "mask": mask,
            "sounds": torch.lerp(sounds, sounds[other], share[:, None]),
            "voices": self.voices[rows].float(),
            "voice_weights": (self.parts[rows] == PARTS.index("speech")) * (1 - share),
            "tags": present,
            "tag_weights": self.tag_weights[self.parts[rows]],
        }


def corrupt(power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """
    Simulate microphones and background noise on log-mel power of shape (batch, frames, bins). Apply a smooth filter
    (4 dB) to 60 % of the segments, and noise with a random slope (SNR 5 to 40 dB) to half of them. Keep the loudness.
    """
    size, _, num_bins = power.shape
    device = power.device
    total = power.sum((1, 2), keepdim=True)
    knots = 4 * torch.randn(size, 1, 7, generator=generator, device=device)
    gains = nn.functional.interpolate(knots, size=num_bins, mode="linear", align_corners=True)[:, 0]
    gains = gains * (torch.rand(size, 1, generator=generator, device=device) < 0.6)
    power = power * (10 ** (gains / 10)).unsqueeze(1)
    slopes = 3 * torch.randn(size, 1, 1, generator=generator, device=device)
    slopes = slopes * torch.linspace(-0.5, 0.5, num_bins, device=device)
    noise = slopes.exp() * torch.empty_like(power).exponential_(generator=generator)
    level = 10 ** (-(5 + 35 * torch.rand(size, 1, 1, generator=generator, device=device)) / 10)
    level = level * (torch.rand(size, 1, 1, generator=generator, device=device) < 0.5)
    power = power + noise / noise.sum((1, 2), keepdim=True) * power.sum((1, 2), keepdim=True) * level
    return power * (total / power.sum((1, 2), keepdim=True).clamp(min=1e-9))


def _standardise(values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Standardise values to mean 0 and standard deviation 1 over those that count. Return float16."""
    known = values if counted is None or not counted.any() else values[counted]
    return ((values - known.mean(axis=0)) / (known.std(axis=0) + 1e-2)).astype(np.float16)


def make_config(name: str) -> SANetConfig:
    """Return the configuration of one of `NETWORKS`, as `sanet train` would choose it, with band statistics."""
    sizes = make_network(NETWORKS[name], DEFAULT_SAMPLING_RATE, STRETCH_SECONDS)
    return SANetConfig(**{**sizes, "classifier_hidden_sizes": [], "use_band_statistics": True})


def pretrain(corpus: Path, output_dir: Path, name: str, steps: int, batch_size: int, learning_rate: float) -> None:
    """
    Start or resume a training, and write the network and its feature extractor to `output_dir/model`.

    Raises:
        DataError, UsageError: The corpus is missing, or the experts cannot be downloaded.
    """
    set_seed(0)
    config = make_config(name)
    measure_corpus(corpus, config)
    stretches = read_stretches(corpus)
    network = PretrainingNetwork(config, len(stretches.tags))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(500, steps // 10),
        weight_decay=0.02,
        max_grad_norm=5.0,
        use_cpu=device == "cpu",
        bf16=True,
        logging_steps=200,
        save_steps=500,
        save_total_limit=2,
        remove_unused_columns=False,
        # BatchNorm needs more than one segment per batch.
        dataloader_drop_last=True,
        # The collator makes the batches on the device of the network.
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        report_to="none",
    )
    trainer = Trainer(
        network, arguments, data_collator=Collator(stretches, device), train_dataset=Indices(len(stretches.parts))
    )
    trainer.train(resume_from_checkpoint=find_last_checkpoint(output_dir))
    _save(network.sanet, output_dir / "model")


def _save(model: SANetModel, folder: Path) -> None:
    """Write a network and its feature extractor without their code, which is part of sanet-hf."""
    model.save_pretrained(folder)
    SANetFeatureExtractor(max_length=round(STRETCH_SECONDS * DEFAULT_SAMPLING_RATE)).save_pretrained(folder)
    for path in folder.glob("*_sanet.py"):
        path.unlink()
    for path in folder.glob("*.json"):
        values = json.loads(path.read_text("utf-8"))
        values.pop("auto_map", None)
        with write_atomically(path) as file:
            file.write((json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sanet_hf.training.pretraining.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", type=Path, help="folder written by sanet_hf.training.pretraining.corpus")
    parser.add_argument("output_dir", type=Path, help="folder for checkpoints and the network")
    parser.add_argument("--network", choices=list(NETWORKS), default="tiny", help="size (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="segments per step (default: %(default)s)")
    parser.add_argument(
        "--learning_rate", type=float, default=2e-3, help="learning rate of AdamW (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        pretrain(
            arguments.corpus,
            arguments.output_dir,
            arguments.network,
            arguments.steps,
            arguments.batch_size,
            arguments.learning_rate,
        )
    except (SanetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
