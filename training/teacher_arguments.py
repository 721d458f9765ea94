# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options for training with teachers; see [`~sanet_hf.training.teachers`]."""

from dataclasses import dataclass, field


@dataclass
class TeacherArguments:
    """Options for teachers: trained classifiers whose probabilities the model learns in addition to the labels."""

    teacher: list[str] | None = field(
        default=None,
        metadata={
            "help": "Trained classifiers (folders or Hub ids) with the same classes. The model also learns the mean "
            "of their probabilities on its training clips. With folds, a finished cross-validation with the same "
            "folds can be a teacher: each model learns from the teacher of its fold."
        },
    )
    teacher_weight: float = field(
        default=0.7,
        metadata={
            "help": "Weight of the teachers in the loss, above 0 and up to 1. The labels have the remaining weight."
        },
    )
    teacher_temperature: float = field(
        default=2.0,
        metadata={
            "help": "Temperature of the teachers' probabilities. Above 1, unlikely classes have more influence."
        },
    )
    unlabeled_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of recordings without labels, with any subfolders. On these, the model learns only the "
            "teachers' probabilities. Each recording is used once per epoch. Needs teacher."
        },
    )


# Options that need a teacher.
NEED_TEACHER = ("teacher_weight", "teacher_temperature", "unlabeled_dir")
