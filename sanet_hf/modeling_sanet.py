# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
SANet (SqueezeAttendNet), an end-to-end classifier of raw audio. Its layers are in layers_sanet, batchnorm_sanet,
spectrogram_sanet and pooling_sanet.

Data flow:

    waveform -> residual convolution stages with squeeze-and-excitation, some followed by self-attention on a
    downsampled sequence -> attentive statistics pooling -> classifier

The outputs equal those of the original SqueezeAttendNet. Sources of the parts:

- residual convolutions: He et al., 2016, https://arxiv.org/abs/1512.03385
- squeeze-and-excitation: Hu et al., 2018, https://arxiv.org/abs/1709.01507
- self-attention: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762
- attentive statistics pooling: Okabe et al., 2018, https://arxiv.org/abs/1803.10963

Between blocks, hidden states are (batch, frames, channels) and padded frames are zero. A mask is (batch, frames),
float32 or float64, 1 for frames with at least one sample of the clip. It is `None` if all frames have one. This file
imports only transformers and neighbouring files, so that it also works as remote code on the Hub.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .batchnorm_sanet import SANetBatchNorm
from .configuration_sanet import SANetConfig
from .layers_sanet import (
    SANetAttention,
    SANetConv1d,
    SANetDownsample,
    SANetLayer,
    SANetPositionEmbedding,
    SANetSqueezeExcitation,
    SANetUpsample,
    complete_frames,
    downsample_mask,
    is_exporting,
    pad_to_multiple,
    zero_padded_frames,
)
from .pooling_sanet import SANetAttentivePooling, band_statistics
from .spectrogram_sanet import SANetSpectrogram, SANetSpectrogramLayer


