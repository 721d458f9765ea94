# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
The corpus as input of pretraining: segments of 2 s, each with its log-mel bands, the embeddings of the experts, and
its tags.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import nn
from tqdm import tqdm

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.errors import DataError
from sanet_hf.feature_extraction_sanet import SANetFeatureExtractor
from sanet_hf.spectrogram_sanet import SANetSpectrogram
from sanet_hf.training.pretraining.experts import SoundExpert, VoiceExpert, load_sound_expert, load_voice_expert
from sanet_hf.utils.files import write_atomically


STRETCH_SECONDS = 2.048
MANIFEST_FILE, FOLDER, PROGRESS_FILE = "manifest.csv", "stretches", "progress.json"
PARTS = ("notes", "sounds", "speech")
BATCH_SIZE = 32
# The arrays are written after this number of batches, so that an interrupted command can resume from there.
SAVED_EVERY = 100


class Stretches(NamedTuple):
    """
    Segments of the corpus with inputs and targets of pretraining.

    Attributes:
        bands: Log-mel bands before normalisation, float16 (segments, frames, bands), padded with silence.
        frames: Number of frames of each segment without padding, (segments,).
        sounds, voices: Embeddings of [`SoundExpert`] and [`VoiceExpert`], float16 (segments, features).
        parts: Index in [`PARTS`] of each segment, (segments,).
        tags: Names of the tags.
        tags_of: Indices of each segment's tags.
        tags_of_part: Whether a part has a tag, bool (parts, tags).
    """

    bands: np.ndarray
    frames: np.ndarray
    sounds: np.ndarray
    voices: np.ndarray
    parts: np.ndarray
    tags: list[str]
    tags_of: list[np.ndarray]
    tags_of_part: np.ndarray


def read_manifest(corpus: Path) -> pd.DataFrame:
    """
    Return `manifest.csv` of the corpus: file and tags.

    Raises:
        DataError: The file is missing.
    """
    path = corpus / MANIFEST_FILE
    if not path.is_file():
        raise DataError(f"{path} not found. Make the corpus first, with sanet_hf.training.pretraining.corpus.")
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")


