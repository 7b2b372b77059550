"""The adapter of each layout family: ``index`` finds the cases of a tree, ``read`` gives the pixels of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.model_folder import sha256_of
from Training.adapters import coco, nnunet, paired, polygons, run_length, tiles
from Training.adapters.case import Case, CaseFiles, Index, Problem
from Training.adapters.patterns import list_files
from Training.dataset_layouts import Layout
from Training.dataset_spec import DatasetSpec

_INDEX: dict[str, Callable[[Path, Any, DatasetSpec], Index]] = {
    "pairs": paired.index,
    "nnunet": nnunet.index,
    "coco": coco.index,
    "polygons": polygons.index,
    "run_length": run_length.index,
    "tiles": tiles.index,
}
_READ: dict[str, Callable[[Path, Any, DatasetSpec, CaseFiles], Case]] = {
    "pairs": paired.read,
    "nnunet": nnunet.read,
    "coco": coco.read,
    "polygons": polygons.read,
    "run_length": run_length.read,
    "tiles": tiles.read,
}


@dataclass(frozen=True)
class Tree:
    """A data set on disk, with the layout that fits it.

    Attributes:
        index: All cases, and what did not fit together.
    """

    source: Path
    spec: DatasetSpec
    layout: Layout
    index: Index

    def read(self, files: CaseFiles) -> Case:
        """The pixels of one case.

        Raises:
            InputError: A file cannot be read or does not fit its image.
        """
        return _READ[self.layout.kind](self.source, self.layout, self.spec, files)


def without_copies(source: Path, index: Index) -> Index:
    """The cases whose image file is the first with its content; the others are remarked."""
    first: dict[str, str] = {}
    kept, copies = [], []
    for files in index.cases:
        other = first.setdefault(sha256_of(source / files.image), files.image)
        if other == files.image:
            kept.append(files)
        else:
            copies.append(Problem("duplicate", files.image, f"the same file as {other}: left out"))
    return Index(tuple(kept), (*index.problems, *copies))


def open_tree(source: Path, spec: DatasetSpec) -> Tree:
    """Find the cases of a data set by the first of its layouts that has any.

    A layout that finds files, but none that fit together, is the second choice: its problems say why.

    Raises:
        InputError: No layout finds anything: another data set or folder, or archives that were not unpacked.
    """
    second: Tree | None = None
    for layout in spec.layouts:
        index = _INDEX[layout.kind](source, layout, spec)
        tree = Tree(source, spec, layout, index if spec.copies == "kept" else without_copies(source, index))
        if tree.index.cases:
            return tree
        if tree.index.problems and second is None:
            second = tree
    if second is not None:
        return second
    wanted = " or ".join(pattern for layout in spec.layouts for pattern in getattr(layout, "image", ("imagesTr/",)))
    files = list_files(source)
    raise InputError(
        f"Expected images of {spec.title} like {wanted}, found none among {len(files)} files such as {files[0]}; "
        "check --source and the patterns, unpack all archives."
    )
