# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
What SANet, wav2vec2, AST, Whisper and similar models need of length, padding, features and heads.

Each architecture has a class; [`Architecture`] itself is that of wav2vec2 and similar models. To support another one,
write a subclass and add it to `ARCHITECTURES`. The functions below the classes work with any of them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from transformers import (
    ASTFeatureExtractor,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)
from transformers.utils import ModelOutput, logging

from sanet_hf.errors import UsageError
from sanet_hf.feature_extraction_sanet import SANetFeatureExtractor


logger = logging.get_logger(__name__)

# In Hz, that a SANet from scratch can be made for: from telephones to the highest rate of common recorders.
SAMPLING_RATES = (8000, 96_000)
# Windows of models that take clips of any length, whose memory grows with the square of it.
MAX_WINDOW_SECONDS = 30.0
AST_FRAME, AST_HOP = 0.025, 0.010  # seconds, of AST's filter bank
WHISPER_POSITIONS = 50  # a second
WHISPER_SIZES = ("feature_size", "sampling_rate", "hop_length", "n_fft", "padding_value", "return_attention_mask")
MODEL_TYPE_ALIASES = {"ast": "audio-spectrogram-transformer"}
# Names in configurations: size of the hidden states, and the attention heads that must divide it.
HEADS_OF_SIZE = {"hidden_size": "num_attention_heads", "d_model": "encoder_attention_heads"}


