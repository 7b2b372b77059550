"""The page in a browser: concepts are asked for, progress and answers seen, masks on the screen, files fetched."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.server.fake_server import World

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'medical-sam3[dev]'")
from playwright.sync_api import Browser, Page, expect

from Testing.server.page_driver import (
    ORIENTED,
    ask,
    block_kji,
    line_of,
    near,
    open_block,
    open_sample,
    opened,
    real_server,
    screen,
    segment_sample,
    wait_for_end,
)


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
