# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Classify or embed many files: find inputs, show progress, write rows immediately, resume."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.audio.find import find_audio_files
from sanet_hf.errors import AudioError, UsageError
from sanet_hf.inference.distributed import Processes, join_processes, predict_in_processes, share
from sanet_hf.inference.embeddings import check_embedding_file, make_embedding_table, write_embeddings
from sanet_hf.inference.loading import has_classes
from sanet_hf.inference.outputs import PredictionFile, Row, column_names, default_top_k, to_rows
from sanet_hf.inference.plots import plot_embeddings, plot_timeline
from sanet_hf.inference.prediction import predict
from sanet_hf.inference.windows import Prediction
from sanet_hf.optimization.optimize import prepare_classifier
from sanet_hf.utils.files import read_lines, to_text
from sanet_hf.utils.plot_style import check_picture


SILENT = "silent, below --min_level"


def predict_files(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    top_k: int | None = None,
    parts: str = "windows",
    plot: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    show: Callable[[list[Row]], None] | None = None,
    **options,
) -> tuple[int, int]:
    """
    Classify files of any number and length, and write rows immediately. If there are several processes, each
    classifies a part of the files, and the main process writes.

    Args:
        model, feature_extractor: Results of [`load_classifier`].
        inputs: As in [`find_audio_files`]; `-` reads standard input.
        output: CSV, JSON Lines or Parquet file.
        top_k: As in [`default_top_k`].
        parts: As in [`to_rows`].
        plot: Path of a plot, if there is one file.
        resume: Skip files that are already in `output`.
        overwrite: Whether to overwrite an existing `output`.
        strict: Stop at the first file that cannot be classified.
        show: Called with the rows of each file.
        options: As in [`predict`].

    Returns:
        Number of files that were classified in this run, and number of files that could not be classified.

    Raises:
        SanetError: An option or input is invalid, or, with `strict`, a file cannot be classified.
    """
    top_k = default_top_k(model, top_k)
    columns = column_names(top_k, model.config.problem_type == "multi_label_classification")
    state = join_processes()
    paths = find_audio_files(inputs, read_lines(sys.stdin)) if state.is_main_process else []
    if "-" not in map(str, inputs) or state.num_processes > 1:
        paths = share(list(paths))
    else:
        # Names from the pipe are classified when they arrive. Errors in the other inputs are found first.
        list(find_audio_files([name for name in inputs if str(name) != "-"]))
    if plot is not None:
        check_picture(plot)
        if not isinstance(paths, list) or len(paths) != 1:
            raise UsageError("--plot needs exactly one audio file.")
    model = prepare_classifier(model)
    classify = partial(predict, model, feature_extractor, **options)
    # Check the options before an earlier output file is opened.
    classify([])
    file = None
    if output is not None and state.is_main_process:
        file = PredictionFile(output, columns, resume, overwrite)
    finished = share(set() if file is None else file.finished)
    seen: list[str] = []

    def remaining() -> Iterator[str]:
        for path in paths:
            seen.append(path)
            if to_text(path) not in finished:
                yield path

    # A list stays a list, so that its batches do not depend on timing.
    todo = list(remaining()) if isinstance(paths, list) else remaining()
    total = len(todo) if isinstance(todo, list) else None
    num_done = num_errors = 0
    is_complete = False
    try:
        for prediction in _with_progress(_predict(classify, todo, state), total, state):
            rows = to_rows(prediction, top_k, parts)
            if file is not None:
                file.add(rows)
            if show is not None and state.is_main_process:
                show(rows)
            num_done += prediction.error is None
            num_errors += prediction.error is not None
            if prediction.error is not None:
                _report(prediction, strict, state)
                continue
            if prediction.is_silent and state.is_main_process:
                tqdm.write(f"{to_text(prediction.path)}: {SILENT}. It gets no class.", file=sys.stderr)
            if plot is not None and state.is_main_process:
                plot_timeline(prediction, plot, feature_extractor.sampling_rate)
        is_complete = True
    finally:
        if file is not None:
            file.close(seen if is_complete else None)
    return num_done, num_errors


def embed_files(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    normalize: bool = False,
    plot: str | Path | None = None,
    method: str = "pca",
    strict: bool = False,
    **options,
) -> tuple[int, int]:
    """
    Write the embeddings of files, and plot a map of them. If there are several processes, each reads a part of the
    files, and the main process writes.

    Args:
        model, feature_extractor: Results of [`load_classifier`]. If the model was only pretrained, `prediction` is
            empty and `score` is NaN.
        inputs: As in [`find_audio_files`]; `-` reads standard input.
        output: File for [`write_embeddings`].
        normalize: Whether to scale each embedding to an L2 norm of 1.
        plot, method: Path of the plot and projection for [`plot_embeddings`].
        strict: Stop at the first file that cannot be read.
        options: As in [`predict`].

    Returns:
        Number of files with an embedding, and number of files that could not be read.

    Raises:
        SanetError: An option or input is invalid, or, with `strict`, a file cannot be read.
    """
    check_embedding_file(output)
    if plot is not None:
        check_picture(plot)
    state = join_processes()
    paths = share(list(find_audio_files(inputs, read_lines(sys.stdin))) if state.is_main_process else [])
    classify = partial(_embed, prepare_classifier(model), feature_extractor, **options)
    predictions = _with_progress(_predict(classify, paths, state), len(paths), state)
    table = make_embedding_table(_without_errors(predictions, strict, state), normalize)
    if not has_classes(model):
        table = table.assign(prediction="", score=np.nan)
    if len(table) and state.is_main_process:
        write_embeddings(table, output)
        if plot is not None:
            plot_embeddings(table, plot, method)
    return len(table), len(paths) - len(table)


def _predict(
    classify: Callable[[Iterable[str]], Iterable[Prediction]], paths: Iterable[str], state: Processes
) -> Iterable[Prediction]:
    if state.num_processes == 1:
        return classify(paths)
    return predict_in_processes(classify, list(paths), state)


def _embed(
    model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, sources: Iterable[str], **options
) -> Iterator[Prediction]:
    """Yield predictions with the embeddings of files, but not those of windows, which are large for long files."""
    for prediction in predict(model, feature_extractor, sources, return_embeddings=True, **options):
        for window in prediction.windows:
            window.embedding = None
        if prediction.is_silent:
            prediction.error = f"{SILENT}. It gets no embedding."
        yield prediction


def _without_errors(predictions: Iterable[Prediction], strict: bool, state: Processes) -> Iterator[Prediction]:
    for prediction in predictions:
        if prediction.error is None:
            yield prediction
        else:
            _report(prediction, strict, state)


def _report(prediction: Prediction, strict: bool, state: Processes) -> None:
    message = f"{to_text(prediction.path)}: {prediction.error}"
    if strict:
        raise AudioError(f"{message} (--strict stops here)")
    if state.is_main_process:
        tqdm.write(message, file=sys.stderr)


def _with_progress(predictions: Iterable[Prediction], total: int | None, state: Processes) -> Iterator[Prediction]:
    start, num_windows, seconds = time.monotonic(), 0, 0.0
    # With None, tqdm shows the bar only on a terminal, not in a log file.
    disable = None if state.is_main_process else True
    with tqdm(total=total, desc="Classifying", unit="file", disable=disable) as bar:
        for prediction in predictions:
            num_windows += len(prediction.windows)
            yield prediction
            seconds += prediction.duration or 0.0
            elapsed = max(time.monotonic() - start, 1e-3)
            bar.set_postfix_str(f"{num_windows / elapsed:.1f} clips/s, {seconds / elapsed:.0f} × real time")
            bar.update()
