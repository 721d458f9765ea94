# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Augmentation: transforms by name, simulated rooms, and errors in parameters."""

import random

import numpy as np
import pytest
import soundfile
import yaml

from sanet_hf.errors import UsageError
from sanet_hf.training.config_files import shipped_configs
from sanet_hf.training.data import augmentation
from sanet_hf.training.data.augmentation import make_augmentation, seeded, simulated_rooms


RATE = 16000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Make a separate cache for each test, with three rooms instead of 64."""
    folder = tmp_path_factory.mktemp("assets")
    monkeypatch.setattr(augmentation, "NUM_ROOMS", 3)
    monkeypatch.setattr(augmentation, "cached_assets_path", lambda *names: _made(folder.joinpath(*names)))
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
        # The direct sound is first and loudest, and the reverberation decays.
        assert rate == RATE and response[0] == 1 == np.abs(response).max()
        energy = np.cumsum(response[::-1] ** 2)[::-1]
        assert 0.02 < np.argmax(energy < 1e-3 * energy[0]) / RATE < 1
    assert len({soundfile.info(path).frames for path in rooms}) == 3
    assert simulated_rooms(RATE) == folder and [path.stat().st_mtime_ns for path in rooms] == times


def test_missing_pyroomacoustics_is_an_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyroomacoustics", None)
    with pytest.raises(ValueError, match=r"sanet-hf\[prepare\].*set its ir_path"):
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


@pytest.mark.parametrize("rate", [8000, 48_000, 96_000])
def test_shipped_transforms_fit_any_rate(rate):
    """At any sampling rate, the result is finite and the length changes by no more than at 16 kHz."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(rate)).astype(np.float32)
    for path in shipped_configs():
        options = yaml.safe_load(path.read_text())
        lists = [options.get(name, []) for name in ("augmentations", "augmentations_after_normalization")]
        for entry in [*lists[0], *lists[1]]:
            ((transform, parameters),) = entry.items()
            with seeded(0):
                changed = make_augmentation([{transform: {**parameters, "p": 1}}], rate)(noise)
            assert np.isfinite(changed).all() and 0.84 <= len(changed) / len(noise) <= 1.19, transform


def test_resampling_to_absolute_rates_warns(caplog):
    transform = {"Resample": {"min_sample_rate": 13_600, "max_sample_rate": 18_800}}
    make_augmentation([transform], RATE)
    assert not caplog.text
    make_augmentation([transform], 48_000)
    assert "makes every clip 2.6 to 3.5 times as fast" in caplog.text and "min_speed" in caplog.text


@pytest.mark.parametrize(
    ("transform", "rate", "message"),
    [
        ({"Resample": {"min_speed": 0}}, RATE, "must be above 0"),
        ({"Resample": {"max_speed": "fast"}}, RATE, "must be above 0"),
        ({"Mp3Compression": {"p": 0.1}}, 96_000, "MP3 does not support a sampling rate of 96000 Hz"),
    ],
)
def test_parameters_unfit_for_the_rate_are_an_error(transform, rate, message):
    with pytest.raises(UsageError, match=message):
        make_augmentation([transform], rate)


def offered_transforms() -> dict[str, dict]:
    """Return the parameters of each transform in the comments of sanet_dynamic.yaml, with p = 1."""
    (path,) = (path for path in shipped_configs() if path.name == "sanet_dynamic.yaml")
    comments = path.read_text().partition("Add them to augmentations:\n")[2]
    entries = yaml.safe_load("\n".join(line.removeprefix("#") for line in comments.splitlines()))
    return {name: {**parameters, "p": 1} for entry in entries for name, parameters in entry.items()}


