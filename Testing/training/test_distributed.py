"""The environment of the launchers, and helpers that one process may call as well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn

from MedicalSAM3Lib.errors import RunError, SettingsError
from Training import distributed
from Training.distributed import first_host, process_group, read_environment, rendezvous

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}


def test_ranks_come_from_torchrun_or_srun() -> None:
    assert read_environment({}) == (0, 1, 0)
    assert read_environment(TORCHRUN) == (3, 4, 1)
    assert read_environment(SLURM) == (5, 8, 1)
    assert read_environment({**SLURM, **TORCHRUN}) == (3, 4, 1)


def test_a_plain_process_in_a_slurm_batch_script_is_alone() -> None:
    assert read_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) == (0, 1, 0)


def test_half_an_environment_is_refused() -> None:
    with pytest.raises(SettingsError, match="got no LOCAL_RANK"):
        read_environment({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu7", "gpu7"), ("gpu[03-05,9],cpu1", "gpu03"), ("a,b", "a"), ("n-1[2,4]", "n-12")],
)
def test_the_first_host_of_a_slurm_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_no_host_is_refused() -> None:
    with pytest.raises(SettingsError, match="MASTER_ADDR"):
        first_host("")


def test_ranks_meet_where_the_launcher_says() -> None:
    assert rendezvous({"MASTER_ADDR": "here", "MASTER_PORT": "123"}) == "tcp://here:123"
    assert rendezvous({"SLURM_NODELIST": "gpu[1-2]", "SLURM_JOB_ID": "41234"}) == "tcp://gpu1:21234"


def test_a_single_process_has_no_group() -> None:
    values = torch.tensor([1.0, 2.0])
    with process_group("cpu", {}) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
        assert ranks.device == torch.device("cpu")
        assert not distributed.is_joined()
        assert distributed.mean_over_ranks(values) is values
        assert distributed.any_rank(True)
        assert not distributed.any_rank(False)
        assert distributed.gather("mine") == ["mine"]
        module = nn.Linear(1, 1)
        assert distributed.wrap(module) is module
        distributed.barrier()
        distributed.meet("step 1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match="Expected a CUDA device"), process_group("cuda", {}):
        pass


def test_the_group_is_left_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *where, **who: calls.append((*where, who["rank"])))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(("left",)))
    here = {**TORCHRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(ZeroDivisionError), process_group("cpu", here):
        raise ZeroDivisionError
    assert calls == [("gloo", "tcp://127.0.0.1:1", 3), ("left",)]


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ("[Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 5000 ms", "got rank 1, 3 missing"),
        ("[Rank 1]: Rank 0 did not answer\nmore", "got Rank 0 did not answer;"),
    ],
)
def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch, said: str, got: str) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(dist, "monitored_barrier", fail)
    with pytest.raises(RunError, match="at step 7") as caught:
        distributed.meet("step 7")
    assert got in str(caught.value)
    assert "--resume auto" in str(caught.value)


def test_a_broken_connection_is_a_reason_and_another_error_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    here = {**TORCHRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(RunError, match="all 4 ranks to go on"), process_group("cpu", here):
        raise RuntimeError("[/src/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]")
    with pytest.raises(RuntimeError, match="size mismatch"), process_group("cpu", here):
        raise RuntimeError("size mismatch")


def test_ranks_draw_different_numbers_and_the_same_ones_again() -> None:
    draws = []
    for rank in (0, 1, 0):
        distributed.seed_rank(7, rank)
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_no_module_of_training_hides_one_of_the_standard_library() -> None:
    names = {path.stem for path in (Path(distributed.__file__).parent).glob("*.py")} - {"__init__"}
    assert not names & sys.stdlib_module_names
