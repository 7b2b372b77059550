"""The command line from its words to its exit code, its files and its lines, with a model of a few weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from MedicalSAM3Lib import __version__, cli, pipeline, registry
from MedicalSAM3Lib.cli_outputs import default_output
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.structures import Finding
from Testing.lib.fakes import fake_model
from Testing.lib.small_world import ball_hu, save_small_model, write_image

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CT in a folder of its own; the current folder is another, empty one."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return write_image(tmp_path / "in" / "ball.nii.gz", ball_hu())


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when the model is loaded: the call must have been refused before."""
    monkeypatch.setattr(registry, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))


def one_line(err: str) -> str:
    """The single line on stderr."""
    assert err.count("\n") == 1, err
    assert err.startswith("medsam3: "), err
    return err


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_segment_writes_result_report_and_picture_and_answers_each_concept(
    image: Path, model: Path, call: Call
) -> None:
    words = ("segment", image, "-c", "liver", "-c", "left kidney", "--model", model, "--presence-threshold", "0")
    code, out, _ = call(*words, "-o", "out.seg.nrrd", "--report", "out.json", "--preview", "out.png")
    assert code == 0
    assert files_in(Path()) == ["out.json", "out.png", "out.seg.nrrd"]
    findings = json.loads(Path("out.json").read_text(encoding="utf-8"))["findings"]
    assert [finding["phrase"] for finding in findings] == ["liver", "left kidney"]
    for said in ("liver", "left kidney", "Wrote out.seg.nrrd", "demonstration model", "research only"):
        assert said in out


def test_objects_apart_reach_file_report_and_table(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK
    import slicerio

    grey = ball_hu()
    grey[:] = 0
    grey[1:4, 5:15, 5:15] = grey[2:5, 25:35, 25:35] = 255
    two = write_image(tmp_path / "two.nii.gz", grey)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "load_model", lambda *_, **__: fake_model({"lesion": (0.75, 1.5)}))
    words = ("segment", two, "-c", "lesion", "--instances", "--speed", "exact", "--report", "r.json")
    code, out, err = call(*words, "-o", "a.seg.nrrd", "--preview", "a.png")
    assert code == 0, err
    assert "Objects" in out
    (finding,) = json.loads(Path("r.json").read_text(encoding="utf-8"))["findings"]
    assert [part["voxels"] for part in finding["objects"]] == [300, 300]
    segments = slicerio.read_segmentation("a.seg.nrrd")["segments"]
    assert [segment["name"] for segment in segments] == ["lesion 1", "lesion 2"]
    assert call(*words, "-o", "a.nii.gz")[0] == 0
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("a.nii.gz"))
    assert set(labels[labels > 0]) == {1, 2}


