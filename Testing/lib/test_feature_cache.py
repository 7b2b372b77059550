"""Features that are kept between runs: the same labels, no second trunk pass, and a budget that holds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MedicalSAM3Lib import feature_cache as module
from MedicalSAM3Lib import runtime as runtime_module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.feature_cache import FeatureCache, feature_key
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.model_folder import LoadedModel, load_model_folder
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Progress, Segmentation, Volume
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres
from Testing.lib.small_world import save_small_model

EXACT = Runtime(torch.device("cpu"), torch.float32)
BANDS = {"bright": (0.75, 1.5), "middle": (0.4, 0.6)}
CONCEPTS = ("liver", "left kidney", "spleen")


def phantom(bright: float = 255.0) -> Volume:
    return spheres({bright: (0.3, 0.5, 0.5), 127.0: (0.75, 0.5, 0.5)}, shape_kji=(7, 20, 24))[0]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A real network, with random weights so large that concepts and slices differ, and masks have a rim."""
    loaded = load_model_folder(save_small_model(tmp_path_factory.mktemp("models") / "small"))
    torch.manual_seed(0)
    for parameter in loaded.model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return loaded


def settings(**values: object) -> object:
    return make_settings(device="cpu", speed="exact", presence_threshold=0.0, overlap="keep", **values)


def masks(result: Segmentation) -> dict[str, tuple[object, ...]]:
    """All that a result says of each concept, by its name."""
    return {
        finding.phrase: (result.mask_kji(finding).tobytes(), finding.presence, finding.confidence, finding.voxels)
        for finding in result.findings
    }


@pytest.fixture(scope="module")
def expected(network: LoadedModel) -> dict[str, tuple[object, ...]]:
    """What is said of each concept without a cache, with a budget from the machine."""
    answers = masks(segment(phantom(), CONCEPTS, network, settings()))
    volume = np.prod(phantom().shape_kji)
    assert any(0 < answer[3] < volume for answer in answers.values()), "the network must decide something"
    assert len({answer[0] for answer in answers.values()}) > 1
    return answers


def test_the_budget_changes_no_bit(network, expected):
    two_slices = 2.5 * 16 * 32 * 4 / 1e9
    assert masks(segment(phantom(), CONCEPTS, network, settings(memory_budget_gb=two_slices))) == expected


