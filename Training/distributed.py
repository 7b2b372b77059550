"""Many processes, or one, behind the same few calls.

Under ``torchrun`` or SLURM a process group joins the ranks; a single process has none, and every
helper here then returns its argument. Communication is synchronous: all ranks call a helper, or none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from MedicalSAM3Lib.errors import RunError, SettingsError

# A validation or a warm start on one rank may keep the others waiting longer than the default 10 minutes.
TIMEOUT = timedelta(hours=2)

# What ranks say to each other beside gradients, on the CPU so that no GPU is waited for. None: the default group.
_control: distributed.ProcessGroup | None = None
_patience = TIMEOUT

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among ``world_size``: ``rank`` overall, ``local_rank`` on its machine, its device."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def read_environment(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank, world size and local rank as ``torchrun`` or ``srun`` set them; (0, 1, 0) without either.

    Raises:
        SettingsError: Some variables of ``torchrun`` are set and others are not.
    """
    # SLURM_NTASKS would also be there in a batch script that starts one plain process of a larger job.
    for names in (_TORCHRUN, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        missing = [name for name in names if name not in environment]
        if not missing:
            rank, world_size, local_rank = (int(environment[name]) for name in names)
            return rank, world_size, local_rank
        if names is _TORCHRUN and len(missing) < len(names):
            raise SettingsError(f"Expected {', '.join(names)} together, got no {missing[0]}; start with torchrun.")
    return 0, 1, 0


def first_host(slurm_node_list: str) -> str:
    """First machine of a SLURM list: ``gpu[03-05,9],cpu1`` gives ``gpu03``."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", slurm_node_list)
    if match is None:
        raise SettingsError(f"Expected a SLURM node list such as gpu[03-05], got '{slurm_node_list}'; set MASTER_ADDR.")
    return match[1] + (match[2] or "")


def rendezvous(environment: Mapping[str, str]) -> str:
    """Address at which the ranks meet: as the launcher says, or on the first machine of a SLURM job."""
    address = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_NODELIST", ""))
    # Jobs that share a machine must not share a port.
    port = environment.get("MASTER_PORT") or str(20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000)
    return f"tcp://{address}:{port}"


@contextmanager
def process_group(
    device: str = "auto", environment: Mapping[str, str] | None = None, timeout: timedelta = TIMEOUT
) -> Iterator[Ranks]:
    """Join the ranks for the length of a ``with`` block and leave in order, whatever happens in it.

    Args:
        device: "auto" (CUDA if there is one), "cpu" or "cuda".
        environment: Variables to read; the process's own by default.
        timeout: How long ranks wait for each other.

    Raises:
        SettingsError: CUDA was asked for and is not there, or the variables are incomplete.
        RunError: Another rank has gone or hangs.
    """
    global _control, _patience
    environment = os.environ if environment is None else environment
    rank, world_size, local_rank = read_environment(environment)
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("Expected a CUDA device, got none; set run.device=cpu or check the driver.")
    on_cuda = device != "cpu" and torch.cuda.is_available()
    ranks = Ranks(rank, world_size, local_rank, torch.device("cuda", local_rank) if on_cuda else torch.device("cpu"))
    if on_cuda:
        torch.cuda.set_device(ranks.device)
    if world_size == 1:
        yield ranks
        return
    backend, address = ("nccl" if on_cuda else "gloo"), rendezvous(environment)
    distributed.init_process_group(backend, address, rank=rank, world_size=world_size, timeout=timeout)
    try:
        _patience = timeout
        _control = distributed.new_group(backend="gloo", timeout=timeout) if on_cuda else None
        yield ranks
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise RunError(f"Expected all {world_size} ranks to go on, got {_reason(error)}; {_GO_ON}") from error
    finally:
        _control = None
        distributed.destroy_process_group()


_GO_ON = "look at the output of that rank, and go on with --resume auto."


def meet(where: str) -> None:
    """Wait for all ranks, and name those that do not come in time.

    Args:
        where: What all of them are about to do, for the message.

    Raises:
        RunError: A rank hangs or has ended.
    """
    if not is_joined():
        return
    try:
        distributed.monitored_barrier(group=_control, timeout=_patience, wait_all_ranks=True)
    except RuntimeError as error:
        late = re.search(r"[Rr]anks? ([\d, ]*\d) failed to pass", str(error))
        got = f"rank {late[1]} missing, which hangs or has ended" if late else _reason(error)
        raise RunError(f"Expected all ranks at {where}, got {got}; {_GO_ON}") from error


def _reason(error: BaseException) -> str:
    """The first line of torch's error, without where in its sources it came from."""
    return re.sub(r"^\[[^]]*\]:? *", "", str(error).splitlines()[0])[:200]


def seed_rank(seed: int, rank: int) -> None:
    """Seed torch so that ranks draw different dropout masks, and the same ones in every run."""
    torch.manual_seed(seed + rank)


def is_joined() -> bool:
    """Whether this process belongs to a group."""
    return distributed.is_available() and distributed.is_initialized()


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if is_joined() else (0, 1)


def barrier() -> None:
    """Wait for all ranks."""
    if is_joined():
        distributed.barrier(group=_control)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Elementwise mean of a tensor that every rank has in the same shape."""
    if not is_joined():
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on at least one rank; all ranks get the same answer."""
    if not is_joined():
        return flag
    raised = torch.tensor(float(flag))
    distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=_control)
    return bool(raised.item())


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is divided among the ranks put together, which all of them ask for; any other tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(item: Any) -> Sequence[Any]:
    """The items of all ranks, in rank order, on every rank."""
    if not is_joined():
        return [item]
    items: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(items, item, group=_control)
    return items


def summing_up(module: nn.Module, *, done: bool) -> AbstractContextManager[None]:
    """Within the block the gradients of a wrapped module stay on their rank, unless this is the last part of a step."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(done)
    return nullcontext() if done or not isinstance(module, DistributedDataParallel) else module.no_sync()


def wrap(module: nn.Module) -> nn.Module:
    """Average the module's gradients over ranks after each backward; alone or sharded, the module itself.

    Every trainable parameter must take part in every step, so nothing is searched for unused ones.
    """
    if not is_joined() or isinstance(module, FSDPModule):
        return module
    return DistributedDataParallel(module, gradient_as_bucket_view=True, find_unused_parameters=False)
