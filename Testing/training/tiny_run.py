"""A tiny run as a process of its own, so that tests can kill it or join two of them.

python -m Testing.training.tiny_run OUT [key=value ...]     model.dropout=0 switches dropout off
"""

from __future__ import annotations

import sys
import time

import torch
from omegaconf import OmegaConf

from Testing.training.tiny_world import FakeTokenizer, tiny_config, tiny_data, tiny_model, without_dropout
from Training import distributed
from Training.train import train


def main(out: str, overrides: list[str]) -> None:
    """Train in ``out``; goes on where it ended. ``pause=S`` waits S seconds before each batch."""
    torch.set_num_threads(1)
    values = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    pause, dropout = values.pop("pause", 0), values.pop("dropout", True)
    config = tiny_config(out, **values)
    with distributed.process_group("cpu") as ranks:
        model = tiny_model() if dropout else without_dropout(tiny_model())
        data = tiny_data(config.data.batch_slices, ranks.rank)
        batch = data.train.batch
        data.train.batch = lambda step: (time.sleep(pause), batch(step))[1]
        train(config, ranks, model, FakeTokenizer(), data, resume=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
