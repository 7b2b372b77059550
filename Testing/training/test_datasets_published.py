"""Every published data set, from a small tree in its own layout: pixels, patients, states and what is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from MedicalSAM3Lib.errors import InputError
from Testing.training import trees_colour, trees_microscopy, trees_radiology
from Testing.training.dataset_trees import Builder, Expected, Tree
from Training.adapters.case import Case, CaseFiles
from Training.adapters.families import Tree as Opened
from Training.adapters.families import open_tree
from Training.dataset_check import problem_of
from Training.dataset_spec import load_spec, published

TREES: dict[str, Builder] = {**trees_radiology.TREES, **trees_colour.TREES, **trees_microscopy.TREES}


def test_every_data_set_has_a_tree() -> None:
    assert set(TREES) == set(published())
    roles = Counter(load_spec(name).role for name in published())
    assert roles == {"training": 33, "external": 7}


@pytest.mark.parametrize("name", sorted(TREES))
def test_what_is_in_a_tree_is_what_was_put_there(name: str, tmp_path: Path) -> None:
    check_tree(TREES[name], name, tmp_path / "any" / "folders")


def test_run_lengths_of_the_contest_are_read_where_there_are_no_masks(tmp_path: Path) -> None:
    check_tree(trees_radiology.siim_run_lengths, "chest_xray_pneumothorax", tmp_path)


def check_tree(builder: Builder, name: str, root: Path) -> None:
    """Write a tree, read it with the data set's description, and compare everything."""
    tree = Tree(root)
    builder(tree)
    opened = open_tree(root, load_spec(name))
    problems = Counter(problem.kind for problem in opened.index.problems)
    found = {}
    for files in opened.index.cases:
        try:
            found[files.name] = (files, opened.read(files))
        except InputError as error:
            problems[problem_of(error, files).kind] += 1
    assert problems == tree.problems
    assert set(found) == set(tree.cases)
    assert len({files.case_id.casefold() for files in opened.index.cases}) == len(opened.index.cases)
    for key, expected in tree.cases.items():
        compare(opened, *found[key], expected)


def compare(opened: Opened, files: CaseFiles, case: Case, expected: Expected) -> None:
    """One case with what is expected of it, in every pixel and on every slice."""
    assert files.patient == expected.patient
    assert case.unexpected == ()
    shown = {concept: mask for concept, mask in expected.masks.items() if mask.any()}
    assert {concept for concept, mask in case.masks_kji.items() if mask.any()} == set(shown)
    for concept, mask in shown.items():
        assert np.count_nonzero((case.masks_kji[concept] > 0) != mask) <= expected.tolerance, concept
        slices = expected.known.get(concept, range(len(mask)))
        assert np.flatnonzero(case.known[concept]).tolist() == list(slices)
    for concept, count in expected.objects.items():
        assert len(np.unique(case.masks_kji[concept])) - 1 == count
    for concept in expected.absent:
        assert case.known[concept].all()
        assert not case.masks_kji.get(concept, np.zeros(1)).any()
    dictionary = set(opened.spec.concepts())
    known = set(case.known)
    assert known <= dictionary
    if opened.spec.states.not_shown == "unknown" or any(file.label for file in files.masks):
        assert known == set(shown) | set(expected.absent)
    else:
        assert known == dictionary or opened.spec.states.empty_slices == "unknown"
