"""The pictures of the page in ``Resources/Screenshots``: ``python -m Testing.server.page_shots``.

Taken of the real server with the demonstration model, in Chromium.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from Testing.server.page_driver import FLAGS, chromium, real_server, segment_sample

CONCEPTS = ("liver", "spleen", "vertebra", "left kidney")
PATIENCE_MS = 120_000


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
