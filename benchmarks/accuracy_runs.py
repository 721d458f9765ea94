# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The runs of `benchmarks.accuracy`: recipes, datasets, and the splits of each run."""

import argparse
import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import DataError, UsageError
from sanet_hf.training.arguments import DataArguments
from sanet_hf.training.config_files import find_config
from sanet_hf.training.cross_validation import name_folders
from sanet_hf.training.data.folds import name_folds, pool_splits, sort_folds
from sanet_hf.training.data.sources import read_source
from sanet_hf.training.data.splits import VALIDATION_ONLY, make_groups, split_by_hash
from sanet_hf.training.run_folder import is_finished, read_file

from .accuracy_table import CHOSEN


# Names that are valid for folders and in a Markdown table.
NAME = r"[\w+.-]+"
SCALED_DOWN = "hidden_size=192,num_hidden_layers=4,num_attention_heads=3,intermediate_size=768"
# From scratch, with 1.9 and 2.4 million parameters instead of 87 and 95 million of the base sizes.
FROM_SCRATCH = "--model_name_or_path=,--learning_rate=5e-4,--num_train_epochs=30"
RECIPES = {
    "default": "",
    "ast": f"ast.yaml,{FROM_SCRATCH},--config_overrides={SCALED_DOWN}",
    "wav2vec2": f"wav2vec2.yaml,{FROM_SCRATCH},--freeze=none,--gradient_accumulation_steps=2,"
    f"--config_overrides={SCALED_DOWN},conv_dim=[128,128,128,128,128,128,128]",
}
# Options of `sanet train` that this command sets.
SET_HERE = {"data_dir", "manifest", "dataset_name", "folds", "fold_pattern", "fold", "seed", "output_dir"}
# Name of a folder without folds in the names of runs.
SPLITS_AS_THEY_ARE = "splits"
VALIDATION_PART = 5
VALIDATION = {
    "fold": "the fold after the tested one (after the last, the first)",
    "tenth": "a tenth of the clips outside the tested fold, as in `sanet train --fold`",
}


# File, label and split of each recording.
Manifest = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Recipe:
    """YAML files and flags of `sanet train`."""

    name: str
    configs: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def digests(self) -> dict[str, str]:
        """Return the hash of each YAML file."""
        return {name: hashlib.sha256(find_config(name).read_bytes()).hexdigest() for name in self.configs}


@dataclass(frozen=True)
class Data:
    """A folder of recordings, and the way in which runs divide it."""

    name: str
    folder: Path
    fold_pattern: str | None
    clips_per_class: int | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """
    One training: a recipe on a dataset, a fold and a seed.

    Attributes:
        fold: Match of the fold pattern, or [`SPLITS_AS_THEY_ARE`].
        folder: `--output_dir`.
        manifest: Rows of the manifest that divides the recordings; `None` if their folder has splits.
        source: The options that name the recordings.
    """

    data: str
    recipe: Recipe
    fold: str
    seed: int
    folder: Path
    manifest: Manifest | None
    source: tuple[str, str]

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of `sanet train`."""
        where = [*self.source, "--output_dir", str(self.folder), "--seed", str(self.seed)]
        return [*self.recipe.configs, *where, *map(self._fill_in, self.recipe.flags)]

    def _fill_in(self, flag: str) -> str:
        """Replace `{recipe}` by the folder of that recipe's run on the same recordings and seed."""
        runs = self.folder.parent.parent
        return re.sub(rf"{{({NAME})}}", lambda match: str(runs / match[1] / self.folder.name), flag)

    @property
    def record_file(self) -> Path:
        """Return the file with the start options. It is next to the folder, because that is a model to share."""
        return self.folder.with_name(self.folder.name + ".json")

    @property
    def log_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def state(self) -> str:
        if is_finished(self.folder):
            return "finished"
        return "interrupted" if self.folder.exists() else "to do"

    def __str__(self) -> str:
        return f"{self.data}/{self.recipe.name}/{self.folder.name}"


def parse_recipe(text: str) -> Recipe:
    """
    Parse `name=first.yaml,second.yaml,--flag=value,...`, or the name of one of [`RECIPES`]. Return the recipe. A comma
    that is not followed by `--` belongs to the value of a flag.

    Raises:
        UsageError: The text has neither form, or a YAML file is missing.
    """
    name, has_options, options = text.partition("=")
    if not re.fullmatch(NAME, name) or name == CHOSEN:
        raise UsageError(f"--recipes {text}: {name!r} cannot be the name of a folder. Use letters, digits and _ + . -")
    if not has_options and name not in RECIPES:
        raise UsageError(
            f"--recipes {name}: recipe not found. Choose one of {', '.join(RECIPES)}, or define another with =."
        )
    parts = [part for part in re.split(r",(?=--)", options if has_options else RECIPES[name]) if part]
    configs = [] if not parts or parts[0].startswith("--") else parts.pop(0).split(",")
    for config in configs:
        find_config(config)
    return Recipe(name, tuple(configs), tuple(parts))


