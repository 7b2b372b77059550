"""The page at / in a real browser: Debian's Chromium, driven by Playwright, before a server whose answers are known."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from MedicalSAM3Lib.outputs import set_affine
from MedicalSAM3Lib.resources import resource
from Testing.lib.file_worlds import write_series
from Testing.server.fake_server import SAMPLE, World, serve

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'medical-sam3[dev]'")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

from Testing.server.page_shots import FLAGS, chromium, real_server, segment_sample  # noqa: E402

CHROMIUM = chromium()
NODE = shutil.which("node")
PATIENCE_MS = 60_000

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """What the server knows; ``world.url`` is where it listens."""
    server, world = serve(tmp_path)
    world.url = f"http://127.0.0.1:{server.server_port}/"
    yield world
    world.gate = None
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def organs() -> dict[str, np.ndarray]:
    """Masks of the sample by name, from the file beside it."""
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(resource("samples", f"{SAMPLE}_reference.nii.gz"))))
    names = json.loads(resource("samples", f"{SAMPLE}_reference.json").read_text(encoding="utf-8"))
    return {name: labels == int(label) for label, name in names.items()}


@pytest.fixture
def page(browser: Browser, world: World) -> Iterator[Page]:
    """The page of the server whose answers are known."""
    with opened(browser, world.url) as page:
        yield page


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


@pytest.mark.skipif(not NODE, reason="needs Node.js 20 or newer: apt-get install nodejs")
def test_parts_without_a_browser(repository: Path) -> None:
    script = repository / "Testing" / "server" / "page_parts.test.mjs"
    done = subprocess.run([str(NODE), "--test", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_sample_is_segmented_by_typed_concepts(page: Page, world: World, organs: dict[str, np.ndarray]) -> None:
    world.masks = organs
    open_sample(page)
    ask(page, "liver", "spleen", "kidney")
    wait_for_end(page)
    liver = line_of(page, "liver")
    assert "✓ Found" in liver
    assert f"Volume {organs['liver'].sum() * 1.953125**2 * 2 / 1000:.0f} ml" in liver
    assert "✕ Not found" in line_of(page, "kidney")
    assert "Presence 4 % is below the threshold of 50 %." in line_of(page, "kidney")
    expect(page.locator("#live")).to_have_text("Done: 2 of 3 concepts found")
    page.get_by_role("button", name="Go to slice 10 of spleen").click()
    expect(page.locator("#slice-k-at")).to_have_text("10 / 19")
    expect(page.locator("#readout")).to_contain_text(", 10, intensity")


def test_mask_has_its_colour_and_can_be_hidden_and_faded(
    page: Page, world: World, organs: dict[str, np.ndarray]
) -> None:
    world.masks = organs
    open_sample(page)
    page.get_by_role("combobox", name="View").select_option("axial")
    ask(page, "liver", "spleen")
    wait_for_end(page)
    page.get_by_role("slider", name="Mask opacity").fill("1")
    colours = {finding.phrase: finding.colour for finding in world.jobs["job0"].findings}
    seen = {name: int(near(screen(page), colour).sum()) for name, colour in colours.items()}
    assert min(seen.values()) > 2000
    page.get_by_role("checkbox", name="Show liver").uncheck()
    assert near(screen(page), colours["liver"]).sum() < 0.02 * seen["liver"]
    assert near(screen(page), colours["spleen"]).sum() >= seen["spleen"]
    page.get_by_role("slider", name="Mask opacity").fill("0")
    assert near(screen(page), colours["spleen"]).sum() < 0.02 * seen["spleen"]
    page.get_by_role("slider", name="Mask opacity").fill("1")
    page.get_by_role("combobox", name="View").select_option("render")
    assert near(screen(page), colours["spleen"], 40).sum() > 500


def test_real_server_segments_the_sample(browser: Browser, tmp_path: Path) -> None:
    with real_server(tmp_path / "spool") as url, opened(browser, f"{url}/") as page:
        segment_sample(page, "liver", "left kidney")
        assert "✓ Found" in line_of(page, "liver")
        assert "✕ Not found" in line_of(page, "left kidney")
        with page.expect_download() as waited:
            page.get_by_role("button", name="Segmentation (.seg.nrrd)").click()
        waited.value.save_as(tmp_path / "got.seg.nrrd")
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "got.seg.nrrd"))) == 1
        k, j, i = np.argwhere(mask)[mask.sum() // 2]
        for name, at in (("Axial", k), ("Coronal", j), ("Sagittal", i)):
            page.get_by_role("slider", name=name).fill(str(at))
        expect(page.locator("#readout")).to_contain_text(f"Voxel {i}, {j}, {k}, intensity")
        expect(page.locator("#readout")).to_contain_text(": liver")
        page.get_by_role("slider", name="Mask opacity").fill("1")
        page.get_by_role("combobox", name="View").select_option("axial")
        assert near(screen(page), (221, 130, 101)).sum() > 2000


ORIENTED = {
    "straight": np.diag([1.0, 1.0, 1.0, 1.0]),
    "turned.nrrd": np.array([[0, 0, -2.0, 9], [1.0, 0, 0, 8], [0, 1.5, 0, 7], [0, 0, 0, 1]]),
    "oblique": np.array([[0.9553, -0.2955, 0, 5], [0.2955, 0.9553, 0, -3], [0, 0, -1.7, 0], [0, 0, 0, 1]]),
}
"""Voxel to mm in LPS."""


@pytest.mark.parametrize("name", ORIENTED)
def test_mask_lies_on_its_voxels(page: Page, world: World, tmp_path: Path, name: str) -> None:
    open_block(page, world, tmp_path / (name if name.endswith(".nrrd") else f"{name}.nii.gz"), ORIENTED[name])
    ask(page, "block")
    wait_for_end(page)
    page.get_by_role("slider", name="Mask opacity").fill("0")
    white = screen(page)[20:-20, 20:-20].min(axis=-1) > 127
    page.get_by_role("slider", name="Mask opacity").fill("1")
    red, green, _ = np.moveaxis(screen(page)[20:-20, 20:-20], -1, 0)
    coloured = red - green > 80
    assert world.jobs["job0"].findings[0].colour == (200, 40, 160)
    assert white.sum() > 5000
    # A voxel is 12 pixels or more, and at an edge both fade over one: by half a voxel nothing may be shifted.
    differ = np.array(extent(white)) - extent(coloured)
    assert np.abs(differ).max() <= 8
    assert abs(differ[0] + differ[1]) <= 4
    assert abs(differ[2] + differ[3]) <= 4
    assert (white & coloured).sum() > 0.8 * (white | coloured).sum()


def extent(shape: np.ndarray) -> list[int]:
    """First and last row and column of what is set."""
    rows, columns = np.nonzero(shape)
    return [rows.min(), rows.max(), columns.min(), columns.max()]


def test_progress_is_seen_and_cancel_works(page: Page, world: World, tmp_path: Path) -> None:
    world.gate = threading.Semaphore(0)
    open_block(page, world, tmp_path / "block.nii.gz", ORIENTED["straight"])
    ask(page, "liver", "spleen")
    expect(page.locator("#progress-line")).to_have_text("In the queue, 1 before this one")
    assert page.locator("#findings").get_attribute("aria-busy") == "true"
    world.gate.release()
    expect(page.locator("#progress-line")).to_have_text("Features 24 of 24, about 42 s left")
    expect(page.locator("#live")).to_contain_text("Features")
    world.gate.release()
    expect(page.locator("#progress-line")).to_contain_text("Labels 1 of 2")
    assert "✕ Not found" in line_of(page, "liver")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Segment", exact=True)).to_be_enabled()
    assert "cancelled" in line_of(page, "spleen")
    expect(page.locator("#progress-block")).to_be_hidden()
    expect(page.locator("#downloads")).to_be_hidden()


def test_a_dropped_connection_is_taken_up_again(page: Page, world: World, tmp_path: Path) -> None:
    path = tmp_path / "noise.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 99, (8, 64, 96))), str(path))
    world.drops = 1
    page.locator("#file").set_input_files(path)
    expect(page.locator("#image-line")).to_contain_text("96 x 64 x 8 voxels")
    assert world.drops == 0
    world.drops = 1
    ask(page, "liver", "spleen")
    wait_for_end(page)
    assert world.drops == 0
    assert world.seen.count("POST /v1/jobs") == 1
    assert page.locator("#findings > li").count() == 2


def test_download_is_the_segmentation_of_the_server(page: Page, world: World, tmp_path: Path) -> None:
    open_block(page, world, tmp_path / "block.nrrd", ORIENTED["turned.nrrd"])
    ask(page, "block")
    wait_for_end(page)
    for suffix in (".seg.nrrd", ".nii.gz"):
        with page.expect_download() as waited:
            page.get_by_role("button", name=f"Segmentation ({suffix})").click()
        path = world.folder / f"got{suffix}"
        waited.value.save_as(path)
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image) == 1, block_kji())
        assert image.GetSpacing() == pytest.approx((1.0, 1.5, 2.0))
    with page.expect_download() as waited:
        page.get_by_role("button", name="Report").click()
    assert json.loads(waited.value.path().read_text())["findings"][0]["phrase"] == "block"


def test_keyboard_is_enough(page: Page, world: World, organs: dict[str, np.ndarray]) -> None:
    world.masks = organs
    expect(page.get_by_role("button", name="Sample")).to_be_visible()
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Sample"
    page.keyboard.press("Enter")
    expect(page.locator("#concept")).to_be_focused()
    page.keyboard.type("live")
    expect(page.get_by_role("listbox")).to_be_visible()
    page.keyboard.press("ArrowDown")
    assert page.locator("#concept").get_attribute("aria-activedescendant") == "option-0"
    page.keyboard.press("Enter")
    page.keyboard.type("left kidney, spleen,pancreas,")
    page.keyboard.press("Backspace")
    assert [chip.split()[:-1] for chip in page.locator("#chips li").all_inner_texts()] == [
        ["liver"], ["left", "kidney"], ["spleen"],
    ]  # fmt: skip
    page.keyboard.press("Enter")
    wait_for_end(page)
    page.get_by_role("slider", name="Axial").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#slice-k-at")).to_have_text("10 / 19")


def test_completion_knows_synonyms_and_sides(page: Page) -> None:
    page.get_by_role("combobox", name="Concepts").fill("renal")
    expect(page.get_by_role("option").first).to_contain_text("also:")
    page.get_by_role("combobox", name="Concepts").fill("left kid")
    page.get_by_role("option", name="left kidney").first.click()
    expect(page.locator("#chips li")).to_contain_text("left kidney")
    page.get_by_role("button", name="Remove left kidney").click()
    expect(page.locator("#chips li")).to_have_count(0)


def test_token_is_asked_for_and_kept_for_this_tab_only(page: Page, world: World) -> None:
    world.token = "open sesame"
    page.reload()
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type("wrong")
    with page.expect_response(lambda response: response.status == 401):
        page.keyboard.press("Enter")
    expect(page.locator("#token-form")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type("open sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#token-form")).to_be_hidden()
    open_sample(page)
    assert page.evaluate("[Object.values(sessionStorage).includes('open sesame'), localStorage.length]") == [True, 0]
    assert not any("sesame" in path for path in world.seen)


def test_a_running_job_is_found_again_after_a_reload(page: Page, world: World, tmp_path: Path) -> None:
    world.gate = threading.Semaphore(1)
    open_block(page, world, tmp_path / "block.mha", ORIENTED["oblique"])
    ask(page, "block")
    expect(page.locator("#progress-line")).to_contain_text("Features")
    page.reload()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    world.gate.release()
    wait_for_end(page)
    assert "✓ Found" in line_of(page, "block")
    page.get_by_role("slider", name="Mask opacity").fill("1")
    page.get_by_role("combobox", name="View").select_option("axial")
    assert near(screen(page), (200, 40, 160)).sum() > 5000


def test_a_photograph_is_shown_as_a_picture(page: Page, world: World, tmp_path: Path) -> None:
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 10:20, 30:60] = True
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((60, 80, 3), (10, 200, 90), np.uint8)).save(path)
    world.masks = {"lesion": mask}
    page.locator("#file").set_input_files(path)
    expect(page.locator("#image-line")).to_have_text("Picture of 80 x 60 pixels")
    ask(page, "lesion")
    wait_for_end(page)
    page.get_by_role("slider", name="Mask opacity").fill("1")
    script = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 80, 60).data]"
    pixels = np.array(page.locator("#picture-canvas").evaluate(script)).reshape(60, 80, 4)[..., :3]
    assert (pixels[mask[0]] == world.jobs["job0"].findings[0].colour).all()
    assert (pixels[~mask[0]] == (10, 200, 90)).all()
    expect(page.locator("#sliders")).to_be_hidden()
    assert "300" in line_of(page, "lesion")


def test_a_folder_of_dicom_files_arrives_as_a_zip_without_names(page: Page, world: World, tmp_path: Path) -> None:
    stack = write_series(tmp_path / "Miller", [0.0, 2.0, 4.0, 6.0])
    (tmp_path / "Miller" / "notes.txt").write_text("not an image")
    page.locator("#folder").set_input_files(tmp_path / "Miller")
    expect(page.locator("#image-line")).to_contain_text("CT, 4 x 3 x 4 voxels")
    np.testing.assert_array_equal(world.volumes["upload0"].array, stack)
    expect(page.locator("#notices")).to_have_text("1 of 5 files are not DICOM and were left out.")
    assert world.uploads["upload0"]["filename"] == "image.zip"
    assert b"Miller" not in world.uploads["upload0"]["data"]
    expect(page.locator("#volume-canvas")).to_be_visible()


def test_one_of_several_series_is_chosen(page: Page, world: World, tmp_path: Path) -> None:
    write_series(tmp_path / "study", [0.0, 2.0, 4.0], SeriesInstanceUID="1.1", SeriesNumber=1)
    stack = write_series(tmp_path / "study", [0.0, 5.0], SeriesInstanceUID="1.2", SeriesNumber=2)
    page.locator("#folder").set_input_files(tmp_path / "study")
    choice = page.get_by_role("group", name="Series")
    expect(choice).to_contain_text("2 DICOM series")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#image-line")).to_contain_text("CT, 4 x 3 x 2 voxels")
    np.testing.assert_array_equal(world.volumes["upload0"].array, stack)
    expect(choice).to_be_hidden()


def test_without_webgl_it_segments_all_the_same(page: Page, world: World, organs: dict[str, np.ndarray]) -> None:
    world.masks = organs
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null; window.alert = () => {}")
    page.reload()
    open_sample(page)
    expect(page.locator("#notices")).to_contain_text("This browser cannot show the image")
    ask(page, "liver")
    wait_for_end(page)
    assert "✓ Found" in line_of(page, "liver")
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "sentence"), [("x.nii", "got a file that is damaged"), ("x.txt", "this file is none of them")]
)
def test_what_is_no_image_is_refused_with_a_sentence(page: Page, tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / name).write_bytes(b"no image at all")
    page.locator("#file").set_input_files(tmp_path / name)
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    expect(page.locator("#image-line")).to_have_text("No image yet.")
    page.get_by_role("combobox", name="Concepts").fill("liver")
    expect(page.get_by_role("button", name="Segment", exact=True)).to_be_disabled()


NAMELESS = """() => [...document.querySelectorAll('button, input, select, canvas, progress, section')].filter(one => {
    const ids = (one.getAttribute('aria-labelledby') || '').split(' ');
    const named = ids.map(id => document.getElementById(id)?.textContent);
    const label = [...(one.labels ?? [])].map(label => label.textContent).join('');
    const own = one.tagName === 'BUTTON' ? one.textContent : '';
    return !(one.getAttribute('aria-label') || named.join('').trim() || label.trim() || own.trim());
}).map(one => one.outerHTML)"""

CONTRASTS = """() => {
    const light = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, channel) => sum + value * [0.2126, 0.7152, 0.0722][channel], 0);
    const ground = one => {
        const colour = getComputedStyle(one).backgroundColor;
        return colour.endsWith(', 0)') && one.parentElement ? ground(one.parentElement) : colour;
    };
    const texts = [...document.querySelectorAll('body *')].filter(one => one.checkVisibility()
        && !one.disabled && [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
    return texts.map(one => {
        const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), one.outerHTML];
    });
}"""


def test_everything_has_a_name_and_can_be_read_in_light_and_dark(page: Page, world: World, tmp_path: Path) -> None:
    open_block(page, world, tmp_path / "block.nii", ORIENTED["straight"])
    ask(page, "block", "kidney")
    wait_for_end(page)
    assert page.evaluate(NAMELESS) == []
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 30
        assert [found for found in contrasts if found[0] < 4.5] == []
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(part) for part in colour[4:-1].split(",")))
    assert grounds[0] > 600
    assert grounds[1] < 200
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert "Research use only, not a medical device." in page.inner_text("header")
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
