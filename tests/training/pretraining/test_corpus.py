# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The corpus of pretraining: the sounds of each source, their tags and licences. Nothing is downloaded."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sanet_hf.errors import UsageError
from sanet_hf.training.pretraining import corpus, notes, packages, speech
from sanet_hf.training.pretraining.sounds import Licence, Sound


def make_noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(16000 * seconds)).astype(np.float32)


def read_noises(source, folder):
    """Yield twelve short sounds, and one sound of each kind that is treated differently."""
    for number in range(12):
        yield Sound(make_noise(0.2, number), f"short {number}", ["noise", f"rare {number}"])
    yield Sound(make_noise(0.2, 3), "the same again", ["noise"])
    yield Sound(np.zeros(16000, np.float32), "silence", ["noise"])
    yield Sound(make_noise(0.01, 20), "a click", ["noise"])
    yield Sound(make_noise(45, 21), "long", ["noise", "long"])
    path = folder / "sound.wav"
    soundfile.write(path, make_noise(0.5, 22), 32000)
    yield Sound(path, "a file", ["noise"])
    path.with_suffix(".ogg").write_bytes(b"no audio")
    yield Sound(path.with_suffix(".ogg"), "unreadable", ["noise"])
    yield Licence(f"{source} 1.0", "CC0-1.0", "Do what you like.")


@pytest.fixture
def parts(monkeypatch):
    parts = {"noises": (read_noises, ["first", "second"])}
    monkeypatch.setattr(corpus, "PARTS", parts)
    return parts


def test_corpus_skips_duplicates_and_unusable_sounds(parts, tmp_path, capsys):
    assert corpus.main([str(tmp_path)]) == 0
    with open(tmp_path / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Twelve short sounds, three parts of the long one, and the file. The second source has only duplicates.
    assert [row["file"] for row in rows] == [f"noises/first/{number:05d}.flac" for number in range(16)]
    # The other tags are dropped, because too few sounds have them.
    assert {row["label"] for row in rows} == {"noise"}
    lengths = [soundfile.info(tmp_path / row["file"]).frames for row in rows]
    assert lengths == [3200] * 12 + [160_000] * 3 + [4000]
    waveform, rate = soundfile.read(tmp_path / rows[3]["file"])
    assert rate == 16000 and np.abs(waveform - make_noise(0.2, 3)).max() < 1e-4
    table = (tmp_path / "LICENCES.md").read_text()
    assert "| noises | first 1.0 | 16 | 0.01 | CC0-1.0 |" in table
    assert (tmp_path / "licences/first.txt").read_text() == "Do what you like."
    assert "16 sounds" in capsys.readouterr().err


def test_complete_sources_are_kept(parts, tmp_path, capsys):
    def fail(source, folder):
        if source == "second":
            raise UsageError("There is no network.")
        return read_noises(source, folder)

    parts["noises"] = (fail, ["first", "second"])
    assert corpus.main([str(tmp_path)]) == 2
    assert "There is no network." in capsys.readouterr().err
    assert not (tmp_path / "manifest.csv").exists()
    record = tmp_path / "noises/first.json"
    before = record.stat().st_mtime_ns
    # An interruption leaves an incomplete source.
    shutil.rmtree(tmp_path / "noises/second", ignore_errors=True)
    (tmp_path / "noises/second").mkdir()
    (tmp_path / "noises/second/99999.flac").touch()
    parts["noises"] = (read_noises, ["first", "second"])
    assert corpus.main([str(tmp_path)]) == 0
    assert record.stat().st_mtime_ns == before
    assert not (tmp_path / "noises/second/99999.flac").exists()
    assert len(json.loads((tmp_path / "noises/second.json").read_text())["sounds"]) == 16


def test_package_paths_become_tags():
    parts = ("usr", "share", "games", "bos", "sounds", "animals", "BarkingDog_02-loud.ogg")
    assert packages._tags("bos-data", parts) == [
        "folder bos-data/bos/sounds/animals",
        *("animals", "barking", "dog", "loud"),
    ]


def test_licences_of_a_package_are_found():
    text = "Files: *\nLicense: GPL-2+\n on Debian\nFiles: a\nLicense: CC-BY-SA-3.0\nFiles: b\nLicense: GPL-2+\n"
    assert packages.licences_in(text) == "GPL-2+, CC-BY-SA-3.0"
    assert packages.licences_in("Free.") == "see the copyright file"


def test_packages_of_evaluation_sets_are_excluded():
    held_out = "asterisk fillets-ng hydrogen klettres ktuberling lmms sonic-pi".split()
    assert not [name for name in packages.PACKAGES if name.startswith(tuple(held_out))]
    assert len(set(packages.PACKAGES)) == len(packages.PACKAGES)


def test_missing_apt_get_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt-get is not installed"):
        next(packages.read_package("tuxtype-data", tmp_path))


def test_speech_has_tags_and_no_demo_voice(monkeypatch, tmp_path):
    pytest.importorskip("pycountry")
    monkeypatch.setattr(speech, "UTTERANCES", 2)
    *sounds, licence = speech.read_language("de", tmp_path)
    assert "pycountry" in licence.work
    for sound in sounds:
        assert sound.audio.dtype == np.float32 and 0.3 < len(sound.audio) / 16000 < 12
        assert sound.tags[:2] == ["speech", "language de"] and sound.tags[2].startswith("voice ")
        assert sound.tags[2].removeprefix("voice ") not in speech.DEMO_VOICES.values()
    assert "Deutschland" in speech._read_texts("de")


def test_drums_and_families_are_those_of_general_midi():
    """General MIDI has drums on keys 35 to 81, and sixteen families of instruments."""
    assert [int(entry.split()[0]) for entry in notes.DRUMS.split(",")] == list(range(35, 82))
    assert len(notes.FAMILIES) == 16


def test_notes_are_cut_from_a_score(monkeypatch, tmp_path):
    """The output of FluidSynth is cut into one waveform per note, which is loud at its beginning."""
    pytest.importorskip("mido")
    if shutil.which("fluidsynth") is None:
        pytest.skip("needs the program fluidsynth and a SoundFont")
    fonts = [path for path in Path("/usr/share/sounds").rglob("*.sf[23]") if path.is_file()]
    if not fonts:
        pytest.skip("needs a SoundFont")
    keys, ones = np.array([60, 72]), np.ones(2)
    waveforms = notes._play(fonts[0], tmp_path, 0, 0, keys, 100 * ones.astype(int), ones)
    assert [len(waveform) for waveform in waveforms] == [40_000, 40_000]
    assert all(np.abs(waveform[:8000]).max() > 0.01 for waveform in waveforms)
