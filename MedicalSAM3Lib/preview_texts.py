"""All that is written in the preview figure: header, footer, captions and marks, legible on a dark ground."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from MedicalSAM3Lib.structures import Finding, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGE_INCHES = 0.12
LINE_INCHES = 0.19
CHARACTERS_PER_INCH = 12
BOLD_CHARACTERS_PER_INCH = 10

BACKGROUND = "#0b0f14"
TEXT = "#e8edf2"
FAINT_TEXT = "#8d98a5"
MARK_TEXT = "#c3ccd6"
LEAST_LUMINANCE = 0.5
"""Colours darker than this are lightened: they must be read on the dark ground."""

NOTICE = "Research use \N{EN DASH} not a medical device"
MOST_CHARACTERS = 26


def write_header(figure: Figure, volume: Volume, findings: Sequence[Finding]) -> None:
    """Write the image's name and size on the left, the count of answers on the right."""
    k, j, i = volume.shape_kji
    size = f"{i} x {j} pixels" if volume.is_2d else f"{i} x {j} x {k} voxels"
    spacing = "" if volume.is_2d else " x ".join(f"{length:.2f}" for length in volume.spacing_mm) + " mm"
    subject = "  \N{MIDDLE DOT}  ".join(part for part in (volume.name, size, spacing) if part)
    counts = {state: sum(finding.state == state for finding in findings) for state in ("found", "not_found", "failed")}
    answers = "  \N{MIDDLE DOT}  ".join(f"{n} {state.replace('_', ' ')}" for state, n in counts.items() if n)
    width, height = figure.get_size_inches()
    edge, line = EDGE_INCHES / width, 1 - 0.2 / height
    _text(figure, edge, line, subject, size=9.5, color=TEXT, va="center")
    _text(figure, 1 - edge, line, answers, size=9.5, color=TEXT, ha="right", va="center")


def footer_lines(findings: Sequence[Finding], undrawn: Sequence[Finding], width: float) -> list[str]:
    """Name every finding that is not in the picture, in lines that fit a figure of this width in inches."""
    by_state = {
        "Not found (presence)": [_with_presence(finding) for finding in findings if finding.state == "not_found"],
        "Failed": [_short(finding.phrase) for finding in findings if finding.state == "failed"],
        "Found, not drawn": [_short(finding.phrase) for finding in undrawn],
    }
    texts = [f"{caption}: {', '.join(names)}" for caption, names in by_state.items() if names]
    return [line for text in texts for line in textwrap.wrap(text, int(width * CHARACTERS_PER_INCH))]


def write_footer(figure: Figure, lines: Sequence[str]) -> None:
    """Write the lines about findings without a tile, and what this figure is not."""
    width, height = figure.get_size_inches()
    edge = EDGE_INCHES / width
    for number, line in enumerate(reversed(lines)):
        _text(figure, edge, (0.35 + number * LINE_INCHES) / height, line, size=9.5, color=TEXT, va="center")
    _text(figure, 1 - edge, 0.13 / height, NOTICE, size=7.5, color=FAINT_TEXT, ha="right", va="center")


def write_title(axes: Axes, finding: Finding) -> None:
    """Write the name of a tile's finding in its colour, and its volume."""
    colour = legible(finding.colour)
    size = 11.5 if len(finding.phrase) <= 18 else 9.5
    _text(axes, 0.0, 1.03, _short(finding.phrase), size=size, weight="bold", color=colour, va="bottom",
          transform=axes.transAxes)  # fmt: skip
    amount = _with_count(finding, f"{_amount(finding.volume_ml)} ml")
    _text(axes, 1.0, 1.03, amount, size=9.5, color=TEXT, ha="right", va="bottom",
          transform=axes.transAxes)  # fmt: skip


def name_rows(found: Sequence[Finding], width: float) -> list[list[tuple[str, Finding]]]:
    """Arrange the findings of a picture, each with its name and size, in rows that fit a width in inches."""
    rows: list[list[tuple[str, Finding]]] = [[]]
    used = 0
    for finding in found:
        name = f"{_short(finding.phrase)} \N{MIDDLE DOT} {_with_count(finding, f'{finding.voxels:,} px')}"
        if rows[-1] and used + len(name) > width * BOLD_CHARACTERS_PER_INCH:
            rows.append([])
            used = 0
        rows[-1].append((name, finding))
        used += len(name) + 3
    return rows


def write_names(axes: Axes, rows: Sequence[Sequence[tuple[str, Finding]]]) -> None:
    """Write the rows of names above a picture, each name in its finding's colour."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker

    def text(name: str, finding: Finding) -> TextArea:
        style = {"weight": "bold", "size": 10, "color": legible(finding.colour), "parse_math": False}
        return TextArea(name, textprops=style)

    lines = [HPacker(children=[text(*named) for named in row], sep=14, pad=0, align="baseline") for row in rows]
    block = VPacker(children=[*lines], sep=3, pad=0)
    box = AnchoredOffsetbox(
        "lower left",
        child=block,
        pad=0,
        borderpad=0,
        frameon=False,
        bbox_to_anchor=(0.0, 1.015),
        bbox_transform=axes.transAxes,
    )
    axes.add_artist(box)


def mark(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a small text at a place (0..1) of the picture, with a rim that keeps it legible over bright tissue."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground="black")]
    _text(axes, x, y, text, size=7, color=MARK_TEXT, transform=axes.transAxes, path_effects=rim, **style)


def legible(colour: tuple[int, int, int]) -> tuple[float, ...]:
    """RGB in 0..1, lightened towards white until it can be read on the dark ground."""
    rgb = np.array(colour) / 255.0
    luminance = float(rgb @ (0.299, 0.587, 0.114))
    if luminance < LEAST_LUMINANCE:
        rgb = rgb + (1.0 - rgb) * (LEAST_LUMINANCE - luminance) / (1.0 - luminance)
    return tuple(float(channel) for channel in rgb)


def _text(parent: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text as typed: a dollar sign in a phrase starts no formula."""
    parent.text(x, y, text, parse_math=False, **style)


def _with_presence(finding: Finding) -> str:
    name = _short(finding.phrase)
    return name if finding.presence is None else f"{name} {finding.presence:.2f}"


def _with_count(finding: Finding, size: str) -> str:
    """A size, after the number of objects where several were kept apart."""
    return f"{len(finding.objects)} objects \N{MIDDLE DOT} {size}" if len(finding.objects) > 1 else size


def _short(phrase: str) -> str:
    phrase = " ".join(phrase.split())
    return phrase if len(phrase) <= MOST_CHARACTERS else phrase[: MOST_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _amount(millilitres: float) -> str:
    """Three figures are what a mask is good for; no more digits than that, no fewer than its size needs."""
    return f"{millilitres:,.0f}" if millilitres >= 100 else f"{millilitres:.3g}"
