"""The pictures of an evaluation report: radar charts, reliability, and panels of image, reference and answers"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from Training.calibration import BINS, reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"ours": "#c2410c", "baseline": "#2563a8", "paper": "#d08c60", "sam3": "#8aa9c8"}
TINTS = {"reference": "#34d399", "baseline": "#60a5fa", "ours": "#fb923c"}
"""Over grey pictures, where the colours of the charts are too dark."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One line of Figure 4: a grey or colour picture, masks ``(H, W)`` by title, and what is said of it."""

    picture: np.ndarray
    masks: Mapping[str, np.ndarray]
    reference: np.ndarray
    title: str
    pixel_aspect: float = 1.0


def draw_radar(labels: Sequence[str], series: Mapping[str, tuple[str, Sequence[float]]], title: str) -> Figure:
    """A radar chart of values in per cent.

    Args:
        labels: One for each spoke, three or more.
        series: Name to colour and values; a NaN leaves a gap.
        title: Above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 5.4))
    axes: Any = figure.add_axes((0.2, 0.13, 0.6, 0.68), polar=True)
    angles = np.linspace(0, 2 * math.pi, len(labels), endpoint=False)
    for name, (colour, values) in series.items():
        closed = [*values, values[0]]
        axes.plot([*angles, angles[0]], closed, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
        if not np.isnan(values).any():
            axes.fill(angles, values, color=colour, alpha=0.12)
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, [])
    for angle, label in zip(angles, labels, strict=True):
        across = math.sin(angle)
        side = "center" if abs(across) < 0.1 else "left" if across > 0 else "right"
        axes.text(angle, 106, label, ha=side, va="center", size=8, color=INK)
    axes.set_ylim(0, 100)
    axes.set_yticks([20, 40, 60, 80], ["20", "40", "60", "80"], size=7, color=FAINT)
    axes.spines["polar"].set_color("#d3dae1")
    axes.grid(color="#e4e9ee")
    figure.text(0.5, 0.95, title, ha="center", size=11, weight="bold", color=INK)
    figure.legend(loc="lower center", ncol=len(series), frameon=False, fontsize=8)
    return figure


def draw_reliability(presence: np.ndarray, is_present: np.ndarray, title: str, colour: str) -> Figure:
    """What presence promises against what is true, over ten equally wide bins, with how many questions each has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1], "hspace": 0.08})
    filled = reliability(presence, is_present)
    upper.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    if filled:
        promised, true, size = (np.array(column) for column in zip(*filled, strict=True))
        upper.plot(promised, true, color=colour, linewidth=1.5)
        upper.scatter(promised, true, s=18 + 90 * np.sqrt(size / size.max()), color=colour, zorder=3)
    upper.set(ylim=(-0.03, 1.03), ylabel="is there")
    upper.set_title(title, size=11, weight="bold", color=INK)
    lower.hist(presence, bins=BINS, range=(0, 1), rwidth=0.9, color="#cbd5df")
    lower.set(xlim=(0, 1), xlabel="presence that the model gives", ylabel="n", yscale="symlog")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def draw_panel(panel: Panel) -> Figure:
    """Image, reference and one picture for each model; the reference's outline stays as a thin white line."""
    from matplotlib.figure import Figure

    titles = ["image", "reference", *panel.masks]
    height, width = panel.picture.shape[:2]
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * min(1.6, height * panel.pixel_aspect / width) + 0.32))
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.89, wspace=0.02)
    every = [None, panel.reference, *panel.masks.values()]
    tints = [None, TINTS["reference"], *([TINTS["baseline"]] if len(panel.masks) > 1 else []), TINTS["ours"]]
    for place, (title, mask, tint) in enumerate(zip(titles, every, tints, strict=True), start=1):
        axes = figure.add_subplot(1, len(titles), place)
        axes.imshow(panel.picture, cmap="gray", vmin=0, vmax=1, aspect=panel.pixel_aspect)
        if mask is not None and tint:
            _tint(axes, mask, tint, panel.pixel_aspect)
            if place > 2 and panel.reference.any():
                axes.contour(panel.reference, [0.5], colors="white", linewidths=0.7)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, size=9, color=INK, pad=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def _tint(axes: Any, mask: np.ndarray, colour: str, aspect: float) -> None:
    from matplotlib.colors import to_rgb

    layer = np.zeros((*mask.shape, 4))
    layer[mask] = (*to_rgb(colour), 0.55)
    axes.imshow(layer, interpolation="nearest", aspect=aspect)


def as_data(figure: Figure, *, vector: bool) -> str:
    """The figure as a data URI, the same bytes for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    if vector:
        with matplotlib.rc_context({"svg.hashsalt": "medical-sam3", "svg.fonttype": "path"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    else:
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    kind = "svg+xml" if vector else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
