"""A student that comes to say what its teacher says, and a teacher that is never touched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib.errors import SettingsError
from Testing.training.tiny_world import FakeTokenizer, SquareSource, tiny_config, tiny_model, without_dropout
from Training.collate import Batch, LabelState
from Training.config import make_config
from Training.distil import DistilConfig, Teacher, load_teacher
from Training.step import Phrases, TrainStep, encode_phrases, freeze_idle
from Training.targets import global_counts


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def teacher(*, unknown: bool = False, seed: int = 5) -> Teacher:
    return Teacher(without_dropout(tiny_model(seed)), DistilConfig(teacher="here", weight=2.0, unknown=unknown))


def asked(step: int = 0) -> tuple[Batch, Phrases]:
    batch = SquareSource().batch(step)
    return batch, encode_phrases(batch.phrases, FakeTokenizer())  # type: ignore[arg-type]


def student(who: Teacher | None, **losses: float) -> TrainStep:
    config = tiny_config("unused", losses={"mask_focal": 1.0, "mask_dice": 1.0, **losses})
    model = without_dropout(tiny_model())
    freeze_idle(model, config.losses)
    return TrainStep(model, config.losses, autocast=False, teacher=who)


def of_teacher(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: term for name, term in terms.items() if name.startswith("distil_")}


def test_the_student_comes_nearer_to_the_teacher_who_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("Training.distil.FOUND", 0.3)
    who = teacher(unknown=True)
    before = {name: tensor.clone() for name, tensor in who.model.state_dict().items()}
    step, (batch, phrases) = student(who), asked()
    assert not [name for name, _ in step.named_parameters() if "teacher" in name]
    assert {id(p) for p in step.parameters()}.isdisjoint(id(p) for p in who.model.parameters())
    adamw = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=3e-3)
    losses: list[dict[str, float]] = []
    for _ in range(25):
        terms = of_teacher(step(batch, phrases))
        loss = torch.stack(list(terms.values())).sum()
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append({name: float(term.detach()) for name, term in terms.items()})
    assert set(terms) == {"distil_presence", "distil_map", "distil_box", "distil_score", "distil_mask"}
    assert min(losses[0].values()) > 0  # each has something to say
    for name in ("distil_presence", "distil_map", "distil_box", "distil_mask"):
        assert losses[-1][name] < 0.8 * losses[0][name], name
    assert sum(losses[-1].values()) < 0.6 * sum(losses[0].values())
    assert all(p.grad is None and not p.requires_grad for p in who.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in who.model.state_dict().items())
    assert not who.model.training


def test_a_student_that_is_its_teacher_has_nothing_to_learn_of_presence_and_map() -> None:
    who, (batch, phrases) = teacher(unknown=True, seed=0), asked()
    terms = of_teacher(student(who)(batch, phrases))
    assert float(terms["distil_presence"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(terms["distil_map"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(terms["distil_box"].detach()) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("unknown", [False, True])
def test_unknown_pairs_are_taught_only_where_asked(unknown: bool) -> None:
    batch, phrases = asked()
    unknown_pairs = batch.states == LabelState.UNKNOWN
    assert unknown_pairs.any()
    assert not unknown_pairs.all()
    seen: list[Tensor] = []
    step = student(teacher(unknown=unknown))
    step.model.detector_model.detr_decoder.presence_head.register_forward_hook(
        lambda _, __, output: seen.append(output) if output.requires_grad and not output.retain_grad() else None
    )
    torch.stack(list(of_teacher(step(batch, phrases)).values())).sum().backward()
    gradient = seen[-1].grad
    assert gradient is not None
    taught = gradient.flatten(1).abs().sum(1) > 0
    assert taught[~unknown_pairs].all()
    assert bool(taught[unknown_pairs].all()) is unknown
    assert bool(taught[unknown_pairs].any()) is unknown


def test_the_objects_of_the_teacher_are_those_of_the_pairs_that_it_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("Training.distil.FOUND", 0.0)
    batch, phrases = asked()
    words = phrases.input_ids, phrases.attention_mask, phrases.pair_phrase
    known = teacher().say(batch, *words, masks=True)
    every = teacher(unknown=True).say(batch, *words, masks=True)
    unknown_pairs = np.flatnonzero(batch.states == LabelState.UNKNOWN)
    assert not np.isin(known.object_pair, unknown_pairs).any()
    assert np.isin(unknown_pairs, every.object_pair).all()
    assert (np.diff(every.object_pair) >= 0).all()
    assert every.masks is not None
    assert len(every.masks) == len(every.boxes_cxcywh) == len(every.scores) == len(every.object_pair)


def test_parts_of_a_batch_add_up_and_without_objects_all_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = asked()
    step, counts = student(teacher()), global_counts(batch)
    whole = of_teacher(step(batch, encode_phrases(batch.phrases, FakeTokenizer())))  # type: ignore[arg-type]
    parts = [
        of_teacher(step(part, encode_phrases(part.phrases, FakeTokenizer()), counts))  # type: ignore[arg-type]
        for part in batch.split(2)
    ]
    for name, term in whole.items():
        assert float(sum(part[name].detach() for part in parts)) == pytest.approx(float(term.detach()), rel=1e-4)
    monkeypatch.setattr("Training.distil.FOUND", 2.0)
    nothing = of_teacher(step(*asked()))
    assert float(nothing["distil_box"].detach()) == float(nothing["distil_mask"].detach()) == 0.0
    torch.stack(list(nothing.values())).sum().backward()


def test_without_a_teacher_no_term_is_added(tmp_path: Path) -> None:
    assert of_teacher(student(None)(*asked())) == {}
    assert load_teacher(DistilConfig(), FakeTokenizer(), torch.device("cpu")) is None  # type: ignore[arg-type]


def test_a_teacher_that_reads_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(FakeTokenizer):
        def encode(self, phrases: list[str]) -> tuple[Tensor, Tensor]:
            ids, mask = super().encode(phrases)
            return ids + 1, mask

    for tokenizer in (Other(), FakeTokenizer()):
        loaded = SimpleNamespace(model=tiny_model(1), tokenizer=tokenizer)
        monkeypatch.setattr("MedicalSAM3Lib.registry.load_model", lambda *_, loaded=loaded, **__: loaded)
        if isinstance(tokenizer, Other):
            with pytest.raises(SettingsError, match=r"distil\.teacher: expected the tokenizer"):
                load_teacher(DistilConfig(teacher="big"), FakeTokenizer(), torch.device("cpu"))  # type: ignore[arg-type]
        else:
            found = load_teacher(DistilConfig(teacher="big"), FakeTokenizer(), torch.device("cpu"))  # type: ignore[arg-type]
            assert found is not None
            assert found.model is loaded.model


def test_what_a_teacher_does_not_go_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"distil\.teacher: expected a detector that learns"):
        tiny_config(tmp_path, distil={"teacher": "big"}, losses={"detector": False})
    with pytest.raises(SettingsError, match=r"distil\.weight"):
        make_config({**tiny_config(tmp_path).model_dump(), "distil": {"weight": 0.0}})
