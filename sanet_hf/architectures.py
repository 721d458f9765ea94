# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Differences between SANet, wav2vec2, AST, Whisper and similar models: lengths, padding, features and heads.

Each architecture has a class. [`Architecture`] is for wav2vec2 and similar models. To support another architecture,
write a subclass and add it to `ARCHITECTURES`. The functions below the classes support all architectures.
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

# Supported sampling rates in Hz of a SANet from scratch: from telephones to the highest rate of common recorders.
SAMPLING_RATES = (8000, 96_000)
# Window length for models without a limit, whose memory grows with the square of the length.
MAX_WINDOW_SECONDS = 30.0
AST_FRAME, AST_HOP = 0.025, 0.010  # seconds; AST's filter bank
WHISPER_POSITIONS = 50  # per second
WHISPER_SIZES = ("feature_size", "sampling_rate", "hop_length", "n_fft", "padding_value", "return_attention_mask")
MODEL_TYPE_ALIASES = {"ast": "audio-spectrogram-transformer"}
# Names in configurations: size of the hidden states, and number of attention heads, which must divide it.
HEADS_OF_SIZE = {"hidden_size": "num_attention_heads", "d_model": "encoder_attention_heads"}


class Architecture:
    """wav2vec2, HuBERT, WavLM and similar models: waveforms of any length."""

    model_type: str | None = None
    feature_extractor_class: type[FeatureExtractionMixin] | None = None
    # Shorter clips are zero-padded. wav2vec2 masks 10 frames of 20 ms in training, and AST's filter bank needs 25 ms.
    min_seconds = 0.25
    has_pooling_weights = False
    # Whether a model from scratch supports any sampling rate. Other architectures are designed for one rate: kernels
    # and strides of wav2vec2, filter banks of AST and Whisper.
    takes_any_sampling_rate = False

    def max_seconds(self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> float | None:
        """Return the longest clip that the architecture supports, in seconds; `None` for any length."""
        return None

    def padding_strategy(self, feature_extractor: FeatureExtractionMixin, padding: bool) -> str | bool:
        """Return the argument `padding` of the feature extractor."""
        return "longest" if padding else False

    def expects_fixed_length(self, feature_extractor: FeatureExtractionMixin) -> bool:
        """Return whether clips must be padded to the length of training clips, without a mask."""
        return False

    def pads_to_one_length(self, feature_extractor: FeatureExtractionMixin) -> bool:
        """Return whether all clips are padded to one length."""
        return self.expects_fixed_length(feature_extractor)

    def is_padding_invariant(self, feature_extractor: FeatureExtractionMixin) -> bool:
        """Return whether a clip has the same scores in a batch with longer clips."""
        return bool(feature_extractor.return_attention_mask)

    def backbone(self, model: PreTrainedModel) -> nn.Module:
        """Return the part of a classifier that computes features."""
        return model.base_model

    def pool(self, model: PreTrainedModel, output: ModelOutput, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the embedding of each clip, (batch, features): the mean of the backbone output over valid frames."""
        hidden_states = output[0]
        if attention_mask is None or not hasattr(model, "_get_feature_vector_attention_mask"):
            return hidden_states.mean(dim=1)
        mask = model._get_feature_vector_attention_mask(hidden_states.shape[1], attention_mask)
        mask = mask.to(hidden_states.dtype)
        return torch.einsum("btc,bt->bc", hidden_states, mask) / mask.sum(dim=1, keepdim=True)

    def feature_extractor_options(self, config: PreTrainedConfig) -> dict[str, object]:
        """Return options of a new feature extractor that depend on the configuration of the model."""
        return {}

    def sizes_for_length(self, config: PreTrainedConfig, seconds: float, sampling_rate: int) -> dict[str, int]:
        """Return configuration values with which a model from scratch supports longer clips, if it does not."""
        return {}

    def set_padding(self, feature_extractor: FeatureExtractionMixin, padding: str) -> None:
        """Set the padding of short clips for a model from scratch: `longest` or `max_length`."""
        if padding != "longest":
            raise UsageError(
                f"--padding {padding} needs SANet. {self.model_type or 'This model'} supports only --padding longest."
            )

    def fit_positions(self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, seconds: float) -> None:
        """Shorten position embeddings to clips of `seconds`, if the architecture supports only one length."""

    def set_max_length(
        self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, seconds: float
    ) -> None:
        """
        Store the length of training clips in the feature extractor, for [`find_window_seconds`].

        Raises:
            UsageError: The model does not support clips of this length.
        """
        if seconds <= 0:
            raise UsageError(f"--max_length_seconds {seconds:g} must be positive.")
        longest = self.max_seconds(model, feature_extractor)
        if longest is not None and seconds > longest:
            raise UsageError(
                f"--max_length_seconds {seconds:g}: this {model.config.model_type} model supports clips of at most "
                f"{longest:g} s. Use at most that, or train from scratch without a length in --config_overrides."
            )
        # transformers does not have this attribute, but saves and loads it with the others.
        feature_extractor.max_length_seconds = seconds

    def freeze_backbone(self, model: PreTrainedModel) -> None:
        """Freeze all parameters except those of the classification head."""
        self.backbone(model).requires_grad_(False)


class SANetArchitecture(Architecture):
    """SANet: waveforms up to the limit of its position embeddings. The feature extractor crops longer ones."""

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
        # There is no limit without attention blocks.
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
                f"--max_length_seconds {seconds:g}: this model supports clips of at most {limit} samples "
                f"({limit / rate:g} s at {rate} Hz). Use at most that, or train from scratch without "
                "max_position_embeddings in --config_overrides."
            )
        feature_extractor.max_length = samples

    def freeze_backbone(self, model):
        model.freeze_base_model()  # including the statistics of BatchNorm


class ASTArchitecture(Architecture):
    """AST: spectrograms of one length. The feature extractor pads or crops clips to it."""

    model_type = "audio-spectrogram-transformer"
    feature_extractor_class = ASTFeatureExtractor

    def max_seconds(self, model, feature_extractor):
        # One more sample would add a frame.
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
    """Encoder of Whisper: spectrograms of one length. The feature extractor pads or crops clips to it."""

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
        # The default of the feature extractor is 30 s.
        longer = math.ceil(config.max_source_positions / WHISPER_POSITIONS)
        return {"feature_size": config.num_mel_bins, **({"chunk_length": longer} if longer > 30 else {})}

    def sizes_for_length(self, config, seconds, sampling_rate):
        positions = WHISPER_POSITIONS * math.ceil(seconds)
        return {"max_source_positions": positions} if positions > config.max_source_positions else {}

    def fit_positions(self, model, feature_extractor, seconds):
        # Sinusoidal position embeddings do not depend on their number.
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
    # The tolerance is for quotients that should be whole but are rounded down.
    return 1 + math.floor((seconds - AST_FRAME) / AST_HOP + 1e-6)


ARCHITECTURES = (SANetArchitecture(), ASTArchitecture(), WhisperArchitecture())
OTHERS = Architecture()


def architecture_of(model: PreTrainedModel | PreTrainedConfig) -> Architecture:
    """Return the architecture of a model or configuration."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    return next((known for known in ARCHITECTURES if known.model_type == config.model_type), OTHERS)


def _architecture_for(feature_extractor: FeatureExtractionMixin) -> Architecture:
    matching = (known for known in ARCHITECTURES if isinstance(feature_extractor, known.feature_extractor_class))
    return next(matching, OTHERS)


def check_sampling_rate(feature_extractor: FeatureExtractionMixin, name: str) -> None:
    """Raise a [`UsageError`] if the `preprocessor_config.json` of the model `name` is damaged."""
    rate = getattr(feature_extractor, "sampling_rate", None)
    if not isinstance(rate, int) or rate < 1:
        raise UsageError(
            f"{name}: sampling_rate in preprocessor_config.json must be a positive whole number of Hz, not {rate!r}."
        )


def find_window_seconds(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> float:
    """
    Return the maximum clip length of a model in seconds: the limit of its architecture, and at most the length in
    training, which `sanet train` stores in the feature extractor as `max_length_seconds`. Without a limit, it is 30 s.
    """
    stored = getattr(feature_extractor, "max_length_seconds", None)
    limits = (stored, architecture_of(model).max_seconds(model, feature_extractor))
    return min((limit for limit in limits if limit is not None), default=MAX_WINDOW_SECONDS)


def window_length(model: PreTrainedModel, feature_extractor: FeatureExtractionMixin) -> int:
    """Return the maximum clip length of a model in samples; see [`find_window_seconds`]."""
    return round(find_window_seconds(model, feature_extractor) * feature_extractor.sampling_rate)


def min_samples(feature_extractor: FeatureExtractionMixin) -> int:
    """Return the minimum number of samples of a clip. [`extract_features`] pads shorter clips."""
    return max(1, round(_architecture_for(feature_extractor).min_seconds * feature_extractor.sampling_rate))


def extract_features(
    feature_extractor: FeatureExtractionMixin,
    waveforms: Sequence[np.ndarray],
    padding: bool = True,
    return_tensors: str | None = "pt",
) -> BatchFeature:
    """
    Return features of clips for a model of any architecture.

    Args:
        feature_extractor: Feature extractor of the model.
        waveforms: Clips of shape (samples,) at the sampling rate of the feature extractor.
        padding: Whether to pad clips to one length: that of the longest clip, or with [`expects_fixed_length`] that of
            the feature extractor. Clips for Whisper and AST are always padded to the length that the model needs.
        return_tensors: As for feature extractors.
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
    Delete a mask over samples if it is all ones. Such a mask only costs time: on a GPU a copy as large as the
    waveforms, and a wait for its values.

    Args:
        features: Result of [`extract_features`].
        waveforms: Inputs of [`extract_features`].
    """
    mask = features.get("attention_mask")
    is_over_samples = mask is not None and "input_values" in features and mask.shape == features["input_values"].shape
    if is_over_samples and mask.shape[-1] <= min(map(len, waveforms)):
        del features["attention_mask"]


def expects_fixed_length(feature_extractor: FeatureExtractionMixin) -> bool:
    """Return whether a SANet was trained on clips padded to one length without a mask, and needs such clips."""
    return _architecture_for(feature_extractor).expects_fixed_length(feature_extractor)


def pads_to_one_length(feature_extractor: FeatureExtractionMixin) -> bool:
    """Return whether all clips are padded to one length in training, so that batches by length save nothing."""
    return _architecture_for(feature_extractor).pads_to_one_length(feature_extractor)


def is_padding_invariant(feature_extractor: FeatureExtractionMixin) -> bool:
    """Return whether a clip has the same scores in a batch with longer clips, by masks or padding to one length."""
    return _architecture_for(feature_extractor).is_padding_invariant(feature_extractor)


def takes_waveforms(feature_extractor: FeatureExtractionMixin) -> bool:
    """Return whether features are waveforms, not spectrograms. Spectrograms of AST are also called input_values."""
    return feature_extractor.model_input_names[0] == "input_values" and not hasattr(feature_extractor, "num_mel_bins")


def backbone(model: PreTrainedModel) -> nn.Module:
    """Return the part of a classifier that computes features."""
    return architecture_of(model).backbone(model)


def head_parameter_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the parameters outside the backbone."""
    inner = {id(parameter) for parameter in backbone(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in inner}


def remove_band_head(model: PreTrainedModel) -> None:
    """Remove the linear layer on band statistics from a SANet, in place, if it has one."""
    if getattr(model.config, "use_band_statistics", False):
        model.config.use_band_statistics = False
        del model.band_head


@contextmanager
def backbone_outputs(model: PreTrainedModel) -> Iterator[list[ModelOutput]]:
    """Yield a list to which each forward pass appends the backbone output, which not all classifiers return."""
    outputs: list[ModelOutput] = []
    hook = backbone(model).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def pool(model: PreTrainedModel, output: ModelOutput, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the embedding of each clip, (batch, features), from the backbone output."""
    return architecture_of(model).pool(model, output, attention_mask)


def class_scores(model: PreTrainedModel, logits: torch.Tensor) -> np.ndarray:
    """Return scores for logits (clips, classes), float32: probabilities, or the logits of a regression."""
    logits = logits.float()
    if model.config.problem_type == "multi_label_classification":
        logits = logits.sigmoid()
    elif model.config.problem_type != "regression":
        logits = logits.softmax(-1)
    return logits.cpu().numpy()


def fitting_heads(default: PreTrainedConfig, overrides: dict) -> dict[str, int]:
    """Return the largest numbers of heads, up to the defaults, that divide sizes that are overridden without heads."""
    fitting = {}
    for size, name in HEADS_OF_SIZE.items():
        heads = getattr(default, name, None)
        if isinstance(overrides.get(size), int) and name not in overrides and isinstance(heads, int):
            fitting[name] = max(n for n in range(1, heads + 1) if overrides[size] % n == 0)
            if fitting[name] != heads:
                logger.warning(
                    f"Using {name}={fitting[name]}, since {heads} does not divide {size}={overrides[size]}."
                )
    return fitting


def interpolate_positions(positions: torch.Tensor, old_shape: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    """
    Interpolate position embeddings of AST bilinearly to another number of patches, as in Gong et al., AST: Audio
    Spectrogram Transformer, Interspeech 2021.

    Args:
        positions: Shape (1, 2 + patches, channels): two extra tokens, then the patches, with time as innermost axis.
        old_shape, shape: Patches along frequency and time.

    Returns:
        Shape (1, 2 + new patches, channels).
    """
    tokens, patches = positions[:, :2], positions[:, 2:]
    grid = patches.reshape(1, *old_shape, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=tuple(shape), mode="bilinear", align_corners=False)
    return torch.cat([tokens, grid.flatten(2).transpose(1, 2)], dim=1)
