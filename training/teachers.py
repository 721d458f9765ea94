# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Trained classifiers that teach another one: `sanet train --teacher`.

A teacher hears each clip exactly as the student does, stretch and augmentation included, at its own sampling rate and
through its own feature extractor. What it says is the mean of the probabilities of its windows, and of several
teachers the mean of theirs; see [`make_taught_loss`] for how the student learns it.

Workers of a `DataLoader` prepare what teachers hear ([`TeacherInputs`]). The teachers run in the main process, on its
device. Clips that are the same in each epoch (recordings no longer than a clip, without augmentation) are heard once,
before the training, in one order: a training that is interrupted and resumed gets the same values. They are kept in
memory, 4 bytes per clip and class (8 where multi-label). All others are heard when they are trained on.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from tqdm.auto import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.utils import logging

from sanet_hf.architectures import find_window_seconds
from sanet_hf.audio.denoise import DENOISED
from sanet_hf.errors import UsageError
from sanet_hf.inference.loading import load_classifier, models_below
from sanet_hf.optimization.self_check import replace_wrong_layers
from sanet_hf.training.arguments import AudioTrainingArguments
from sanet_hf.training.data.folds import FINAL
from sanet_hf.training.data.items import HEARD
from sanet_hf.training.data.labels import clean_label
from sanet_hf.training.data.teacher_inputs import Ear, TeacherInputs
from sanet_hf.training.losses import join_targets
from sanet_hf.training.run_folder import CROSS_VALIDATION_FILE, read_file, show_model
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

MULTI_LABEL = "multi_label_classification"
# Probabilities that float32 rounds to 0 have a logarithm all the same.
SMALLEST = torch.finfo(torch.float32).tiny


class Teacher(NamedTuple):
    """
    One of them.

    Attributes:
        name: As given: a folder or a Hub id.
        model, feature_extractor: As [`load_classifier`] gives them; in evaluation mode, in float32.
        digest: Hash of weights, classes and feature extractor.
    """

    name: str
    model: PreTrainedModel
    feature_extractor: FeatureExtractionMixin
    digest: str


def load_teachers(arguments: AudioTrainingArguments, fold: str | None = None) -> list[Teacher]:
    """
    Load the classifiers of the option `teacher`.

    Args:
        arguments: The option, and the device.
        fold: Of a cross-validation that is trained, if one is; see [`find_teachers`].

    Raises:
        UsageError: One is no audio classifier, or is named twice.
    """
    names = find_teachers(arguments.teacher or [], fold)
    if len(set(names)) < len(names):
        raise UsageError(f"--teacher names one model twice: {', '.join(names)}. Name each once.")
    teachers = []
    for name in names:
        model, feature_extractor = load_classifier(name, str(arguments.device), torch.float32)
        if model.config.problem_type == "regression":
            raise UsageError(f"--teacher {name} is a regression, and has no classes to teach.")
        replace_wrong_layers(model, torch.float32)
        model.requires_grad_(False)
        teachers.append(Teacher(name, model, feature_extractor, _hash(model, feature_extractor)))
    return teachers


def find_teachers(names: Sequence[str], fold: str | None) -> list[str]:
    """
    Return folders and Hub ids of models. A finished cross-validation is, in a fold, its model of that fold, which was
    not trained on the test recordings of the fold either, and for the final model, its models of all folds.

    Args:
        names: Models and cross-validations.
        fold: As in the option of that name; `None` in a training without folds.

    Raises:
        UsageError: A folder holds several models, and it is not known which are to teach.
    """
    found = []
    for name in names:
        folds = read_file(Path(name) / CROSS_VALIDATION_FILE).get("folds", [])
        folders = {str(row["fold"]): str(Path(name) / row["folder"]) for row in folds}
        if folders and fold is not None and fold in (FINAL, *folders):
            found += folders.values() if fold == FINAL else [folders[fold]]
        elif not Path(name, "config.json").is_file() and (below := models_below(name)):
            of_fold = f", none of them of fold {fold} of a finished cross-validation" if fold is not None else ""
            raise UsageError(
                f"--teacher {name} is no model, but the folder holds some{of_fold}. Name those that are to teach: "
                f"--teacher {' '.join(below)}"
            )
        else:
            found.append(name)
    return found


