"""Turn the best checkpoint of a run into a model folder that says what it can do.

    python -m Training.publish --run runs/tiny --out Resources/models/tiny
    python -m Training.publish --run runs/tiny --out Resources/models/tiny --again    new numbers, the same weights

Presence is calibrated on the validation slices; then the folder is written, loaded as users load it, and examined on
the test slices (validation slices where there are none) and, where one was kept apart, on an unseen patient, who
chooses nothing. The card says what was not examined.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import CARD_FILE, PRESENCE_FILE, load_model_folder, save_model_folder, write_sums
from MedicalSAM3Lib.presence import Mode, PresenceSpec
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.tensor_files import read_tensors
from MedicalSAM3Lib.text import Tokenizer
from MedicalSAM3Lib.trained_on import TrainedOn
from MedicalSAM3Lib.weights import load_strictly
from Training.calibrate import RUN_MM, ask_presence, in_words
from Training.calibration import fit_presence
from Training.card import make_card
from Training.card_words import is_demonstration, notice_of
from Training.cases import held_out_split
from Training.checkpoints import Checkpoints, Meta, read_meta, weights_file
from Training.config import TrainConfig, make_config
from Training.data import TrainingData
from Training.low_rank import merged
from Training.manifest import Manifest, read_manifest
from Training.modes import ModeScores, best_mode, compare_modes
from Training.network import build_network
from Training.phrases import HELD_OUT_NONSENSE, PhraseBank
from Training.scoring import Examiner


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that Training.train wrote")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--again", action="store_true", help="examine --out as it is; only card and mode are written")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        print((examine_again if options.again else publish)(options.run, options.out))
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def publish(run: Path, out: Path) -> str:
    """Calibrate, write and examine; returns the card.

    Raises:
        InputError: The run has no checkpoint, or the manifest nothing to calibrate or to examine with.
        WeightsError: The checkpoint is damaged or of another network.
        OutputError: The model folder cannot be written.
    """
    checkpoint = best_checkpoint(run)
    meta = read_meta(checkpoint)
    config = make_config(meta.config)
    model, tokenizer = load_network(config, checkpoint)
    data = TrainingData.load(config.data)

    asked = ask_presence(model, tokenizer, data)
    presence = fit_presence(*asked, RUN_MM)
    print(f"presence: {presence.model_dump()}, {in_words(asked, presence)}")

    preprocess = config.data.preprocess.model_dump(mode="json")
    manifest = read_manifest(Path(config.data.manifest))
    phrases, kinds, notice = trained_phrases(manifest), trained_on(manifest), notice_of(config, manifest)
    said = {"demonstration_notice" if is_demonstration(config, manifest) else "notice": notice}

    def write(card: str, presence: PresenceSpec) -> None:
        tokenizer_folder = Path(config.model.tokenizer) if config.model.tokenizer else resource("tokenizer")
        specs = preprocess, presence.model_dump()
        save_model_folder(out, model, tokenizer_folder, *specs, card, phrases=phrases, trained_on=kinds, **said)  # type: ignore[arg-type]

    write("Not examined yet.\n", presence)
    modes = compare(out, config)
    if modes is not None:
        presence = presence.model_copy(update={"mode": best_mode(modes)})
        write("Not examined yet.\n", presence)
    card, numbers = examine(out, config, meta, modes)
    write(card, presence)
    with replacing(run / "scores.json") as (partial,):
        partial.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return card


def examine_again(run: Path, folder: Path) -> str:
    """Examine a folder that was published, after the program has changed; returns the new card.

    Weights and calibration stay as they are.

    Raises:
        InputError, OutputError: As ``publish``.
        WeightsError: The folder cannot be loaded.
    """
    meta = read_meta(best_checkpoint(run))
    config = make_config(meta.config)
    modes = compare(folder, config)
    card, numbers = examine(folder, config, meta, modes)
    presence = load_model_folder(folder).presence
    if modes is not None:
        presence = presence.model_copy(update={"mode": best_mode(modes)})
    with replacing(folder / CARD_FILE, folder / PRESENCE_FILE, run / "scores.json") as (of_card, of_presence, scores):
        of_card.write_text(card, encoding="utf-8")
        of_presence.write_text(json.dumps(presence.model_dump(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        scores.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    write_sums(folder)
    return card


def trained_phrases(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """The phrases that training asked with, of every concept that a training slice shows."""
    shown = sorted({row.concept for row in manifest.rows if row.split == "train" and row.label_state == "present"})
    bank = PhraseBank(shown)
    return {concept: bank.phrases(concept) for concept in shown}


def trained_on(manifest: Manifest) -> TrainedOn:
    """The kinds of images that training showed."""
    rows = [row for row in manifest.rows if row.split == "train"]
    modalities = sorted({row.modality for row in rows if row.modality})
    return TrainedOn(tuple(modalities), tuple(sorted({row.axis for row in rows})))


def best_checkpoint(run: Path) -> Path:
    """Folder of the best checkpoint of a run, the latest where none was validated.

    Raises:
        InputError: There is none.
    """
    checkpoints = Checkpoints(run / "checkpoints", keep=1)
    found = checkpoints.find("best") or checkpoints.find("latest")
    if found is None:
        raise InputError(f"Expected a run with checkpoints, got none in '{run.name}'; give the run.out of a training.")
    return found


def load_network(config: TrainConfig, checkpoint: Path) -> tuple[MedicalSam3, Tokenizer]:
    """The network of a run with the weights of a checkpoint, for inference.

    Raises:
        WeightsError: The weights are damaged or of another network.
    """
    model, tokenizer = build_network(config.model, config.run.seed)
    load_strictly(model, merged(read_tensors(weights_file(checkpoint))), checkpoint.name)
    return model.eval(), tokenizer


def compare(folder: Path, config: TrainConfig) -> dict[Mode, ModeScores] | None:
    """Load the folder as users do and examine it in every mode; None where it has no tracker."""
    model = load_model_folder(folder)
    if not model.model.has_tracker:
        return None
    manifest = read_manifest(Path(config.data.manifest))
    return compare_modes(model, manifest, unseen_patient(manifest), held_out_split(manifest))


def examine(
    folder: Path, config: TrainConfig, meta: Meta, modes: dict[Mode, ModeScores] | None = None
) -> tuple[str, dict[str, Any]]:
    """Load the folder as users do and ask it about all that training never saw; returns the card and numbers."""
    manifest = read_manifest(Path(config.data.manifest))
    split, unseen = held_out_split(manifest), unseen_patient(manifest)
    examiner = Examiner(load_model_folder(folder), manifest, HELD_OUT_NONSENSE)
    held_out, other = examiner.slices(split), examiner.volume(unseen) if unseen else None
    return make_card(config, meta, manifest, held_out=held_out, unseen=other, modes=modes, split=split)


def unseen_patient(manifest: Manifest) -> str | None:
    """The (first) volume of the split "unseen", None where nobody was kept apart."""
    return next((row.volume_id for row in manifest.rows if row.split == "unseen"), None)


if __name__ == "__main__":
    sys.exit(main())
