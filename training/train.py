# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training of an audio classifier on a folder of recordings with transformers' `Trainer`.

    sanet train sanet.yaml --data_dir data --output_dir runs/mine
    sanet train sanet.yaml --data_dir data --output_dir runs/tuned --model_name_or_path runs/mine --learning_rate 1e-4
"""

import sys
from functools import partial
from pathlib import Path

from transformers import ProgressCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from .arguments import DataArguments, ModelArguments, UsageError
from .data import collate, load_recordings, make_features
from .metrics import compute_metrics
from .models import make_model


logger = logging.get_logger(__name__)


def train(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: TrainingArguments
) -> dict[str, float]:
    """
    Train a classifier, keep the best epoch, evaluate it, and write it with its feature extractor to `output_dir`,
    where `from_pretrained` and `pipeline` find it, beside `all_results.json`.

    Returns:
        Metrics of the best model, named `eval_*` for the validation split and `test_*` for the test split.

    Raises:
        UsageError: Options contradict each other, or `output_dir` holds another run.
        DataError: There is nothing to train on.
    """
    output_dir = Path(training_arguments.output_dir)
    checkpoint = _find_checkpoint(output_dir, training_arguments.resume_from_checkpoint)
    set_seed(training_arguments.seed)
    recordings = load_recordings(
        data_arguments.data_dir, sampling_rate=16000, max_bad_fraction=data_arguments.max_bad_fraction
    )
    labels = recordings["train"].features["label"].names
    model, feature_extractor = make_model(model_arguments, labels, data_arguments.max_length_seconds)
    features = make_features(recordings, feature_extractor, model.config.label2id)
    _print_summary(recordings, model, training_arguments)

    # The items are made from columns that the model knows nothing of.
    training_arguments.remove_unused_columns = False
    trainer = Trainer(
        model=model,
        args=training_arguments,
        data_collator=partial(collate, feature_extractor=feature_extractor),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        processing_class=feature_extractor,
        compute_metrics=compute_metrics,
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(EpochTable)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate(features["validation"])
    trainer.save_metrics("eval", metrics)
    if "test" in features:
        test_metrics = trainer.evaluate(features["test"], metric_key_prefix="test")
        trainer.save_metrics("test", test_metrics)
        metrics.update(test_metrics)
    return metrics


class EpochTable(ProgressCallback):
    """A progress bar of the steps and a line of results for each evaluation."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if state.is_world_process_zero:
            self.training_bar.write(f"{'epoch':>8}{'loss':>10}{'validation loss':>18}{'accuracy':>10}{'macro F1':>10}")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Without the dictionaries that the base class prints."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if state.is_world_process_zero and self.training_bar is not None:
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
            loss = f"{losses[-1]:.4f}" if losses else "-"
            self.training_bar.write(
                f"{state.epoch:8.1f}{loss:>10}{metrics['eval_loss']:18.4f}{metrics['eval_accuracy']:10.3f}"
                f"{metrics['eval_macro_f1']:10.3f}"
            )


def _find_checkpoint(output_dir: Path, resume_from_checkpoint: str | None) -> str | None:
    """The checkpoint to go on from; refuses to write over a run that was not asked to go on."""
    if resume_from_checkpoint and resume_from_checkpoint.lower() == "false":
        resume_from_checkpoint = None
    last_checkpoint = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
    if resume_from_checkpoint and resume_from_checkpoint.lower() != "true":
        if not Path(resume_from_checkpoint).is_dir():
            raise UsageError(f"--resume_from_checkpoint {resume_from_checkpoint}: there is no such folder.")
        return resume_from_checkpoint
    if resume_from_checkpoint:
        if last_checkpoint is None:
            raise UsageError(f"--resume_from_checkpoint: {output_dir} holds no checkpoint to go on from.")
        return last_checkpoint
    if last_checkpoint is not None or (output_dir / "config.json").exists():
        raise UsageError(
            f"{output_dir} already holds a training run. Choose another --output_dir, or go on from its last "
            "checkpoint with --resume_from_checkpoint true."
        )
    return None


def _print_summary(recordings, model, training_arguments: TrainingArguments) -> None:
    counts = ", ".join(f"{len(dataset)} {split}" for split, dataset in recordings.items())
    precision = "bfloat16" if training_arguments.bf16 else "float16" if training_arguments.fp16 else "float32"
    print(
        f"{model.config.num_labels} classes; recordings: {counts}; {model.num_parameters() / 1e6:.2f} M parameters; "
        f"{precision} on {training_arguments.device}",
        file=sys.stderr,
    )
