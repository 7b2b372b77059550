"""Divide the cases of a data set 85/15 with seed 42, by patient where the patient is known, and freeze it.

A frozen split is a JSON file with its own hash: adding images or changing the rule later moves nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import InputError

Split = Literal["train", "val", "test", "unseen"]

SEED = 42
HELD_OUT = 0.15


@dataclass(frozen=True, slots=True)
class Member:
    """What a split needs to know of a case: two with the same patient, or the same image, go together."""

    case_id: str
    patient: str
    sha256: str


def divide(members: Sequence[Member], *, seed: int = SEED, held_out: float = HELD_OUT) -> dict[str, Split]:
    """Case id to "train" or "val".

    Groups (a patient; an image whose patient nobody knows; copies of one image) are shuffled, and taken for
    validation as long as that brings its share of the images nearer to ``held_out``. Where that is none, the first
    of the smallest is held out, so that there is something to choose a checkpoint by. One group alone trains.
    """
    groups = sorted(groups_of(members), key=lambda group: group[0])
    order = np.random.default_rng(seed).permutation(len(groups))
    wanted, taken = held_out * len(members), 0
    splits: dict[str, Split] = {member.case_id: "train" for member in members}
    for n in order if len(groups) > 1 else ():
        size = len(groups[n])
        if abs(taken + size - wanted) < abs(taken - wanted):
            taken += size
            splits.update(dict.fromkeys(groups[n], "val"))
    if not taken and len(groups) > 1:
        splits.update(dict.fromkeys(groups[min(order, key=lambda n: len(groups[n]))], "val"))
    return splits


def groups_of(members: Sequence[Member]) -> list[list[str]]:
    """Case ids that belong together, each list sorted."""
    parent = {member.case_id: member.case_id for member in members}

    def root(case_id: str) -> str:
        while parent[case_id] != case_id:
            case_id = parent[case_id]
        return case_id

    first: dict[tuple[str, str], str] = {}
    for member in members:
        for key in (("patient", member.patient), ("image", member.sha256)):
            if key[1]:
                other = first.setdefault(key, member.case_id)
                parent[max(root(other), root(member.case_id))] = min(root(other), root(member.case_id))
    groups: dict[str, list[str]] = defaultdict(list)
    for case_id in sorted(parent):
        groups[root(case_id)].append(case_id)
    return list(groups.values())


def write_split(path: Path, dataset: str, splits: Mapping[str, Split]) -> str:
    """Freeze a split; returns its SHA-256.

    Raises:
        OutputError: The folder is not writable.
    """
    digest = _digest(splits)
    content = {"dataset": dataset, "seed": SEED, "held_out": HELD_OUT, "sha256": digest, "cases": dict(splits)}
    with replacing(path) as (partial,):
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return digest


def read_split(path: Path, dataset: str) -> dict[str, Split]:
    """A frozen split, case id to split.

    Raises:
        InputError: Not a split of this data set, or changed since it was frozen.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        splits: dict[str, Split] = dict(content["cases"])
        frozen = content["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Expected a frozen split, cannot read {path.name}; remove it to divide anew.") from error
    if content.get("dataset") != dataset:
        raise InputError(f"Expected the frozen split of {dataset}, got that of {content.get('dataset')}.")
    if _digest(splits) != frozen or not set(splits.values()) <= set(get_args(Split)):
        raise InputError(f"Expected {path.name} as it was frozen, got a changed file; take it from where it came.")
    return splits


def follow(frozen: Mapping[str, Split], members: Sequence[Member]) -> dict[str, Split]:
    """The frozen split of these cases.

    Raises:
        InputError: A case has none, or a group is divided.
    """
    new = [member.case_id for member in members if member.case_id not in frozen]
    if new:
        raise InputError(f"Expected cases of the frozen split, got {len(new)} others; remove the split to divide anew.")
    divided = sum(len({frozen[case_id] for case_id in group}) > 1 for group in groups_of(members))
    if divided:
        raise InputError(f"Expected each patient in one split, got {divided} in several; remove the split.")
    return {member.case_id: frozen[member.case_id] for member in members}


def _digest(splits: Mapping[str, Split]) -> str:
    text = json.dumps(dict(splits), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
