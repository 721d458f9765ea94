# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' `Trainer` with what training audio classifiers on small data needs."""

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from accelerate.data_loader import prepare_data_loader
from torch import distributed, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sanet_hf.layers_sanet import SANetBatchNorm

from .features import StreamedClips, TrainingClips, mixup
from .models import head_parameter_names
from .sources import DataError


# In a checkpoint whose model is an average: the weights that training goes on from.
TRAINING_WEIGHTS_FILE = "training_weights.safetensors"
STEPS_BETWEEN_CHECKS = 16  # of the loss on a GPU
BATCH_NORM_BATCHES = 64  # that statistics for averaged weights are estimated from, at most


class AudioClassificationTrainer(Trainer):
    """
    `Trainer` with mixup, a sampler that draws classes equally often, batches of like length without reading the
    recordings for it, a learning rate of its own for the head, and the mean of the last epochs' weights, which is
    what is then evaluated, saved and returned.

    Args:
        train_dataset: A [`TrainingClips`] or [`StreamedClips`].
        train_loss, eval_loss: As [`make_loss`] gives them. Evaluation has one of its own, so that it compares between
            runs whatever they were trained with.
        args: An [`AudioTrainingArguments`].
        kwargs: As `Trainer` has them.

    Raises:
        FloatingPointError: In training, the loss or the weights are no longer finite; no checkpoint of them is saved.
    """

    def __init__(
        self,
        *,
        train_loss: Callable,
        eval_loss: Callable,
        **kwargs,
    ):
        super().__init__(compute_loss_func=train_loss, **kwargs)
        self.train_loss, self.eval_loss = train_loss, eval_loss
        self.weight_average = WeightAverage(self.args.averaged_epochs, self._estimate_batch_norm)
        self.add_callback(self.weight_average)
        for module in self.model.modules():
            if isinstance(module, SANetBatchNorm):
                # As one process with all of the batch would.
                module.synchronize = self.args.world_size > 1
        self._repeated: Iterator[dict[str, torch.Tensor]] = iter(())
        self._cpu_group = None
        if distributed.is_initialized() and distributed.get_backend() != "gloo":
            # What is agreed on by it does not wait for GPUs.
            self._cpu_group = distributed.new_group(backend="gloo")
        self._indices: torch.Tensor | None = None
        self._unchecked: list[tuple[int, torch.Tensor | None, torch.Tensor]] = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.compute_loss_func = self.train_loss if model.training else self.eval_loss
        if model.training and self.args.mixup_alpha > 0:
            labels = inputs["labels"]
            if not labels.is_floating_point():
                labels = nn.functional.one_hot(labels, self.model.config.num_labels).float()
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
            inputs, labels = mixup(inputs, labels, self.args.mixup_alpha)
            inputs = {**inputs, "labels": labels}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        self._indices = inputs.pop("index", None)
        return inputs

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self._unchecked.append((self.state.global_step + 1, self._indices, loss.detach()))
        # Looking at a loss waits for the GPU.
        if self.args.device.type == "cpu" or len(self._unchecked) == STEPS_BETWEEN_CHECKS:
            self._check_losses()
        return loss

    def _check_losses(self) -> None:
        unchecked, self._unchecked = self._unchecked, []
        losses = torch.stack([loss.float() for _, _, loss in unchecked]).tolist() if unchecked else []
        for (step, indices, _), loss in zip(unchecked, losses):
            if not math.isfinite(loss):
                files = []
                if indices is not None and isinstance(self.train_dataset, TrainingClips):
                    files = [file for index in indices.tolist() for file in self.train_dataset.files(index)]
                self._stop(f"The loss is {loss:g} at step {step}", files)

    def _stop(self, what: str, files: Sequence[str] = ()) -> None:
        advice = ["a lower --learning_rate"]
        if self.args.max_grad_norm is None or not 0 < self.args.max_grad_norm <= 10:
            advice.append("--max_grad_norm 1")
        if self.args.fp16:
            advice.append("--precision bf16 or fp32")
        if self.args.bf16:
            advice.append("--precision fp32")
        named = f", whose batch holds {', '.join(dict.fromkeys(files))}" if files else ""
        raise FloatingPointError(
            f"{what}{named}. Checkpoints in {self.args.output_dir} are of earlier steps and stay. Try "
            f"{', or '.join(advice)}; --resume_from_checkpoint true goes on with other options."
        )

    def _save_checkpoint(self, model, trial):
        self._check_losses()
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            self._stop(f"Weights are no longer finite at step {self.state.global_step}")
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        # PyTorch raises a RuntimeError where the disk is full.
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{folder} cannot be written: {error}. Earlier checkpoints stay. With more space, or fewer of them "
                "(--save_total_limit 1), the same command goes on from the last one."
            ) from error

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.args.head_learning_rate is not None:
            model = self.model if model is None else model
            decayed, head = set(self.get_decay_parameter_names(model)), head_parameter_names(model)
            trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
            groups = [
                {
                    "params": [p for name, p in trained if (name in head) == in_head and (name in decayed) == decay],
                    "weight_decay": self.args.weight_decay if decay else 0.0,
                    "lr": self.args.head_learning_rate if in_head else self.args.learning_rate,
                }
                for in_head in (False, True)
                for decay in (True, False)
            ]
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        return super().create_optimizer(model)

    @torch.no_grad()
    def _estimate_batch_norm(self) -> None:
        """
        Set BatchNorm's running statistics to the mean of those of training batches: where weights are the mean of
        several, theirs are not the mean of the statistics.

        Source: Izmailov et al., 2018, section 3.2; `torch.optim.swa_utils.update_bn`.
        """
        model, clips = self.model, self.train_dataset
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        norms = [norm for norm in norms if norm.track_running_stats and norm.weight.requires_grad]
        if not norms:
            return
        momenta, was_training = [norm.momentum for norm in norms], model.training
        # Those of the next epoch, whose augmentation was not trained on.
        generator = torch.Generator().manual_seed(self.args.seed)
        order = round(self.state.epoch or 0) * len(clips) + torch.randperm(len(clips), generator=generator)
        batches = order.split(self.args.train_batch_size)
        # A last batch that is not full would count as much as the others.
        batches = [batch for batch in batches if len(batch) == self.args.train_batch_size] or batches
        num_batches = min(BATCH_NORM_BATCHES, len(batches) // self.args.world_size) or 1
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            model.train()
            for number in range(num_batches):
                indices = batches[(number * self.args.world_size + self.args.process_index) % len(batches)]
                inputs = self._prepare_inputs(self.data_collator([clips[index] for index in indices.tolist()]))
                for norm in norms:
                    norm.momentum = 1 / (number + 1)
                model(**{name: value for name, value in inputs.items() if name != "labels"})
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        model.train(was_training)

    def evaluate(self, *args, **kwargs):
        with self.weight_average.applied(self.model):
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir=None, _internal_call=False):
        with self.weight_average.applied(self.model) as training_weights:
            super().save_model(output_dir, _internal_call)
        if training_weights is not None and self.args.should_save:
            path = Path(self.args.output_dir if output_dir is None else output_dir) / TRAINING_WEIGHTS_FILE
            safetensors.torch.save_file(training_weights, path)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / TRAINING_WEIGHTS_FILE
        if path.is_file():
            self.weight_average.resume(self.model.state_dict())
            self.model.load_state_dict(safetensors.torch.load_file(path))

    def create_model_card(self, *args, **kwargs):
        """The card is written by [`write_model_card`]; `Trainer` would write over it."""

    def _get_dataloader(self, *args, **kwargs):
        loader = super()._get_dataloader(*args, **kwargs)
        loader.base_dataloader.worker_init_fn = partial(_ignore_sigterm, loader.base_dataloader.worker_init_fn)
        return loader

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, StreamedClips):
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(_ignore_sigterm, None),
        )
        # Each process reads its part already: accelerate is to divide nothing.
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.args.world_size == 1 or not isinstance(self.train_dataset, StreamedClips):
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = list(islice(epoch_iterator, num_batches))
        # Each process takes part in every step: those with fewer batches go through theirs again until all are done.
        most = torch.tensor(len(batches))
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self._cpu_group)
        while len(batches) < most:
            batch = next(self._repeated, None)
            if batch is None:
                self._repeated = iter(self.get_train_dataloader().base_dataloader)
                batch = next(self._repeated, None)
            if batch is None:
                raise DataError(
                    f"Process {self.args.process_index} of {self.args.world_size} has no recordings to train on: "
                    "there are fewer than processes."
                )
            batches.append(batch)
        if not most:
            self._repeated = iter(())
        return super().get_batch_samples(iter(batches), num_batches, device)

    def _get_train_sampler(self, train_dataset=None):
        if self.args.sampler == "balanced":
            draw = partial(draw_balanced, self.train_dataset.class_matrix)
        elif self.args.train_sampling_strategy == "group_by_length":
            batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            draw = partial(_draw_like_lengths, self.train_dataset.seconds, batch_size)
        elif self.args.train_sampling_strategy == "random":
            draw = partial(_shuffle, len(self.train_dataset))
        else:
            sampler = super()._get_train_sampler(train_dataset)
            draw = lambda generator: list(sampler)  # noqa: E731
        return EpochSampler(len(self.train_dataset), draw, self.args.seed)

    def _get_eval_sampler(self, eval_dataset):
        # In the order of the data set, which predictions are matched with; it is by length already.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None


