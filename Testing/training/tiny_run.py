"""A tiny run as a process of its own, so that tests can kill it or join two of them.

    python -m Testing.training.tiny_run OUT [key=value ...]

Beside the settings of a run: ``pause=S`` waits S seconds before each batch, ``exact=true`` computes in fp64
and without dropout, so that two runs differ by rounding only, ``broken=[step,slice]`` spoils one picture.
"""

from __future__ import annotations

import sys

import torch
from omegaconf import OmegaConf

from Testing.training.tiny_world import FakeTokenizer, tiny_config, tiny_data, tiny_model, without_dropout
from Training import distributed
from Training.train import train


def main(out: str, overrides: list[str]) -> None:
    """Train in ``out``; goes on where it ended."""
    torch.set_num_threads(1)
    values = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    pause, exact, broken = values.pop("pause", 0), values.pop("exact", False), values.pop("broken", None)
    config = tiny_config(out, **values)
    with distributed.process_group("cpu") as ranks:
        model = without_dropout(tiny_model()).double() if exact else tiny_model()
        dtype = torch.float64 if exact else torch.float32
        where = tuple(broken) if broken else None
        data = tiny_data(config.data.batch_slices, ranks.rank, dtype=dtype, pause=pause, broken=where)
        train(config, ranks, model, FakeTokenizer(), data, resume=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
