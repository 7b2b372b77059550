"""What must change no voxel in float32, and how many a batch of another size changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np

from MedicalSAM3Lib import views
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.runtime import Runtime, pick_runtime
from Testing.benchmarks.sides import Masks
from Testing.benchmarks.tables import Table, format_name
from Testing.benchmarks.worlds import Case, Options, load_case

FEW_SLICES_GB = 1e-3
COLUMNS = ("Changed", "Mode", "Format", "Differing voxels", "Of all labelled (%)")


def run(options: Options) -> Iterator[Table]:
    """One table on the bundled CT."""
    model = load_model(options.model, options.device)
    case = load_case("sample")
    assert case is not None
    rows = []
    for mode in ("detect", "fuse") if model.model.has_tracker else ("detect",):
        for speed in ("exact", "balanced"):
            settings = options.settings(mode=mode, speed=speed)
            dtype = format_name(pick_runtime(settings).dtype)
            if speed == "balanced" and dtype == "float32":
                continue
            expected = _ask(case, model, settings, case.concepts)
            total = sum(int(mask.sum()) for mask in expected.values())
            for label, masks in _variants(case, model, settings, is_exact=speed == "exact"):
                count = differing(expected, masks)
                rows.append((label, mode, dtype, str(count), f"{100 * count / max(total, 1):.3f}"))
    yield Table(
        f"The same question asked otherwise, {len(case.concepts)} concepts on {case.title}", COLUMNS, tuple(rows)
    )


def differing(masks: Masks, others: Masks) -> int:
    """Voxels that are in one mask of a concept and not in the other, of all concepts."""
    return sum(int(np.count_nonzero(mask != others[phrase])) for phrase, mask in masks.items())


def _variants(case: Case, model: LoadedModel, settings: SegmentSettings, is_exact: bool) -> Iterator[tuple[str, Masks]]:
    """Name and answer of each way of asking; those that are promised for float32 only where it computes."""
    if is_exact:
        cache = FeatureCache()
        _ask(case, model, settings, case.concepts[:1], cache)
        yield "features from the cache", _ask(case, model, settings, case.concepts, cache)
        little = settings.model_copy(update={"memory_budget_gb": FEW_SLICES_GB})
        yield "features in a file", _ask(case, model, little, case.concepts)
        yield "concepts in reverse order", _ask(case, model, settings, case.concepts[::-1])
    with ExitStack() as stack:
        stack.enter_context(patch.object(Runtime, "batch_size", lambda self, bytes_each, most: 1))
        stack.enter_context(patch.object(views, "ROWS_AT_ONCE", 1))
        yield "batches of one", _ask(case, model, settings, case.concepts)


def _ask(
    case: Case,
    model: LoadedModel,
    settings: SegmentSettings,
    concepts: Sequence[str],
    cache: FeatureCache | None = None,
) -> Masks:
    result = segment(case.volume, concepts, model, settings, cache=cache)
    return {finding.phrase: result.mask_kji(finding) for finding in result.findings}
