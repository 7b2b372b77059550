"""``medsam3 doctor --volume``: a table, a verdict and an exit code; one line for whatever is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from MedicalSAM3Lib import cli, registry
from MedicalSAM3Lib.cli_doctor import estimate_rows, show_estimate, verdict
from MedicalSAM3Lib.estimate import Estimate
from Testing.lib.small_world import ball_hu, save_small_model, write_image

FITS = Estimate(
    slices=100,
    concepts=8,
    device="cpu",
    dtype="float32",
    batch=4,
    stage_seconds={"features": 20.0, "detection": 30.0},
    seconds=50.0,
    most_seconds=70.0,
    open_share=0.25,
    host_peak_mb=1500.0,
    host_more_mb=900.0,
    host_free_mb=8000.0,
    device_peak_mb=None,
    features_gb=1.2,
    in_memory_share=1.0,
    disk_free_gb=50.0,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "ball.nii.gz", ball_hu())


def test_a_run_is_predicted_from_the_command_line(image: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--volume", image, "-c", "liver", "-c", "spleen", "--model", model, "--device", "cpu"]
    assert cli.main([*map(str, words), "--speed", "exact", "--slices", "1:5"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for text in ("4, ", "on cpu in float32", "time, detection", "memory at its peak", "are free", "The run fits."):
        assert text in out
    assert sorted(image.parent.iterdir()) == [image]  # it only looks


def test_a_small_budget_is_told(image: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--volume", image, "-c", "liver", "--model", model, "--memory-budget", "0.000000001"]
    assert cli.main([*map(str, words)]) == 0
    assert "temporary file for 100% of the features" in capfd.readouterr().out


def test_the_verdict_and_the_exit_code_say_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(FITS) == "The run fits."
    assert verdict(replace(FITS, in_memory_share=0.75)).endswith("the temporary file for 25% of the features.")
    assert show_estimate(FITS) == 0
    assert show_estimate(replace(FITS, host_more_mb=9000.0)) == 3
    assert "The run needs more memory than is free: 9.0 GB of 8.0 GB" in capsys.readouterr().out


def test_rows_show_what_was_measured_and_leave_out_what_was_not() -> None:
    rows = dict(estimate_rows(FITS))
    assert rows["time"] == "50.0 s; 70.0 s if every concept is on every slice"
    assert (rows["memory at its peak"], rows["memory beyond now"]) == ("1.50 GB", "900 MB, 8.00 GB are free")
    assert "memory of cpu" not in rows
    cuda = dict(estimate_rows(replace(FITS, device="cuda", device_peak_mb=3200.0, host_peak_mb=None)))
    assert cuda["memory of cuda"] == "3.20 GB"
    assert "memory at its peak" not in cuda


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-c", "liver"], "concept: expected --volume INPUT"),
        (["--slices", "1:2"], "slices: expected --volume INPUT"),
        (["--volume", "gone.nii", "-c", "liver"], "gone.nii"),
        (["--volume", "IMAGE"], "at least one concept"),
        (["--volume", "IMAGE", "-c", " "], "got an empty one"),
        (["--volume", "IMAGE", "-c", "liver", "--speed", "warp"], "speed: "),
        (["--volume", "IMAGE", "-c", "liver", "--slices", "ten"], "slices: expected A:B"),
        (["--volume", "IMAGE", "-c", "liver", "--rumour"], "--rumour"),
    ],
)
def test_a_wrong_call_is_one_line_and_loads_no_model(
    words: list[str], part: str, image: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    assert cli.main(["doctor", *(str(image) if word == "IMAGE" else word for word in words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert part in err


def test_a_file_that_is_no_image_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"no image")
    assert cli.main(["doctor", "--volume", str(broken), "-c", "liver"]) == 2
    assert capfd.readouterr().err.count("\n") == 1
