# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Options of training: a YAML file, overridden by flags of the same name.

Options of the model and the data are defined here; all others are those of transformers' `TrainingArguments`.
"""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.utils import logging

from sanet_hf.training.teacher_arguments import TeacherArguments


logger = logging.get_logger(__name__)

# Suffixes of metric names.
LOWER_IS_BETTER = ("loss", "ece")
# With fewer training recordings, auto of refit and of band_head are true.
FEW_RECORDINGS = 2000


def greater_is_better(metric: str) -> bool:
    """Return whether a higher value of a metric is better."""
    return not metric.endswith(LOWER_IS_BETTER)


@dataclass
class ModelArguments:
    """Options of the model."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to start from: a folder or Hub id of any audio classifier or encoder, or one of the "
            "networks that sanet-hf ships (sanet-tiny, sanet-small). Default without a configuration file: sanet-tiny "
            "where it suits the recordings. Default with one: training from scratch."
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": "Without a configuration file: never start from sanet-tiny, but from random weights."},
    )
    model_type: str = field(
        default="sanet",
        metadata={"help": "Architecture of a model from scratch: sanet, wav2vec2, ast, hubert, whisper, ..."},
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Configuration values of a model from scratch, such as "
            '"conv_dim=[16,32,64,128,256],classifier_dropout=0.2"; in YAML, a mapping. Values of all YAML files and '
            "of the flag are merged.",
        },
    )
    sampling_rate: int | None = field(
        default=None,
        metadata={
            "help": "Sampling rate in Hz of a SANet from scratch, from 8000 to 96000, such as 8000 for telephone "
            "calls or 48000 for birds (default: 16000). Recordings are resampled to it; sounds above half of it are "
            "lost. Training time grows in proportion. Other architectures and checkpoints keep their own rate."
        },
    )
    freeze: str = field(
        default="none",
        metadata={
            "help": "Weights that are not trained: feature_encoder (convolutions on the waveform) or backbone (all "
            "except the classification head).",
            "choices": ["none", "feature_encoder", "backbone"],
        },
    )
    padding: str | None = field(
        default=None,
        metadata={
            "help": "How to treat clips that are shorter than max_length_seconds (SANet only). longest: ignore "
            "padding. max_length: pad with silence that the model sees, so that duration becomes a feature; slower. "
            "Default: as the checkpoint was trained, or longest from scratch.",
            "choices": ["longest", "max_length"],
        },
    )
    position_embeddings: str = field(
        default="interpolate",
        metadata={
            "help": "Position embeddings of a pretrained AST. interpolate: adapt them to max_length_seconds, which "
            "needs less padding. keep: pad every clip to the length of the checkpoint (10.24 s).",
            "choices": ["interpolate", "keep"],
        },
    )


