"""What can be known of the panel without running it: names, wiring, signals, translatable text, syntax."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

WIDGETS = {
    "qMRMLWidget", "qMRMLNodeComboBox", "ctkCollapsibleButton", "ctkPathLineEdit", "QCheckBox", "QComboBox", "QFrame",
    "QLabel", "QLineEdit", "QPlainTextEdit", "QProgressBar", "QPushButton", "QRadioButton", "QSpinBox", "QTableWidget",
}  # fmt: skip

SIGNALS = {
    "activated()", "activated(int)", "activated(QString)", "cellClicked(int,int)", "clicked()",
    "currentIndexChanged(int)", "currentNodeChanged(vtkMRMLNode*)", "currentPathChanged(QString)", "editingFinished()",
    "itemSelectionChanged()", "linkActivated(QString)", "startupCompleted()", "textChanged()",
    "textChanged(QString)", "timeout()", "toggled(bool)", "valueChanged(int)",
}  # fmt: skip
"""Those that Qt 5 and Qt 6, ctk and Slicer have with just these arguments. QComboBox's activated(QString) is not one of
them, QCompleter's is: see below."""


@pytest.fixture
def form(repository: Path) -> ElementTree.Element:
    return ElementTree.parse(repository / "MedicalSAM3" / "Resources" / "UI" / "MedicalSAM3.ui").getroot()


@pytest.fixture
def sources(repository: Path) -> dict[str, str]:
    files = [path for path in (repository / "MedicalSAM3").rglob("*.py") if "__pycache__" not in path.parts]
    assert files
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def names(form: ElementTree.Element) -> list[str]:
    return [widget.attrib["name"] for widget in form.iter("widget")]


def test_every_widget_that_the_code_uses_is_in_the_form(sources: dict[str, str], form: ElementTree.Element) -> None:
    used = {name for text in sources.values() for name in re.findall(r"\bui\.(\w+)", text)}
    assert len(used) > 40
    assert used <= set(names(form))


def test_names_of_the_form_are_unique_and_used(sources: dict[str, str], form: ElementTree.Element) -> None:
    assert len(names(form)) == len(set(names(form)))
    passive = ("Caption", "Layout", "CollapsibleButton", "Label")
    unused = [name for name in names(form) if not any(f"ui.{name}" in text for text in sources.values())]
    assert [name for name in unused if not name.endswith(passive)] == ["MedicalSAM3"]


def test_form_uses_only_known_classes(form: ElementTree.Element) -> None:
    assert {widget.attrib["class"] for widget in form.iter("widget")} <= WIDGETS


def test_every_node_selector_follows_the_scene(form: ElementTree.Element) -> None:
    selectors = {w.attrib["name"] for w in form.iter("widget") if w.attrib["class"] == "qMRMLNodeComboBox"}
    wired = {
        connection.findtext("receiver")
        for connection in form.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
    }
    assert selectors
    assert selectors == wired


def test_every_field_has_a_key_and_every_control_a_tooltip(form: ElementTree.Element) -> None:
    buddies = {prop.findtext("cstring") for prop in form.iter("property") if prop.attrib["name"] == "buddy"}
    keyed = {"QLineEdit", "QPlainTextEdit", "qMRMLNodeComboBox", "ctkPathLineEdit"}
    assert {w.attrib["name"] for w in form.iter("widget") if w.attrib["class"] in keyed} <= buddies
    silent = {"QLabel", "QFrame", "QProgressBar", "ctkCollapsibleButton", "qMRMLWidget"}
    controls = [w for w in form.iter("widget") if w.attrib["class"] not in silent]
    told = [any(prop.attrib["name"] == "toolTip" for prop in control.findall("property")) for control in controls]
    assert controls
    assert all(told)


def test_form_styles_nothing(form: ElementTree.Element) -> None:
    assert not {"styleSheet", "font", "palette"} & {prop.attrib["name"] for prop in form.iter("property")}


def test_panel_says_that_it_is_for_research_and_the_model_for_demonstration(form: ElementTree.Element) -> None:
    texts = [text.text or "" for text in form.iter("string")]
    assert any("not for clinical use" in text for text in texts)
    assert any("Demonstration model" in text for text in texts)


def calls(text: str, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == name:
                yield node


def test_only_signals_that_qt5_and_qt6_both_have(sources: dict[str, str]) -> None:
    connected = {
        (ast.unparse(call.func), call.args[0].value)
        for text in sources.values()
        for call in calls(text, "connect")
        if isinstance(call.args[0], ast.Constant)
    }
    assert len(connected) > 30
    assert {signal for _, signal in connected} <= SIGNALS
    assert {who for who, signal in connected if signal == "activated(QString)"} == {"self._completer.connect"}


def test_translated_text_is_constant(sources: dict[str, str]) -> None:
    found = [call for text in sources.values() for call in calls(text, "_")]
    assert len(found) > 100
    assert all(isinstance(call.args[0], ast.Constant) for call in found)


@pytest.mark.parametrize("minor", [10, 11, 12])
def test_syntax_is_that_of_each_python_of_slicer(sources: dict[str, str], minor: int) -> None:
    for name, text in sources.items():
        ast.parse(text, name, feature_version=(3, minor))


def test_module_file_defines_the_classes_that_slicer_looks_for(sources: dict[str, str]) -> None:
    classes = {node.name for node in ast.parse(sources["MedicalSAM3.py"]).body if isinstance(node, ast.ClassDef)}
    assert classes == {"MedicalSAM3", "MedicalSAM3Widget", "MedicalSAM3Test"}
    assert "import MedicalSAM3Logic" in sources["MedicalSAM3.py"]


def test_installation_lists_what_the_library_and_its_server_need(repository: Path, sources: dict[str, str]) -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11 and later
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    listed = re.findall(r'"([\w-]+>=[\d.]+)"', sources["install.py"].partition('"""Those of')[0])
    assert sorted(listed) == sorted(one for one in needed if ";" not in one)


def test_sample_is_registered_with_its_checksum(repository: Path, sources: dict[str, str]) -> None:
    import hashlib

    sample = repository / "Resources" / "samples" / "ct_upper_abdomen.nii.gz"
    assert hashlib.sha256(sample.read_bytes()).hexdigest() in sources["sample.py"]
