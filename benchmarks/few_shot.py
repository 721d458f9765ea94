# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
r"""
Measure the accuracy of a pretrained network on new classes with few clips per class: logistic regression on log-mel
statistics, on the embeddings of the unchanged network, and the mean of both, as in `sanet train --head_only`.

    python -m benchmarks.few_shot --data esc10=DIR drums=DIR --fold_pattern 'esc10=(\d)-' --models sanet-tiny

Each draw selects some clips of each class from the training split. The whole validation split is used for testing, or
the test split for final figures (`--split test`). With `--fold_pattern`, each fold is tested in turn, and the others
are the training split. `--folds` selects the folds to test. Do not report final figures on folds that were used to
choose a network. The strength of the regression is fixed, because a few clips are not enough to choose it.

`python -m benchmarks.accuracy --recipes 'tuned=--model_name_or_path=runs/pretrained'` fine-tunes a network.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from sanet_hf.audio.decode import load_audio
from sanet_hf.errors import DataError, SanetError, UsageError
from sanet_hf.feature_extraction_sanet import DEFAULT_SAMPLING_RATE
from sanet_hf.inference.loading import LOADING_ERRORS
from sanet_hf.inference.prediction import predict
from sanet_hf.optimization.optimize import prepare_classifier
from sanet_hf.pretrained import find_model
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.baseline import Baseline, fit
from sanet_hf.training.data.folds import name_folds, pool_splits, sort_folds
from sanet_hf.training.data.log_mel import log_mel_statistics
from sanet_hf.training.data.sources import read_source
from sanet_hf.utils.files import write_atomically
from sanet_hf.utils.formatting import format_markdown_table

from .accuracy_runs import parse_pairs


LOG_MEL = "log-mel statistics"


def read_sets(arguments: argparse.Namespace) -> dict[str, dict]:
    """
    Return files and labels of each dataset, and for each test the training rows and the test rows.

    Raises:
        DataError: A folder, split or fold is missing.
        UsageError: `--fold_pattern` does not name a dataset.
    """
    folders = parse_pairs(arguments.data, "data")
    patterns = parse_pairs(arguments.fold_pattern, "fold_pattern", list(folders))
    sets = {}
    for name, folder in folders.items():
        if not Path(folder).is_dir():
            raise DataError(f"--data {folder}: folder not found.")
        options = DataArguments(data_dir=folder, fold_pattern=patterns.get(name))
        source = read_source(options)
        if name in patterns:
            recordings = pool_splits(source)["unsplit"]
            places = np.array(name_folds(recordings, options))
            known = sort_folds(places.tolist())
            if missing := [fold for fold in arguments.folds or () if fold not in known]:
                raise UsageError(f"--folds {missing[0]}: fold not found. {name} has {', '.join(known)}.")
            tests = [(places != fold, places == fold) for fold in arguments.folds or known]
            files, labels = recordings["file"][:], recordings["label"][:]
        else:
            if missing := {"train", arguments.split} - set(source):
                raise DataError(f"--data {name}: {folder} has no {' and no '.join(sorted(missing))} folder.")
            files = [*source["train"]["file"], *source[arguments.split]["file"]]
            labels = [*source["train"]["label"], *source[arguments.split]["label"]]
            is_train = np.arange(len(files)) < len(source["train"])
            tests = [(is_train, ~is_train)]
        sets[name] = {"files": files, "labels": np.array(labels), "tests": tests}
    return sets


def measure_log_mel(files: Sequence[str]) -> np.ndarray:
    """Return statistics of shape (files, features), as in the baseline of `sanet train`."""
    return np.stack(
        [log_mel_statistics(load_audio(file, DEFAULT_SAMPLING_RATE), DEFAULT_SAMPLING_RATE) for file in files]
    )


def embed(model: str, files: Sequence[str]) -> np.ndarray:
    """
    Return embeddings of shape (files, features), with zeros for silence.

    Raises:
        DataError: A file cannot be read.
        UsageError: The model cannot be loaded.
    """
    folder = find_model(model)
    try:
        # The head of a network without classes is random, but is not used.
        classifier = AutoModelForAudioClassification.from_pretrained(folder, dtype=torch.float32).eval()
        feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
    except LOADING_ERRORS as error:
        raise UsageError(f"--models {model}: the model cannot be loaded ({str(error).splitlines()[0]}).") from error
    found = predict(prepare_classifier(classifier), feature_extractor, files, return_embeddings=True)
    rows = []
    for prediction in found:
        if prediction.error:
            raise DataError(f"{prediction.path}: {prediction.error}")
        rows.append(None if prediction.is_silent else np.asarray(prediction.embedding))
    size = next(len(row) for row in rows if row is not None)
    return np.stack([np.zeros(size) if row is None else row for row in rows])


def draw(labels: np.ndarray, learnt: np.ndarray, number: int | None, seed: int) -> np.ndarray:
    """Return indices of `number` training clips per class; of all training clips with `None`."""
    generator, drawn = np.random.default_rng(seed), []
    for label in np.unique(labels):
        of_class = np.flatnonzero(learnt & (labels == label))
        drawn.append(of_class if number is None else generator.permutation(of_class)[:number])
    return np.concatenate(drawn)


def learn(features: np.ndarray, targets: np.ndarray) -> Baseline:
    """Fit logistic regression with a fixed strength: one group gives no folds to choose it."""
    return fit(features, targets, ["one"] * len(targets))


def measure(
    data: dict, features: dict[str, list[np.ndarray]], number: int | None, draws: int
) -> dict[str, list[float]]:
    """Return the accuracy in each test and draw, for each kind of features or the mean of several."""
    names, indices = np.unique(data["labels"], return_inverse=True)
    targets = np.eye(len(names), dtype=int)[indices]
    found = {name: [] for name in features}
    for learnt, tested in data["tests"]:
        for seed in range(1 if number is None else draws):
            rows = draw(data["labels"], learnt, number, seed)
            for name, values in features.items():
                scores = sum(learn(own[rows], targets[rows]).logits(own[tested]) for own in values)
                found[name].append(float((scores.argmax(axis=1) == indices[tested]).mean()))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table in percent: mean and standard deviation over draws and folds. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.few_shot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER", help="folders of recordings")
    parser.add_argument("--fold_pattern", nargs="+", default=[], metavar="NAME=PATTERN", help="pattern of the folds")
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="test only these folds (default: all)")
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="for data without folds")
    parser.add_argument(
        "--models", nargs="*", default=[], metavar="MODEL", help="folders of models, or names on the Hub"
    )
    parser.add_argument(
        "--clips", nargs="+", default=["3", "5", "10", "all"], help="clips per class (default: %(default)s)"
    )
    parser.add_argument("--draws", type=int, default=8, help="draws of clips (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for all results")
    arguments = parser.parse_args(argv)
    disable_progress_bar()
    set_verbosity_error()
    try:
        if wrong := [text for text in arguments.clips if (text != "all" and not text.isdecimal()) or text == "0"]:
            raise UsageError(f"--clips {wrong[0]} must be a number of at least 1, or all.")
        results = []
        for name, data in read_sets(arguments).items():
            features = {LOG_MEL: [measure_log_mel(data["files"])]}
            for model in arguments.models:
                features[model] = [embed(model, data["files"])]
                features[f"{model} and {LOG_MEL}"] = features[model] + features[LOG_MEL]
            for text in arguments.clips:
                found = measure(data, features, None if text == "all" else int(text), arguments.draws)
                results += [
                    {"data": name, "clips": text, "features": own, "accuracy": of} for own, of in found.items()
                ]
    except (SanetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cells = {}
    for one in results:
        values = 100 * np.array(one["accuracy"])
        cells.setdefault((one["data"], one["features"]), []).append(f"{values.mean():.1f} ± {values.std():.1f}")
    rows = [[data, features, *own] for (data, features), own in cells.items()]
    print(format_markdown_table(["data", "features", *(f"{text} clips" for text in arguments.clips)], rows))
    if arguments.output:
        with write_atomically(arguments.output) as file:
            file.write(json.dumps(results, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