def parse_pairs(values: Sequence[str], option: str, names: Sequence[str] | None = None) -> dict[str, str]:
    """
    Parse `name=value` texts. Return the values by name.

    Raises:
        UsageError: A name is not in `names` or is given twice, or a value is missing.
    """
    pairs = {}
    for text in values:
        name, _, value = text.partition("=")
        if not value or not re.fullmatch(NAME, name):
            raise UsageError(f"--{option} {text} is not of the form name=value.")
        if name in pairs:
            raise UsageError(f"--{option}: {name} is given twice.")
        if names is not None and name not in names:
            raise UsageError(f"--{option} {text}: --data does not have {name}, only {', '.join(names)}.")
        pairs[name] = value
    return pairs


def parse_seeds(values: Sequence[str], names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """
    Return the seeds of each dataset: the plain numbers, or those of `name=0,1,2`.

    Raises:
        UsageError: A seed is not a number, or is given twice.
    """
    own = parse_pairs([value for value in values if "=" in value], "seeds", names)
    common = [value for value in values if "=" not in value]
    seeds = {}
    for name in names:
        texts = own[name].split(",") if name in own else common
        if not all(text.isdecimal() for text in texts) or len(set(map(int, texts))) < len(texts) or not texts:
            raise UsageError(f"--seeds {' '.join(values)}: {name} needs different integers, such as 0 1 {name}=0,1.")
        seeds[name] = tuple(map(int, texts))
    return seeds


def parse_data(arguments: argparse.Namespace) -> list[Data]:
    """
    Return the datasets of the command line.

    Raises:
        UsageError: Options name other datasets, or have invalid values.
        DataError: A folder does not exist.
    """
    folders = parse_pairs(arguments.data, "data")
    patterns = parse_pairs(arguments.fold_pattern, "fold_pattern", list(folders))
    clips = parse_pairs(arguments.clips_per_class, "clips_per_class", list(folders))
    for name, number in clips.items():
        if name in patterns:
            raise UsageError(f"{name}: --clips_per_class and --fold_pattern do not work together. Leave one out.")
        if not number.isdecimal() or int(number) < 2:
            raise UsageError(
                f"--clips_per_class {name}={number} must be at least 2: one for training, one for validation."
            )
    seeds = parse_seeds(arguments.seeds, list(folders))
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise DataError(f"--data {folder}: folder not found.")
    return [
        Data(name, Path(folder), patterns.get(name), int(clips[name]) if name in clips else None, seeds[name])
        for name, folder in folders.items()
    ]


def plan_runs(
    data: Data, recipes: Sequence[Recipe], output: Path, validation: str = "fold", folds: Sequence[str] | None = None
) -> list[Run]:
    """
    Return all runs of a dataset, with all recipes of one seed and fold before the next one.

    Args:
        data: The dataset.
        recipes: The recipes to train.
        output: Folder of all runs.
        validation: One of [`VALIDATION`], for data with folds.
        folds: Folds to test (default: all).

    Raises:
        DataError: The recordings cannot be divided in this way.
    """
    place = output / data.name
    manifests: dict[tuple[str, int], Manifest | None] = {}
    folders = {SPLITS_AS_THEY_ARE: SPLITS_AS_THEY_ARE}
    if data.fold_pattern is not None:
        arguments = DataArguments(data_dir=str(data.folder), fold_pattern=data.fold_pattern)
        recordings = pool_splits(read_source(arguments))["unsplit"]
        fold_of = name_folds(recordings, arguments)
        folders = name_folders(sort_folds(fold_of))
        for fold in folds or folders:
            if fold not in folders:
                raise UsageError(f"--folds {fold}: fold not found. {data.name} has {', '.join(folders)}.")
            manifest = divide_by_fold(recordings, fold_of, fold, validation)
            manifests |= {(fold, seed): manifest for seed in data.seeds}
    elif data.clips_per_class is not None:
        source = read_source(DataArguments(data_dir=str(data.folder)))
        manifests = {(SPLITS_AS_THEY_ARE, seed): draw_clips(source, data, seed) for seed in data.seeds}
    else:
        manifests = {(SPLITS_AS_THEY_ARE, seed): None for seed in data.seeds}
    runs = []
    for fold, seed in sorted(manifests, key=lambda pair: data.seeds.index(pair[1])):
        name = f"{folders[fold]}-{seed}"
        manifest = manifests[fold, seed]
        source = ("--data_dir", str(data.folder)) if manifest is None else ("--manifest", str(place / f"{name}.csv"))
        runs += [
            Run(data.name, recipe, fold, seed, place / recipe.name / name, manifest, source) for recipe in recipes
        ]
    return runs


def divide_by_fold(recordings: Dataset, folds: Sequence[str], fold: str, validation: str) -> Manifest:
    """
    Return file, label and split of each recording in the run that tests a fold.

    Raises:
        DataError: There are too few folds.
    """
    names = sort_folds(folds)
    if validation == "fold":
        if len(names) < 3:
            raise DataError("--validation fold needs at least three folds. Use --validation tenth.")
        next_fold = names[(names.index(fold) + 1) % len(names)]
        held_out = {index for index, own in enumerate(folds) if own == next_fold}
    else:
        others = [index for index, own in enumerate(folds) if own != fold]
        keys, labels = make_groups(recordings["key"][:], None), recordings["label"][:]
        places = split_by_hash([labels[i] for i in others], [keys[i] for i in others], VALIDATION_ONLY)["validation"]
        held_out = {others[place] for place in places}
    splits = [
        "test" if own == fold else "validation" if index in held_out else "train" for index, own in enumerate(folds)
    ]
    return tuple(zip(recordings["file"][:], recordings["label"][:], splits))


def draw_clips(source: Mapping[str, Dataset], data: Data, seed: int) -> Manifest:
    """
    Return file, label and split of recordings that are drawn from each class of the training split, the last fifth of
    them for validation, and of the whole test split.

    Raises:
        DataError: There is no training or test split, or a class has too few recordings.
    """
    if not {"train", "test"} <= set(source):
        raise DataError(f"--clips_per_class {data.name}: {data.folder} has no train and test folders.")
    of_class = defaultdict(list)
    for file, label in zip(source["train"]["file"], source["train"]["label"]):
        of_class[label].append(file)
    number, rng, rows = data.clips_per_class, np.random.default_rng(seed), []
    num_validation = max(1, round(number / VALIDATION_PART))
    for label, files in sorted(of_class.items()):
        if len(files) < number:
            raise DataError(f"--clips_per_class {data.name}={number}: {label} has only {len(files)} in {data.folder}.")
        drawn = [files[index] for index in rng.permutation(len(files))[:number]]
        splits = ["train"] * (number - num_validation) + ["validation"] * num_validation
        rows += [(file, label, split) for file, split in zip(drawn, splits)]
    test = source["test"]
    return (*rows, *((file, label, "test") for file, label in zip(test["file"], test["label"])))


def check_runs(runs: Sequence[Run]) -> None:
    """
    Check all runs before any training.

    Raises:
        UsageError: An option of a recipe does not exist, or the output contains runs with other options or other
            recordings.
    """
    for run in {run.recipe.name: run for run in runs}.values():
        for flag in run.recipe.flags:
            if re.split("[= ]", flag)[0].replace("-", "_").strip("_") in SET_HERE:
                raise UsageError(f"--recipes {run.recipe.name}: {flag} is set by this command. Leave it out.")
        try:
            parse_train_arguments(run.arguments)
        except UsageError as error:
            raise UsageError(f"--recipes {run.recipe.name}: {error}") from error
    for run in runs:
        record = read_file(run.record_file)
        for key, now in identity(run).items():
            if record and record[key] != now:
                raise UsageError(
                    f"{run.folder} was trained with {key} {record[key]}, not {now}. Use another --output, or another "
                    f"name for the recipe, or delete {run.folder} and {run.record_file.name}."
                )
        manifest = Path(run.source[1])
        if run.manifest is not None and manifest.is_file() and manifest.read_bytes() != format_manifest(run):
            raise UsageError(
                f"{manifest} has other recordings or other splits. Use another --output, or the same --data, "
                "--fold_pattern, --clips_per_class and --validation as before."
            )


def identity(run: Run) -> dict[str, object]:
    """Return the options that must stay the same for a finished run to be used."""
    return {"flags": list(run.recipe.flags), "configs": run.recipe.digests}


def format_manifest(run: Run) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("file", "label", "split"), *run.manifest])
    return text.getvalue().encode()
