"""Dense warm start: its loss by hand, the network it starts from, and that it is done once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from Testing.training.data_world import SPEC, labelled, write_world
from Testing.training.tiny_world import ARCHITECTURE, SIDE, tiny_config, tiny_model
from Training.config import TrainConfig
from Training.data import TrainingData
from Training.distributed import Ranks
from Training.network import make_architecture
from Training.warmstart import bring_levels_to_unit_size, dense_loss, initialise, warm_start_once

ALL, NONE = torch.tensor([[True, True]]), torch.tensor([[False, False]])


def allowed(known: Tensor) -> Tensor:
    """What a pixel without a label may be: background, and whatever nobody labelled."""
    return torch.cat([torch.ones(len(known), 1, dtype=torch.bool), ~known], 1)


def two_pixels(background: list[float], one: list[float], other: list[float]) -> Tensor:
    """Logits ``(1, 3, 1, 2)`` of background and two classes."""
    return torch.tensor([background, one, other]).float()[None, :, None]


def test_perfect_logits_cost_nothing() -> None:
    target = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 60.0
    known = ALL.expand(2, 2)
    assert float(dense_loss(logits, target, allowed(known), known)) == pytest.approx(0.0, abs=1e-6)


def test_two_pixels_by_hand() -> None:
    """Pixel 1 is of class 1, pixel 2 of none; at equal logits each class has a third."""
    logits, target = two_pixels([0, 0], [0, 0], [0, 0]), torch.tensor([[[1, 0]]])
    dice = 1 - (2 * (1 / 3) + 1) / (2 / 3 + 1 + 1)
    assert float(dense_loss(logits, target, allowed(ALL), ALL)) == pytest.approx(math.log(3) + dice, abs=1e-6)
    only_one = torch.tensor([[True, False]])
    # Class 2 was not labelled: pixel 2 may be it, so two of three thirds are right there.
    entropy = (math.log(3) + math.log(3 / 2)) / 2
    assert float(dense_loss(logits, target, allowed(only_one), only_one)) == pytest.approx(entropy + dice, abs=1e-6)


def test_an_unlabelled_class_costs_nothing_on_background() -> None:
    target = torch.zeros(1, 1, 2, dtype=torch.int64)
    sure_of_class_2 = two_pixels([-30, -30], [-30, -30], [30, 30])
    only_one = torch.tensor([[True, False]])
    assert float(dense_loss(sure_of_class_2, target, allowed(only_one), only_one)) == pytest.approx(0.0, abs=1e-6)
    assert float(dense_loss(sure_of_class_2, target, allowed(ALL), ALL)) == pytest.approx(60.0, abs=1e-3)


def test_a_slice_of_which_nothing_is_known_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = dense_loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64), allowed(NONE), NONE)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-7


def test_a_known_class_that_is_not_on_the_slice_has_no_dice() -> None:
    logits, target = two_pixels([0, 0], [0, 0], [0, 0]), torch.zeros(1, 1, 2, dtype=torch.int64)
    assert float(dense_loss(logits, target, allowed(ALL), ALL)) == pytest.approx(math.log(3), abs=1e-6)


def test_logits_are_compared_at_the_size_of_the_labels() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[:, :, 4:] = 1
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0, :, 0] = logits[:, 1, :, 1] = 40.0
    coarse = float(dense_loss(logits, target, allowed(ALL), ALL))
    mirrored = float(dense_loss(logits.flip(-1), target, allowed(ALL), ALL))
    assert coarse < 0.5 < 10 < mirrored


def fresh() -> MedicalSam3:
    torch.manual_seed(0)
    model = MedicalSam3(make_architecture(ARCHITECTURE))
    initialise(model)
    return model


def test_a_new_network_can_be_seen_through() -> None:
    torch.manual_seed(0)
    plain, model = MedicalSam3(make_architecture(ARCHITECTURE)), fresh()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = plain.pyramid(plain.encode_trunk(images)).levels[0].std()
        after = model.pyramid(model.encode_trunk(images)).levels[0].std()
    assert float(before) < 0.1 < 0.3 < float(after)
    detector = model.detector_model
    assert detector.detr_decoder.query_embed.weight.std().item() == pytest.approx(1.0, abs=0.3)
    assert detector.text_encoder.get_input_embeddings().weight.std().item() == pytest.approx(0.5, abs=0.05)
    assert not detector.detr_decoder.box_head.layer3.weight.any()
    assert detector.mask_decoder.semantic_projection.bias.item() == -2.0


def test_levels_get_a_deviation_of_one_and_change_in_nothing_else() -> None:
    model = fresh()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for layer in model.detector_model.vision_encoder.neck.fpn_layers:
            layer.proj2.bias.normal_()
        before = model.pyramid(model.encode_trunk(images)).levels
        bring_levels_to_unit_size(model, images)
        after = model.pyramid(model.encode_trunk(images)).levels
    for old, new in zip(before, after, strict=True):
        assert float(old.std()) > 1.2
        torch.testing.assert_close(new, old / old.std(), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    path = write_world(tmp_path_factory.mktemp("world"), [labelled()])
    return TrainingData.load(settings("unused", manifest=str(path)).data)


def settings(out: object, *, steps: int = 3, manifest: str = "unused") -> TrainConfig:
    preprocess = SPEC.model_copy(update={"image_size": SIDE}).model_dump()
    return tiny_config(
        out,
        data={"manifest": manifest, "preprocess": preprocess},
        warm_start={"steps": steps, "batch_slices": 2, "lr": 3e-3},
    )


def warm(out: Path, model: MedicalSam3, data: TrainingData, steps: int = 3) -> list[float]:
    losses: list[float] = []
    ranks = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    config = settings(out, steps=steps, manifest=data.config.manifest)
    warm_start_once(out, model, data, config, ranks, lambda step, loss: losses.append(loss))
    return losses


def test_the_warm_start_learns_and_leaves_everything_but_trunk_and_neck_alone(
    tmp_path: Path, data: TrainingData
) -> None:
    model = fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = warm(tmp_path, model, data, steps=24)
    assert len(losses) == 24
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("vision_encoder" in name for name in changed)


def test_it_is_done_once_for_a_run_and_the_same_again(tmp_path: Path, data: TrainingData) -> None:
    second, first = tiny_model(seed=9), fresh()
    assert len(warm(tmp_path, first, data)) == 3
    assert warm(tmp_path, second, data) == []
    assert [path.name for path in tmp_path.iterdir()] == ["warm_start.safetensors"]
    (tmp_path / "again").mkdir()
    third = fresh()  # dropout draws from where the new weights ended
    warm(tmp_path / "again", third, data)
    for one, other, again in zip(
        first.state_dict().values(), second.state_dict().values(), third.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
        assert torch.equal(one, again)


def test_the_result_of_other_settings_is_refused(tmp_path: Path, data: TrainingData) -> None:
    warm(tmp_path, fresh(), data)
    with pytest.raises(SettingsError, match=r"warm_start\.safetensors of the same settings, got another one"):
        warm(tmp_path, fresh(), data, steps=4)
    with safe_open(tmp_path / "warm_start.safetensors", "pt") as file:
        assert '"steps":3' in file.metadata()["config"]