@dataclass
class SANetModelOutput(ModelOutput):
    """
    Output of [`SANetModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, frames, channels)`):
            Output of the last block; zero in padded frames.
        pooler_output (`torch.FloatTensor` of shape `(batch, 2 * channels)`):
            Weighted mean and standard deviation over time: the embedding of the clip.
        hidden_states (`tuple[torch.FloatTensor]`, with `output_hidden_states=True`):
            Output of every block, each of shape `(batch, frames, channels)` with the frames and channels of that
            block.
        attentions (`tuple[torch.FloatTensor]`, with `output_attentions=True` and eager attention):
            Attention probabilities of every attention block, each of shape `(batch, heads, frames, frames)` with the
            merged frames of that block.
        pooling_weights (`torch.FloatTensor` of shape `(batch, frames)`):
            Weight of each frame in the pooling. The weights of a clip sum to 1.
        band_statistics (`torch.FloatTensor` of shape `(batch, 4 * num_mel_bins + 1)`, with `use_band_statistics`):
            Statistics of the log-mel spectrogram over time.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pooling_weights: torch.FloatTensor | None = None
    band_statistics: torch.FloatTensor | None = None


@dataclass
class SANetClassifierOutput(ModelOutput):
    """
    Output of [`SANetForAudioClassification`].

    Args:
        loss (`torch.FloatTensor`, a scalar, when labels are given): Classification or regression loss.
        logits (`torch.FloatTensor` of shape `(batch, config.num_labels)`):
            Scores before softmax or sigmoid.
        hidden_states, attentions, pooling_weights:
            As in [`SANetModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pooling_weights: torch.FloatTensor | None = None


class SANetResidualLayer(SANetLayer):
    """
    Residual convolution block, (batch, frames, in) -> (batch, frames / stride, out).

    The first convolution is strided. With an even kernel its output has an extra frame, which the second convolution
    removes:

        frames n * stride --conv1--> n + 1 --conv2--> n
    """

    def __init__(self, config: SANetConfig, stage: int):
        super().__init__()
        in_channels = config.conv_dim[stage - 1] if stage > 0 else config.stage_input_channels
        channels, kernel_size = config.conv_dim[stage], config.conv_kernel[stage]
        groups = config.conv_groups_per_stage[stage]
        self.stride = config.conv_stride[stage]
        self.conv1 = SANetConv1d(
            in_channels,
            channels,
            kernel_size,
            stride=self.stride,
            padding=(self.stride + kernel_size - 2) // 2,
            groups=groups,
            bias=False,
        )
        self.norm1 = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.conv2 = SANetConv1d(
            channels, channels, kernel_size, padding=(kernel_size - 1) // 2, groups=groups, bias=False
        )
        self.norm2 = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.squeeze_excitation = SANetSqueezeExcitation(config, channels) if config.use_squeeze_excitation else None
        if in_channels == channels and self.stride == 1:
            self.shortcut, self.shortcut_norm = None, None
        else:
            self.shortcut = nn.Linear(in_channels, channels, bias=False)
            self.shortcut_norm = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.act = ACT2FN[config.hidden_act]
        self.even_kernel = kernel_size % 2 == 0

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        residual = hidden_states
        hidden_states = pad_to_multiple(hidden_states, self.stride)
        if self.shortcut is not None:
            residual = self.shortcut_norm(self.shortcut(residual[:, :: self.stride]), mask)

        inner_mask = mask
        if mask is not None and self.even_kernel:
            # The extra frame belongs to the clip: n valid frames are computed from n + 1.
            inner_mask = torch.cat([mask[:, :1], mask], dim=1)
        hidden_states = self.act(self.norm1(self.conv1(hidden_states), inner_mask))
        hidden_states = zero_padded_frames(hidden_states, inner_mask)
        hidden_states = self.norm2(self.conv2(hidden_states), mask)
        if self.squeeze_excitation is not None:
            hidden_states = self.squeeze_excitation(hidden_states, mask)
        return zero_padded_frames(self.act(hidden_states + residual), mask)


class SANetAttentionLayer(SANetLayer):
    """
    Self-attention on a downsampled sequence, (batch, frames, channels) -> same shape:

        frames --downsample--> frames / attention_stride --attention--> upsample --> frames, added to the input
    """

    def __init__(self, config: SANetConfig, channels: int, dim: int):
        super().__init__()
        self.config = config
        self.attention_stride = config.attention_stride
        self.downsample = SANetDownsample(channels, channels, config.attention_stride)
        self.downsample_norm = SANetBatchNorm(channels, eps=config.batch_norm_eps)
        self.in_proj = nn.Linear(channels, dim)
        self.position_embedding = SANetPositionEmbedding(config.max_position_embeddings, dim)
        self.attention = SANetAttention(config, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.upsample = SANetUpsample(dim, dim, config.attention_stride)
        self.upsample_norm = SANetBatchNorm(dim, eps=config.batch_norm_eps)
        self.out_proj = nn.Linear(dim, channels)
        self.act = ACT2FN[config.hidden_act]

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        merged_mask = downsample_mask(mask, self.attention_stride)
        merged = self.downsample(pad_to_multiple(hidden_states, self.attention_stride))
        merged = self.act(self.downsample_norm(merged, merged_mask))
        merged = self.position_embedding(self.in_proj(merged))
        # Arguments by position, since transformers 5.0 calls inputs_embeds input_embeds.
        attention_mask = create_bidirectional_mask(self.config, merged, merged_mask)
        attended, probabilities = self.attention(merged, attention_mask, **kwargs)
        merged = self.layer_norm(merged + attended)
        upsampled = self.upsample(merged)[:, : hidden_states.shape[1]]
        output = self.out_proj(self.act(self.upsample_norm(upsampled, mask)))
        return zero_padded_frames(hidden_states + output, mask), probabilities


class SANetPreTrainedModel(PreTrainedModel):
    """Base class with weight initialisation and settings for transformers."""

    config: SANetConfig
    config_class = SANetConfig
    base_model_prefix = "sanet"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch for all problem types. Trainer must average it over accumulated steps.
    accepts_loss_kwargs = False
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True

    def post_init(self):
        super().post_init()
        # Only classes in this model, since accelerate searches for each of them to shard it.
        self._no_split_modules = {type(module).__name__ for module in self.modules() if isinstance(module, SANetLayer)}

    def get_input_embeddings(self) -> None:
        """Return None: a waveform has no embeddings. accelerate asks for them to shard a model."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, SANetPositionEmbedding):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """
        Save like [`~transformers.PreTrainedModel.save_pretrained`], with code to load the checkpoint if sanet_hf is
        not installed. The configuration also names the class of the base model, which transformers omits for a model
        with a head.
        """
        if self._auto_class is not None:
            module, known = SANetModel.__module__.rsplit(".", 1)[-1], getattr(self.config, "auto_map", None) or {}
            self.config.auto_map = {**known, "AutoModel": f"{module}.{SANetModel.__name__}"}
        own_class = type(self)
        if own_class.__name__.startswith("FSDP"):
            # PyTorch creates this class for sharded models. The checkpoint must name the original class.
            self.__class__ = own_class.__bases__[-1]
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = own_class


class SANetModel(SANetPreTrainedModel):
    """SANet without a head: computes frames and the embedding of the clip from a waveform."""

    def __init__(self, config: SANetConfig):
        super().__init__(config)
        self.layers = nn.ModuleList()
        attention_dims = dict(zip(config.attention_after, config.attention_dim))
        if config.spectrogram_dim:
            self.layers.append(SANetSpectrogram(config))
            self.layers.extend(SANetSpectrogramLayer(config, stage) for stage in range(len(config.spectrogram_dim)))
        for stage, channels in enumerate((config.stage_input_channels, *config.conv_dim), -1):
            if stage >= 0:
                self.layers.append(SANetResidualLayer(config, stage))
            if stage in attention_dims:
                self.layers.append(SANetAttentionLayer(config, channels, attention_dims[stage]))
        self.pooling = SANetAttentivePooling(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SANetModelOutput:
        r"""
        Compute hidden states and the embedding of each clip.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch, samples)`):
                Waveforms, normalised and padded by [`SANetFeatureExtractor`]. The shape is
                `(batch, num_channels, samples)` if the configuration has more than one channel.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for samples of the clip, 0 for the padding to its right. Each clip has at least one sample.
            output_hidden_states, output_attentions (`bool`, *optional*, defaults to the configuration):
                Whether to return the output of every block, and the probabilities of every attention block.

        Raises:
            ValueError: The shape does not match the configuration, or the clip is longer than `max_input_samples`.
        """
        hidden_states, mask = self._prepare_input(input_values, attention_mask)
        # Not PreTrainedModel.is_gradient_checkpointing, whose name changed in transformers 5.
        if self.training and self.layers[0].gradient_checkpointing:
            # Reentrant checkpointing computes no gradients for a layer if none of its inputs requires gradients.
            hidden_states.requires_grad_(True)
        config = self.config
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        all_hidden_states, attentions, statistics, waveform = (), (), None, hidden_states
        for layer in self.layers:
            mask = downsample_mask(mask, layer.stride)
            if isinstance(layer, SANetAttentionLayer):
                hidden_states, probabilities = layer(
                    hidden_states, mask, output_attentions=output_attentions, **kwargs
                )
                if output_attentions and probabilities is not None:
                    attentions += (probabilities,)
            else:
                hidden_states = layer(hidden_states, mask)
            if config.use_band_statistics and isinstance(layer, SANetSpectrogram):
                # Padding and digital silence do not count. The mask does not suffice: there is none if the model
                # treats padding as silence.
                has_sound = downsample_mask((waveform[..., 0] != 0).float(), layer.stride)
                statistics = band_statistics(hidden_states, has_sound)
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
        pooled, pooling_weights = self.pooling(hidden_states, mask)
        return SANetModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            hidden_states=all_hidden_states if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
            pooling_weights=pooling_weights,
            band_statistics=statistics,
        )

    def _prepare_input(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Check shapes and zero the padding. Return the waveform, (batch, samples, channels), and a mask of shape (batch,
        samples), or None if all samples count. The layers complete the last frame with zeros. Compilers and exporters
        get whole frames of `total_stride` and a mask, since one graph must support all lengths.
        """
        config = self.config
        # A spectrogram is computed in float32. `self.dtype` is missing in replicas of `nn.DataParallel`.
        if not config.spectrogram_dim:
            input_values = input_values.to(self.layers[0].conv1.weight.dtype)
        expected = "(batch, samples)" if config.num_channels == 1 else f"(batch, {config.num_channels}, samples)"
        if input_values.dim() == 2 and config.num_channels == 1:
            input_values = input_values.unsqueeze(1)
        if input_values.dim() != 3 or input_values.shape[1] != config.num_channels or input_values.shape[-1] == 0:
            raise ValueError(f"input_values must have shape {expected}, not {tuple(input_values.shape)}.")
        batch_size, _, num_samples = input_values.shape
        if attention_mask is not None and attention_mask.shape != (batch_size, num_samples):
            raise ValueError(
                f"attention_mask must have one entry per sample: shape {(batch_size, num_samples)}, not "
                f"{tuple(attention_mask.shape)}."
            )
        limit = config.max_input_samples
        if limit is not None and not is_exporting() and num_samples > limit:
            raise ValueError(
                f"The clip has {num_samples} samples, but max_position_embeddings={config.max_position_embeddings} "
                f"allows at most {limit}. Crop it, as the feature extractor does by default, "
                "or classify windows of it and average their scores."
            )

        if attention_mask is not None:
            input_values = input_values.masked_fill((attention_mask == 0).unsqueeze(1), 0.0)
            # On a GPU, reading the mask would wait for all pending work.
            is_seen = attention_mask.device.type == "cpu" and not torch.compiler.is_compiling()
            if is_seen and bool((attention_mask != 0).all()):
                attention_mask = None
        if is_exporting() or (torch.compiler.is_compiling() and num_samples % config.total_stride):
            input_values, attention_mask = complete_frames(input_values, attention_mask, config.total_stride)
        # Half precision cannot represent large numbers of frames.
        mask_dtype = torch.promote_types(input_values.dtype, torch.float32)
        mask = attention_mask if attention_mask is None else attention_mask.to(mask_dtype)
        return input_values.transpose(1, 2), mask


