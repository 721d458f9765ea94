# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanet_hf import SANetFeatureExtractor, feature_extraction_sanet


RATE = {"sampling_rate": 16000}


def noise(length: int, level: float = 0.3, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)


def rms(samples) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(samples, dtype=np.float64)))))


FORMS = {
    "array": lambda clip: clip,
    "float64": lambda clip: clip.astype(np.float64),
    "list": lambda clip: clip.tolist(),
    "tuple": lambda clip: tuple(clip.tolist()),
    "tensor": torch.from_numpy,
    "tensor_with_gradient": lambda clip: torch.from_numpy(clip).requires_grad_(),
    "int16": lambda clip: np.round(clip * 2**14).astype(np.int16),
    "one_channel_of_torchaudio": lambda clip: [torch.from_numpy(clip).unsqueeze(0)],
    "batch_of_one": lambda clip: clip[None],
    "list_of_arrays": lambda clip: [clip],
    "list_of_lists": lambda clip: [clip.tolist()],
    "list_of_scalars": lambda clip: list(clip),
    "strided": lambda clip: np.repeat(clip, 2)[::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_clip(form):
    clip = noise(1000)
    features = SANetFeatureExtractor()(FORMS[form](clip), padding=False, **RATE, return_tensors="np")
    assert features["input_values"].dtype == np.float32
    assert features["input_values"].shape == features["attention_mask"].shape == (1, 1000)
    expected = clip * 0.1 / rms(clip)
    assert np.abs(features["input_values"][0] - expected).max() < (1e-4 if form == "int16" else 1e-6)


def test_bfloat16_tensor():
    clip = torch.from_numpy(noise(100)).bfloat16()
    features = SANetFeatureExtractor()(clip, padding=False, **RATE)
    assert rms(features["input_values"][0]) == pytest.approx(0.1, rel=1e-5)


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    level=st.floats(-6, 4).map(lambda exponent: 10.0**exponent),
    padding=st.sampled_from(["max_length", "longest", True, False]),
    max_length=st.sampled_from([1, 1000, 2500]),
    truncation=st.sampled_from([True, False, "center", "random"]),
    multiple=st.sampled_from([None, 256]),
)
def test_batch_equals_clips_alone(lengths, level, padding, max_length, truncation, multiple):
    extractor = SANetFeatureExtractor(max_length=max_length)
    clips = [noise(length, level, seed) for seed, length in enumerate(lengths)]
    options = {"padding": padding, "truncation": truncation, "pad_to_multiple_of": multiple, **RATE}
    batch = extractor(clips, **options, generator=np.random.default_rng(0))
    generator = np.random.default_rng(0)
    kept = [min(length, max_length) if truncation else length for length in lengths]
    widths = kept
    if padding is not False:
        width = max(*kept, max_length) if padding == "max_length" else max(kept)
        widths = [width] * len(kept)
    if multiple:
        widths = [-(-width // multiple) * multiple for width in widths]
    for index, clip in enumerate(clips):
        row, mask = batch["input_values"][index], batch["attention_mask"][index]
        assert row.shape == mask.shape == (widths[index],)
        assert mask.tolist() == [1] * kept[index] + [0] * (widths[index] - kept[index])
        assert not row[kept[index] :].any()
        alone = extractor(clip, **{**options, "padding": False, "pad_to_multiple_of": None}, generator=generator)
        assert np.array_equal(row[: kept[index]], alone["input_values"][0])
        if kept[index] == len(clip):
            assert rms(row[: kept[index]]) == pytest.approx(0.1, rel=1e-3)


def test_default_is_four_seconds():
    features = SANetFeatureExtractor()([noise(100), noise(80000)], **RATE, return_tensors="pt")
    assert features["input_values"].shape == (2, 64000)
    assert features["attention_mask"].sum(1).tolist() == [100, 64000]
    assert (features["input_values"].dtype, features["attention_mask"].dtype) == (torch.float32, torch.int32)


def test_random_stretches_follow_the_generator():
    extractor = SANetFeatureExtractor(max_length=10, do_normalize=False)
    clip = np.arange(1000, dtype=np.float32)

    def starts(seed):
        generator = np.random.default_rng(seed)
        return [
            int(extractor(clip, truncation="random", generator=generator, **RATE)["input_values"][0][0])
            for _ in range(200)
        ]

    assert starts(0) == starts(0) != starts(1)
    assert min(starts(0)) < 50 and max(starts(0)) > 940 and max(starts(0)) <= 990


def test_random_stretches_reach_both_ends():
    extractor = SANetFeatureExtractor(max_length=10, do_normalize=False)
    generator = np.random.default_rng(0)
    clip = np.arange(12, dtype=np.float32)
    starts = [
        extractor(clip, truncation="random", generator=generator, **RATE)["input_values"][0][0] for _ in range(50)
    ]
    assert set(starts) == {0, 1, 2}


def test_random_stretches_need_no_generator():
    extractor = SANetFeatureExtractor(max_length=10, do_normalize=False)
    clip = np.arange(1000, dtype=np.float32)
    starts = {extractor(clip, truncation="random", **RATE)["input_values"][0][0] for _ in range(20)}
    # One start in 20 draws from 991 has a chance of 1e-57.
    assert len(starts) > 1


def test_max_length_of_the_call_overrides_the_extractor():
    extractor = SANetFeatureExtractor(max_length=10)
    assert extractor(noise(100), max_length=20, **RATE)["input_values"].shape == (1, 20)
    assert extractor(noise(5), max_length=20, **RATE)["attention_mask"].sum() == 5
    assert SANetFeatureExtractor(max_length=None)(noise(5), max_length=20, **RATE)["input_values"].shape == (1, 20)


def test_padding_value():
    features = SANetFeatureExtractor(max_length=8, padding_value=-1.0)(noise(5), **RATE)
    assert features["input_values"][0, 5:].tolist() == [-1.0] * 3


@pytest.mark.parametrize("excess", [1, 2, 3])
def test_long_clips_are_cropped_to_the_centre(excess):
    clip = np.arange(10 + excess, dtype=np.float32)
    features = SANetFeatureExtractor(max_length=10, do_normalize=False)(clip, **RATE)
    assert features["input_values"][0].tolist() == list(range(excess // 2, excess // 2 + 10))


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_silence_stays_silence(value):
    features = SANetFeatureExtractor()(np.full(100, value), **RATE)
    assert np.isfinite(features["input_values"]).all()
    assert np.abs(features["input_values"]).max() < 1e-3


@pytest.mark.parametrize("level", [1e25, 1e37])
def test_huge_finite_samples_are_normalised(level):
    clip = noise(100)
    features = SANetFeatureExtractor()(level * clip, padding=False, **RATE)
    assert np.allclose(features["input_values"][0], clip * 0.1 / rms(clip), atol=1e-5)


def test_input_is_left_alone():
    clip = noise(100)
    before = clip.copy()
    SANetFeatureExtractor()(clip, **RATE)["input_values"][0][:] = 7
    assert np.array_equal(clip, before)


def test_options_of_the_constructor():
    extractor = SANetFeatureExtractor(max_length=None, do_normalize=False, return_attention_mask=False)
    features = extractor([noise(70000), noise(5)], **RATE)
    assert list(features) == ["input_values"]
    assert [len(row) for row in features["input_values"]] == [70000, 5]
    assert np.array_equal(features["input_values"][1], noise(5))
    assert "attention_mask" in extractor(noise(5), return_attention_mask=True, **RATE)
    quiet = SANetFeatureExtractor(target_rms=0.01)(noise(500), padding=False, **RATE)
    assert rms(quiet["input_values"][0]) == pytest.approx(0.01, rel=1e-4)


def bad(value):
    clip = noise(100)
    clip[17:19] = value
    return clip


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (bad(np.nan), r"Clip 0 contains NaN or Inf in 2 of 100 samples"),
        ([noise(10), bad(np.inf)], r"Clip 1 contains NaN or Inf"),
        (bad(-np.inf), r"NaN or Inf"),
        (np.zeros(0), r"Clip 0 is empty"),
        ([noise(10), np.zeros(0)], r"Clip 1 is empty"),
        ([], r"empty"),
        (np.zeros((0, 16000)), r"empty"),
        (torch.zeros(0, 16000), r"empty"),
        ([[]], r"Clip 0"),
        (np.zeros((2, 2, 100)), r"Clip 0 has shape \(2, 100\), but clips are mono"),
        ([np.zeros((2, 100))], r"Clip 0 has shape \(2, 100\), but clips are mono. Average the channels"),
        ([torch.zeros(100, 2)], r"mono"),
        (np.zeros((16000, 2)), r"\(16000, 2\) looks like \(samples, channels\)"),
        (np.zeros(100, dtype=np.uint8), r"not uint8 \(unsigned PCM"),
        (np.zeros(100, dtype=bool), r"not bool"),
        (np.zeros(100, dtype=complex), r"not complex128"),
        (["clip.wav"], r"not"),
        ("clip.wav", r"not str"),
        ({"array": noise(10)}, r"not dict"),
        ([[0.1, 0.2], [[0.1], [0.2]]], r"Clip 1"),
        ([[0.1, [0.2]]], r"Clip 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_clips_are_named(clip, message):
    with pytest.raises(ValueError, match=message):
        SANetFeatureExtractor()(clip, **RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_found_without_normalisation(value):
    with pytest.raises(ValueError, match="contains NaN or Inf"):
        SANetFeatureExtractor(do_normalize=False)(bad(value), **RATE)


def test_missing_sampling_rate_warns(monkeypatch):
    warnings = []
    monkeypatch.setattr(feature_extraction_sanet.logger, "warning_once", warnings.append)
    SANetFeatureExtractor()(noise(10), **RATE)
    assert warnings == []
    SANetFeatureExtractor()(noise(10))
    (warning,) = warnings
    assert "sampling_rate" in warning and "16000 Hz" in warning


def test_other_sampling_rate_is_refused():
    with pytest.raises(
        ValueError, match=r"44100 Hz.*16000 Hz.*torchaudio.functional.resample\(waveform, 44100, 16000\)"
    ):
        SANetFeatureExtractor()(noise(10), sampling_rate=44100)


def test_padding_on_the_left_is_refused():
    with pytest.raises(ValueError, match="must be 'right'"):
        SANetFeatureExtractor(padding_side="left")


def test_unknown_truncation_is_refused():
    with pytest.raises(ValueError, match="truncation='start'"):
        SANetFeatureExtractor()(noise(10), truncation="start", **RATE)


def test_round_trip(tmp_path):
    extractor = SANetFeatureExtractor(max_length=123, target_rms=0.2)
    extractor.save_pretrained(tmp_path)
    assert SANetFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()


@pytest.mark.parametrize(
    ("clips", "options", "message"),
    [
        (np.ones(9), {"max_length": 0}, "max_length=0 must be"),
        (np.ones(9), {"max_length": 2.5}, "max_length=2.5 must be"),
        (np.ones(9), {"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 must be"),
        (np.ones(9), {"pad_to_multiple_of": -1}, "pad_to_multiple_of=-1 must be"),
        ([[torch.ones(2, dtype=torch.bfloat16)] * 2] * 2, {}, "Clip 0 is not one row of samples"),
        (np.full(9, 1e300), {}, "NaN or Inf in 9"),
    ],
)
def test_faults_found_by_fuzzing_are_refused(clips, options, message, recwarn):
    with pytest.raises(ValueError, match=message):
        SANetFeatureExtractor()(clips, sampling_rate=16000, **options)
    assert not recwarn.list


@pytest.mark.parametrize("length", [1, 799, 800])
def test_short_clips_are_normalised_as_in_all_versions(length):
    """Clips that are not cropped are normalised by their whole loudness. Checkpoints of all versions expect this."""
    clip = noise(length)
    (values,) = SANetFeatureExtractor(max_length=800)(clip, sampling_rate=16000, padding=False)["input_values"]
    gain = 0.1 / max(float(np.dot(clip, clip) / length) ** 0.5, 1e-8)
    np.testing.assert_array_equal(values, clip * np.float32(gain))


@pytest.mark.parametrize("truncation", ["center", "random", True])
def test_cropped_clips_are_normalised_after_cropping(truncation):
    """The rest of a long recording does not count, as in training and prediction, which cut windows first."""
    extractor = SANetFeatureExtractor(max_length=800)
    clip = np.concatenate([100 * noise(1000), 0.01 * noise(1000), 10 * noise(1000)])
    generator = np.random.default_rng(0)
    values = extractor(clip, sampling_rate=16000, truncation=truncation, generator=generator)["input_values"][0]
    assert np.sqrt(np.mean(values.astype(np.float64) ** 2)) == pytest.approx(0.1, rel=1e-5)
    if truncation != "random":
        alone = extractor(clip[1100:1900], sampling_rate=16000)["input_values"][0]
        np.testing.assert_array_equal(values, alone)