@dataclass
class DataArguments:
    """Options of the data: one of `data_dir`, `manifest` and `dataset_name`, and how to use it."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of recordings: either <class>/*.wav, or train/<class>/*.wav with validation/ and test/. "
            "In the first form, a hash of the file name assigns about 80/10/10 percent to train, validation and test, "
            "so that a recording stays in its split when others are added. Each class with three or more recordings "
            "has at least one in each split."
        },
    )
    manifest: str | None = field(
        default=None,
        metadata={
            "help": "CSV or JSON Lines file with the columns file, label and optionally split. With start and end "
            "(seconds), a row is a part of its file. Paths are relative to the folder of the manifest."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset on the Hub, or a local folder that datasets.load_dataset supports."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of dataset_name."})
    audio_column_name: str = field(default="audio", metadata={"help": "Column of dataset_name with the audio."})
    label_column_name: str = field(default="label", metadata={"help": "Column of dataset_name with the label."})
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "Names of the classes, separated by commas, for labels that are numbers (the first is 0) or lists "
            "of 0 and 1 (one for each class)."
        },
    )
    train_split_name: str = field(default="train", metadata={"help": "Split of dataset_name to train on."})
    validation_split_name: str = field(
        default="validation",
        metadata={"help": "Split of dataset_name that selects the best epoch. If it is missing: a tenth of train."},
    )
    test_split_name: str = field(default="test", metadata={"help": "Split of dataset_name to test on."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split of dataset_name during training instead of downloading it first, such as "
            "Parquet files or tar archives (WebDataset) on the Hub. Needs max_steps or max_minutes."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000,
        metadata={"help": "Number of streamed recordings in memory, from which batches are drawn at random."},
    )
    group_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression for CLASS/FILE that finds the group of a recording, such as its speaker: "
            '"(spk\\d+)_". No group is in two splits. The first parenthesised group counts, or else the whole match. '
            "Groups with more than a tenth of the recordings are in train. If there are fewer than 30 groups, they "
            "are assigned by size, the largest to train."
        },
    )
    folds: int | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: number of folds. One model per fold is trained and tested on that fold. Folds "
            "have equal shares of each class, and no group of group_pattern is in two folds."
        },
    )
    fold_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Cross-validation with published folds: regular expression for CLASS/FILE that finds the fold, "
            'such as "(\\d)-" for dog/1-100032-A-0.wav. The first parenthesised group counts, or else the whole '
            "match."
        },
    )
    fold: str | None = field(
        default=None,
        metadata={
            "help": "Train only the model of one fold, in output_dir: its number from 1, or its name with "
            "fold_pattern. final: train a model on all recordings, which is not evaluated."
        },
    )
    problem_type: str = field(
        default="single_label_classification",
        metadata={
            "help": "One class per recording (single label) or any number of classes, separated by ; (multi-label).",
            "choices": ["single_label_classification", "multi_label_classification"],
        },
    )
    max_length_seconds: float = field(
        default=4.0,
        metadata={
            "help": "Length of clips. Training uses a random part of a longer recording. Evaluation uses its middle "
            "after each epoch, and the whole recording at the end."
        },
    )
    max_bad_fraction: float = field(
        default=0.05,
        metadata={
            "help": "Largest fraction of recordings that may be unreadable or unlabelled. Above it, training stops."
        },
    )
    check_recordings: bool = field(
        default=True,
        metadata={
            "help": "Read every recording before training: skip damaged ones, and report silent and duplicated ones. "
            "Only new and changed files are read again. Without it, a damaged file stops the training, and duplicates "
            "across splits are not detected."
        },
    )
    augmentations: str | None = field(
        default=None,
        metadata={
            "help": "Audiomentations transforms for training clips: in YAML a list of Name: {parameter: value}, as a "
            "flag the same as JSON, or none. ApplyImpulseResponse without ir_path simulates rooms."
        },
    )
    augmentations_after_normalization: str | None = field(
        default=None,
        metadata={
            "help": "Like augmentations, but applied after loudness normalisation. Put Gain here; otherwise "
            "normalisation undoes it."
        },
    )
    samples_per_class: int | None = field(
        default=None,
        metadata={
            "help": "Train on clips of max_length_seconds that are joined from several recordings of one class, such "
            "as speech segments: this number per class and epoch. Validation uses a quarter as many. Default: train "
            "on the recordings."
        },
    )
    max_segments: int = field(default=4, metadata={"help": "Largest number of recordings in a joined clip."})
    background: str | None = field(
        default=None,
        metadata={
            "help": "Class of background sounds: trained like the others, but never reported as a detection. Default: "
            "the class called background, if there is one. In multi-label data, its recordings have no class. auto: "
            "add generated noise and quiet parts of the recordings, as many as the median class has. none: no such "
            "class."
        },
    )
    background_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of background recordings from the place where the model will be used. They are added to "
            "the background class. A part is held out to count false alarms."
        },
    )
    cache_audio: float = field(
        default=2.0,
        metadata={
            "help": "GiB of decoded recordings to keep in output_dir during training, so that only the first epoch "
            "decodes and resamples. At most a tenth of the free space is used. An hour takes 0.21 GiB at 16 kHz. The "
            "shortest are kept if not all fit. 0: none."
        },
    )


@dataclass
class AudioTrainingArguments(TeacherArguments, TrainingArguments):
    """`TrainingArguments` and further options for training a classifier."""

    # transformers 5.0 lacks this option.
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "Order of training clips: random, sequential (the same order in each epoch), or group_by_length "
            "(random batches of clips of similar length, with less padding).",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    save_total_limit: int | None = field(
        default=None,
        metadata={
            "help": "Largest number of checkpoints in output_dir, including the best one (default: all). With 1, the "
            "last checkpoint is also kept until training ends, so that training can resume."
        },
    )
    greater_is_better: bool | None = field(
        default=None,
        metadata={
            "help": "Whether a higher metric_for_best_model is better (default: true, except for losses and ece)."
        },
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "Metric that selects the best epoch (default: macro_f1, or mAP for multi-label)."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Restore the count of early stopping when training resumes."}
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "Number format of training. auto: bf16 if the device computes it in hardware, else fp32.",
            "choices": ["auto", "bf16", "fp32"],
        },
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the classification head; default: learning_rate."}
    )
    class_weights: str = field(
        default="none",
        metadata={
            "help": "Weights of the classes in the loss. balanced: every class has the same total weight.",
            "choices": ["none", "balanced"],
        },
    )
    sampler: str = field(
        default="shuffle",
        metadata={
            "help": "Clips of an epoch. shuffle: every clip once. balanced: every class equally often. "
            "train_sampling_strategy sets the order.",
            "choices": ["shuffle", "balanced"],
        },
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={"help": "Mix pairs of clips and their labels with a weight from Beta(alpha, alpha). 0: no mixup."},
    )
    averaged_epochs: int = field(
        default=1,
        metadata={
            "help": "Average the weights over this number of last epochs, and evaluate the average after each of "
            "them. This is more stable. With BatchNorm, each evaluation then reads up to 64 more batches of training "
            "clips. 1: no averaging."
        },
    )
    averaged_fraction: float = field(
        default=0.0,
        metadata={
            "help": "Average the weights over this last fraction of the training, such as 0.3, sampled after each "
            "hundredth of the training. Use instead of averaged_epochs. 0: no averaging."
        },
    )
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Train for this time, including evaluations and checkpoints, but not the reading of recordings "
            "before and the evaluation after the training. The learning rate follows the elapsed time. "
            "num_train_epochs and max_steps, if given, end the training earlier. Evaluations, checkpoints and logs "
            "are spread over the time. An interrupted training resumes with the remaining time. In cross-validation, "
            "the time is per fold."
        },
    )
    max_evaluations: int = field(
        default=20,
        metadata={
            "help": "Number of evaluations, evenly spread over max_minutes, instead of one per epoch; fewer if they "
            "take more than a sixth of the time. Checkpoints are saved with them and every 3 minutes."
        },
    )
    refit: str = field(
        default="false",
        metadata={
            "help": "After the epochs and the calibration are chosen on validation, train again on training and "
            "validation recordings together, for the number of epochs of the best model; with max_minutes, for the "
            "remaining time. Reported validation results are those before. auto: below 2,000 training recordings.",
            "choices": ["true", "false", "auto"],
        },
    )
    refit_from: str = field(
        default="scratch",
        metadata={
            "help": "Start of refit. scratch: the initial weights. trained: the weights of the first training, with a "
            "quarter of its epochs and of its learning rate.",
            "choices": ["scratch", "trained"],
        },
    )
    head_only: bool = field(
        default=False,
        metadata={
            "help": "Only fit the classification head of --model_name_or_path (default: sanet-tiny), by logistic "
            "regression, in seconds. For few recordings per class."
        },
    )
    head_first: bool = field(
        default=False,
        metadata={
            "help": "Fit the head of --model_name_or_path as --head_only does, then train the whole network from "
            "there. Restore that head and the original network if training makes the model clearly worse on "
            "validation."
        },
    )
    band_head: str = field(
        default="auto",
        metadata={
            "help": "After training, fit logistic regression to statistics of the log-mel spectrogram and add its "
            "scores to those of the network if this lowers the log loss on validation. auto: below 2,000 training "
            "recordings.",
            "choices": ["true", "false", "auto"],
        },
    )
    calibrate: bool = field(
        default=True,
        metadata={
            "help": "After training, calibrate the probabilities on at least 20 validation recordings: a temperature "
            "(single label), or a scale and an offset per class (multi-label). The result becomes part of the last "
            "linear layer."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop training after this number of evaluations without a better metric."}
    )
    baseline: bool = field(
        default=True,
        metadata={
            "help": "Before training, fit a baseline to the same split: logistic regression on statistics of the "
            "log-mel spectrogram. Console, report and model card compare the network with it."
        },
    )
    false_alarm_minutes: int | None = field(
        default=None,
        metadata={
            "help": "Minutes of generated noise on which false alarms are counted after training (default: 60, or "
            "fewer after a short training, to take about a tenth of its time). 0: none."
        },
    )
    final_model: bool = field(
        default=False,
        metadata={
            "help": "After cross-validation, train a model on all recordings, in output_dir/final, for "
            "num_train_epochs, without evaluation, early stopping or selection of the best epoch."
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the run in output_dir and start again."}
    )

    def __post_init__(self):
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = greater_is_better(self.metric_for_best_model)
        super().__post_init__()

    @property
    def n_gpu(self) -> int:
        """Return at most 1: with more GPUs per process, `Trainer` would copy the model to all (`nn.DataParallel`)."""
        count = super().n_gpu
        if count > 1:
            logger.warning_once(
                f"This process uses one of {count} GPUs. To train on all of them, start it with `accelerate launch`."
            )
        return min(count, 1)


DATA_SOURCES = ("data_dir", "manifest", "dataset_name")
# Data options that apply only to training.
TRAINING_DATA_OPTIONS = (
    *("streaming", "shuffle_buffer_size", "augmentations", "augmentations_after_normalization"),
    *("samples_per_class", "max_segments", "background_dir", "cache_audio"),
)
FOLD_OPTIONS = ("folds", "fold_pattern", "fold")


def is_resumption(resume_from_checkpoint: str | None) -> bool:
    """Return whether the option asks to resume. Without it, the content of the folder decides."""
    return str(resume_from_checkpoint or "false").lower() != "false"