@pytest.fixture
def apply_offered(tmp_path, monkeypatch):
    """
    Return a function that applies one of [`offered_transforms`] to 4 s of noise. It returns the noise before and
    after. The working directory contains the folder `noises`.
    """
    (tmp_path / "noises").mkdir()
    soundfile.write(tmp_path / "noises" / "hum.wav", 0.5 * np.sin(np.arange(RATE * 5) / 50), RATE)
    monkeypatch.chdir(tmp_path)
    waveform = (0.1 * np.random.default_rng(0).standard_normal(4 * RATE)).astype(np.float32)

    def apply(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        augment = make_augmentation([{name: offered_transforms()[name]}], RATE)
        with seeded(seed):
            return waveform, augment(waveform)

    return apply


def test_offered_transforms_depend_on_the_seed(apply_offered):
    assert list(offered_transforms()) == ["AddBackgroundNoise", "TimeMask", "Mp3Compression", "BandPassFilter"]
    for name in offered_transforms():
        waveform, changed = apply_offered(name)
        assert changed.shape == waveform.shape and changed.dtype == np.float32 and np.isfinite(changed).all(), name
        np.testing.assert_array_equal(changed, apply_offered(name)[1])
        assert not np.array_equal(changed, waveform), name
        # The telephone filter is not random.
        others = [apply_offered(name, seed)[1] for seed in range(1, 5)]
        assert all(np.array_equal(changed, other) for other in others) == (name == "BandPassFilter"), name


def test_offered_noise_has_its_snr(apply_offered):
    for seed in range(5):
        waveform, noisy = apply_offered("AddBackgroundNoise", seed)
        snr = 20 * np.log10(np.std(waveform) / np.std(noisy - waveform))
        assert 2.5 < snr < 30.5


def test_offered_mask_is_silence(apply_offered):
    for seed in range(5):
        waveform, masked = apply_offered("TimeMask", seed)
        (changed,) = np.nonzero(masked != waveform)
        assert 0.02 * len(waveform) - 2 <= np.ptp(changed) + 1 <= 0.1 * len(waveform) + 2
        # Without the fades at both ends.
        fade = RATE // 200
        assert not masked[changed[0] + fade : changed[-1] - fade].any()


def test_offered_codec_adds_no_delay(apply_offered):
    for seed in range(5):
        waveform, compressed = apply_offered("Mp3Compression", seed)
        correlation = np.fft.irfft(np.fft.rfft(compressed) * np.conj(np.fft.rfft(waveform)))
        assert correlation.argmax() == 0
        assert 0.3 < np.corrcoef(compressed, waveform)[0, 1] < 0.99


def test_offered_telephone_passes_its_band(apply_offered):
    waveform, filtered = apply_offered("BandPassFilter")
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)

    def change(low: float, high: float) -> float:
        """Return the change of a band's energy in dB."""
        band = (frequencies >= low) & (frequencies < high)
        before, after = (np.square(np.abs(np.fft.rfft(signal)[band])).sum() for signal in (waveform, filtered))
        return 10 * np.log10(after / before)

    assert change(4500, 8000) < -20 and change(0, 150) < -20
    assert abs(change(400, 3000)) < 1
    # The power at the cut-off frequencies is halved.
    assert change(290, 310) == pytest.approx(-3, abs=1) == change(3390, 3410)


def test_missing_codec_package_is_an_error(monkeypatch):
    monkeypatch.setattr(augmentation, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Mp3Compression needs fast-mp3-augment: pip install .*sanet-hf\[prepare\]"):
        make_augmentation([{"Mp3Compression": {"p": 1}}], RATE)


@pytest.mark.parametrize(
    ("name", "parameter"), [("AddBackgroundNoise", "sounds_path"), ("ApplyImpulseResponse", "ir_path")]
)
def test_folder_without_sounds_is_named(tmp_path, name, parameter):
    (tmp_path / "notes.txt").write_text("no sound")
    for value in (str(tmp_path), [str(tmp_path)]):
        with pytest.raises(ValueError, match=f"{name}: {parameter} {tmp_path}: the folder contains no sounds"):
            make_augmentation([{name: {parameter: value}}], RATE)


def test_transforms_are_tried_before_training():
    """A missing package or an unsupported sampling rate shows only when a transform is applied."""
    import audiomentations

    class Missing(audiomentations.Gain):
        def apply(self, samples, sample_rate):
            raise ImportError(f"no package at {sample_rate} Hz")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audiomentations, "Missing", Missing, raising=False)
        before = random.getstate()
        # Even if it is applied rarely.
        with pytest.raises(ValueError, match=f"augmentations: Missing: no package at {RATE} Hz"):
            make_augmentation([{"Missing": {"p": 0.001}}], RATE)
        assert random.getstate() == before


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (["Gain"], "'Gain' is not of the form Name"),
        ([{"Gain": {}, "Shift": {}}], "is not of the form Name"),
        ([{"Gian": {}}], "audiomentations has no transform 'Gian'"),
        ([{"Gain": {"loudness": 3}}], "Gain: .*loudness"),
        ([{"Gain": {"p": 7}}], "Gain: "),
        ([{"AddBackgroundNoise": {"sounds_path": "/nowhere"}}], "sounds_path /nowhere: folder not found"),
        ([{"ApplyImpulseResponse": {"ir_path": "/nowhere"}}], "ir_path /nowhere: folder not found"),
    ],
)
def test_errors_name_the_mistake(transforms, message):
    with pytest.raises(ValueError, match=message):
        make_augmentation(transforms, RATE)


def test_seeded_repeats_and_restores_the_generators():
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
