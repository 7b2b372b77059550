"""A model folder appears whole or not at all, comes back as it was, and says which file was touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from MedicalSAM3Lib import atomic, model_folder
from MedicalSAM3Lib.architecture import from_config, full_size, read_json, to_config
from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.errors import OutputError, WeightsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import MODEL_FILES, load_model_folder, save_model_folder, verify_sums, write_sums
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.trained_on import TrainedOn
from Testing.lib.checkpoint_worlds import SIDE, small_model

PREPROCESS = {"image_size": SIDE, "crop": "body"}
PRESENCE: dict[str, Any] = {"default": {"temperature": 2.0}, "CT": {"threshold": 0.7}, "volume": {}}


def save(folder: Path, model: MedicalSam3, **changes: Any) -> Path:
    values = {"preprocess": PREPROCESS, "presence": PRESENCE, "card": "# Card", "dtype": "float32", **changes}
    save_model_folder(folder, model, resource("tokenizer"), **values)
    return folder


@pytest.fixture(scope="module")
def model() -> MedicalSam3:
    return small_model()


@pytest.fixture(scope="module")
def original(model: MedicalSam3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "small", model)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "small"))


def test_everything_comes_back(original: Path, model: MedicalSam3) -> None:
    loaded = load_model_folder(original)
    assert loaded.model.has_tracker
    assert not loaded.model.training
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    assert loaded.preprocess.crop == "body"
    assert loaded.presence.default.temperature == 2.0
    assert loaded.presence.slice_calibration("CT").threshold == 0.7
    assert (loaded.name, loaded.is_demonstration, loaded.notice) == ("small", False, "")
    assert loaded.card.read_text(encoding="utf-8") == "# Card"
    assert loaded.weights_hash == model_folder.sha256_of(original / "model.safetensors")
    assert loaded.tokenizer.encode(["liver"])[0].shape == (1, 32)


def test_half_precision_is_loaded_as_single(model: MedicalSam3, tmp_path: Path) -> None:
    loaded = load_model_folder(save(tmp_path / "half", model, dtype="float16"))
    state = model.state_dict()
    for key, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].half().float())


def test_trained_phrases_come_back_and_change_no_weight(original: Path, model: MedicalSam3, tmp_path: Path) -> None:
    loaded = load_model_folder(save(tmp_path / "x", model, phrases={"liver": ("hepar", "liver")}))
    assert loaded.phrases == {"liver": ["hepar", "liver"]}
    before = load_model_folder(original)
    assert before.phrases == {}
    assert loaded.weights_hash == model_folder.sha256_of(tmp_path / "x" / "model.safetensors")


def test_kinds_of_images_come_back(original: Path, model: MedicalSam3, tmp_path: Path) -> None:
    kinds = TrainedOn(("CT", "MR"), (2,))
    assert load_model_folder(save(tmp_path / "x", model, trained_on=kinds)).trained_on == kinds
    assert load_model_folder(original).trained_on == TrainedOn()
    assert load_model_folder(resource("models/tiny")).trained_on == kinds


@pytest.mark.parametrize("recorded", [["CT"], {"modalities": "CT"}, {"modalities": [1]}, {"axes": [3]}, {"kinds": []}])
def test_damaged_kinds_of_images_are_refused(folder: Path, recorded: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["medical_sam3"]["trained_on"] = recorded
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_sums(folder)
    with pytest.raises(WeightsError, match="modalities and axes as trained_on"):
        load_model_folder(folder)


@pytest.mark.parametrize("recorded", [["liver"], {"liver": []}, {"liver": "liver"}, {"liver": [""]}, {"liver": [3]}])
def test_damaged_phrases_are_refused(folder: Path, recorded: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["medical_sam3"]["phrases"] = recorded
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model_folder.write_sums(folder)
    with pytest.raises(WeightsError, match="lists of phrases by concept"):
        load_model_folder(folder)


def test_the_bundled_model_tells_its_41_concepts() -> None:
    config = json.loads(resource("models", "tiny", "config.json").read_text(encoding="utf-8"))
    phrases = config["medical_sam3"]["phrases"]
    assert len(phrases) == 41
    names = {concept.concept_id: concept.name for concept in load_concepts()}
    assert {concept: asked[0] for concept, asked in phrases.items()} == {concept: names[concept] for concept in phrases}


def test_a_demonstration_model_says_so(model: MedicalSam3, tmp_path: Path) -> None:
    loaded = load_model_folder(save(tmp_path / "x", model, name="tiny", demonstration_notice="A demonstration."))
    assert (loaded.name, loaded.is_demonstration, loaded.notice) == ("tiny", True, "A demonstration.")


def test_an_older_folder_is_replaced_and_nothing_else_is_left(model: MedicalSam3, tmp_path: Path) -> None:
    folder = save(tmp_path / "small", model)
    (folder / "old.txt").write_text("old", encoding="utf-8")
    save(folder, model, card="# New")
    assert {path.name for path in folder.iterdir()} == {*MODEL_FILES, "SHA256SUMS"}
    assert load_model_folder(folder).card.read_text(encoding="utf-8") == "# New"
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_failed_save_leaves_the_older_folder_as_it_was(folder: Path, tmp_path: Path) -> None:
    spoilt = small_model()
    with torch.no_grad():
        spoilt.detector_model.text_projection.bias[0] = 1e6  # more than half precision holds
    with pytest.raises(WeightsError, match=r"finite weights in float16, 'detector_model\.text_projection\.bias'"):
        save(folder, spoilt, dtype="float16")
    assert load_model_folder(folder).name == "small"
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_failed_swap_puts_the_older_folder_back(
    folder: Path, model: MedicalSam3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = atomic.os.replace

    def fails_for_the_new(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(5, "No")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", fails_for_the_new)
    with pytest.raises(OutputError, match="Expected to write the model folder 'small', but no; "):
        save(folder, model)
    verify_sums(folder)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(WeightsError, match=f"{name} of 'small' was changed or damaged"):
        load_model_folder(folder)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"Expected {name} in 'small', it is missing"):
        load_model_folder(folder)


def test_an_unlisted_file_is_named(folder: Path) -> None:
    sums = folder / "SHA256SUMS"
    kept = [line for line in sums.read_text(encoding="utf-8").splitlines(True) if "config.json" not in line]
    sums.write_text("".join(kept), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"config\.json in SHA256SUMS of 'small', it is not listed"):
        load_model_folder(folder)


def test_a_folder_without_sums_is_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has none"):
        load_model_folder(tmp_path)


def edit(folder: Path, name: str, change: dict[str, Any]) -> None:
    content = read_json(folder / name) | change
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    write_sums(folder)


def test_a_wrong_value_in_a_specification_is_named(folder: Path) -> None:
    edit(folder, "presence.json", {"default": {"temperature": -1}})
    with pytest.raises(WeightsError, match=r"PresenceSpec of 'small': default\.temperature"):
        load_model_folder(folder)


def test_two_image_sizes_are_refused(folder: Path) -> None:
    edit(folder, "preprocess.json", {"image_size": 64})
    with pytest.raises(WeightsError, match="differ in image size: 64 and 56"):
        load_model_folder(folder)


def test_weights_of_other_sizes_are_refused(folder: Path) -> None:
    config = read_json(folder / "config.json")
    config["detector_config"]["detr_decoder_config"]["num_queries"] = 7
    edit(folder, "config.json", config)
    with pytest.raises(WeightsError, match="wrong shape in 2"):
        load_model_folder(folder)


@pytest.mark.parametrize(
    ("part", "change"),
    [("text_config", {"num_attention_heads": 3}), ("mask_decoder_config", {"hidden_size": 12})],
)
def test_sizes_that_do_not_fit_together_are_refused(folder: Path, part: str, change: dict[str, int]) -> None:
    config = read_json(folder / "config.json")
    config["detector_config"][part] |= change
    edit(folder, "config.json", config)
    with pytest.raises(WeightsError, match=r"Expected sizes of .*config\.json.*, got: .*(heads|divisible)") as raised:
        load_model_folder(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", "JSON object"), ("{", "cannot be read"), ('{"model_type": "sam3_video", "detector_config": 7}', "sizes")],
)
def test_a_config_of_something_else_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    write_sums(folder)
    with pytest.raises(WeightsError, match=message):
        load_model_folder(folder)


@pytest.mark.parametrize("tracker", [True, False])
def test_config_of_the_full_size_comes_back(tracker: bool) -> None:
    original = full_size(tracker)
    content = json.loads(json.dumps(to_config(original)))
    back = from_config(content)
    assert content["model_type"] == ("sam3_video" if tracker else "sam3")
    assert content.get("low_res_mask_size", 288) == 288
    assert {**back.detector.to_dict(), "architectures": None} == original.detector.to_dict()
    assert (back.tracker is not None) == tracker
    if back.tracker is not None and original.tracker is not None:
        assert back.tracker.to_dict() == original.tracker.to_dict()


def test_transformers_loads_the_folder(original: Path, model: MedicalSam3) -> None:
    from transformers import Sam3VideoModel

    theirs, report = Sam3VideoModel.from_pretrained(original, output_loading_info=True)
    assert not any(report.values())
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())
