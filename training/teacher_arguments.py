# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of training with teachers; see [`~sanet_hf.training.teachers`]."""

from dataclasses import dataclass, field


@dataclass
class TeacherArguments:
    """Trained classifiers whose probabilities are learned beside the labels."""

    teacher: list[str] | None = field(
        default=None,
        metadata={
            "help": "Trained classifiers, folders or Hub ids, with the same classes: the model also learns their "
            "probabilities, of several the mean, of the clips that it is trained on. With folds, also a finished "
            "cross-validation with the same folds: each model learns from that of its fold."
        },
    )
    teacher_weight: float = field(
        default=0.7,
        metadata={"help": "Part of the teachers in the loss, above 0 and up to 1; the labels have the rest."},
    )
    teacher_temperature: float = field(
        default=2.0,
        metadata={
            "help": "Temperature at which the teachers' probabilities are learned: above 1, those of unlikely classes "
            "count more."
        },
    )
    unlabeled_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of recordings without labels, in folders of any depth, from which the model learns the "
            "teachers' probabilities alone; each is drawn once per epoch. Needs teacher."
        },
    )


# Options of it that have an effect beside a teacher alone.
NEED_TEACHER = ("teacher_weight", "teacher_temperature", "unlabeled_dir")
