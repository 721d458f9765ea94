# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""A web page that classifies an uploaded or recorded sound: `sanet app`, or a Hugging Face Space."""

import os
import socket
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import FeatureExtractionMixin, PreTrainedModel

from sanet_hf.architectures import find_window_seconds
from sanet_hf.audio.decode import stream_audio
from sanet_hf.audio.denoise import check_denoising
from sanet_hf.audio.denoise import denoise as reduce_noise
from sanet_hf.audio.levels import envelope, largest_amplitude
from sanet_hf.errors import AudioError, UsageError
from sanet_hf.inference.explanation import weigh_frames
from sanet_hf.inference.prediction import MIN_LEVEL, predict
from sanet_hf.inference.thresholds import decision_threshold
from sanet_hf.inference.windows import UNKNOWN, Prediction, Segment, merge_windows
from sanet_hf.optimization.optimize import prepare_classifier
from sanet_hf.utils.extras import require
from sanet_hf.utils.formatting import format_time, shorten
from sanet_hf.utils.plot_style import BLUE, VERMILION, label_colors


if TYPE_CHECKING:
    import gradio

MAX_MEGABYTES = 100.0
MAX_SECONDS = 1800.0
MAX_BARS = 8
# Interval between deletions of old uploads, and their maximum age, in seconds.
DELETE_UPLOADS = (60, 3600)
MEGABYTE = 2**20  # the unit of gradio's message
SILENT = f"below {MIN_LEVEL:g} dBFS"
WIDTH, HEIGHT = 1000, 200  # of the picture, in SVG units; it is stretched to the page

CSS = """
.picture { cursor: pointer; position: relative; }
.picture svg { display: block; width: 100%; height: 140px; border: 1px solid var(--border-color-primary); }
.wave { fill: var(--body-text-color); opacity: 0.6; }
.weights { fill: BLUE; opacity: 0.45; }
.playhead { position: absolute; top: 0; left: 0; width: 2px; height: 142px; background: VERMILION; display: none; }
.times { display: flex; justify-content: space-between; font-size: 0.85em; }
.note { margin: 0.5em 0; font-size: 0.9em; }
.segments { max-height: 21em; overflow-y: auto; }
.segments button { display: flex; gap: 0.8em; align-items: center; width: 100%; margin: 0; padding: 0.35em 0.2em;
  font: inherit; font-size: 0.95em; text-align: left; background: none; border: none; border-radius: 0;
  border-bottom: 1px solid var(--border-color-primary); }
.segments button:hover { background: var(--background-fill-secondary); }
.segments .time { min-width: 7.5em; font-variant-numeric: tabular-nums; }
.segments .label { flex: 1; overflow-wrap: anywhere; }
.segments i { flex: none; width: 0.9em; height: 0.9em; }
.error { padding: 0.8em; border: 2px solid VERMILION; border-radius: 4px; overflow-wrap: anywhere; }
""".replace("BLUE", BLUE).replace("VERMILION", VERMILION)
# The player belongs to gradio. Media events do not bubble, so that the listener uses the capture phase.
JAVASCRIPT = """
const player = () => document.querySelector('#recording audio');
const duration = (picture) => Number(picture.dataset.seconds);
element.addEventListener('click', (event) => {
  const picture = event.target.closest('.picture'), segment = event.target.closest('[data-start]');
  if (!player() || !(picture || segment)) return;
  const box = (picture || segment).getBoundingClientRect();
  const fraction = (event.clientX - box.left) / box.width;
  player().currentTime = segment ? Number(segment.dataset.start) : fraction * duration(picture);
  player().play();
});
document.addEventListener('timeupdate', (event) => {
  const picture = element.querySelector('.picture');
  if (!picture || event.target !== player()) return;
  const playhead = picture.querySelector('.playhead');
  playhead.style.display = 'block';
  playhead.style.left = `${Math.min(100, 100 * event.target.currentTime / duration(picture))}%`;
}, true);
"""


