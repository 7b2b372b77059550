"""A card for a prepared data set: what it is, what it counts beside what was published, and a grid of pictures."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.geometry import canonical_of, pixel_mm, slices_along
from MedicalSAM3Lib.preprocess import PreprocessSpec, apply_window, value_ranges
from Training.adapters.case import Problem
from Training.dataset_files import Written
from Training.dataset_spec import DatasetSpec
from Training.splits import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PICTURES, MOST_EMPTY, COLUMNS = 12, 2, 4
PICTURE = "card.png"


def write_card(
    out: Path,
    spec: DatasetSpec,
    cases: Sequence[Written],
    splits: Mapping[str, Split],
    digest: str,
    problems: Sequence[Problem],
) -> None:
    """Write ``README.md`` and ``card.png`` beside the manifest.

    Raises:
        OutputError: The folder is not writable.
    """
    draw_grid(out, cases, splits)
    text = "\n".join(
        [
            f"# {spec.title}\n",
            *_facts(spec),
            "\n## Counts\n",
            *count_lines(spec, cases),
            "\n## Split\n",
            *_split_lines(cases, splits, digest),
            "\n## Concepts\n",
            *_concept_lines(cases),
            "\n## Left out, and remarked\n",
            *_problem_lines(problems),
            f"\n![Images with masks]({PICTURE})\n",
        ]
    )
    with replacing(out / "README.md") as (partial,):
        partial.write_text(text, encoding="utf-8")


def annotations_of(spec: DatasetSpec, cases: Sequence[Written]) -> int:
    """Annotations as the published number counts them.

    A label that stands for several concepts ("polyp" and "neoplastic polyp") counts once, as the first.
    """
    first = {names[0] for names in spec.labels.values() if names}
    counted = 0
    for case in cases:
        for concept in case.masks:
            if not first or concept in first:
                by_kind = {"masks": 1, "pieces": case.pieces[concept], "objects": case.objects[concept]}
                counted += by_kind[spec.counts.counting]
    return counted


def summary_lines(spec: DatasetSpec, cases: Sequence[Written], splits: Mapping[str, Split]) -> Iterator[str]:
    """What a person wants to see at the end of a run: how many images, of what, and how they were divided."""
    yield f"{spec.title}: licence {spec.licence}" + (f"; {spec.terms}" if spec.terms else "")
    found = {"images": len(cases), f"annotations ({spec.counts.counting})": annotations_of(spec, cases)}
    for (name, number), wanted in zip(found.items(), (spec.counts.images, spec.counts.annotations), strict=True):
        yield f"  {number:,} {name}" + (f", published are {wanted:,}" if wanted and wanted != number else "")
    if spec.counts.note:
        yield f"  {spec.counts.note}"
    concepts = sorted({concept for case in cases for concept in case.states})
    yield f"  concepts: {', '.join(concepts)}"
    count = Counter(splits[case.case_id] for case in cases)
    yield "  split: " + ", ".join(f"{number:,} {split}" for split, number in sorted(count.items()))


def count_lines(spec: DatasetSpec, cases: Sequence[Written]) -> list[str]:
    """A table of what was found beside what was published; a difference is marked."""
    shown = sum(bool(case.masks) for case in cases)
    found = {"images": len(cases), "annotations": annotations_of(spec, cases)}
    published = {"images": spec.counts.images, "annotations": spec.counts.annotations}
    names = {"images": "images", "annotations": f"annotations (counted: {spec.counts.counting})"}
    lines = ["| | here | published | |", "|---|---:|---:|---|"]
    for key, number in found.items():
        wanted = published[key]
        remark = "" if wanted is None or wanted == number else "differs"
        lines.append(f"| {names[key]} | {number:,} | {f'{wanted:,}' if wanted else 'not published'} | {remark} |")
    lines.append(f"| images that show a concept | {shown:,} | | |")
    return [*lines, *([f"\n{spec.counts.note}"] if spec.counts.note else [])]


def draw_grid(out: Path, cases: Sequence[Written], splits: Mapping[str, Split]) -> None:
    """Up to twelve images with their masks in colour: evenly from those that show something, two that do not."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    pictures = [_picture_of(out, case) for case in _chosen(cases)]
    names = sorted({name for picture in pictures for name in picture.masks})
    colours = {name: _colour(number) for number, name in enumerate(names)}
    columns = min(COLUMNS, len(pictures))
    rows, lines = -(-len(pictures) // columns), -(-len(names) // columns)
    # As high as most pictures are, so that rows do not drift apart.
    height = float(np.median([picture.height_of_width for picture in pictures]).clip(0.4, 1.6))
    figure = Figure(figsize=(3.2 * columns, (3.2 * height + 0.2) * rows + 0.22 * lines + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    for number, picture in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw_picture(axes, picture, colours)
        axes.set_title(f"{splits[picture.case_id]}{picture.caption}", fontsize=8, pad=3)
    handles = [Patch(color=colours[name], label=name) for name in names]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    with replacing(out / PICTURE) as (partial,):
        figure.savefig(partial, dpi=100)


@dataclass(frozen=True)
class _Picture:
    """One slice of a case as it is drawn: ``image`` 0..1 ``(H, W)`` or ``(H, W, 3)``, masks bool ``(H, W)``."""

    case_id: str
    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    height_of_width: float
    caption: str


def _chosen(cases: Sequence[Written]) -> list[Written]:
    shown, empty = [case for case in cases if case.masks], [case for case in cases if not case.masks]
    beside = min(len(empty), MOST_EMPTY if shown else MOST_PICTURES)
    return [*_evenly(shown, MOST_PICTURES - beside), *_evenly(empty, beside)]


def _evenly(cases: Sequence[Written], most: int) -> list[Written]:
    places = np.linspace(0, len(cases) - 1, min(len(cases), most)).round() if cases else []
    return [cases[int(n)] for n in places]


def _picture_of(out: Path, case: Written) -> _Picture:
    image, (height_mm, width_mm) = _pictures(out / case.image, case.axis)
    masks = {name: _pictures(out / path, case.axis)[0] > 0.5 for name, path in case.masks.items()}
    k = _fullest_slice(masks, len(image))
    low, high = value_ranges(image, case.modality, PreprocessSpec(image_size=1))[0]
    rows, columns = image.shape[1:3]
    slices = f", slice {k + 1} of {len(image)}" if len(image) > 1 else ""
    return _Picture(
        case_id=case.case_id,
        image=apply_window(image[k], low, high),
        masks={name: mask[k] for name, mask in masks.items() if mask[k].any()},
        height_of_width=rows * height_mm / (columns * width_mm),
        caption=slices if masks else f"{slices}, shows nothing",
    )


def _draw_picture(axes: Axes, picture: _Picture, colours: Mapping[str, tuple[float, float, float]]) -> None:
    """The picture with a tint and a line for each mask; the line is closed where the picture ends."""
    axes.set_axis_off()
    rows, columns = picture.image.shape[:2]
    axes.imshow(picture.image, cmap="gray", aspect=picture.height_of_width * columns / rows)
    for name, mask in picture.masks.items():
        padded = np.pad(mask.astype(float), 1)
        x, y = np.arange(-1, columns + 1), np.arange(-1, rows + 1)
        axes.contourf(x, y, padded, [0.5, 1.5], colors=[colours[name]], alpha=0.25)
        axes.contour(x, y, padded, [0.5], colors=["black"], linewidths=2.4, alpha=0.5)
        axes.contour(x, y, padded, [0.5], colors=[colours[name]], linewidths=1.3)


def _pictures(path: Path, axis: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Slices ``(N, H, W)`` or ``(N, H, W, 3)`` as they face the reader, and the height and width of a pixel."""
    volume = read_volume(path, on_notice=lambda line: None)
    canonical = canonical_of(volume.ijk_to_lps)
    size_mm = pixel_mm(canonical.spacing_mm(volume.spacing_mm), axis)
    return slices_along(canonical.to_canonical(volume.array), axis), size_mm


def _colour(number: int) -> tuple[float, float, float]:
    """Bright colours that stay apart: each turns the hue by the golden ratio, from green, which no tissue has."""
    red, green, blue = colorsys.hsv_to_rgb((0.33 + 0.618034 * number) % 1, 0.8, 1.0)
    return red, green, blue


def _fullest_slice(masks: Mapping[str, np.ndarray], slices: int) -> int:
    if not masks:
        return slices // 2
    return int(np.argmax(sum(mask.reshape(slices, -1).sum(axis=1) for mask in masks.values())))


def _facts(spec: DatasetSpec) -> list[str]:
    facts = {
        "Imaging": spec.group or spec.modality,
        "Home": spec.home,
        "Licence": spec.licence,
        "Terms": spec.terms,
        "How to get it": spec.get,
        "Layout": f"{spec.source.kind}: {spec.source.cite}" if spec.source else "",
    }
    lines = [f"- **{name}**: {text}" for name, text in facts.items() if text]
    reported = spec.source.reported if spec.source else ()
    return [*lines, *(f"- **Reported by users**: {line}" for line in reported)]


def _split_lines(cases: Sequence[Written], splits: Mapping[str, Split], digest: str) -> list[str]:
    count = Counter(splits[case.case_id] for case in cases)
    patients = len({case.patient for case in cases if case.patient})
    unknown = sum(not case.patient for case in cases)
    by = f"{patients:,} known patients" + (f"; {unknown:,} images of nobody known, divided by image" if unknown else "")
    return [
        *(f"- {split}: {number:,} images" for split, number in sorted(count.items())),
        f"- by patient: {by}",
        f"- `split.json`, SHA-256 `{digest}`",
    ]


def _concept_lines(cases: Sequence[Written]) -> list[str]:
    states: dict[str, Counter[str]] = {}
    for case in cases:
        for concept, of_slices in case.states.items():
            states.setdefault(concept, Counter()).update(of_slices)
    lines = ["| concept | present | verified absent |", "|---|---:|---:|"]
    lines += [f"| {name} | {count['present']:,} | {count['absent']:,} |" for name, count in sorted(states.items())]
    return [*lines, "\nPictures, or slices of volumes. About everything that is not in this table nothing is known."]


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return ["Nothing."]
    return [f"- {kind}: {count:,}" for kind, count in Counter(problem.kind for problem in problems).items()]
