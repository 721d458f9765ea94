# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Prepare training clips from folders of recordings: `sanet prepare`.

    recordings/<class>/*                 →   data/clips/<split>/<class>/*.wav
    recordings/<split>/<class>/*             data/speech_segments/<split>/<class>/*.wav
                                             data/manifest.parquet, data/report.html, data/preparation.json

With noise reduction, the first folder is named `denoised_clips`, and the second is also denoised.
`data/preparation.json` contains the options; `sanet train` stores them in the model.

`data/.prepare.jsonl` lists the finished recordings, one per line, written after all clips of a recording. An
interrupted run resumes from it. `data/.prepare.lock` prevents a second run at the same time.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from tqdm.auto import tqdm

from sanet_hf.architectures import SAMPLING_RATES
from sanet_hf.audio.denoise import denoise
from sanet_hf.audio.levels import is_silent, largest_amplitude
from sanet_hf.errors import AudioError, DataError
from sanet_hf.training.data.band_checks import MUCH, measure_band
from sanet_hf.training.data.preparation_record import RECORD
from sanet_hf.training.data.splits import HELD_OUT, VALIDATION_ONLY, make_groups, split_by_hash
from sanet_hf.training.preparation.cutting import clip_stem, cut_evenly, find_speech, longest_clip
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
from sanet_hf.training.preparation.samples import BLOCK, write_clip
from sanet_hf.training.preparation.source_files import METADATA, SourceFile, list_files, read_recording, store
from sanet_hf.training.preparation.worker_pool import count_cores, map_unordered
from sanet_hf.utils.extras import require
from sanet_hf.utils.files import is_full, to_text
from sanet_hf.utils.formatting import format_duration


# Columns of the manifest: times in seconds, amplitudes as fractions of full scale, SNR in dB.
COLUMNS = {
    **dict.fromkeys(("source", "class", "split", "kind", "file"), "string"),
    **dict.fromkeys(("start", "end", "duration", "rms", "peak", "clipped", "snr", "gain"), "Float64"),
    "hash": "string",
    **dict.fromkeys(("original_rate", "channels"), "Int64"),
    **dict.fromkeys(("resampling", "warning", "skipped"), "string"),
}


@dataclass
class Preparation:
    """The result of [`prepare`]: the manifest, and the number of recordings that were already finished."""

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
    Cut the recordings in class folders into 16-bit mono clips of one sampling rate, in split folders.

    Splits are those of the source, or are made by recording or group, so that no recording is in two. The same
    recordings and options give the same bytes, independent of the number of workers and of interruptions. The source
    is only read. Unusable files are skipped, and are listed in the manifest with the reason.

    Args:
        source_dir: Folder with class folders, or with split folders that contain class folders.
        output_dir: Folder for the clips, `manifest.parquet`, `report.html` and `preparation.json`.
        options: Options of the clips.
        num_workers: Number of processes (default: number of cores).
        overwrite: Whether to remove the output of an earlier run, even with other options.

    Returns:
        The manifest, and the number of recordings that were already finished.

    Raises:
        DataError: The folders or options are wrong, another run writes to `output_dir`, or no recording is usable.
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
            f"The disk of {output_dir} is full. Finished recordings are kept. Free some disk space, and run the same "
            "command again to resume",
        ) from error
    if not manifest["file"].notna().any():
        raise DataError(
            f"None of the {len(tasks)} files in {source_dir} is usable. The first: {manifest['skipped'].iloc[0]}. "
            f"{output_dir / REPORT} lists all of them."
        )
    return Preparation(manifest, len(tasks), num_finished_before)


def _prepare(source_dir: Path, tasks: Sequence[Task], num_workers: int) -> tuple[pandas.DataFrame, int]:
    """Prepare the unfinished recordings. Return the manifest and the number of recordings finished before."""
    output_dir, options = tasks[0].output_dir, tasks[0].options
    header = {"format_version": FORMAT_VERSION, "recordings": to_text(str(source_dir.resolve())), **asdict(options)}
    was_finished, finished = read_progress(output_dir, header)
    states = {task.source: file_state(task) for task in tasks}
    kept = drop_changed(finished, states, output_dir)
    num_finished_before = len(kept)
    is_finished = was_finished and len(kept) == len(tasks) == len(finished)
    if is_finished and all((output_dir / name).is_file() for name in (MANIFEST, REPORT, RECORD)):
        try:
            return pandas.read_parquet(output_dir / MANIFEST), num_finished_before
        except (OSError, ValueError) as error:
            raise DataError(f"{output_dir / MANIFEST} is damaged. Start again with --overwrite.") from error
    with temporary_folder(output_dir):
        _work(tasks, states, kept, header, num_workers)
        lines = [kept[task.source] for task in tasks]
        manifest = make_manifest([row for line in lines for row in line.rows])
        _finish(manifest, source_dir, output_dir, options)
        write_progress(output_dir, {**header, "finished": True}, lines)
    return manifest, num_finished_before


def _check_options(options: PrepareOptions) -> None:
    lowest, highest = SAMPLING_RATES
    if not lowest <= options.sampling_rate <= highest:
        raise DataError(f"--sampling_rate must be from {lowest} to {highest} Hz, not {options.sampling_rate}.")
    longest = longest_clip(options.sampling_rate)
    if not 1 / options.sampling_rate <= options.max_seconds <= longest:
        raise DataError(f"--max_seconds must be from one sample to {longest:,} s, not {options.max_seconds:g}.")
    if not 0 <= options.min_seconds <= longest:
        raise DataError(f"--min_seconds must be from 0 to {longest:,} s, not {options.min_seconds:g}.")


def _check_packages(options: PrepareOptions) -> None:
    packages = {"noisereduce": options.denoise, "silero_vad": options.segments}
    require([name for name, is_needed in packages.items() if is_needed], "prepare")


def divide(files: Sequence[SourceFile], group_pattern: str | None) -> list[SourceFile]:
    """
    Return the files with their splits, in the same order. If the source has no splits, divide recordings or groups
    80/10/10. If only its validation split is missing, hold out a tenth of the training recordings.

    Raises:
        DataError: The pattern is not a valid regular expression, or does not match some name.
    """
    usable = [file for file in files if file.error is None]
    groups = make_groups([file.key for file in usable], group_pattern)
    divided, held_out = "unsplit", HELD_OUT
    if not any(file.split in ("unsplit", "validation") for file in usable):
        # Otherwise, training would hold out single clips, and train on other clips of the same recordings.
        divided, held_out = "train", VALIDATION_ONLY
    indices = [index for index, file in enumerate(usable) if file.split == divided]
    places = split_by_hash([usable[index].label for index in indices], [groups[index] for index in indices], held_out)
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
    """Cut the unfinished recordings, the largest first, so that all workers end at about the same time."""
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
    options = task.options
    rate = options.sampling_rate
    about = {"source": task.source, "class": task.file.label, "split": task.file.split}
    if task.file.error:
        return [{**about, "kind": "recording", "skipped": task.file.error}]
    try:
        recording = read_recording(task.file.path, rate, task.output_dir / TEMPORARY)
        waveform = recording.waveform
        about |= {
            "original_rate": recording.original_rate,
            "channels": recording.num_channels,
            "resampling": recording.resampling,
        }
        if recording.warning:
            about["warning"] = recording.warning
        if is_silent(waveform):
            raise AudioError("completely silent")
        if recording.original_rate > rate:
            band = measure_band(task.file.path, task.source, rate)
            if band is not None and band.above > MUCH:
                loss = f"{100 * band.above:.0f} % of the energy is above {rate / 2:g} Hz and therefore lost"
                loss = f"{loss} (see --sampling_rate)"
                about["warning"] = "; ".join(filter(None, [recording.warning, loss]))
        pieces = {
            "clip": cut_evenly(len(waveform), round(options.max_seconds * rate)),
            "segment": find_speech(waveform, rate, options.min_seconds) if options.segments else [],
        }
        cleaned = waveform
        if options.denoise:
            blocks = (waveform[start : start + BLOCK] for start in range(0, len(waveform), BLOCK))
            cleaned = store(denoise(blocks, rate), task.output_dir / TEMPORARY)
    except Exception as error:  # An error in one recording must not stop the others.
        if is_full(error):
            raise
        reason = str(error).removeprefix(f"{to_text(str(task.file.path))}: ")
        if not isinstance(error, AudioError):
            reason = f"{type(error).__name__}: {reason}"
        return [{**about, "kind": "recording", "skipped": reason}]
    # Floating-point and MP3 files can exceed full scale, and 16 bits would clip their peaks.
    about["gain"] = gain = min(1.0, 1 / max(largest_amplitude(cleaned), 1.0))
    rows = [
        row
        for kind, stretches in pieces.items()
        for row in _write_pieces(task, about, kind, stretches, waveform, cleaned, gain)
    ]
    if options.segments and not pieces["segment"]:
        rows.append({**about, "kind": "segment", "skipped": "no speech in the recording; its clips are kept"})
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
    rate = task.options.sampling_rate
    folder = Path(task.options.folders[kind], task.file.split, task.file.label)
    for index, (start, end) in enumerate(stretches):
        row = {**about, "kind": kind, "start": start / rate, "end": end / rate}
        row["duration"] = (end - start) / rate
        if kind == "segment" and end - start < task.options.min_seconds * rate:
            yield row | {"skipped": "speech shorter than --min_seconds"}
        elif is_silent(waveform[start:end]):
            yield row | {"skipped": "silent"}
        elif is_silent(cleaned[start:end]):
            yield row | {"skipped": "silent after noise reduction"}
        else:
            name = f"{clip_stem(task.file.path.name)}_{index:04d}.wav"
            row["file"] = (folder / name).as_posix()
            with write_output(task.output_dir, folder / name) as file:
                measured = write_clip(file, waveform[start:end], cleaned[start:end], gain, rate)
            yield row | measured


def make_manifest(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return a table with the columns of [`COLUMNS`]. Values that a row does not have are missing."""
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _finish(manifest: pandas.DataFrame, source_dir: Path, output_dir: Path, options: PrepareOptions) -> None:
    """Write the files about all recordings: lists of clips, manifest and report."""
    from sanet_hf.training.reports.preparation import to_html

    clips = manifest[manifest["file"].notna()]
    wanted = set(clips["file"])
    for (kind, split), rows in clips.groupby(["kind", "split"]):
        folder = Path(options.folders[kind], split)
        table = rows[["file", "class", "source", "start", "end"]].rename(
            columns={"file": "file_name", "class": "label"}
        )
        table["file_name"] = [Path(name).relative_to(folder).as_posix() for name in table["file_name"]]
        with write_output(output_dir, folder / METADATA) as file:
            table.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")
        wanted.add((folder / METADATA).as_posix())
    # Remove clips that a killed run did not record, and whose recording no longer exists.
    for folder in FOLDERS:
        for path in (output_dir / folder).rglob("*"):
            is_ours = path.name == METADATA or re.search(r"_\d{4,}\.wav$", path.name)
            if is_ours and path.is_file() and path.relative_to(output_dir).as_posix() not in wanted:
                path.unlink()
    with write_output(output_dir, MANIFEST) as file:
        manifest.to_parquet(file, index=False)
    title, facts = to_text(source_dir.resolve().name), _facts(manifest, options)
    html = to_html(manifest, output_dir, title, facts, options.sampling_rate)
    with write_output(output_dir, REPORT) as file:
        file.write(html.encode())
    record = {"sanet_hf": version("sanet-hf"), **asdict(options), "noise_reduction": facts["Noise reduction"]}
    with write_output(output_dir, RECORD) as file:
        file.write((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def _facts(manifest: pandas.DataFrame, options: PrepareOptions) -> dict[str, str]:
    used = manifest[manifest["file"].notna()]
    total = {kind: format_duration(used.loc[used["kind"] == kind, "duration"].sum()) for kind in options.folders}
    count = {kind: int((used["kind"] == kind).sum()) for kind in options.folders}
    speech = "not searched"
    if options.segments:
        speech = f"{count['segment']} segments of at least {options.min_seconds:g} s, {total['segment']} in total, "
        speech += f"found by silero-vad {version('silero-vad')}"
    return {
        "Recordings": f"{used['source'].nunique()} used of {manifest['source'].nunique()} files",
        "Clips": f"{count['clip']} of at most {options.max_seconds:g} s, {total['clip']} in total",
        "Speech": speech,
        "Noise reduction": f"noisereduce {version('noisereduce')}, non-stationary" if options.denoise else "none",
        "Groups": options.group_pattern or "none (each recording separately)",
    }
