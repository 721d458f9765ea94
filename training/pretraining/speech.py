# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic speech: names of countries, places and languages in about fifty languages, by the voices of espeak-ng."""

import gettext
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from sanet_hf.audio.decode import resample_waveform
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.demo.espeak import SAMPLING_RATE, open_espeak
from sanet_hf.training.demo.speech import VOICES as DEMO_VOICES
from sanet_hf.training.pretraining.sounds import Licence, Sound
from sanet_hf.utils.extras import require


# Languages of espeak-ng, most with translations in pycountry. espeak-ng 1.52 crashes on some names in Afrikaans.
LANGUAGES = """
am ar as az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy id is it ka kk kn ko ky lt
lv mk ml mr ms mt nl pa pl pt ro ru si sk sl sq sr sv sw ta te th tr tt ug uk ur uz vi
""".split()
UTTERANCES = 250  # per language
CATALOGUES = "iso3166-1", "iso3166-2", "iso639-3"
# Variants that are not separate voices, or crash. The voices of the demo are left out to keep its test valid.
NO_VARIANTS = {"fast", "whisper", "whisperf", "croak", "Demonic", *DEMO_VOICES.values()}


def read_language(language: str, folder: Path) -> Iterator[Sound | Licence]:
    """
    Yield utterances in one language by random voices, with voice, pitch and language as tags, and the licence.

    Raises:
        UsageError: pycountry or espeakng-loader is not installed.
    """
    texts, generator = _read_texts(language), np.random.default_rng([ord(letter) for letter in language])
    variants = _list_variants()
    with open_espeak() as speak:
        for number in range(UTTERANCES):
            variant = str(generator.choice(variants))
            text = ", ".join(generator.choice(texts, generator.integers(1, 4, endpoint=True)))
            # The rate is in words per minute, the others are on espeak's scale of 0 to 99.
            rate, pitch, width = generator.integers((120, 0, 0), (220, 100, 90)).tolist()
            try:
                waveform = speak(text, f"{language}+{variant}", rate, pitch, width)
            except RuntimeError:
                # espeak-ng does not support this script.
                continue
            waveform = resample_waveform(waveform.astype(np.float32), SAMPLING_RATE, DEFAULT_SAMPLING_RATE)
            tags = ["speech", f"language {language}", f"voice {variant}", f"voice {variant} at pitch {pitch // 34}"]
            yield Sound(waveform, f"{number:04d} {variant} {text}", tags)
    yield Licence("names of pycountry, spoken by espeak-ng (free output)", "LGPL-2.1 (pycountry's translations)")


def _read_texts(language: str) -> list[str]:
    """Return names of countries, regions and languages in a language; in English if there is no translation."""
    require("pycountry", "pretraining")
    import pycountry

    texts = set()
    for catalogue, entries in zip(CATALOGUES, (pycountry.countries, pycountry.subdivisions, pycountry.languages)):
        names = {entry.name for entry in entries}
        translate = gettext.translation(catalogue, pycountry.LOCALES_DIR, [language], fallback=True).gettext
        translated = {translate(name) for name in names}
        texts |= (translated - names) or names
    return sorted(text for text in texts if 4 <= len(text) <= 40)


@cache
def _list_variants() -> list[str]:
    require("espeakng_loader", "pretraining")
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path(), "voices", "!v")
    return sorted(path.name for path in folder.iterdir() if path.name not in NO_VARIANTS)
