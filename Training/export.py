"""Turn a checkpoint of a run into a model for use: our model folder, or a file that Meta's code loads.

    python -m Training.export runs/medical_sam3 --layout ours --out models/medical_sam3
    python -m Training.export runs/medical_sam3/checkpoints/step_00005000 --layout meta --base sam3.pt --out tuned.pt

Nothing is examined and presence stays uncalibrated; ``Training.publish`` does both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from MedicalSAM3Lib.architecture import CONFIG_FILE, from_config, read_json
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import save_model_folder
from MedicalSAM3Lib.presence import PresenceSpec
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.tensor_files import read_tensors
from MedicalSAM3Lib.weights import load_checkpoint, load_strictly, save_meta
from Training.checkpoints import Checkpoints, Meta, read_meta, verify, weights_file
from Training.config import make_config
from Training.low_rank import merged

NOTICE = "Exported from training: not examined, presence not calibrated."


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", type=Path, help="folder of a checkpoint, or of a run: its best, or else its latest"
    )
    parser.add_argument("--layout", choices=["ours", "meta"], default="ours")
    parser.add_argument("--base", type=Path, help="meta: the sam3.pt that the training started from")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16", help="ours only")
    parser.add_argument("--out", type=Path, required=True, help="ours: model folder; meta: file")
    options = parser.parse_args(arguments)
    try:
        checkpoint = find_checkpoint(options.checkpoint)
        if options.layout == "ours":
            export_ours(checkpoint, options.out, options.dtype)
        elif options.base is None:
            raise SettingsError(
                "--base: expected Meta's sam3.pt, which holds tensors of its own, got none; give its path."
            )
        else:
            export_meta(checkpoint, options.out, options.base)
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {checkpoint.name}, {weights_file(checkpoint).name}")
    return 0


def find_checkpoint(path: Path) -> Path:
    """A checkpoint itself, or the best (else the latest) one of a run.

    Raises:
        InputError: It is neither.
    """
    if (path / "meta.json").is_file():
        return path
    store = Checkpoints(path / "checkpoints", keep=1)
    found = store.find("best") or store.find("latest")
    if found is None:
        raise InputError(
            f"Expected a checkpoint or a run with checkpoints, got neither in '{path.name}'; check the path."
        )
    return found


def export_ours(checkpoint: Path, out: Path, dtype: str = "float16") -> None:
    """Write a model folder, and load it again as inference does.

    Raises:
        WeightsError: The checkpoint is damaged, or its weights are not finite in ``dtype``.
        OutputError: The folder cannot be written.
    """
    from MedicalSAM3Lib.model_folder import load_model_folder

    model, meta = load_network(checkpoint), read_meta(checkpoint)
    config = make_config(meta.config)
    tokenizer = Path(config.model.tokenizer) if config.model.tokenizer else resource("tokenizer")
    preprocess = config.data.preprocess.model_dump(mode="json")
    presence = PresenceSpec().model_dump()
    save_model_folder(out, model, tokenizer, preprocess, presence, card_of(meta), dtype, notice=NOTICE)  # type: ignore[arg-type]
    load_model_folder(out)


def export_meta(checkpoint: Path, out: Path, base: Path) -> None:
    """Write a file in Meta's layout, and load it again strictly.

    Raises:
        WeightsError: The checkpoint is damaged, or the base lacks what only Meta's file has.
        OutputError: The file cannot be written.
    """
    model = load_network(checkpoint)
    save_meta(model, out, base=base)
    load_checkpoint(out, architecture=from_config(read_json(checkpoint / CONFIG_FILE)))


def load_network(checkpoint: Path) -> MedicalSam3:
    """The network of a checkpoint with the weights that are meant to be used.

    Raises:
        WeightsError: A file is damaged, or the weights are of another network.
    """
    verify(checkpoint)
    model = from_config(read_json(checkpoint / CONFIG_FILE)).build_empty()
    load_strictly(model, merged(read_tensors(weights_file(checkpoint))), checkpoint.name)
    return model.eval()


def card_of(meta: Meta) -> str:
    """What is known of the weights before anybody examined them, as Markdown."""
    score = "none" if meta.best_score is None else f"Dice {meta.best_score:.4f}"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(meta.versions.items()))
    return (
        f"# Weights after {meta.step} steps\n\n{NOTICE}\n\n- best validation of the run: {score}\n"
        f"- ranks: {meta.world_size}\n- manifest SHA-256: {meta.manifest_sha256}\n"
        f"- code: {meta.git_commit or 'unknown'}\n- with: {versions}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
