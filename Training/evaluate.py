"""Score a model, or two, with the shipped pipeline, and write a report that a person wants to read

    python -m Training.evaluate --checkpoint tiny --manifest data/tiny/manifest.parquet --out runs/evaluation
    python -m Training.evaluate --checkpoint A --baseline B --manifest M --out DIR --split test

Writes ``cases.parquet`` (a row for each question), ``table3.csv``, ``summary.json`` and ``report.html``. A run that was
ended goes on where it was. Nothing is skipped: a file that cannot be read ends the run, with what was done kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, OutputError
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.geometry import canonical_of, input_axis
from MedicalSAM3Lib.model_folder import LoadedModel, sha256_of
from MedicalSAM3Lib.structures import Volume
from Training.case_rows import CaseRow, Ledger, measure, write_rows
from Training.cases import Case, cases_of, groups_of, held_out_split, read_case
from Training.manifest import Manifest, read_manifest
from Training.oracle_box import ask_with_box
from Training.phrases import prompt_variants
from Training.protocols import DEPLOYMENT, PAPER, Answer, Protocol, ask
from Training.robustness import KINDS, READINGS, in_other_words, nonsense

OnCase = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What is asked and how it is counted; every part of it that changes a row is part of the row's key.

    Attributes:
        split: Of the manifest; "" for "test", or "val" where no slice was kept for a test.
        prompt: "text", or "oracle-box": also the box around the reference, which only a diagnosis may see.
        tolerance_mm: Of NSD.
        seed: Of intervals and misspellings.
        robustness: Ask also in other words.
    """

    split: str = ""
    prompt: str = "text"
    tolerance_mm: float = 2.0
    seed: int = 0
    robustness: bool = True


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="name or path of the model, as for medsam3 --model")
    parser.add_argument("--baseline", help="another model, compared on the same questions")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and report")
    parser.add_argument("--split", default="", choices=("train", "val", "test", "unseen"), help="test, else val")
    parser.add_argument("--prompt", default="text", choices=("text", "oracle-box"))
    parser.add_argument("--tolerance-mm", type=float, default=2.0, help="of NSD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--robustness", action=argparse.BooleanOptionalAction, default=True, help="ask in other words")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(given.threads)
    options = Options(given.split, given.prompt, given.tolerance_mm, given.seed, given.robustness)
    try:
        print(evaluate(given.checkpoint, given.baseline, given.manifest, given.out, options, _tell))
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def evaluate(
    checkpoint: str, baseline: str | None, manifest_path: Path, out: Path, options: Options, on_case: OnCase
) -> Path:
    """Score, summarise and report; returns the report's path.

    Raises:
        InputError: The manifest, or a file that it names, cannot be read; what was done is kept.
        WeightsError, SettingsError: There is no such model.
        OutputError: The folder cannot be written to.
    """
    from MedicalSAM3Lib.registry import load_model
    from Training.evaluation_report import write_report

    manifest = read_manifest(manifest_path)
    if not options.split:
        options = replace(options, split=held_out_split(manifest))
        if options.split == "val":
            print("No split 'test' in the manifest: scoring 'val', which may have chosen the model.", file=sys.stderr)
    try:
        ledger = Ledger(out / "done")
    except OSError as error:
        raise OutputError(f"Expected a folder that can be made, got {out.name}; choose another --out.") from error
    models = {"ours": load_model(checkpoint)} | ({"baseline": load_model(baseline)} if baseline else {})
    scorers = {role: Scorer(role, model, manifest, options) for role, model in models.items()}
    digest = sha256_of(manifest_path)
    rows: list[CaseRow] = []
    for protocol, cases in protocols_of(manifest, options):
        for role, scorer in scorers.items():
            for number, case in enumerate(cases):
                on_case(f"{role}, {protocol.name}", number, len(cases))
                rows += scorer.score_once(case, protocol, ledger, digest)
    if not rows:
        raise InputError(
            f"Expected concepts with a known state in the split '{options.split}', got unknown ones alone."
        )
    write_rows(out / "cases.parquet", rows)
    facts: dict[str, Any] = {"manifest": digest, "options": vars(options), "split": options.split}
    names = {"ours": Path(checkpoint).name, "baseline": Path(baseline or "").name}
    facts["models"] = {role: {"name": names[role], "weights": one.weights_hash} for role, one in models.items()}
    summary = write_report(out, rows, facts, scorers, options)
    with replacing(out / "summary.json") as (partial,):
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return out / "report.html"


def protocols_of(manifest: Manifest, options: Options) -> Iterator[tuple[Protocol, list[Case]]]:
    """The protocols with their cases; a box is a thing of slices, so it has the paper's only."""
    for protocol in (PAPER,) if options.prompt == "oracle-box" else (PAPER, DEPLOYMENT):
        yield protocol, cases_of(manifest, options.split, slice_by_slice=protocol.slice_by_slice)


