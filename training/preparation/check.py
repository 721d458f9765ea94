# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Report on a folder of recordings: its content, its problems, and a baseline for trained models."""

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from sanet_hf.audio.folders import SPLITS
from sanet_hf.audio.levels import CLIPPED, SILENCE, largest_amplitude
from sanet_hf.errors import AudioError, DataError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.baseline import fit_baseline
from sanet_hf.training.data.band_checks import Band, describe_bands, measure_band
from sanet_hf.training.data.folds import find_group_pattern
from sanet_hf.training.data.labels import warn_of_spellings
from sanet_hf.training.data.log_mel import MAX_SECONDS, log_mel_statistics
from sanet_hf.training.data.preparation_record import read_preparation
from sanet_hf.training.data.splits import make_groups
from sanet_hf.training.evaluation.results import FEW_CLIPS
from sanet_hf.training.preparation.progress import FOLDERS
from sanet_hf.training.preparation.source_files import SourceFile, list_files, read_recording
from sanet_hf.training.preparation.worker_pool import count_cores, map_unordered
from sanet_hf.utils.files import to_text
from sanet_hf.utils.formatting import format_count, format_table, shorten_lines


# Limits of the report: classes with fewer seconds, and files with larger values.
FEW_SECONDS = 60.0
MAX_CLIPPED = 1e-3  # fraction of the samples
MAX_OFFSET = 0.01  # fraction of full scale
MAX_IMBALANCE = 10.0
NUM_SHOWN = 5

BLOCK = 2**20  # samples


class Measured(NamedTuple):
    """The result of reading a file, or the error."""

    error: str | None = None
    seconds: float = 0.0
    original_rate: int = 0
    peak: float = 0.0
    clipped: float = 0.0
    offset: float = 0.0
    digest: bytes = b""
    # From [`log_mel_statistics`], float32 of shape (NUM_STATISTICS,).
    features: np.ndarray | None = None
    band: Band | None = None


def check(
    folder: str | Path,
    group_pattern: str | None = None,
    num_workers: int | None = None,
    sampling_rate: int | None = None,
) -> str:
    """
    Report on a folder for [`sources.read_source`], or on the output of [`prepare.prepare`].

    Args:
        folder: Folder with class folders, with split folders, or with the folders of [`FOLDERS`].
        group_pattern: Regular expression for CLASS/FILE. Files with the same match stay in one fold of the
            cross-validation. Default: clips that [`prepare.prepare`] cut from one recording stay in one fold.
        num_workers: Number of processes (default: number of cores).
        sampling_rate: Sampling rate of the model to train in Hz (default: that of the clips of [`prepare.prepare`], or
            16 kHz for other recordings).

    Returns:
        Tables and findings, as text for a terminal.

    Raises:
        DataError: The folder is missing, or contains no usable file.
    """
    folder = Path(folder)
    if sampling_rate is None:
        record = read_preparation(DataArguments(data_dir=str(folder)))
        sampling_rate = DEFAULT_SAMPLING_RATE if record is None else record["sampling_rate"]
    folders = [folder / name for name in FOLDERS if (folder / name).is_dir()] or [folder]
    listed = {}
    for part in folders:
        with contextlib.suppress(DataError) if listed else contextlib.nullcontext():
            listed[part] = list_files(part)
    return "\n\n\n".join(
        _check_folder(part, files, group_pattern, num_workers or count_cores(), sampling_rate)
        for part, files in listed.items()
    )


