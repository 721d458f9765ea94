# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
transformers' `Trainer`, extended for training audio classifiers on small datasets.

Only public methods of `Trainer` are overridden, because private ones change between versions.
"""

import errno
import gc
import inspect
import math
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from accelerate.data_loader import prepare_data_loader
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Trainer

from sanet_hf.architectures import head_parameter_names
from sanet_hf.batchnorm_sanet import SANetBatchNorm
from sanet_hf.errors import DataError, SanetError, UsageError
from sanet_hf.training.callbacks import EarlyStoppingCallback, OptionsOnResuming, WeightAverage, new_cpu_group
from sanet_hf.training.checkpoints import (
    TRAINING_WEIGHTS_FILE,
    check_position,
    find_fault,
    find_last_checkpoint,
    load_renamed_weights,
    read_state,
)
from sanet_hf.training.data.batches import mixup
from sanet_hf.training.data.items import TEACHER_INPUTS, Teaching
from sanet_hf.training.options import changed_options
from sanet_hf.training.run_folder import RESTART
from sanet_hf.training.sampling import EpochSampler, draw_balanced, group_by_length, shuffle
from sanet_hf.training.time_limit import SCHEDULE_STEPS, TimeLimit, follow_time, has_ended


STEPS_BETWEEN_CHECKS = 16  # of the loss on a GPU
BATCH_NORM_BATCHES = 64  # for the statistics of averaged weights, at most
NO_INPUTS = ("labels", "index", TEACHER_INPUTS)  # keys of a batch that the model does not get
# Position tables and single learned vectors in transformers' audio models.
NOT_DECAYED = re.compile(r"position|pos_embed|rel_attn_embed|distance_embedding|(cls|dist|distillation)_token$")

# Options that can cause an error before the first step.
INVOLVED = re.compile(
    "accelerator|adam|compile|dataloader|deepspeed|fsdp|gradient|learning_rate|liger|lr_|optim|paral|warmup"
)


class AudioClassificationTrainer(Trainer):
    """
    `Trainer` with mixup, balanced sampling, length-grouped batches without decoding audio, a separate learning rate
    for the head, and weight averaging. The averaged weights are evaluated, saved and returned.

    Args:
        train_loss, eval_loss: As [`make_loss`] returns them. Evaluation has its own loss, which can be compared
            between runs with different training losses.
        teachers: Teachers, if any. Then `train_loss` is the result of [`make_taught_loss`].
        time_limit: The callback that ends the training after a time and sets the learning rate, if any.
        kwargs: Arguments of `Trainer`: `args` is an [`AudioTrainingArguments`], `train_dataset` a [`TrainingClips`] or
            [`StreamedClips`].

    Raises:
        FloatingPointError: The loss or the weights are no longer finite. No checkpoint with such weights is saved.
        OSError: A checkpoint cannot be written.
        UsageError: Training cannot begin: options do not work with each other, the data, the installed packages or the
            checkpoint.
    """

    def __init__(
        self,
        *,
        train_loss: Callable,
        eval_loss: Callable,
        teachers: Teaching | None = None,
        time_limit: TimeLimit | None = None,
        **kwargs,
    ):
        super().__init__(compute_loss_func=train_loss, **kwargs)
        self.train_loss, self.eval_loss, self.teachers = train_loss, eval_loss, teachers
        find_progress = None if time_limit is None else lambda state: time_limit.progress
        self.weight_average = WeightAverage(
            self.args.averaged_epochs, self._estimate_batch_norm, self.args.averaged_fraction, find_progress
        )
        self.time_limit = time_limit
        self.options_on_resuming = OptionsOnResuming()
        for callback in (self.weight_average, self.options_on_resuming):
            self.add_callback(callback)
        for module in self.model.modules():
            if isinstance(module, SANetBatchNorm):
                # The same statistics as in one process with the whole batch.
                module.synchronize = self.args.world_size > 1
        if not (self.args.fsdp or self.args.deepspeed):
            load_renamed_weights(self.model)
        self._stream_loader: DataLoader | None = None
        self._repeated: Iterator[dict[str, torch.Tensor]] = iter(())
        self._cpu_group = new_cpu_group()
        self._checkpoint: Path | None = None
        self._indices: torch.Tensor | None = None
        self._unchecked: list[tuple[int, torch.Tensor | None, torch.Tensor]] = []

    # Loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        # The index is not an input of the model.
        self._indices = inputs.pop("index", None)
        self.compute_loss_func = self.train_loss if model.training else self.eval_loss
        teacher_inputs = inputs.pop(TEACHER_INPUTS, None)
        if model.training and self.teachers is not None:
            inputs["labels"] = self.teachers.make_targets(inputs["labels"], teacher_inputs, self._indices)
        if model.training and self.args.mixup_alpha > 0:
            labels = inputs["labels"]
            if not labels.is_floating_point():
                labels = nn.functional.one_hot(labels, self.model.config.num_labels).float()
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
            inputs, labels = mixup(inputs, labels, self.args.mixup_alpha)
            inputs = {**inputs, "labels": labels}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self._unchecked.append((self.state.global_step + 1, self._indices, loss.detach()))
        # Reading a loss waits for the GPU.
        if self.args.device.type == "cpu" or len(self._unchecked) == STEPS_BETWEEN_CHECKS:
            self._check_losses()
        return loss

    def _check_losses(self) -> None:
        unchecked, self._unchecked = self._unchecked, []
        losses = torch.stack([loss.float() for _, _, loss in unchecked]).tolist() if unchecked else []
        for (step, indices, _), loss in zip(unchecked, losses):
            if not math.isfinite(loss):
                files = []
                if indices is not None and hasattr(self.train_dataset, "files"):
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
        named = f". Its batch contains {', '.join(dict.fromkeys(files))}" if files else ""
        raise FloatingPointError(
            f"{what}{named}. Earlier checkpoints in {self.args.output_dir} are kept. Try {', or '.join(advice)}. "
            "--resume_from_checkpoint true resumes with other options."
        )

    # Optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """
        Return the names of the parameters with weight decay: those with more than one dimension, except for position
        tables. `Trainer` selects by the names of normalisation layers instead, and misses half of SANet's.

        Source: `timm.optim.param_groups_weight_decay`.
        """
        return [
            name for name, parameter in model.named_parameters() if parameter.ndim > 1 and not NOT_DECAYED.search(name)
        ]

    def create_optimizer(self, *args):
        # Some versions of Trainer pass the wrapped model.
        is_new, model = self.optimizer is None, args[0] if args else self.model
        optimizer = super().create_optimizer(*args)
        if is_new and self.args.head_learning_rate is not None:
            self._set_head_learning_rate(optimizer, model)
        if is_new:
            groups = [
                {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
            ]
            self.options_on_resuming.groups = groups
        return optimizer

    def _set_head_learning_rate(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        names = head_parameter_names(model)
        head = {parameter for name, parameter in model.named_parameters() if name in names and parameter.requires_grad}
        for group in list(optimizer.param_groups):
            of_head = [parameter for parameter in group["params"] if parameter in head]
            others = [parameter for parameter in group["params"] if parameter not in head]
            head.difference_update(of_head)
            if of_head and others:
                group["params"] = others
                optimizer.add_param_group({**group, "params": of_head, "lr": self.args.head_learning_rate})
            elif of_head:
                group["lr"] = self.args.head_learning_rate
        # Optimizers that step within the backward pass have no parameter groups or ignore them.
        if head or "lomo" in self.args.optim:
            raise UsageError(f"--head_learning_rate does not work with --optim {self.args.optim}. Leave one out.")

    def create_scheduler(self, num_training_steps, *args, **kwargs):
        if self.time_limit is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, *args, **kwargs)
        scheduler = super().create_scheduler(SCHEDULE_STEPS, *args, **kwargs)
        return follow_time(scheduler, self.time_limit)

    def log(self, logs, *args, **kwargs):
        if self.time_limit is not None and "train_steps_per_second" in logs:
            # Trainer computes this value from the limit of steps, not from the actual steps.
            rate = logs["train_steps_per_second"] * self.get_total_train_batch_size(self.args)
            logs["train_samples_per_second"] = round(rate, 3)
        super().log(logs, *args, **kwargs)
        if self.time_limit is not None:
            times = {"seconds": round(self.time_limit.elapsed, 3), "progress": round(self.time_limit.progress, 5)}
            self.state.log_history[-1].update(times)

    # Checkpoints

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_last_checkpoint(Path(self.args.output_dir)) or True
        self.weight_average.checkpoint = resume_from_checkpoint or None
        self.options_on_resuming.is_resumed = bool(resume_from_checkpoint)
        self.options_on_resuming.has_begun = False
        try:
            self._check_batches(resume_from_checkpoint)
            if self.teachers is not None:
                self.teachers.remember(self.train_dataset, self._make_loader, self.args, self.accelerator)
            return self._train(resume_from_checkpoint, *args, **kwargs)
        except (SanetError, OSError, MemoryError):
            raise
        except Exception as error:
            if self.options_on_resuming.has_begun:
                raise
            # The optimizer, the schedule, the loader and others raise different kinds of errors for bad options.
            reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError | AttributeError) else error
            involved = ", ".join(f"--{name}" for name in changed_options(self.args) if INVOLVED.search(name))
            raise UsageError(
                f"Training cannot begin: {' '.join(str(reason).split())} (possible causes: {involved})."
            ) from error
        finally:
            if self.args.dataloader_persistent_workers:
                # Delete the loader to end its workers. They ignore SIGTERM, and Python would wait for them forever.
                self.callback_handler.train_dataloader = None
                self.accelerator._dataloaders.clear()
                gc.collect()

    def _check_batches(self, checkpoint: str | bool | None) -> None:
        """Check that there are batches to train on, and the position of a checkpoint in them."""
        if isinstance(self.train_dataset, IterableDataset):
            return
        num_batches = len(self.get_train_dataloader())
        if not num_batches:
            raise UsageError(
                f"--dataloader_drop_last true leaves no batch to train on: there are {len(self.train_dataset)} clips, "
                f"fewer than --per_device_train_batch_size {self.args.per_device_train_batch_size} in each process. "
                "Use a smaller batch size, or leave --dataloader_drop_last out."
            )
        if isinstance(checkpoint, str):
            state = read_state(checkpoint)
            check_position(state, num_batches, self.args.gradient_accumulation_steps)
            is_counted = self.args.restore_callback_states_from_checkpoint
            if is_counted and EarlyStoppingCallback.has_stopped(state, self.args.early_stopping_patience):
                self.args.max_steps = state.global_step
            if self.time_limit is not None and has_ended(state, self.time_limit.seconds):
                self.args.max_steps = state.global_step

    def _train(self, resume_from_checkpoint, *args, **kwargs):
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except ValueError as error:
            if resume_from_checkpoint and "parameter group" in str(error):
                raise UsageError(
                    f"Cannot resume {resume_from_checkpoint}: its optimizer has other parameter groups. It was saved "
                    f"by an earlier version of sanet-hf or with other options. {RESTART}"
                ) from error
            raise
        # PyTorch also raises a RuntimeError if the disk is full.
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            if resume_from_checkpoint and "size mismatch" in str(error):
                raise UsageError(
                    f"Cannot resume {resume_from_checkpoint}: it has another network or other classes. {RESTART}"
                ) from error
            if self._checkpoint is None or find_fault(self._checkpoint) is None:
                raise
            shutil.rmtree(self._checkpoint, ignore_errors=True)
            raise OSError(
                getattr(error, "errno", None) or errno.EIO,
                f"{self._checkpoint} cannot be written: {error}. Earlier checkpoints are kept. Free some disk space, "
                "or keep fewer checkpoints (--save_total_limit 1). Then run the same command again to resume.",
            ) from error

    def save_model(self, output_dir=None, _internal_call=False):
        # Internal calls save checkpoints.
        if _internal_call:
            self._check_losses()
            if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
                self._stop(f"Weights are no longer finite at step {self.state.global_step}")
            self._checkpoint = Path(output_dir)
        with self.weight_average.applied(self.model) as training_weights:
            super().save_model(output_dir, _internal_call)
        if training_weights is not None and self.args.should_save:
            path = Path(self.args.output_dir if output_dir is None else output_dir) / TRAINING_WEIGHTS_FILE
            safetensors.torch.save_file(training_weights, path, self.weight_average.metadata)

    def create_model_card(self, *args, **kwargs):
        """Do nothing: [`write_model_card`] writes the card, which `Trainer` would overwrite."""

    # Evaluation of averaged weights

    def evaluate(self, *args, **kwargs):
        with self.weight_average.applied(self.model):
            return super().evaluate(*args, **kwargs)

    @torch.no_grad()
    def _estimate_batch_norm(self) -> None:
        """
        Set BatchNorm's running statistics to their mean over training batches. Averaged weights need this, because the
        mean of the old statistics does not fit them.

        `torch.optim.swa_utils.update_bn` is not suitable. It passes one tensor without a mask to the model, and it
        resets layers with frozen weights, which keep their statistics in training.

        Source: Izmailov et al., 2018, section 3.2.
        """
        model, clips, device = self.model, self.train_dataset, self.args.device
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        norms = [norm for norm in norms if norm.track_running_stats and norm.weight.requires_grad]
        if not norms:
            return
        momenta, was_training = [norm.momentum for norm in norms], model.training
        # Clips of the next epoch, whose augmentation was not used in training.
        generator = torch.Generator().manual_seed(self.args.seed)
        order = round(self.state.epoch or 0) * len(clips) + torch.randperm(len(clips), generator=generator)
        batches = order.split(self.args.train_batch_size)
        # A smaller last batch would have too much weight.
        batches = [batch.tolist() for batch in batches if len(batch) == self.args.train_batch_size] or [order.tolist()]
        num_batches = min(BATCH_NORM_BATCHES, len(batches) // self.args.world_size) or 1
        numbers = range(self.args.process_index, num_batches * self.args.world_size, self.args.world_size)
        loader = DataLoader(
            clips,
            batch_sampler=[batches[number % len(batches)] for number in numbers],
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=_ignore_sigterm,
        )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.args.seed)
            model.train()
            for number, inputs in enumerate(loader):
                for norm in norms:
                    norm.momentum = 1 / (number + 1)
                model(**{name: value.to(device) for name, value in inputs.items() if name not in NO_INPUTS})
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        model.train(was_training)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of training clips, which are drawn in each epoch. Each process gets a part of them."""
        # A private attribute, but --auto_find_batch_size stores the batch size only there.
        batch_size, drop_last = self._train_batch_size, self.args.dataloader_drop_last
        if not isinstance(self.train_dataset, IterableDataset):
            return self.accelerator.prepare(
                self._make_loader(
                    self.train_dataset, batch_size, sampler=self._make_sampler(batch_size), drop_last=drop_last
                )
            )
        # Each process already reads only its part, so accelerate must not divide it. Persistent workers would not
        # get the number of the next epoch.
        self._stream_loader = self._make_loader(
            self.train_dataset, batch_size, drop_last=drop_last, persistent_workers=False
        )
        return prepare_data_loader(
            self._stream_loader,
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
            non_blocking=self.args.accelerator_config.non_blocking,
        )

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return a loader in the order of the dataset, which is sorted by length. Predictions are matched by order."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        # Each evaluation makes a new loader, so its workers must end with it.
        loader = self._make_loader(dataset, self.args.eval_batch_size, persistent_workers=False)
        return self.accelerator.prepare(loader)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    def _make_loader(self, dataset: Dataset, batch_size: int, **options) -> DataLoader:
        """Return a loader with all options of `DataLoader` in this version of `TrainingArguments`."""
        given = {
            name: getattr(self.args, f"dataloader_{name}")
            for name in inspect.signature(DataLoader).parameters
            if name != "drop_last" and hasattr(self.args, f"dataloader_{name}")
        }
        options = {"collate_fn": self.data_collator, "worker_init_fn": _ignore_sigterm, **given, **options}
        return DataLoader(dataset, batch_size, **options)

    def _make_sampler(self, batch_size: int) -> EpochSampler:
        clips, strategy = self.train_dataset, self.args.train_sampling_strategy
        draw = (
            partial(draw_balanced, clips.class_matrix, num_others=len(clips) - len(clips.class_matrix))
            if self.args.sampler == "balanced"
            else partial(shuffle, len(clips))
        )
        if strategy == "group_by_length":
            draw = partial(
                group_by_length, clips.seconds, batch_size * self.args.gradient_accumulation_steps, draw=draw
            )
        elif strategy == "sequential":
            draw = lambda generator: range(len(clips))  # noqa: E731
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(clips), draw, seed)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.args.world_size == 1 or not isinstance(self.train_dataset, IterableDataset):
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = list(islice(epoch_iterator, num_batches))
        # All processes must take part in every step. A process with fewer batches repeats its own.
        most = torch.tensor(len(batches))
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self._cpu_group)
        while len(batches) < most:
            batch = next(self._repeated, None)
            if batch is None:
                self._repeated = iter(self._stream_loader)
                batch = next(self._repeated, None)
            if batch is None:
                raise DataError(
                    f"Process {self.args.process_index} of {self.args.world_size} has no recordings to train on: "
                    "there are fewer recordings than processes. Start fewer processes."
                )
            batches.append(batch)
        if not most:
            self._repeated = iter(())
        return super().get_batch_samples(iter(batches), num_batches, device)


def _ignore_sigterm(worker_id: int) -> None:
    """Ignore SIGTERM in a `DataLoader` worker. Schedulers send it to all processes while the main one still saves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
