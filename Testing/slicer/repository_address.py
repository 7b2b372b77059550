"""Put the address of the public repository where it has to stand: ``python -m Testing.slicer.repository_address URL``.

The catalogue entry (``Resources/MedicalSAM3.json``, ``scm_url``) is the one place that says it. The extensions index
reads further files by expression and expands no variable, so they repeat it: this program writes them all, and
``check_extension`` compares.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ENTRY = "Resources/MedicalSAM3.json"
REPEATED = ("CMakeLists.txt", "MedicalSAM3/MedicalSAM3Slicer/sample.py")
NAME = "SlicerMedicalSAM3"
UNSET = "OWNER"
"""Stands for an account that nobody has chosen yet."""

_MENTION = re.compile(r"(https://(?:github\.com|raw\.githubusercontent\.com)/)([\w.-]+)(/" + NAME + r"\b)")
_ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9](?:-?[A-Za-z0-9]){0,38})/" + NAME + r"(?:\.git)?/?")


def owner(root: Path) -> str:
    """The account of the catalogue entry; "" where its address is of another form."""
    match = _ADDRESS.fullmatch(json.loads((root / ENTRY).read_text(encoding="utf-8")).get("scm_url", ""))
    return match[1] if match else ""


def others(root: Path) -> Iterator[str]:
    """A line for each file that says another address than the catalogue entry, or none."""
    wanted = owner(root)
    for name in REPEATED:
        said = {match[2] for match in _MENTION.finditer((root / name).read_text(encoding="utf-8"))}
        if said != {wanted}:
            yield f"{name} says {', '.join(sorted(said)) or 'no address'} where {ENTRY} says {wanted or 'another form'}"


def write(root: Path, address: str) -> None:
    """Put an address into all files.

    Raises:
        ValueError: It is none of a repository of this name.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or match[1] == UNSET:
        raise ValueError(f"expected https://github.com/ACCOUNT/{NAME} with an account of yours, got {address}")
    for name in (ENTRY, *REPEATED):
        path = root / name
        text = path.read_bytes().decode("utf-8")
        path.write_bytes(_MENTION.sub(rf"\g<1>{match[1]}\g<3>", text).encode("utf-8"))


def main(words: Sequence[str]) -> int:
    """Write the address that the command line gives; 2 where it is none."""
    if len(words) != 1:
        print(f"usage: python -m Testing.slicer.repository_address https://github.com/ACCOUNT/{NAME}", file=sys.stderr)
        return 2
    try:
        write(Path(__file__).resolve().parents[2], words[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