def _check_folder(
    folder: Path, files: Sequence[SourceFile], group_pattern: str | None, num_workers: int, sampling_rate: int
) -> str:
    to_read = [file for file in files if file.error is None]
    measure = partial(measure_file, sampling_rate=sampling_rate)
    warn_of_spellings((), {file.label for file in to_read})
    with contextlib.closing(map_unordered(measure, to_read, num_workers)) as results:
        measured = dict(tqdm(results, total=len(to_read), desc=f"Checking {folder.name}", unit="file"))
    # In the order of the list, independent of which finished first.
    usable = {file: measured[file] for file in to_read if measured[file].error is None}
    if not usable:
        reasons = [file.error or measured[file].error for file in files]
        raise DataError(f"None of the {len(files)} files in {folder} is usable. The first: {reasons[0]}.")
    findings = find_faults(files, measured, folder)
    findings += describe_bands([measured.band for measured in usable.values()], sampling_rate)
    group_pattern = find_group_pattern(DataArguments(data_dir=str(folder), group_pattern=group_pattern))
    lines = [to_text(str(folder)), "", *_table(usable), ""]
    lines += ["Findings:", *(f"  - {finding}" for finding in findings)] if findings else ["No problems found."]
    return "\n".join([*lines, "", *_describe_baseline(usable, group_pattern)])


def measure_file(file: SourceFile, sampling_rate: int = DEFAULT_SAMPLING_RATE) -> Measured:
    """Read a whole file and measure it. The features are from its first minute."""
    try:
        recording = read_recording(file.path, sampling_rate)
    except Exception as error:  # An error in one file must not stop the check of the others.
        if isinstance(error, AudioError):
            return Measured(str(error).removeprefix(f"{to_text(str(file.path))}: "))
        return Measured(f"{type(error).__name__}: {error}")
    waveform = recording.waveform
    blocks = [waveform[start : start + BLOCK] for start in range(0, len(waveform), BLOCK)]
    return Measured(
        seconds=len(waveform) / sampling_rate,
        original_rate=recording.original_rate,
        peak=largest_amplitude(waveform),
        clipped=sum(int((np.abs(block) >= CLIPPED).sum()) for block in blocks) / len(waveform),
        offset=sum(float(block.sum(dtype=np.float64)) for block in blocks) / len(waveform),
        digest=hashlib.sha256(waveform.data).digest(),
        features=log_mel_statistics(waveform[: round(MAX_SECONDS * sampling_rate)], sampling_rate),
        band=measure_band(file.path, file.key, sampling_rate),
    )


def _table(usable: Mapping[SourceFile, Measured]) -> list[str]:
    splits = [split for split in (*SPLITS, "unsplit") if any(file.split == split for file in usable)]
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for file, measured in usable.items():
        total = totals[file.label, file.split]
        total[0] += 1
        total[1] += measured.seconds
    labels = sorted({file.label for file in usable})
    return format_table("class", splits, [(label, [tuple(totals[label, s]) for s in splits]) for label in labels])


def find_faults(files: Sequence[SourceFile], measured: Mapping[SourceFile, Measured], folder: Path) -> list[str]:
    """Return sentences on unreadable, duplicate, clipped, silent and offset files, and on small classes."""

    def name(file: SourceFile) -> str:
        return to_text(file.path.relative_to(folder).as_posix())

    def of(condition: Callable[[Measured], bool]) -> list[str]:
        return [name(file) for file, m in usable.items() if condition(m)]

    usable = {file: measured[file] for file in files if file in measured and measured[file].error is None}
    errors = {name(file): file.error or measured[file].error for file in files if file not in usable}
    findings = []
    if errors:
        causes = [f"{file}: {error}" for file, error in errors.items()]
        findings.append(f"{len(errors)} of {len(files)} files are not usable:{_list(causes)}")
    findings += _find_small_classes(usable, {file.label for file in files if file.label})
    findings += _find_duplicates({name(file): (file, m) for file, m in usable.items() if m.peak >= SILENCE})
    for text, names in (
        (f"silent (below {20 * np.log10(SILENCE):.0f} dBFS)", of(lambda m: m.peak < SILENCE)),
        (f"clipped in over {100 * MAX_CLIPPED:g} % of their samples", of(lambda m: m.clipped > MAX_CLIPPED)),
        (f"offset by over {100 * MAX_OFFSET:g} % of full scale (DC)", of(lambda m: abs(m.offset) > MAX_OFFSET)),
    ):
        if names:
            findings.append(f"{format_count(len(names), 'file')} {_be(names)} {text}:{_list(names)}")
    return findings + _find_rates(usable)


