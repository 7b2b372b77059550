"""From the checkpoint of a run to a model folder, its card and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from MedicalSAM3Lib.errors import InputError, WeightsError
from MedicalSAM3Lib.model_folder import load_model_folder, verify_sums
from MedicalSAM3Lib.presence import PresenceSpec
from MedicalSAM3Lib.trained_on import TrainedOn
from Testing.lib.small_world import small_config
from Testing.training.data_world import SPEC, labelled, write_world
from Training import publish, train
from Training.adapters.labelled import LabelledVolume
from Training.calibrate import ask_presence
from Training.card import make_card
from Training.card_words import is_demonstration, notice_of
from Training.checkpoints import Meta
from Training.config import ModelConfig, TrainConfig, WarmStartConfig, make_config
from Training.data import TrainingData
from Training.manifest import Manifest, read_manifest, write_manifest
from Training.publish import best_checkpoint, examine, load_network
from Training.scoring import Overlap, Rejections, Scores

SIDE = 56
SPLITS = ["train"] * 6 + ["val"] * 4 + ["test"] * 2


def demo(volume_id: str = "ct", **changes: Any) -> LabelledVolume:
    """Boxes that say they are of the demo's data."""
    return labelled(volume_id, dataset="slicerio", **changes)


def settings(manifest: Path, out: Path) -> dict[str, Any]:
    """A run of two steps of a network of a few thousand weights with the real vocabulary."""
    architecture = {key: value for key, value in small_config().items() if key != "model_type"}
    return {
        "model": {"architecture": architecture},
        "data": {
            "manifest": str(manifest),
            "batch_slices": 2,
            "preprocess": SPEC.model_copy(update={"image_size": SIDE}).model_dump(mode="json"),
        },
        "warm_start": {"steps": 2, "batch_slices": 2},
        "losses": {"mask_focal": 200.0, "mask_dice": 10.0},
        "run": {
            "out": str(out), "steps": 2, "precision": "fp32", "device": "cpu", "validate_every": 1, "seed": 7
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with an unseen patient, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("published")
    volumes = [demo(splits=SPLITS), demo("other", splits=["unseen"] * 12)]
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings(write_world(folder, volumes), folder / "run")))
    assert train.main(["--config", str(config)]) == 0
    return folder


def config_of(world: Path) -> TrainConfig:
    return make_config(settings(world / "manifest.parquet", world / "run"))


def meta(step: int = 2, world_size: int = 2) -> Meta:
    return Meta(step, 0.5, 0, world_size, "0" * 64, {}, {})