def make_app(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    examples: Sequence[str | Path] = (),
    *,
    max_megabytes: float = MAX_MEGABYTES,
    max_seconds: float = MAX_SECONDS,
    denoise: bool = False,
    min_score: float | None = None,
) -> "gradio.Blocks":
    """
    Return a page that classifies a recording. It shows the scores as bars, and the waveform with SANet's pooling
    weights. For a recording longer than one window, it shows the segments; a click plays from there. Serve it with
    [`launch_app`]. The model is optimised as in `sanet predict`.

    Args:
        model, feature_extractor: Result of [`~sanet_hf.inference.load_classifier`].
        examples: Audio files to choose from.
        max_megabytes, max_seconds: Limits of a recording. A larger one gets an error message.
        denoise, min_score: As in [`predict`].

    Raises:
        UsageError: gradio is not installed, a limit is not positive, or the model is a regression, without classes.
    """
    # gradio reads this when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    require("gradio", "app")
    import gradio

    check_denoising(feature_extractor, denoise)
    if model.config.problem_type == "regression":
        raise UsageError("The app shows scores of classes, but this model is a regression. Use sanet predict.")
    decision_threshold(model.config, min_score)  # raises before the page is served
    for name, limit in (("max_megabytes", max_megabytes), ("max_seconds", max_seconds)):
        if not limit > 0:
            raise UsageError(f"{name}={limit:g} must be positive.")

    def show(path: str | None) -> tuple["gradio.Label", str]:
        label = scores = None
        html = ""
        if path is not None:
            try:
                prediction, waveform = classify_recording(
                    model,
                    feature_extractor,
                    path,
                    max_megabytes=max_megabytes,
                    max_seconds=max_seconds,
                    denoise=denoise,
                    min_score=min_score,
                )
                if not prediction.is_silent:
                    names = [
                        f"{label} (no detection)" if label == prediction.background else label
                        for label in prediction.labels
                    ]
                    scores = dict(zip(names, prediction.scores.tolist()))
                html = draw_recording(prediction, waveform, _weights(model, feature_extractor, prediction, waveform))
            except AudioError as error:
                html = f'<div class="error" role="alert"><b>Cannot classify this file.</b> {escape(str(error))}</div>'
        label = gradio.Label(scores, visible=scores is not None)
        return label, html

    title = _title(model)
    model = prepare_classifier(model)
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=DELETE_UPLOADS) as app:
        gradio.HTML(_introduction(model, feature_extractor, title, max_megabytes, max_seconds))
        with gradio.Row():
            with gradio.Column():
                recording = gradio.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Recording",
                    elem_id="recording",
                    editable=False,
                    buttons=[],
                    # The player of the browser, which JAVASCRIPT can control. The waveform is drawn below.
                    waveform_options=gradio.WaveformOptions(show_recording_waveform=False),
                )
                if examples:
                    # Served from their folder, because a copy would be deleted like an upload.
                    paths = [str(Path(path).resolve()) for path in examples]
                    gradio.set_static_paths(paths)
                    gradio.Examples(paths, recording, cache_examples=False)
            with gradio.Column():
                scores = gradio.Label(num_top_classes=MAX_BARS, label="Scores", visible=False)
        picture = gradio.HTML(css_template=CSS, js_on_load=JAVASCRIPT, elem_id="picture")
        recording.change(show, recording, [scores, picture], api_visibility="private")
    # launch_app passes it to gradio, which refuses larger uploads before storing them.
    app.max_megabytes = max_megabytes
    return app


