"""The page for everybody: by keyboard alone, with a name for everything, readable in light and dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from Testing.server.fake_server import World

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'medical-sam3[dev]'")
from playwright.sync_api import Page, expect

from Testing.server.page_driver import (
    ORIENTED,
    ask,
    open_block,
    wait_for_end,
)


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
