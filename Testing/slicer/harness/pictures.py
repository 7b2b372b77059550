"""The pictures of the panel in ``Resources/Screenshots``: ``python -m Testing.slicer.harness.pictures``.

The real module, client, server and demonstration model on the sample CT; panel and views are drawn by the harness.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PySide6 import QtGui

from Testing.slicer.harness import qt_modules, views
from Testing.slicer.harness.application import Module, boot
from Testing.slicer.harness.using import load_volume, type_text, wait_for

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLE = REPOSITORY / "Resources" / "samples" / "ct_upper_abdomen.nii.gz"
SCREENSHOTS = REPOSITORY / "Resources" / "Screenshots"
CONCEPTS = "liver, spleen, stomach, vertebra, aorta, urinary bladder"
PANEL, TOP, BOTTOM, GAP = (560, 784), (420, 480), (420, 300), 4
TALL = (560, 1100)
"""So high that the section of the batch is seen whole: the application scrolls its panel, the harness does not."""


def pixels(widget: Any) -> np.ndarray:
    """A widget as ``(height, width, 3)`` uint8."""
    image = widget.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def window(panel: np.ndarray, shown: dict[str, np.ndarray]) -> np.ndarray:
    """Panel on the left, four views on the right, with dark gaps between."""

    def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.concatenate([left, np.zeros((left.shape[0], GAP, 3), np.uint8), right], axis=1)

    top, bottom = beside(shown["axial"], shown["3d"]), beside(shown["coronal"], shown["sagittal"])
    return beside(panel, np.concatenate([top, np.zeros((GAP, top.shape[1], 3), np.uint8), bottom]))


def save(picture: np.ndarray, path: Path) -> None:
    """As a small PNG."""
    Image.fromarray(picture).quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)


def batch() -> None:
    """Segment a folder into another: the section of the batch afterwards."""
    app = boot()
    module = Module()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that no path of this machine is in the picture
        for name in ("cohort", "results"):
            Path(name).mkdir()
        for name in ("patient-01", "patient-02"):
            shutil.copy(SAMPLE, Path("cohort", f"{name}.nii.gz"))
        Path("cohort", "patient-03.nii.gz").write_bytes(b"cut off")
        Path("results", "patient-02.seg.nrrd").write_bytes(b"there already")
        panel = module.open(TALL)
        try:
            panel.ui.batchCollapsibleButton.collapsed = False
            type_text(panel.ui.conceptsEdit, "liver, spleen")
            panel.concepts.hideSuggestions()
            type_text(panel.ui.batchResultsEdit, "results")
            qt_modules.Picked.answer = "cohort"
            panel.ui.batchFolderButton.click()
            wait_for(lambda: panel.ui.batchButton.enabled)
            panel.ui.batchButton.click()
            wait_for(lambda: not panel.batch.isRunning())
            app.processEvents()
            save(pixels(panel.ui.batchCollapsibleButton), SCREENSHOTS / "slicer-batch.png")
        finally:
            module.close()
            os.chdir(here)


def main() -> None:
    """Segment the sample as a user would, and keep what is seen."""
    batch()
    app = boot()
    module = Module()
    panel = module.open(PANEL)
    try:
        volume = load_volume(SAMPLE, "CT upper abdomen")
        type_text(panel.ui.conceptsEdit, CONCEPTS)
        panel.concepts.hideSuggestions()
        wait_for(lambda: panel.ui.predictionLabel.text.startswith("About"))
        panel.ui.segmentButton.click()
        wait_for(lambda: not panel.run.isRunning() and panel.ui.modelNoticeLabel.visible)
        panel.ui.show3DButton.click()
        app.processEvents()
        segmentation = panel.results.segmentation()
        shown = views.slice_pictures(volume, segmentation, BOTTOM)
        shown["axial"] = views.slice_pictures(volume, segmentation, TOP)["axial"]
        shown["3d"] = views.surface_picture(segmentation, TOP)
        save(window(pixels(module.frame), shown), SCREENSHOTS / "slicer.png")
    finally:
        module.close()


if __name__ == "__main__":
    main()
