# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Loss, sampling, mixup, learning rates and clock of the trainer, and its options from the command to the model."""

import json
import shutil
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModelForAudioClassification, Trainer, TrainerState, TrainingArguments
from transformers.integrations import integration_utils
from transformers.trainer_pt_utils import get_length_grouped_indices

from sanet_hf import SANetFeatureExtractor
from sanet_hf.cli.main import main
from sanet_hf.cli.train_options import parse_train_arguments
from sanet_hf.errors import UsageError
from sanet_hf.training import callbacks as callbacks_module
from sanet_hf.training import trainer as trainer_module
from sanet_hf.training.arguments import AudioTrainingArguments
from sanet_hf.training.callbacks import TrainingClock, WeightAverage
from sanet_hf.training.data.batches import mixup
from sanet_hf.training.data.clips import TrainingClips
from sanet_hf.training.losses import balanced_class_weights, make_loss
from sanet_hf.training.sampling import EpochSampler, draw_balanced, group_by_length
from sanet_hf.training.train import train
from sanet_hf.training.trainer import AudioClassificationTrainer

from .tiny_models import MODEL_TYPES, make_config


pytestmark = pytest.mark.usefixtures("without_report")


def one_hot(*labels: int) -> np.ndarray:
    return np.eye(max(labels) + 1, dtype=int)[list(labels)]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Loss

LOGITS = 3 * randn(8, 3)
LABELS = torch.tensor([0, 1, 2, 2, 0, 2, 1, 0])
SOFT = randn(8, 3, seed=1).softmax(-1)
SEVERAL = (randn(8, 3, seed=2) > 0).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["indices", "soft"])
def test_loss_is_mean_cross_entropy(labels, smoothing):
    loss = make_loss(False, smoothing)({"logits": LOGITS}, labels)
    torch.testing.assert_close(loss, cross_entropy(LOGITS, labels, label_smoothing=smoothing))


def test_multi_label_loss_is_mean_binary_cross_entropy():
    loss = make_loss(True)({"logits": LOGITS}, SEVERAL)
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(LOGITS, SEVERAL))


def test_multi_label_smoothing():
    """Smoothing of 0.2 gives targets of 0.9 and 0.1."""
    loss = make_loss(True, 0.2)({"logits": LOGITS}, SEVERAL)
    targets = torch.where(SEVERAL == 1, 0.9, 0.1)
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(LOGITS, targets))


def test_one_hot_labels_give_the_loss_of_indices():
    weights = torch.tensor([1.0, 5.0, 0.5])
    loss = make_loss(False, class_weights=weights)
    hard = loss({"logits": LOGITS}, LABELS)
    torch.testing.assert_close(loss({"logits": LOGITS}, torch.eye(3)[LABELS]), hard)