class Architecture:
    """wav2vec2, HuBERT, WavLM and similar models: waveforms of any length."""

    model_type: str | None = None
    feature_extractor_class: type[FeatureExtractionMixin] | None = None
    # Shorter clips are padded with zeros: wav2vec2's masking in training covers 10 frames of 20 ms, AST's filter bank
    # 25 ms.
    min_seconds = 0.25
    has_pooling_weights = False
    # Where a model from scratch can be made for any sampling rate. Those of others are part of what they are: of the
    # kernels and strides in wav2vec2, of the filter banks in AST and Whisper.
    takes_any_sampling_rate = False

    def max_seconds(self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> float | None:
        """The longest clip that the model takes, whatever it was trained on; `None` for any length."""
        return None

    def padding_strategy(self, feature_extractor: FeatureExtractionMixin, padding: bool) -> str | bool:
        """The argument `padding` of the feature extractor."""
        return "longest" if padding else False

    def expects_fixed_length(self, feature_extractor: FeatureExtractionMixin) -> bool:
        """Whether clips must be padded to the length of training, without a mask."""
        return False

    def pads_to_one_length(self, feature_extractor: FeatureExtractionMixin) -> bool:
        """Whether all clips come to the length of the longest."""
        return self.expects_fixed_length(feature_extractor)

    def is_padding_invariant(self, feature_extractor: FeatureExtractionMixin) -> bool:
        """Whether a clip has the same scores in a batch with longer ones."""
        return bool(feature_extractor.return_attention_mask)

    def backbone(self, model: PreTrainedModel) -> nn.Module:
        """The part of a classifier that computes features."""
        return model.base_model

    def pool(self, model: PreTrainedModel, output: ModelOutput, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The embedding of each clip, (batch, features), from the backbone's output: the mean over valid frames."""
        hidden_states = output[0]
        if attention_mask is None or not hasattr(model, "_get_feature_vector_attention_mask"):
            return hidden_states.mean(dim=1)
        mask = model._get_feature_vector_attention_mask(hidden_states.shape[1], attention_mask)
        mask = mask.to(hidden_states.dtype)
        return torch.einsum("btc,bt->bc", hidden_states, mask) / mask.sum(dim=1, keepdim=True)

    def feature_extractor_options(self, config: PreTrainedConfig) -> dict[str, object]:
        """Options of a new feature extractor that follow from the configuration of the model."""
        return {}

    def sizes_for_length(self, config: PreTrainedConfig, seconds: float, sampling_rate: int) -> dict[str, int]:
        """Values for the configuration of a model from scratch, if it is to take longer clips than it does."""
        return {}

    def set_padding(self, feature_extractor: FeatureExtractionMixin, padding: str) -> None:
        """Set how a model that is trained from scratch treats short clips: `longest` or `max_length`."""
        if padding != "longest":
            raise UsageError(f"--padding {padding} is for SANet; {self.model_type or 'this model'} pads as it must.")

    def fit_positions(self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, seconds: float) -> None:
        """Shorten position embeddings to clips of `seconds`, where the architecture takes one length only."""

    def set_max_length(
        self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, seconds: float
    ) -> None:
        """
        Store the length of training clips in the feature extractor, for [`find_window_seconds`].

        Raises:
            UsageError: The model does not take clips of this length.
        """
        if seconds <= 0:
            raise UsageError(f"--max_length_seconds {seconds:g} must be positive.")
        longest = self.max_seconds(model, feature_extractor)
        if longest is not None and seconds > longest:
            raise UsageError(
                f"--max_length_seconds {seconds:g}: this {model.config.model_type} takes clips of up to {longest:g} "
                "s. Choose at most that. A model from scratch is made for the length, unless --config_overrides sets "
                "it."
            )
        # Not an attribute of transformers: it is saved and loaded with the others.
        feature_extractor.max_length_seconds = seconds

    def freeze_backbone(self, model: PreTrainedModel) -> None:
        """Train the classification head alone."""
        self.backbone(model).requires_grad_(False)


class SANetArchitecture(Architecture):
    """SANet: waveforms up to the limit of its position embeddings; the feature extractor crops longer ones."""

    model_type = "sanet"
    feature_extractor_class = SANetFeatureExtractor
    min_seconds = 0.0
    has_pooling_weights = True
    takes_any_sampling_rate = True

    def max_seconds(self, model, feature_extractor):
        samples = [feature_extractor.max_length, model.config.max_input_samples]
        return min((n / feature_extractor.sampling_rate for n in samples if n is not None), default=None)

    def padding_strategy(self, feature_extractor, padding):
        if padding and self.expects_fixed_length(feature_extractor):
            return "max_length"
        return super().padding_strategy(feature_extractor, padding)

    def expects_fixed_length(self, feature_extractor):
        return not feature_extractor.return_attention_mask

    def is_padding_invariant(self, feature_extractor):
        return True

    def pool(self, model, output, attention_mask):
        return output.pooler_output

    def set_padding(self, feature_extractor, padding):
        feature_extractor.return_attention_mask = padding == "longest"

    def sizes_for_length(self, config, seconds, sampling_rate):
        # Without attention blocks there is no limit.
        limit, num_samples = config.max_input_samples, round(seconds * sampling_rate)
        if limit is None or num_samples <= limit:
            return {}
        return {"max_position_embeddings": -(-num_samples * config.max_position_embeddings // limit)}

    def set_max_length(self, model, feature_extractor, seconds):
        rate, limit = feature_extractor.sampling_rate, model.config.max_input_samples
        samples = round(seconds * rate)
        if samples < 1:
            raise UsageError(f"--max_length_seconds {seconds:g} must be at least one sample, {1 / rate:.2g} s.")
        if limit is not None and samples > limit:
            raise UsageError(
                f"--max_length_seconds {seconds:g}: this model has positions for clips of up to {limit} samples "
                f"({limit / rate:g} s at {rate} Hz). Choose at most that. A model from scratch is made for the "
                "length, unless --config_overrides sets max_position_embeddings."
            )
        feature_extractor.max_length = samples

    def freeze_backbone(self, model):
        model.freeze_base_model()  # with the statistics of BatchNorm


class ASTArchitecture(Architecture):
    """AST: spectrograms of one length, which the feature extractor pads or cuts."""

    model_type = "audio-spectrogram-transformer"
    feature_extractor_class = ASTFeatureExtractor

    def max_seconds(self, model, feature_extractor):
        # A sample more would be another frame.
        return feature_extractor.max_length * AST_HOP + AST_FRAME - 1 / feature_extractor.sampling_rate

    def pads_to_one_length(self, feature_extractor):
        return True

    def is_padding_invariant(self, feature_extractor):
        return True

    def feature_extractor_options(self, config):
        return {"num_mel_bins": config.num_mel_bins, "max_length": config.max_length}

    def sizes_for_length(self, config, seconds, sampling_rate):
        frames = _ast_frames(seconds)
        return {"max_length": frames} if frames > config.max_length else {}

    def fit_positions(self, model, feature_extractor, seconds):
        embeddings = model.audio_spectrogram_transformer.embeddings
        config = model.config
        frames = max(_ast_frames(seconds), config.patch_size)
        if frames >= config.max_length:
            return
        old_shape = embeddings.get_shape(config)
        config.max_length = feature_extractor.max_length = frames
        embeddings.position_embeddings = nn.Parameter(
            interpolate_positions(embeddings.position_embeddings.detach(), old_shape, embeddings.get_shape(config))
        )


class WhisperArchitecture(Architecture):
    """Whisper's encoder: spectrograms of one length, which the feature extractor pads or cuts."""

    model_type = "whisper"
    feature_extractor_class = WhisperFeatureExtractor

    def max_seconds(self, model, feature_extractor):
        return feature_extractor.n_samples / feature_extractor.sampling_rate

    def pads_to_one_length(self, feature_extractor):
        return True

    def padding_strategy(self, feature_extractor, padding):
        return "max_length"

    def is_padding_invariant(self, feature_extractor):
        return True

    def backbone(self, model):
        return model.encoder  # transformers has no base model in this class

    def feature_extractor_options(self, config):
        # Of its own it is for 30 s.
        longer = math.ceil(config.max_source_positions / WHISPER_POSITIONS)
        return {"feature_size": config.num_mel_bins, **({"chunk_length": longer} if longer > 30 else {})}

    def sizes_for_length(self, config, seconds, sampling_rate):
        positions = WHISPER_POSITIONS * math.ceil(seconds)
        return {"max_source_positions": positions} if positions > config.max_source_positions else {}

    def fit_positions(self, model, feature_extractor, seconds):
        # Its sinusoidal positions do not depend on how many there are.
        chunk_length = math.ceil(seconds)
        if chunk_length >= feature_extractor.chunk_length:
            return
        sizes = {name: value for name, value in feature_extractor.to_dict().items() if name in WHISPER_SIZES}
        feature_extractor.__init__(**{**sizes, "chunk_length": chunk_length})
        positions = feature_extractor.nb_max_frames // (model.encoder.conv1.stride[0] * model.encoder.conv2.stride[0])
        table = model.encoder.embed_positions
        model.encoder.embed_positions = nn.Embedding.from_pretrained(table.weight[:positions].detach().clone())
        model.config.max_source_positions = model.encoder.max_source_positions = positions


def _ast_frames(seconds: float) -> int:
    # A quotient that should be whole may come out a little lower.
    return 1 + math.floor((seconds - AST_FRAME) / AST_HOP + 1e-6)


ARCHITECTURES = (SANetArchitecture(), ASTArchitecture(), WhisperArchitecture())
OTHERS = Architecture()


def architecture_of(model: PreTrainedModel | PreTrainedConfig) -> Architecture:
    """The architecture of a model or configuration."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    return next((known for known in ARCHITECTURES if known.model_type == config.model_type), OTHERS)


def _architecture_for(feature_extractor: FeatureExtractionMixin) -> Architecture:
    matching = (known for known in ARCHITECTURES if isinstance(feature_extractor, known.feature_extractor_class))
    return next(matching, OTHERS)


def check_sampling_rate(feature_extractor: FeatureExtractionMixin, name: str) -> None:
    """Raise a [`UsageError`] for a damaged `preprocessor_config.json` of the model `name`."""
    rate = getattr(feature_extractor, "sampling_rate", None)
    if not isinstance(rate, int) or rate < 1:
        raise UsageError(f"{name}: preprocessor_config.json has the sampling rate {rate!r}, which is no number of Hz.")


def find_window_seconds(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> float:
    """
    The longest clip to give a model, in seconds: no longer than it takes, and no longer than in training, which
    `sanet train` stores in the feature extractor as `max_length_seconds`. Where there is no limit, 30 s.
    """
    limits = [
        getattr(feature_extractor, "max_length_seconds", None),
        architecture_of(model).max_seconds(model, feature_extractor),
    ]
    return min((limit for limit in limits if limit is not None), default=MAX_WINDOW_SECONDS)


def min_samples(feature_extractor: FeatureExtractionMixin) -> int:
    """The fewest samples of a clip; shorter ones are padded by [`extract_features`]."""
    return max(1, round(_architecture_for(feature_extractor).min_seconds * feature_extractor.sampling_rate))


def extract_features(
    feature_extractor: FeatureExtractionMixin,
    waveforms: Sequence[np.ndarray],
    padding: bool = True,
    return_tensors: str | None = "pt",
) -> BatchFeature:
    """
    Features of clips for a model of any architecture.

    Args:
        feature_extractor: The model's own.
        waveforms: Clips of shape (samples,) at the feature extractor's sampling rate.
        padding: Whether to pad them to one length: the longest clip's, or, with [`expects_fixed_length`], the
            feature extractor's. Those of Whisper and AST always pad to the one length that their models take.
        return_tensors: As feature extractors have it.
    """
    architecture, shortest = _architecture_for(feature_extractor), min_samples(feature_extractor)
    if architecture.min_seconds:
        waveforms = [np.pad(waveform, (0, max(0, shortest - len(waveform)))) for waveform in waveforms]
    return feature_extractor(
        waveforms,
        sampling_rate=feature_extractor.sampling_rate,
        padding=architecture.padding_strategy(feature_extractor, padding),
        return_tensors=return_tensors,
    )


def drop_full_mask(features: BatchFeature, waveforms: Sequence[np.ndarray]) -> None:
    """
    Delete a mask over samples that leaves nothing out. It only costs time: on a GPU another copy, as large as the
    waveforms, and a wait for its values.

    Args:
        features: What [`extract_features`] returns.
        waveforms: What it was given.
    """
    mask = features.get("attention_mask")
    is_over_samples = mask is not None and "input_values" in features and mask.shape == features["input_values"].shape
    if is_over_samples and mask.shape[-1] <= min(map(len, waveforms)):
        del features["attention_mask"]


def expects_fixed_length(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether a SANet was trained on clips padded to one length without a mask, and must be given such clips."""
    return _architecture_for(feature_extractor).expects_fixed_length(feature_extractor)


def pads_to_one_length(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether all clips come to one length in training, so that batches by length save nothing."""
    return _architecture_for(feature_extractor).pads_to_one_length(feature_extractor)


def is_padding_invariant(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether a clip's scores are the same in a batch with longer ones: all are padded to one length, or masked."""
    return _architecture_for(feature_extractor).is_padding_invariant(feature_extractor)


def takes_waveforms(feature_extractor: FeatureExtractionMixin) -> bool:
    """Whether features are a waveform, not a spectrogram; AST's are called input_values all the same."""
    return feature_extractor.model_input_names[0] == "input_values" and not hasattr(feature_extractor, "num_mel_bins")


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part of a classifier that computes features."""
    return architecture_of(model).backbone(model)


def head_parameter_names(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that are not the backbone's."""
    inner = {id(parameter) for parameter in backbone(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in inner}


def remove_band_head(model: PreTrainedModel) -> None:
    """Take the head on bands off a SANet, in place, if it has one."""
    if getattr(model.config, "use_band_statistics", False):
        model.config.use_band_statistics = False
        del model.band_head


@contextmanager
def backbone_outputs(model: PreTrainedModel) -> Iterator[list[ModelOutput]]:
    """A list to which each forward pass appends the output of the backbone; not all classifiers return it."""
    outputs: list[ModelOutput] = []
    hook = backbone(model).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def pool(model: PreTrainedModel, output: ModelOutput, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The embedding of each clip, (batch, features), from the backbone's output."""
    return architecture_of(model).pool(model, output, attention_mask)


def class_scores(model: PreTrainedModel, logits: torch.Tensor) -> np.ndarray:
    """Scores of a model's logits (clips, classes), float32: probabilities, or of a regression the logits."""
    logits = logits.float()
    if model.config.problem_type == "multi_label_classification":
        logits = logits.sigmoid()
    elif model.config.problem_type != "regression":
        logits = logits.softmax(-1)
    return logits.cpu().numpy()


def fitting_heads(default: PreTrainedConfig, overrides: dict) -> dict[str, int]:
    """The most attention heads, up to the default, that divide a size that was given without them."""
    fitting = {}
    for size, name in HEADS_OF_SIZE.items():
        heads = getattr(default, name, None)
        if isinstance(overrides.get(size), int) and name not in overrides and isinstance(heads, int):
            fitting[name] = max(n for n in range(1, heads + 1) if overrides[size] % n == 0)
            if fitting[name] != heads:
                logger.warning(f"{name}={fitting[name]} instead of {heads}, which does not divide {size}.")
    return fitting


def interpolate_positions(positions: torch.Tensor, old_shape: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    """
    Position embeddings of AST for another number of patches, interpolated bilinearly as in Gong et al., AST: Audio
    Spectrogram Transformer, Interspeech 2021.

    Args:
        positions: Shape (1, 2 + patches, channels): those of two extra tokens, then of the patches, time innermost.
        old_shape, shape: Patches along frequency and time.

    Returns:
        Shape (1, 2 + new patches, channels).
    """
    tokens, patches = positions[:, :2], positions[:, 2:]
    grid = patches.reshape(1, *old_shape, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=tuple(shape), mode="bilinear", align_corners=False)
    return torch.cat([tokens, grid.flatten(2).transpose(1, 2)], dim=1)
