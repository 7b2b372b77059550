"""Start a run on a SLURM cluster with submitit, which queues it again until it is done.

    python -m Training.cluster.submitit_launch --config Training/recipes/medical_sam3.yaml --logs runs/slurm \\
        --gpus 4 --hours 24 --slurm partition=gpu --slurm account=me -- data.manifest=/data/manifest.parquet

submitit signals the ranks before the time is up. They write a checkpoint at the next step and leave; the signal is then
handed on to submitit, which queues the same run again, and that one goes on where this one ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from MedicalSAM3Lib.errors import MedicalSAM3Error, RunError, SettingsError
from Training.config import load_config
from Training.signals import STOPPED
from Training.train import main as train


@dataclass(frozen=True)
class Job:
    """What submitit calls in every task: one rank of the run, from where it ended last."""

    config: str
    overrides: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Train; raises ``RunError`` where training failed, which submitit reports."""
        if submitit.JobEnvironment().num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        code = train(["--config", self.config, "--resume", "auto", *self.overrides])
        if code == STOPPED:
            signal.raise_signal(_requeue_signal())  # submitit's handler is there again, and queues the job
        elif code:
            raise RunError(f"Expected the run to end, got exit code {code}; what went wrong is in the log of its rank.")

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What is queued instead: the same, as all that it needs is in ``run.out``."""
        return submitit.helpers.DelayedSubmission(self)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see Training/recipes")
    parser.add_argument("--logs", type=Path, default=Path("runs/slurm"), help="folder that all nodes see")
    parser.add_argument(
        "--cluster", choices=["slurm", "local", "debug"], default="slurm", help="local: no queue at all"
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=4, help="a node, and so ranks a node")
    parser.add_argument("--cpus", type=int, default=8, help="a rank")
    parser.add_argument("--hours", type=float, default=24.0, help="of one turn in the queue")
    parser.add_argument("--turns", type=int, default=30, help="how often the run is queued again at most")
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="any option of sbatch")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    options = parser.parse_args(arguments)
    try:
        load_config(options.config, options.overrides)  # a misspelt key shall not wait in a queue
        more = dict(_pair(text) for text in options.slurm)
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    executor = submitit.AutoExecutor(options.logs, cluster=options.cluster, slurm_max_num_timeout=options.turns)
    executor.update_parameters(**parameters(options, more))
    job: Any = executor.submit(Job(str(options.config.resolve()), tuple(options.overrides)))
    print(f"Job {job.job_id}; its output is in {options.logs}")
    if options.cluster != "slurm":
        job.results()
    return 0


def parameters(options: argparse.Namespace, more: dict[str, str]) -> dict[str, Any]:
    """submitit's parameters: a rank for each GPU, signalled five minutes before the time is up."""
    return {
        "name": "medical_sam3",
        "nodes": options.nodes,
        "tasks_per_node": options.gpus,
        "gpus_per_node": options.gpus if options.cluster == "slurm" else 0,
        "cpus_per_task": options.cpus,
        "timeout_min": round(options.hours * 60),
        "slurm_signal_delay_s": 300,
        "slurm_additional_parameters": more,
    }


def _requeue_signal() -> signal.Signals:
    """The signal on which submitit queues a job again: its own setting, or its default."""
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise SettingsError(f"--slurm: expected KEY=VALUE, got '{text}'; write for example partition=gpu.")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