def test_the_budget_changes_no_bit_in_bfloat16(network, monkeypatch):
    monkeypatch.setattr(runtime_module, "_fast_dtype", lambda device: torch.bfloat16)
    fast = {"device": "cpu", "presence_threshold": 0.0, "overlap": "keep"}
    answers = [
        masks(segment(phantom(), CONCEPTS, network, make_settings(memory_budget_gb=budget, **fast)))
        for budget in (None, 2.5 * 16 * 32 * 2 / 1e9)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("order", [CONCEPTS[::-1], (CONCEPTS[1], CONCEPTS[2], CONCEPTS[0])])
def test_the_order_of_concepts_changes_no_bit(network, expected, order, cached):
    cache = FeatureCache() if cached else None
    assert masks(segment(phantom(), order, network, settings(), cache=cache)) == expected


@pytest.mark.parametrize("rounds", [[CONCEPTS] * 2, [CONCEPTS[:1], CONCEPTS[1:]], [[c] for c in CONCEPTS[::-1]]])
@pytest.mark.parametrize("budget_gb", [None, 1e-9])
def test_one_after_another_from_the_cache_is_as_all_together_without(network, expected, rounds, budget_gb):
    cache = FeatureCache(budget_gb)
    for concepts in rounds:
        answers = masks(segment(phantom(), concepts, network, settings(), cache=cache))
        assert answers == {phrase: expected[phrase] for phrase in concepts}
    assert len(cache) == 1


def ask(cache: FeatureCache | None, volume: Volume, model: LoadedModel, *concepts: str) -> Segmentation:
    return segment(volume, concepts or ["bright"], model, make_settings(device="cpu", speed="exact"), cache=cache)


def test_the_next_concept_starts_at_the_decoder():
    model, cache = fake_model(BANDS), FeatureCache()
    seen: list[Progress] = []
    ask(cache, phantom(), model, "bright")
    exact = make_settings(device="cpu", speed="exact")
    segment(replace(phantom(), name="other"), ["middle"], model, exact, seen.append, cache=cache)
    assert model.model.trunk_slices == 7
    assert model.model.query_pairs == 14
    assert [progress.done for progress in seen if progress.stage == "features"] == [0, 7]
    ask(None, phantom(), model)
    assert model.model.trunk_slices == 14


def key(volume: Volume, model: LoadedModel | None = None, runtime: Runtime = EXACT, **values: object) -> str:
    model = model or fake_model({})
    return feature_key(prepare(volume, model.preprocess, make_settings(**values)), model.weights_hash, runtime)


def with_spec(**values: object) -> LoadedModel:
    model = fake_model({})
    return replace(model, preprocess=model.preprocess.model_copy(update=values))


def test_the_key_changes_with_all_that_the_trunk_sees():
    volume = phantom()
    changed, stretched = volume.array.copy(), volume.ijk_to_lps.copy()
    changed[3, 5, 5] += 1e-3
    stretched[:3, 0] *= 1.5
    keys = [
        key(volume),
        key(replace(volume, array=changed)),
        key(replace(volume, ijk_to_lps=stretched)),
        key(volume, axis="0"),
        key(volume, axis="1"),
        key(volume, slices=(0, 6)),
        key(volume, slices=(1, 7)),
        key(volume, window="0,100"),
        key(replace(volume, modality="MR")),
        key(volume, with_spec(mean=(0.4, 0.5, 0.5))),
        key(volume, with_spec(std=(0.4, 0.5, 0.5))),
        key(volume, with_spec(image_size=104)),
        key(volume, replace(fake_model({}), weights_hash="1" * 64)),
        key(volume, runtime=Runtime(EXACT.device, torch.bfloat16)),
        key(volume, runtime=Runtime(torch.device("cuda"), torch.float32)),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(digest) == 64 for digest in keys)


def test_the_crop_to_the_body_changes_the_key():
    array = np.full((4, 60, 60), -1000.0, np.float32)
    array[:, 20:40, 20:40] = 50.0
    ct = Volume(array, np.eye(4), "CT")
    assert key(ct) != key(ct, with_spec(crop="body"))


def test_the_key_does_not_change_with_what_the_trunk_does_not_see():
    volume = phantom()
    moved = volume.ijk_to_lps.copy()
    moved[:3, 3] += 100.0
    same = [
        key(replace(volume, name="other")),
        key(replace(volume, array=volume.array.copy())),
        key(replace(volume, ijk_to_lps=moved)),
        key(volume, roi=(2, 20, 2, 20, 0, 7)),
        key(volume, presence_threshold=0.9, overlap="keep", rule="top1", memory_budget_gb=1.0),
    ]
    assert set(same) == {key(volume)}
    # The same patient, stored from head to feet: the pictures are the same ones.
    upside_down = volume.ijk_to_lps.copy()
    upside_down[:3, 3] += 6 * upside_down[:3, 2]
    upside_down[:3, 2] *= -1
    assert key(replace(volume, array=volume.array[::-1], ijk_to_lps=upside_down)) == key(volume)


VOLUME_BYTES = 7 * 96 * 96 * 4


def test_the_volume_not_asked_for_the_longest_goes_when_the_budget_is_exceeded():
    model, cache = fake_model(BANDS), FeatureCache(2.5 * VOLUME_BYTES / 1e9)
    a, b, c = phantom(255.0), phantom(250.0), phantom(240.0)
    for volume in (a, b, a, c):
        ask(cache, volume, model)
    assert model.model.trunk_slices == 3 * 7
    assert (len(cache), cache.nbytes) == (2, 2 * VOLUME_BYTES)
    ask(cache, a, model)
    assert model.model.trunk_slices == 3 * 7
    ask(cache, b, model)
    assert model.model.trunk_slices == 4 * 7


def test_a_volume_larger_than_the_budget_is_kept_alone_and_mostly_in_a_file():
    model, cache = fake_model(BANDS), FeatureCache(2.5 * VOLUME_BYTES / 7 / 1e9)
    for volume in (phantom(250.0), phantom()):
        ask(cache, volume, model)
        ask(cache, volume, model)
    assert model.model.trunk_slices == 2 * 7
    store = cache.find(key(phantom(), model))
    assert (len(cache), store.in_memory) == (1, 2)
    file = store._file
    del store
    cache.clear()
    assert file.closed


def test_the_budget_of_a_run_bounds_its_memory_also_with_a_cache():
    model, cache = fake_model(BANDS), FeatureCache()
    budget = make_settings(device="cpu", speed="exact", memory_budget_gb=3.5 * VOLUME_BYTES / 7 / 1e9)
    segment(phantom(), ["bright"], model, budget, cache=cache)
    assert cache.find(key(phantom(), model)).in_memory == 3


def test_the_machines_budget_counts_what_is_free_and_what_features_hold(monkeypatch):
    free = 1000
    monkeypatch.setattr(module, "available_memory_bytes", lambda: free)
    cache = FeatureCache()
    assert cache.make_room(600) == 700
    first = FeatureStore(1, (400,), torch.uint8, 400)
    free = 600
    cache.add("first", first)
    assert cache.make_room(300) == 300
    free = 300
    cache.add("second", FeatureStore(1, (300,), torch.uint8, 300))
    assert len(cache) == 2
    free = 100  # another program has taken some: 70 % of these 100 and of the 700 that features hold is 560
    assert cache.make_room(100) == 260
    assert cache.find("first") is None


def test_what_is_dropped_lives_for_those_who_read_it():
    cache = FeatureCache()
    store = cache.add("key", FeatureStore(2, (3,), torch.float32, 12))
    store.put(slice(0, 2), torch.ones(2, 3))
    cache.clear()
    assert (len(cache), cache.nbytes, cache.find("key")) == (0, 0, None)
    assert torch.equal(store.tokens(slice(0, 2)), torch.ones(2, 3))


def test_of_two_runs_that_computed_the_same_one_is_kept():
    cache = FeatureCache()
    first, second = (FeatureStore(1, (3,), torch.float32, 12) for _ in range(2))
    assert cache.add("key", first) is first
    assert cache.add("key", second) is first
    assert len(cache) == 1


@pytest.mark.parametrize("error", [Cancelled("stop"), RuntimeError("broken")])
@pytest.mark.parametrize("done", [0, 1, 7])
def test_a_run_that_ends_early_leaves_nothing_in_the_cache(error, done, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, cache = fake_model(BANDS), FeatureCache(1e-9)

    def stop(progress: Progress) -> None:
        if progress.stage == "features" and progress.done >= done:
            raise error

    with pytest.raises(type(error)):
        segment(phantom(), ["bright"], model, make_settings(device="cpu", speed="exact"), stop, cache=cache)
    assert len(cache) == 0
    assert list(tmp_path.iterdir()) == []
    assert masks(ask(cache, phantom(), model)) == masks(ask(None, phantom(), model))


def test_a_run_that_ends_after_its_trunk_leaves_whole_features():
    model, cache = fake_model(BANDS), FeatureCache()

    def stop(progress: Progress) -> None:
        if progress.stage == "detection":
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        segment(phantom(), ["bright"], model, make_settings(device="cpu", speed="exact"), stop, cache=cache)
    assert masks(ask(cache, phantom(), model)) == masks(ask(None, phantom(), fake_model(BANDS)))
    assert model.model.trunk_slices == 7


def test_features_of_weights_without_a_name_are_not_kept():
    model, cache = replace(fake_model(BANDS), weights_hash=""), FeatureCache()
    ask(cache, phantom(), model)
    ask(cache, phantom(), model)
    assert len(cache) == 0
    assert model.model.trunk_slices == 14


def test_threads_share_a_cache():
    model, cache = fake_model(BANDS), FeatureCache(1.5 * VOLUME_BYTES / 1e9)
    volumes = [phantom(255.0), phantom(250.0)] * 4
    expected = [masks(ask(None, volume, model)) for volume in volumes]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda volume: masks(ask(cache, volume, model)), volumes))
    assert results == expected
    assert len(cache) == 1


def test_in_a_cache_nothing_changes_what_is_handed_out():
    model, cache = fake_model(BANDS), FeatureCache()
    ask(cache, phantom(), model)
    stack = prepare(phantom(), model.preprocess, make_settings())
    kept = cache.find(key(phantom(), model))
    with encode(stack, model.model, EXACT, lambda progress: None) as fresh:
        kept.tokens(slice(0, 7)).zero_()
        assert torch.equal(kept.tokens(slice(0, 7)), fresh.tokens(slice(0, 7)))


def test_loading_the_cache_loads_no_torch(repository: Path) -> None:
    from Testing.lib.test_import_time import loaded_by

    names: Sequence[str] = ("torch", "transformers")
    assert loaded_by(repository, "from MedicalSAM3Lib import FeatureCache; FeatureCache(1.0)").isdisjoint(names)