def test_surfaces_are_written_beside_the_result_and_what_has_none_is_refused(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trimesh", reason="needs the extra 'surface'")
    pytest.importorskip("vtkmodules", reason="needs the extra 'surface'")
    grey = ball_hu()
    grey[:] = 0
    grey[1:4, 5:15, 5:15] = 255
    block = write_image(tmp_path / "block.nii.gz", grey)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(registry, "load_model", lambda *_, **__: fake_model({"liver": (0.75, 1.5)}))
    words = ("segment", block, "--speed", "exact", "-o", "a.nii.gz", "--report", "a.json", "--surface")
    code, out, err = call(*words, "a.stl", "-c", "liver", "-c", "nonsense")
    assert code == 0, err
    assert "Wrote a_liver.stl" in out
    # An answer all the same: the other files are there, and the table says why.
    code, out, err = call(*words, "b.stl", "-c", "nonsense")
    assert (code, "not found" in out) == (2, True)
    assert "b.stl was not written" in one_line(err)
    assert files_in(Path()) == ["a.json", "a.labels.json", "a.nii.gz", "a_liver.stl"]


def test_what_the_run_had_to_do_without_is_said_and_reported(
    image: Path, model: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from MedicalSAM3Lib.compiling import Trunk

    original, tried = Trunk.encode, []

    def full_once(*args: Any) -> Any:
        tried.append(args)
        if len(tried) == 1:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(Trunk, "encode", full_once)
    words = ("segment", image, "-c", "liver", "--model", model, "-o", "a.nii.gz", "--report", "out.json")
    code, out, err = call(*words, "--speed", "exact", "--device", "cpu")
    assert code == 0, err
    run = json.loads(Path("out.json").read_text(encoding="utf-8"))["run"]
    assert run["notices"] == ["Main memory was full: numbers in bfloat16 instead of float32."]
    assert run["dtype"] == "bfloat16"
    assert run["notices"][0] in out


def test_not_found_is_an_answer(image: Path, model: Path, call: Call) -> None:
    code, out, _ = call(
        "segment", image, "-c", "unicorn", "--model", model, "--presence-threshold", 1, "-o", "a.nii.gz"
    )
    assert code == 0
    assert "not found" in out


def test_the_confidence_of_each_voxel_is_a_volume_on_the_grid_of_the_input(
    image: Path, model: Path, call: Call
) -> None:
    import SimpleITK

    words = ("segment", image, "-c", "liver", "--model", model, "--presence-threshold", 0, "-o", "a.nii.gz")
    code, out, err = call(*words, "--confidence", "c.nii.gz")
    assert code == 0, err
    assert "Wrote c.nii.gz" in out
    confidence, source = SimpleITK.ReadImage("c.nii.gz"), SimpleITK.ReadImage(str(image))
    assert confidence.GetSize() == source.GetSize()
    assert confidence.GetOrigin() == pytest.approx(source.GetOrigin())
    values = SimpleITK.GetArrayFromImage(confidence)
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("a.nii.gz"))
    assert ((values > 0) == (labels > 0)).all()
    assert values.max() <= 1
    code, _, err = call(*words, "--confidence", "c.png")
    assert code == 2
    assert ".nii.gz" in one_line(err)


def test_every_setting_reaches_the_pipeline(image: Path, model: Path, call: Call) -> None:
    words = ("--slices", "1:4", "--roi", "0,20,0,30,1,4", "--axis", "2", "--window", "-100,200", "--rule", "top1")
    more = (
        "--overlap",
        "keep",
        "--speed",
        "exact",
        "--device",
        "cpu",
        "--memory-budget",
        "1.5",
        "--mode",
        "detect",
        "--instances",
    )
    code, _, err = call("segment", image, "-c", "liver", "--model", model, "--report", "r.json", *words, *more)
    assert code == 0, err
    settings = json.loads(Path("r.json").read_text(encoding="utf-8"))["settings"]
    assert settings == SegmentSettings(
        slices=(1, 4),
        roi=(0, 20, 0, 30, 1, 4),
        axis="2",
        window="-100,200",
        rule="top1",
        overlap="keep",
        instances=True,
        mode="detect",
        speed="exact",
        device="cpu",
        memory_budget_gb=1.5,
    ).model_dump(mode="json")


def test_quiet_prints_nothing(image: Path, model: Path, call: Call) -> None:
    assert call("segment", image, "-c", "liver", "--model", model, "--quiet") == (0, "", "")


def test_the_name_chosen_for_the_user_replaces_nothing(image: Path, model: Path, call: Call) -> None:
    words = ("segment", image, "-c", "liver", "--model", model)
    assert call(*words)[0] == 0
    assert files_in(Path()) == ["ball.seg.nrrd"]
    code, _, err = call(*words)
    assert code == 2
    assert "ball.seg.nrrd" in one_line(err)
    assert "--output" in err


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("ct.nii.gz", "ct.seg.nrrd"),
        ("ct.v2.mha", "ct.v2.seg.nrrd"),
        ("old.seg.nrrd", "old.seg.nrrd"),
        ("IM0001", "IM0001.seg.nrrd"),
        (".", "segmentation.seg.nrrd"),
    ],
)
def test_the_name_chosen_for_the_user_is_that_of_the_input_but_never_of_a_folder(source: str, name: str) -> None:
    assert default_output(Path("somewhere") / source if source != "." else Path()) == Path(name)


