"""One configuration: read, overridden, refused, and every key of it used."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from MedicalSAM3Lib.errors import SettingsError
from Training.config import MODULES, TrainConfig, load_config, make_config
from Training.optim import MODULE_PREFIXES

TRAINING = Path(__file__).parents[2] / "Training"

MINIMAL = """
model: {start_from: somewhere}
data: {manifest: rows.parquet}
run: {out: runs/x, steps: 10}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


def test_overrides_replace_values_of_the_file(recipe: Path) -> None:
    config = load_config(recipe, ["optim.lr=1e-4", "run.steps=20", "optim.module_lr.trunk=2e-5", "losses.many=0"])
    assert config.optim.lr == 1e-4
    assert config.run.steps == 20
    assert config.optim.module_lr == {"trunk": 2e-5}
    assert config.losses.many == 0


def test_a_saved_configuration_gives_the_same_one(recipe: Path) -> None:
    config = load_config(recipe)
    assert make_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "optim.learning_rate"),
        ("nonsense=1", "nonsense"),
        ("optim.lr=-1", "optim.lr"),
        ("optim.module_lr.nose=1e-4", "module_lr.nose"),
        ("optim.module_lr.trunk=0", "module_lr.trunk"),
        ("run.precision=fp16", "run.precision"),
        ("run.epochs=3", "either steps or epochs"),
        ("run.steps=null", "either steps or epochs"),
        ("model.start_from=''", "either start_from or architecture"),
        ("model.tokenizer=somewhere", "no tokenizer"),
        ("optim.lr", "optim.lr=1e-4"),
        ("=3", "write key=value"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(recipe, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "model: [", "a: 1\na: 2", "- just\n- a list"])
def test_an_unreadable_file_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "broken.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_the_configuration_cannot_be_changed(recipe: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(recipe).run.steps = 3


def test_every_key_is_read_by_some_module() -> None:
    read = {
        node.attr
        for path in TRAINING.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert sorted(_leaf_keys(TrainConfig) - read) == []


def _leaf_keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        kinds: list[Any] = [field.annotation, *get_args(field.annotation)]
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        ours = [kind for kind in nested if kind.__module__.startswith("Training.")]
        keys |= set().union({name}, *map(_leaf_keys, ours))
    return keys


def test_modules_of_the_settings_are_those_of_the_optimiser() -> None:
    assert set(MODULES) == set(MODULE_PREFIXES)


def test_the_recipe_of_the_paper_has_the_numbers_of_the_paper() -> None:
    config = load_config(TRAINING / "recipes" / "medical_sam3.yaml")
    rates = config.optim.module_lr
    assert rates["decoder"] == rates["masks"] == rates["scoring"] == 3e-4
    assert rates["trunk"] == rates["text"] == 5e-5
    assert rates["geometry"] == 1e-4
    assert (config.optim.layer_decay, config.optim.layer_groups) == (0.85, 12)
    assert config.data.preprocess.image_size == 1008
    assert config.run.seed == 42
    assert config.run.validate_every > 0
    assert config.optim.betas == (0.9, 0.999)
    assert config.run.epochs == 10
    losses = config.losses
    assert (losses.hungarian.classification, losses.hungarian.l1, losses.hungarian.giou) == (2, 5, 2)
    assert (losses.hungarian.alpha, losses.hungarian.gamma) == (0.25, 2)
    assert (losses.many_matcher.topk, losses.many_matcher.threshold, losses.many_matcher.alpha) == (4, 0.4, 0.3)
    assert (losses.many, losses.classification, losses.presence, losses.positive_weight) == (2, 20, 20, 10)
    assert (losses.quality_alpha, losses.negative_gamma, losses.padded_queries) == (0.25, 2, 200)
    assert (losses.box_l1, losses.box_giou) == (5, 2)
    assert (losses.semantic_alpha, losses.semantic_gamma) == (0.6, 2)
    assert (losses.semantic_focal, losses.semantic_dice, losses.semantic_presence) == (20, 30, 1)
    assert (losses.mask_focal, losses.mask_dice) == (0, 0)