class Scorer:
    """Asks one model about cases and measures its answers."""

    def __init__(self, role: str, model: LoadedModel, manifest: Manifest, options: Options) -> None:
        self._role = role
        self._model = model
        self.manifest = manifest
        self._options = options
        self._cache = FeatureCache()

    def score_once(self, case: Case, protocol: Protocol, ledger: Ledger, manifest: str) -> list[CaseRow]:
        """The rows of a case: those that were kept, else new ones."""
        key = {"manifest": manifest, "weights": self._model.weights_hash, "phrases": dict(self._model.phrases),
               "presence": self._model.presence.model_dump(), "role": self._role, "case": case.name,
               "protocol": protocol.name, "settings": protocol.settings.digest(), **vars(self._options)}  # fmt: skip
        rows = ledger.find(key)
        if rows is None:
            rows = list(self._score(case, protocol))
            ledger.add(key, rows)
        return rows

    def answers(self, case: Case, protocol: Protocol, concepts: list[str]) -> tuple[Volume, dict[str, Answer]]:
        """Image and answers by concept, in the concepts' own words: what a panel shows."""
        volume, labels = read_case(self.manifest, case.rows)
        answers: dict[str, Answer] = {}
        for group in groups_of(concepts):
            answers |= self._ask(case, volume, labels, protocol, {c: canonical(c) for c in group})
        return volume, answers

    def reference(self, case: Case) -> dict[str, np.ndarray]:
        """Masks by concept on the slices of a case."""
        volume, labels = read_case(self.manifest, case.rows)
        return {concept: numbers[case.part_of(volume)] > 0 for concept, numbers in labels.items()}

    def _score(self, case: Case, protocol: Protocol) -> Iterator[CaseRow]:
        volume, labels = read_case(self.manifest, case.rows)
        present = case.concepts("present")
        known = present + case.concepts("absent")
        asking: list[tuple[str, str, dict[str, str]]] = [("canonical", "vocabulary", {c: canonical(c) for c in known})]
        if protocol is DEPLOYMENT and self._options.robustness:
            asking.append(("canonical", "verbatim", {c: canonical(c) for c in present}))
            for kind in KINDS:
                asking += [(kind, how, in_other_words(present, kind, self._options.seed)) for how in READINGS]
            asking.append(("nonsense", "verbatim", {phrase: phrase for phrase in nonsense()}))
        part = case.part_of(volume)
        nothing = np.zeros(volume.shape_kji, np.int32)[part]
        spacing = volume.spacing_mm[::-1]
        cut_axis = None if case.slices is None else input_axis(canonical_of(volume.ijk_to_lps), int(case.axis))
        for kind, reading, phrases in asking:
            for group in groups_of(list(phrases)):
                asked = {name: phrases[name] for name in group}
                answers = self._ask(case, volume, labels, protocol, asked, verbatim=reading == "verbatim")
                for concept, answer in answers.items():
                    is_present = concept in present
                    reference = labels[concept][part] if is_present else nothing
                    numbers = measure(answer, reference, is_present, spacing, self._options.tolerance_mm, cut_axis)
                    row = case.rows[0]
                    yield CaseRow(
                        role=self._role, protocol=protocol.name, dataset=row.dataset, patient=row.patient,
                        modality=row.modality, case=case.name, concept=concept, kind=kind, reading=reading,
                        phrase=phrases[concept], **numbers,
                    )  # fmt: skip

    def _ask(
        self, case: Case, volume: Volume, labels: dict[str, np.ndarray], protocol: Protocol, phrases: dict[str, str],
        verbatim: bool = False,
    ) -> dict[str, Answer]:  # fmt: skip
        settings = protocol.settings if not verbatim else protocol.settings.model_copy(update={"verbatim": True})
        part = case.part_of(volume)
        if self._options.prompt == "oracle-box":
            masks = {concept: labels[concept] > 0 for concept in phrases if concept in labels}
            return {
                concept: ask_with_box(self._model, volume, case, phrase, settings, masks.get(concept), self._cache)
                for concept, phrase in phrases.items()
            }
        if any(len(np.unique(labels[concept][part])) > 2 for concept in phrases if concept in labels):
            settings = settings.model_copy(update={"instances": True})
        found = ask(self._model, volume, case, list(phrases.values()), settings, self._cache)
        return dict(zip(phrases, found, strict=True))


def canonical(concept: str) -> str:
    """The concept's own name."""
    return prompt_variants(concept)["canonical"][0]


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: case {done + 1} of {total}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