def test_weighted_loss_by_hand():
    """A clip of a rare class weighs more than one of a frequent class."""
    weights = torch.tensor([0.5, 4.0])
    loss = make_loss(False, class_weights=weights)
    logits = torch.zeros(1, 2)
    assert loss({"logits": logits}, torch.tensor([0])).item() == pytest.approx(0.5 * np.log(2))
    assert loss({"logits": logits}, torch.tensor([1])).item() == pytest.approx(4 * np.log(2))
    several = make_loss(True, class_weights=weights)({"logits": logits}, torch.tensor([[0.0, 1.0]]))
    assert several.item() == pytest.approx((1 + 4) / 2 * np.log(2))


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])], ids=["plain", "weighted"])
@pytest.mark.parametrize("is_multi_label", [False, True], ids=["single", "multi"])
def test_losses_of_partial_batches_add_up(is_multi_label, weights):
    """Accumulated batches of any sizes give the loss of one large batch."""
    labels = SEVERAL if is_multi_label else LABELS
    loss = make_loss(is_multi_label, 0.1, weights)
    whole = loss({"logits": LOGITS}, labels)
    parts = [
        loss({"logits": LOGITS[start:end]}, labels[start:end], num_items_in_batch=torch.tensor(labels.numel()))
        for start, end in ((0, 5), (5, 7), (7, 8))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_loss_in_half_precision_is_computed_in_float32():
    loss = make_loss(False)({"logits": LOGITS.bfloat16()}, LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(LOGITS.bfloat16().float(), LABELS))


# Class weights and sampling


def test_balanced_class_weights():
    weights = balanced_class_weights(one_hot(0, 0, 0, 1), is_multi_label=False)
    assert weights.tolist() == pytest.approx([4 / 6, 2])
    # Positives weigh as much as negatives. A class in no clip, or in all, also gets a finite weight.
    several = np.array([[1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    weights = balanced_class_weights(several, is_multi_label=True)
    assert weights.tolist() == pytest.approx([1, 3, 1 / 4, 3])


def drawn(matrix: np.ndarray, num_epochs: int) -> np.ndarray:
    """Return how often each clip is drawn per epoch, on average."""
    generator, counts = torch.Generator().manual_seed(0), np.zeros(len(matrix))
    for _ in range(num_epochs):
        clips = draw_balanced(matrix, generator)
        assert len(clips) == len(matrix)
        np.add.at(counts, clips, 1)
    return counts / num_epochs


def test_balanced_draws_classes_equally():
    matrix = one_hot(*[0] * 80, *[1] * 15, *[2] * 5)
    counts = drawn(matrix, 60)
    # 2,000 of 6,000 draws, with a standard deviation of 37.
    assert counts @ matrix == pytest.approx([100 / 3] * 3, rel=0.08)
    assert (counts > 0).all()
    of_class = counts[95:]
    assert of_class == pytest.approx([100 / 15] * 5, rel=0.2)


def test_balanced_draws_of_several_classes():
    """A clip is drawn according to its rarest class. Clips without a class together count as one class."""
    matrix = np.array([[1, 0]] * 60 + [[1, 1]] * 10 + [[0, 0]] * 30)
    counts = drawn(matrix, 200)
    frequent, rare, none = counts[:60].mean(), counts[60:70].mean(), counts[70:].mean()
    # The classes have 70 and 10 clips, and 30 clips have none.
    assert rare / frequent == pytest.approx(7, rel=0.1)
    assert none / frequent == pytest.approx(7 / 3, rel=0.1)


def test_balanced_draws_of_a_detector_are_half_positive():
    matrix = np.array([[1]] * 10 + [[0]] * 90)
    assert drawn(matrix, 60)[:10].sum() == pytest.approx(50, rel=0.08)


@given(
    seconds=st.lists(st.integers(1, 4), min_size=1, max_size=60), batch_size=st.integers(1, 8), seed=st.integers(0, 9)
)
def test_grouping_by_length_agrees_with_transformers(seconds, batch_size, seed):
    """A resumed training needs the same order for the rest of its epoch."""
    expected = get_length_grouped_indices(seconds, batch_size, generator=torch.Generator().manual_seed(seed))
    assert group_by_length(seconds, batch_size, torch.Generator().manual_seed(seed)) == expected


def test_recordings_are_grouped_by_clip_length(tmp_path):
    """The order of recordings longer than a clip is random."""
    lengths = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5] * 8)
    trainer = make_trainer(AutoModelForAudioClassification.from_config(make_config("sanet")), tmp_path)
    recordings = Dataset.from_dict({"label": [0] * len(lengths), "seconds": lengths})
    recordings = recordings.cast_column("label", ClassLabel(names=["a"]))

    def order_of(strategy: str, max_length_seconds: float, feature_extractor: SANetFeatureExtractor) -> list[int]:
        trainer.train_dataset = TrainingClips(recordings, feature_extractor, {"a": 0}, max_length_seconds)
        trainer.args.train_sampling_strategy = strategy
        return [*trainer._make_sampler(4)]

    part = lengths[order_of("group_by_length", 3.0, SANetFeatureExtractor())][:20]
    assert (np.diff(np.minimum(part, 3)) <= 0).all() and (np.diff(part[part > 3]) > 0).any()
    # Clips of equal length are only shuffled: clips shorter than all recordings, or padded with silence.
    for seconds, is_masked in ((0.5, True), (3.0, False)):
        feature_extractor = SANetFeatureExtractor(return_attention_mask=is_masked)
        orders = [order_of(strategy, seconds, feature_extractor) for strategy in ("group_by_length", "random")]
        assert orders[0] == orders[1]


@given(num_clips=st.integers(1, 50), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_sampler_index_encodes_clip_and_epoch(num_clips, seed, epoch):
    def draw(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(num_clips, lambda generator: torch.randperm(num_clips, generator=generator), seed)
        sampler.set_epoch(epoch)
        assert len(sampler) == num_clips
        return [int(index) for index in sampler]

    indices = draw(seed, epoch)
    assert indices == draw(seed, epoch)
    assert {index // num_clips for index in indices} == {epoch}
    assert sorted(index % num_clips for index in indices) == [*range(num_clips)]
    if num_clips > 20:
        orders = {tuple(index % num_clips for index in draw(*at)) for at in ((0, 0), (0, 1), (1, 0), (1, 1))}
        assert len(orders) == 4


# Mixup


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), alpha=st.sampled_from([0.05, 0.4, 1.0, 8.0]))
def test_mixup_is_a_convex_mixture_of_pairs(seed, alpha):
    torch.manual_seed(seed)
    # The features identify the clip, so a mixture shows its parts.
    clips = torch.eye(5)
    labels = torch.eye(3)[torch.tensor([0, 1, 2, 2, 0])]
    mixed, mixed_labels = mixup({"input_values": clips}, labels, alpha)
    shares = mixed["input_values"]
    assert set(mixed) == {"input_values"}
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    assert (shares >= 0).all()
    own = shares.diagonal()
    assert (own >= 0.5 - 1e-6).all() and ((shares > 0).sum(1) <= 2).all()
    # One weight for the whole batch. A clip that is mixed with itself does not change.
    part = own.min()
    assert torch.all(torch.isclose(own, part) | torch.isclose(own, torch.tensor(1.0)))
    # Each clip is mixed in once.
    torch.testing.assert_close(shares.sum(0), torch.ones(5))
    torch.testing.assert_close(mixed_labels, shares @ labels)
    torch.testing.assert_close(mixed_labels.sum(1), torch.ones(5))


def test_mixup_joins_the_masks_of_both_clips():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    values = mask * torch.tensor([1.0, 10.0, 100.0])[:, None]
    for seed in range(10):
        torch.manual_seed(seed)
        mixed, _ = mixup({"input_values": values, "attention_mask": mask}, torch.eye(3), 1.0)
        assert torch.equal(mixed["attention_mask"], (mixed["input_values"] > 0).to(mask))
        assert mixed["attention_mask"].dtype == mask.dtype


def test_mixup_supports_spectrograms():
    values = randn(4, 80, 30)
    mixed, labels = mixup({"input_features": values}, torch.eye(4), 1.0)
    torch.testing.assert_close(mixed["input_features"], torch.einsum("ij,jkl->ikl", labels, values))


# Learning rates


def make_trainer(model, output_dir, **options) -> AudioClassificationTrainer:
    arguments = AudioTrainingArguments(output_dir=str(output_dir), use_cpu=True, report_to="none", **options)
    return AudioClassificationTrainer(
        train_loss=make_loss(False, 0.5),
        eval_loss=make_loss(False),
        model=model,
        args=arguments,
    )


def test_evaluation_uses_the_plain_loss(tmp_path):
    model = AutoModelForAudioClassification.from_config(make_config("sanet"))
    trainer = make_trainer(model, tmp_path)
    inputs = {"input_values": torch.randn(2, 4000), "labels": torch.tensor([0, 1])}
    with torch.no_grad():
        loss = trainer.compute_loss(model.eval(), dict(inputs))
        logits = model(inputs["input_values"]).logits
        torch.testing.assert_close(loss, cross_entropy(logits, inputs["labels"]))
        for module in model.modules():
            module.training = module is model
        smoothed = trainer.compute_loss(model, dict(inputs))
    torch.testing.assert_close(smoothed, cross_entropy(logits, inputs["labels"], label_smoothing=0.5))


@pytest.mark.parametrize("frozen", [False, True], ids=["all", "frozen"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_head_learning_rate(model_type, frozen, tmp_path):
    model = AutoModelForAudioClassification.from_config(make_config(model_type))
    head = {name for name, _ in model.named_parameters() if name.startswith(("classifier.", "projector."))}
    if frozen:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
    trainer = make_trainer(model, tmp_path, learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.05)
    decayed = set(trainer.get_decay_parameter_names(model))
    groups = trainer.create_optimizer().param_groups
    found = [(id(parameter), group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]]
    expected = [
        (id(parameter), 1e-2 if name in head else 1e-4, 0.05 if name in decayed else 0.0)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    assert sorted(found) == sorted(expected)
    assert all(group["params"] for group in groups)
    assert {name for name in head if name.endswith("bias")}.isdisjoint(decayed)


# Position tables and single vectors are not decayed, although they have several dimensions.
NOT_DECAYED = {
    "sanet": {"sanet.layers.3.position_embedding.weight"},
    "wav2vec2": set(),
    "hubert": set(),
    "ast": {
        "audio_spectrogram_transformer.embeddings.cls_token",
        "audio_spectrogram_transformer.embeddings.distillation_token",
        "audio_spectrogram_transformer.embeddings.position_embeddings",
    },
    "whisper": {"encoder.embed_positions.weight"},
}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_only_weights_of_several_dimensions_are_decayed(model_type, tmp_path):
    model = AutoModelForAudioClassification.from_config(make_config(model_type))
    decayed = set(make_trainer(model, tmp_path).get_decay_parameter_names(model))
    of_several = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert decayed < {name for name, _ in model.named_parameters()}
    assert of_several - decayed == NOT_DECAYED[model_type] and decayed <= of_several
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    gains = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, norms)}
    assert gains and gains.isdisjoint(decayed)


def test_groups_of_optimizer_factories_are_kept(tmp_path, monkeypatch):
    """Some factories make groups with separate settings. Parameters of the head keep the settings of their group."""
    model = AutoModelForAudioClassification.from_config(make_config("wav2vec2"))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": parameters[:20], "dampening": 0.1}, {"params": parameters[20:], "momentum": 0.5}]
    options = {"params": groups, "lr": 1e-4}
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(lambda *_: (torch.optim.SGD, options)))
    trainer = make_trainer(model, tmp_path, learning_rate=1e-4, head_learning_rate=1e-2)
    head = {p for name, p in model.named_parameters() if name.startswith(("classifier.", "projector."))}
    first, second, of_head = trainer.create_optimizer().param_groups
    assert (first["dampening"], second["momentum"], of_head["momentum"]) == (0.1, 0.5, 0.5)
    assert set(of_head["params"]) == head and of_head["lr"] == 1e-2 and first["lr"] == second["lr"] == 1e-4
    assert {*first["params"], *second["params"]} == set(parameters) - head


def test_head_learning_rate_needs_an_optimizer_with_groups(tmp_path, monkeypatch):
    """Optimizers that step layer by layer in the backward pass have no groups."""
    model = AutoModelForAudioClassification.from_config(make_config("wav2vec2"))
    options = {"optimizer_dict": [torch.zeros(1)], "lr": 1e-4}
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(lambda *_: (torch.optim.SGD, options)))
    with pytest.raises(UsageError, match="--head_learning_rate does not work with --optim"):
        make_trainer(model, tmp_path, head_learning_rate=1e-2).create_optimizer()


def test_schedule_scales_both_learning_rates(tmp_path):
    model = AutoModelForAudioClassification.from_config(make_config("wav2vec2"))
    options = {"learning_rate": 1e-4, "head_learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 0}
    trainer = make_trainer(model, tmp_path, **options)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    for _ in range(5):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert {round(group["lr"], 9) for group in trainer.optimizer.param_groups} == {0.5e-4, 0.5e-2}


def test_one_learning_rate_without_the_option(tmp_path):
    model = AutoModelForAudioClassification.from_config(make_config("wav2vec2"))
    optimizer = make_trainer(model, tmp_path, learning_rate=1e-4).create_optimizer()
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}


# Methods that the Trainer of transformers calls


def test_no_private_method_of_the_trainer_is_overridden():
    """Private methods change between versions of transformers."""
    own = {name for name in vars(AudioClassificationTrainer) if name.startswith("_") and not name.startswith("__")}
    assert own and not {name for name in own if hasattr(Trainer, name)}


def test_trainer_calls_all_overridden_methods(command, monkeypatch):
    """An override has an effect only if transformers calls it."""
    calls = set()

    def spy(name: str):
        original = getattr(AudioClassificationTrainer, name)

        def function(trainer, *args, **kwargs):
            calls.add(name)
            return original(trainer, *args, **kwargs)

        return function

    names = {name for name in vars(AudioClassificationTrainer) if hasattr(Trainer, name) and not name.startswith("_")}
    assert names == {
        "compute_loss",
        "create_model_card",
        "create_optimizer",
        "create_scheduler",
        "evaluate",
        "get_batch_samples",
        "get_decay_parameter_names",
        "get_eval_dataloader",
        "get_test_dataloader",
        "get_train_dataloader",
        "log",
        "save_model",
        "train",
        "training_step",
    }
    for name in names:
        monkeypatch.setattr(AudioClassificationTrainer, name, spy(name))
    assert main([*command, "--num_train_epochs", "1"]) == 0
    # Trainer writes a card only when it uploads the model.
    assert names - calls == {"create_model_card"}


def test_one_process_uses_one_gpu(tmp_path, monkeypatch):
    """`Trainer` would copy the model to each GPU, and BatchNorm would see only a part of the batch."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda arguments: 2))
    model = AutoModelForAudioClassification.from_config(make_config("sanet"))
    batch = {"input_values": torch.randn(4000), "labels": 0}

    def wrapped_by(trainer_class: type, arguments: TrainingArguments, **options) -> nn.Module:
        """Return the module that evaluates a batch."""
        trainer = trainer_class(model=model, args=arguments, eval_dataset=[batch, batch], **options)
        seen = []
        compute_loss = trainer.compute_loss
        trainer.compute_loss = lambda model, *args, **kwargs: (
            seen.append(model),
            compute_loss(model, *args, **kwargs),
        )[1]
        trainer.evaluate()
        return seen[0]

    options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "per_device_eval_batch_size": 1}
    assert isinstance(wrapped_by(Trainer, TrainingArguments(**options)), nn.DataParallel)
    losses = {"train_loss": make_loss(False), "eval_loss": make_loss(False)}
    assert wrapped_by(AudioClassificationTrainer, AudioTrainingArguments(**options), **losses) is model


# Clock


def test_clock_adds_up_over_resumptions(monkeypatch):
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(callbacks_module, "time", SimpleNamespace(monotonic=lambda: now.value))
    clock = TrainingClock()
    assert clock.total() == 0
    clock.on_train_begin(None, None, None)
    now.value = 107.0
    saved = clock.state()  # in a checkpoint
    now.value = 110.0
    clock.on_train_end(None, None, None)
    now.value = 200.0
    assert clock.total() == 10
    # The time after the checkpoint does not count, because its steps are repeated.
    resumed = TrainingClock.from_state(saved)
    assert resumed.total() == 7
    resumed.on_train_begin(None, None, None)
    now.value = 205.0
    assert resumed.total() == resumed.state()["args"]["seconds"] == 12
    resumed.on_train_end(None, None, None)
    assert resumed.total() == 12


# Average of weights


def average_of(values: list[float], num_epochs: int) -> tuple[WeightAverage, nn.Module]:
    """Return an average, and a BatchNorm whose weights and statistics had one of the values after each epoch."""
    average, model = WeightAverage(num_epochs, lambda: None), nn.BatchNorm1d(2)
    for epoch, value in enumerate(values, 1):
        for name in ("weight", "running_mean"):
            getattr(model, name).data.fill_(value)
        model.num_batches_tracked.fill_(epoch)
        # Slightly off, like a sum of steps.
        state = TrainerState(epoch=epoch + 1e-9, num_train_epochs=len(values))
        average.on_epoch_end(None, state, None, model=model)
    return average, model


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=12), num_epochs=st.integers(2, 5))
def test_average_is_the_mean_of_the_last_epochs(values, num_epochs):
    average, _ = average_of(values, num_epochs)
    mean = average.average.module
    np.testing.assert_allclose(mean.weight.detach(), np.mean(values[-num_epochs:]), atol=1e-5)
    # Statistics are not averaged. They are estimated later.
    assert torch.equal(mean.running_mean, torch.full((2,), values[-1])) and mean.num_batches_tracked == len(values)


def test_average_is_applied_and_removed():
    average, model = average_of([1.0, 3.0], 2)
    with pytest.raises(KeyError), average.applied(model):
        assert model.weight.tolist() == [2.0, 2.0]
        raise KeyError
    assert model.weight.tolist() == model.running_mean.tolist() == [3.0, 3.0]
    # Further training does not change the average.
    model.weight.data.fill_(9)
    assert average.average.module.weight.tolist() == [2.0, 2.0]


def test_batch_norm_is_estimated_once_per_average(tmp_path):
    average, model = average_of([1.0, 3.0], 2)
    calls = []

    def estimate():
        calls.append(model.weight.tolist())
        model.running_mean.fill_(7)

    average.estimate_batch_norm = estimate
    for _ in range(2):
        with average.applied(model):
            assert model.running_mean.tolist() == [7.0, 7.0]
        assert model.running_mean.tolist() == [3.0, 3.0]
    assert calls == [[2.0, 2.0]]
    # Resumed from a checkpoint, whose model is the average.
    save_file(model.state_dict(), tmp_path / "training_weights.safetensors")
    model.weight.data.fill_(2)
    average.checkpoint = tmp_path
    average.on_train_begin(None, None, None, model=model)
    assert model.weight.tolist() == [3.0, 3.0]
    with average.applied(model):
        assert calls == [[2.0, 2.0]] * 2 and model.weight.tolist() == [2.0, 2.0]


class Normalization(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, values):
        return self.norm(nn.functional.dropout(values, 0.5, self.training))


@pytest.mark.parametrize("rank", [0, 1])
def test_batch_norm_is_the_mean_over_batches(rank, monkeypatch):
    """Each process uses a limited number of its batches of the next epoch. The random state does not change."""
    drawn = []

    class Clips:
        def __len__(self):
            return 22

        def __getitem__(self, index):
            drawn.append(index)
            return {"values": torch.tensor([float(index)])}

    monkeypatch.setattr(trainer_module, "BATCH_NORM_BATCHES", 2)
    monkeypatch.setattr(nn.functional, "dropout", lambda values, *_: values + 0 * torch.rand(1))
    model = Normalization().eval()
    trainer = SimpleNamespace(
        model=model,
        train_dataset=Clips(),
        state=SimpleNamespace(epoch=3.0),
        args=SimpleNamespace(
            seed=0,
            train_batch_size=4,
            world_size=2,
            process_index=rank,
            device=torch.device("cpu"),
            dataloader_num_workers=0,
        ),
        data_collator=lambda items: {"values": torch.stack([item["values"] for item in items]), "labels": 0},
    )
    before = torch.get_rng_state()
    AudioClassificationTrainer._estimate_batch_norm(trainer)
    assert torch.equal(torch.get_rng_state(), before) and not model.training and model.norm.momentum == 0.1
    assert len(set(drawn)) == 8 and all(66 <= index < 88 for index in drawn)
    batches = torch.tensor(drawn, dtype=torch.float32).view(2, 4)
    torch.testing.assert_close(model.norm.running_mean, batches.mean().view(1))
    torch.testing.assert_close(model.norm.running_var, batches.var(1).mean().view(1))
    others = list(drawn)
    drawn.clear()
    trainer.args.process_index = 1 - rank
    AudioClassificationTrainer._estimate_batch_norm(trainer)
    assert not set(others) & set(drawn)


def test_no_average_without_the_option():
    average, model = average_of([1.0, 3.0], 1)
    with average.applied(model) as training_weights:
        assert average.average is training_weights is None and model.weight.tolist() == [3.0, 3.0]


# From the command to the model


@pytest.fixture(scope="module")
def fixed(tiny_options) -> list[str]:
    """Return options for two epochs of the tiny network that do not depend on the values in sanet.yaml."""
    options = [*tiny_options, "--num_train_epochs", "2", "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    return [*options, "--train_sampling_strategy", "random", "--label_smoothing_factor", "0"]


@pytest.fixture
def command(tones, fixed, tmp_path) -> list[str]:
    return ["train", "sanet.yaml", "--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), *fixed]


@pytest.fixture(scope="module")
def uneven(tones, tmp_path_factory):
    """Return a copy of `tones` with 4 training clips of `high` and 16 of `low`."""
    data = tmp_path_factory.mktemp("uneven") / "data"
    shutil.copytree(tones, data)
    for path in sorted((data / "train/high").iterdir())[4:]:
        path.unlink()
    return data


@pytest.fixture(scope="module")
def train_uneven(uneven, fixed, tmp_path_factory):
    """Return a function that trains one epoch on `uneven` and returns the weights."""

    def run(*options: str) -> dict[str, torch.Tensor]:
        folder = tmp_path_factory.mktemp("runs") / "run"
        command = ["train", "sanet.yaml", "--data_dir", str(uneven), "--output_dir", str(folder), *fixed]
        assert main([*command, "--num_train_epochs", "1", *options]) == 0
        return weights_of(folder)

    return run


@pytest.fixture(scope="module")
def plain_weights(train_uneven):
    return train_uneven()


def results_of(folder) -> dict:
    return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


def history_of(folder) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]


def weights_of(folder) -> dict[str, torch.Tensor]:
    return AutoModelForAudioClassification.from_pretrained(folder).state_dict()


@pytest.mark.parametrize(
    "options",
    [
        ["--class_weights", "balanced", "--label_smoothing_factor", "0.1"],
        ["--sampler", "balanced", "--mixup_alpha", "0.4", "--head_learning_rate", "1e-3"],
        ["--class_weights", "balanced", "--mixup_alpha", "1", "--label_smoothing_factor", "0.1"],
        ["--train_sampling_strategy", "group_by_length", "--gradient_accumulation_steps", "3"],
    ],
    ids=["weights_smoothing", "sampler_mixup_head", "weights_mixup_smoothing", "length_accumulation"],
)
def test_combined_options_train(command, uneven, options, tmp_path):
    assert main([*command, "--data_dir", str(uneven), *options, "--num_train_epochs", "1"]) == 0
    results = results_of(tmp_path / "run")
    assert results["epoch"] == 1 and {"train_accuracy", "eval_macro_f1", "test_ece"} <= set(results)
    losses = [entry[name] for entry in history_of(tmp_path / "run") for name in ("loss", "eval_loss") if name in entry]
    assert len(losses) == 2 and all(np.isfinite(losses))


def test_training_is_reproducible(train_uneven, plain_weights):
    again = train_uneven()
    assert all(torch.equal(again[name], plain_weights[name]) for name in plain_weights)


@pytest.mark.parametrize(
    "options",
    [["--class_weights", "balanced"], ["--mixup_alpha", "1"], ["--label_smoothing_factor", "0.2"]],
    ids=["class_weights", "mixup", "label_smoothing"],
)
def test_option_changes_the_training(train_uneven, plain_weights, options):
    weights = train_uneven(*options)
    assert not torch.allclose(weights["classifier.4.weight"], plain_weights["classifier.4.weight"])


def test_accumulated_batches_equal_one_large_batch(command, uneven, tmp_path):
    """20 clips in one batch, or in batches of 6, 6, 6 and 2, whose losses must not have equal weight."""
    # Without parts that depend on the batch: dropout, BatchNorm (frozen in the backbone) and gradient clipping.
    command = [*command, "--data_dir", str(uneven), "--class_weights", "balanced", "--num_train_epochs", "1"]
    command[command.index("--config_overrides") + 1] += ",classifier_hidden_sizes=[],classifier_dropout=0"
    command += ["--freeze", "backbone", "--max_grad_norm", "0", "--optim", "sgd"]
    losses = []
    for name, size, steps in (("one", "20", "1"), ("parts", "6", "4")):
        options = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps]
        assert main([*command, *options, "--output_dir", str(tmp_path / name)]) == 0
        assert json.loads((tmp_path / name / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 1
        losses.append(next(entry["loss"] for entry in history_of(tmp_path / name) if "loss" in entry))
    one, parts = weights_of(tmp_path / "one"), weights_of(tmp_path / "parts")
    head = [name for name in one if name.startswith("classifier.")]
    assert head and all(torch.allclose(one[name], parts[name], atol=1e-6) for name in head)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "distinct"),
    [
        (["--sampler", "balanced"], False),
        (["--train_sampling_strategy", "random"], True),
        (["--train_sampling_strategy", "group_by_length"], True),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_clips_are_drawn_again_each_epoch(command, uneven, monkeypatch, options, distinct):
    epochs = []

    class Spy(EpochSampler):
        def __iter__(self):
            epochs.append(list(super().__iter__()))
            return iter(epochs[-1])

    monkeypatch.setattr(trainer_module, "EpochSampler", Spy)
    assert main([*command, "--data_dir", str(uneven), *options, "--num_train_epochs", "3"]) == 0
    assert [{index // 20 for index in indices} for indices in epochs] == [{0}, {1}, {2}]
    clips = [[index % 20 for index in indices] for indices in epochs]
    assert all(len(indices) == 20 for indices in clips) and all(first != second for first, second in pairwise(clips))
    if distinct:
        assert all(sorted(indices) == [*range(20)] for indices in clips)
    else:
        # The first 4 of 20 clips are `high`, but they are about half of the drawn clips.
        assert 0.3 < np.mean([index < 4 for indices in clips for index in indices]) < 0.7


@pytest.mark.parametrize("metric", ["macro_f1", "ece", "eval_loss"])
def test_best_epoch_is_kept(command, tmp_path, metric):
    """This holds for metrics where high values are best and for those where low values are best."""
    options = ["--metric_for_best_model", metric, "--num_train_epochs", "5", "--save_total_limit", "1"]
    assert main([*command, *options, "--learning_rate", "3e-2"]) == 0
    values = [
        entry[f"eval_{metric.removeprefix('eval_')}"] for entry in history_of(tmp_path / "run") if "eval_loss" in entry
    ]
    best = max(values) if metric == "macro_f1" else min(values)
    assert len(values) == 5 and min(values) < max(values)
    state = TrainerState.load_from_json(str(tmp_path / "run/trainer_state.json"))
    assert state.best_metric == best
    (checkpoint,) = checkpoints_of(tmp_path / "run")
    assert checkpoint.name == f"checkpoint-{8 * (values.index(best) + 1)}"
    kept = weights_of(tmp_path / "run")
    assert all(torch.equal(kept[name], weight) for name, weight in weights_of(checkpoint).items())


@pytest.mark.parametrize("limit", [2, 3])
def test_number_of_kept_checkpoints(command, tmp_path, limit):
    """The best checkpoint is one of them. The test above has a limit of one."""
    options = ["--num_train_epochs", "5", "--metric_for_best_model", "loss", "--learning_rate", "3e-2"]
    assert main([*command, *options, "--save_total_limit", str(limit)]) == 0
    kept = [path.name for path in checkpoints_of(tmp_path / "run")]
    state = TrainerState.load_from_json(str(tmp_path / "run/trainer_state.json"))
    losses = [entry["eval_loss"] for entry in history_of(tmp_path / "run") if "eval_loss" in entry]
    assert state.best_metric == min(losses) and state.best_global_step == 8 * (losses.index(min(losses)) + 1)
    assert len(kept) == limit and f"checkpoint-{state.best_global_step}" in kept and "checkpoint-40" in kept


def test_jit_checkpoint_is_refused(command):
    """It would add a second handler of SIGTERM."""
    with pytest.raises(UsageError, match="--enable_jit_checkpoint is not supported"):
        train(*parse_train_arguments([*command[1:], "--enable_jit_checkpoint", "true"]))


def test_a_checkpoint_of_another_optimizer_is_refused(command, tmp_path):
    """Earlier versions decayed other weights, for example."""
    assert main(command) == 0
    (tmp_path / "run/all_results.json").unlink()
    options = ["--resume_from_checkpoint", "true", "--num_train_epochs", "3", "--head_learning_rate", "1e-3"]
    with pytest.raises(UsageError, match="its optimizer has other parameter groups"):
        train(*parse_train_arguments([*command[1:], *options]))


def test_early_stopping_ends_training_after_the_patience(command, tmp_path):
    """With a learning rate of zero, the last two of three evaluations are no better than the first."""
    command[command.index("--config_overrides") + 1] += ",classifier_hidden_sizes=[]"
    options = ["--freeze", "backbone", "--learning_rate", "0", "--num_train_epochs", "9"]
    assert main([*command, *options, "--early_stopping_patience", "2"]) == 0
    assert len([entry for entry in history_of(tmp_path / "run") if "eval_macro_f1" in entry]) == 3
    assert results_of(tmp_path / "run")["epoch"] == 3


@pytest.mark.parametrize("learning_rate", ["1e4", "1e30"])
def test_evaluation_reports_a_diverged_training(command, capsys, learning_rate):
    """The weights can still be finite. So can the last loss, because it was computed before the step."""
    options = ["--learning_rate", learning_rate, "--max_steps", "1", "--warmup_steps", "0"]
    assert main([*command, *options]) == 1
    assert "sanet: error: The model's scores are not finite" in capsys.readouterr().err


def test_dropping_the_only_batch_is_refused(command):
    with pytest.raises(UsageError, match=r"--dataloader_drop_last true leaves no batch.*: there are 32 clips"):
        options = ["--dataloader_drop_last", "true", "--per_device_train_batch_size", "33"]
        train(*parse_train_arguments([*command[1:], *options]))


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("wandb", "is_wandb_available"),
        ("tensorboard", "is_tensorboard_available"),
        ("comet_ml", "is_comet_available"),
    ],
)
def test_tracker_that_is_not_installed_is_refused(command, name, check, monkeypatch):
    monkeypatch.setattr(integration_utils, check, lambda *args: False)
    with pytest.raises(UsageError, match=f"are not valid: .* requires {name.removesuffix('_ml')}"):
        train(*parse_train_arguments([*command[1:], "--report_to", name]))


def test_early_stopping_needs_the_best_model(command):
    options = ["--early_stopping_patience", "2", "--load_best_model_at_end", "false"]
    with pytest.raises(UsageError, match="needs --load_best_model_at_end"):
        train(*parse_train_arguments([*command[1:], *options]))


def test_training_time_is_kept_on_resuming(command, tmp_path):
    command = [*command, "--save_total_limit", "5"]
    assert main(command) == 0
    output_dir = tmp_path / "run"
    before = results_of(output_dir)["train_runtime"]
    (output_dir / "all_results.json").unlink()
    first, last = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    state = TrainerState.load_from_json(str(first / "trainer_state.json"))
    clock = state.stateful_callbacks["TrainingClock"]
    assert 0 < clock["args"]["seconds"] < before
    clock["args"]["seconds"] = 1000.0
    state.save_to_json(str(first / "trainer_state.json"))
    assert main(command) == 0
    assert 1000 < results_of(output_dir)["train_runtime"] < 2000


@pytest.fixture(scope="module")
def train_joined(tones, fixed, tmp_path_factory):
    """Return a function that trains two epochs on joined clips with the augmentation of the original."""

    def run(*options: str):
        output_dir = tmp_path_factory.mktemp("joined") / "run"
        command = ["train", "sanet.yaml", "sanet_dynamic.yaml", "--data_dir", str(tones), *fixed]
        assert main([*command, "--samples_per_class", "6", "--output_dir", str(output_dir), *options]) == 0
        return output_dir

    return run


def test_joined_clips_are_the_same_in_worker_processes(train_joined):
    alone, workers = train_joined(), train_joined("--dataloader_num_workers", "2")
    # Two classes of six clips, in batches of four.
    assert json.loads((alone / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 6
    weights = weights_of(workers)
    assert all(torch.equal(weight, weights[name]) for name, weight in weights_of(alone).items())


def test_joined_clips_of_validation_are_fixed(train_joined):
    history = history_of(train_joined("--freeze", "backbone", "--learning_rate", "0"))
    first, second = (entry["eval_loss"] for entry in history if "eval_loss" in entry)
    assert first == second
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("option", ["--samples_per_class", "--max_segments"])
def test_joined_clips_need_positive_numbers(command, option):
    options = ["--samples_per_class", "4", option, "0"]
    with pytest.raises(UsageError, match="must be at least 1"):
        train(*parse_train_arguments([*command[1:], *options]))


def checkpoints_of(folder) -> list:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.fixture(scope="module")
def averaged(tones, fixed, tmp_path_factory):
    """Return a command that averages the last three of four epochs, a run without averaging, and its own run."""
    command = ["train", "sanet.yaml", "--data_dir", str(tones), *fixed, "--num_train_epochs", "4"]
    command += ["--save_total_limit", "5"]
    plain, output_dir = (tmp_path_factory.mktemp("averaged") / name for name in ("plain", "run"))
    assert main([*command, "--output_dir", str(plain)]) == 0
    command += ["--averaged_epochs", "3"]
    assert main([*command, "--output_dir", str(output_dir)]) == 0
    return command, plain, output_dir


def test_averaging_changes_checkpoints_but_not_training(averaged):
    _, plain, output_dir = averaged
    trained = [weights_of(checkpoint) for checkpoint in checkpoints_of(plain)]
    first, *others = checkpoints_of(output_dir)
    assert all(torch.equal(weights_of(first)[name], weight) for name, weight in trained[0].items())
    for number, checkpoint in enumerate(others, 1):
        weights, raw = weights_of(checkpoint), load_file(checkpoint / "training_weights.safetensors")
        for name, weight in trained[number].items():
            assert torch.equal(raw[name], weight)
            if "running" in name or "num_batches" in name:
                # These are estimated from training clips.
                assert not torch.equal(weights[name], weight)
                continue
            weight = torch.stack([weights[name] for weights in trained[1 : number + 1]]).mean(0)
            assert torch.allclose(weights[name], weight, atol=1e-6)
    assert not [*plain.rglob("training_weights*"), *first.glob("training_weights*")]


def test_averages_are_evaluated_and_saved(averaged, tones):
    _, plain, output_dir = averaged
    evaluations = [entry for entry in history_of(output_dir) if "eval_loss" in entry]
    assert [entry["eval_loss"] for entry in evaluations] != [
        entry["eval_loss"] for entry in history_of(plain) if "eval_loss" in entry
    ]
    state = TrainerState.load_from_json(str(output_dir / "trainer_state.json"))
    best, kept = weights_of(state.best_model_checkpoint), weights_of(output_dir)
    assert all(torch.equal(best[name], kept[name]) for name in kept)
    assert results_of(output_dir)["eval_loss"] == pytest.approx(
        next(entry["eval_loss"] for entry in evaluations if entry["step"] == state.best_global_step), rel=1e-4
    )
    assert not (output_dir / "training_weights.safetensors").exists()


def test_averaging_resumes_after_an_interruption(averaged, tmp_path):
    command, _, output_dir = averaged
    shutil.copytree(output_dir, tmp_path / "run")
    (tmp_path / "run/all_results.json").unlink()
    for checkpoint in checkpoints_of(tmp_path / "run")[3:]:
        shutil.rmtree(checkpoint)
    assert main([*command, "--output_dir", str(tmp_path / "run")]) == 0
    for whole, resumed in zip(checkpoints_of(output_dir)[3:], checkpoints_of(tmp_path / "run")[3:], strict=True):
        for name in ("model.safetensors", "training_weights.safetensors"):
            whole_weights, resumed_weights = load_file(whole / name), load_file(resumed / name)
            assert all(torch.allclose(whole_weights[key], resumed_weights[key], atol=1e-6) for key in whole_weights)


def test_last_average_is_saved_without_best_model_at_end(averaged, tmp_path):
    command, _, output_dir = averaged
    options = ["--load_best_model_at_end", "false", "--output_dir", str(tmp_path / "run")]
    assert main([*command, *options]) == 0
    last, kept = weights_of(checkpoints_of(output_dir)[-1]), weights_of(tmp_path / "run")
    assert all(torch.allclose(last[name], kept[name], atol=1e-6) for name in kept)


@pytest.mark.parametrize("options", [["--averaged_epochs", "0"], ["--averaged_epochs", "2", "--fsdp", "full_shard"]])
def test_invalid_averaging_is_refused(command, options):
    with pytest.raises(UsageError, match="averaged_epochs"):
        train(*parse_train_arguments([*command[1:], *options]))
