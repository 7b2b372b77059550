"""What the tests of the page do with a browser: open the page, ask, look at the screen. Needs playwright."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from MedicalSAM3Lib.outputs import set_affine
from Testing.server.fake_server import World

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""As root, and without a graphics card."""

PATIENCE_MS = 60_000

ORIENTED = {
    "straight": np.diag([1.0, 1.0, 1.0, 1.0]),
    "turned.nrrd": np.array([[0, 0, -2.0, 9], [1.0, 0, 0, 8], [0, 1.5, 0, 7], [0, 0, 0, 1]]),
    "oblique": np.array([[0.9553, -0.2955, 0, 5], [0.2955, 0.9553, 0, -3], [0, 0, -1.7, 0], [0, 0, 0, 1]]),
}
"""Voxel to mm in LPS."""


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


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """The page, opened. It talks to nobody but its server, throws nothing, and keeps the content policy."""
    context = browser.new_context(
        viewport={"width": 1000, "height": 640}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if is_fault(said.type, said.text) else None)
    page.on("request", lambda asked: faults.append(asked.url) if not at_home(asked.url, url) else None)
    page.goto(url)
    yield page
    context.close()
    assert not faults


def is_fault(kind: str, text: str) -> bool:
    """Whether a line of the console is one that a user would be right to complain about."""
    # A refusal of the server is no fault of the page.
    return kind in ("error", "warning") and "Failed to load resource" not in text and "GPU stall" not in text


def at_home(url: str, home: str) -> bool:
    return url.startswith((home, "data:", f"blob:{home}"))


def open_sample(page: Page) -> None:
    page.get_by_role("button", name="Sample").click()
    expect(page.locator("#image-line")).to_contain_text("256 x 256 x 20 voxels")


def block_kji() -> np.ndarray:
    """A mask of no symmetry at all, ``(24, 28, 32)``."""
    block = np.zeros((24, 28, 32), bool)
    block[3:13, 4:20, 6:12] = True
    block[9:20, 4:9, 6:28] = True
    return block


def open_block(page: Page, world: World, path: Path, ijk_to_lps: np.ndarray) -> None:
    """Open a small volume that is bright where the concept "block" is."""
    world.masks = {"block": block_kji()}
    image = sitk.GetImageFromArray(np.where(block_kji(), 1000, 0).astype(np.int16))
    set_affine(image, ijk_to_lps)
    sitk.WriteImage(image, str(path))
    page.locator("#file").set_input_files(path)
    expect(page.locator("#image-line")).to_contain_text("32 x 28 x 24 voxels")
    page.get_by_role("combobox", name="View").select_option("axial")


def ask(page: Page, *concepts: str) -> None:
    for concept in concepts:
        page.get_by_role("combobox", name="Concepts").fill(concept)
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Segment", exact=True).click()


def line_of(page: Page, concept: str) -> str:
    """What the results say about a concept, in one line."""
    return " ".join(page.locator("#findings > li").filter(has_text=concept).first.inner_text().split())


def wait_for_end(page: Page) -> None:
    expect(page.locator("#downloads")).to_be_visible()


def screen(page: Page, canvas: str = "#volume-canvas") -> np.ndarray:
    """Pixels of a canvas as they are on the screen, int ``(rows, columns, 3)``."""
    picture = Image.open(io.BytesIO(page.locator(canvas).screenshot()))
    return np.asarray(picture.convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int], most: int = 12) -> np.ndarray:
    return np.abs(pixels - np.array(colour)).max(axis=-1) <= most
