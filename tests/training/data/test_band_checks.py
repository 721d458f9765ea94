# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The fraction of the recordings' energy that a sampling rate loses, and the warning about it."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf.audio import bandwidth
from sanet_hf.audio.bandwidth import shares_above
from sanet_hf.cli.main import main
from sanet_hf.errors import AudioError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.data.band_checks import COMMON_RATES, Band, describe_bands, measure_band
from sanet_hf.training.data.load import load_recordings


def tones(rate: int, amplitudes: dict[float, float], seconds: float = 0.5) -> np.ndarray:
    """Return a sum of tones with these amplitudes by frequency in Hz, of shape (samples,)."""
    times = np.arange(round(rate * seconds)) / rate
    return sum(amplitude * np.sin(2 * np.pi * frequency * times) for frequency, amplitude in amplitudes.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bands")


@settings(max_examples=20, deadline=None)
@given(
    rate=st.sampled_from([22_050, 44_100, 48_000, 96_000, 384_000]),
    low=st.floats(0.02, 0.45),
    high=st.floats(0.02, 0.45),
    offset=st.floats(-0.05, 0.05),
    suffix=st.sampled_from([".wav", ".flac"]),
)
def test_shares_of_two_tones(folder, rate, low, high, offset, suffix):
    path = folder / f"tones{suffix if rate < 384_000 else '.wav'}"
    soundfile.write(path, tones(rate, {0.1 * rate: low, 0.4 * rate: high}) + offset, rate)
    expected = high**2 / (low**2 + high**2)
    for source in (path, path.read_bytes()):
        found, shares = shares_above(source, "name", [0.01 * rate, 0.2 * rate, 0.48 * rate, rate])
        assert found == rate
        np.testing.assert_allclose(shares, [1, expected, 0, 0], atol=0.01)


def test_middle_of_seekable_formats_is_measured(folder, monkeypatch):
    """WAV and FLAC allow seeking to the middle. The beginning of MP3 is measured instead."""
    monkeypatch.setattr(bandwidth, "MEASURED_SECONDS", 1)
    parts = [tones(44_100, {frequency: 0.3}, 3) for frequency in (1000, 15_000, 1000)]
    for name, expected in (("a.wav", 1), ("a.flac", 1), ("a.mp3", 0)):
        soundfile.write(folder / name, np.concatenate(parts), 44_100)
        assert shares_above(folder / name, name, [8000])[1] == [pytest.approx(expected, abs=0.01)]


def test_silent_or_unreadable_files_have_no_band(folder):
    soundfile.write(folder / "silence.wav", np.zeros(48_000), 48_000)
    assert shares_above(folder / "silence.wav", "silence", [8000]) == (48_000, [0.0])
    (folder / "text.wav").write_text("no audio")
    with pytest.raises(AudioError):
        shares_above(folder / "text.wav", "text", [8000])
    assert measure_band(folder / "text.wav", "text", 16_000) is None


def bats(count: int, frequencies: dict[float, float], rate: int = 384_000) -> list[Band]:
    total = sum(frequencies.values())
    above = lambda limit: sum(part for hertz, part in frequencies.items() if hertz > limit / 2) / total  # noqa: E731
    return [Band(f"{i}.wav", rate, above(16_000), tuple(map(above, COMMON_RATES))) for i in range(count)]


@pytest.mark.parametrize(
    ("bands", "texts"),
    [
        (
            bats(3, {22_000: 1, 45_000: 1}),
            ["3 of 3 recordings", "on average 100 % of their energy above 8000 Hz", "g_rate 96000"],
        ),
        (bats(3, {22_000: 1}), ["--sampling_rate 44100 to use it"]),
        (bats(3, {9000: 1}), ["--sampling_rate 22050 to use it"]),
        (
            bats(3, {80_000: 1}),
            ["100 % of the energy is above 48000 Hz, half of the highest supported rate", "No SANet can use it"],
        ),
        (bats(3, {20_000: 1, 80_000: 1}), ["50 % of the energy is above 48000 Hz", "96000 to use the rest"]),
        (bats(3, {300: 19, 20_000: 1}), []),
        (bats(1, {20_000: 1}) + bats(30, {300: 1}), []),
        (bats(2, {20_000: 1}) + bats(30, {300: 1}), ["2 of 32 recordings"]),
        (
            [Band("a", 8000, 0.0)] * 3 + [Band("b", 44_100, 0.0)],
            ["3 of 4 recordings have lower", "g_rate 8000 trains"],
        ),
        ([Band("a", 4000, 0.0)] * 3, ["3 of 3 recordings have lower", "Hz: they contain nothing"]),
        ([Band("a", 8000, 0.0), Band("b", 44_100, 0.0)], []),
        ([None, None], []),
        ([], []),
    ],
)
def test_bands_give_findings(bands, texts):
    findings = describe_bands(bands, 16_000)
    assert len(findings) == bool(texts)
    assert all(text in findings[0] for text in texts)


def test_warning_says_how_many_recordings_were_measured():
    bands = [Band("a", 48_000, 0.5, (0.0,) * len(COMMON_RATES))]
    (finding,) = describe_bands(bands, 16_000, 180)
    assert finding.startswith("1 of 1 measured recordings (of 180 in total) have")
    assert describe_bands(bands, 16_000, 1)[0].startswith("1 of 1 recordings have")


def test_no_higher_rate_is_advised_at_the_highest_rate():
    (finding,) = describe_bands([Band("a", 384_000, 0.9, (0.9,) * len(COMMON_RATES))], 96_000)
    assert (
        "90 % of the energy is above 48000 Hz, half of the highest supported rate" in finding
        and "the rest" not in finding
    )


def test_train_check_and_prepare_report_lost_energy(tmp_path, caplog, capsys):
    for label, frequency in (("noctule", 22_000), ("pipistrelle", 45_000)):
        for index in range(10):
            path = tmp_path / "bats" / label / f"{index}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = 0.01 * np.random.default_rng(index).standard_normal(38_400)
            soundfile.write(path, tones(384_000, {frequency: 0.3}, 0.1) + noise, 384_000)
    arguments = DataArguments(data_dir=str(tmp_path / "bats"))
    load_recordings(arguments, 16_000)
    said = "20 of 20 recordings have on average 100 % of their energy above 8000 Hz"
    assert said in caplog.text and "--sampling_rate 96000 to use it" in caplog.text
    caplog.clear()
    load_recordings(arguments, 96_000)
    assert "energy" not in caplog.text
    command = [str(tmp_path / "bats"), "--num_workers", "1"]
    for rate, is_said in ((16_000, True), (96_000, False)):
        assert main(["check", *command, "--sampling_rate", str(rate)]) == 0
        assert (said in capsys.readouterr().out) is is_said
    assert main(["prepare", command[0], str(tmp_path / "data"), *command[1:], "--no_segments"]) == 0
    assert "100 % of the energy is above 8000 Hz" in (tmp_path / "data/report.html").read_text()
    # The prepared clips have lost this energy, so the warning is about the sources.
    assert "Recordings with warnings (20):" in capsys.readouterr().out
