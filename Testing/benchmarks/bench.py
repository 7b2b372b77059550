"""All benchmarks by one command, each a table of numbers of one run.

python -m Testing.benchmarks.bench                         all but the full size, half an hour or more on two cores
python -m Testing.benchmarks.bench --full                  also SAM3's full size: 20 GB of memory, an hour on two cores
python -m Testing.benchmarks.bench --only volume,prompts   some
python -m Testing.benchmarks.bench --markdown              for the README
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from transformers.utils import logging

from MedicalSAM3Lib.errors import MedicalSAM3Error
from MedicalSAM3Lib.runtime import pick_runtime
from MedicalSAM3Lib.text_cache import SWITCH_VARIABLE
from Testing.benchmarks import (
    bench_cancel,
    bench_exact,
    bench_formats,
    bench_full,
    bench_memory,
    bench_prompts,
    bench_server,
    bench_speed,
    bench_training,
    bench_volume,
)
from Testing.benchmarks.tables import Table, machine_facts, markdown, show
from Testing.benchmarks.worlds import Options

WIDTH = 120

SECTIONS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "prompts": bench_prompts.run,
    "formats": bench_formats.run,
    "exact": bench_exact.run,
    "cancel": bench_cancel.run,
    "speed": bench_speed.run,
    "memory": bench_memory.run,
    "server": bench_server.run,
    "training": bench_training.run,
    "volume": bench_volume.run,
    "full": bench_full.run,
    "training-full": bench_training.run_full,
}
"""Quick ones first."""

FULL_SIZE = ("full", "training-full")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen sections and print each table as soon as it is there; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    names = (
        chosen.only.split(",") if chosen.only else [name for name in SECTIONS if chosen.full or name not in FULL_SIZE]
    )
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"expected sections of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    os.environ[SWITCH_VARIABLE] = "0"  # every run pays for its text
    logging.set_verbosity_error()
    options = Options(chosen.model, chosen.device, chosen.speed, chosen.architecture, chosen.seconds)
    console = Console(width=WIDTH)
    try:
        print(machine_facts(pick_runtime(options.settings())), end="\n\n", flush=True)
        for name in names:
            for table in SECTIONS[name](options):
                if chosen.markdown:
                    print(markdown(table), flush=True)
                else:
                    show(table, console)
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--full", action="store_true", help="also SAM3's full size")
    parser.add_argument("--model", default="tiny", help="name or path; default: %(default)s")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--speed", default="balanced", help="where a table does not compare speeds")
    parser.add_argument("--markdown", action="store_true", help="Markdown instead of tables for the terminal")
    parser.add_argument("--seconds", type=float, default=Options().seconds, help="that the server is under load")
    # For trying the way of the full size out.
    parser.add_argument("--architecture", choices=("full", "small"), default="full", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
