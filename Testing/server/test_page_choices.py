"""What the reader of the page chooses: settings, the model, and that an image leaves the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from Testing.server.fake_server import World

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'medical-sam3[dev]'")
from playwright.sync_api import Page, expect

from Testing.server.page_driver import ORIENTED, ask, open_block


def test_what_is_not_chosen_is_left_to_the_server(page: Page, world: World, tmp_path: Path) -> None:
    open_block(page, world, tmp_path / "block.nii.gz", ORIENTED["straight"])
    expect(page.locator("#settings")).to_be_visible()
    ask(page, "block")
    expect(page.locator("#downloads")).to_be_visible()
    (order,) = world.orders
    assert order["settings"] == {}
    assert "model" not in order


def test_settings_and_model_reach_the_job(page: Page, world: World, tmp_path: Path) -> None:
    open_block(page, world, tmp_path / "block.nii.gz", ORIENTED["straight"])
    page.get_by_text("Settings", exact=True).click()
    models = page.get_by_role("combobox", name="Model")
    assert models.locator("option").all_inner_texts() == ["Tiny (demonstration)", "Clinic's own"]
    models.select_option("clinic")
    page.get_by_role("combobox", name="Overlap").select_option("keep")
    page.get_by_role("combobox", name="Look along").select_option("all")
    page.get_by_role("checkbox", name="Keep the objects of a concept apart").check()
    ask(page, "block")
    expect(page.locator("#downloads")).to_be_visible()
    (order,) = world.orders
    assert order["settings"] == {"overlap": "keep", "axis": "all", "instances": True}
    assert order["model"] == "clinic"


def test_an_image_and_its_results_can_be_taken_off_the_server(page: Page, world: World, tmp_path: Path) -> None:
    expect(page.get_by_role("button", name="Remove the image")).to_be_hidden()
    open_block(page, world, tmp_path / "block.nii.gz", ORIENTED["straight"])
    ask(page, "block")
    expect(page.locator("#downloads")).to_be_visible()
    ask(page, "liver")
    expect(page.locator("#findings > li")).to_have_count(2)
    expect(page.locator("#downloads")).to_be_visible()
    assert len(world.jobs) == 2
    world.jobs.pop("job0")  # its time was up
    page.get_by_role("button", name="Remove the image").click()
    expect(page.locator("#image-line")).to_have_text("No image yet.")
    assert not world.volumes
    assert not world.jobs
    expect(page.locator("#results")).to_be_hidden()
    expect(page.get_by_role("button", name="Segment", exact=True)).to_be_disabled()
    page.reload()
    expect(page.locator("#image-line")).to_have_text("No image yet.")