def _hash(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> str:
    digest = hashlib.sha256(feature_extractor.to_json_string().encode())
    digest.update(f"{model.config.id2label} {model.config.problem_type}".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class Teachers:
    """
    Teachers of a training, with the classes of its student.

    Args:
        teachers: At least one, as [`load_teachers`] gives them.
        student: The model to train.
        feature_extractor: That of the student.
        arguments: Options `teacher_temperature`, `bf16` and `fp16`.
        max_length_seconds: Length of the student's clips.

    Attributes:
        inputs: Prepares what they hear.

    Raises:
        UsageError: A teacher has other classes than the student, or one has several classes a clip, the other has not.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        student: PreTrainedModel,
        feature_extractor: FeatureExtractionMixin,
        arguments: AudioTrainingArguments,
        max_length_seconds: float,
    ):
        self.teachers = list(teachers)
        self.temperature = arguments.teacher_temperature
        self.is_multi_label = student.config.problem_type == MULTI_LABEL
        self.num_classes = student.config.num_labels
        self._orders = [_find_order(teacher, student) for teacher in teachers]
        dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
        # On a CPU, half precision is no faster for each of the layers, and wrong for some.
        self._dtype = None if arguments.device.type == "cpu" else dtype
        ears: dict[tuple, Ear] = {}
        self._places = []
        for teacher in teachers:
            own, seconds = teacher.feature_extractor, find_window_seconds(teacher.model, teacher.feature_extractor)
            window = round(seconds * own.sampling_rate)
            if seconds < max_length_seconds:
                logger.warning(
                    f"The teacher {teacher.name} takes clips of up to {seconds:.4g} s. Of longer ones, it gives the "
                    "mean of windows."
                )
            # Folds of a cross-validation hear the same.
            key = (own.to_json_string(), window)
            ears.setdefault(key, Ear(own, window))
            self._places.append(list(ears).index(key))
        self.inputs = TeacherInputs(list(ears.values()), feature_extractor.sampling_rate, not self.is_multi_label)
        # Scores of each clip of the dataset, 0 for clips that are not known; see _hear.
        self._known: torch.Tensor | None = None
        self._warn_of_preparation(feature_extractor)

    @property
    def digests(self) -> list[list[str]]:
        """Name, without the way to it, and hash of each teacher."""
        return [[show_model(teacher.name), teacher.digest] for teacher in self.teachers]

    @property
    def sampling_rates(self) -> dict[str, int]:
        """Of each teacher, in Hz, by its name."""
        return {teacher.name: teacher.feature_extractor.sampling_rate for teacher in self.teachers}

    def _warn_of_preparation(self, feature_extractor: FeatureExtractionMixin) -> None:
        own = getattr(feature_extractor, DENOISED, None)
        for teacher in self.teachers:
            other = getattr(teacher.feature_extractor, DENOISED, None)
            if None not in (own, other) and own != other:
                logger.warning(
                    f"{teacher.name} was trained on clips {'with' if other else 'without'} noise reduction, these "
                    f"are clips {'with' if own else 'without'}: what it says of them may be wrong."
                )

    def make_targets(self, labels: torch.Tensor, heard: Sequence | None, indices: torch.Tensor | None) -> torch.Tensor:
        """
        Return targets of a batch for [`make_taught_loss`], of shape (batch, 2 * classes + 1).

        Args:
            labels: As datasets give them; see [`join_targets`].
            heard: As [`TeacherInputs`] makes it; `None` where all clips are known.
            indices: Of the clips, shape (batch,); `None` in a stream.
        """
        scores = self._hear(heard or [], len(labels))
        if self._known is not None and indices is not None:
            scores += self._known[indices % len(self._known)]
        return join_targets(labels, temper(scores, self.temperature, self.is_multi_label))

    @torch.no_grad()
    def _hear(self, heard: Sequence[Sequence[Mapping]], num_clips: int) -> torch.Tensor:
        """
        Return the mean of the teachers' probabilities, 0 for clips that they do not hear: float32 of shape (clips,
        classes), or, where multi-label, (clips, 2 * classes): the probabilities that a class is there, and is not.
        """
        width = self.num_classes * (2 if self.is_multi_label else 1)
        device = self.teachers[0].model.device
        scores = torch.zeros(num_clips, width, device=device)
        # The autocast of the training, if there is one, is not for the teachers.
        with torch.autocast(device.type, self._dtype, enabled=self._dtype is not None):
            for teacher, order, place in zip(self.teachers, self._orders, self._places):
                for batch in heard[place] if heard else []:
                    features = {
                        name: value.to(device, torch.float32 if value.is_floating_point() else None)
                        for name, value in batch["features"].items()
                    }
                    logits = teacher.model(**features, return_dict=True).logits.float()[:, order]
                    found = logits.softmax(-1)
                    if self.is_multi_label:
                        # Not one minus the other, which is rounded to 0.
                        found = torch.cat([logits.sigmoid(), (-logits).sigmoid()], dim=1)
                    parts = batch["parts"].to(device) / len(self.teachers)
                    scores.index_add_(0, batch["clips"].to(device), found * parts[:, None])
        return scores

    def remember(
        self,
        clips: Dataset,
        make_loader: Callable[..., DataLoader],
        arguments: AudioTrainingArguments,
        accelerator: Accelerator,
    ) -> None:
        """
        Hear once the clips that are the same in each epoch. Each process that trains hears its part of them.

        Args:
            clips: To train on. Those that are known are marked in its `are_known`.
            make_loader: Takes a dataset, the batch size and options of `DataLoader`, and makes batches with what
                teachers hear.
            arguments: Option `per_device_eval_batch_size`.
            accelerator: Of the training.
        """
        self._known = None
        if isinstance(clips, IterableDataset) or not clips.are_fixed.any():
            return
        clips.are_known = np.zeros(len(clips), dtype=bool)
        rows = np.flatnonzero(clips.are_fixed)
        own = rows[accelerator.process_index :: accelerator.num_processes]
        known = self._hear([], len(clips))
        loader = []
        if len(own):
            loader = make_loader(Subset(clips, own.tolist()), arguments.eval_batch_size, persistent_workers=False)
        bar = tqdm(desc="Teachers hear clips", total=len(own), unit="clip", disable=not accelerator.is_main_process)
        with bar:
            for batch in loader:
                scores = self._hear(batch[HEARD], len(batch["index"]))
                known[batch["index"].to(known.device)] = scores
                bar.update(len(scores))
        self._known = accelerator.reduce(known, "sum")
        clips.are_known = clips.are_fixed


def temper(scores: torch.Tensor, temperature: float, is_multi_label: bool) -> torch.Tensor:
    """
    Return probabilities of shape (clips, classes) at a temperature, by which logits are divided.

    Args:
        scores: Probabilities of shape (clips, classes), or, where multi-label, (clips, 2 * classes): that a class is
            there, and then that it is not.
        temperature: Above 0.
        is_multi_label: Whether a clip can have several classes.
    """
    logits = scores.clamp(min=SMALLEST).log()
    if is_multi_label:
        present, absent = logits.chunk(2, dim=1)
        return ((present - absent) / temperature).sigmoid()
    return (logits / temperature).softmax(dim=1)


def describe_teachers(names: Sequence[str], arguments: AudioTrainingArguments, num_unlabeled: int) -> str:
    """
    Return what teachers do in a training, for reports and model cards, with folders without the way to them.

    Args:
        names: Of the teachers, as in [`Teacher`].
        arguments: Options of the training.
        num_unlabeled: Recordings without labels.
    """
    names = [show_model(name) for name in names]
    which = names[0] if len(names) == 1 else f"the mean of {', '.join(names)}"
    weight, temperature = arguments.teacher_weight, f"at temperature {arguments.teacher_temperature:g}"
    text = f"{which} has {weight:.4g} of the loss, {temperature}; the labels have the rest"
    if weight == 1:
        text = f"{which} has all of the loss, {temperature}; the labels do not count"
    if num_unlabeled:
        text += f"; {num_unlabeled:,} recordings without labels were trained on as well"
    return text


def _find_order(teacher: Teacher, student: PreTrainedModel) -> list[int]:
    """Return the teacher's index of each class of the student."""
    config, several = teacher.model.config, "several classes a clip"
    if (config.problem_type == MULTI_LABEL) != (student.config.problem_type == MULTI_LABEL):
        kinds = (several, "one class a clip") if config.problem_type == MULTI_LABEL else ("one class a clip", several)
        raise UsageError(f"--teacher {teacher.name} knows {kinds[0]}, but the model is trained on {kinds[1]}.")
    labels = {clean_label(label): index for index, label in config.id2label.items()}
    own = [clean_label(student.config.id2label[index]) for index in range(student.config.num_labels)]
    missing, extra = sorted(set(own) - set(labels)), sorted(set(labels) - set(own))
    if missing or extra or len(labels) < config.num_labels:
        parts = [f"it does not know {shorten(missing)}"] if missing else []
        parts += [f"the recordings have no {shorten(extra)}"] if extra else []
        raise UsageError(
            f"--teacher {teacher.name} has other classes: {'; '.join(parts) or 'it has one twice'}. A teacher needs "
            "the classes of the recordings."
        )
    return [labels[name] for name in own]
