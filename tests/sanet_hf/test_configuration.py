# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
import torch

from sanet_hf import SANetConfig, SANetForAudioClassification


def test_defaults_are_the_original_network():
    config = SANetConfig()
    expected = {
        "num_channels": 1,
        "conv_dim": (32, 64, 128, 256, 512),
        "conv_kernel": (64, 32, 6, 4, 4),
        "conv_stride": (4, 2, 2, 2, 2),
        "conv_groups": 1,
        "use_squeeze_excitation": True,
        "se_reduction": 8,
        "attention_after": (3, 4),
        "attention_dim": (128, 256),
        "attention_stride": 4,
        "num_attention_heads": 8,
        "attention_dropout": 0.0,
        "max_position_embeddings": 500,
        "pool_hidden_size": 128,
        "classifier_hidden_sizes": (512, 128),
        "classifier_dropout": 0.0,
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "batch_norm_eps": 1e-5,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.model_type == "sanet"
    assert (config.hidden_size, config.num_hidden_layers) == (512, 7)
    assert (config.inputs_to_logits_ratio, config.total_stride, config.max_input_samples) == (64, 256, 64000)


@pytest.mark.parametrize(
    ("values", "total_stride", "max_input_samples"),
    [
        ({"attention_stride": 3}, 192, 500 * 32 * 3),
        ({"attention_after": (3,), "attention_dim": (128,), "attention_stride": 3}, 192, 500 * 32 * 3),
        ({"attention_after": (4,), "attention_dim": (256,)}, 256, 500 * 256),
        ({"attention_after": (), "attention_dim": ()}, 64, None),
        ({"attention_after": (0, 4), "attention_dim": (64, 64), "attention_stride": 32}, 2048, 500 * 128),
        ({"max_position_embeddings": 7}, 256, 7 * 128),
    ],
    ids=str,
)
def test_lengths(values, total_stride, max_input_samples):
    config = SANetConfig(**values)
    assert (config.total_stride, config.max_input_samples) == (total_stride, max_input_samples)


def test_lists_and_tuples_give_the_same_configuration(tmp_path):
    lists = SANetConfig(
        conv_dim=[8, 16], conv_kernel=[4, 4], conv_stride=[2, 2], attention_after=[1], attention_dim=[16]
    )
    tuples = SANetConfig(
        conv_dim=(8, 16), conv_kernel=(4, 4), conv_stride=(2, 2), attention_after=(1,), attention_dim=(16,)
    )
    assert lists.to_dict() == tuples.to_dict()
    lists.save_pretrained(tmp_path)
    loaded = SANetConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == lists.to_dict()
    for config in (lists, tuples, loaded):
        assert (config.conv_dim, config.conv_kernel, config.conv_stride) == ((8, 16), (4, 4), (2, 2))
        assert (config.attention_after, config.attention_dim, config.classifier_hidden_sizes) == (
            (1,),
            (16,),
            (512, 128),
        )
    assert SANetConfig(conv_groups=[1, 2, 2, 2, 2]).conv_groups == (1, 2, 2, 2, 2)
    assert json.loads((tmp_path / "config.json").read_text())["conv_dim"] == [8, 16]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"conv_dim": (8, 16)}, ("conv_dim=(8, 16)", "conv_kernel=(64, 32, 6, 4, 4)")),
        ({"conv_stride": (4, 2)}, ("conv_dim=", "conv_stride=(4, 2)")),
        ({"conv_groups": (1, 2)}, ("conv_dim=", "conv_groups=(1, 2)")),
        ({"attention_after": (3,)}, ("attention_after=(3,)", "attention_dim=(128, 256)")),
        ({"attention_after": (3, 5)}, ("attention_after=(3, 5)", "conv_dim=")),
        ({"attention_after": (4, 3)}, ("attention_after=(4, 3)", "ascending")),
        ({"attention_after": (3, 3)}, ("attention_after=(3, 3)", "each once")),
        ({"attention_after": (-1, 3)}, ("attention_after=(-1, 3)", "conv_dim=")),
        ({"num_attention_heads": 12}, ("attention_dim=(128, 256)", "num_attention_heads=12")),
        ({"conv_groups": 2}, ("conv_groups=2", "num_channels=1")),
        ({"conv_groups": (1, 3, 1, 1, 1)}, ("conv_groups=", "conv_dim[0]=32", "conv_dim[1]=64")),
        ({"conv_groups": (32, 1, 1, 1, 1)}, ("conv_groups=", "num_channels=1", "conv_dim[0]=32")),
        (
            {"conv_groups": (1, 1, 1, 1, 4), "conv_dim": (32, 64, 128, 256, 510)},
            ("conv_groups=", "conv_dim[3]=256", "conv_dim[4]=510"),
        ),
        ({"conv_groups": 0}, ("conv_groups=0", "positive")),
        ({"batch_norm_eps": 0.0}, ("batch_norm_eps=0.0", "positive")),
        ({"layer_norm_eps": -1e-5}, ("layer_norm_eps=-1e-05", "positive")),
        ({"conv_kernel": (64, 32, 6, 4, 5), "conv_stride": (4, 2, 2, 2, 3)}, ("conv_kernel[4]=5", "conv_stride[4]=3")),
        ({"conv_stride": (4, 2, 2, 2, 1)}, ("conv_kernel[4]=4", "conv_stride[4]=1")),
        ({"se_reduction": 64}, ("se_reduction=64", "conv_dim[0]=32")),
        ({"conv_dim": (), "conv_kernel": (), "conv_stride": ()}, ("conv_dim is empty",)),
        ({"conv_stride": (4, 2, 2, 2, -2)}, ("conv_stride=", "positive")),
        ({"num_channels": 0}, ("num_channels=0", "positive")),
        ({"classifier_hidden_sizes": (512, 0)}, ("classifier_hidden_sizes=(512, 0)", "positive")),
        ({"classifier_dropout": 1.0}, ("classifier_dropout=1.0",)),
        ({"attention_dropout": -0.1}, ("attention_dropout=-0.1",)),
        ({"hidden_act": "step"}, ("hidden_act='step'", "gelu")),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_contradictions_name_both_values(values, names):
    with pytest.raises(ValueError) as error:
        SANetConfig(**values)
    assert all(name in str(error.value) for name in names)


def test_unused_values_are_not_checked():
    config = SANetConfig(use_squeeze_excitation=False, se_reduction=64)
    assert SANetForAudioClassification(config).sanet.layers[0].squeeze_excitation is None


@pytest.mark.parametrize(
    "values", [{"conv_dim": "wide"}, {"se_reduction": 1.5}, {"num_attention_heads": "8"}], ids=str
)
def test_wrong_types_are_refused(values):
    with pytest.raises(Exception, match=next(iter(values))):
        SANetConfig(**values)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 8])
def test_every_pair_of_kernel_and_stride_works_or_is_refused(kernel, stride):
    values = {"conv_dim": (8,), "conv_kernel": (kernel,), "conv_stride": (stride,), "attention_after": ()}
    if (kernel % 2 == 0 and stride == 1) or (kernel % 2 == 1 and stride > 2):
        with pytest.raises(ValueError, match="does not support conv_stride"):
            SANetConfig(**values, attention_dim=())
    else:
        model = SANetForAudioClassification(SANetConfig(**values, attention_dim=())).eval()
        output = model.sanet(torch.randn(1, 7 * stride))
        assert output.last_hidden_state.shape == (1, 7, 8)
