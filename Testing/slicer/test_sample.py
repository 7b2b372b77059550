"""The sample CT among Slicer's sample data: from the extension itself, with its checksum."""

from __future__ import annotations

import hashlib
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

from MedicalSAM3.MedicalSAM3Slicer import sample


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Slicer's Sample Data module was told."""
    told: dict[str, Any] = {}
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **words: told.update(words))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    return told


def test_the_sample_comes_from_the_extension_and_has_its_checksum(registered: dict[str, Any], tmp_path: Path) -> None:
    sample.register()
    assert registered["uris"].startswith("file:")
    file, _ = urllib.request.urlretrieve(registered["uris"], tmp_path / registered["fileNames"])  # as Slicer does
    assert registered["checksums"] == "SHA256:" + hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_without_a_copy_it_comes_from_the_repository(
    registered: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "FILE", "no-such-file.nii.gz")
    sample.register()
    assert registered["uris"] == sample.URL
