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

# Ends of the names of metrics.
LOWER_IS_BETTER = ("loss", "ece")
# With fewer training recordings, auto of refit and of band_head are true.
FEW_RECORDINGS = 2000


def greater_is_better(metric: str) -> bool:
    """Return whether a higher value of a metric is better."""
    return not metric.endswith(LOWER_IS_BETTER)


@dataclass
class ModelArguments:
    """What is trained."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to start from: a folder or Hub id of any audio classifier or encoder, or sanet-tiny "
            "or sanet-small, which come with sanet-hf. Without a configuration file, sanet-tiny is chosen where it "
            "suits the recordings; with one, training starts from scratch."
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={
            "help": "Without a configuration file: start from random weights also where sanet-tiny would be chosen."
        },
    )
    model_type: str = field(
        default="sanet",
        metadata={"help": "Architecture of a model from scratch: sanet, wav2vec2, ast, hubert, whisper, ..."},
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Values of the architecture's configuration for a model from scratch, for instance "
            '"conv_dim=[16,32,64,128,256],classifier_dropout=0.2"; in YAML, a mapping. Those of all YAML files and of '
            "the flag are merged.",
        },
    )
    sampling_rate: int | None = field(
        default=None,
        metadata={
            "help": "Sampling rate in Hz that a SANet from scratch is made for, from 8000 to 96000, such as 8000 for "
            "telephone calls or 48000 for birds; default: 16000. Recordings of other rates are resampled; sounds "
            "above half the rate are not heard. Training takes time in proportion. Other architectures and "
            "checkpoints keep the rate that they were made for."
        },
    )
    freeze: str = field(
        default="none",
        metadata={
            "help": "Weights that are not trained: of the convolutions that read the waveform (feature_encoder) or of "
            "all but the classification head (backbone).",
            "choices": ["none", "feature_encoder", "backbone"],
        },
    )
    padding: str | None = field(
        default=None,
        metadata={
            "help": "What a SANet hears of a clip shorter than max_length_seconds: with longest the clip alone; with "
            "max_length the silence after it counts too, so that the model hears how soon a sound is over, in the "
            "time that a full clip takes. Default: as the checkpoint was trained, or longest from scratch.",
            "choices": ["longest", "max_length"],
        },
    )
    position_embeddings: str = field(
        default="interpolate",
        metadata={
            "help": "What becomes of a pretrained AST's position embeddings: interpolate fits them to "
            "max_length_seconds, so that clips are padded to no more than that; keep pads every clip to the length "
            "that the checkpoint was trained with (10.24 s).",
            "choices": ["interpolate", "keep"],
        },
    )


@dataclass
class DataArguments:
    """What it is trained on: one of `data_dir`, `manifest` and `dataset_name`."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of recordings: <class>/*.wav, split about 80/10/10 by a hash of each file's name, so that "
            "a recording keeps its split when others are added; or train/<class>/*.wav, with validation/ and test/ "
            "beside train/. Where the hash gives a class of three or more recordings none for test or validation, one "
            "of its training recordings goes there. Classes of two train and validate, classes of one train."
        },
    )
    manifest: str | None = field(
        default=None,
        metadata={
            "help": "CSV or JSON Lines file with the columns file, label and, if it brings its own splits, split; "
            "with start and end, a row is that part of its file, in seconds. Files are relative to its folder."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the Hub, or a local folder that datasets.load_dataset takes."}
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
        metadata={"help": "Split of dataset_name to choose the best epoch by; where there is none, a tenth of train."},
    )
    test_split_name: str = field(default="test", metadata={"help": "Split of dataset_name to test on."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split of dataset_name while it is trained on, such as Parquet files or tar "
            "archives (WebDataset) on the Hub, instead of downloading it first; needs max_steps or "
            "max_minutes."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000, metadata={"help": "Streamed recordings that are held in memory and drawn from at random."}
    )
    group_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression that finds, in CLASS/FILE, what no two splits may share, such as the speaker: "
            r'"(spk\d+)_". Its first group counts, or all that it matches. Groups with over a tenth of the '
            "recordings train; fewer than 30 groups are divided by size, the largest train. For recordings without "
            "splits of their own."
        },
    )
    folds: int | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: divide the recordings into this many folds and train one model per fold, which "
            "is tested on that fold. Folds have equal shares of each class, and no group of group_pattern is in two."
        },
    )
    fold_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Cross-validation with published folds: regular expression that finds the fold in CLASS/FILE, for "
            r'instance "(\d)-" in dog/1-100032-A-0.wav. Its first group counts, or all that it matches.'
        },
    )
    fold: str | None = field(
        default=None,
        metadata={
            "help": "Train only the model of this fold, to output_dir: its number from 1, or what fold_pattern finds; "
            "final: the model of all recordings, which is not evaluated."
        },
    )
    problem_type: str = field(
        default="single_label_classification",
        metadata={
            "help": "Whether a recording has one class or any number of them, separated by ; in labels.",
            "choices": ["single_label_classification", "multi_label_classification"],
        },
    )
    max_length_seconds: float = field(
        default=4.0,
        metadata={
            "help": "Length of clips. Of a longer recording, training takes a random stretch; evaluation its middle "
            "after each epoch, and in the end all of it."
        },
    )
    max_bad_fraction: float = field(
        default=0.05,
        metadata={
            "help": "Training stops where a larger part of the recordings than this cannot be read or has no label."
        },
    )
    check_recordings: bool = field(
        default=True,
        metadata={
            "help": "Read every recording before training, to leave out those that are damaged and to name silent and "
            "doubled ones; only new and changed files are read again. Without it, a damaged file ends the training, "
            "and nothing says whether a test recording was trained on."
        },
    )
    augmentations: str | None = field(
        default=None,
        metadata={
            "help": "Transforms of audiomentations for training clips, in YAML a list of Name: {parameter: value}; as "
            "a flag the same as JSON, or none. ApplyImpulseResponse without ir_path applies simulated rooms."
        },
    )
    augmentations_after_normalization: str | None = field(
        default=None,
        metadata={
            "help": "The same, for what the feature extractor has set the loudness of: where Gain belongs, which it "
            "would undo."
        },
    )
    samples_per_class: int | None = field(
        default=None,
        metadata={
            "help": "Train on clips of max_length_seconds joined from recordings of one class, such as stretches of "
            "speech, this many a class and epoch, and validate on a quarter as many; default: on the recordings."
        },
    )
    max_segments: int = field(default=4, metadata={"help": "Most recordings in a joined clip."})
    background: str | None = field(
        default=None,
        metadata={
            "help": "Class that is trained like others but is no detection: nothing reports it; default: one called "
            "background, if there is one. In multi-label data, its recordings have no class. auto: add generated "
            "noise and quiet parts of the recordings, as many as the median class has; none: there is no such class."
        },
    )
    background_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with recordings of the background where the model will be used: added to the class, and "
            "the part that is held out for testing to the count of false alarms."
        },
    )
    cache_audio: float = field(
        default=2.0,
        metadata={
            "help": "GiB of decoded recordings to keep on disk, in output_dir, while a model is trained, so that only "
            "the first epoch decodes and resamples them; at most a tenth of the free space. An hour takes "
            "0.21 GiB at 16 kHz. Where not all fit, the shortest are kept. The trained model is the same. 0: none."
        },
    )