class SANetForAudioClassification(SANetPreTrainedModel):
    """
    SANet with a classifier of fully connected layers on the pooled statistics. With `config.use_band_statistics`, the
    scores of a linear layer on statistics of the log-mel bands are added.
    """

    def __init__(self, config: SANetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.sanet = SANetModel(config)
        sizes = (2 * config.hidden_size, *config.classifier_hidden_sizes)
        layers = []
        for in_features, out_features in itertools.pairwise(sizes):
            layers += [nn.Linear(in_features, out_features), SANetBatchNorm(out_features, eps=config.batch_norm_eps)]
            layers += [nn.ReLU(), nn.Dropout(config.classifier_dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], config.num_labels))
        if config.use_band_statistics:
            self.band_head = nn.Linear(4 * config.num_mel_bins + 1, config.num_labels)
        self.post_init()

    def freeze_feature_encoder(self) -> None:
        """
        Freeze weights and BatchNorm statistics of the convolution stages. Attention, pooling and head are trained.
        """
        for layer in self.sanet.layers:
            if not isinstance(layer, SANetAttentionLayer):
                layer.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """Freeze weights and BatchNorm statistics of the base model. Only the classifier is trained."""
        self.sanet.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SANetClassifierOutput:
        r"""
        Compute logits and, if labels are given, the loss.

        Args:
            input_values, attention_mask:
                As in [`SANetModel.forward`].
            labels (`torch.Tensor`, *optional*):
                For `problem_type` `"single_label_classification"`: class indices of shape `(batch,)`. For
                `"multi_label_classification"`: 0 and 1 of shape `(batch, num_labels)`. For `"regression"`: floats of
                shape `(batch,)` or `(batch, num_labels)`. If `problem_type` is not set, it is derived from
                `num_labels` and the type of the labels, as everywhere in transformers.

        Raises:
            ValueError: As in [`SANetModel.forward`].
        """
        outputs: SANetModelOutput = self.sanet(input_values, attention_mask, **kwargs, return_dict=True)
        logits = self.classifier(outputs.pooler_output)
        if outputs.band_statistics is not None:
            logits = logits + self.band_head(outputs.band_statistics)
        if labels is not None and self.config.problem_type == "multi_label_classification":
            labels = labels.to(logits)  # also integers and booleans
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SANetClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            pooling_weights=outputs.pooling_weights,
        )


__all__ = ["SANetForAudioClassification", "SANetModel", "SANetPreTrainedModel"]