def measure_corpus(corpus: Path, config: SANetConfig) -> None:
    """
    Write the arrays of [`Stretches`] to `corpus/stretches`. An interrupted command is resumed.

    Args:
        corpus: Folder written by [`make_corpus`].
        config: Configuration of the network, whose spectrogram is computed.
    """
    manifest, folder = read_manifest(corpus), corpus / FOLDER
    folder.mkdir(exist_ok=True)
    samples = round(STRETCH_SECONDS * config.spectrogram_sampling_rate)
    state = {
        # The hash detects another corpus with the same number of segments.
        "manifest": hashlib.sha256((corpus / MANIFEST_FILE).read_bytes()).hexdigest(),
        "spectrogram": [
            samples,
            config.spectrogram_window,
            config.spectrogram_stride,
            config.num_mel_bins,
            config.spectrogram_sampling_rate,
        ],
    }
    known = json.loads((folder / PROGRESS_FILE).read_text("utf-8")) if (folder / PROGRESS_FILE).is_file() else {}
    is_same = {name: known.get(name) for name in state} == state
    if is_same and known["done"] == known["stretches"]:
        return
    rows, starts, lengths = _cut(corpus, manifest["file"], samples)
    shapes = {
        "bands": (len(rows), samples // config.spectrogram_stride, config.num_mel_bins),
        "sounds": (len(rows), SoundExpert.num_features),
        "voices": (len(rows), VoiceExpert.num_features),
    }
    is_begun = is_same and all((folder / f"{name}.npy").is_file() for name in shapes)
    done = known["done"] if is_begun else 0
    np.savez(folder / "index.npz", rows=rows, frames=-(-lengths // config.spectrogram_stride))
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r+")
        if is_begun
        else np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape)
        for name, shape in shapes.items()
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sound_expert = load_sound_expert().to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    voice_expert, spectrogram = load_voice_expert().to(device), make_spectrogram(config).to(device)
    files = manifest["file"].to_numpy()
    with tqdm(total=len(rows), initial=done, unit="stretch") as progress, torch.no_grad():
        for number, first in enumerate(range(done, len(rows), BATCH_SIZE), 1):
            chosen = slice(first, min(first + BATCH_SIZE, len(rows)))
            waveforms = np.zeros((chosen.stop - first, samples), np.float32)
            for waveform, row, start, length in zip(waveforms, rows[chosen], starts[chosen], lengths[chosen]):
                waveform[:length] = soundfile.read(corpus / files[row], length, int(start), dtype="float32")[0]
            clips, counts = torch.from_numpy(waveforms).to(device), torch.from_numpy(lengths[chosen]).to(device)
            arrays["bands"][chosen] = spectrogram(at_equal_loudness(clips, counts).unsqueeze(-1)).cpu().numpy()
            arrays["sounds"][chosen] = sound_expert(clips).cpu().numpy()
            arrays["voices"][chosen] = voice_expert(clips, counts).cpu().numpy()
            progress.update(chosen.stop - first)
            if number % SAVED_EVERY == 0 or chosen.stop == len(rows):
                for array in arrays.values():
                    array.flush()
                with write_atomically(folder / PROGRESS_FILE) as file:
                    file.write(json.dumps({**state, "stretches": len(rows), "done": chosen.stop}).encode())


def read_stretches(corpus: Path) -> Stretches:
    """Read the arrays of [`measure_corpus`]. The bands are memory-mapped."""
    manifest, folder = read_manifest(corpus), corpus / FOLDER
    index = np.load(folder / "index.npz")
    rows = index["rows"]
    tag_lists = [labels.split(";") for labels in manifest["label"]]
    counts = Counter(tag for own in tag_lists for tag in own)
    tags = sorted(counts)
    places = {tag: place for place, tag in enumerate(tags)}
    tags_of_row = [np.array([places[tag] for tag in own]) for own in tag_lists]
    parts_of_row = np.array([PARTS.index(file.split("/")[0]) for file in manifest["file"]])
    tags_of_part = np.zeros((len(PARTS), len(tags)), bool)
    for part, own in zip(parts_of_row, tags_of_row):
        tags_of_part[part, own] = True
    return Stretches(
        # Copy-on-write: changes are not written to the file.
        bands=np.load(folder / "bands.npy", mmap_mode="c"),
        frames=index["frames"],
        sounds=np.load(folder / "sounds.npy"),
        voices=np.load(folder / "voices.npy"),
        parts=parts_of_row[rows],
        tags=tags,
        tags_of=[tags_of_row[row] for row in rows],
        tags_of_part=tags_of_part,
    )


def make_spectrogram(config: SANetConfig) -> nn.Module:
    """Return a network's spectrogram layer without normalisation, (batch, samples, 1) -> (batch, frames, bands)."""
    spectrogram = SANetSpectrogram(config)
    spectrogram.norm = _NoNorm()
    return spectrogram.eval()


class _NoNorm(nn.Module):
    def __init__(self):
        super().__init__()
        # The spectrogram layer reads the dtype of this weight.
        self.register_buffer("weight", torch.ones(1))

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden_states


def at_equal_loudness(waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Normalise waveforms (batch, samples) like the feature extractor. `lengths` are the samples without padding."""
    rms = (waveforms.square().sum(-1) / lengths).sqrt().clamp(min=1e-8)
    return waveforms * (SANetFeatureExtractor().target_rms / rms)[:, None]


def _cut(corpus: Path, files: pd.Series, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return manifest rows, first samples and lengths of all segments, which are evenly spread over each file."""
    rows, starts, lengths = [], [], []
    for row, file in enumerate(files):
        length = soundfile.info(os.fspath(corpus / file)).frames
        number = max(1, round(length / samples))
        for start in np.linspace(0, max(0, length - samples), number).astype(int):
            rows.append(row)
            starts.append(start)
            lengths.append(min(samples, length))
    return np.array(rows), np.array(starts), np.array(lengths)
