# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractor of SANet: loudness, cropping and padding of waveforms."""

from numbers import Integral

import numpy as np
import torch
from transformers import BatchFeature
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType, logging


logger = logging.get_logger(__name__)

DEFAULT_SAMPLING_RATE = 16000  # Hz
# Clips with a lower root mean square are silent. Their gain is limited.
_MIN_RMS = 1e-8


class SANetFeatureExtractor(SequenceFeatureExtractor):
    """
    Convert waveforms to the inputs of [`SANetModel`]: crop each clip, normalise its loudness, and pad it.

    Args:
        feature_size (`int`, defaults to 1):
            Channels. Only mono clips are supported.
        sampling_rate (`int`, defaults to 16000):
            Sampling rate of the clips in Hz.
        padding_value (`float`, defaults to 0.0):
            Value of padded samples; the model expects 0.
        max_length (`int`, *optional*, defaults to 64000):
            Samples to which clips are cropped or padded. `None` keeps their length.
        do_normalize (`bool`, defaults to `True`):
            Whether to scale each clip, after cropping, to a root mean square of `target_rms`.
        target_rms (`float`, defaults to 0.1):
            Root mean square after normalisation. Silence stays silent.
        return_attention_mask (`bool`, defaults to `True`):
            Whether to return a mask that is 1 for samples of the clip and 0 for padding.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = DEFAULT_SAMPLING_RATE,
        padding_value: float = 0.0,
        max_length: int | None = 64000,
        do_normalize: bool = True,
        target_rms: float = 0.1,
        return_attention_mask: bool = True,
        **kwargs,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        if self.padding_side != "right":
            raise ValueError(f"padding_side={self.padding_side!r} must be 'right'.")
        self.max_length = max_length
        self.do_normalize = do_normalize
        self.target_rms = target_rms

    def __call__(
        self,
        raw_speech: np.ndarray
        | torch.Tensor
        | list[float]
        | list[np.ndarray]
        | list[torch.Tensor]
        | list[list[float]],
        padding: bool | str | PaddingStrategy = "max_length",
        max_length: int | None = None,
        truncation: bool | str = "center",
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
        sampling_rate: int | None = None,
        generator: np.random.Generator | None = None,
    ) -> BatchFeature:
        """
        Convert clips to a batch of features.

        Args:
            raw_speech:
                One mono clip or a batch of them: lists, NumPy arrays or torch tensors of floats or signed integers.
                A 2-D array is a batch of clips, (batch, samples).
            padding:
                `"max_length"` pads to `max_length`. `"longest"` or `True` pads to the longest clip of the batch.
                `False` does not pad. Padding is on the right.
            max_length:
                Samples to which clips are cropped or padded. Overrides the setting of the extractor.
            truncation:
                Part of a clip to keep if it is longer than `max_length`. `"center"` or `True`: the middle. `"random"`:
                a random part, for training. `False`: the whole clip.
            pad_to_multiple_of:
                Round the padded length up to a multiple of this number of samples.
            return_attention_mask:
                Overrides the setting of the extractor.
            return_tensors:
                `"pt"` or `"np"`.
            sampling_rate:
                Sampling rate of the clips in Hz. It must be that of the extractor.
            generator:
                Random generator for `truncation="random"`.

        Returns:
            `input_values`, float32 of shape (batch, samples), and `attention_mask`, int32 of the same shape. Both are
            lists of arrays if clips are not padded to one length.

        Raises:
            ValueError: A clip is empty, not mono, not numeric, contains NaN or Inf, or has another sampling rate; or a
                length is not a positive whole number.
        """
        self._check_sampling_rate(sampling_rate)
        clips = [self._as_mono(clip, index) for index, clip in enumerate(self._as_batch(raw_speech))]
        max_length = self.max_length if max_length is None else max_length
        for name, length in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if length is not None and not (isinstance(length, Integral) and length > 0):
                raise ValueError(f"{name}={length!r} must be a positive whole number of samples.")
        if max_length is None and padding == PaddingStrategy.MAX_LENGTH:
            padding = False
        strategy = self._get_padding_strategies(padding, max_length)
        if truncation not in (True, False, "center", "random"):
            raise ValueError(f"truncation={truncation!r} must be 'center' (or True), 'random' or False.")

        if truncation and max_length is not None:
            if truncation == "random" and generator is None:
                generator = np.random.default_rng()
            clips = [_crop(clip, max_length, generator if truncation == "random" else None) for clip in clips]
        # Computed after cropping, as in training, which crops clips before feature extraction.
        gains = [self._gain(clip, index) for index, clip in enumerate(clips)]
        lengths = np.array([len(clip) for clip in clips], dtype=np.int64)

        if strategy == PaddingStrategy.DO_NOT_PAD:
            padded_lengths = lengths
        else:
            longest = lengths.max(initial=0)
            padded_length = max(longest, max_length) if strategy == PaddingStrategy.MAX_LENGTH else longest
            padded_lengths = np.full(len(clips), padded_length, dtype=np.int64)
        if pad_to_multiple_of is not None:
            padded_lengths = -(-padded_lengths // pad_to_multiple_of) * pad_to_multiple_of

        return_attention_mask = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        input_values = _rows(lengths, padded_lengths, np.float32)
        for row, clip, gain in zip(input_values, clips, gains):
            np.multiply(clip, np.float32(gain), out=row[: len(clip)])
            if self.padding_value != 0:
                row[len(clip) :] = self.padding_value
        features = {"input_values": input_values}
        if return_attention_mask:
            features["attention_mask"] = _rows(lengths, padded_lengths, np.int32)
            for row, length in zip(features["attention_mask"], lengths):
                row[:length] = 1
        return BatchFeature(features, tensor_type=return_tensors)

    def _check_sampling_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None:
            logger.warning_once(
                f"Pass sampling_rate to {type(self).__name__}. Without it, clips at a rate other than "
                f"{self.sampling_rate} Hz are not detected and are misclassified."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The clip has a sampling rate of {sampling_rate} Hz, but the model was trained at "
                f"{self.sampling_rate} Hz. Resample it first: "
                f"torchaudio.functional.resample(waveform, {sampling_rate}, {self.sampling_rate})."
            )

    @staticmethod
    def _as_batch(raw_speech) -> list:
        if isinstance(raw_speech, (np.ndarray, torch.Tensor)):
            if raw_speech.ndim == 2 and raw_speech.shape[1] <= 8 and raw_speech.shape[0] > 1000:
                raise ValueError(
                    f"An array of shape {tuple(raw_speech.shape)} looks like (samples, channels), but a batch is "
                    "(batch, samples) and clips are mono. Average the channels first, for instance with array.mean(1)."
                )
            raw_speech = list(raw_speech) if raw_speech.ndim > 1 else [raw_speech]
        if not isinstance(raw_speech, (list, tuple)):
            raise ValueError(
                f"A clip must be a list, a NumPy array or a torch tensor of samples, not {type(raw_speech).__name__}."
            )
        if len(raw_speech) == 0:
            raise ValueError("The clip or batch is empty. Pass at least one sample.")
        return [raw_speech] if np.isscalar(raw_speech[0]) or getattr(raw_speech[0], "ndim", 1) == 0 else raw_speech

    @staticmethod
    def _as_mono(clip, index: int) -> np.ndarray:
        """Return a clip as float32 of shape (samples,)."""
        if isinstance(clip, torch.Tensor):
            clip = clip.detach().cpu()
            clip = (clip.float() if clip.dtype == torch.bfloat16 else clip).numpy()
        try:
            clip = np.asarray(clip)
        except (ValueError, TypeError) as error:
            raise ValueError(f"Clip {index} is not one row of samples: {error}") from error
        if clip.dtype.kind not in "fi":
            hint = " (unsigned PCM: subtract the offset first)" if clip.dtype.kind == "u" else ""
            raise ValueError(f"Clip {index} must contain floats or signed integers, not {clip.dtype}{hint}.")
        if clip.ndim > 1 and clip.shape[0] == 1:
            clip = clip[0]
        if clip.ndim != 1:
            raise ValueError(
                f"Clip {index} has shape {clip.shape}, but clips are mono. Average the channels first, for instance "
                "with clip.mean(0) for (channels, samples)."
            )
        if clip.size == 0:
            raise ValueError(f"Clip {index} is empty. Pass at least one sample.")
        # Overflows are detected when the loudness is measured.
        with np.errstate(over="ignore", invalid="ignore"):
            return clip.astype(np.float32, copy=False)

    def _gain(self, clip: np.ndarray, index: int) -> float:
        """Return the factor that scales the clip to the target loudness."""
        with np.errstate(over="ignore", invalid="ignore"):
            energy = float(np.dot(clip, clip))
        if not np.isfinite(energy):
            num_bad = np.count_nonzero(~np.isfinite(clip))
            if num_bad:
                raise ValueError(
                    f"Clip {index} contains NaN or Inf in {num_bad} of {clip.size} samples. Repair or remove the "
                    "recording."
                )
            # All samples are finite, but their squares overflow float32.
            energy = float(np.dot(clip.astype(np.float64), clip.astype(np.float64)))
        if not self.do_normalize:
            return 1.0
        return self.target_rms / max((energy / clip.size) ** 0.5, _MIN_RMS)


def _crop(clip: np.ndarray, max_length: int, generator: np.random.Generator | None) -> np.ndarray:
    """Return `max_length` samples of a clip: a random part with a generator, else the middle."""
    excess = len(clip) - max_length
    if excess <= 0:
        return clip
    start = excess // 2 if generator is None else int(generator.integers(excess + 1))
    return clip[start : start + max_length]


def _rows(lengths: np.ndarray, padded_lengths: np.ndarray, dtype: type) -> np.ndarray | list[np.ndarray]:
    """
    Return a row for each clip, with zeros in the padding: one array if all lengths are equal, else a list. Pages of
    `np.zeros` that are never written use no physical memory.
    """
    make = np.zeros if (lengths < padded_lengths).any() else np.empty
    if (padded_lengths == padded_lengths[0]).all():
        return make((len(padded_lengths), padded_lengths[0]), dtype=dtype)
    return [make(length, dtype=dtype) for length in padded_lengths]


__all__ = ["SANetFeatureExtractor"]
