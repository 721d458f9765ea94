# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
A small synthetic speech dataset, generated offline: ten espeak-ng voices to classify.

Every clip is a short English sentence, spoken by one of the voices in `VOICES` at a random pitch, speed and level, in
light background noise. No sentence is used twice, so that validation and test sentences are new to the model.
"""

import json
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

from sanet_hf.audio.folders import SPLITS
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.demo.espeak import SAMPLING_RATE as ESPEAK_SAMPLING_RATE
from sanet_hf.training.demo.espeak import open_espeak


# Class name -> espeak-ng voice variant. Similar pairs are Aunty and Linda, Grandpa and Max, and Mario and Nguyen.
VOICES: dict[str, str] = {
    "annie": "Annie",
    "aunty": "aunty",
    "edward": "edward",
    "grandpa": "grandpa",
    "linda": "linda",
    "mario": "Mario",
    "max": "max",
    "nguyen": "Nguyen",
    "whisper": "whisper",
    "zac": "zac",
}
MIN_DURATION = 1.2  # seconds
MAX_DURATION = 3.5  # seconds
SETTINGS_FILE = "demo_speech.json"
FORMAT_VERSION = 1  # increase it if the same arguments give other clips

# One value per clip is drawn from each of these ranges, including their ends.
RATE_RANGE = (145, 205)  # words per minute; espeak's default is 175
PITCH_RANGE = (20, 80)  # on espeak's scale of 0 to 99; 50 is the default, the ends are 0.66 and 1.41 times its pitch
INTONATION_RANGE = (25, 75)  # width of the pitch range on espeak's scale of 0 to 99; 50 is the default
SNR_RANGE = (20.0, 40.0)  # dB
PEAK_RANGE = (-20.0, -1.0)  # dB below full scale

_TEMPLATES = (
    "The {adjective} {person} {moved} {place}.",
    "{name} {did} the {adjective} {thing} {time}.",
    "{name} and the {person} {moved} {place}.",
    "{time}, {name} {did} my {thing}.",
    "Did {name} see the {adjective} {thing} {place}?",
    "The {person} {did} our {adjective} {thing}.",
    "We met the {person} with the {thing} {place}.",
    "{name} never {did} her {thing} {time}.",
)
# An underscore stands for a space.
_WORDS: dict[str, str] = {
    "name": """Adam Alice Amy Ben Clara Daniel Emma Eric Frank George Grace Hannah Helen Henry Jack James Jane John
        Julia Laura Leo Lucy Mark Martha Mary Nora Oliver Paul Peter Rachel Robert Rose Ruth Sam Sarah Simon""",
    "person": """baker banker brother builder butcher captain carpenter child cousin dancer dentist doctor driver
        farmer fisherman gardener guard hunter judge king lawyer miller mother musician neighbour nurse painter pilot
        plumber poet priest prince queen sailor shepherd singer sister soldier student tailor teacher tourist uncle""",
    "thing": """basket bell bicycle blanket boat book bottle bowl box bread bridge broom bucket camera candle carpet
        chair clock coat coin cup door dress drum fence flag garden gate glass glove guitar hammer hat house jacket
        kettle key kite lamp letter map mirror painting pencil piano picture pillow plate radio ribbon ring rope
        sandwich shirt shoe spoon table ticket umbrella wallet wheel whistle window""",
    "adjective": """blue brave bright broken brown calm clean clever cold dark dirty dusty empty famous friendly gentle
        golden green grey happy heavy honest huge little lonely narrow new old purple quiet red rusty sad shy silver
        simple small strange strong tall tiny tired warm white wild wooden yellow young""",
    "moved": """arrived climbed danced drove hurried jumped laughed marched played ran rested rode sang sat slept
        smiled spoke stood stopped waited walked wandered worked""",
    "did": """bought borrowed broke carried cleaned drew dropped found fixed forgot gave_away kept lost mended moved
        noticed opened painted picked_up pushed repaired returned sold threw_away washed watched wrapped""",
    "place": """at_the_station beside_the_lake beside_the_river by_the_fire in_the_city in_the_forest in_the_kitchen
        in_the_library in_the_park in_the_rain in_the_village near_the_beach near_the_castle near_the_school
        on_the_bridge on_the_hill on_the_roof outside_the_bank""",
    "time": """after_dinner after_the_storm all_summer at_midnight at_noon before_breakfast before_school during_lunch
        every_morning last_night last_week on_Friday on_Monday this_afternoon this_year today two_days_ago""",
}


def make_speech_dataset(
    output_dir: str | Path, num_train: int = 48, num_validation: int = 8, num_test: int = 8, seed: int = 0
) -> dict[str, dict[str, int]]:
    """
    Write `output_dir/{train,validation,test}/<voice>/<nnn>.wav` and return the number of clips per split and class.

    The `num_*` counts are clips per class. The clips are 16 kHz, 16-bit mono, and `MIN_DURATION` to `MAX_DURATION`
    seconds long. A complete dataset with the same arguments is kept. An incomplete or different one is replaced.
    `output_dir/demo_speech.json` contains the settings and all sentences.
    """
    output_dir = Path(output_dir)
    num_clips = {"train": num_train, "validation": num_validation, "test": num_test}
    if min(num_clips.values()) < 1:
        raise ValueError(f"Every split needs at least one clip per class, not {num_clips}.")
    settings = {"format_version": FORMAT_VERSION, "seed": seed, "num_clips": num_clips, "voices": VOICES}
    counts = {split: dict.fromkeys(VOICES, num_clips[split]) for split in SPLITS}
    if _is_complete(output_dir, settings):
        return counts

    rng = np.random.default_rng(seed)
    sentences: dict[str, str] = {}
    with open_espeak() as speak, tqdm(total=len(VOICES) * sum(num_clips.values())) as progress:
        _remove_clips(output_dir)
        # The test split is first, so that it does not change with num_train or num_validation.
        for split in reversed(SPLITS):
            for voice, variant in VOICES.items():
                (output_dir / split / voice).mkdir(parents=True)
                for index in range(num_clips[split]):
                    waveform, sentence = _make_clip(speak, variant, sentences.values(), rng)
                    path = f"{split}/{voice}/{index:03d}.wav"
                    soundfile.write(output_dir / path, waveform, DEFAULT_SAMPLING_RATE, subtype="PCM_16")
                    sentences[path] = sentence
                    progress.update()
    # Written last, because it marks the dataset as complete.
    text = json.dumps({"settings": settings, "sentences": sentences}, indent=1)
    (output_dir / SETTINGS_FILE).write_text(text, encoding="utf-8")
    return counts


def _is_complete(output_dir: Path, settings: dict) -> bool:
    try:
        made = json.loads((output_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return made.get("settings") == settings and all((output_dir / path).exists() for path in made["sentences"])


def _remove_clips(output_dir: Path) -> None:
    """Remove an older dataset from `output_dir`. Raise a FileExistsError for files that were not written here."""
    for path in [path for split in SPLITS for path in (output_dir / split).rglob("*") if not path.is_dir()]:
        *_, voice, name = path.relative_to(output_dir).parts
        if voice not in VOICES or not re.fullmatch(r"\d{3,}\.wav", name):
            raise FileExistsError(f"{path} is not a clip of the demo dataset. Remove it, or use another folder.")
    (output_dir / SETTINGS_FILE).unlink(missing_ok=True)
    for split in SPLITS:
        shutil.rmtree(output_dir / split, ignore_errors=True)


def _make_clip(speak: Callable, variant: str, used: Collection, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Return one clip, int16 of shape (samples,) at 16 kHz, and its sentence, which is not in `used`."""
    duration = 0.0
    while not MIN_DURATION <= duration <= MAX_DURATION:
        while (sentence := _make_sentence(rng)) in used:
            pass
        rate, pitch, intonation = rng.integers(*zip(RATE_RANGE, PITCH_RANGE, INTONATION_RANGE), endpoint=True).tolist()
        speech = speak(sentence, f"en+{variant}", rate, pitch, intonation)
        speech = resample_poly(speech, DEFAULT_SAMPLING_RATE, ESPEAK_SAMPLING_RATE)
        duration = len(speech) / DEFAULT_SAMPLING_RATE
    noise = _make_noise(len(speech), pink=bool(rng.integers(2)), rng=rng)
    waveform = speech + noise * np.std(speech) * 10 ** (-rng.uniform(*SNR_RANGE) / 20)
    waveform *= 10 ** (rng.uniform(*PEAK_RANGE) / 20) / np.abs(waveform).max()
    return np.round(waveform * 32767).astype(np.int16), sentence


def _make_sentence(rng: np.random.Generator) -> str:
    words = {kind: str(rng.choice(words.split())).replace("_", " ") for kind, words in _WORDS.items()}
    sentence = _TEMPLATES[rng.integers(len(_TEMPLATES))].format(**words)
    return sentence[0].upper() + sentence[1:]


def _make_noise(num_samples: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """Return white or pink noise of unit variance, shape (samples,)."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    if pink:
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / np.std(noise)
