# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The web page of `sanet app`: its results for files, and the page in a headless browser."""

import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from sanet_hf import SANetFeatureExtractor
from sanet_hf.batchnorm_sanet import SANetBatchNorm
from sanet_hf.errors import AudioError
from sanet_hf.inference.app import classify_recording, draw_recording, launch_app, make_app
from sanet_hf.inference.explanation import explain, weigh_frames
from sanet_hf.inference.loading import load_classifier
from sanet_hf.inference.windows import merge_windows


SPACE = Path(__file__).parents[3] / "examples/space"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, make_model):
    """Return a tiny model of three classes for up to 0.5 s. The class name `<dog>` must be escaped in HTML."""
    id2label = {0: "cat", 1: "<dog>", 2: "owl"}
    folder = tmp_path_factory.mktemp("models") / "animals"
    label2id = {label: index for index, label in id2label.items()}
    make_model(id2label=id2label, label2id=label2id).save_pretrained(folder)
    SANetFeatureExtractor(max_length=8000).save_pretrained(folder)
    return load_classifier(folder, "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Return a clip of one window, a recording of three seconds, and a text file named .wav."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    time = np.arange(48000) / 16000
    long = 0.3 * np.sin(2 * np.pi * 200 * time * (1 + time)) + 0.02 * rng.standard_normal(48000)
    soundfile.write(folder / "long.flac", long, 16000)
    soundfile.write(folder / "clip.wav", long[:6000], 16000)
    (folder / "text.wav").write_text("this is no audio")
    return {path.stem: path for path in folder.iterdir()}


def test_one_window_is_drawn_with_pooling_weights(classifier, files):
    prediction, waveform = classify_recording(*classifier, files["clip"])
    assert prediction.label in ("cat", "<dog>", "owl") and prediction.duration == 0.375 and len(waveform) == 6000
    weights, edges = weigh_frames(*classifier, waveform)
    explanation = explain(*classifier, waveform)
    np.testing.assert_allclose(weights, explanation.pooling_weights, atol=1e-6)
    np.testing.assert_allclose(edges, explanation.pooling_edges)
    html = draw_recording(prediction, waveform, (weights, edges))
    assert 'class="wave"' in html and 'class="weights"' in html and "pooling" in html
    assert "data-start" not in html and 'data-seconds="0.375000"' in html


def test_weights_are_drawn_at_their_times(classifier, files):
    prediction, waveform = classify_recording(*classifier, files["clip"])
    # A frame of 0.1 s with weight zero, then the rest of the clip.
    html = draw_recording(prediction, waveform, (np.array([0.0, 1.0]), np.array([0, 0.1, 0.375])))
    path = re.search(r'class="weights" d="M(.*?)Z"', html)[1]
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert points == [(0, 200), (0, 200), (266.7, 200), (266.7, 0), (1000, 0), (1000, 200)]
    assert "silence" not in html
    html = draw_recording(prediction, waveform, (np.array([0.75, 0.25]), np.array([0, 0.375, 0.5])))
    assert "25 % of the weight is on the silence after the recording" in html


def test_long_recordings_are_drawn_as_segments(classifier, files):
    prediction, waveform = classify_recording(*classifier, files["long"])
    assert len(prediction.windows) == 6
    segments = merge_windows(prediction)
    # The background class is shown only as "nothing was detected".
    other = replace(prediction, background=prediction.label)
    html = draw_recording(other, waveform)
    assert "nothing was detected" in html and "unknown" not in html
    html = draw_recording(prediction, waveform)
    starts = [float(start) for start in re.findall(r'data-start="(.*?)"', html)]
    assert starts == [segment.start for segment in segments] and html.count("<rect") == len(segments)
    assert 'class="weights"' not in html and "6 windows" in html
    assert "<dog>" not in html


def test_silence_is_drawn_without_nan(classifier, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(4000), 16000)
    html = draw_recording(*classify_recording(*classifier, tmp_path / "silence.wav"))
    assert "nan" not in html and "inf" not in html


def test_other_architectures_have_no_weights():
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(5, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForSequenceClassification(config).eval()
    assert weigh_frames(model, Wav2Vec2FeatureExtractor(), np.ones(8000, np.float32)) is None


@pytest.mark.parametrize(
    ("name", "limits", "message"),
    [
        ("text", {}, "^text.wav: neither soundfile nor FFmpeg can read the file"),
        (
            "long",
            {"max_seconds": 2},
            r"longer than the limit of 0:02 \(min:s\). Cut it, or use the command sanet predict",
        ),
        ("long", {"max_megabytes": 0.01}, r"the limit is 0.01 MB. Cut it"),
    ],
)
def test_errors_do_not_reveal_folders(classifier, files, name, limits, message):
    with pytest.raises(AudioError, match=message) as error_info:
        classify_recording(*classifier, files[name], **limits)
    assert str(files[name].parent) not in str(error_info.value)


def test_recordings_at_the_limits_are_classified(classifier, files):
    size = files["long"].stat().st_size / 2**20
    prediction, _ = classify_recording(*classifier, files["long"], max_seconds=3, max_megabytes=size)
    assert prediction.duration == 3


def test_wrong_limits_and_regressions_are_refused(classifier, make_model):
    pytest.importorskip("gradio", reason="needs gradio: pip install sanet-hf[app]")
    with pytest.raises(ValueError, match="max_seconds=0 must be positive"):
        make_app(*classifier, max_seconds=0)
    with pytest.raises(ValueError, match="regression"):
        make_app(make_model(problem_type="regression"), classifier[1])


@pytest.fixture(scope="module")
def address(classifier, files):
    """Serve the page and return its address."""
    pytest.importorskip("gradio", reason="needs gradio: pip install sanet-hf[app]")
    app = make_app(*classifier, [files["clip"]], max_seconds=4, max_megabytes=0.2)
    _, address, _ = launch_app(app, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield address
    app.close()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install sanet-hf[dev]")
    with sync_api.sync_playwright() as playwright:
        found = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]
        path = found[0] if found else playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("needs a browser: install Chromium, or run playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    yield page
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The page requests nothing from other hosts.
    assert requested and all(url.startswith((address, "data:", "blob:")) for url in requested)
    page.close()


def upload(page, path: Path) -> None:
    page.locator("#recording input[type=file]").set_input_files(path)


def test_page_shows_label_and_error(page, classifier, files):
    prediction, _ = classify_recording(*classifier, files["clip"])
    assert page.locator("h1").inner_text() == "animals"
    assert "0:04 (min:s) and 0.2 MB" in page.inner_text("body")
    upload(page, files["clip"])
    page.wait_for_selector("#picture .weights", state="attached")
    assert page.locator("[data-testid=label-output-value]").inner_text().strip() == prediction.label
    page.locator("#recording").get_by_label("Clear").click()
    page.wait_for_selector("#picture .picture", state="detached")
    upload(page, files["text"])
    error = page.wait_for_selector("#picture [role=alert]").inner_text()
    assert "text.wav: neither soundfile nor FFmpeg can read the file" in error
    assert page.locator("[data-testid=label-output-value]").count() == 0
    page.locator("button", has_text="clip.wav").click()
    page.wait_for_selector("#picture .weights", state="attached")
    assert page.locator("[data-testid=label-output-value]").inner_text().strip() == prediction.label


def test_page_plays_from_the_clicked_position(page, files):
    upload(page, files["long"])
    picture = page.wait_for_selector("#picture .picture")
    page.wait_for_function("document.querySelector('#recording audio').readyState > 0")
    width = picture.bounding_box()["width"]
    picture.click(position={"x": width / 2, "y": 50})
    page.wait_for_function("document.querySelector('#recording audio').currentTime >= 1.5")
    last = page.locator("#picture [data-start]").last
    last.click()
    start = float(last.get_attribute("data-start"))
    page.wait_for_function(f"document.querySelector('#recording audio').currentTime >= {start}")


def test_page_refuses_large_files(page, tmp_path):
    soundfile.write(tmp_path / "large.wav", np.zeros(160_000), 16000)
    upload(page, tmp_path / "large.wav")
    page.get_by_text(re.compile("exceed the maximum allowed size of 204.8")).wait_for()


def test_silence_has_no_class(classifier, tmp_path):
    """The page notes silent windows and draws them without a colour."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / "half.wav", np.concatenate([noise, np.zeros(16000)]), 16000)
    html = draw_recording(*classify_recording(*classifier, tmp_path / "half.wav"))
    assert "2 of them are silent (below -80 dBFS). They have no class and are not in the mean." in html
    assert html.count("no class</span>") == 1 and 'fill="transparent"' not in html
    for seconds in (0.2, 2):
        soundfile.write(tmp_path / "silence.wav", np.zeros(round(16000 * seconds)), 16000)
        prediction, waveform = classify_recording(*classifier, tmp_path / "silence.wav")
        html = draw_recording(prediction, waveform)
        assert prediction.is_silent and "silent (below -80 dBFS)" in html


def test_page_shows_no_label_for_silence(page, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 16000)
    upload(page, tmp_path / "silence.wav")
    page.get_by_text("The recording is silent").wait_for()
    assert page.locator("[data-testid=label-output-value]").count() == 0


def test_app_uses_the_optimised_model(classifier, monkeypatch):
    """The model is checked on this processor, as in `sanet predict`."""
    pytest.importorskip("gradio", reason="needs gradio: pip install sanet-hf[app]")
    optimised = []
    monkeypatch.setattr(
        "sanet_hf.optimization.optimize.replace_wrong_layers", lambda model, _: optimised.append(model)
    )
    app = make_app(*classifier)
    (model,) = optimised
    assert model is not classifier[0] and app.title == "animals"
    assert not any(isinstance(layer, SANetBatchNorm) for layer in model.modules())


def test_space_shows_the_model_that_is_set(classifier, monkeypatch):
    pytest.importorskip("gradio", reason="needs gradio: pip install sanet-hf[app]")
    launched = []
    monkeypatch.setattr("sanet_hf.inference.app.launch_app", launched.append)
    monkeypatch.setenv("SANET_MODEL", classifier[0].name_or_path)
    runpy.run_path(str(SPACE / "app.py"))
    assert launched[0].title == "animals"
    monkeypatch.delenv("SANET_MODEL")
    with pytest.raises(SystemExit, match="SANET_MODEL is not set"):
        runpy.run_path(str(SPACE / "app.py"))


def test_space_has_the_pinned_gradio():
    front_matter = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert front_matter["sdk"] == "gradio" and (SPACE / front_matter["app_file"]).exists()
    pins = (SPACE.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"gradio=={front_matter['sdk_version']}" in pins
