"""Turn the best checkpoint of a run into a model folder that says what it can do.

    python -m Training.publish --run runs/tiny --out Resources/models/tiny

Presence is calibrated on the validation slices; then the folder is written, loaded as users load it, and
examined on the test slices and on the unseen patient. The unseen patient chooses nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import load_model_folder, save_model_folder
from MedicalSAM3Lib.presence import PresenceSpec, VolumeRule
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.text import Tokenizer
from Training.calibration import expected_calibration_error, fit_calibration
from Training.card import make_card
from Training.checkpoints import read_meta
from Training.collate import LabelState
from Training.config import TrainConfig
from Training.data import TrainingData
from Training.manifest import read_manifest
from Training.network import build_network
from Training.phrases import HELD_OUT_NONSENSE, draw_nonsense
from Training.scoring import Examiner
from Training.step import encode_phrases

NOTICE = "Demonstration model, trained on four volumes: not for any medical use."
RUN_MM = 6.0
"""A structure is expected on neighbouring slices over this length; single flickers are no finding."""


def main(arguments: list[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that Training.train wrote")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    checkpoint = best_checkpoint(options.run)
    config = TrainConfig.model_validate(read_meta(checkpoint).config)
    model, tokenizer = load_network(config, checkpoint)
    data = TrainingData.load(config.data)

    logits, truth = presence_logits(model, tokenizer, data)
    calibration = fit_calibration(logits, truth)
    error = expected_calibration_error(calibration.probability(logits), truth)
    presence = PresenceSpec(default=calibration, volume=VolumeRule(run_mm=RUN_MM, threshold=calibration.threshold))
    print(f"presence: {calibration.model_dump()}, calibration error {error:.3f} over {len(truth)} pairs")

    preprocess = config.data.preprocess.model_dump(mode="json")
    write = {"tokenizer_folder": resource("tokenizer"), "preprocess": preprocess, "presence": presence.model_dump()}
    save_model_folder(options.out, model, card="Not examined yet.\n", demonstration_notice=NOTICE, **write)
    card, numbers = examine(options.out, config)
    save_model_folder(options.out, model, card=card, demonstration_notice=NOTICE, **write)
    (options.run / "scores.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(card)


def best_checkpoint(run: Path) -> Path:
    """Folder of the best checkpoint of a run, the latest where none was validated."""
    folder = run / "checkpoints"
    pointer = folder / "best" if (folder / "best").is_file() else folder / "latest"
    return folder / pointer.read_text(encoding="utf-8").strip()


def load_network(config: TrainConfig, checkpoint: Path) -> tuple[MedicalSam3, Tokenizer]:
    """The network of a run with the weights of a checkpoint, for inference."""
    model, tokenizer = build_network(config.model, config.run.seed)
    model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=True)
    return model.eval(), tokenizer


@torch.inference_mode()
def presence_logits(model: MedicalSam3, tokenizer: Tokenizer, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Presence logits of all validation pairs, with as many nonsense phrases as training would ask, and the truth."""
    source = data.source("val", seed=0)
    rng = np.random.default_rng(0)
    logits, truth = [], []
    for step in range(len(source)):
        batch = source.batch(step)
        pyramid = model.pyramid(model.encode_trunk(batch.images))
        for n in range(len(batch.images)):
            pairs = [p for p in range(len(batch.phrases)) if batch.pair_slice[p] == n]
            nonsense = [draw_nonsense(rng) for _ in range(len(pairs) // 3)]
            phrases = encode_phrases((*(batch.phrases[p] for p in pairs), *nonsense), tokenizer)
            text = model.encode_text(phrases.input_ids, phrases.attention_mask).take(phrases.pair_phrase)
            rows = torch.full((len(phrases.pair_phrase),), n)
            logits.append(model.decode_queries(pyramid.take(rows), text).presence.float().numpy())
            truth += [bool(batch.states[p] == LabelState.PRESENT) for p in pairs] + [False] * len(nonsense)
    return np.concatenate(logits), np.array(truth)


def examine(folder: Path, config: TrainConfig) -> tuple[str, dict[str, object]]:
    """Load the folder as users do and ask it about everything that training never saw."""
    manifest = read_manifest(Path(config.data.manifest))
    examiner = Examiner(load_model_folder(folder), manifest, HELD_OUT_NONSENSE)
    unseen = next(row.volume_id for row in manifest.rows if row.split == "unseen")
    return make_card(config, manifest, held_out=examiner.slices("test"), unseen=examiner.volume(unseen))


if __name__ == "__main__":
    main()