def test_a_run_becomes_a_model_folder_with_its_card_and_scores(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = world / "model"
    assert publish.main(["--run", str(world / "run"), "--out", str(out)]) == 0
    loaded = load_model_folder(out)
    assert loaded.is_demonstration
    assert loaded.notice == "Demonstration model, trained on one volume: not for any medical use."
    assert loaded.preprocess == config_of(world).data.preprocess
    assert loaded.phrases["liver"][0] == "liver"
    assert "spleen" not in loaded.phrases  # no training slice shows it
    assert loaded.trained_on == TrainedOn(("CT",), (2,))
    presence = loaded.presence
    assert presence.volume.run_mm == publish.RUN_MM
    assert presence.volume.threshold >= presence.default.threshold
    assert presence.default.temperature > 0
    card = loaded.card.read_text(encoding="utf-8")
    assert "Not for any medical use" in card
    assert card in capsys.readouterr().out
    scores = json.loads((world / "run" / "scores.json").read_text(encoding="utf-8"))
    assert set(scores) == {"held_out", "unseen"}
    # Test slices hold the spleen and the kidneys; absent there: liver and bladder. The unseen one has it all.
    assert scores["held_out"]["absent_asked"] == 4
    assert scores["held_out"]["nonsense_asked"] == 2 * scores["unseen"]["nonsense_asked"]
    assert len(scores["unseen"]["dice"]) == 5
    assert not [path.name for path in world.rglob(".*")]


def test_a_published_folder_is_examined_again_and_keeps_its_weights(world: Path) -> None:
    out = world / "again"
    publish.publish(world / "run", out)
    weights, card = (out / "model.safetensors").read_bytes(), (out / "README.md").read_text(encoding="utf-8")
    (world / "run" / "scores.json").unlink()
    assert publish.main(["--run", str(world / "run"), "--out", str(out), "--again"]) == 0
    assert (out / "README.md").read_text(encoding="utf-8") == card
    assert (out / "model.safetensors").read_bytes() == weights
    assert load_model_folder(out).presence == verified_presence(out)
    assert (world / "run" / "scores.json").is_file()


def verified_presence(folder: Path) -> PresenceSpec:
    verify_sums(folder)
    return PresenceSpec.model_validate_json((folder / "presence.json").read_text(encoding="utf-8"))


def test_the_weights_are_those_of_the_best_checkpoint(world: Path) -> None:
    folder = best_checkpoint(world / "run")
    assert folder.name == (world / "run" / "checkpoints" / "best").read_text().strip()
    model, _ = load_network(config_of(world), folder)
    assert not model.training
    with pytest.raises(WeightsError):
        load_network(config_of(world), world)


def test_presence_is_asked_of_validation_pairs_and_of_nonsense(world: Path) -> None:
    config = config_of(world)
    model, tokenizer = load_network(config, best_checkpoint(world / "run"))
    data = TrainingData.load(config.data)
    logits, truth, modality = ask_presence(model, tokenizer, data)
    # Four slices of six concepts, and two nonsense phrases each; spleen and kidneys are there.
    assert len(logits) == len(truth) == 4 * (6 + 2)
    assert set(modality.tolist()) == {"CT"}
    assert truth.sum() == 4 * 4
    assert np.isfinite(logits).all()
    again = ask_presence(model, tokenizer, data)
    assert np.array_equal(again.logits, logits)


def without(world: Path, folder: Path, split: str) -> TrainConfig:
    """The configuration with a manifest that lacks a split."""
    rows = read_manifest(world / "manifest.parquet").rows
    kept = [
        row.model_copy(update={"image": str(world / row.image), "mask": row.mask and str(world / row.mask)})
        for row in rows
        if row.split != split
    ]
    write_manifest(folder / "manifest.parquet", kept)
    return make_config(settings(folder / "manifest.parquet", folder))


def test_a_manifest_without_validation_is_refused(world: Path, tmp_path: Path) -> None:
    config = without(world, tmp_path, "val")
    model, tokenizer = load_network(config, best_checkpoint(world / "run"))
    with pytest.raises(InputError, match="split 'val' in the manifest, got none"):
        ask_presence(model, tokenizer, TrainingData.load(config.data))


def test_without_an_unseen_patient_the_card_says_what_was_not_examined(world: Path, tmp_path: Path) -> None:
    published = world / "plain"
    publish.publish(world / "run", published)
    card, numbers = examine(published, without(world, tmp_path, "unseen"), meta())
    assert "**Not examined: an unseen patient.**" in card
    assert "split 'test': no training step saw them" in card
    assert "| spleen | " in card
    assert numbers["unseen"]["dice"] == {}
    assert numbers["unseen"]["absent_asked"] == 0
    assert numbers["held_out"]["absent_asked"] == 4


def manifest_of(folder: Path, *volumes: LabelledVolume) -> Manifest:
    return read_manifest(write_world(folder, volumes))


def test_another_run_gets_a_notice_and_a_card_of_its_own(tmp_path: Path) -> None:
    splits = ["train"] * 8 + ["val"] * 4
    manifest = manifest_of(tmp_path, labelled(splits=splits), labelled("b", dataset="polyps", splits=splits))
    config = make_config(settings(tmp_path / "manifest.parquet", tmp_path))
    assert notice_of(config, manifest) == "From nothing, trained on two images of two data sets: for research only."
    tuned = config.model_copy(update={"model": ModelConfig(start_from=f"{tmp_path}/sam3")})
    assert notice_of(tuned, manifest).startswith("Fine-tuned from sam3, trained on two images")
    card, _ = make_card(tuned, meta(), manifest, held_out=Scores(), unseen=None, split="val")
    assert card.startswith("# Model trained with MedicalSAM3")
    assert "The licence of sam3" in card
    assert "**There is no split 'test'.**" in card
    for claim in ("pseudo-labels", "Demonstration", "no weights of another model", str(tmp_path)):
        assert claim not in card
    assert "no weights of another model" in make_card(
        config, meta(), manifest, held_out=Scores(), unseen=None
    )[0]  # fmt: skip


def test_only_the_demo_and_what_goes_on_from_it_is_a_demonstration(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, demo(splits=SPLITS))
    config = make_config(settings(tmp_path / "manifest.parquet", tmp_path))
    assert is_demonstration(config, manifest)
    later = config.model_copy(update={"model": ModelConfig(start_from=str(tmp_path))})
    assert not is_demonstration(later, manifest)
    (tmp_path / "README.md").write_text(make_card(config, meta(), manifest, held_out=Scores(), unseen=Scores())[0])
    assert is_demonstration(later, manifest)


def test_many_volumes_are_told_by_data_set(tmp_path: Path) -> None:
    rows = manifest_of(tmp_path, demo(splits=["train"] * 12)).rows
    many = [
        row.model_copy(update={"volume_id": f"v{n}", "patient": f"p{n % 5}"})
        for n in range(21) for row in rows if row.slice_index < 2
    ]  # fmt: skip
    config = make_config(settings(tmp_path / "manifest.parquet", tmp_path))
    card, _ = make_card(config, meta(), Manifest(tmp_path, tuple(many)), held_out=Scores(), unseen=None)
    assert "| slicerio | CT | slicerio | CC0-1.0 | 42 | 0 | 0 | 0 |" in card
    assert "they are of 5 people" in card


def test_a_folder_without_checkpoints_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main(["--run", str(tmp_path), "--out", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.startswith("Expected a run with checkpoints, got none in")
    assert not (tmp_path / "model").exists()


def hand_made() -> tuple[Scores, Scores]:
    held_out, unseen = Scores(), Scores()
    held_out.overlaps.update(
        liver=Overlap(90, 110, 80, 4), colon=Overlap(10, 10, 5, 2), left_kidney=Overlap(8, 8, 7, 1)
    )
    held_out.wrong, held_out.nonsense = Rejections(40, 39), Rejections(90, 90)
    unseen.overlaps.update(liver=Overlap(100, 100, 61, 1), gallbladder=Overlap(0, 20, 0, 1))
    unseen.wrong, unseen.nonsense = Rejections(7, 5), Rejections(18, 17)
    return held_out, unseen


def test_the_card_warns_and_says_every_number(tmp_path: Path) -> None:
    manifest = read_manifest(write_world(tmp_path, [demo(splits=SPLITS), demo("other", splits=["unseen"] * 12)]))
    config = make_config(settings(tmp_path / "manifest.parquet", tmp_path))
    held_out, unseen = hand_made()
    card, numbers = make_card(config, meta(step=1500), manifest, held_out=held_out, unseen=unseen)
    for warning in (
        "**Not for any medical use.**", "must not inform any decision", "pseudo-labels", "not drawn by a person",
        "*the same people*", "chose nothing", "counts 0",
    ):  # fmt: skip
        assert warning in card.replace("\n", " "), warning
    assert "| ct | CT | slicerio | CC0-1.0 | 6 | 4 | 2 | 0 |" in card
    assert "| other | CT | slicerio | CC0-1.0 | 0 | 0 | 0 | 12 |" in card
    assert "| liver | 0.80 | 0.61 |" in card
    assert "went on with other values" not in card
    assert "| gallbladder |  | 0.00 |" in card
    assert "| left kidney | 0.88 |  |" in card
    assert "| mean Dice, large organs, muscles and bones | 0.650 (n=2) | 0.610 (n=1) |" in card
    assert "| mean Dice, all concepts | 0.650 (n=2) | 0.305 (n=2) |" in card
    assert "| absent organs not found | 0.975 (n=40) | 0.714 (n=7) |" in card
    assert "| nonsense phrases not found | 1.000 (n=90) | 0.944 (n=18) |" in card
    # Two ranks of two slices.
    assert "2 steps of dense warm start (2 slices a step)" in card
    assert "1500 steps of the full objective (4 slices a step), seed 7." in card
    held: Any = numbers["held_out"]
    assert held["dice"] == {"colon": 0.5, "left_kidney": 0.875, "liver": 0.8}
    assert (held["dice_sided"], held["concepts_sided"]) == (0.875, 1)
    assert numbers["unseen"]["dice_sided"] is None
    assert "| mean Dice, one side of paired organs | 0.875 (n=1) | - |" in card
    assert "NaN" not in json.dumps(numbers)


def test_the_card_says_when_a_run_went_on_under_other_settings(world: Path) -> None:
    config = config_of(world)
    changed = config.model_copy(update={"run": config.run.model_copy(update={"allow_changed": ("optim.lr",)})})
    manifest = read_manifest(world / "manifest.parquet")
    card, _ = make_card(changed, meta(step=2), manifest, held_out=Scores(), unseen=Scores())
    assert "went on with other values of `optim.lr`" in card


def test_the_card_says_what_the_weights_had_been_through_before(world: Path) -> None:
    earlier = world / "earlier"
    earlier.mkdir()
    manifest = read_manifest(world / "manifest.parquet")

    def card_of(start_from: Path) -> str:
        config = config_of(world)
        model = config.model.model_copy(update={"start_from": str(start_from), "architecture": None})
        config = config.model_copy(update={"model": model, "warm_start": WarmStartConfig(steps=0)})
        return make_card(config, meta(step=9), manifest, held_out=Scores(), unseen=Scores())[0]

    assert "The run started from the weights of another model." in card_of(earlier)
    lines = "Trained for 5 steps, seed 1.", "The run started from the weights of another model."
    (earlier / "README.md").write_text("# Card\n\n" + "\n\n".join(lines) + "\n\nEnd.\n", encoding="utf-8")
    card = card_of(earlier)
    assert "Trained for 9 steps of the full objective (4 slices a step), seed 7." in card
    assert f"The run started from the weights of an earlier one. Of that: {' '.join(lines)}\n" in card
    assert str(world) not in card
