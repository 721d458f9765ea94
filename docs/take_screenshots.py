# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Take the pictures of README and documentation from two trained runs and a comparison. It uses playwright's Chromium, or
the one in the variable CHROMIUM:

    python docs/take_screenshots.py RUN CLIP SPEAKERS RECORDING COMPARISON

RUN has `report.html` and explains CLIP. SPEAKERS classifies RECORDING. COMPARISON is the output of `sanet compare`.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from sanet_hf.cli.main import main as sanet
from sanet_hf.inference.app import launch_app, make_app
from sanet_hf.inference.loading import load_classifier


DOCS = Path(__file__).parent
SECTIONS = ("results", "confusions")
KEEP_SECTIONS = """(ids) => {
  document.querySelectorAll('nav, dl, footer').forEach((element) => element.remove());
  let kept = false;
  for (const element of [...document.querySelector('main').children]) {
    if (element.tagName === 'H2') kept = ids.includes(element.id);
    if (!kept) element.remove();
  }
  document.body.style.padding = '1rem 1.25rem';
}"""


def take_report(browser: Browser, report: Path, path: Path) -> None:
    """Write a picture of the main parts of a report."""
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto(report.resolve().as_uri())
    page.evaluate(KEEP_SECTIONS, list(SECTIONS))
    page.screenshot(path=path, full_page=True)


def take_app(browser: Browser, run: str, recording: Path, path: Path) -> None:
    """Write a picture of the app after it has classified a recording."""
    app = make_app(*load_classifier(run), [recording])
    _, address, _ = launch_app(app, prevent_thread_lock=True, quiet=True)
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.goto(address)
    page.locator("button", has_text=recording.name).click()
    page.wait_for_selector("#picture .picture", timeout=120_000)
    page.wait_for_timeout(2000)  # the bars grow, and the player loads
    page.screenshot(path=path, full_page=True)
    app.close()


def shrink(path: Path, width: int | None = None) -> None:
    """Reduce a picture to 256 colours and, if it is wider, to a width in pixels."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        if width is not None and image.width > width:
            image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run with report.html")
    parser.add_argument("clip", help="clip to explain")
    parser.add_argument("speakers", help="folder of a run that classifies the recording")
    parser.add_argument("recording", type=Path, help="recording of a minute or more")
    parser.add_argument("comparison", type=Path, help="folder that sanet compare has written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = str(Path(folder) / "rows.csv")
        options = ["--hop", "0.5", "--segments", "--output", rows, "--plot", str(DOCS / "timeline.png")]
        sanet(["predict", arguments.speakers, str(arguments.recording), *options])
    sanet(["explain", arguments.run, arguments.clip, "--start", "0", "--output", str(DOCS / "explain.png")])
    shutil.copy(arguments.comparison / "comparison.png", DOCS / "comparison.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"))
        take_report(browser, Path(arguments.run) / "report.html", DOCS / "report.png")
        take_app(browser, arguments.speakers, arguments.recording, DOCS / "app.png")
        browser.close()
    for name in ("timeline", "explain", "comparison", "report", "app"):
        shrink(DOCS / f"{name}.png", 1100 if name == "comparison" else None)


if __name__ == "__main__":
    main()
