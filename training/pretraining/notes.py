# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Notes and drum hits of SoundFonts from Debian's packages, played by FluidSynth."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sanet_hf.audio.decode import load_audio
from sanet_hf.errors import UsageError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.pretraining.packages import extract_package
from sanet_hf.training.pretraining.sounds import Licence, Sound
from sanet_hf.utils.extras import require


SOUNDFONTS = "fluid-soundfont-gm", "timgm6mb-soundfont", "avldrums.lv2-soundfont"
NOTES = 24  # per instrument
SECONDS = 2.5  # from one note to the next
DRUM_CHANNEL = 9
DRUM_KITS = 0, 8, 16, 24, 25, 32, 40, 48
TICKS = 480  # per 0.5 s

# Groups of eight programs and keys of the drum channel, of the General MIDI standard.
FAMILIES = """
piano mallets organ guitar bass strings ensemble brass reed pipe lead pad effects folk percussion noises
""".split()
DRUMS = """
35 kick, 36 kick, 37 rimshot, 38 snare, 39 clap, 40 snare, 41 tom low, 42 hihat closed, 43 tom low, 44 hihat pedal,
45 tom mid, 46 hihat open, 47 tom mid, 48 tom high, 49 cymbal crash, 50 tom high, 51 cymbal ride, 52 cymbal china,
53 cymbal bell, 54 tambourine, 55 cymbal splash, 56 cowbell, 57 cymbal crash, 58 vibraslap, 59 cymbal ride, 60
bongo high, 61 bongo low, 62 conga muted, 63 conga high, 64 conga low, 65 timbale high, 66 timbale low, 67 agogo
high, 68 agogo low, 69 cabasa, 70 maracas, 71 whistle, 72 whistle, 73 guiro, 74 guiro, 75 claves, 76 woodblock, 77
woodblock, 78 cuica, 79 cuica, 80 triangle, 81 triangle
"""


def read_soundfont(package: str, folder: Path) -> Iterator[Sound | Licence]:
    """
    Play all instruments and drums of a SoundFont. Yield each note, with instrument, pitch and loudness as tags, and
    the licence.

    Raises:
        UsageError: FluidSynth or mido is not installed, or the package cannot be downloaded.
    """
    require("mido", "pretraining")
    if shutil.which("fluidsynth") is None:
        raise UsageError("fluidsynth is not installed. Install it: apt-get install fluidsynth.")
    root, licence = extract_package(package, folder)
    font = min(path for path in root.rglob("*.sf[23]") if path.is_file() and not path.is_symlink())
    generator = np.random.default_rng(len(package))
    if "drum" not in package:
        for program in range(128):
            keys = generator.permutation(np.linspace(28, 96, NOTES).round().astype(int))
            velocities = generator.integers(40, 127, len(keys))
            lengths = generator.uniform(0.2, 2.0, len(keys))
            waveforms = _play(font, folder, 0, program, keys, velocities, lengths)
            for key, velocity, waveform in zip(keys, velocities, waveforms):
                family = FAMILIES[program // 8]
                tags = ["note", f"family {family}", f"program {program}", f"octave {key // 12}", f"pitch {key % 12}"]
                yield Sound(waveform, f"program {program} key {key} velocity {velocity}", tags)
    drums = {int(entry.split()[0]): entry.split()[1:] for entry in DRUMS.split(",")}
    for kit in DRUM_KITS:
        for loudness in (50, 80, 105, 125):
            keys = np.array(list(drums))
            waveforms = _play(
                font, folder, DRUM_CHANNEL, kit, keys, np.full(len(keys), loudness), np.full(len(keys), 1.0)
            )
            for key, waveform in zip(keys, waveforms):
                names = drums[int(key)]
                tags = ["drum", f"drum {names[0]}", *([f"drum {' '.join(names)}"] if names[1:] else [])]
                yield Sound(waveform, f"kit {kit} key {key} velocity {loudness}", tags)
    yield licence


def _play(
    font: Path, folder: Path, channel: int, program: int, keys: np.ndarray, velocities: np.ndarray, lengths: np.ndarray
) -> list[np.ndarray]:
    """Return a waveform for each note, float32 of shape (samples,)."""
    import mido

    track, now = mido.MidiTrack(), 0
    track.append(mido.Message("program_change", channel=channel, program=program))
    per_second = 2 * TICKS
    events = []
    for number, (key, velocity, length) in enumerate(zip(keys.tolist(), velocities.tolist(), lengths.tolist())):
        start = round(number * SECONDS * per_second)
        events.append((start, "note_on", key, velocity))
        events.append((start + round(length * per_second), "note_off", key, 0))
    for tick, kind, key, velocity in events:
        track.append(mido.Message(kind, channel=channel, note=key, velocity=velocity, time=tick - now))
        now = tick
    score, sound = folder / "score.mid", folder / "score.wav"
    mido.MidiFile(tracks=[track], ticks_per_beat=TICKS).save(score)
    command = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.6", "-r", "44100", "-F", sound, font, score]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not sound.is_file():
        raise UsageError(f"fluidsynth cannot play {font.name}: {done.stderr.strip() or done.stdout.strip()}")
    waveform = load_audio(sound, DEFAULT_SAMPLING_RATE)
    sound.unlink()
    step = round(SECONDS * DEFAULT_SAMPLING_RATE)
    waveform = np.pad(waveform, (0, max(0, step * len(keys) - len(waveform))))
    return [waveform[number * step : (number + 1) * step] for number in range(len(keys))]
