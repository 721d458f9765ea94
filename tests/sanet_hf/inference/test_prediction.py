# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions for files. tests/training/test_cli.py tests the errors of `load_classifier`."""

from queue import Queue

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

from sanet_hf import SANetConfig, SANetFeatureExtractor, SANetForAudioClassification
from sanet_hf.architectures import find_window_seconds
from sanet_hf.audio.levels import SILENCE
from sanet_hf.cli.main import make_parser
from sanet_hf.errors import UsageError
from sanet_hf.inference import prediction as inference
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.prediction import predict
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.inference.windows import (
    UNKNOWN,
    Prediction,
    Window,
    cut_windows,
    merge_windows,
    predicted_classes,
    window_starts,
)


@pytest.fixture
def clips(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for index, length in enumerate((3000, 16000, 1, 8000, 5000)):
        paths.append(str(tmp_path / f"{index}.wav"))
        soundfile.write(paths[-1], 0.1 * rng.standard_normal(length), 16000)
    return paths


def test_predictions_do_not_depend_on_return_dict(tiny_checkpoint, clips):
    """`return_dict` is false in a model in memory and in a checkpoint."""
    (expected,) = predict(*load_classifier(tiny_checkpoint), clips[:1], return_embeddings=True)
    model, feature_extractor = load_classifier(tiny_checkpoint)
    model.config.return_dict = False
    model.save_pretrained(tiny_checkpoint)
    for classifier in ((model, feature_extractor), load_classifier(tiny_checkpoint)):
        (prediction,) = predict(*classifier, clips[:1], return_embeddings=True)
        np.testing.assert_array_equal(prediction.scores, expected.scores)
        np.testing.assert_array_equal(prediction.embedding, expected.embedding)


@pytest.mark.parametrize("batch_size", [1, 2, 8, None])
def test_same_scores_as_the_pipeline_in_any_batch(tiny_checkpoint, clips, batch_size):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    short = [clip for clip in clips if soundfile.info(clip).frames <= 8000]
    predictions = list(predict(model, feature_extractor, short, batch_size=batch_size))
    assert [prediction.path for prediction in predictions] == short
    classifier = pipeline("audio-classification", model=str(tiny_checkpoint))
    for prediction, (best, *_) in zip(predictions, classifier(short)):
        assert (prediction.label, prediction.error) == (best["label"], None)
        assert prediction.score == pytest.approx(best["score"], abs=1e-5)


def test_pipeline_classifies_the_middle_like_a_window(tiny_checkpoint):
    """The loudness of the long recording changes. The pipeline crops it first and then normalises it."""
    waveform = (0.1 * np.random.default_rng(0).standard_normal(24000)).astype(np.float32)
    waveform[:8000] *= 50
    model, feature_extractor = load_classifier(tiny_checkpoint)
    prediction = next(predict(model, feature_extractor, [waveform[8000:16000]]))
    classifier = pipeline("audio-classification", model=model, feature_extractor=feature_extractor)
    scores = {entry["label"]: entry["score"] for entry in classifier(waveform)}
    assert [scores[label] for label in prediction.labels] == pytest.approx(prediction.scores.tolist(), abs=1e-6)


def test_errors_keep_the_order_of_files(tiny_checkpoint, clips):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    paths = ["missing.wav", clips[0], "also_missing.wav", "gone.wav", clips[1]]
    predictions = list(predict(model, feature_extractor, paths, batch_size=2))
    assert [prediction.path for prediction in predictions] == paths
    missing = [prediction for prediction in predictions if prediction.error is not None]
    assert [prediction.error for prediction in missing] == ["file not found."] * 3
    assert all(prediction.label is None and prediction.score is None for prediction in missing)


def test_results_are_yielded_before_all_files_are_read(tiny_checkpoint, clips):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    asked = []

    def ask():
        for number in range(1000):
            asked.append(number)
            yield clips[0]

    results = predict(model, feature_extractor, ask(), batch_size=2, num_workers=1)
    next(results)
    results.close()
    assert len(asked) < 50


def test_arrays_and_files_in_one_call(tiny_checkpoint, clips):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    waveform, _ = soundfile.read(clips[0], dtype="float32")
    again = {"array": np.repeat(waveform, 2), "sampling_rate": 32000}
    sources = [clips[0], waveform, again, np.zeros((2, 3)), np.array([np.nan])]
    of_file, of_array, resampled, *bad = predict(model, feature_extractor, sources)
    assert [of_array.path, resampled.path] == ["#2", "#3"]
    assert np.allclose(of_file.scores, of_array.scores, atol=1e-6)
    assert resampled.duration == of_file.duration and resampled.error is None
    assert [prediction.error is None for prediction in bad] == [False, False]


def test_channels_of_opposite_sign_are_not_silence(tiny_checkpoint, tmp_path):
    """If one microphone has reversed polarity, the mean of both is nearly silent."""
    waveform = 0.1 * np.random.default_rng(0).standard_normal(6000)
    soundfile.write(tmp_path / "mono.flac", waveform, 16000)
    soundfile.write(tmp_path / "opposite.flac", np.stack([waveform, -0.9 * waveform], axis=1), 16000)
    classifier = load_classifier(tiny_checkpoint)
    content = (tmp_path / "opposite.flac").read_bytes()
    mono, *others = predict(*classifier, [tmp_path / "mono.flac", tmp_path / "opposite.flac", content])
    for other in others:
        np.testing.assert_allclose(other.scores, mono.scores, atol=1e-5)


# --- windows


@given(
    lengths=st.lists(st.integers(0, 40), max_size=8),
    window=st.integers(1, 20),
    hop=st.integers(1, 20),
)
def test_windows_cover_every_sample(lengths, window, hop):
    hop = min(hop, window)
    waveform = np.arange(sum(lengths), dtype=np.float32)
    windows = list(cut_windows(np.split(waveform, np.cumsum(lengths)[:-1]) if lengths else [], window, hop))
    total = len(waveform)
    if total <= window:
        assert [(start, part.tolist()) for start, part in windows] == ([(0, waveform.tolist())] if total else [])
        return
    assert all(len(part) == window and part.tolist() == waveform[start:][:window].tolist() for start, part in windows)
    starts = [start for start, _ in windows]
    regular = list(range(0, total - window + 1, hop))
    assert starts[: len(regular)] == regular
    assert starts[len(regular) :] == ([total - window] if regular[-1] != total - window else [])
    assert starts == window_starts(total, window, hop)


def test_long_files_are_classified_window_by_window(tiny_checkpoint, tmp_path):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    waveform = (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", waveform, 16000, subtype="FLOAT")
    (prediction,) = predict(model, feature_extractor, [tmp_path / "long.wav"], hop_seconds=0.25)
    times = [(window.start, window.end) for window in prediction.windows]
    assert times == [(0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.75, 1.25)]
    parts = [waveform[round(16000 * start) : round(16000 * end)] for start, end in times]
    expected = [scores.scores for scores in predict(model, feature_extractor, parts)]
    assert np.allclose([window.scores for window in prediction.windows], expected, atol=1e-6)
    assert np.allclose(prediction.scores, np.mean(expected, axis=0), atol=1e-6)
    (rare,) = predict(model, feature_extractor, [waveform], hop_seconds=0.25, aggregate="max")
    assert np.allclose(rare.scores, np.max(expected, axis=0), atol=1e-6)
    assert prediction.duration == 1.25


def test_quiet_windows_do_not_count(tiny_checkpoint):
    """This is the default for one class per file. Quiet windows still have their own scores."""
    model, feature_extractor = load_classifier(tiny_checkpoint)
    noise = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
    # 0, 19 and 21 dB below the first window, and silence.
    gains = np.repeat([1, 10 ** (-19 / 20), 10 ** (-21 / 20), 0], [8000, 8000, 8000, 8000])
    waveform = (gains * np.tile(noise[:8000], 4)).astype(np.float32)
    (prediction,) = predict(model, feature_extractor, [waveform], return_embeddings=True)
    scores = [window.scores for window in prediction.windows]
    assert scores[2] is not None and scores[3] is None
    np.testing.assert_allclose(prediction.scores, np.mean(scores[:2], axis=0), atol=1e-6)
    embeddings = [window.embedding for window in prediction.windows[:2]]
    np.testing.assert_allclose(prediction.embedding, np.mean(embeddings, axis=0), atol=1e-6)
    (mean,) = predict(model, feature_extractor, [waveform], aggregate="mean")
    np.testing.assert_allclose(mean.scores, np.mean(scores[:3], axis=0), atol=1e-6)
    model.config.problem_type = "multi_label_classification"
    (several,) = predict(model, feature_extractor, [waveform])
    np.testing.assert_allclose(several.scores, np.mean([w.scores for w in several.windows[:3]], axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_seconds": 0.6}, r"window of 0\.6 s must be above 0 and at most 0\.5 s"),
        ({"window_seconds": 0}, r"window of 0 s"),
        ({"hop_seconds": 0.6}, r"hop of 0\.6 s must be above 0 and at most 0\.5 s, the length of the window"),
        ({"hop_seconds": 0}, r"hop of 0 s"),
        ({"aggregate": "median"}, r"'median' must be 'loud', 'mean' or 'max'"),
        ({"min_level": 3}, r"min_level=3 must be at most 0"),
        ({"min_level": float("nan")}, r"min_level=nan must be at most 0"),
        ({"min_score": 1.5}, r"min_score=1\.5 must be between 0 and 1"),
        ({"min_score": float("nan")}, r"min_score=nan must be between 0 and 1"),
    ],
)
def test_wrong_options_are_refused(tiny_checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        predict(*load_classifier(tiny_checkpoint), [], **options)


def test_adjacent_windows_of_one_label_are_one_segment():
    rows = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
    windows = [Window(start, start + 4, row) for start, row in zip((0, 2, 4, 5), rows)]
    segments = merge_windows(Prediction("a.wav", ("cat", "dog"), windows=windows))
    assert [tuple(segment[:3]) for segment in segments] == [(0, 5, "cat"), (5, 6.5, "dog"), (6.5, 9, "cat")]
    assert [segment.score for segment in segments] == pytest.approx([0.8, 0.8, 0.6])


def test_segments_of_several_classes_and_of_none():
    rows = [[0.9, 0.6], [0.8, 0.7], [0.2, 0.8], None, [0.3, 0.4], [0.5, 0.1]]
    scores = [None if row is None else np.array(row, dtype=np.float32) for row in rows]
    windows = [Window(start, start + 1, row) for start, row in enumerate(scores)]
    segments = merge_windows(Prediction("a.wav", ("cat", "dog"), windows=windows, min_score=0.5, several=True))
    assert [(segment.start, segment.end, segment.labels) for segment in segments] == [
        (0, 2, ("cat", "dog")),
        (2, 3, ("dog",)),
        (3, 5, ()),  # silence, and nothing that reaches the threshold
        (5, 6, ("cat",)),
    ]
    assert [segment.label for segment in segments] == ["cat", "dog", None, "cat"]
    assert [segment.score for segment in segments] == [pytest.approx(0.85), pytest.approx(0.8), None, 0.5]


def test_segments_are_unknown_below_the_minimum_score():
    """Silent segments have no label."""
    scores = [np.array(row, np.float32) for row in ([0.9, 0.1], [0.6, 0.4], [0.4, 0.6])] + [None]
    windows = [Window(start, start + 1, row) for start, row in enumerate(scores)]
    segments = merge_windows(Prediction("a.wav", ("cat", "dog"), windows=windows, min_score=0.7))
    assert segments == [(0, 1, "cat", pytest.approx(0.9), ("cat",)), (1, 3, UNKNOWN, None, ()), (3, 4, None, None, ())]


def test_thresholds_of_the_config_survive_saving_and_are_checked(tmp_path):
    for config in (SANetConfig(num_labels=2), ASTConfig(num_labels=2)):
        assert decision_threshold(config).tolist() == [0, 0]
        config.problem_type = "multi_label_classification"
        assert decision_threshold(config).tolist() == [0.5, 0.5]
        config.thresholds = [0.25, 0.75]
        config.save_pretrained(tmp_path)
        loaded = type(config).from_pretrained(tmp_path)
        assert decision_threshold(loaded).tolist() == [0.25, 0.75]
        assert decision_threshold(loaded, 0.5).tolist() == [0.5, 0.5]
        assert predicted_classes(np.array([[0.3, 0.7]]), True, decision_threshold(loaded)).tolist() == [[True, False]]
        for wrong in ([0.5], [0.5, 2], []):
            loaded.thresholds = wrong
            with pytest.raises(UsageError, match="thresholds must be a list of 2 numbers"):
                decision_threshold(loaded)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried ..."),
    ],
    ids=["accelerator", "numpy", "Linux", "Windows"],
)
def test_batches_shrink_when_memory_runs_out(tiny_checkpoint, clips, monkeypatch, error):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    expected = [prediction.scores for prediction in predict(model, feature_extractor, clips)]
    sizes = []
    classify = inference.classify_waveforms

    def classify_little(model, feature_extractor, waveforms, **options):
        sizes.append(len(waveforms))
        if len(waveforms) > 2:
            raise error
        return classify(model, feature_extractor, waveforms, **options)

    monkeypatch.setattr(inference, "classify_waveforms", classify_little)
    scores = [prediction.scores for prediction in predict(model, feature_extractor, clips, batch_size=8)]
    assert np.allclose(scores, expected, atol=1e-5) and max(sizes[1:]) <= 4 and sizes[-1] <= 2


def test_other_errors_of_the_model_are_raised(tiny_checkpoint, clips, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(inference, "classify_waveforms", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(predict(*load_classifier(tiny_checkpoint), clips))


def test_pytorch_out_of_memory_on_the_cpu_is_recognised():
    """The error comes from PyTorch itself."""
    with pytest.raises(RuntimeError) as info:
        torch.empty(2**60)
    assert inference.is_out_of_memory(info.value)


# --- pipes


def test_source_is_classified_before_the_next_arrives(tiny_checkpoint, clips):
    """Sources may come from a program like `inotifywait`. The batch is not filled first."""
    given: Queue = Queue()
    results = predict(*load_classifier(tiny_checkpoint), iter(given.get, None), batch_size=32)
    for clip in ("missing.wav", *clips):
        given.put(clip)
        assert next(results).path == clip
    given.put(None)
    assert list(results) == []


def test_batches_of_a_list_are_full(tiny_checkpoint, clips, monkeypatch):
    """The batches do not depend on how fast files are read."""
    monkeypatch.setattr(inference, "PATIENCE", 0.0)
    sizes = []
    classify = inference.classify_waveforms
    monkeypatch.setattr(
        inference,
        "classify_waveforms",
        lambda *args, **options: sizes.append(len(args[2])) or classify(*args, **options),
    )
    assert len(list(predict(*load_classifier(tiny_checkpoint), clips[:1] * 20, batch_size=4))) == 20
    assert sizes == [4] * 5


def test_files_without_windows_do_not_wait_for_a_batch(tiny_checkpoint, clips):
    """Otherwise their results would accumulate in memory."""
    taken = []

    def sources():
        for number in range(1000):
            taken.append(number)
            yield "missing.wav"

    results = predict(*load_classifier(tiny_checkpoint), sources(), batch_size=2, num_workers=1)
    next(results)
    results.close()
    assert len(taken) < 50


# --- silence and thresholds


def loud_and_silent(level: float) -> np.ndarray:
    """Return 1.5 s: a window of noise, a window with a peak level in dB, and a window of noise."""
    waveform = (0.1 * np.random.default_rng(0).standard_normal(24000)).astype(np.float32)
    waveform[8000:16000] = 0
    waveform[12000] = -(10 ** (level / 20))
    return waveform


@pytest.mark.parametrize(
    ("level", "min_level", "is_silent"),
    [(-81, -80, True), (-79, -80, False), (-41, -40, True), (-39, -40, False), (-81, None, False), (-200, -80, True)],
)
def test_silent_windows_have_no_class(tiny_checkpoint, level, min_level, is_silent):
    """Silent windows do not count in the scores of the file."""
    model, feature_extractor = load_classifier(tiny_checkpoint)
    options = {"aggregate": "mean"} | ({} if min_level == -80 else {"min_level": min_level})
    (prediction,) = predict(model, feature_extractor, [loud_and_silent(level)], return_embeddings=True, **options)
    assert [window.scores is None for window in prediction.windows] == [False, is_silent, False]
    assert [window.embedding is None for window in prediction.windows] == [False, is_silent, False]
    heard = [window for window in prediction.windows if window.scores is not None]
    np.testing.assert_allclose(prediction.scores, np.mean([window.scores for window in heard], axis=0))
    np.testing.assert_allclose(prediction.embedding, np.mean([window.embedding for window in heard], axis=0))
    assert prediction.label is not None and not prediction.is_silent
    assert [segment.label is None for segment in merge_windows(prediction)].count(True) == is_silent


@pytest.mark.parametrize(("aggregate", "label"), [("mean", None), ("max", "owl")])
def test_rare_event_in_background(make_model, monkeypatch, aggregate, label):
    """One window of four contains an owl. It determines the label only with `max`."""
    model = make_model(id2label={0: "noise", 1: "owl", 2: "fox"})
    model.config.background_label = "noise"

    def classify(model, feature_extractor, waveforms, **options):
        owl = np.array([0.9 if waveform[0] > 0.15 else 0.1 for waveform in waveforms], np.float32)
        return np.stack([1 - owl, owl, 0 * owl], axis=1), None

    monkeypatch.setattr("sanet_hf.inference.prediction.classify_waveforms", classify)
    waveform = np.repeat(np.float32([0.1, 0.1, 0.2, 0.1]), 8000)
    extractor = SANetFeatureExtractor(max_length=8000)
    (prediction,) = predict(model, extractor, [waveform], window_seconds=0.5, aggregate=aggregate)
    assert prediction.label == label
    assert [segment.label for segment in merge_windows(prediction)] == [None, "owl", None]


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_silent_file_has_no_class_and_no_error(tiny_checkpoint, clips, aggregate):
    silence = np.zeros(24000, np.float32)
    for sources in ([silence], [silence, clips[0]], [clips[0], silence[:100], silence]):
        predictions = list(predict(*load_classifier(tiny_checkpoint), sources, aggregate=aggregate))
        for source, prediction in zip(sources, predictions, strict=True):
            assert prediction.is_silent == isinstance(source, np.ndarray)
            assert prediction.error is None and prediction.duration is not None
            if prediction.is_silent:
                assert prediction.scores is prediction.label is prediction.score is None


def test_minimum_level_equals_that_of_checks_and_of_the_command():
    default = make_parser().parse_args(["predict", "MODEL", "a.wav"]).min_level
    assert 20 * np.log10(SILENCE) == inference.MIN_LEVEL == default == -80


@pytest.mark.parametrize(
    ("problem_type", "min_score", "expected"),
    [
        (None, None, ["b", "a", "c"]),
        (None, 0.25, ["b"]),
        (None, 0.99, []),
        ("multi_label_classification", None, ["b", "a"]),
        ("multi_label_classification", 0.8, ["b"]),
        ("multi_label_classification", 0.0, ["b", "a", "c"]),
        ("regression", None, ["b", "a", "c"]),
    ],
)
def test_predicted_classes_reach_the_minimum_score(make_model, clips, problem_type, min_score, expected):
    """The scores are 0.66, 0.24, 0.09 by softmax and 0.88, 0.73, 0.4996 by sigmoid."""
    model = make_model(id2label={0: "a", 1: "b", 2: "c"}, problem_type=problem_type)
    with torch.no_grad():
        model.classifier[-1].weight.zero_()
        model.classifier[-1].bias.copy_(torch.tensor([1.0, 2.0, -0.0016]))
    (prediction,) = predict(model, SANetFeatureExtractor(max_length=8000), clips[:1], min_score=min_score)
    assert [prediction.labels[index] for index in prediction.rank_classes(prediction.scores)] == expected
    assert prediction.label == (expected or [None if prediction.several else UNKNOWN])[0]
    assert prediction.several == (problem_type == "multi_label_classification")


def test_unknown_device_is_an_error(tiny_checkpoint):
    with pytest.raises(ValueError, match="device nonsense"):
        load_classifier(tiny_checkpoint, device="nonsense")


def test_bfloat16(tiny_checkpoint, clips):
    expected = [prediction.scores for prediction in predict(*load_classifier(tiny_checkpoint), clips)]
    model, feature_extractor = load_classifier(tiny_checkpoint, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert np.allclose([p.scores for p in predict(model, feature_extractor, clips)], expected, atol=0.05)


# --- models


@pytest.mark.parametrize(
    ("problem_type", "score"),
    [
        ("single_label_classification", lambda logits: logits.softmax(-1).max()),
        ("multi_label_classification", lambda logits: logits.sigmoid().max()),
        ("regression", lambda logits: logits.max()),
    ],
)
def test_scores_by_problem_type(tiny_checkpoint, clips, problem_type, score):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    model.config.problem_type = problem_type
    (prediction,) = predict(model, feature_extractor, clips[:1])
    with torch.no_grad():
        waveform, _ = soundfile.read(clips[0], dtype="float32")
        logits = model(**feature_extractor(waveform, sampling_rate=16000, return_tensors="pt")).logits
    assert prediction.score == pytest.approx(score(logits).item(), abs=1e-5)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}


@pytest.mark.parametrize(
    ("model", "feature_extractor"),
    [
        (
            lambda: Wav2Vec2ForSequenceClassification(
                Wav2Vec2Config(**SMALL, conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
            ),
            Wav2Vec2FeatureExtractor,
        ),
        (lambda: ASTForAudioClassification(ASTConfig(**SMALL)), ASTFeatureExtractor),
    ],
    ids=["wav2vec2", "ast"],
)
def test_other_architectures(tmp_path, clips, model, feature_extractor):
    folder = tmp_path / "model"
    model().save_pretrained(folder)
    feature_extractor().save_pretrained(folder)
    loaded = load_classifier(folder)
    long = 0.1 * np.random.default_rng(0).standard_normal(31 * 16000)
    predictions = list(predict(*loaded, [clips[1], "missing.wav", clips[3], long]))
    assert [prediction.error is None for prediction in predictions] == [True, False, True, True]
    window = find_window_seconds(*loaded)
    assert len(predictions[-1].windows) == -(-31 // window)
    assert all(item.end - item.start == pytest.approx(window) for item in predictions[-1].windows)


@pytest.mark.parametrize("return_attention_mask", [False, True])
def test_clips_do_not_influence_each_other_in_wav2vec2(tmp_path, clips, return_attention_mask):
    config = Wav2Vec2Config(
        **SMALL,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer" if return_attention_mask else "group",
    )
    model = Wav2Vec2ForSequenceClassification(config).eval()
    feature_extractor = Wav2Vec2FeatureExtractor(return_attention_mask=return_attention_mask)
    together = list(predict(model, feature_extractor, clips, batch_size=8, return_embeddings=True))
    alone = [next(predict(model, feature_extractor, [clip], return_embeddings=True)) for clip in clips]
    for one, other in zip(together, alone):
        assert np.allclose(one.scores, other.scores, atol=1e-5)
        assert np.allclose(one.embedding, other.embedding, atol=1e-4)


def test_embeddings_are_the_input_of_the_head(tiny_checkpoint, clips):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    first, second, *_ = predict(model, feature_extractor, clips[:2], return_embeddings=True)
    assert first.embedding.shape == (2 * model.config.conv_dim[-1],)
    with torch.no_grad():
        logits = model.classifier(torch.from_numpy(first.embedding)[None])[0]
    assert np.allclose(logits.softmax(-1), first.scores, atol=1e-5)
    # The embedding of several windows is their mean.
    assert len(second.windows) == 2
    assert np.allclose(second.embedding, np.mean([window.embedding for window in second.windows], axis=0))
    (plain,) = predict(model, feature_extractor, clips[:1])
    assert plain.embedding is None


def test_model_is_ready_for_use(tiny_checkpoint):
    model, feature_extractor = load_classifier(tiny_checkpoint)
    assert isinstance(model, SANetForAudioClassification) and not model.training
    assert feature_extractor.sampling_rate == 16000


@pytest.mark.parametrize(("max_length", "seconds"), [(8000, 0.5), (None, 30)])
def test_without_attention_only_the_extractor_limits_a_clip(make_model, max_length, seconds):
    model, extractor = make_model(attention_after=(), attention_dim=()), SANetFeatureExtractor(max_length=max_length)
    assert find_window_seconds(model, extractor) == seconds
    (prediction,) = predict(model, extractor, [np.ones(12000, np.float32)])
    assert len(prediction.windows) == (2 if max_length else 1)


@pytest.mark.parametrize(
    ("lengths", "has_mask"),
    [((4000, 4000), False), ((4000, 3999), True), ((9000, 8500), False)],
    ids=["of_one_length", "padded", "cropped"],
)
def test_full_mask_is_not_passed_to_the_model(tiny_checkpoint, monkeypatch, lengths, has_mask):
    model, feature_extractor = load_classifier(tiny_checkpoint, "cpu")
    waveforms = [0.1 * np.random.default_rng(0).standard_normal(length, dtype=np.float32) for length in lengths]
    features = feature_extractor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**features).logits.softmax(-1)
    given, forward = [], type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, **names: given.append(names) or forward(self, **names))
    scores, _ = inference.classify_waveforms(model, feature_extractor, waveforms)
    assert [("attention_mask" in names) for names in given] == [has_mask]
    assert np.array_equal(scores, expected.numpy())
