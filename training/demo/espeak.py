# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Speech synthesis with espeak-ng, from the library in the package espeakng-loader."""

import contextlib
import ctypes
import shutil
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from sanet_hf.utils.extras import require


SAMPLING_RATE = 22_050  # Hz
VOLUME = 60  # percent; at 100, espeak's limiter distorts the louder voices

# Values from espeak-ng/speak_lib.h.
_OUTPUT_SYNCHRONOUS, _DONT_EXIT, _POSITION_CHARACTER, _CHARS_UTF8 = 2, 0x8000, 1, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@contextlib.contextmanager
def open_espeak() -> Iterator[Callable[[str, str, int, int, int], np.ndarray]]:
    """
    Yield a function of (text, voice, rate, pitch, intonation) that returns speech of shape (samples,) at 22,050 Hz.

    A voice is a language with a variant, such as `en+Annie`. The rate is in words per minute. Pitch and intonation
    (the width of the pitch range) are on espeak's scale of 0 to 99.

    espeak-ng keeps state between texts that its interface cannot reset, such as the phase of the pitch flutter. A new
    copy of the library has a new state. The same seed therefore gives the same bytes, even if another dataset was
    generated in this process before.
    """
    require("espeakng_loader", "demo")
    import espeakng_loader

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))

    chunks: list[np.ndarray] = []

    @_CALLBACK
    def collect(samples, num_samples, events):
        if samples and num_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0  # continue

    def speak(text: str, voice: str, rate: int, pitch: int, intonation: int) -> np.ndarray:
        chunks.clear()
        status = library.espeak_SetVoiceByName(voice.encode())
        for parameter, value in ((_RATE, rate), (_VOLUME, VOLUME), (_PITCH, pitch), (_RANGE, intonation)):
            status = status or library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        status = status or library.espeak_Synth(data, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status or not chunks:
            raise RuntimeError(f"espeak-ng cannot synthesise {text!r} with the voice {voice!r} (status {status}).")
        return np.concatenate(chunks) / 32768

    data_path = espeakng_loader.get_data_path().encode()
    # With a longer path, espeak-ng 1.52 silently uses another folder for its data.
    if len(data_path) > 159:
        raise RuntimeError(f"espeak-ng does not support data paths of more than 159 bytes: {data_path.decode()}")
    library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    try:
        yield speak
    finally:
        library.espeak_Terminate()
