"""Encoded phrases on disk: the same bits with and without, and no fault of the disk ends a run."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from MedicalSAM3Lib import text_cache as module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import encode_text
from MedicalSAM3Lib.model import TextFeatures
from MedicalSAM3Lib.model_folder import LoadedModel, load_model_folder
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.text_cache import TextCache, text_cache
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres
from Testing.lib.small_world import save_small_model

CPU = torch.device("cpu")
EXACT = torch.float32
EXACT = Runtime(CPU, torch.float32)
HASH = "a" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, turned on, in a home of the test's own."""
    monkeypatch.setenv("MEDSAM3_HOME", str(tmp_path))
    monkeypatch.setenv("MEDSAM3_TEXT_CACHE", "1")
    return tmp_path / "cache" / "text"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model_folder(save_small_model(tmp_path_factory.mktemp("models") / "small"))


def encode(model: LoadedModel, *phrases: str, cache: TextCache | None = None) -> TextFeatures:
    return encode_text(model.model, *model.tokenizer.encode(phrases), EXACT, cache)


class Counted:
    """A cache that counts what it did not know."""

    def __init__(self, cache: TextCache) -> None:
        self._cache, self.missed = cache, 0

    def find(self, *phrase: torch.Tensor) -> torch.Tensor | None:
        found = self._cache.find(*phrase)
        self.missed += found is None
        return found

    def add(self, *phrase: torch.Tensor) -> None:
        self._cache.add(*phrase)


def test_the_same_bits_with_and_without_in_any_company(small):
    cache = Counted(text_cache(small.weights_hash, CPU, EXACT))
    fresh = encode(small, "liver", "left kidney", "urinary bladder")
    for _ in range(2):
        kept = encode(small, "liver", "left kidney", "urinary bladder", cache=cache)
        assert torch.equal(kept.tokens, fresh.tokens)
        assert torch.equal(kept.mask, fresh.mask)
    assert torch.equal(encode(small, "urinary bladder", "Liver", cache=cache).tokens, fresh.tokens[[2, 0]])
    assert cache.missed == 3


def test_the_pipeline_encodes_a_phrase_once(folder):
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)})
    model = fake_model({"one": (0.5, 1.5), "two": (0.4, 0.6)})
    for concepts, encoded in ((["one"], 1), (["one", "two"], 2), (["two", "one"], 2)):
        segment(volume, concepts, model, make_settings(device="cpu", speed="exact"))
        assert model.model.text_phrases == encoded
    assert len(list(folder.iterdir())) == 2
    segment(volume, ["one"], replace(model, weights_hash=""), make_settings(device="cpu", speed="exact"))
    assert model.model.text_phrases == 3


def test_the_switch_and_an_unknown_model_turn_it_off(monkeypatch):
    assert text_cache(HASH, CPU, EXACT) is not None
    assert text_cache("", CPU, EXACT) is None
    for off in ("0", ""):
        monkeypatch.setenv("MEDSAM3_TEXT_CACHE", off)
        assert text_cache(HASH, CPU, EXACT) is None


IDS, MASK = torch.tensor([5, 6, 7, 0]), torch.tensor([1, 1, 1, 0])
TOKENS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def test_an_entry_is_that_of_its_weights_ids_mask_and_machine(monkeypatch):
    text_cache(HASH, CPU, EXACT).add(IDS, MASK, TOKENS)
    assert torch.equal(text_cache(HASH, CPU, EXACT).find(IDS, MASK), TOKENS)
    assert text_cache("b" * 64, CPU, EXACT).find(IDS, MASK) is None
    assert text_cache(HASH, torch.device("mps"), EXACT).find(IDS, MASK) is None
    assert text_cache(HASH, CPU, EXACT).find(IDS.flip(0), MASK) is None
    assert text_cache(HASH, CPU, EXACT).find(IDS, torch.ones_like(MASK)) is None
    monkeypatch.setattr(module, "software_versions", lambda: {"torch": "another"})
    assert text_cache(HASH, CPU, EXACT).find(IDS, MASK) is None


def test_nothing_in_the_folder_names_a_phrase_and_nobody_else_may_look(small, folder):
    encode(small, "unicorn", cache=text_cache(small.weights_hash, CPU, EXACT))
    (file,) = folder.iterdir()
    assert "unicorn" not in file.name
    assert b"unicorn" not in file.read_bytes()
    if sys.platform != "win32":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "damage",
    ["empty", "cut", "flipped bit", "no file of this kind", "other key", "other format", "other shape", "no digest"],
)
def test_a_damaged_file_is_ignored_and_written_anew(damage, folder):
    cache = text_cache(HASH, CPU, EXACT)
    cache.add(IDS, MASK, TOKENS)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    replacements = {"other key": {"x": TOKENS}, "other format": {"tokens": TOKENS.half()},
                    "other shape": {"tokens": TOKENS[0].clone()}, "no digest": {"tokens": TOKENS}}  # fmt: skip
    if damage in replacements:
        (tensor,) = replacements[damage].values()
        digest = {"sha256": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()}
        save_file(replacements[damage], path, metadata=None if damage == "no digest" else digest)
    else:
        flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
        contents = {"empty": b"", "cut": whole[:-5], "flipped bit": flipped, "no file of this kind": b"x" * 999}
        path.write_bytes(contents[damage])
    assert cache.find(IDS, MASK) is None
    cache.add(IDS, MASK, TOKENS)
    assert path.read_bytes() == whole
    assert torch.equal(cache.find(IDS, MASK), TOKENS)


def test_what_was_read_does_not_hang_on_the_file(folder):
    cache = text_cache(HASH, CPU, EXACT)
    cache.add(IDS, MASK, TOKENS)
    found = cache.find(IDS, MASK)
    (path,) = folder.iterdir()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found, TOKENS)
    found.zero_()
    cache.add(IDS, MASK, TOKENS)
    assert torch.equal(cache.find(IDS, MASK), TOKENS)


@pytest.mark.parametrize("obstacle", ["file for a folder", "folder for a file", "full disk"])
def test_a_folder_that_cannot_be_used_ends_no_run(obstacle, small, folder, monkeypatch):
    cache = text_cache(small.weights_hash, CPU, EXACT)
    fresh = encode(small, "liver")
    if obstacle == "file for a folder":
        folder.parent.parent.joinpath("cache").write_text("in the way", encoding="ascii")
    elif obstacle == "folder for a file":
        encode(small, "liver", cache=cache)
        (path,) = folder.iterdir()
        path.unlink()
        path.mkdir()
    else:

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "save_file", full)
    assert torch.equal(encode(small, "liver", cache=cache).tokens, fresh.tokens)
    if obstacle == "full disk":
        assert list(folder.iterdir()) == []


def test_the_oldest_go_when_there_are_many(folder, monkeypatch):
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    cache = text_cache(HASH, CPU, EXACT)
    for number in range(5):
        cache.add(IDS + number, MASK, TOKENS)
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    known = [number for number in range(5) if cache.find(IDS + number, MASK) is not None]
    assert known == [2, 3, 4]
