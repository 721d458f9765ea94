# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training with teachers (knowledge distillation): `sanet train --teacher`.

A teacher gets the same augmented clip as the student, at its own sampling rate and through its own feature extractor.
Its probabilities are averaged over windows, and then over teachers. [`make_taught_loss`] is the student's loss.

The workers of the `DataLoader` prepare the teachers' inputs ([`TeacherInputs`]). The teachers run in the main process,
on its device. Clips that are the same in each epoch (recordings no longer than a clip, without augmentation) are
predicted once, before training and in a fixed order, so that a resumed training gets the same values. These
probabilities are kept in memory, 4 bytes per clip and class (8 with multi-label data). All other clips are predicted
in each training step.
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
from sanet_hf.inference.loading import load_classifier
from sanet_hf.optimization.self_check import replace_wrong_layers
from sanet_hf.pretrained import models_below
from sanet_hf.training.arguments import AudioTrainingArguments
from sanet_hf.training.data.folds import FINAL
from sanet_hf.training.data.items import TEACHER_INPUTS
from sanet_hf.training.data.labels import clean_label
from sanet_hf.training.data.teacher_inputs import FrontEnd, TeacherInputs
from sanet_hf.training.losses import join_targets
from sanet_hf.training.run_folder import CROSS_VALIDATION_FILE, read_file, show_model
from sanet_hf.utils.formatting import shorten


logger = logging.get_logger(__name__)

MULTI_LABEL = "multi_label_classification"
# Lower bound of probabilities, so that their logarithm is finite.
SMALLEST = torch.finfo(torch.float32).tiny


class Teacher(NamedTuple):
    """
    A trained classifier.

    Attributes:
        name: A folder or a Hub id, as given.
        model, feature_extractor: As [`load_classifier`] returns them; in evaluation mode, in float32.
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
        arguments: Has the option and the device.
        fold: Fold of the current cross-validation, if any; see [`find_teachers`].

    Raises:
        UsageError: A teacher is not an audio classifier, or is given twice.
    """
    names = find_teachers(arguments.teacher or [], fold)
    if len(set(names)) < len(names):
        raise UsageError(f"--teacher contains a model twice: {', '.join(names)}. Give each model once.")
    teachers = []
    for name in names:
        model, feature_extractor = load_classifier(name, str(arguments.device), torch.float32)
        if model.config.problem_type == "regression":
            raise UsageError(f"--teacher {name} is a regression model. Use a classifier.")
        replace_wrong_layers(model, torch.float32)
        model.requires_grad_(False)
        teachers.append(Teacher(name, model, feature_extractor, _hash(model, feature_extractor)))
    return teachers


