# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk classification and embeddings: inputs, progress, rows as they are made, resumption."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.audio.find import find_audio_files
from sanet_hf.errors import AudioError, UsageError
from sanet_hf.inference.distributed import Processes, join_processes, predict_in_processes, share
from sanet_hf.inference.embeddings import check_embedding_file, make_embedding_table, write_embeddings
from sanet_hf.inference.outputs import PredictionFile, Row, column_names, to_rows
from sanet_hf.inference.plots import plot_embeddings, plot_timeline
from sanet_hf.inference.prediction import predict
from sanet_hf.inference.windows import Prediction
from sanet_hf.modeling_sanet import SANetPreTrainedModel
from sanet_hf.optimization.allocator import keep_freed_memory
from sanet_hf.optimization.optimize import optimize_for_inference
from sanet_hf.utils.files import to_text
from sanet_hf.utils.plot_style import check_picture


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
    Classify files of any number and length, and write rows as they are made. Of several processes each classifies a
    part, and the main one writes.

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
        SanetError: An option or input does not fit, or, with `strict`, a file cannot be classified.
    """
    top_k = min(top_k, model.config.num_labels)
    columns = column_names(top_k)
    state = join_processes()
    paths = find_audio_files(inputs, sys.stdin) if state.is_main_process else []
    # What comes in by a pipe is classified as it comes.
    if "-" not in map(str, inputs) or state.num_processes > 1:
        paths = share(list(paths))
    if plot is not None:
        check_picture(plot)
        if not isinstance(paths, list) or len(paths) != 1:
            raise UsageError("--plot draws one file: name one audio file alone.")
    model = _optimize(model)
    classify = partial(predict, model, feature_extractor, **options)
    # Wrong options must not cost the file of an earlier run.
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

    total = sum(to_text(path) not in finished for path in paths) if isinstance(paths, list) else None
    num_done = num_errors = 0
    is_complete = False
    try:
        for prediction in _with_progress(_predict(classify, remaining(), state), total, state):
            rows = to_rows(prediction, top_k, parts)
            if file is not None:
                file.add(rows)
            if show is not None and state.is_main_process:
                show(rows)
            num_done += prediction.error is None
            num_errors += prediction.error is not None
            if prediction.error is not None:
                _report(prediction, strict, state)
            elif plot is not None and state.is_main_process:
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
    Write the embeddings of files, and a map of them. Of several processes each reads a part of the files, and the main
    one writes.

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
        SanetError: An option or input does not fit, or, with `strict`, a file cannot be read.
    """
    check_embedding_file(output)
    if plot is not None:
        check_picture(plot)
    state = join_processes()
    paths = share(list(find_audio_files(inputs, sys.stdin)) if state.is_main_process else [])
    classify = partial(_embed, _optimize(model), feature_extractor, **options)
    predictions = _with_progress(_predict(classify, paths, state), len(paths), state)
    table = make_embedding_table(_without_errors(predictions, strict, state), normalize)
    if len(table) and state.is_main_process:
        write_embeddings(table, output)
        if plot is not None:
            plot_embeddings(table, plot, method)
    return len(table), len(paths) - len(table)


def _optimize(model: PreTrainedModel) -> PreTrainedModel:
    """A SANet made faster; others are as they come, and on a CPU do not return their memory to the system either."""
    if model.device.type == "cpu":
        keep_freed_memory()
    return optimize_for_inference(model) if isinstance(model, SANetPreTrainedModel) else model


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
    # Only where someone looks: the bar is nothing for a log file.
    disable = None if state.is_main_process else True
    with tqdm(total=total, desc="Classifying", unit="file", disable=disable) as bar:
        for prediction in predictions:
            num_windows += len(prediction.windows)
            yield prediction
            seconds += prediction.duration or 0.0
            elapsed = max(time.monotonic() - start, 1e-3)
            bar.set_postfix_str(f"{num_windows / elapsed:.1f} clips/s, {seconds / elapsed:.0f} × real time")
            bar.update()
