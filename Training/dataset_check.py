"""Check data sets on disk without writing: what is missing, wrong, unreadable, or there twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import CaseFiles, Problem
from Training.adapters.families import Tree, open_tree
from Training.dataset_hashes import Print, duplicates, print_of
from Training.dataset_spec import DatasetSpec
from Training.splits import Split

REMARKS = ("duplicate", "missing mask", "split")
"""Kinds of problems that are reported and do not make a data set unusable."""

SHOWN = 5
"""Problems of one kind that are printed; the rest is counted."""


@dataclass(frozen=True)
class Report:
    """What a check found in one data set.

    Attributes:
        cases: Images that can be used.
        problems: Everything else, in the order it was found.
    """

    spec: DatasetSpec
    cases: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Whether ``prepare`` would take every file that fits the layout."""
        return self.cases > 0 and all(problem.kind in REMARKS for problem in self.problems)


def check_trees(
    trees: Sequence[tuple[Path, DatasetSpec]], splits: Mapping[str, Mapping[str, Split]] | None = None
) -> list[Report]:
    """Read every file of every data set, and compare the images of all.

    Args:
        trees: Folder and description of each data set.
        splits: Frozen splits by data set, to be checked against the patients.
    """
    prints: list[Print] = []
    reports: list[tuple[DatasetSpec, int, list[Problem]]] = []
    for source, spec in trees:
        try:
            tree = open_tree(source, spec)
        except InputError as error:
            reports.append((spec, 0, [Problem("unreadable", ".", str(error))]))
            continue
        problems, new = _check_cases(tree)
        bad = {problem.path for problem in problems}
        problems = [*tree.index.problems, *problems, *_published_splits(tree.index.cases)]
        problems += _frozen_split(tree.index.cases, (splits or {}).get(spec.name, {}))
        reports.append((spec, sum(files.name not in bad for files in tree.index.cases), problems))
        prints += new
    twice: dict[str, list[Problem]] = defaultdict(list)
    for dataset, problem in duplicates(prints):
        twice[dataset].append(problem)
    return [Report(spec, cases, (*problems, *twice[spec.name])) for spec, cases, problems in reports]


def track(cases: Sequence[CaseFiles], name: str) -> Iterable[CaseFiles]:
    """The cases, with a bar on a terminal that says how many are done; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import track as bar

    console = Console(stderr=True)
    return bar(cases, name, console=console, transient=True, disable=not console.is_terminal)


def problem_of(error: InputError, files: CaseFiles) -> Problem:
    """A case that could not be read, sorted by what is wrong with it."""
    text = str(error)
    kind = "size" if "as the image" in text or "on the grid of" in text else "unreadable"
    return Problem(kind, files.name, text)


def lines_of(report: Report) -> Iterable[str]:
    """A report as lines of text: what is there, then the first problems of each kind."""
    expected = report.spec.counts.images
    beside = f" (Table 1: {expected:,})" if expected and report.spec.role == "training" else ""
    verdict = "sound" if report.is_sound else "NOT SOUND"
    yield f"{report.spec.name}: {verdict}, {report.cases:,} images{beside}"
    kinds = Counter(problem.kind for problem in report.problems)
    for kind, count in kinds.items():
        yield f"  {kind}: {count:,}"
        of_kind = [problem for problem in report.problems if problem.kind == kind]
        yield from (f"    {problem.path}: {problem.text}" for problem in of_kind[:SHOWN])
        if count > SHOWN:
            yield f"    ... and {count - SHOWN:,} more"


def _check_cases(tree: Tree) -> tuple[list[Problem], list[Print]]:
    problems, prints = [], []
    for files in track(tree.index.cases, tree.spec.name):
        try:
            case = tree.read(files)
        except InputError as error:
            problems.append(problem_of(error, files))
            continue
        problems += [Problem("label", files.name, f"not in the dictionary: {label}") for label in case.unexpected]
        prints.append(print_of(tree.spec.name, tree.source, files, case.image))
    return problems, prints


def _published_splits(cases: Sequence[CaseFiles]) -> list[Problem]:
    found: dict[str, set[str]] = defaultdict(set)
    for files in cases:
        if files.patient and files.published_split:
            found[files.patient].add(files.published_split.lower())
    count = sum(len(splits) > 1 for splits in found.values())
    text = f"{count} patients are in several of the published splits; ours keeps them together"
    return [Problem("split", ".", text)] if count else []


def _frozen_split(cases: Sequence[CaseFiles], frozen: Mapping[str, Split]) -> list[Problem]:
    """Patients whose cases a frozen split divides, and cases that it does not know."""
    if not frozen:
        return []
    found: dict[str, set[str]] = defaultdict(set)
    for files in cases:
        if files.patient and files.case_id in frozen:
            found[files.patient].add(frozen[files.case_id])
    divided = sum(len(splits) > 1 for splits in found.values())
    unknown = sum(files.case_id not in frozen for files in cases)
    problems = [Problem("patient", ".", f"{divided} patients in several splits of the frozen split")] if divided else []
    if unknown:
        problems.append(Problem("split", ".", f"{unknown} images that the frozen split does not name"))
    return problems