def find_teachers(names: Sequence[str], fold: str | None) -> list[str]:
    """
    Return the folders and Hub ids of the teachers. A finished cross-validation stands for its model of the same fold,
    which was not trained on the test recordings of that fold. For the final model, it stands for all its models.

    Args:
        names: Models and cross-validations.
        fold: Value of the option `fold`; `None` in a training without folds.

    Raises:
        UsageError: A folder contains several models, and it is not clear which to use.
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
                f"--teacher {name}: the folder is not a model, but contains models{of_fold}. Choose from: --teacher "
                f"{' '.join(below)}"
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
    The teachers of a training, with the classes of the student.

    Args:
        teachers: At least one, as [`load_teachers`] returns them.
        student: The model to train.
        feature_extractor: That of the student.
        arguments: Options `teacher_temperature`, `bf16` and `fp16`.
        max_length_seconds: Length of the student's clips.

    Attributes:
        inputs: Prepares the teachers' inputs.

    Raises:
        UsageError: A teacher and the student have different classes, or only one of them is multi-label.
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
        # On a CPU, half precision is slower for some layers and wrong for others.
        self._dtype = None if arguments.device.type == "cpu" else dtype
        front_ends: dict[tuple, FrontEnd] = {}
        self._places = []
        for teacher in teachers:
            own, seconds = teacher.feature_extractor, find_window_seconds(teacher.model, teacher.feature_extractor)
            window = round(seconds * own.sampling_rate)
            if seconds < max_length_seconds:
                logger.warning(
                    f"The teacher {teacher.name} supports clips of up to {seconds:.4g} s. For longer clips, its "
                    "probabilities are averaged over windows."
                )
            # The models of a cross-validation share one front end.
            key = (own.to_json_string(), window)
            front_ends.setdefault(key, FrontEnd(own, window))
            self._places.append(list(front_ends).index(key))
        self.inputs = TeacherInputs(
            list(front_ends.values()), feature_extractor.sampling_rate, not self.is_multi_label
        )
        # Scores of each clip of the dataset, 0 for clips that are not predicted in advance; see _predict.
        self._known: torch.Tensor | None = None
        self._warn_of_preparation(feature_extractor)

    @property
    def digests(self) -> list[list[str]]:
        """Return the name (without its folder) and the hash of each teacher."""
        return [[show_model(teacher.name), teacher.digest] for teacher in self.teachers]

    @property
    def sampling_rates(self) -> dict[str, int]:
        """Return the sampling rate of each teacher in Hz, by its name."""
        return {teacher.name: teacher.feature_extractor.sampling_rate for teacher in self.teachers}

    def _warn_of_preparation(self, feature_extractor: FeatureExtractionMixin) -> None:
        own = getattr(feature_extractor, DENOISED, None)
        for teacher in self.teachers:
            other = getattr(teacher.feature_extractor, DENOISED, None)
            if None not in (own, other) and own != other:
                logger.warning(
                    f"The teacher {teacher.name} was trained on clips {'with' if other else 'without'} noise "
                    f"reduction, but these clips are {'with' if own else 'without'} it. Its predictions may be wrong."
                )

    def make_targets(
        self, labels: torch.Tensor, inputs: Sequence | None, indices: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Return the targets of a batch for [`make_taught_loss`], shape (batch, 2 * classes + 1).

        Args:
            labels: Labels of the dataset; see [`join_targets`].
            inputs: Inputs from [`TeacherInputs`]; `None` if all clips are known.
            indices: Indices of the clips, shape (batch,); `None` in a stream.
        """
        scores = self._predict(inputs or [], len(labels))
        if self._known is not None and indices is not None:
            scores += self._known[indices % len(self._known)]
        return join_targets(labels, temper(scores, self.temperature, self.is_multi_label))

    @torch.no_grad()
    def _predict(self, inputs: Sequence[Sequence[Mapping]], num_clips: int) -> torch.Tensor:
        """
        Return the mean of the teachers' probabilities, 0 for clips without inputs. float32 of shape (clips, classes);
        with multi-label data (clips, 2 * classes): the probabilities that a class is present and that it is absent.
        """
        width = self.num_classes * (2 if self.is_multi_label else 1)
        device = self.teachers[0].model.device
        scores = torch.zeros(num_clips, width, device=device)
        # The teachers do not use the autocast of the training.
        with torch.autocast(device.type, self._dtype, enabled=self._dtype is not None):
            for teacher, order, place in zip(self.teachers, self._orders, self._places):
                for batch in inputs[place] if inputs else []:
                    features = {
                        name: value.to(device, torch.float32 if value.is_floating_point() else None)
                        for name, value in batch["features"].items()
                    }
                    logits = teacher.model(**features, return_dict=True).logits.float()[:, order]
                    found = logits.softmax(-1)
                    if self.is_multi_label:
                        # 1 - probability would be rounded to 0.
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
        Predict the clips that are the same in each epoch once, and keep the result. Each process predicts a part.

        Args:
            clips: Training clips. Known clips are then marked in its `are_known`.
            make_loader: Makes batches with teachers' inputs from a dataset, a batch size and `DataLoader` options.
            arguments: Option `per_device_eval_batch_size`.
            accelerator: Accelerator of the training.
        """
        self._known = None
        if isinstance(clips, IterableDataset) or not clips.are_fixed.any():
            return
        clips.are_known = np.zeros(len(clips), dtype=bool)
        rows = np.flatnonzero(clips.are_fixed)
        own = rows[accelerator.process_index :: accelerator.num_processes]
        known = self._predict([], len(clips))
        loader = []
        if len(own):
            loader = make_loader(Subset(clips, own.tolist()), arguments.eval_batch_size, persistent_workers=False)
        # An explicit value would override the environment variable TQDM_DISABLE.
        hidden = {} if accelerator.is_main_process else {"disable": True}
        bar = tqdm(desc="Teachers' predictions", total=len(own), unit="clip", **hidden)
        with bar:
            for batch in loader:
                scores = self._predict(batch[TEACHER_INPUTS], len(batch["index"]))
                known[batch["index"].to(known.device)] = scores
                bar.update(len(scores))
        self._known = accelerator.reduce(known, "sum")
        clips.are_known = clips.are_fixed


def temper(scores: torch.Tensor, temperature: float, is_multi_label: bool) -> torch.Tensor:
    """
    Apply a temperature, which divides the logits. Return probabilities of shape (clips, classes).

    Args:
        scores: Probabilities of shape (clips, classes); with multi-label data (clips, 2 * classes): that a class is
            present, and then that it is absent.
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
    Return a text about the teachers of a training, for reports and model cards, without the paths of folders.

    Args:
        names: Names of the teachers, as in [`Teacher`].
        arguments: Options of the training.
        num_unlabeled: Recordings without labels.
    """
    names = [show_model(name) for name in names]
    which = names[0] if len(names) == 1 else f"the mean of {', '.join(names)}"
    weight, temperature = arguments.teacher_weight, f"at temperature {arguments.teacher_temperature:g}"
    text = f"{which} has the weight {weight:.4g} in the loss, {temperature}; the labels have the rest"
    if weight == 1:
        text = f"{which} has the weight 1 in the loss, {temperature}; the labels are not used"
    if num_unlabeled:
        text += f"; training also used {num_unlabeled:,} recordings without labels"
    return text


def _find_order(teacher: Teacher, student: PreTrainedModel) -> list[int]:
    """Return the teacher's index of each class of the student."""
    config, several = teacher.model.config, "several classes per clip"
    if (config.problem_type == MULTI_LABEL) != (student.config.problem_type == MULTI_LABEL):
        one = "one class per clip"
        kinds = (several, one) if config.problem_type == MULTI_LABEL else (one, several)
        raise UsageError(f"--teacher {teacher.name} predicts {kinds[0]}, but the model is trained on {kinds[1]}.")
    labels = {clean_label(label): index for index, label in config.id2label.items()}
    own = [clean_label(student.config.id2label[index]) for index in range(student.config.num_labels)]
    missing, extra = sorted(set(own) - set(labels)), sorted(set(labels) - set(own))
    if missing or extra or len(labels) < config.num_labels:
        parts = [f"it lacks {shorten(missing)}"] if missing else []
        parts += [f"the recordings have no {shorten(extra)}"] if extra else []
        raise UsageError(
            f"--teacher {teacher.name} has other classes: {'; '.join(parts) or 'it has one twice'}. A teacher needs "
            "the same classes as the recordings."
        )
    return [labels[name] for name in own]
