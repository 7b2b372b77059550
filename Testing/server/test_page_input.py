"""What the page takes in: pictures, DICOM folders, several series, files that are none; tokens and lost connections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from Testing.lib.file_worlds import write_series
from Testing.server.fake_server import World

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'medical-sam3[dev]'")
from playwright.sync_api import Page, expect

from Testing.server.page_driver import (
    ask,
    line_of,
    open_sample,
    wait_for_end,
)


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
