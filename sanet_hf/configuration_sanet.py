# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""SANet model configuration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from itertools import pairwise

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


# Limits for untrusted checkpoints. The weights suffice for 300 default networks, 8 GB in float32.
MAX_WEIGHTS = 2_000_000_000
MAX_LAYERS = 64
MAX_LABELS = 1_000_000


def _strict_dataclass(cls: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """Make a configuration check the types of its fields. From 5.4 on, transformers makes it a dataclass."""
    if is_dataclass(PreTrainedConfig):
        return strict(cls)
    # SANet has no rotary embeddings. Before transformers 5.4 the method has an argument, which @strict rejects.
    cls.validate_rope = lambda self: None
    return strict(dataclass(cls, repr=False, eq=False), accept_kwargs=True)


@_strict_dataclass
class SANetConfig(PreTrainedConfig):
    r"""
    Configuration of a [`SANetModel`] or a [`SANetForAudioClassification`]. The defaults give the original
    SqueezeAttendNet: 5.8 million parameters, clips of at most 64,000 samples (4 s at 16 kHz).

    Args:
        num_channels (`int`, defaults to 1):
            Channels of the waveform.
        spectrogram_dim (`tuple[int]`, defaults to `()`):
            Channels of the 2-D residual blocks on a log-mel spectrogram, which precede the stages of `conv_dim`. If it
            is empty, as in the original, the input of the first stage of `conv_dim` is the waveform.
        spectrogram_pool (`tuple[tuple[int, int]]`, defaults to `()`):
            Numbers of frames and mel bands that each of these blocks merges into one.
        num_mel_bins (`int`, defaults to 64):
            Mel bands of the spectrogram. The last of these blocks averages the remaining bands.
        spectrogram_window, spectrogram_stride (`int`, default to 1024 and 256):
            Window length and hop of the spectrogram in samples. The window must be a multiple of the hop.
        spectrogram_sampling_rate (`int`, defaults to 16000):
            Sampling rate in Hz for which the mel bands are computed.
        use_band_statistics (`bool`, defaults to `False`):
            Whether to add the scores of a linear layer on statistics of the mel bands over time. `sanet train` fits
            this layer by logistic regression after training.
        conv_dim, conv_kernel, conv_stride (`tuple[int]`):
            Output channels, kernel size and stride of the residual convolution block of each stage. An even kernel
            needs a stride of 2 or more, an odd kernel a stride of 1 or 2. Otherwise convolutions and shortcut would
            have different lengths.
        conv_groups (`int` or `tuple[int]`, defaults to 1):
            Groups of the two convolutions, for all stages or for each. Must divide their input and output channels.
        use_squeeze_excitation (`bool`, defaults to `True`):
            Whether each residual block ends with squeeze-and-excitation.
        se_reduction (`int`, defaults to 8):
            Ratio between the channels of a block and the hidden size of its squeeze-and-excitation.
        attention_after (`tuple[int]`, defaults to `(3, 4)`):
            Stages, counted from 0, that are followed by a self-attention block. -1 is the last block of
            `spectrogram_dim`.
        attention_dim (`tuple[int]`, defaults to `(128, 256)`):
            Width of each of these attention blocks; must be a multiple of `num_attention_heads`.
        attention_stride (`int`, defaults to 4):
            Frames that are merged into one before self-attention.
        num_attention_heads (`int`, defaults to 8):
            Attention heads of every attention block.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the attention probabilities.
        max_position_embeddings (`int`, defaults to 500):
            Number of merged frames for which an attention block has position embeddings. It limits the length of clips
            (`max_input_samples`).
        pool_hidden_size (`int`, defaults to 128):
            Hidden size of the attentive pooling.
        classifier_hidden_sizes (`tuple[int]`, defaults to `(512, 128)`):
            Sizes of the hidden layers of the classifier; may be empty.
        classifier_dropout (`float`, defaults to 0.0):
            Dropout after each hidden layer of the classifier.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the convolution, squeeze-and-excitation and attention blocks.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of linear layers and position embeddings.
        layer_norm_eps, batch_norm_eps (`float`, default to 1e-5):
            Epsilon of layer and batch normalisation.
        thresholds (`tuple[float]`, *optional*):
            For multi-label models, the minimum probability of each predicted class, in the order of `id2label`.
            `sanet predict` and other programs use them; the network does not.

    Raises:
        ValueError: A value is invalid, or two values contradict each other. The message names them.

    Example:

    ```python
    >>> from sanet_hf import SANetConfig, SANetForAudioClassification

    >>> config = SANetConfig(num_labels=10)
    >>> config.max_input_samples
    64000
    >>> model = SANetForAudioClassification(config)
    ```"""

    model_type = "sanet"
    keys_to_ignore_at_inference = ["pooling_weights"]

    num_channels: int = 1
    spectrogram_dim: list[int] | tuple[int, ...] = ()
    spectrogram_pool: list | tuple = ()
    num_mel_bins: int = 64
    spectrogram_window: int = 1024
    spectrogram_stride: int = 256
    spectrogram_sampling_rate: int = 16000
    use_band_statistics: bool = False
    conv_dim: list[int] | tuple[int, ...] = (32, 64, 128, 256, 512)
    conv_kernel: list[int] | tuple[int, ...] = (64, 32, 6, 4, 4)
    conv_stride: list[int] | tuple[int, ...] = (4, 2, 2, 2, 2)
    conv_groups: int | list[int] | tuple[int, ...] = 1
    use_squeeze_excitation: bool = True
    se_reduction: int = 8
    attention_after: list[int] | tuple[int, ...] = (3, 4)
    attention_dim: list[int] | tuple[int, ...] = (128, 256)
    attention_stride: int = 4
    num_attention_heads: int = 8
    attention_dropout: float | int = 0.0
    max_position_embeddings: int = 500
    pool_hidden_size: int = 128
    classifier_hidden_sizes: list[int] | tuple[int, ...] = (512, 128)
    classifier_dropout: float | int = 0.0
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    batch_norm_eps: float = 1e-5
    thresholds: list[float | int] | tuple[float | int, ...] | None = None

    def __post_init__(self, **kwargs):
        # JSON and YAML give lists. Tuples everywhere make equal configurations compare equal.
        self.spectrogram_pool = tuple(
            tuple(pool) if isinstance(pool, list) else pool for pool in self.spectrogram_pool
        )
        for name in (
            "spectrogram_dim",
            "conv_dim",
            "conv_kernel",
            "conv_stride",
            "conv_groups",
            "attention_after",
            "attention_dim",
            "classifier_hidden_sizes",
            "thresholds",
        ):
            value = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, tuple(value))
        # This check must precede the parent class, which creates a name for each label.
        if isinstance(num_labels := kwargs.get("num_labels"), int) and not 0 <= num_labels <= MAX_LABELS:
            raise ValueError(f"num_labels={num_labels} must be at least 0 and at most {MAX_LABELS:,}.")
        own = list(SANetConfig.__annotations__)
        for name in kwargs:
            # transformers accepts unknown names, so that a misspelt name would have no effect.
            if close := get_close_matches(name, own, 1, cutoff=0.9):
                raise ValueError(f"SANetConfig has no {name}. Did you mean {close[0]}?")
        if is_dataclass(PreTrainedConfig):
            super().__post_init__(**kwargs)
        else:
            # transformers before 5.4.
            super().__init__(**kwargs)
        # `@strict` could call this, but would wrap the ValueError in an error that is not a ValueError.
        self.validate_architecture()

    def validate_architecture(self):
        """Check that the sizes fit together."""
        _check_positive(self, "num_channels", "se_reduction", "attention_stride", "num_attention_heads")
        _check_positive(self, "max_position_embeddings", "pool_hidden_size", "layer_norm_eps", "batch_norm_eps")
        _check_positive(self, "conv_dim", "conv_kernel", "conv_stride", "conv_groups", "attention_dim")
        _check_positive(self, "classifier_hidden_sizes")
        num_stages = len(self.conv_dim)
        if num_stages == 0 and not self.spectrogram_dim:
            raise ValueError("conv_dim is empty. Give at least one stage, or spectrogram_dim.")
        if max(num_stages, len(self.spectrogram_dim), len(self.classifier_hidden_sizes)) > MAX_LAYERS:
            raise ValueError(
                f"spectrogram_dim, conv_dim and classifier_hidden_sizes can have at most {MAX_LAYERS} entries each."
            )
        if self.spectrogram_dim:
            self._validate_spectrogram()
        elif self.use_band_statistics:
            raise ValueError("use_band_statistics needs spectrogram_dim.")
        for name in ("conv_kernel", "conv_stride"):
            _check_same_length(self, "conv_dim", name)
        if not isinstance(self.conv_groups, int):
            _check_same_length(self, "conv_dim", "conv_groups")
        _check_same_length(self, "attention_after", "attention_dim")

        in_channels = self.stage_input_channels
        for stage, (channels, kernel, stride, groups) in enumerate(
            zip(self.conv_dim, self.conv_kernel, self.conv_stride, self.conv_groups_per_stage)
        ):
            if (kernel % 2 == 0 and stride == 1) or (kernel % 2 == 1 and stride > 2):
                raise ValueError(
                    f"conv_kernel[{stage}]={kernel} does not support conv_stride[{stage}]={stride}. An even kernel "
                    "needs a stride of 2 or more, an odd kernel a stride of 1 or 2."
                )
            if in_channels % groups or channels % groups:
                first = "spectrogram_dim[-1]" if self.spectrogram_dim else "num_channels"
                source = first if stage == 0 else f"conv_dim[{stage - 1}]"
                raise ValueError(
                    f"conv_groups={self.conv_groups} must divide {source}={in_channels} and "
                    f"conv_dim[{stage}]={channels}. It can be a list with one number per stage."
                )
            if self.use_squeeze_excitation and channels < self.se_reduction:
                raise ValueError(f"se_reduction={self.se_reduction} must be at most conv_dim[{stage}]={channels}.")
            in_channels = channels

        if any(stage not in range(-bool(self.spectrogram_dim), num_stages) for stage in self.attention_after) or list(
            self.attention_after
        ) != sorted(set(self.attention_after)):
            raise ValueError(
                f"attention_after={self.attention_after} must list stages of conv_dim={self.conv_dim} in ascending "
                "order, each once, counted from 0."
            )
        for width in self.attention_dim:
            if width % self.num_attention_heads:
                raise ValueError(
                    f"attention_dim={self.attention_dim}: {width} must be a multiple of num_attention_heads="
                    f"{self.num_attention_heads}."
                )
        for name in ("attention_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and less than 1.")
        if self._num_weights > MAX_WEIGHTS:
            raise ValueError(
                f"The network would have {self._num_weights:,} weights, but the maximum is {MAX_WEIGHTS:,}. "
                f"Reduce some of: conv_dim={self.conv_dim}, conv_kernel={self.conv_kernel}, attention_dim="
                f"{self.attention_dim}, attention_stride={self.attention_stride}, max_position_embeddings="
                f"{self.max_position_embeddings}, pool_hidden_size={self.pool_hidden_size}, classifier_hidden_sizes="
                f"{self.classifier_hidden_sizes}."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} must be one of: {', '.join(sorted(ACT2FN))}.")

    def _validate_spectrogram(self):
        """Check that the sizes of the spectrogram fit together."""
        _check_positive(self, "spectrogram_dim", "num_mel_bins", "spectrogram_window", "spectrogram_stride")
        _check_same_length(self, "spectrogram_dim", "spectrogram_pool")
        if self.num_channels != 1:
            raise ValueError(f"spectrogram_dim needs num_channels=1, not {self.num_channels}.")
        if self.spectrogram_window % self.spectrogram_stride:
            raise ValueError(
                f"spectrogram_window={self.spectrogram_window} must be a multiple of spectrogram_stride="
                f"{self.spectrogram_stride}."
            )
        if self.num_mel_bins * 4 > self.spectrogram_window:
            raise ValueError(
                f"num_mel_bins={self.num_mel_bins} is too large. spectrogram_window={self.spectrogram_window} must be "
                "at least four times as large."
            )
        bins = self.num_mel_bins
        for pool in self.spectrogram_pool:
            if not (isinstance(pool, tuple) and len(pool) == 2 and all(isinstance(n, int) and n > 0 for n in pool)):
                raise ValueError(f"spectrogram_pool={self.spectrogram_pool} must contain pairs (frames, bands).")
            if bins % pool[1]:
                raise ValueError(
                    f"The bands of spectrogram_pool={self.spectrogram_pool} must divide num_mel_bins="
                    f"{self.num_mel_bins}."
                )
            bins //= pool[1]
        if self.use_squeeze_excitation and min(self.spectrogram_dim) < self.se_reduction:
            raise ValueError(
                f"se_reduction={self.se_reduction} must be at most the smallest of spectrogram_dim="
                f"{self.spectrogram_dim}."
            )

    @property
    def stage_input_channels(self) -> int:
        """Return the number of input channels of the first stage of `conv_dim`."""
        return self.spectrogram_dim[-1] if self.spectrogram_dim else self.num_channels

    @property
    def _first_stride(self) -> int:
        """Return the samples per input frame of the first stage of `conv_dim`."""
        if not self.spectrogram_dim:
            return 1
        return self.spectrogram_stride * math.prod(frames for frames, _ in self.spectrogram_pool)

    @property
    def conv_groups_per_stage(self) -> tuple[int, ...]:
        """Return `conv_groups` with one entry per stage."""
        return (self.conv_groups,) * len(self.conv_dim) if isinstance(self.conv_groups, int) else self.conv_groups

    @property
    def hidden_size(self) -> int:
        """Return the number of channels of the last hidden state."""
        return self.conv_dim[-1] if self.conv_dim else self.spectrogram_dim[-1]

    @property
    def num_hidden_layers(self) -> int:
        """Return the number of residual convolution blocks and attention blocks."""
        return len(self.spectrogram_dim) + len(self.conv_dim) + len(self.attention_after)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Return the samples per frame of the last hidden state."""
        return self._first_stride * math.prod(self.conv_stride)

    @property
    def _num_weights(self) -> int:
        """Return the number of weights of the large layers."""
        count, in_channels = 0, 1
        for channels in self.spectrogram_dim:
            count += 9 * channels * (in_channels + channels) + in_channels * channels
            in_channels = channels
        in_channels = self.stage_input_channels
        for channels, kernel, groups in zip(self.conv_dim, self.conv_kernel, self.conv_groups_per_stage):
            count += channels * (in_channels + channels) * kernel // groups + in_channels * channels
            in_channels = channels
        for stage, width in zip(self.attention_after, self.attention_dim):
            channels = self.conv_dim[stage] if stage >= 0 else self.stage_input_channels
            count += (channels**2 + width**2) * self.attention_stride + 2 * channels * width
            count += (4 * width + self.max_position_embeddings) * width
        sizes = [2 * self.hidden_size, *self.classifier_hidden_sizes, self.num_labels]
        return count + self.hidden_size * self.pool_hidden_size + sum(size * other for size, other in pairwise(sizes))

    @property
    def attention_frame_samples(self) -> list[int]:
        """Return the samples per merged frame of each attention block."""
        strides = [self._first_stride * math.prod(self.conv_stride[: stage + 1]) for stage in self.attention_after]
        return [stride * self.attention_stride for stride in strides]

    @property
    def total_stride(self) -> int:
        """Return the number of samples such that a clip of any multiple of it consists of whole frames."""
        return math.lcm(self.inputs_to_logits_ratio, *self.attention_frame_samples)

    @property
    def max_input_samples(self) -> int | None:
        """Return the maximum length of a clip in samples; `None` (any length) without attention blocks."""
        limits = [samples * self.max_position_embeddings for samples in self.attention_frame_samples]
        return min(limits, default=None)


def _check_positive(config: SANetConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if any(not item > 0 for item in (value if isinstance(value, Sequence) else [value])):
            raise ValueError(f"{name}={value} must be positive.")


def _check_same_length(config: SANetConfig, name: str, other: str) -> None:
    if len(getattr(config, name)) != len(getattr(config, other)):
        raise ValueError(
            f"{name}={getattr(config, name)} and {other}={getattr(config, other)} must have the same length."
        )


__all__ = ["SANetConfig"]
