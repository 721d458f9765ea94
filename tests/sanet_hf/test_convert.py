# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of original checkpoints. test_parity.py compares the outputs."""

import pickle
import re
from collections.abc import Iterable

import pytest
import torch

from sanet_hf import SANetConfig, SANetForAudioClassification, convert_original_checkpoint
from sanet_hf.convert import _rename


def same_weights(one, other) -> bool:
    other = other.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


WRAPPERS = {
    "bare": lambda state_dict: state_dict,
    "state_dict": lambda state_dict: {"epoch": 3, "state_dict": state_dict},
    "model_state_dict": lambda state_dict: {"model_state_dict": state_dict, "optimizer": {"lr": 0.1}},
    "model": lambda state_dict: {"model": state_dict},
    "data_parallel": lambda state_dict: {f"module.{name}": value for name, value in state_dict.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_files(original_state_dict, full_size_model, tmp_path, wrapper):
    torch.save(WRAPPERS[wrapper](original_state_dict), tmp_path / "original.pt")
    model = convert_original_checkpoint(str(tmp_path / "original.pt"))
    assert same_weights(model, full_size_model)
    assert not model.training and model.config.to_dict() == SANetConfig(num_labels=10).to_dict()


def test_labels(original_state_dict):
    labels = {index: f"speaker {index}" for index in range(10)}
    model = convert_original_checkpoint(original_state_dict, labels)
    assert model.config.id2label == labels
    assert model.config.label2id == {label: index for index, label in labels.items()}


@pytest.mark.parametrize("labels", [{}, {0: "a"}, dict.fromkeys(range(1, 11), "a")], ids=str)
def test_wrong_number_of_labels_is_refused(original_state_dict, labels):
    with pytest.raises(
        ValueError, match=rf"id2label names {len(labels)} classes.*last layer of the checkpoint has 10"
    ):
        convert_original_checkpoint(original_state_dict, labels)


def resized(state_dict: dict[str, torch.Tensor], case: str) -> dict[str, torch.Tensor]:
    state_dict = dict(state_dict)
    if case == "classes":
        state_dict |= {"classifier.6.weight": torch.randn(3, 128), "classifier.6.bias": torch.randn(3)}
    elif case == "channels":
        state_dict |= {"stage1.conv1.weight": torch.randn(32, 2, 64), "stage1.down.0.weight": torch.randn(32, 2, 1)}
    elif case == "no_squeeze_excitation":
        state_dict = {name: value for name, value in state_dict.items() if ".se." not in name}
    elif case == "groups":
        state_dict |= {
            f"stage{stage}.{conv}.weight": torch.randn(channels, inputs // 2, kernel)
            for stage, channels, kernel in ((1, 32, 64), (2, 64, 32), (3, 128, 6), (4, 256, 4), (5, 512, 4))
            for conv, inputs in (("conv1", {1: 2}.get(stage, channels // 2)), ("conv2", channels))
        }
        state_dict["stage1.down.0.weight"] = torch.randn(32, 2, 1)
    elif case == "positions":
        state_dict |= {"dab1.pos_embed": torch.randn(1, 40, 128), "dab2.pos_embed": torch.randn(1, 40, 256)}
    elif case == "linear_head":
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith("classifier.")}
        state_dict |= {"classifier.0.weight": torch.randn(4, 1024), "classifier.0.bias": torch.randn(4)}
    return state_dict


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("classes", {"num_labels": 3}),
        ("channels", {"num_channels": 2}),
        ("no_squeeze_excitation", {"use_squeeze_excitation": False}),
        ("groups", {"conv_groups": 2, "num_channels": 2}),
        ("positions", {"max_position_embeddings": 40}),
        ("linear_head", {"classifier_hidden_sizes": (), "num_labels": 4}),
    ],
)
def test_sizes_are_inferred(original_state_dict, case, expected):
    state_dict = resized(original_state_dict, case)
    model = convert_original_checkpoint(state_dict)
    assert {name: getattr(model.config, name) for name in expected} == expected
    assert sum(value.numel() for value in model.state_dict().values()) == sum(v.numel() for v in state_dict.values())
    shape = (1, 1000) if model.config.num_channels == 1 else (1, 2, 1000)
    assert model(torch.randn(shape)).logits.shape == (1, model.config.num_labels)


def to_original(model: SANetForAudioClassification, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the state dict that an original network of this model's sizes would have. `names` are the original's."""
    tensors = model.state_dict()
    state_dict = {
        # Here, each group of the classifier has one more layer, a dropout.
        re.sub(r"\d+", lambda match: str(int(match[0]) - int(match[0]) // 4), name): tensor
        for name, tensor in tensors.items()
        if name.startswith("classifier.")
    }
    for name in names:
        if name.startswith("classifier."):
            continue
        # The original stacks query, key and value in one tensor.
        parts = [tensors[part] for part in _rename({name: torch.zeros(3)})]
        tensor = torch.cat(parts) if len(parts) == 3 else parts[0]
        if name.endswith("pos_embed"):
            tensor = tensor.unsqueeze(0)
        elif tensor.dim() == 2 and ".mha." not in name:
            tensor = tensor.unsqueeze(-1)
        state_dict[name] = tensor
    return state_dict


def test_inverse_conversion_gives_the_original(original_state_dict, full_size_model):
    """The next test uses `to_original` for other sizes."""
    state_dict = to_original(full_size_model, original_state_dict)
    assert state_dict.keys() == original_state_dict.keys()
    assert all(torch.equal(tensor, original_state_dict[name]) for name, tensor in state_dict.items())


OTHER_SIZES = {
    "num_channels": 2,
    "conv_dim": (16, 24, 32, 40, 48),
    "conv_kernel": (32, 16, 8, 6, 2),
    "conv_stride": (4, 2, 2, 2, 2),
    "conv_groups": (1, 2, 4, 8, 1),
    "se_reduction": 4,
    "attention_after": (3, 4),
    "attention_dim": (16, 24),
    "attention_stride": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 40,
    "pool_hidden_size": 12,
    "classifier_hidden_sizes": (20,),
    "num_labels": 3,
}


@pytest.mark.parametrize(
    "sizes",
    [
        OTHER_SIZES,
        {**OTHER_SIZES, "classifier_hidden_sizes": (20, 12, 8)},
        {**OTHER_SIZES, "use_squeeze_excitation": False, "se_reduction": 8},
        {**OTHER_SIZES, "num_channels": 4, "conv_groups": 4},
    ],
    ids=["one_hidden_layer", "three_hidden_layers", "no_squeeze_excitation", "equal_groups"],
)
def test_other_sizes(original_state_dict, make_model, sizes):
    model = make_model(**sizes)
    names = [name for name in original_state_dict if sizes.get("use_squeeze_excitation", True) or ".se." not in name]
    converted = convert_original_checkpoint(to_original(model, names))
    assert converted.config.to_dict() == model.config.to_dict()
    assert same_weights(converted, model)


@pytest.mark.parametrize(
    "change",
    [
        lambda state_dict: {},
        lambda state_dict: torch.nn.Linear(2, 2).state_dict(),
        lambda state_dict: SANetForAudioClassification(SANetConfig()).state_dict(),
        lambda state_dict: {name: value for name, value in state_dict.items() if name != "pool.score.0.bias"},
        lambda state_dict: {**state_dict, "extra.weight": torch.zeros(1)},
        lambda state_dict: {**state_dict, "dab1.up_ch.bias": torch.zeros(7)},
        lambda state_dict: {**state_dict, "stage1.conv1.weight": torch.tensor(0.0)},
        lambda state_dict: {**state_dict, "dab2.pos_embed": torch.zeros(1, 10, 256)},
    ],
    ids=["empty", "linear", "converted", "missing", "extra", "shape", "scalar", "positions"],
)
def test_checkpoints_of_other_networks_are_refused(original_state_dict, change):
    with pytest.raises(ValueError, match="is not a checkpoint of the original SqueezeAttendNet"):
        convert_original_checkpoint(change(original_state_dict))


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    torch.save({"state_dict": RunsCode(str(proof))}, path)
    with pytest.raises(ValueError, match=r"evil.pt cannot be read as a PyTorch checkpoint of only tensors"):
        convert_original_checkpoint(path)
    path.write_bytes(pickle.dumps(RunsCode(str(proof)), protocol=2))
    with pytest.raises(ValueError, match=r"evil.pt cannot be read"):
        convert_original_checkpoint(path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"this is no checkpoint", b"PK\x03\x04 nor is this"])
def test_unreadable_files_are_refused(tmp_path, content):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"file.pt cannot be read"):
        convert_original_checkpoint(tmp_path / "file.pt")


def test_checkpoint_without_state_dict_is_refused(tmp_path):
    torch.save({"epoch": 3, "notes": [1, 2]}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="does not contain a state dict"):
        convert_original_checkpoint(tmp_path / "file.pt")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        convert_original_checkpoint(tmp_path / "missing.pt")
