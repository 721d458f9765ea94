# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What `sanet prepare` noted of the clips that it made, for those who train on them or evaluate on them."""

import json
from pathlib import Path

from transformers import FeatureExtractionMixin
from transformers.utils import logging

from sanet_hf.audio.denoise import DENOISED
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DATA_SOURCES, DataArguments


logger = logging.get_logger(__name__)

RECORD = "preparation.json"
# Folders above that of the recordings in which the file may lie: data/preparation.json for data/clips/train.
NUM_PARENTS = 2


def read_preparation(arguments: DataArguments) -> dict | None:
    """
    The options of `sanet prepare` that made the recordings, or None where it made none or does not say so.

    Raises:
        DataError: The file is damaged.
    """
    source = next((Path(name) for key in DATA_SOURCES if (name := getattr(arguments, key))), None)
    if source is None or not source.exists():
        return None  # Nothing, or an id on the Hub.
    folder = source.resolve() if source.is_dir() else source.resolve().parent
    for place in (folder, *folder.parents[:NUM_PARENTS]):
        path = place / RECORD
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                return {"denoise": bool(record["denoise"]), "sampling_rate": int(record["sampling_rate"])}
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path} is damaged: prepare the clips again with --overwrite.") from error
    return None


def note_preparation(feature_extractor: FeatureExtractionMixin, arguments: DataArguments) -> None:
    """
    Store in a model's feature extractor whether the clips that it is trained on were denoised, and warn where a
    checkpoint was trained on others, or they have fewer frequencies than the model hears.

    Raises:
        DataError: The record of the preparation is damaged.
    """
    record, rate = read_preparation(arguments), feature_extractor.sampling_rate
    _warn_of_denoising(feature_extractor, record)
    # Not an attribute of transformers: it is saved and loaded with the others. Recordings that nobody prepared are
    # taken as they are.
    if record is not None or hasattr(feature_extractor, DENOISED):
        setattr(feature_extractor, DENOISED, record is not None and record["denoise"])
    if record is not None and record["sampling_rate"] != rate:
        logger.warning(
            f"The clips were prepared at {record['sampling_rate']} Hz, and the model takes {rate} Hz: they are "
            f"resampled. Prepare them again with --sampling_rate {rate}, or train from scratch with --sampling_rate "
            f"{record['sampling_rate']}."
        )


def warn_of_other_preparation(feature_extractor: FeatureExtractionMixin, arguments: DataArguments) -> None:
    """Warn where a model is given recordings that are denoised and it was not trained on such, or the reverse."""
    _warn_of_denoising(feature_extractor, read_preparation(arguments))


def _warn_of_denoising(feature_extractor: FeatureExtractionMixin, record: dict | None) -> None:
    was_denoised, is_denoised = getattr(feature_extractor, DENOISED, None), record is not None and record["denoise"]
    if was_denoised and not is_denoised:
        logger.warning(
            "The model was trained on denoised clips (sanet prepare --denoise), and these recordings are not known to "
            "be denoised: results may be worse than they could be."
        )
    elif is_denoised and was_denoised is False:
        logger.warning(
            "These recordings are denoised (sanet prepare --denoise), and the model was trained on clips that were "
            "not: results may be worse than they could be."
        )
