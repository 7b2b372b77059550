"""A tiny run as a process of its own, so that tests can kill it or join two of them.

    python -m Testing.training.tiny_run OUT [key=value ...]

Beside the settings of a run: ``pause=S`` waits S seconds before each batch, ``exact=true`` computes in fp64
and without dropout, so that two runs differ by rounding only, ``broken=[step,slice]`` spoils one picture,
``hang=[step,rank]`` keeps one rank from ever coming to a step. The exit code is that of ``Training.train``.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from omegaconf import OmegaConf

from MedicalSAM3Lib.errors import MedicalSAM3Error
from Testing.training.tiny_world import FakeTokenizer, tiny_config, tiny_data, tiny_model, without_dropout
from Training import distributed
from Training.signals import STOPPED
from Training.train import train


def main(out: str, overrides: list[str]) -> int:
    """Train in ``out``; goes on where it ended; returns the exit code."""
    torch.set_num_threads(1)
    values = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    pause, exact, broken = values.pop("pause", 0), values.pop("exact", False), values.pop("broken", None)
    hang = values.pop("hang", None)
    config = tiny_config(out, **values)
    timeout = timedelta(minutes=config.run.timeout_minutes)
    with distributed.process_group("cpu", timeout=timeout) as ranks:
        model = without_dropout(tiny_model()).double() if exact else tiny_model()
        dtype = torch.float64 if exact else torch.float32
        where = tuple(broken) if broken else None
        mine = hang[0] if hang and hang[1] == ranks.rank else None
        data = tiny_data(config.data.batch_slices, ranks.rank, dtype=dtype, pause=pause, broken=where, hang=mine)
        finished = train(config, ranks, model, FakeTokenizer(), data, resume=True)  # type: ignore[arg-type]
    return 0 if finished else STOPPED


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except MedicalSAM3Error as error:
        sys.exit(str(error))
