"""The report is what its schema says, gives nobody away, and is written whole."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.pipeline import segment_with_report
from MedicalSAM3Lib.report import InputRecord, RunRecord, Stopwatch, make_report, write_report
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.structures import Volume
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """A run with all three kinds of answer."""
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)})
    model = fake_model({"liver": (0.75, 1.5), "broken": (float("nan"), 1.0)}, least_pixels=0)
    return segment_with_report(volume, ["liver", "nonsense", "broken"], model, make_settings(speed="exact"))[1]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(resource("report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_a_report_with_every_state_fits_the_schema(record, validator, tmp_path):
    write_report(tmp_path / "report.json", record)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    validator.validate(report)
    assert [finding["state"] for finding in report["findings"]] == ["found", "not_found", "failed"]
    assert report["findings"][0]["concept_id"] == "liver"
    assert report["findings"][0]["codes"]["type"].endswith("^Liver")
    assert report["settings"]["speed"] == "exact"


def test_a_report_holds_the_measures_of_what_was_found_in_their_units(record, validator):
    report = json.loads(json.dumps(make_report(record)))
    liver, *others = report["findings"]
    assert [finding["measures"] for finding in others] == [None, None]
    assert liver["measures"]["axial_long_mm"] == pytest.approx(44, abs=5)
    assert liver["measures"]["intensity_mean"] == 255
    for damage in ({"axial_long_mm": -1}, {"centroid_lps_mm": [0, 0]}, {"name": "Doe"}, {"intensity_sd": -1}):
        damaged = json.loads(json.dumps(report))
        damaged["findings"][0]["measures"] |= damage
        assert not validator.is_valid(damaged)
    others[0]["measures"] = liver["measures"]
    assert not validator.is_valid(report)


def test_a_report_lists_the_objects_that_were_kept_apart(validator):
    volume, _ = spheres({255.0: (0.2, 0.5, 0.5), 250.0: (0.8, 0.5, 0.5)})
    settings = make_settings(speed="exact", instances=True)
    _, record = segment_with_report(volume, ["cell", "nonsense"], fake_model({"cell": (0.75, 1.5)}), settings)
    report = json.loads(json.dumps(make_report(record)))
    validator.validate(report)
    cell, nonsense = report["findings"]
    assert (cell["instances"], [part["label"] for part in cell["objects"]]) == (2, [1, 2])
    assert sum(part["volume_ml"] for part in cell["objects"]) == pytest.approx(cell["volume_ml"])
    assert nonsense["objects"] == []
    for damage in ({"label": 0}, {"voxels": 0}, {"name": "Doe"}, {"slice_range": None}):
        damaged = json.loads(json.dumps(report))
        damaged["findings"][0]["objects"][0] |= damage
        assert not validator.is_valid(damaged)
    nonsense["objects"] = cell["objects"]
    assert not validator.is_valid(report)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("voxels", 0),
        ("reason", "because"),
        ("state", "maybe"),
        ("presence", 1.5),
        ("slice_range", None),
        ("extra", 1),
        ("objects", None),
        ("measures", None),
    ],
)
def test_the_schema_refuses_a_finding_that_contradicts_itself(record, validator, key, value):
    report = json.loads(json.dumps(make_report(record)))
    report["findings"][0][key] = value
    assert not validator.is_valid(report)


def test_the_schema_asks_for_all_settings_that_there_are(record, validator):
    assert set(validator.schema["properties"]["settings"]["required"]) == set(make_report(record)["settings"])


@pytest.mark.parametrize("name", ["/home/doe/scan", "C:\\patients\\doe\\scan", "scan"])
def test_of_a_name_that_is_a_path_only_the_last_part_is_reported(name):
    volume = Volume(np.zeros((1, 1, 1), np.float32), np.eye(4), name=name)
    assert InputRecord.of(volume).name == "scan"


def test_a_report_that_cannot_be_written_leaves_nothing_behind(record, tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OutputError):
        write_report(tmp_path / "report.json", record)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_stopwatch_keeps_the_order_of_the_stages():
    watch = Stopwatch()
    for name in ("features", "detection"):
        with watch.stage(name):
            pass
    assert list(watch.seconds) == ["features", "detection"]
    assert min(watch.seconds.values()) >= 0