def test_a_name_that_the_user_gave_is_replaced(image: Path, model: Path, call: Call) -> None:
    Path("out.seg.nrrd").write_text("older", encoding="utf-8")
    assert call("segment", image, "-c", "liver", "--model", model, "-o", "out.seg.nrrd")[0] == 0
    assert Path("out.seg.nrrd").read_bytes().startswith(b"NRRD")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (["-o", "../in/ball.nii.gz"], "the input itself"),
        (["-o", "a.nii.gz", "--report", "a.json", "--preview", "a.json"], "same name"),
        (["-o", "a.nii.gz", "--report", "a.labels.json"], "same name"),
        (["-o", "nowhere/a.seg.nrrd"], "nowhere"),
        (["-o", "a.docx"], ".seg.nrrd"),
        (["-o", "a.png"], "3D"),
        (["--report", "nowhere/a.json"], "nowhere"),
        (["--report", "a.txt"], ".json"),
        (["--preview", "a.jpg"], ".png"),
        (["--surface", "a.ply"], ".stl"),
        (["--surface", "nowhere/a.stl"], "nowhere"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_model_is_loaded(
    image: Path, call: Call, outputs: Sequence[str], said: str
) -> None:
    code, _, err = call("segment", image, "-c", "liver", "-q", *outputs)
    assert code == 2
    assert said in one_line(err)
    assert files_in(Path()) == []


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segment"], "INPUT"),
        (["segment", "a.nii.gz"], "--concept"),
        (["segment", "a.nii.gz", "-c", "liver", "--colour", "red"], "--colour"),
        (["segment", "a.nii.gz", "-c", "liver", "--frame", "two"], "--frame"),
        (["segment", "a.nii.gz", "-c", "liver", "--slices", "3"], "A:B"),
        (["segment", "a.nii.gz", "-c", "liver", "--slices", "5:5"], "5:5"),
        (["segment", "a.nii.gz", "-c", "liver", "--roi", "1,2,3"], "I0,I1"),
        (["segment", "a.nii.gz", "-c", "liver", "--window", "wide"], "wide"),
        (["segment", "a.nii.gz", "-c", "liver", "--device", "abacus"], "cuda:N, got 'abacus'."),
        (["segment", "a.nii.gz", "-c", "liver", "--speed", "quick"], "'exact', got 'quick'."),
        (["segment", "a.nii.gz", "-c", "liver", "--presence-threshold", "3"], "equal to 1, got 3.0."),
        (["segment", "a.nii.gz", "-c", "liver", "-c", "Liver"], "each concept once"),
        (["segment", "a.nii.gz", "-c", " "], "an empty one"),
        (["segment", "a.nii.gz", "-c", "?!"], "'?!', in which is no word"),
        (["segment", "a.nii.gz", "-c", "liver", "--model", "none"], "'none'"),
        (["segmment"], "'segment'? See: medsam3 --help"),
        (["models", "eat"], "eat"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(image: Path, call: Call, words: Sequence[str], said: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert said in one_line(err)


def test_a_failed_concept_gives_exit_code_3_and_keeps_the_others(
    image: Path, model: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.segment_with_report

    def one_fails(*arguments: Any) -> Any:
        segmentation, record = real(*arguments)
        failed = Finding("liver", "failed", reason="not a number")
        object.__setattr__(segmentation, "findings", (failed, *segmentation.findings[1:]))
        return segmentation, record

    monkeypatch.setattr(pipeline, "segment_with_report", one_fails)
    words = ("segment", image, "-c", "liver", "-c", "spleen", "--model", model, "-o", "a.seg.nrrd")
    code, out, err = call(*words)
    assert code == 3
    assert "1 of 2 concepts failed" in err.splitlines()[-1]
    assert "spleen" in out
    assert files_in(Path()) == ["a.seg.nrrd"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Cancelled("cancelled.")])
def test_cancelling_gives_130_one_line_and_no_file(
    image: Path, model: Path, call: Call, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def stopped(*_: Any) -> None:
        raise stop

    monkeypatch.setattr(pipeline, "segment_with_report", stopped)
    code, _, err = call("segment", image, "-c", "liver", "--model", model, "-q")
    assert code == 130
    assert "cancelled" in one_line(err.lstrip("\n"))
    assert files_in(Path()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (MemoryError(), "Not enough memory"),
        (OSError(28, "No space left on device", "a.seg.nrrd"), "No space left on device"),
    ],
)
def test_an_unforeseen_error_is_one_line_and_exit_code_3(
    image: Path, model: Path, call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "segment_with_report", broken)
    words = ("segment", image, "-c", "liver", "--model", model, "-q")
    code, _, err = call(*words)
    assert code == 3
    assert said in one_line(err)
    monkeypatch.setenv("MEDSAM3_DEBUG", "1")
    assert "Traceback" in call(*words)[2]


def test_version_and_help_answer(call: Call) -> None:
    assert call("--version") == (0, f"medsam3 {__version__}\n", "")
    for words in ([], ["--help"], ["segment", "--help"], ["models", "--help"], ["doctor", "--help"]):
        code, out, err = call(*words)
        assert (code, err) == (0, "")
        assert "Usage: medsam3" in out


def test_the_lines_of_a_docstring_are_no_lines_of_the_help(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "2 when the call or the input cannot be used" in call("segment", "--help")[1]


def test_every_setting_has_an_option() -> None:
    import typer

    segment = typer.main.get_command(cli.app).commands["segment"]  # type: ignore[attr-defined]
    names = {parameter.name for parameter in segment.params}
    renamed = {"memory_budget_gb": "memory_budget", "confidence_map": "confidence"}
    assert {renamed.get(name, name) for name in SegmentSettings.model_fields} <= names


def test_concepts_are_searched_shown_and_listed(call: Call) -> None:
    code, out, _ = call("concepts", "search", "KIDNEY", "-n", "30")
    assert code == 0
    assert "left kidney" in out
    assert "liver" not in out
    code, out, _ = call("concepts", "search", "qqqq xxxx")
    assert code == 0
    assert "can be asked for all the same" in out
    code, out, _ = call("concepts", "show", "kidnye, left")
    assert code == 0
    assert "left kidney (left_kidney)" in out
    assert "SCT 64033007 Kidney; SCT 7771000 Left" in out
    code, out, _ = call("concepts", "show", "purple rain")
    assert code == 0
    assert "not in the vocabulary" in out
    code, out, _ = call("concepts", "list")
    assert code == 0
    assert "spleen" in out
    assert "left kidney" not in out
    code, out, _ = call("concepts", "presets")
    assert code == 0
    assert "abdomen" in out
    assert call("concepts")[0] == 0


def test_a_preset_stands_for_its_concepts_and_nothing_asked_is_refused() -> None:
    from MedicalSAM3Lib.cli_options import asked_concepts
    from MedicalSAM3Lib.errors import PromptError, SettingsError

    assert asked_concepts(["polyp"], "fundus") == ["optic disc", "optic cup", "retinal vessel", "polyp"]
    assert asked_concepts(["polyp"], None) == ["polyp"]
    with pytest.raises(PromptError, match="a preset"):
        asked_concepts(None, "elbow")
    with pytest.raises(SettingsError, match="'--concept'"):
        asked_concepts(None, None)


def test_the_installed_program_returns_the_code(image: Path) -> None:
    """Through a real process, where the C++ libraries write to the real stderr."""
    program = [sys.executable, "-m", "MedicalSAM3Lib.cli"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    run = subprocess.run(
        [*program, "segment", "gone.mha", "-c", "liver"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 2
    assert "gone.mha" in one_line(run.stderr)