def check_address(host: str, port: int) -> None:
    """
    Check that the app can be served, because gradio would try a hundred ports, for 5 s each.

    Raises:
        UsageError: The host or the port is not available.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"The app cannot be served on {host}, port {port or 'any'}: {error}. Use another --host or --port."
        ) from error


def launch_app(app: "gradio.Blocks", **options) -> tuple:
    """
    Serve the result of [`make_app`], without a public link, history in the browser or telemetry.

    Args:
        app: Result of [`make_app`].
        options: Options of gradio's `launch`. By default, only this machine can open the page.

    Returns:
        The result of `launch`: the FastAPI app, its local address, and None.
    """
    import gradio

    # Bars in the colour of the plots, and a dark player on a dark page.
    looks = {"theme": gradio.themes.Default(primary_hue="blue"), "css": ".dark audio { color-scheme: dark; }"}
    private = {"share": False, "run_history": False, "ssr_mode": False, "mcp_server": False, "footer_links": []}
    return app.launch(
        max_file_size=round(app.max_megabytes * MEGABYTE), **private | looks | {"show_error": True} | options
    )


def classify_recording(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    path: str | Path,
    *,
    max_megabytes: float = MAX_MEGABYTES,
    max_seconds: float = MAX_SECONDS,
    denoise: bool = False,
    min_score: float | None = None,
) -> tuple[Prediction, np.ndarray]:
    """
    Classify a file that is within the limits.

    Args:
        model, feature_extractor: Result of [`~sanet_hf.inference.load_classifier`].
        path: Audio file.
        max_megabytes, max_seconds, denoise, min_score: As in [`make_app`].

    Returns:
        The prediction, without scores if the recording is silent, and the waveform of shape (samples,) at the feature
        extractor's sampling rate.

    Raises:
        AudioError: The file is too large, too long or unreadable. The message does not contain its folder.
    """
    path = Path(path)
    try:
        waveform = _read_within_limits(path, feature_extractor.sampling_rate, max_megabytes, max_seconds)
        if denoise:
            waveform = np.concatenate(list(reduce_noise([waveform], feature_extractor.sampling_rate)))
        options = {"denoise": None if denoise else False, "min_score": min_score}
        (prediction,) = predict(model, feature_extractor, [waveform], **options)
    except AudioError as error:
        raise AudioError(str(error).replace(str(path), path.name)) from error
    if prediction.error is not None:
        raise AudioError(f"{path.name}: {prediction.error}")
    return prediction, waveform


def _read_within_limits(path: Path, sampling_rate: int, max_megabytes: float, max_seconds: float) -> np.ndarray:
    megabytes = path.stat().st_size / MEGABYTE
    if megabytes > max_megabytes:
        raise AudioError(
            f"{path}: the file has {megabytes:.3g} MB, but the limit is {max_megabytes:g} MB. Cut it, or save it as "
            "FLAC or MP3."
        )
    # The samples are counted, because the duration in a header may be wrong and a small file may contain days.
    blocks, count = [], 0
    for block in stream_audio(path, sampling_rate):
        blocks.append(block)
        count += len(block)
        if count > max_seconds * sampling_rate:
            raise AudioError(
                f"{path}: the recording is longer than the limit of {format_time(max_seconds)} (min:s). Cut it, or "
                "use the command sanet predict, which has no limit."
            )
    return np.concatenate(blocks)


def _weights(
    model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, prediction: Prediction, waveform: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    is_one_window = len(prediction.windows) == 1 and not prediction.is_silent
    return weigh_frames(model, feature_extractor, waveform) if is_one_window else None


def draw_recording(
    prediction: Prediction, waveform: np.ndarray, weights: tuple[np.ndarray, np.ndarray] | None = None
) -> str:
    """
    Return HTML of a recording: the waveform, coloured by label and with a list of the segments if there are several
    windows, or with pooling weights if there is one.

    Args:
        prediction: Prediction of one recording, without an error.
        waveform: Array of shape (samples,).
        weights: Result of [`~sanet_hf.inference.explanation.weigh_frames`].
    """
    duration = prediction.duration
    shapes, notes, rows = [_draw_waveform(waveform)], [], ""
    if len(prediction.windows) > 1:
        segments = merge_windows(prediction)
        colors = _colors(segments, prediction.labels)
        drawn = [segment for segment in segments if segment.labels]
        shapes = [_draw_segment(segment, duration, colors) for segment in drawn] + shapes
        rows = "".join(_draw_row(segment, colors) for segment in segments)
        rows = f'<div class="segments">{rows}</div>'
        notes = [f"Classified in {len(prediction.windows)} windows. The scores are their mean."]
        num_silent = sum(window.scores is None for window in prediction.windows)
        if num_silent:
            notes.append(f"{num_silent} of them are silent ({SILENT}). They have no class and are not in the mean.")
    elif weights is not None:
        shapes.append(_draw_weights(*weights, duration))
        highest = weights[0].max() * len(weights[0])
        notes = [
            f"Blue: weight of each frame in SANet’s pooling (mean 1, maximum {highest:.3g}). A high weight is not "
            "proof of importance."
        ]
        # Models with a fixed input length also see padding.
        silent = weights[0][weights[1][:-1] >= duration].sum()
        if silent:
            notes.append(f"{100 * silent:.0f} % of the weight is on the silence after the recording.")
    elif prediction.is_silent:
        notes = [f"The recording is silent ({SILENT}). It has no class."]
    if not prediction.is_silent:
        notes = [*_name_classes(prediction), *notes]
    notes.append(f"Click {'the waveform or a segment' if rows else 'the waveform'} to play from there.")
    return (
        f'<div class="picture" data-seconds="{duration:.6f}"><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="Waveform">{"".join(shapes)}</svg>'
        f'<div class="playhead"></div></div><div class="times">{_draw_times(duration)}</div>'
        f'<p class="note">{" ".join(notes)}</p>{rows}'
    )


def _name_classes(prediction: Prediction) -> list[str]:
    """Return a sentence with the predicted classes, unless the prediction is simply the best class."""
    if prediction.is_background(prediction.scores):
        return [f"Background ({escape(prediction.background)}): nothing was detected."]
    names = [escape(prediction.labels[index]) for index in prediction.rank_classes(prediction.scores)]
    if prediction.several:
        return [f"Predicted: {', '.join(names) or 'no class'}."]
    return [] if names else [f"{UNKNOWN}: no class has a score of {float(np.min(prediction.min_score)):g} or more."]


def _draw_waveform(waveform: np.ndarray) -> str:
    length = -(-len(waveform) // WIDTH)
    low, high = envelope([waveform], length)
    # Scaled to the peak, so that quiet recordings are visible.
    scale = 0.48 * HEIGHT / max(largest_amplitude(waveform), 1e-3)
    x = np.arange(len(low)) * (length * WIDTH / len(waveform))
    upper = zip(x, HEIGHT / 2 - scale * high - 0.5)
    lower = zip(x[::-1], HEIGHT / 2 - scale * low[::-1] + 0.5)
    return f'<path class="wave" d="{_path([*upper, *lower])}"/>'


def _draw_weights(weights: np.ndarray, edges: np.ndarray, duration: float) -> str:
    x = np.repeat(np.minimum(edges / duration, 1) * WIDTH, 2)
    heights = np.concatenate([[0], np.repeat(weights / weights.max(), 2), [0]])
    return f'<path class="weights" d="{_path(zip(x, HEIGHT * (1 - heights)))}"/>'


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _colors(segments: Sequence[Segment], labels: Sequence[str]) -> dict[str | None, str]:
    """Return a colour for each label, by duration if there are many; none for no class."""
    seconds: dict[str, float] = {}
    for segment in segments:
        for label in segment.labels:
            seconds[label] = seconds.get(label, 0) + segment.end - segment.start
    colors = label_colors(labels, sorted(seconds, key=lambda label: -seconds[label]))
    return {None: "transparent", UNKNOWN: "transparent", **colors}


def _draw_segment(segment: Segment, duration: float, colors: dict[str | None, str]) -> str:
    """Return a rectangle over the duration of a segment, with a stripe for each of its labels."""
    start, end = (WIDTH * seconds / duration for seconds in (segment.start, segment.end))
    height = HEIGHT / len(segment.labels)
    stripes = "".join(
        f'<rect x="{start:.2f}" y="{number * height:.2f}" width="{end - start:.2f}" height="{height:.2f}" '
        f'fill="{colors[label]}" fill-opacity="0.4"/>'
        for number, label in enumerate(segment.labels)
    )
    return f"<g>{stripes}<title>{escape(', '.join(segment.labels))}</title></g>"


def _draw_row(segment: Segment, colors: dict[str | None, str]) -> str:
    # With one decimal in all rows.
    times = [format_time(round(seconds, 1)) for seconds in (segment.start, segment.end)]
    start, end = (time if "." in time else f"{time}.0" for time in times)
    label = ", ".join(segment.labels) or segment.label or "no class"
    score = "" if segment.score is None else f"{100 * segment.score:.0f} %"
    swatches = "".join(f'<i style="background: {colors[name]}"></i>' for name in segment.labels or (segment.label,))
    return (
        f'<button type="button" data-start="{segment.start:.3f}">{swatches}'
        f'<span class="time">{start} – {end}</span><span class="label">{escape(label)}</span>'
        f"<span>{score}</span></button>"
    )


def _draw_times(duration: float) -> str:
    times = [duration * part / 4 for part in range(5)]
    texts = [f"{time:.2f} s" if duration < 10 else format_time(round(time)) for time in times]
    return "".join(f"<span>{text}</span>" for text in texts)


def _title(model: PreTrainedModel) -> str:
    name = str(model.name_or_path)
    return (Path(name).resolve().name if Path(name).is_dir() else name) or "Audio classifier"


def _introduction(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    title: str,
    max_megabytes: float,
    max_seconds: float,
) -> str:
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    return (
        f"<h1>{escape(title)}</h1><p>{len(labels)} classes: {escape(shorten(labels))}.</p>"
        f"<p>Limits: {format_time(max_seconds)} (min:s) and {max_megabytes:g} MB. Recordings are classified in "
        f"windows of {find_window_seconds(model, feature_extractor):g} s. They stay on the machine that serves this "
        "page and are deleted within about an hour.</p>"
    )