def _list(names: Sequence[str]) -> str:
    return shorten_lines(names, NUM_SHOWN, indent=6)


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _find_small_classes(usable: Mapping[SourceFile, Measured], labels: Iterable[str]) -> list[str]:
    splits = {file.split for file in usable}
    training = "unsplit" if "unsplit" in splits else "train"
    seconds = {
        label: [m.seconds for f, m in usable.items() if (f.label, f.split) == (label, training)] for label in labels
    }
    findings = [] if training in splits else ["There is no train split."]
    few = [
        f"{label}: {format_count(len(times), 'file')}, {sum(times):.1f} s"
        for label, times in sorted(seconds.items())
        if training in splits and (len(times) < FEW_CLIPS or round(sum(times), 1) < FEW_SECONDS)
    ]
    if few:
        findings.append(
            f"{format_count(len(few), 'class')} with fewer than {FEW_CLIPS} files or less than {FEW_SECONDS:g} s for "
            f"training:{_list(few)}"
        )
    largest, smallest = (choose((sum(times), label) for label, times in seconds.items()) for choose in (max, min))
    if smallest[0] and largest[0] > MAX_IMBALANCE * smallest[0]:
        findings.append(
            f"{largest[1]} has {largest[0] / smallest[0]:.0f} times as much as {smallest[1]}. See --class_weights and "
            "--sampler of sanet train."
        )
    for split in sorted(splits - {training}):
        missing = sorted(set(labels) - {file.label for file in usable if file.split == split})
        if missing:
            findings.append(f"{format_count(len(missing), 'class')} {_be(missing)} not in {split}:{_list(missing)}")
    return findings


def _find_duplicates(files: Mapping[str, tuple[SourceFile, Measured]]) -> list[str]:
    copies = defaultdict(list)
    for name, (file, measured) in files.items():
        copies[measured.digest].append((name, file))
    found: dict[str, list[str]] = defaultdict(list)
    for same in copies.values():
        if len(same) > 1:
            kind = "with the same sound"
            if len({file.split for _, file in same}) > 1:
                kind += " in several splits, so that scores are too high"
            elif len({file.label for _, file in same}) > 1:
                kind += " in several classes"
            found[kind].append(" = ".join(name for name, _ in same[: NUM_SHOWN + 1]))
    return [
        f"{format_count(len(groups), 'set')} of files {kind}:{_list(groups)}" for kind, groups in sorted(found.items())
    ]


def _find_rates(usable: Mapping[SourceFile, Measured]) -> list[str]:
    rates = Counter(measured.original_rate for measured in usable.values())
    if len(rates) == 1:
        return []
    counts = ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(rates.items()))
    pairs = Counter((measured.original_rate, file.label) for file, measured in usable.items())
    told = sum(max(count for (of, _), count in pairs.items() if of == rate) for rate in rates) / len(usable)
    usual = max(Counter(file.label for file in usable).values()) / len(usable)
    finding = f"The sampling rates differ: {counts}."
    if told > usual + 0.1:
        finding += (
            f" The rate alone predicts the class of {100 * told:.0f} % of the files (the largest class is "
            f"{100 * usual:.0f} %), so that a model may learn the rate instead of the sound."
        )
    return [finding]


def _describe_baseline(usable: Mapping[SourceFile, Measured], group_pattern: str | None) -> list[str]:
    files = list(usable)
    scores, method = fit_baseline(
        np.stack([usable[file].features for file in files]),
        [file.label for file in files],
        [file.split for file in files],
        make_groups([file.key for file in files], group_pattern),
    )
    if not scores:
        return [f"No baseline: {method}."]
    lines = [f"Baseline for trained models (logistic regression on log-mel statistics, {method}):"]
    lines.append(f"{'split':12}{'files':>8}{'accuracy':>12}{'macro F1':>12}")
    return lines + [f"{s.split:12}{s.num_files:8}{s.accuracy:12.3f}{s.macro_f1:12.3f}" for s in scores]
