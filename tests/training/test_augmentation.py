# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Transforms by name, and the rooms that impulse responses come from."""

import random

import numpy as np
import pytest
import soundfile
import yaml

import training.augmentation
from training.arguments import shipped_configs
from training.augmentation import make_augmentation, seeded, simulated_rooms


RATE = 16000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Three rooms in a cache that is used once."""
    folder = tmp_path_factory.mktemp("assets")
    monkeypatch.setattr(training.augmentation, "NUM_ROOMS", 3)
    monkeypatch.setattr(training.augmentation, "cached_assets_path", lambda *names: _made(folder.joinpath(*names)))
    return folder


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_rooms_are_simulated_once(monkeypatch):
    folder = simulated_rooms(RATE)
    rooms = sorted(folder.iterdir())
    times = [path.stat().st_mtime_ns for path in rooms]
    assert len(rooms) == 3
    for path in rooms:
        response, rate = soundfile.read(path)
        # The direct sound is first and loudest, and what follows dies away.
        assert rate == RATE and response[0] == 1 == np.abs(response).max()
        energy = np.cumsum(response[::-1] ** 2)[::-1]
        assert 0.02 < np.argmax(energy < 1e-3 * energy[0]) / RATE < 1
    assert len({soundfile.info(path).frames for path in rooms}) == 3
    assert simulated_rooms(RATE) == folder and [path.stat().st_mtime_ns for path in rooms] == times


def test_rooms_without_pyroomacoustics(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyroomacoustics", None)
    with pytest.raises(ValueError, match=r"ir_path: FOLDER.*sanet-hf\[prepare\]"):
        make_augmentation([{"ApplyImpulseResponse": {"p": 1}}], RATE)


@pytest.mark.parametrize("config", [path.name for path in shipped_configs()])
def test_shipped_transforms_change_a_clip(config):
    (path,) = (path for path in shipped_configs() if path.name == config)
    options = yaml.safe_load(path.read_text())
    for name in ("augmentations", "augmentations_after_normalization"):
        for entry in options.get(name, []):
            ((transform, parameters),) = entry.items()
            with seeded(0):
                changed = make_augmentation([{transform: {**parameters, "p": 1}}], RATE)(NOISE)
            assert changed.dtype == np.float32 and np.isfinite(changed).all(), transform
            assert len(changed) != len(NOISE) or not np.allclose(changed, NOISE), transform


def test_noise_from_a_folder(tmp_path):
    soundfile.write(tmp_path / "hum.wav", 0.5 * np.sin(np.arange(RATE * 3) / 50), RATE)
    parameters = {"sounds_path": str(tmp_path), "min_snr_db": 0, "max_snr_db": 0, "p": 1}
    noisy = make_augmentation([{"AddBackgroundNoise": parameters}], RATE)(NOISE)
    assert np.std(noisy - NOISE) == pytest.approx(np.std(NOISE), rel=0.05)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (["Gain"], "'Gain' is not of the form Name"),
        ([{"Gain": {}, "Shift": {}}], "is not of the form Name"),
        ([{"Gian": {}}], "audiomentations has no transform 'Gian'"),
        ([{"Gain": {"loudness": 3}}], "Gain: .*loudness"),
        ([{"Gain": {"p": 7}}], "Gain: "),
        ([{"AddBackgroundNoise": {"sounds_path": "/nowhere"}}], "sounds_path /nowhere: there is no such folder"),
        ([{"ApplyImpulseResponse": {"ir_path": "/nowhere"}}], "ir_path /nowhere: there is no such folder"),
    ],
)
def test_mistakes_are_named(transforms, message):
    with pytest.raises(ValueError, match=message):
        make_augmentation(transforms, RATE)


def test_seeded_repeats_and_leaves_the_generators_alone():
    def draw() -> tuple:
        return random.random(), np.random.rand()

    with seeded(2**32 - 1):
        first = draw()
    random.seed(3)
    np.random.seed(3)
    expected = draw()
    random.seed(3)
    np.random.seed(3)
    with seeded(2**32 - 1):
        assert draw() == first
    with pytest.raises(KeyError), seeded(5):
        assert draw() != first
        raise KeyError
    assert draw() == expected
