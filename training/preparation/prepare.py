# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
From folders of recordings to clips to train on: `sanet prepare`.

    recordings/<class>/*                 →   data/denoised_clips/<split>/<class>/*.wav
    recordings/<split>/<class>/*             data/speech_segments/<split>/<class>/*.wav
                                             data/manifest.parquet, data/report.html

What is finished stands in `data/.prepare.jsonl`, a recording a line, written when all its clips are: an interrupted
run goes on from there. `data/.prepare.lock` keeps a second run out.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from tqdm.auto import tqdm

from sanet_hf.audio.levels import is_silent, largest_amplitude
from sanet_hf.errors import AudioError, DataError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.data.splits import HELD_OUT_PARTS, SPLIT_PARTS, make_groups, split_by_hash
from sanet_hf.training.preparation.cutting import MAX_SECONDS, clip_stem, cut_evenly, find_speech
from sanet_hf.training.preparation.progress import (
    FOLDERS,
    FORMAT_VERSION,
    MANIFEST,
    PROGRESS,
    REPORT,
    TEMPORARY,
    FinishedRecording,
    PrepareOptions,
    Task,
    check_output,
    drop_changed,
    file_state,
    locked,
    read_progress,
    relative_name,
    remove_output,
    temporary_folder,
    to_line,
    write_output,
    write_progress,
)
from sanet_hf.training.preparation.samples import denoise, write_clip
from sanet_hf.training.preparation.source_files import METADATA, SourceFile, list_files, read_recording, store
from sanet_hf.training.preparation.worker_pool import count_cores, map_unordered
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import is_full, to_text
from sanet_hf.utils.formatting import format_duration


# Columns of the manifest: times in seconds, amplitudes as parts of full scale, SNR in dB.
COLUMNS = {
    **dict.fromkeys(("source", "class", "split", "kind", "file"), "string"),
    **dict.fromkeys(("start", "end", "duration", "rms", "peak", "clipped", "snr", "gain"), "Float64"),
    "hash": "string",
    **dict.fromkeys(("original_rate", "channels"), "Int64"),
    **dict.fromkeys(("resampling", "warning", "skipped"), "string"),
}


@dataclass
class Preparation:
    """What [`prepare`] did: the manifest's rows, and how many recordings were finished before."""

    manifest: pandas.DataFrame
    num_recordings: int
    num_finished_before: int


def prepare(
    source_dir: str | Path,
    output_dir: str | Path,
    options: PrepareOptions | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> Preparation:
    """
    Cut the recordings in class folders into clips of 16 kHz, mono, 16 bit, in split folders.

    Splits are those of the source or else made by recording or group, so that no recording is in two. The same
    recordings and options give the same bytes, however many workers there are and however often they were interrupted.
    The source is only read. A file that cannot be used is skipped and stands in the manifest with the reason.

    Args:
        source_dir: Folder of class folders, or of split folders with class folders.
        output_dir: Folder for the clips, `manifest.parquet` and `report.html`.
        options: How to cut.
        num_workers: Processes; by default as many as there are cores.
        overwrite: Whether to remove what an earlier run wrote, also with other options.

    Raises:
        DataError: The folders or options do not fit, another run writes to `output_dir`, or not one recording can be
            used.
        OSError: The disk is full, or a worker process died.
    """
    options = options or PrepareOptions()
    source_dir, output_dir = Path(source_dir), Path(output_dir)
    _check_options(options)
    _check_packages(options)
    files = divide(list_files(source_dir), options.group_pattern)
    check_output(source_dir, output_dir)
    tasks = [Task(file, relative_name(file.path, source_dir), output_dir, options) for file in files]
    try:
        with locked(output_dir):
            if overwrite:
                remove_output(output_dir)
            manifest, num_finished_before = _prepare(source_dir, tasks, num_workers or count_cores())
    except OSError as error:
        if not is_full(error):
            raise
        raise OSError(
            error.errno,
            f"The disk of {output_dir} is full. What is finished stays: free some space and run the same command "
            "again",
        ) from error
    if not manifest["file"].notna().any():
        raise DataError(
            f"None of the {len(tasks)} files in {source_dir} can be used, the first because: "
            f"{manifest['skipped'].iloc[0]}. {output_dir / REPORT} lists them all."
        )
    return Preparation(manifest, len(tasks), num_finished_before)


def _prepare(source_dir: Path, tasks: Sequence[Task], num_workers: int) -> tuple[pandas.DataFrame, int]:
    """What is not finished; gives the manifest, and how many recordings were finished before."""
    output_dir, options = tasks[0].output_dir, tasks[0].options
    header = {"format_version": FORMAT_VERSION, "recordings": to_text(str(source_dir.resolve())), **asdict(options)}
    was_finished, finished = read_progress(output_dir, header)
    states = {task.source: file_state(task) for task in tasks}
    kept = drop_changed(finished, states, output_dir)
    num_finished_before = len(kept)
    is_finished = was_finished and len(kept) == len(tasks) == len(finished)
    if is_finished and all((output_dir / name).is_file() for name in (MANIFEST, REPORT)):
        try:
            return pandas.read_parquet(output_dir / MANIFEST), num_finished_before
        except (OSError, ValueError) as error:
            raise DataError(f"{output_dir / MANIFEST} is damaged: use --overwrite to prepare anew.") from error
    with temporary_folder(output_dir):
        _work(tasks, states, kept, header, num_workers)
        lines = [kept[task.source] for task in tasks]
        manifest = make_manifest([row for line in lines for row in line.rows])
        _finish(manifest, source_dir, output_dir, options)
        write_progress(output_dir, {**header, "finished": True}, lines)
    return manifest, num_finished_before


def _check_options(options: PrepareOptions) -> None:
    if not 1 / DEFAULT_SAMPLING_RATE <= options.max_seconds <= MAX_SECONDS:
        raise DataError(f"--max_seconds must be from one sample to {MAX_SECONDS:,} s, not {options.max_seconds:g}.")
    if not 0 <= options.min_seconds <= MAX_SECONDS:
        raise DataError(f"--min_seconds must be from 0 to {MAX_SECONDS:,} s, not {options.min_seconds:g}.")


def _check_packages(options: PrepareOptions) -> None:
    require([*(["noisereduce"] if options.denoise else []), "silero_vad"], "prepare")


def divide(files: Sequence[SourceFile], group_pattern: str | None) -> list[SourceFile]:
    """
    Files with their split, in the source's order: that of the source, or else 80/10/10 by recording or group. Where
    the source has no validation split, a tenth of the training recordings is held out.

    Raises:
        DataError: The pattern is no regular expression, or finds nothing in some name.
    """
    usable = [file for file in files if file.error is None]
    groups = make_groups([file.key for file in usable], group_pattern)
    divided, parts = "unsplit", SPLIT_PARTS
    if not any(file.split in ("unsplit", "validation") for file in usable):
        # Training would hold out clips instead, and learn from others of the same recordings.
        divided, parts = "train", HELD_OUT_PARTS
    indices = [index for index, file in enumerate(usable) if file.split == divided]
    places = split_by_hash([usable[index].label for index in indices], [groups[index] for index in indices], parts)
    splits = {usable[indices[place]].path: split for split in places for place in places[split]}
    return [
        file._replace(split=splits.get(file.path, "" if file.split == "unsplit" else file.split)) for file in files
    ]


def _work(
    tasks: Sequence[Task],
    states: Mapping[str, FinishedRecording],
    finished: dict[str, FinishedRecording],
    header: Mapping[str, Any],
    num_workers: int,
) -> None:
    """Cut what is not finished, the largest files first so that the workers are done together."""
    output_dir = tasks[0].output_dir
    left = sorted((task for task in tasks if task.source not in finished), key=lambda t: -states[t.source].size)
    write_progress(output_dir, header, finished.values())
    with (
        open(output_dir / PROGRESS, "a", encoding="utf-8") as progress,
        tqdm(total=len(tasks), initial=len(finished), desc="Preparing recordings", unit="file") as bar,
        contextlib.closing(map_unordered(prepare_file, left, num_workers)) as results,
    ):
        for task, rows in results:
            finished[task.source] = line = states[task.source]
            line.rows = rows
            progress.write(to_line(asdict(line)))
            progress.flush()
            bar.update()


def prepare_file(task: Task) -> list[dict[str, Any]]:
    """
    Cut one recording and write its clips.

    Returns:
        Rows of the manifest, without the empty columns.

    Raises:
        OSError: A clip cannot be written.
    """
    about = {"source": task.source, "class": task.file.label, "split": task.file.split}
    if task.file.error:
        return [{**about, "kind": "recording", "skipped": task.file.error}]
    try:
        recording = read_recording(task.file.path, DEFAULT_SAMPLING_RATE, task.output_dir / TEMPORARY)
        waveform = recording.waveform
        about |= {
            "original_rate": recording.original_rate,
            "channels": recording.num_channels,
            "resampling": recording.resampling,
        }
        if recording.warning:
            about["warning"] = recording.warning
        if is_silent(waveform):
            raise AudioError("silent throughout")
        pieces = {
            "clip": cut_evenly(len(waveform), round(task.options.max_seconds * DEFAULT_SAMPLING_RATE)),
            "segment": find_speech(waveform, task.options.min_seconds),
        }
        cleaned = waveform
        if task.options.denoise:
            cleaned = store(denoise(waveform), task.output_dir / TEMPORARY)
    except Exception as error:  # Whatever is the matter with one recording, the others are to be prepared.
        if is_full(error):
            raise
        reason = str(error).removeprefix(f"{to_text(str(task.file.path))}: ")
        if not isinstance(error, AudioError):
            reason = f"{type(error).__name__}: {reason}"
        return [{**about, "kind": "recording", "skipped": reason}]
    # Beyond full scale, as floating-point and MP3 files can be, 16 bits would cut the peaks off.
    about["gain"] = gain = min(1.0, 1 / max(largest_amplitude(cleaned), 1.0))
    rows = [
        row
        for kind, stretches in pieces.items()
        for row in _write_pieces(task, about, kind, stretches, waveform, cleaned, gain)
    ]
    if not pieces["segment"]:
        rows.append({**about, "kind": "segment", "skipped": "no speech was found"})
    return rows


def _write_pieces(
    task: Task,
    about: Mapping[str, Any],
    kind: str,
    stretches: Sequence[tuple[int, int]],
    waveform: np.ndarray,
    cleaned: np.ndarray,
    gain: float,
) -> Iterator[dict[str, Any]]:
    folder = Path(FOLDERS[kind], task.file.split, task.file.label)
    for index, (start, end) in enumerate(stretches):
        row = {**about, "kind": kind, "start": start / DEFAULT_SAMPLING_RATE, "end": end / DEFAULT_SAMPLING_RATE}
        row["duration"] = (end - start) / DEFAULT_SAMPLING_RATE
        if kind == "segment" and end - start < task.options.min_seconds * DEFAULT_SAMPLING_RATE:
            yield row | {"skipped": "speech shorter than --min_seconds"}
        elif is_silent(waveform[start:end]):
            yield row | {"skipped": "silent"}
        elif is_silent(cleaned[start:end]):
            yield row | {"skipped": "silent after noise reduction"}
        else:
            name = f"{clip_stem(task.file.path.name)}_{index:04d}.wav"
            row["file"] = (folder / name).as_posix()
            with write_output(task.output_dir, folder / name) as file:
                measured = write_clip(file, waveform[start:end], cleaned[start:end], gain)
            yield row | measured


def make_manifest(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """The table of [`COLUMNS`]; what a row does not have is missing."""
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _finish(manifest: pandas.DataFrame, source_dir: Path, output_dir: Path, options: PrepareOptions) -> None:
    """Write what is made of all recordings: the lists of clips, the manifest, the report."""
    from sanet_hf.training.reports.preparation import to_html

    clips = manifest[manifest["file"].notna()]
    wanted = set(clips["file"])
    for (kind, split), rows in clips.groupby(["kind", "split"]):
        folder = Path(FOLDERS[kind], split)
        table = rows[["file", "class", "source", "start", "end"]].rename(
            columns={"file": "file_name", "class": "label"}
        )
        table["file_name"] = [Path(name).relative_to(folder).as_posix() for name in table["file_name"]]
        with write_output(output_dir, folder / METADATA) as file:
            table.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")
        wanted.add((folder / METADATA).as_posix())
    # Clips of which the run was killed before it took note, and whose recording has gone since.
    for folder in FOLDERS.values():
        for path in (output_dir / folder).rglob("*"):
            is_ours = path.name == METADATA or re.search(r"_\d{4,}\.wav$", path.name)
            if is_ours and path.is_file() and path.relative_to(output_dir).as_posix() not in wanted:
                path.unlink()
    with write_output(output_dir, MANIFEST) as file:
        manifest.to_parquet(file, index=False)
    html = to_html(manifest, output_dir, to_text(source_dir.resolve().name), _facts(manifest, options))
    with write_output(output_dir, REPORT) as file:
        file.write(html.encode())


def _facts(manifest: pandas.DataFrame, options: PrepareOptions) -> dict[str, str]:
    used = manifest[manifest["file"].notna()]
    total = {kind: format_duration(used.loc[used["kind"] == kind, "duration"].sum()) for kind in FOLDERS}
    count = {kind: int((used["kind"] == kind).sum()) for kind in FOLDERS}
    return {
        "Recordings": f"{used['source'].nunique()} used of {manifest['source'].nunique()} files",
        "Clips": f"{count['clip']} of at most {options.max_seconds:g} s, {total['clip']} in all",
        "Speech": f"{count['segment']} stretches of at least {options.min_seconds:g} s, {total['segment']} in all, "
        f"found by silero-vad {version('silero-vad')}",
        "Noise reduction": f"noisereduce {version('noisereduce')}, non-stationary" if options.denoise else "none",
        "Groups": options.group_pattern or "each recording for itself",
    }
