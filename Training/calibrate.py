"""Make the presence of a model folder mean what it says, by the validation slices of a manifest

    python -m Training.calibrate --model DIR --manifest M

Asks for every known concept of each validation slice, and for nonsense, fits temperature, bias and threshold for each
modality (``calibration.py``), and writes ``presence.json``, which inference reads. ``Training.publish`` does so by
itself; this is for a model that came from elsewhere, or meets data of another kind. Weights stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import PRESENCE_FILE, load_model_folder, write_sums
from MedicalSAM3Lib.presence import PresenceSpec
from MedicalSAM3Lib.text import Tokenizer
from Training.calibration import expected_calibration_error, fit_presence
from Training.collate import LabelState
from Training.config import DataConfig
from Training.data import TrainingData
from Training.phrases import draw_nonsense
from Training.step import encode_phrases

RUN_MM = 6.0
"""A structure is expected on neighbouring slices over this length; single flickers are no finding."""


class Asked(NamedTuple):
    """Of each (slice, phrase) pair ``(n,)``: presence logit, whether it is there, and the slice's modality."""

    logits: np.ndarray
    is_present: np.ndarray
    modality: np.ndarray


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder, calibrated in its place")
    parser.add_argument("--manifest", type=Path, required=True, help="with slices of the split 'val'")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    try:
        print(calibrate(given.model, given.manifest))
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def calibrate(folder: Path, manifest: Path) -> str:
    """Fit and write ``presence.json``; returns what it is worth in words.

    Raises:
        WeightsError: The folder cannot be loaded.
        InputError: The manifest cannot be read, or has nothing to calibrate with.
        OutputError: The folder cannot be written to.
    """
    loaded = load_model_folder(folder)
    data = TrainingData.load(DataConfig(manifest=str(manifest), preprocess=loaded.preprocess))
    asked = ask_presence(loaded.model, loaded.tokenizer, data)
    fitted = fit_presence(*asked, loaded.presence.volume.run_mm or RUN_MM)
    presence = fitted.model_copy(update={"mode": loaded.presence.mode})
    with replacing(folder / PRESENCE_FILE) as (partial,):
        partial.write_text(json.dumps(presence.model_dump(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_sums(folder)
    return f"before: {in_words(asked, loaded.presence)}\nnow: {in_words(asked, presence)}"


@torch.inference_mode()
def ask_presence(model: MedicalSam3, tokenizer: Tokenizer, data: TrainingData) -> Asked:
    """Ask for all validation pairs and for a nonsense phrase for every third of them, one on each slice at least.

    Raises:
        InputError: The manifest has no validation slices.
    """
    source = data.source("val", seed=0)
    if not len(source):
        raise InputError("Expected slices of the split 'val' in the manifest, got none; presence needs them.")
    rng = np.random.default_rng(0)
    logits, truth, modality = [], [], []
    for step in range(len(source)):
        batch = source.batch(step)
        slices = model.share(model.pyramid(model.encode_trunk(batch.images))).for_queries()
        for n, of_slice in enumerate(source.modalities(step)):
            pairs = [p for p in range(len(batch.phrases)) if batch.pair_slice[p] == n]
            count, elsewhere = max(1, len(pairs) // 3), data.config.elsewhere
            nonsense = [draw_nonsense(rng, data.concepts, elsewhere=elsewhere) for _ in range(count)]
            phrases = encode_phrases((*(batch.phrases[p] for p in pairs), *nonsense), tokenizer)
            text = model.encode_text(phrases.input_ids, phrases.attention_mask).take(phrases.pair_phrase)
            rows = torch.full((len(phrases.pair_phrase),), n)
            logits.append(model.decode_queries(slices.take(rows), text).presence.float().numpy())
            truth += [bool(batch.states[p] == LabelState.PRESENT) for p in pairs] + [False] * len(nonsense)
            modality += [of_slice] * len(rows)
    return Asked(np.concatenate(logits), np.array(truth), np.array(modality))


def in_words(asked: Asked, presence: PresenceSpec) -> str:
    """The calibration error of each modality, and on how many pairs it stands."""
    parts = []
    for name in sorted(set(asked.modality.tolist())):
        own = asked.modality == name
        probability = presence.slice_calibration(name).probability(asked.logits[own])
        error = expected_calibration_error(probability, asked.is_present[own])
        parts.append(f"{name} calibration error {error:.3f} over {own.sum()} pairs")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
