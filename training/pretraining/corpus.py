# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Make the corpus for pretraining the shipped networks: sounds of free games and desktops, synthetic speech, notes and
drums, with tags.

    python -m sanet_hf.training.pretraining.corpus corpus

It needs a Debian system with FluidSynth, `pip install "sanet-hf[pretraining]"`, 4 GB of downloads and 2 GB of disk
space. Run an interrupted command again to resume it. `manifest.csv` is for `sanet train --manifest`. `LICENCES.md`
lists all sources.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

from sanet_hf.audio.decode import load_audio
from sanet_hf.audio.levels import is_silent
from sanet_hf.errors import AudioError, SanetError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.pretraining.notes import SOUNDFONTS, read_soundfont
from sanet_hf.training.pretraining.packages import PACKAGES, read_package
from sanet_hf.training.pretraining.sounds import Licence
from sanet_hf.training.pretraining.speech import LANGUAGES, read_language
from sanet_hf.utils.files import write_atomically
from sanet_hf.utils.formatting import format_markdown_table


# The function that makes each part of the corpus, and its sources.
PARTS: dict[str, tuple[Callable[[str, Path], Iterator], tuple[str, ...] | list[str]]] = {
    "notes": (read_soundfont, SOUNDFONTS),
    "sounds": (read_package, PACKAGES),
    "speech": (read_language, LANGUAGES),
}
SHORTEST = 0.05  # seconds
# Music and long ambiences are cut to a few evenly spread pieces.
PIECE_SECONDS, MAX_PIECES = 10, 3
# Smallest number of sounds of a tag.
MIN_SOUNDS = 12


def make_corpus(folder: Path, parts: list[str]) -> None:
    """
    Write `folder/<part>/<source>/<number>.flac` (16 kHz mono), `manifest.csv` and `LICENCES.md`. Complete sources are
    kept.

    Raises:
        UsageError: A program or package is missing, or a download fails. Finished sources are kept.
    """
    wanted = [(part, source) for part in parts for source in PARTS[part][1]]
    missing = [(part, source) for part, source in wanted if not (folder / part / f"{source}.json").is_file()]
    with ProcessPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(missing), unit="source") as progress:
        tasks = {pool.submit(_make_source, part, source, folder): source for part, source in missing}
        try:
            for task in as_completed(tasks):
                task.result()
                progress.set_postfix_str(tasks[task])
                progress.update()
        except BaseException:
            # Sources in progress are finished.
            pool.shutdown(cancel_futures=True)
            raise
    records = {key: json.loads((folder / key[0] / f"{key[1]}.json").read_text("utf-8")) for key in wanted}
    _write_manifest(folder, list(chain.from_iterable(record["sounds"] for record in records.values())))
    _write_licences(folder, records)


def _make_source(part: str, source: str, folder: Path) -> None:
    """Write the sounds of a source, and then its record, which marks the source as complete."""
    read, _ = PARTS[part]
    output = folder / part / source
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    rows, hashes, licence = [], set(), None
    with tempfile.TemporaryDirectory() as temporary:
        for sound in read(source, Path(temporary)):
            if isinstance(sound, Licence):
                licence = sound
                continue
            for waveform in _read(sound.audio):
                samples = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)
                digest = hashlib.sha256(samples.tobytes()).hexdigest()
                if digest in hashes:
                    continue
                hashes.add(digest)
                file = f"{part}/{source}/{len(rows):05d}.flac"
                soundfile.write(folder / file, samples, DEFAULT_SAMPLING_RATE)
                seconds = round(len(samples) / DEFAULT_SAMPLING_RATE, 3)
                row = {"file": file, "seconds": seconds, "hash": digest, "origin": sound.origin, "tags": sound.tags}
                rows.append(row)
    record = {"work": licence.work, "licences": licence.names, "copyright": licence.text, "sounds": rows}
    with write_atomically(folder / part / f"{source}.json") as file:
        file.write(json.dumps(record, indent=1, ensure_ascii=False).encode())


def _read(audio: Path | np.ndarray) -> list[np.ndarray]:
    """Return pieces of a sound at 16 kHz; an empty list if it is unreadable, silent or very short."""
    try:
        waveform = audio if isinstance(audio, np.ndarray) else load_audio(audio, DEFAULT_SAMPLING_RATE)
    except (AudioError, OSError):
        return []
    length = PIECE_SECONDS * DEFAULT_SAMPLING_RATE
    pieces = [waveform]
    if len(waveform) > 2 * length:
        starts = np.linspace(0, len(waveform) - length, MAX_PIECES).round().astype(int)
        pieces = [waveform[start : start + length] for start in starts]
    return [piece for piece in pieces if len(piece) >= SHORTEST * DEFAULT_SAMPLING_RATE and not is_silent(piece)]


def _write_manifest(folder: Path, rows: list[dict]) -> None:
    """Write the manifest of unique sounds, with tags that are not rare."""
    first = {}
    for row in rows:
        first.setdefault(row["hash"], row)
    rows = list(first.values())
    counts = Counter(tag for row in rows for tag in set(row["tags"]))
    kept = [{**row, "tags": [tag for tag in row["tags"] if counts[tag] >= MIN_SOUNDS]} for row in rows]
    kept = [row for row in kept if row["tags"]]
    table = pd.DataFrame({"file": [row["file"] for row in kept], "label": [";".join(row["tags"]) for row in kept]})
    with write_atomically(folder / "manifest.csv") as file:
        file.write(table.to_csv(index=False).encode())
    hours = sum(row["seconds"] for row in kept) / 3600
    tags = sum(count >= MIN_SOUNDS for count in counts.values())
    print(f"{len(kept)} sounds, {hours:.1f} h, {tags} tags: {folder / 'manifest.csv'}", file=sys.stderr)


def _write_licences(folder: Path, records: dict) -> None:
    rows = []
    for (part, source), record in records.items():
        hours = sum(row["seconds"] for row in record["sounds"]) / 3600
        rows.append([part, record["work"], len(record["sounds"]), f"{hours:.2f}", record["licences"]])
        if record["copyright"]:
            path = folder / "licences" / f"{source}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(record["copyright"], "utf-8")
    table = format_markdown_table(["part", "source", "sounds", "hours", "licences"], rows)
    with write_atomically(folder / "LICENCES.md") as file:
        file.write(f"# Sources and licences\n\n{table}\n".encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sanet_hf.training.pretraining.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="Folder of the corpus.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="Parts to make. Default: all.")
    options = parser.parse_args(arguments)
    try:
        make_corpus(options.output, options.parts)
    except (SanetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
