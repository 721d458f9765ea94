# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A simulated process with several GPUs: replicas of `nn.DataParallel`, and commands that make none."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForAudioClassification, TrainingArguments

from sanet_hf.cli.main import main
from sanet_hf.training import arguments as arguments_module
from sanet_hf.training.evaluation import saved_models
from sanet_hf.training.losses import make_loss

from .tiny_models import MODEL_TYPES, make_config


def replicate(module: nn.Module) -> nn.Module:
    """Return a replica like `torch.nn.parallel.replicate`, which needs GPUs. Tensors replace its parameters."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = OrderedDict()
    for name, child in module._modules.items():
        replica._modules[name] = child if child is None else replicate(child)
    for name, parameter in module._parameters.items():
        if parameter is None:
            replica._parameters[name] = None
            continue
        setattr(replica, name, parameter.view_as(parameter))
        replica._former_parameters[name] = getattr(replica, name)
    return replica


@pytest.mark.parametrize("padded", [False, True], ids=["same_length", "padded"])
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_replica_gives_the_outputs_of_the_model(problem_type, padded):
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_config(make_config("sanet", problem_type=problem_type)).eval()
    replica = replicate(model)
    assert not any(
        module._parameters and any(p is not None for p in module._parameters.values()) for module in replica.modules()
    )
    assert next(replica.parameters(), None) is None
    inputs = {"input_values": torch.randn(2, 4000)}
    if padded:
        inputs["attention_mask"] = (torch.arange(4000) < torch.tensor([[4000], [2500]])).long()
    is_multi_label = problem_type == "multi_label_classification"
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]]) if is_multi_label else torch.tensor([0, 2])
    outputs, expected = replica(**inputs), model(**inputs)
    torch.testing.assert_close(outputs.logits, expected.logits)
    # Gradients reach the parameters of the model.
    make_loss(is_multi_label)(outputs, labels).backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "sanet"])
def test_replicas_of_other_models_have_no_parameters(model_type):
    """The simulation above also holds for other architectures."""
    model = AutoModelForAudioClassification.from_config(make_config(model_type)).eval()
    replica = replicate(model)
    assert list(replica.parameters()) == [] != list(model.parameters())


def test_train_evaluate_and_compare_use_one_gpu(tones, tiny_options, tmp_path, monkeypatch):
    """Copies on several GPUs would each see a part of the batch, and so compute other statistics."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda arguments: 2))
    warnings = []
    # A message that was logged once in this process would not be logged again.
    monkeypatch.setattr(arguments_module.logger, "warning_once", warnings.append, raising=False)

    def refuse(*arguments, **options):
        raise AssertionError("the model was copied to several GPUs")

    monkeypatch.setattr(nn.DataParallel, "__init__", refuse)
    run, data = str(tmp_path / "run"), ["--data_dir", str(tones)]
    options = [*tiny_options, "--num_train_epochs", "1"]
    assert main(["train", "sanet.yaml", *data, "--output_dir", run, *options]) == 0
    assert main(["evaluate", run, *data]) == 0
    # The measurements after the evaluation use no Trainer.
    monkeypatch.setattr(saved_models, "compare", lambda candidates, folder, **options: _write(folder))
    assert main(["compare", run, *data, "--output", str(tmp_path / "comparison")]) == 0
    assert any("This process uses one of 2 GPUs" in text and "accelerate launch" in text for text in warnings)


def _write(folder: Path) -> None:
    folder.mkdir()
    (folder / "comparison.md").write_text("compared", encoding="utf-8")
