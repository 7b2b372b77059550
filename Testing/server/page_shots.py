"""The pictures of the page in ``Resources/Screenshots``: ``python -m Testing.server.page_shots``.

Taken of the real server with the demonstration model, in Chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""As root, and without a graphics card."""

CONCEPTS = ("liver", "spleen", "vertebra", "left kidney")
PATIENCE_MS = 120_000


def chromium() -> str | None:
    """Path of the browser, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def real_server(spool: Path) -> Iterator[str]:
    """Address of ``medsam3 serve`` with the demonstration model, in a process of its own."""
    command = [sys.executable, "-m", "MedicalSAM3Lib.cli", "serve", "--port", "0", "--set", f"spool={spool}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(line.split()[2] for line in process.stdout if line.startswith("Serving on "))
        finally:
            process.terminate()


def segment_sample(page: Page, *concepts: str) -> None:
    """Open the sample, ask for concepts, and wait for the answers."""
    page.get_by_role("button", name="Sample").click()
    for concept in concepts:
        page.get_by_role("combobox", name="Concepts").fill(concept)
        page.keyboard.press("Enter")
    page.locator("#segment:enabled").click()
    page.locator("#downloads").wait_for()
    page.locator("#model-line", has_text="Demonstration model").wait_for()


def main() -> None:
    """Take both pictures."""
    folder = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots"
    with tempfile.TemporaryDirectory() as name, real_server(Path(name) / "spool") as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1360, "height": 850}, color_scheme=scheme)
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            segment_sample(page, *CONCEPTS)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(folder / f"page-{scheme}.png", optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
