"""Parts of the network: together they are all of it, and each stage does with its own alone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from MedicalSAM3Lib import views
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.model import MedicalSam3, Pyramid, TextFeatures
from MedicalSAM3Lib.offload import Part, parts_of, place_for
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.tracker_steps import Recalled, follow, look, memorise, take_mask
from Testing.lib.checkpoint_worlds import SIDE, small_architecture

META = torch.device("meta")
"""Plays the device where the other parts are: nothing there can be read."""


@pytest.fixture(scope="module")
def net() -> MedicalSam3:
    torch.manual_seed(0)
    return small_architecture().build().eval()


def test_every_weight_is_in_one_part(net: MedicalSam3) -> None:
    held = [id(t) for part in parts_of(net).values() for m in part for t in (*m.parameters(), *m.buffers())]
    everything = [id(tensor) for tensor in (*net.parameters(), *net.buffers())]
    assert len(held) == len(set(held))
    assert set(held) == set(everything)


def test_a_detector_alone_has_no_tracker_to_place() -> None:
    from Testing.lib.test_detector import small_sam3

    assert parts_of(small_sam3())["tracker"] == []


def text(net: MedicalSam3) -> TextFeatures:
    ids = torch.arange(8)[None]
    return net.encode_text(ids, torch.ones_like(ids))


def detection(net: MedicalSam3) -> tuple[torch.Tensor, ...]:
    grid = net.grid_size
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, grid**2, net.config.vision_config.backbone_config.hidden_size, generator=generator)
    pyramid: Pyramid = net.pyramid(tokens)
    words = torch.randn(1, 3, pyramid.levels[0].shape[1], generator=generator)
    slices = net.share(pyramid)
    queries = net.decode_queries(slices, TextFeatures(words, torch.ones(1, 3, dtype=torch.bool)))
    masks = net.decode_masks(slices, queries)
    return queries.presence, masks.instances(0), masks.semantic


def tracking(net: MedicalSam3) -> tuple[torch.Tensor, ...]:
    grid = net.grid_size
    tokens = torch.randn(
        1, grid**2, net.config.vision_config.backbone_config.hidden_size, generator=torch.Generator().manual_seed(1)
    )
    image = look(net, tokens)
    seed = take_mask(net, image, (torch.arange(SIDE) < SIDE // 2).float().expand(1, SIDE, SIDE))
    step = torch.zeros(1, 1, dtype=torch.int64)
    recalled = Recalled(memorise(net, image, seed)[:, None], step, seed.pointers[:, None], step, 16)
    answer = follow(net, image, recalled)
    return answer.logits, answer.here


STAGES: dict[Part, Any] = {
    "trunk": lambda net: (net.encode_trunk(torch.linspace(-1, 1, 3 * SIDE**2).reshape(1, 3, SIDE, SIDE)),),
    "text": lambda net: (text(net).tokens,),
    "detector": detection,
    "tracker": tracking,
}


@pytest.mark.parametrize("part", STAGES)
def test_a_stage_needs_its_own_part_only(part: Part, net: MedicalSam3) -> None:
    alone = deepcopy(net)
    for name, modules in parts_of(alone).items():
        for module in modules if name != part else []:
            module.to(META)
    with torch.inference_mode():
        for one, other in zip(STAGES[part](alone), STAGES[part](net), strict=True):
            assert torch.equal(one, other)


def test_a_run_places_each_part_when_its_stage_comes_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from Testing.lib.test_tracking import rod, small_loaded

    placed: list[str] = []

    def place(part: Part, net: MedicalSam3, runtime: Runtime) -> None:
        placed.append(part)
        place_for(part, net, replace(runtime, is_offloaded=True))

    settings = make_settings(mode="fuse", speed="exact", device="cpu")
    plain = segment(rod()[0], ["liver"], small_loaded(small_architecture()), settings)
    monkeypatch.setattr(views, "place_for", place)
    offloaded = segment(rod()[0], ["liver"], small_loaded(small_architecture()), settings)
    assert placed == ["trunk", "text", "detector", "tracker"]
    assert offloaded.findings == plain.findings
    assert all((one == other).all() for one, other in zip(offloaded.layers, plain.layers, strict=True))


def test_only_where_memory_is_scarce_the_other_parts_wait(net: MedicalSam3, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = deepcopy(net)
    place_for("text", moved, Runtime(META, torch.float32))
    assert {weight.device for weight in moved.parameters()} == {META}
    scarce = deepcopy(net)
    released: list[Runtime] = []
    monkeypatch.setattr(Runtime, "release", lambda self: released.append(self))
    place_for("text", scarce, Runtime(META, torch.float32, is_offloaded=True))
    where = {
        name: {w.device.type for m in modules for w in m.parameters()} for name, modules in parts_of(scarce).items()
    }
    assert where == {"trunk": {"cpu"}, "text": {"meta"}, "detector": {"cpu"}, "tracker": {"cpu"}}
    assert len(released) == 1  # what went away is given back before the next part comes
