"""The page in a real browser: Debian's Chromium, driven by Playwright. Where one is missing the tests say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from Testing.server.fake_server import World


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window. One a module: while it runs, no other test of this process can run a loop."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'medical-sam3[dev]'")
    from Testing.server.page_driver import FLAGS, chromium

    if not chromium():
        pytest.skip("needs Chromium: apt-get install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """What the server of the page knows; ``world.url`` is where it listens."""
    from Testing.server.fake_server import serve

    server, world = serve(tmp_path)
    world.url = f"http://127.0.0.1:{server.server_port}/"
    yield world
    world.gate = None
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser: Browser, world: World) -> Iterator[Page]:
    """The page of the server whose answers are known."""
    from Testing.server.page_driver import opened

    with opened(browser, world.url) as page:
        yield page


@pytest.fixture(scope="module")
def organs() -> dict[str, np.ndarray]:
    """Masks of the sample by name, from the file beside it."""
    import SimpleITK as sitk

    from MedicalSAM3Lib.resources import resource
    from Testing.server.fake_server import SAMPLE

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(resource("samples", f"{SAMPLE}_reference.nii.gz"))))
    names = json.loads(resource("samples", f"{SAMPLE}_reference.json").read_text(encoding="utf-8"))
    return {name: labels == int(label) for label, name in names.items()}
