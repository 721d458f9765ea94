# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk classification and embeddings: inputs, progress, rows as they are made, resumption."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf import SANetPreTrainedModel
from sanet_hf.audio import to_text
from sanet_hf.embedding import check_embedding_file, make_embedding_table, plot_embeddings, write_embeddings
from sanet_hf.inference import Prediction, predict
from sanet_hf.optimization import optimize_for_inference
from sanet_hf.pictures import check_picture
from sanet_hf.prediction_files import PredictionFile, Row, column_names, find_audio_files, to_rows
from sanet_hf.timeline import plot_timeline


def predict_files(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    top_k: int = 1,
    parts: str = "windows",
    plot: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    show: Callable[[list[Row]], None] | None = None,
    **options,
) -> tuple[int, int]:
    """
    Classify files of any number and length, and write rows as they are made.

    Args:
        model, feature_extractor: As [`load_classifier`] gives them.
        inputs: As [`find_audio_files`] takes them; `-` reads standard input.
        output: CSV, JSON Lines or Parquet file.
        top_k, parts: As [`to_rows`] has them.
        plot: Picture of the one file that is classified.
        resume: Leave out what `output` has already.
        overwrite: Whether an existing `output` may be replaced.
        strict: Stop at the first file that cannot be classified.
        show: Is given the rows of each file.
        options: As [`predict`] has them.

    Returns:
        Files that were classified in this run, and files that could not be.

    Raises:
        ValueError: An option or input does not fit, or, with `strict`, a file cannot be classified.
    """
    top_k = min(top_k, model.config.num_labels)
    columns = column_names(top_k)
    paths = find_audio_files(inputs, sys.stdin)
    # What comes in by a pipe is classified as it comes.
    if "-" not in map(str, inputs):
        paths = list(paths)
    if plot is not None:
        check_picture(plot)
        if not isinstance(paths, list) or len(paths) != 1:
            raise ValueError("--plot draws one file: name one audio file alone.")
    model = _optimize(model)
    # Wrong options must not cost the file of an earlier run.
    predict(model, feature_extractor, [], **options)
    file = None if output is None else PredictionFile(output, columns, resume, overwrite)
    seen: list[str] = []

    def remaining() -> Iterator[str]:
        for path in paths:
            seen.append(path)
            if file is None or to_text(path) not in file.finished:
                yield path

    total = None
    if isinstance(paths, list):
        total = len(paths) if file is None else sum(to_text(path) not in file.finished for path in paths)
    num_done = num_errors = 0
    is_complete = False
    try:
        predictions = predict(model, feature_extractor, remaining(), **options)
        for prediction in _with_progress(predictions, total):
            rows = to_rows(prediction, top_k, parts)
            if file is not None:
                file.add(rows)
            if show is not None:
                show(rows)
            num_done += prediction.error is None
            num_errors += prediction.error is not None
            if prediction.error is not None:
                _report(prediction, strict)
            elif plot is not None:
                plot_timeline(prediction, plot)
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
    Write the embeddings of files, and a map of them.

    Args:
        model, feature_extractor: As [`load_classifier`] gives them.
        inputs: As [`find_audio_files`] takes them; `-` reads standard input.
        output: File for [`write_embeddings`].
        normalize: Whether to bring each embedding to an L2 norm of 1.
        plot, method: Picture for [`plot_embeddings`], and how to make it.
        strict: Stop at the first file that cannot be read.
        options: As [`predict`] has them.

    Returns:
        Files that there are embeddings of, and files that could not be read.

    Raises:
        ValueError: An option or input does not fit, or, with `strict`, a file cannot be read.
    """
    check_embedding_file(output)
    if plot is not None:
        check_picture(plot)
    paths = list(find_audio_files(inputs, sys.stdin))
    predictions = predict(_optimize(model), feature_extractor, paths, return_embeddings=True, **options)
    table = make_embedding_table(_without_errors(_with_progress(predictions, len(paths)), strict), normalize)
    if len(table):
        write_embeddings(table, output)
        if plot is not None:
            plot_embeddings(table, plot, method)
    return len(table), len(paths) - len(table)


def _optimize(model: PreTrainedModel) -> PreTrainedModel:
    """A SANet made faster; others are as they come."""
    return optimize_for_inference(model) if isinstance(model, SANetPreTrainedModel) else model


def _without_errors(predictions: Iterable[Prediction], strict: bool) -> Iterator[Prediction]:
    for prediction in predictions:
        if prediction.error is None:
            # Not needed any more, and large for long files.
            prediction.windows.clear()
            yield prediction
        else:
            _report(prediction, strict)


def _report(prediction: Prediction, strict: bool) -> None:
    message = f"{to_text(prediction.path)}: {prediction.error}"
    if strict:
        raise ValueError(f"{message} (--strict stops here)")
    tqdm.write(message, file=sys.stderr)


def _with_progress(predictions: Iterable[Prediction], total: int | None) -> Iterator[Prediction]:
    start, num_windows, seconds = time.monotonic(), 0, 0.0
    # Only where someone looks: the bar is nothing for a log file.
    with tqdm(total=total, desc="Classifying", unit="file", disable=None) as bar:
        for prediction in predictions:
            num_windows += len(prediction.windows)
            yield prediction
            seconds += prediction.duration or 0.0
            elapsed = max(time.monotonic() - start, 1e-3)
            bar.set_postfix_str(f"{num_windows / elapsed:.1f} clips/s, {seconds / elapsed:.0f} × real time")
            bar.update()
