"""The pictures of an evaluation in ``Resources/Screenshots``: ``python -m Testing.training.report_shot REPORT``

REPORT is the ``report.html`` that ``Training.evaluate`` wrote for the demonstration model; seen in Chromium.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from Testing.server.page_driver import FLAGS, chromium

WIDTH, MARGIN = 1180, 20
PICTURES = {
    "evaluation-report": ("body", "#answers"),
    "evaluation-panels": ("#answers", "#concepts"),
    "evaluation-charts": ("#figure3", "#words"),
}
"""By name of the file: the parts of the page that it begins and ends with, the latter left out."""


def main(report: Path) -> None:
    """Take them from the page as it lies before a reader."""
    screenshots = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(report.resolve().as_uri())
        for name, (first, after) in PICTURES.items():
            start, end = (page.locator(one).bounding_box() for one in (first, after))
            assert start is not None, "expected a report of this project"
            assert end is not None, "expected a report of this project"
            top = max(start["y"] - MARGIN, 0)
            clip = {"x": 0, "y": top, "width": WIDTH, "height": end["y"] - MARGIN - top}
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")
            smaller = picture.resize((WIDTH * 4 // 5, picture.height * 4 // 5), Image.Resampling.LANCZOS)
            colours = smaller.quantize(128, kmeans=2, dither=Image.Dither.NONE)
            colours.save(screenshots / f"{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
