# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The record of `sanet prepare` about its clips, for training and evaluation on them."""

import json
from pathlib import Path

from transformers import FeatureExtractionMixin
from transformers.utils import logging

from sanet_hf.audio.denoise import DENOISED
from sanet_hf.errors import DataError
from sanet_hf.training.arguments import DATA_SOURCES, DataArguments


logger = logging.get_logger(__name__)

RECORD = "preparation.json"
# The file may be up to this number of folders above the recordings: data/preparation.json for data/clips/train.
NUM_PARENTS = 2


def read_preparation(arguments: DataArguments) -> dict | None:
    """
    Return the options of `sanet prepare` that made the recordings, or None if there is no record.

    Raises:
        DataError: The file is damaged.
    """
    source = next((Path(name) for key in DATA_SOURCES if (name := getattr(arguments, key))), None)
    if source is None or not source.exists():
        return None  # No source, or a Hub id.
    folder = source.resolve() if source.is_dir() else source.resolve().parent
    for place in (folder, *folder.parents[:NUM_PARENTS]):
        path = place / RECORD
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                return {"denoise": bool(record["denoise"]), "sampling_rate": int(record["sampling_rate"])}
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path} is damaged. Prepare the clips again with --overwrite.") from error
    return None


def note_preparation(feature_extractor: FeatureExtractionMixin, arguments: DataArguments) -> None:
    """
    Store in a model's feature extractor whether its training clips were denoised. Warn if the checkpoint was trained
    on other clips, or if the clips have a lower sampling rate than the model.

    Raises:
        DataError: The record of the preparation is damaged.
    """
    record, rate = read_preparation(arguments), feature_extractor.sampling_rate
    _warn_of_denoising(feature_extractor, record)
    # transformers saves and loads additional attributes with the others. Recordings without a record are not changed.
    if record is not None or hasattr(feature_extractor, DENOISED):
        setattr(feature_extractor, DENOISED, record is not None and record["denoise"])
    if record is not None and record["sampling_rate"] != rate:
        logger.warning(
            f"The clips were prepared at {record['sampling_rate']} Hz, but the model needs {rate} Hz, so they are "
            f"resampled. Prepare them again with --sampling_rate {rate}, or train from scratch with --sampling_rate "
            f"{record['sampling_rate']}."
        )


def warn_of_other_preparation(feature_extractor: FeatureExtractionMixin, arguments: DataArguments) -> None:
    """Warn if recordings are denoised and the model was not trained on denoised clips, or the reverse."""
    _warn_of_denoising(feature_extractor, read_preparation(arguments))


def _warn_of_denoising(feature_extractor: FeatureExtractionMixin, record: dict | None) -> None:
    was_denoised, is_denoised = getattr(feature_extractor, DENOISED, None), record is not None and record["denoise"]
    if was_denoised and not is_denoised:
        logger.warning(
            "The model was trained on denoised clips (sanet prepare --denoise), but these recordings are not known to "
            "be denoised. Results may be worse. Denoise them in the same way."
        )
    elif is_denoised and was_denoised is False:
        logger.warning(
            "These recordings are denoised (sanet prepare --denoise), but the model was trained on clips that were "
            "not. Results may be worse. Use recordings that are not denoised."
        )
