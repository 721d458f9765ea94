# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Convert checkpoints of the original SqueezeAttendNet."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from sanet_hf.configuration_sanet import SANetConfig
from sanet_hf.errors import UsageError
from sanet_hf.modeling_sanet import SANetForAudioClassification


# Patterns for names of the original and their names in SANetForAudioClassification. The two attention blocks ("dab")
# follow stages 4 and 5. The order of the blocks is stage1-4, dab1, stage5, dab2.
_LAYERS = {"stage1": 0, "stage2": 1, "stage3": 2, "stage4": 3, "dab1": 4, "stage5": 5, "dab2": 6}
_RENAMES = [
    (r"^(stage\d|dab\d)\.", lambda match: f"sanet.layers.{_LAYERS[match[1]]}."),
    (r"\.bn([12])\.", r".norm\1."),
    (r"\.se\.fc\.0\.", ".squeeze_excitation.reduce."),
    (r"\.se\.fc\.2\.", ".squeeze_excitation.expand."),
    (r"\.down\.0\.", ".shortcut."),
    (r"\.down\.1\.", ".shortcut_norm."),
    (r"\.down_time\.", ".downsample."),
    (r"\.bn_down\.", ".downsample_norm."),
    (r"\.down_ch\.", ".in_proj."),
    (r"\.pos_embed$", ".position_embedding.weight"),
    (r"\.mha\.out_proj\.", ".attention.o_proj."),
    (r"\.ln_attn\.", ".layer_norm."),
    (r"\.up_time\.", ".upsample."),
    (r"\.bn_up\.", ".upsample_norm."),
    (r"\.up_ch\.", ".out_proj."),
    (r"^pool\.score\.0\.", "sanet.pooling.hidden."),
    (r"^pool\.score\.2\.", "sanet.pooling.score."),
    (r"^classifier\.(\d+)\.", lambda match: f"classifier.{_classifier_index(int(match[1]))}."),
]
_POINTWISE = re.compile(r"\.(reduce|expand|shortcut|in_proj|out_proj|hidden|score)\.weight$")


def convert_original_checkpoint(
    state_dict_or_path: Mapping[str, torch.Tensor] | str | Path, id2label: dict[int, str] | None = None
) -> SANetForAudioClassification:
    """
    Return a model with the same outputs as a checkpoint of the original SqueezeAttendNet.

    Sizes are inferred from the tensors. Strides, heads and positions of the attention blocks are fixed in the original
    and are the defaults of [`SANetConfig`].

    Args:
        state_dict_or_path: A state dict, or a file written by `torch.save`: the state dict, or a dict that contains it
            as `state_dict`, `model_state_dict` or `model`. Files are read with `weights_only=True`. The prefix
            `module.` of DataParallel and DistributedDataParallel is removed.
        id2label: Name of each class, by index of the last layer.

    Raises:
        FileNotFoundError: The file does not exist.
        UsageError: The file contains objects other than tensors, is not a checkpoint of this network, or `id2label`
            does not name all classes.
    """
    source = "The state dict"
    if not isinstance(state_dict_or_path, Mapping):
        source = str(state_dict_or_path)
        state_dict_or_path = _read_state_dict(Path(state_dict_or_path))
    try:
        state_dict = {name.removeprefix("module."): tensor for name, tensor in state_dict_or_path.items()}
        config = _infer_config(state_dict)
    except (LookupError, AttributeError, ArithmeticError, ValueError) as error:
        raise UsageError(
            f"{source} is not a checkpoint of the original SqueezeAttendNet: {error} is missing or has another shape."
        ) from error
    if id2label is not None:
        if sorted(id2label) != list(range(config.num_labels)):
            raise UsageError(
                f"id2label names {len(id2label)} classes, but the last layer of the checkpoint has "
                f"{config.num_labels}. Name each index from 0 to {config.num_labels - 1}."
            )
        config.id2label = dict(id2label)
        config.label2id = {label: index for index, label in id2label.items()}

    model = SANetForAudioClassification(config)
    try:
        model.load_state_dict(_rename(state_dict))
    except RuntimeError as error:
        raise UsageError(f"{source} is not a checkpoint of the original SqueezeAttendNet: {error}") from error
    return model.eval()


def _read_state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: file not found.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Only the first line: after it, PyTorch advises to load the file with code execution.
        reason = str(error).split("\n")[0]
        raise UsageError(
            f"{path} cannot be read as a PyTorch checkpoint of only tensors (weights_only=True): {reason}"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in checkpoint.values()
    ):
        raise UsageError(f"{path} does not contain a state dict (names and tensors).")
    return checkpoint


def _infer_config(state_dict: Mapping[str, torch.Tensor]) -> SANetConfig:
    convs = [state_dict[f"stage{stage}.conv1.weight"] for stage in range(1, 6)]
    second_convs = [state_dict[f"stage{stage}.conv2.weight"] for stage in range(1, 6)]
    conv_dim = [conv.shape[0] for conv in convs]
    groups = [dim // conv.shape[1] for dim, conv in zip(conv_dim, second_convs)]
    use_squeeze_excitation = "stage1.se.fc.0.weight" in state_dict
    linear = sorted(
        (int(name.split(".")[1]), tensor.shape[0])
        for name, tensor in state_dict.items()
        if re.fullmatch(r"classifier\.\d+\.weight", name) and tensor.dim() == 2
    )
    return SANetConfig(
        num_channels=convs[0].shape[1] * groups[0],
        conv_dim=conv_dim,
        conv_kernel=[conv.shape[2] for conv in convs],
        conv_groups=groups[0] if len(set(groups)) == 1 else groups,
        use_squeeze_excitation=use_squeeze_excitation,
        se_reduction=conv_dim[0] // state_dict["stage1.se.fc.0.weight"].shape[0] if use_squeeze_excitation else 8,
        attention_dim=[state_dict[f"dab{block}.pos_embed"].shape[2] for block in (1, 2)],
        attention_stride=state_dict["dab1.down_time.weight"].shape[2],
        max_position_embeddings=state_dict["dab1.pos_embed"].shape[1],
        pool_hidden_size=state_dict["pool.score.0.weight"].shape[0],
        classifier_hidden_sizes=[size for _, size in linear[:-1]],
        num_labels=linear[-1][1],
    )


def _rename(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert names and layouts to those of [`SANetForAudioClassification`], which has linear layers for 1x1 convs."""
    converted = {}
    for name, tensor in state_dict.items():
        if match := re.fullmatch(r"(dab\d)\.mha\.in_proj_(weight|bias)", name):
            for projection, part in zip("qkv", tensor.chunk(3)):
                converted[f"sanet.layers.{_LAYERS[match[1]]}.attention.{projection}_proj.{match[2]}"] = part
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith("position_embedding.weight"):
            tensor = tensor.squeeze(0)
        elif _POINTWISE.search(name) and tensor.dim() == 3:
            tensor = tensor.squeeze(-1)
        converted[name] = tensor
    return converted


def _classifier_index(index: int) -> int:
    """Return the index of a classifier layer: after each Linear, BatchNorm, ReLU, there is a Dropout here."""
    return index + index // 3
