"""What can be known of the panel without the application: names, wiring, translatable text."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

WIDGETS = {
    "qMRMLWidget", "qMRMLNodeComboBox", "ctkCollapsibleButton", "QCheckBox", "QLabel", "QLineEdit", "QListWidget",
    "QProgressBar", "QPushButton",
}  # fmt: skip


@pytest.fixture
def source(repository: Path) -> str:
    return (repository / "MedicalSAM3" / "MedicalSAM3.py").read_text(encoding="utf-8")


@pytest.fixture
def form(repository: Path) -> ElementTree.Element:
    return ElementTree.parse(repository / "MedicalSAM3" / "Resources" / "UI" / "MedicalSAM3.ui").getroot()


def test_every_widget_that_the_code_uses_is_in_the_form(source: str, form: ElementTree.Element) -> None:
    names = {widget.attrib["name"] for widget in form.iter("widget")}
    assert set(re.findall(r"self\.ui\.(\w+)", source)) <= names


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


def test_panel_says_that_it_is_for_research(form: ElementTree.Element) -> None:
    assert any("not for clinical use" in (text.text or "") for text in form.iter("string"))


def test_translated_text_is_constant(source: str) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_"
    ]
    assert calls
    assert all(isinstance(call.args[0], ast.Constant) for call in calls)


def test_module_file_defines_the_classes_that_slicer_looks_for(source: str) -> None:
    classes = {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    assert classes == {"MedicalSAM3", "MedicalSAM3Widget", "MedicalSAM3Logic", "MedicalSAM3Test"}