def _ignore_sigterm(initialize: Callable[[int], None] | None, worker_id: int) -> None:
    """In a worker of a `DataLoader`: schedulers send SIGTERM to all processes, and the main one still saves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if initialize is not None:
        initialize(worker_id)


class WeightAverage(TrainerCallback):
    """
    Mean of the weights at the ends of the last epochs of a training.

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.

    Args:
        num_epochs: Epochs that count; with 1 there is no mean. Until they begin there is none either.
        estimate_batch_norm: Sets the statistics that the model's BatchNorm layers have with its weights.
    """

    def __init__(self, num_epochs: int, estimate_batch_norm: Callable[[], None]):
        self.num_epochs = num_epochs
        self.estimate_batch_norm = estimate_batch_norm
        self.weights: dict[str, torch.Tensor] | None = None
        self._is_estimated = False

    def resume(self, weights: dict[str, torch.Tensor]) -> None:
        """Go on from a mean that a checkpoint holds."""
        self.weights, self._is_estimated = _copy(weights), False

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        number = round(state.epoch) - max(0, state.num_train_epochs - self.num_epochs)
        if self.num_epochs == 1 or number < 1:
            return
        if self.weights is None:
            self.weights = _copy(model.state_dict())
        for name, weight in model.state_dict().items():
            if weight.is_floating_point():
                self.weights[name].lerp_(weight, 1 / number)
            else:
                self.weights[name].copy_(weight)
        self._is_estimated = False

    def on_train_end(self, args, state, control, model=None, **kwargs):
        # Otherwise the model is that of the best checkpoint, which is an average already.
        if self.weights is not None and not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._load(model)
        self.weights = None

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[dict[str, torch.Tensor] | None]:
        """The model with the mean as its weights; gives a copy of its own, or None where there is no mean."""
        if self.weights is None:
            yield None
            return
        training_weights = _copy(model.state_dict())
        self._load(model)
        try:
            yield training_weights
        finally:
            model.load_state_dict(training_weights)

    def _load(self, model: nn.Module) -> None:
        model.load_state_dict(self.weights)
        if not self._is_estimated:
            self.estimate_batch_norm()
            self.weights, self._is_estimated = _copy(model.state_dict()), True


class EpochSampler(Sampler[int]):
    """
    Draws the clips of each epoch anew, as `epoch * num_clips + clip`, so that a data set knows the epoch too.

    Args:
        num_clips: Clips to draw from.
        draw: Clips of an epoch, drawn with a generator.
        seed: With the epoch, decides what is drawn.
    """

    def __init__(self, num_clips: int, draw: Callable[[torch.Generator], Sequence[int]], seed: int):
        self.num_clips, self.draw, self.seed = num_clips, draw, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        yield from (self.epoch * self.num_clips + clip for clip in self.draw(generator))


def draw_balanced(class_matrix: np.ndarray, generator: torch.Generator) -> list[int]:
    """
    As many clips as there are, with replacement, each class equally often. Clips of several classes are drawn as often
    as their rarest; those of none as often as the most frequent.

    Args:
        class_matrix: 0/1 of shape (clips, classes).
    """
    counts = np.maximum(class_matrix.sum(axis=0), 1)
    weights = (class_matrix / counts).max(axis=1)
    weights[weights == 0] = 1 / counts.max()
    weights = torch.as_tensor(weights, dtype=torch.float64)
    return torch.multinomial(weights, len(weights), replacement=True, generator=generator).tolist()


def _draw_like_lengths(seconds: Sequence[float], batch_size: int, generator: torch.Generator) -> list[int]:
    return get_length_grouped_indices(seconds, batch_size, generator=generator)


def _shuffle(num_clips: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(num_clips, generator=generator).tolist()


def _copy(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def make_loss(
    is_multi_label: bool, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None
) -> Callable[..., torch.Tensor]:
    """
    `compute_loss_func` of a `Trainer`, the same for every architecture: cross-entropy over classes, or binary
    cross-entropy of each class where multi-label.

    Args:
        is_multi_label: Labels are 0/1 of shape (batch, classes), not indices.
        label_smoothing: Part of the target that is spread evenly.
        class_weights: Shape (classes,): weight of a class's clips, or, where multi-label, of its positives.
    """

    def compute_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = outputs["logits"].float()
        weights = None if class_weights is None else class_weights.to(logits.device)
        if is_multi_label:
            targets = labels * (1 - label_smoothing) + label_smoothing / 2
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")
            num_items = labels.numel() if num_items_in_batch is None else num_items_in_batch
        else:
            # Not PyTorch's mean, which divides by the sum of the weights: a batch of one would lose them.
            loss = nn.functional.cross_entropy(
                logits, labels, weight=weights, label_smoothing=label_smoothing, reduction="sum"
            )
            num_items = len(labels) if num_items_in_batch is None else num_items_in_batch
        return loss / num_items

    return compute_loss


def balanced_class_weights(class_matrix: np.ndarray, is_multi_label: bool) -> torch.Tensor:
    """
    Weights that give every class the same sum over the training clips, or, where multi-label, the positives of a class
    the weight of its negatives.

    Args:
        class_matrix: 0/1 of shape (clips, classes).
    """
    positives = np.maximum(class_matrix.sum(axis=0), 1)
    if is_multi_label:
        weights = np.maximum(len(class_matrix) - positives, 1) / positives
    else:
        weights = len(class_matrix) / (class_matrix.shape[1] * positives)
    return torch.as_tensor(weights, dtype=torch.float32)


class EvaluationTable(ProgressCallback):
    """A progress bar of the steps and a line of results for each evaluation."""

    COLUMNS = (("mAP", "mAP"), ("accuracy", "accuracy"), ("macro_f1", "macro F1"))

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.columns = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Without the dictionaries that the base class prints."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if not state.is_world_process_zero or self.training_bar is None or "eval_loss" not in metrics:
            return
        if self.columns is None:
            self.columns = [(f"eval_{name}", title) for name, title in self.COLUMNS if f"eval_{name}" in metrics]
            titles = "".join(f"{title:>10}" for _, title in self.columns)
            self.training_bar.write(f"{'epoch':>8}{'loss':>10}{'validation loss':>18}{titles}")
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f"{losses[-1]:.4f}" if losses else "-"
        values = "".join(f"{metrics[name]:10.3f}" for name, _ in self.columns)
        self.training_bar.write(f"{state.epoch:8.1f}{loss:>10}{metrics['eval_loss']:18.4f}{values}")


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds of training, over all resumptions; `Trainer` itself counts from the last one."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.started: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self.started = self.total(), None

    def total(self) -> float:
        return self.seconds + (0.0 if self.started is None else time.monotonic() - self.started)

    def state(self) -> dict:
        return {"args": {"seconds": self.total()}, "attributes": {}}
