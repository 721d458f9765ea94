# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' `Trainer` with what training audio classifiers on small data needs."""

import math
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
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sanet_hf.modeling_sanet import SANetBatchNorm

from .callbacks import WeightAverage
from .features import StreamedClips, TrainingClips, mixup
from .models import head_parameter_names
from .sampling import EpochSampler, draw_balanced, draw_like_lengths, shuffle
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
            draw = partial(draw_like_lengths, self.train_dataset.seconds, batch_size)
        elif self.args.train_sampling_strategy == "random":
            draw = partial(shuffle, len(self.train_dataset))
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