@dataclass
class AudioTrainingArguments(TeacherArguments, TrainingArguments):
    """`TrainingArguments` and what else can be set for training a classifier."""

    # transformers 5.0 does not have it.
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "Order of the training clips: random, sequential (the same in each epoch), or group_by_length "
            "(random batches of clips of similar length, which need less padding).",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    save_total_limit: int | None = field(
        default=None,
        metadata={
            "help": "Checkpoints that are kept in output_dir, the best one among them; default: all. With 1, the last "
            "one is kept beside the best until training ends, so that it can resume."
        },
    )
    greater_is_better: bool | None = field(
        default=None,
        metadata={"help": "Whether a higher metric_for_best_model is better; default: unless it is a loss or ece."},
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "Metric that chooses the best epoch; default: macro_f1, or mAP where multi-label."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Whether early stopping goes on counting where it was, on resuming."}
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "Precision of training: auto is bf16 where the device computes it in hardware, else fp32.",
            "choices": ["auto", "bf16", "fp32"],
        },
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the classification head; default: learning_rate."}
    )
    class_weights: str = field(
        default="none",
        metadata={
            "help": "Weights of the classes in the loss; balanced gives rare classes as much weight as frequent ones.",
            "choices": ["none", "balanced"],
        },
    )
    sampler: str = field(
        default="shuffle",
        metadata={
            "help": "Clips of an epoch: every clip once, or, balanced, every class equally often. "
            "train_sampling_strategy says in which order.",
            "choices": ["shuffle", "balanced"],
        },
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={"help": "Clips are mixed in pairs, by a Beta(alpha, alpha) part, and their labels too; 0: never."},
    )
    averaged_epochs: int = field(
        default=1,
        metadata={
            "help": "In this many epochs at the end, evaluate and keep the mean of the weights after each of them, "
            "which is steadier where there are few recordings. For networks with BatchNorm, each evaluation then "
            "reads up to 64 batches of training clips more. 1: no mean."
        },
    )
    averaged_fraction: float = field(
        default=0.0,
        metadata={
            "help": "The same for this last part of the training, such as 0.3, instead of a number of epochs: the "
            "mean of the weights after each hundredth of the training. 0: no mean."
        },
    )
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Train for this time, steps, evaluations and checkpoints included; reading the recordings before "
            "and the evaluation after the training come on top. The learning rate follows the elapsed time. "
            "num_train_epochs and max_steps end the training earlier where you give them. What eval_strategy, "
            "save_strategy and logging_strategy do in each epoch is spread over the time. An interrupted training "
            "resumes with the time that is left. In cross-validation, the time of each fold."
        },
    )
    max_evaluations: int = field(
        default=20,
        metadata={
            "help": "Evaluations, evenly spread over the time of max_minutes, instead of one after each epoch; fewer "
            "where they take more than a sixth of the time. Checkpoints are saved with them, and every 3 minutes."
        },
    )
    refit: str = field(
        default="false",
        metadata={
            "help": "After epochs and calibration are chosen on validation, train again on training and validation "
            "recordings together, as many epochs as up to the best one; with max_minutes, in the time that is left. "
            "Results on validation are those before. auto: where there are fewer than 2,000 training recordings.",
            "choices": ["true", "false", "auto"],
        },
    )
    refit_from: str = field(
        default="scratch",
        metadata={
            "help": "Weights that refit starts from: the initial ones, or those of the first training, which takes a "
            "quarter of the epochs with a quarter of the learning rate.",
            "choices": ["scratch", "trained"],
        },
    )
    head_only: bool = field(
        default=False,
        metadata={
            "help": "Leave the network of --model_name_or_path (without it, sanet-tiny) as it is and fit its "
            "classification head by logistic regression, which takes seconds: for a few recordings of each class."
        },
    )
    head_first: bool = field(
        default=False,
        metadata={
            "help": "Fit the head of --model_name_or_path as --head_only does, then train all of the network from "
            "there. If that is clearly worse on validation, keep that head and the network as it was."
        },
    )
    band_head: str = field(
        default="auto",
        metadata={
            "help": "Fit logistic regression to statistics of a network's log-mel spectrogram after the training, and "
            "add its scores to the network's, where that lowers the log loss on validation. auto: where there are "
            "fewer than 2,000 training recordings.",
            "choices": ["true", "false", "auto"],
        },
    )
    calibrate: bool = field(
        default=True,
        metadata={
            "help": "After training, fit a temperature (one class per recording) or a scale and an offset per class "
            "(several) on the validation split, of at least 20 recordings, and put it into the last linear layer, so "
            "that probabilities are as often right as they say."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better metric after which training stops."}
    )
    baseline: bool = field(
        default=True,
        metadata={
            "help": "Fit a baseline to the same split before training: logistic regression on statistics of the "
            "log-mel spectrogram. It takes seconds; console, report and model card compare the network with it."
        },
    )
    false_alarm_minutes: int | None = field(
        default=None,
        metadata={
            "help": "Minutes of generated noise that the trained model hears to count its false alarms; default: 60, "
            "or fewer after a short training, of whose time it takes a tenth or so. 0: none."
        },
    )
    final_model: bool = field(
        default=False,
        metadata={
            "help": "After cross-validation, train a model on all recordings, in output_dir/final: num_train_epochs, "
            "without evaluation, early stopping or choice of the best epoch."
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the training run in output_dir and start anew."}
    )

    def __post_init__(self):
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = greater_is_better(self.metric_for_best_model)
        super().__post_init__()

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: one, where `Trainer` would copy the model to all (`nn.DataParallel`)."""
        count = super().n_gpu
        if count > 1:
            logger.warning_once(
                f"This process uses one of {count} GPUs. To train on all of them, start it with `accelerate launch`."
            )
        return min(count, 1)


DATA_SOURCES = ("data_dir", "manifest", "dataset_name")
# Options of the data that only training has.
TRAINING_DATA_OPTIONS = (
    *("streaming", "shuffle_buffer_size", "augmentations", "augmentations_after_normalization"),
    *("samples_per_class", "max_segments", "background_dir", "cache_audio"),
)
FOLD_OPTIONS = ("folds", "fold_pattern", "fold")


def is_resumption(resume_from_checkpoint: str | None) -> bool:
    """Whether the option asks to resume, instead of leaving that to what is in the folder."""
    return str(resume_from_checkpoint or "false").lower() != "false"
